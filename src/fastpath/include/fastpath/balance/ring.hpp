// Points on a circle of hashes, each with its owner.
//
// A look-up touches two places: an index by the top bits of the hash, which is small enough to stay near the
// core, and the few points there, each beside its owner in 12 bytes. The index of a large ring has many
// points a bucket; hashes are even, so how far a hash is into its bucket tells nearly where in it the point
// is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fastpath/pages.hpp"

namespace fastpath::balance {

struct Point {
  std::uint64_t hash;
  std::uint32_t owner;
};

class Ring {
 public:
  // `sorted` by hash, not empty. Narrow: of points and hashes, the lower 32 bits count.
  void assign(const std::vector<Point>& sorted, bool narrow) {
    mask_ = narrow ? 0xFFFFFFFFu : ~std::uint64_t{0};
    size_ = sorted.size();
    points_ = Pages((size_ + kAtOnce) * kStride);
    std::memset(at(size_), 0xFF, kAtOnce * kStride);  // at or after every hash
    for (std::size_t i = 0; i < size_; ++i) {
      std::memcpy(at(i), &sorted[i].hash, 8);
      std::memcpy(at(i) + 8, &sorted[i].owner, 4);
    }
    int bits = 1;
    while ((kPointsABucket << bits) < size_ && bits < kMostBits) ++bits;
    shift_ = (narrow ? 32 : 64) - bits;
    crowded_ = (kPointsABucket << bits) < size_;
    first_ = Pages(((std::size_t{1} << bits) + 1) * 4);
    auto* first = static_cast<std::uint32_t*>(first_.data());
    std::uint32_t next = 0;
    for (std::size_t bucket = 0; bucket <= std::size_t{1} << bits; ++bucket) {
      while (next < size_ && (hash(next) >> shift_) < bucket) ++next;
      first[bucket] = next;
    }
  }

  std::size_t size() const noexcept { return size_; }
  std::uint64_t mask() const noexcept { return mask_; }
  std::uint64_t hash(std::size_t i) const noexcept {
    std::uint64_t value;
    std::memcpy(&value, at(i), 8);
    return value;
  }
  std::uint32_t owner(std::size_t i) const noexcept {
    std::uint32_t value;
    std::memcpy(&value, at(i) + 8, 4);
    return value;
  }
  // The first point at or after a hash, around the circle.
  std::size_t index(std::uint64_t h) const noexcept {
    h &= mask_;
    return settle(guess(h), h);
  }
  // The owners of n hashes.
  void owners(const std::uint64_t* hashes, std::uint32_t* owners, std::size_t n) const noexcept {
    // Both places are far away in a large ring, so the ways to them go side by side.
    constexpr std::size_t kGroup = 32;
    std::size_t begins[kGroup];
    for (std::size_t done = 0; done < n; done += kGroup) {
      const std::size_t some = n - done < kGroup ? n - done : kGroup;
      for (std::size_t i = 0; i < some; ++i) {
        __builtin_prefetch(first() + ((hashes[done + i] & mask_) >> shift_));
      }
      for (std::size_t i = 0; i < some; ++i) {
        begins[i] = guess(hashes[done + i] & mask_);
        __builtin_prefetch(at(begins[i]));
        __builtin_prefetch(at(begins[i] + kAtOnce) - 1);
      }
      for (std::size_t i = 0; i < some; ++i) {
        owners[done + i] = owner(settle(begins[i], hashes[done + i] & mask_));
      }
    }
  }
  std::size_t nbytes() const noexcept { return points_.bytes() + first_.bytes(); }

 private:
  static constexpr std::size_t kStride = 12;
  static constexpr std::size_t kPointsABucket = 4;
  static constexpr int kMostBits = 18;  // of the index: a megabyte
  // Points that are compared without a branch, which hardly any bucket has more of.
  static constexpr std::size_t kAtOnce = 5;

  const std::uint32_t* first() const noexcept { return static_cast<const std::uint32_t*>(first_.data()); }
  // Where the point of a hash is, or a little before; in a crowded bucket, or a little after.
  std::size_t guess(std::uint64_t h) const noexcept {
    const std::uint32_t* bucket = first() + (h >> shift_);
    if (!crowded_) return bucket[0];
    const std::uint64_t part = (h << (64 - shift_)) >> 32;
    const std::uint64_t along = (bucket[1] - bucket[0]) * part >> 32;
    return bucket[0] + (along > 2 ? along - 2 : 0);
  }
  std::size_t settle(std::size_t i, std::uint64_t h) const noexcept {
    if (crowded_) {
      while (i != 0 && hash(i - 1) >= h) --i;
    }
    for (;;) {
      std::size_t before = 0;
      for (std::size_t k = 0; k < kAtOnce; ++k) before += hash(i + k) < h;
      i += before;
      if (before < kAtOnce) return i == size_ ? 0 : i;
    }
  }
  std::uint8_t* at(std::size_t i) const noexcept {
    return static_cast<std::uint8_t*>(points_.data()) + i * kStride;
  }

  Pages points_;
  Pages first_;  // by the top bits
  std::size_t size_ = 0;
  std::uint64_t mask_ = ~std::uint64_t{0};
  int shift_ = 0;
  bool crowded_ = false;
};

}  // namespace fastpath::balance
