// Counters with one writer, the worker, and any number of readers.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "port_io.hpp"
#include "switch_frame.hpp"

namespace fastpath::engine {

// A plain add: no locked instruction, since nobody else writes.
class Counter {
 public:
  void add(std::uint64_t n = 1) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  void set(std::uint64_t n) noexcept { value_.store(n, std::memory_order_relaxed); }
  std::uint64_t get() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

// "rx" is what the switch received from the port, "tx" what it sent there.
struct PortCounters {
  Counter rx_packets;
  Counter rx_bytes;
  Counter tx_packets;
  Counter tx_bytes;
  Counter floods;  // received, and sent to the whole segment
  std::array<Counter, static_cast<std::size_t>(Drop::count_)> rx_drops;      // by Drop
  std::array<Counter, static_cast<std::size_t>(Transmit::count_)> tx_drops;  // by Transmit
};

}  // namespace fastpath::engine
