// How many packets each rule has decided.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "fastpath/epoch.hpp"

namespace fastpath {

// A locked addition costs as much as the rest of a decision. So a batch borrows a lane of counters that
// nobody else adds to meanwhile; when all are lent, it shares one.
class PolicyHits {
 public:
  PolicyHits() { table_.store(new Table()); }
  PolicyHits(const PolicyHits&) = delete;
  PolicyHits& operator=(const PolicyHits&) = delete;
  ~PolicyHits() { delete table_.load(); }

 private:
  static constexpr std::size_t kChunk = 256;
  static constexpr std::size_t kLent = 3;
  static constexpr std::size_t kShared = kLent;
  // Counters keep their address: growth copies pointers, and no count is lost.
  struct Chunk {
    std::array<std::array<std::atomic<std::uint64_t>, kChunk>, kLent + 1> lanes{};
    std::array<std::atomic<std::uint64_t>, kChunk> start{};
    std::uint64_t sum(std::size_t at) const noexcept {
      std::uint64_t sum = 0;
      for (const auto& lane : lanes) sum += lane[at].load(std::memory_order_relaxed);
      return sum;
    }
  };
  using Table = std::vector<std::shared_ptr<Chunk>>;

 public:
  class Lane {
   public:
    explicit Lane(const PolicyHits& hits) noexcept : hits_(hits) {
      for (lane_ = 0; lane_ < kLent; ++lane_) {
        if (!hits.lent_[lane_].exchange(true, std::memory_order_acquire)) break;
      }
    }
    ~Lane() {
      if (lane_ != kShared) hits_.lent_[lane_].store(false, std::memory_order_release);
    }
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;
    // What no rule has decided counts for id 0, which nobody asks for.
    void add(const std::uint32_t* ids, std::size_t n) const noexcept {
      const std::shared_ptr<Chunk>* const chunks = hits_.table_.load(std::memory_order_acquire)->data();
      const std::size_t lane = lane_;
      if (lane == kShared) {
        for (std::size_t i = 0; i < n; ++i) {
          chunks[ids[i] / kChunk]->lanes[kShared][ids[i] % kChunk].fetch_add(1, std::memory_order_relaxed);
        }
        return;
      }
      for (std::size_t i = 0; i < n; ++i) {
        auto& count = chunks[ids[i] / kChunk]->lanes[lane][ids[i] % kChunk];
        count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
      }
    }

   private:
    const PolicyHits& hits_;
    std::size_t lane_;
  };

  // For one packet: the shared lane.
  void add(std::uint32_t id) const noexcept {
    if (id == 0) return;
    const Table& table = *table_.load(std::memory_order_acquire);
    table[id / kChunk]->lanes[kShared][id % kChunk].fetch_add(1, std::memory_order_relaxed);
  }
  std::uint64_t of(std::uint32_t id) const noexcept {
    const Table& table = *table_.load(std::memory_order_acquire);
    if (id / kChunk >= table.size()) return 0;
    const Chunk& chunk = *table[id / kChunk];
    return chunk.sum(id % kChunk) - chunk.start[id % kChunk].load(std::memory_order_relaxed);
  }

  // Writers only, under their lock: room for ids below `end`.
  void reserve(std::size_t end, EpochDomain& epochs) {
    Table* table = table_.load(std::memory_order_relaxed);
    if (end <= table->size() * kChunk) return;
    auto larger = std::make_unique<Table>(*table);
    while (larger->size() * kChunk < end || larger->size() < table->size() + table->size() / 2) {
      larger->push_back(std::make_shared<Chunk>());
    }
    table_.store(larger.release(), std::memory_order_release);
    epochs.retire(table);
  }
  // Counts from 0 again. Counters themselves are only ever added to, so a reader loses nothing.
  void restart(std::uint32_t id) const noexcept {
    Chunk& chunk = *(*table_.load(std::memory_order_relaxed))[id / kChunk];
    chunk.start[id % kChunk].store(chunk.sum(id % kChunk), std::memory_order_relaxed);
  }
  // In the child of a fork: whoever borrowed one is gone.
  void forget_lanes() const noexcept {
    for (std::atomic<bool>& lent : lent_) lent.store(false, std::memory_order_relaxed);
  }
  std::size_t nbytes() const noexcept {
    const Table& table = *table_.load(std::memory_order_acquire);
    return table.size() * sizeof(Chunk) + table.capacity() * sizeof(std::shared_ptr<Chunk>);
  }

 private:
  mutable std::array<std::atomic<bool>, kLent> lent_{};
  std::atomic<Table*> table_{nullptr};
};

}  // namespace fastpath
