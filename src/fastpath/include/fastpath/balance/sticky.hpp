// The keys that were picked for lately, for draining: 2^bits of them and more.
//
// Sets of one cache line hold 16 marks each, twice as many as keys are asked for, so that hardly any set is
// full before as many keys are there. A mark is 24 bits of the hash and 8 of the time of the last pick; when
// a set is full, the mark that was not used for longest makes room.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fastpath/balance/draw.hpp"

namespace fastpath::balance {

// One thread at a time adds; any number of others may ask.
class Sticky {
 public:
  explicit Sticky(std::uint32_t bits)
      : bits_(bits < 4 ? 4 : bits),
        sets_(std::size_t{1} << (bits_ - 3)),
        shift_(67 - static_cast<int>(bits_)) {}

  void add(std::uint64_t hash) noexcept {
    const Place place = find(hash);
    // An eighth of the keys is one tick, so that time turns round after 32 times as many.
    const auto time = static_cast<std::uint32_t>((++adds_ >> (bits_ - 3)) & kTime);
    const std::uint32_t mark = place.mark | time;
    std::atomic<std::uint32_t>* const set = sets_[place.set].marks;
    std::uint32_t way = place.way;
    for (std::uint32_t i = 0; i < kWays; ++i, way = (way + 1) % kWays) {
      const std::uint32_t held = set[way].load(kRelaxed);
      if (held == mark) return;
      if (held == 0 || ((held ^ mark) & ~kTime) == 0) return set[way].store(mark, kRelaxed);
    }
    std::uint32_t oldest = 0;
    std::uint32_t age = 0;
    for (std::uint32_t i = 0; i < kWays; ++i) {
      const std::uint32_t unused = (time - set[i].load(kRelaxed)) & kTime;
      if (unused >= age) {
        age = unused;
        oldest = i;
      }
    }
    set[oldest].store(mark, kRelaxed);
  }

  bool contains(std::uint64_t hash) const noexcept {
    const Place place = find(hash);
    const std::atomic<std::uint32_t>* const set = sets_[place.set].marks;
    std::uint32_t way = place.way;
    for (std::uint32_t i = 0; i < kWays; ++i, way = (way + 1) % kWays) {
      const std::uint32_t held = set[way].load(kRelaxed);
      if (held == 0) return false;
      if (((held ^ place.mark) & ~kTime) == 0) return true;
    }
    return false;
  }

  std::size_t nbytes() const noexcept { return sizeof *this + sets_.size() * sizeof(Set); }

 private:
  static constexpr std::uint32_t kWays = 16;
  static constexpr std::uint32_t kTime = 0xFF;
  static constexpr auto kRelaxed = std::memory_order_relaxed;

  struct alignas(64) Set {
    std::atomic<std::uint32_t> marks[kWays]{};
  };
  struct Place {
    std::size_t set;
    std::uint32_t way;   // where the search begins; it ends at a free one, for none becomes free again
    std::uint32_t mark;  // never 0
  };
  Place find(std::uint64_t hash) const noexcept {
    const std::uint64_t mixed = (hash ^ (hash >> 32)) * kGolden;
    return {static_cast<std::size_t>(mixed >> shift_), static_cast<std::uint32_t>(mixed >> 3) % kWays,
            (static_cast<std::uint32_t>(mixed >> 7) & ~kTime) | (kTime + 1)};
  }

  std::uint32_t bits_;
  std::vector<Set> sets_;
  int shift_;
  std::uint64_t adds_ = 0;
};

}  // namespace fastpath::balance
