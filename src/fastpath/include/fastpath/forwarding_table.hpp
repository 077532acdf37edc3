// (source, destination) -> egress, the exact pair first, then any source.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "fastpath/exact_table.hpp"

namespace fastpath {

// Two exact tables: one of pairs, one of destinations for any source. An address is 4 bytes (IPv4), 8 (a MAC
// as an integer) or 16 (IPv6); the same thread rules as in ExactTable.
class ForwardingTable {
 public:
  ForwardingTable(std::size_t address_size, std::size_t capacity, std::uint64_t seed)
      : size_(address_size),
        mask_(address_size == 8 ? 0xFFFFFFFFFFFF : ~std::uint64_t{0}),
        pairs_(ExactTable::make(2 * address_size, capacity, seed)),
        any_(ExactTable::make(address_size, 0, seed)),
        learned_(0, PairHash{seed}) {}

  // A null source stands for any source.
  bool put(const std::uint8_t* source, const std::uint8_t* destination, std::uint32_t egress,
           std::uint32_t* previous) {
    if (source == nullptr) return any_->put(destination, egress, previous);
    const Pair pair(source, destination, size_);
    const std::lock_guard lock(mutex_);
    learned_.erase(pair);
    return pairs_->put(pair.bytes, egress, previous);
  }
  bool erase(const std::uint8_t* source, const std::uint8_t* destination, std::uint32_t* previous) {
    if (source == nullptr) {
      any_erased_.fetch_add(1, std::memory_order_release);
      return any_->erase(destination, previous);
    }
    const Pair pair(source, destination, size_);
    const std::lock_guard lock(mutex_);
    learned_.erase(pair);
    return pairs_->erase(pair.bytes, previous);
  }
  // put() for many, with all sources null or none; as ExactTable::put_many().
  std::size_t put_many(const std::uint8_t* sources, const std::uint8_t* destinations,
                       const std::uint32_t* egress, std::size_t n, std::uint32_t* previous) {
    if (sources == nullptr) return any_->put_many(destinations, egress, n, previous);
    std::vector<std::uint8_t> keys(2 * size_ * std::min(n, kTurn));
    std::size_t added = 0;
    for (std::size_t begin = 0; begin < n; begin += kTurn) {
      const std::size_t count = std::min(kTurn, n - begin);
      const std::lock_guard lock(mutex_);
      for (std::size_t i = 0; i < count; ++i) {
        const Pair pair(sources + size_ * (begin + i), destinations + size_ * (begin + i), size_);
        std::memcpy(keys.data() + 2 * size_ * i, pair.bytes, 2 * size_);
        if (!learned_.empty()) learned_.erase(pair);
      }
      added += pairs_->put_many(keys.data(), egress + begin, count,
                                previous == nullptr ? nullptr : previous + begin, n);
    }
    pairs_->settle(n);
    return added;
  }
  // erase() for many, with all sources null or none; as ExactTable::erase_many().
  std::size_t erase_many(const std::uint8_t* sources, const std::uint8_t* destinations, std::size_t n,
                         std::vector<std::uint32_t>* gone) {
    if (gone != nullptr) gone->reserve(n);
    std::vector<std::uint8_t> keys(sources == nullptr ? 0 : 2 * size_ * std::min(n, kTurn));
    std::size_t removed = 0;
    for (std::size_t begin = 0; begin < n; begin += kTurn) {
      const std::size_t count = std::min(kTurn, n - begin);
      if (sources == nullptr) {
        any_erased_.fetch_add(1, std::memory_order_release);
        removed += any_->erase_many(destinations + size_ * begin, count, gone);
        continue;
      }
      const std::lock_guard lock(mutex_);
      for (std::size_t i = 0; i < count; ++i) {
        const Pair pair(sources + size_ * (begin + i), destinations + size_ * (begin + i), size_);
        std::memcpy(keys.data() + 2 * size_ * i, pair.bytes, 2 * size_);
        if (!learned_.empty()) learned_.erase(pair);
      }
      removed += pairs_->erase_many(keys.data(), count, gone);
    }
    return removed;
  }
  // For who fills the table on his own account: a pair that was put() is not his, and stays as it is. Returns
  // whether the pair stands as wanted, and whether it is gone.
  bool learn(const std::uint8_t* source, const std::uint8_t* destination, std::uint32_t egress) {
    const Pair pair(source, destination, size_);
    const std::lock_guard lock(mutex_);
    std::uint32_t previous = 0;
    if (learned_.count(pair) == 0) {
      if (pairs_->find(pair.bytes, &previous)) return previous == egress;
      learned_.insert(pair);
    }
    pairs_->put(pair.bytes, egress, &previous);
    return true;
  }
  bool unlearn(const std::uint8_t* source, const std::uint8_t* destination) {
    const Pair pair(source, destination, size_);
    const std::lock_guard lock(mutex_);
    std::uint32_t previous = 0;
    return learned_.erase(pair) != 0 && pairs_->erase(pair.bytes, &previous);
  }
  // Exactly this entry.
  bool get(const std::uint8_t* source, const std::uint8_t* destination,
           std::uint32_t* egress) const noexcept {
    if (source == nullptr) return any_->find(destination, egress);
    const Pair pair(source, destination, size_);
    return pairs_->find(pair.bytes, egress);
  }
  // What a packet asks.
  bool find(const std::uint8_t* source, const std::uint8_t* destination,
            std::uint32_t* egress) const noexcept {
    for (;;) {
      const std::uint64_t erased = any_erased_.load(std::memory_order_acquire);
      if (get(source, destination, egress) || any_->find(destination, egress)) return true;
      if (!moved_since(erased)) return false;
    }
  }
  // The same for many, with all sources null or none. Of a MAC the low 48 bits count.
  void find_many(const std::uint8_t* sources, const std::uint8_t* destinations, std::size_t n,
                 std::uint32_t* egress, std::uint32_t missing) const noexcept {
    switch (size_) {
      case 4:
        return find_blocks<4>(sources, destinations, n, egress, missing);
      case 8:
        return find_blocks<8>(sources, destinations, n, egress, missing);
      default:
        return find_blocks<16>(sources, destinations, n, egress, missing);
    }
  }
  void clear(std::vector<std::uint32_t>* gone) {
    const std::lock_guard lock(mutex_);
    learned_.clear();
    pairs_->clear(gone);
    any_erased_.fetch_add(1, std::memory_order_release);
    any_->clear(gone);
  }
  std::size_t address_size() const noexcept { return size_; }
  std::size_t size() const noexcept { return pairs_->size() + any_->size(); }
  std::size_t nbytes() const noexcept {
    const std::lock_guard lock(mutex_);
    const std::size_t marks = learned_.size() * (sizeof(Pair) + 16) + learned_.bucket_count() * sizeof(void*);
    return pairs_->nbytes() + any_->nbytes() + marks;
  }
  const ExactTable& pairs() const noexcept { return *pairs_; }
  const ExactTable& any() const noexcept { return *any_; }
  // As ExactTable::reclaim().
  bool reclaim() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    const bool pairs_free = pairs_->reclaim();
    return any_->reclaim() && pairs_free && lock.owns_lock() && !forking_.load(std::memory_order_relaxed);
  }
  // As ExactTable's.
  void expect_fork() noexcept { forking_.store(true, std::memory_order_relaxed); }
  void lock_for_fork() {
    mutex_.lock();
    pairs_->lock_for_fork();
    any_->lock_for_fork();
  }
  void unlock_after_fork() noexcept {
    forking_.store(false, std::memory_order_relaxed);
    any_->unlock_after_fork();
    pairs_->unlock_after_fork();
    mutex_.unlock();
  }
  void unlock_in_child() noexcept {
    forking_.store(false, std::memory_order_relaxed);
    any_->unlock_in_child();
    pairs_->unlock_in_child();
    mutex_.unlock();
  }

 private:
  struct Pair {
    Pair(const std::uint8_t* source, const std::uint8_t* destination, std::size_t size) {
      std::memcpy(bytes, source, size);
      std::memcpy(bytes + size, destination, size);
    }
    friend bool operator==(const Pair&, const Pair&) = default;
    std::uint8_t bytes[32] = {};
  };
  struct PairHash {
    std::uint64_t seed;
    std::size_t operator()(const Pair& pair) const noexcept { return xxh3_64(pair.bytes, 32, seed); }
  };

  // A packet that finds neither entry may have looked for the pair before it was put, and for any source
  // after that was erased. Whoever sees an erasure sees its count here, and the pair that was put before it.
  bool moved_since(std::uint64_t erased) const noexcept {
    std::atomic_thread_fence(std::memory_order_acquire);
    return any_erased_.load(std::memory_order_relaxed) != erased;
  }

  template <std::size_t kSize>
  void find_blocks(const std::uint8_t* sources, const std::uint8_t* destinations, std::size_t n,
                   std::uint32_t* egress, std::uint32_t missing) const noexcept {
    if (sources == nullptr) return find_destinations<kSize>(destinations, n, egress, missing);
    constexpr std::size_t kBlock = 4096;
    std::uint64_t hits[kBlock / 64];
    for (std::size_t begin = 0; begin < n; begin += kBlock) {
      const std::size_t count = std::min(kBlock, n - begin);
      const std::uint8_t* from = sources + kSize * begin;
      const std::uint8_t* to = destinations + kSize * begin;
      const std::uint64_t erased = any_erased_.load(std::memory_order_acquire);
      const std::size_t found = pairs_->find_halves(from, to, mask_, count, egress + begin, missing, hits);
      if (found == count || (any_->size() == 0 && !moved_since(erased))) continue;
      find_any<kSize>(from, to, count, egress + begin, missing, hits, erased);
    }
  }

  // Those of a block whose pair is unknown.
  template <std::size_t kSize>
  void find_any(const std::uint8_t* sources, const std::uint8_t* destinations, std::size_t n,
                std::uint32_t* egress, std::uint32_t missing, const std::uint64_t* hits,
                std::uint64_t erased) const noexcept {
    std::uint16_t missed[kPart];
    std::uint8_t keys[kPart * kSize];
    std::uint32_t found[kPart];
    std::uint64_t any_hits[kPart / 64];
    for (std::size_t begin = 0; begin < n; begin += kPart) {
      const std::size_t end = std::min(begin + kPart, n);
      std::size_t left = 0;
      for (std::size_t i = begin; i < end; ++i) {
        missed[left] = static_cast<std::uint16_t>(i);
        left += ~hits[i / 64] >> i % 64 & 1;
      }
      for (std::size_t i = 0; i < left; ++i) {
        copy_address<kSize>(keys + kSize * i, destinations + kSize * missed[i]);
      }
      const std::size_t any_found = any_->find_many(keys, left, found, missing, any_hits);
      for (std::size_t i = 0; i < left; ++i) egress[missed[i]] = found[i];
      if (any_found == left || !moved_since(erased)) continue;
      const EpochDomain::Guard pairs_guard(pairs_->epochs());
      const EpochDomain::Guard any_guard(any_->epochs());
      for (std::size_t i = 0; i < left; ++i) {
        if ((any_hits[i / 64] >> i % 64 & 1) != 0) continue;
        std::uint8_t source[kSize];
        copy_address<kSize>(source, sources + kSize * missed[i]);
        if (!find(source, keys + kSize * i, egress + missed[i])) egress[missed[i]] = missing;
      }
    }
  }

  // What is asked without sources: a pair cannot match, so it matters not what moves between the two tables.
  template <std::size_t kSize>
  void find_destinations(const std::uint8_t* destinations, std::size_t n, std::uint32_t* egress,
                         std::uint32_t missing) const noexcept {
    if (kSize != 8) {
      any_->find_many(destinations, n, egress, missing);
      return;
    }
    std::uint8_t keys[kPart * kSize];
    for (std::size_t begin = 0; begin < n; begin += kPart) {
      const std::size_t count = std::min(kPart, n - begin);
      for (std::size_t i = 0; i < count; ++i) {
        copy_address<kSize>(keys + kSize * i, destinations + kSize * (begin + i));
      }
      any_->find_many(keys, count, egress + begin, missing);
    }
  }

  template <std::size_t kSize>
  void copy_address(std::uint8_t* to, const std::uint8_t* from) const noexcept {
    if constexpr (kSize == 8) {
      const std::uint64_t mac = hash_detail::load64(from) & mask_;
      std::memcpy(to, &mac, 8);
    } else {
      std::memcpy(to, from, kSize);
    }
  }

  static constexpr std::size_t kPart = 1024;  // destinations that are copied before they are looked for
  static constexpr std::size_t kTurn = 1024;  // pairs that a batch puts before others may write

  const std::size_t size_;
  const std::uint64_t mask_;  // of what counts of an address that is a word
  std::atomic<std::uint64_t> any_erased_{0};
  const std::unique_ptr<ExactTable> pairs_;
  const std::unique_ptr<ExactTable> any_;
  mutable std::mutex mutex_;  // of pairs_ and learned_ together
  std::atomic<bool> forking_{false};
  std::unordered_set<Pair, PairHash> learned_;
};

}  // namespace fastpath
