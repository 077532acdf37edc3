// (source, destination) -> egress, the exact pair first, then any source.
#pragma once

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
    if (source == nullptr) return any_->erase(destination, previous);
    const Pair pair(source, destination, size_);
    const std::lock_guard lock(mutex_);
    learned_.erase(pair);
    return pairs_->erase(pair.bytes, previous);
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
    return get(source, destination, egress) || any_->find(destination, egress);
  }
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
  void reclaim() {
    pairs_->reclaim();
    any_->reclaim();
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

  template <std::size_t kSize>
  void find_blocks(const std::uint8_t* sources, const std::uint8_t* destinations, std::size_t n,
                   std::uint32_t* egress, std::uint32_t missing) const noexcept {
    constexpr std::size_t kBlock = 512;
    alignas(64) std::uint8_t keys[kBlock * 2 * kSize];
    std::uint8_t hit[kBlock];
    std::uint16_t missed[kBlock];
    std::uint32_t found[kBlock];
    const bool has_any = any_->size() != 0;
    for (std::size_t begin = 0; begin < n; begin += kBlock) {
      const std::size_t count = std::min(kBlock, n - begin);
      for (std::size_t i = 0; i < count; ++i) {
        std::memcpy(keys + 2 * kSize * i, sources + kSize * (begin + i), kSize);
        std::memcpy(keys + 2 * kSize * i + kSize, destinations + kSize * (begin + i), kSize);
      }
      const std::size_t hits = pairs_->find_many(keys, count, egress + begin, missing, hit);
      if (!has_any || hits == count) continue;
      std::size_t left = 0;
      for (std::size_t i = 0; i < count; ++i) {
        missed[left] = static_cast<std::uint16_t>(i);
        left += !hit[i];
      }
      for (std::size_t i = 0; i < left; ++i) {
        std::memcpy(keys + kSize * i, destinations + kSize * (begin + missed[i]), kSize);
      }
      any_->find_many(keys, left, found, missing);
      for (std::size_t i = 0; i < left; ++i) egress[begin + missed[i]] = found[i];
    }
  }

  const std::size_t size_;
  const std::unique_ptr<ExactTable> pairs_;
  const std::unique_ptr<ExactTable> any_;
  mutable std::mutex mutex_;  // of pairs_ and learned_ together
  std::unordered_set<Pair, PairHash> learned_;
};

}  // namespace fastpath
