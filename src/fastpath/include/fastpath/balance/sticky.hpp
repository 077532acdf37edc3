// The keys that were picked for lately, each with its backend, for draining: 2^bits of them and more. Asked
// by a hash of both.
//
// Sets of one cache line hold 16 marks each, twice as many as keys are asked for, so that hardly any set is
// full before as many keys are there. A mark is 24 bits of the hash and 8 of the time of the last pick; when
// a set is full, the mark that was not used for longest makes room.
#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

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
    const std::uint32_t way = way_for(set, place, time);
    if (set[way].load(kRelaxed) != mark) set[way].store(mark, kRelaxed);
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

  // Where in its set the mark of a key is or is to be: its own place, or the first free one from where the
  // search begins, or that of the mark that was not used for longest (of equal ones the last). For who adds,
  // whose own stores are all that there are.
  static std::uint32_t way_for(const std::atomic<std::uint32_t>* set, const Place& place,
                               std::uint32_t time) noexcept {
#if defined(__SSE2__)
    // All ways at once: no branch foresees where a key is.
    __m128i held[4];
    for (int i = 0; i < 4; ++i) held[i] = _mm_load_si128(reinterpret_cast<const __m128i*>(set) + i);
    const auto all = [&](auto&& of) {
      return _mm_packus_epi16(_mm_packs_epi32(of(held[0]), of(held[1])),
                              _mm_packs_epi32(of(held[2]), of(held[3])));
    };
    const auto equal = [&](__m128i bits, std::uint32_t mark) {
      const __m128i wanted = _mm_set1_epi32(static_cast<int>(mark));
      const __m128i one = _mm_set1_epi32(1);
      const __m128i which =
          all([&](__m128i x) { return _mm_and_si128(_mm_cmpeq_epi32(_mm_and_si128(x, bits), wanted), one); });
      return static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpgt_epi8(which, _mm_setzero_si128())));
    };
    const __m128i times = _mm_set1_epi32(static_cast<int>(kTime));
    const unsigned same = equal(_mm_set1_epi32(static_cast<int>(~kTime)), place.mark);
    if (same != 0) return static_cast<std::uint32_t>(__builtin_ctz(same));
    const unsigned free = equal(_mm_set1_epi32(-1), 0);
    if (free != 0) {
      return (place.way + static_cast<std::uint32_t>(__builtin_ctz((free | free << kWays) >> place.way))) %
             kWays;
    }
    const __m128i now = _mm_set1_epi32(static_cast<int>(time));
    const __m128i ages = all([&](__m128i x) { return _mm_and_si128(_mm_sub_epi32(now, x), times); });
    __m128i oldest = _mm_max_epu8(ages, _mm_srli_si128(ages, 8));
    oldest = _mm_max_epu8(oldest, _mm_srli_si128(oldest, 4));
    oldest = _mm_max_epu8(oldest, _mm_srli_si128(oldest, 2));
    oldest = _mm_max_epu8(oldest, _mm_srli_si128(oldest, 1));
    const auto age = static_cast<char>(_mm_cvtsi128_si32(oldest));
    const auto which = static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(ages, _mm_set1_epi8(age))));
    return 31 - static_cast<std::uint32_t>(__builtin_clz(which));
#else
    std::uint32_t way = place.way;
    for (std::uint32_t i = 0; i < kWays; ++i, way = (way + 1) % kWays) {
      const std::uint32_t held = set[way].load(kRelaxed);
      if (held == 0 || ((held ^ place.mark) & ~kTime) == 0) return way;
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
    return oldest;
#endif
  }

  std::uint32_t bits_;
  std::vector<Set> sets_;
  int shift_;
  std::uint64_t adds_ = 0;
};

}  // namespace fastpath::balance
