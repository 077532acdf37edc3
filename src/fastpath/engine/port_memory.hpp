// A port whose other end is memory: tests, benchmarks, and programs that are a station themselves.
//
// Two rings of whole records, one a direction, each with one producer and one consumer. The program's side
// takes a lock, so that any number of its threads may call; the worker's side takes none.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

#include "port_io.hpp"

namespace fastpath::engine {

// Records of 4 bytes of length and the bytes themselves, never split: a record that does not fit before the
// end of the memory starts at its beginning, and a mark tells the reader.
class RecordRing {
 public:
  explicit RecordRing(std::size_t capacity)
      : capacity_(round_up(capacity)), memory_(new std::uint8_t[capacity_]) {}

  bool empty() const noexcept { return head() == tail(); }
  std::uint64_t head() const noexcept { return head_.load(std::memory_order_acquire); }
  std::uint64_t tail() const noexcept { return tail_.load(std::memory_order_acquire); }

  // Producer. Two pieces, so that a header needs no copy of its own. False: no room.
  bool push(const void* first, std::size_t first_length, const void* second,
            std::size_t second_length) noexcept {
    const std::size_t length = first_length + second_length;
    const std::size_t need = record_size(length);
    const std::uint64_t head = head_.load(std::memory_order_relaxed);
    const std::size_t at = static_cast<std::size_t>(head) & (capacity_ - 1);
    const std::size_t skip = at + need <= capacity_ ? 0 : capacity_ - at;
    if (head + skip + need - tail_.load(std::memory_order_acquire) > capacity_) return false;
    if (skip != 0) store_length(at, kSkip);
    std::uint8_t* record = memory_.get() + (skip != 0 ? 0 : at);
    store_length(static_cast<std::size_t>(record - memory_.get()), static_cast<std::uint32_t>(length));
    if (first_length != 0) std::memcpy(record + 4, first, first_length);
    if (second_length != 0) std::memcpy(record + 4 + first_length, second, second_length);
    head_.store(head + skip + need, std::memory_order_release);
    return true;
  }

  // Consumer. nullptr: empty. The record stays until pop().
  const std::uint8_t* front(std::size_t& length) noexcept {
    std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    if (tail == head_.load(std::memory_order_acquire)) return nullptr;
    std::size_t at = static_cast<std::size_t>(tail) & (capacity_ - 1);
    std::uint32_t stored = load_length(at);
    if (stored == kSkip) {
      tail += capacity_ - at;
      tail_.store(tail, std::memory_order_release);
      at = 0;
      stored = load_length(0);
    }
    length = stored;
    return memory_.get() + at + 4;
  }
  void pop() noexcept {
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    const std::size_t at = static_cast<std::size_t>(tail) & (capacity_ - 1);
    tail_.store(tail + record_size(load_length(at)), std::memory_order_release);
  }

 private:
  static constexpr std::uint32_t kSkip = ~std::uint32_t{0};

  // Always a multiple of 4, so that a skip mark fits before the end.
  static std::size_t record_size(std::size_t length) noexcept { return (length + 4 + 3) & ~std::size_t{3}; }
  // A record of the largest frame must fit even where the end of the memory cannot be used.
  static std::size_t round_up(std::size_t wanted) noexcept {
    std::size_t n = 4 * (kMaxFrame + kVnetLength);
    n = std::size_t{1} << (64 - static_cast<std::size_t>(__builtin_clzll(n - 1)));
    while (n < wanted) n *= 2;
    return n;
  }
  void store_length(std::size_t at, std::uint32_t length) noexcept {
    std::memcpy(memory_.get() + at, &length, 4);
  }
  std::uint32_t load_length(std::size_t at) const noexcept {
    std::uint32_t length;
    std::memcpy(&length, memory_.get() + at, 4);
    return length;
  }

  std::size_t capacity_;
  std::unique_ptr<std::uint8_t[]> memory_;
  alignas(64) std::atomic<std::uint64_t> head_{0};
  alignas(64) std::atomic<std::uint64_t> tail_{0};
};

class MemoryPort : public PortIo {
 public:
  // vnet_header: the program's frames start with a virtio-net header in both directions. Otherwise they start
  // with the Ethernet header, and the switch finishes checksums that were left to the link.
  // discard: what the switch sends is counted and thrown away.
  MemoryPort(std::size_t capacity, bool vnet_header, bool discard)
      : to_switch_(capacity),
        from_switch_(discard ? 0 : capacity),
        vnet_header_(vnet_header),
        discard_(discard) {}

  // The program's side. False: no room. Frames shorter than a virtio-net header are the caller's mistake.
  bool push(const std::uint8_t* bytes, std::size_t length) noexcept {
    if (vnet_header_) return to_switch_.push(bytes, length, nullptr, 0);
    const VnetHeader none{};
    return to_switch_.push(&none, kVnetLength, bytes, length);
  }
  // Calls take(bytes, length) for the oldest frame. False: there is none.
  template <typename Take>
  bool pop(Take&& take) {
    std::size_t length;
    const std::uint8_t* record = from_switch_.front(length);
    if (record == nullptr) return false;
    const std::size_t skip = vnet_header_ ? 0 : kVnetLength;
    take(record + skip, length - skip);
    from_switch_.pop();
    return true;
  }
  std::mutex& push_mutex() noexcept { return push_mutex_; }
  std::mutex& pop_mutex() noexcept { return pop_mutex_; }
  bool vnet_header() const noexcept { return vnet_header_; }

  // The worker's side.
  bool pending() const noexcept override { return !to_switch_.empty(); }
  std::uint64_t put_until() const noexcept override { return to_switch_.head(); }
  std::uint64_t taken_until() const noexcept override { return to_switch_.tail(); }

  Receive receive(Batch& batch, std::uint32_t number, std::size_t budget) noexcept override {
    std::size_t length;
    while (budget-- > 0 && batch.has_room()) {
      const std::uint8_t* record = to_switch_.front(length);
      if (record == nullptr) break;
      std::memcpy(batch.next(), record, length);
      batch.push(number, length - kVnetLength);
      to_switch_.pop();
    }
    return Receive::ok;
  }

  Transmit transmit(const Frame& frame) noexcept override {
    if (discard_) return Transmit::sent;
    const auto push = [&] { return from_switch_.push(frame.wire(), frame.wire_length(), nullptr, 0); };
    const bool sent = vnet_header_ ? push() : with_finished_checksum(frame, push);
    return sent ? Transmit::sent : Transmit::full;
  }

 private:
  RecordRing to_switch_;
  RecordRing from_switch_;
  std::mutex push_mutex_;
  std::mutex pop_mutex_;
  bool vnet_header_;
  bool discard_;
};

}  // namespace fastpath::engine
