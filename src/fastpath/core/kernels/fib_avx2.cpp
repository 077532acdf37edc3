// Longest-prefix match for AVX2 with BMI and POPCNT, in the way of the AVX-512 kernels.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/fib_view.hpp"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,lzcnt,movbe")

namespace fastpath::fib {
namespace {
#include "fib_walk.hpp"

#include "fib_lanes.hpp"

using Vector = __m256i;

constexpr std::size_t kLanes = 4;  // addresses a vector
constexpr std::size_t kGroups = 32;
constexpr std::size_t kChunk = kLanes * kGroups;

inline Vector splat(std::uint64_t value) { return _mm256_set1_epi64x(static_cast<long long>(value)); }
inline Vector byte_of(Vector value, unsigned shift) {
  return _mm256_and_si256(_mm256_srli_epi64(value, static_cast<int>(shift)), splat(0xFF));
}

// Where a step leaves offsets for the next one; see the AVX-512 kernels.
using Lanes = std::uint64_t[kLanes];
inline void put(Lanes& lanes, Vector at) { _mm256_store_si256(reinterpret_cast<Vector*>(lanes), at); }

// What stands at these offsets from `base`.
template <typename T>
inline Vector fetch(const void* from, const Lanes& at) {
  const auto* const base = static_cast<const std::uint8_t*>(from);
  return _mm256_set_epi64x(read_at<T>(base, at[3]), read_at<T>(base, at[2]), read_at<T>(base, at[1]),
                           read_at<T>(base, at[0]));
}

// The word of a large node's map that holds `slot`: slot / kWordSlots.
inline Vector word_of(Vector slot) { return _mm256_mulhi_epu16(slot, splat(65536 / kWordSlots + 1)); }
// All ones where the entry refers to a large node.
inline Vector is_large(Vector entry) {
  return _mm256_cmpeq_epi64(_mm256_and_si256(entry, splat(std::uint64_t{1} << 32)), _mm256_setzero_si256());
}

// Where the word stands that tells the interval of `slot` in the node that `entry` refers to.
inline Vector marks_at(Vector entry, Vector slot) {
  const Vector word = _mm256_and_si256(is_large(entry), word_of(slot));
  return _mm256_slli_epi64(_mm256_add_epi64(_mm256_srli_epi64(entry, 33), word), 3);
}

// How many bits each byte has.
inline Vector byte_counts(Vector value) {
  const Vector counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2,
                                         3, 1, 2, 2, 3, 2, 3, 3, 4);
  const Vector low = _mm256_set1_epi8(0xF);
  return _mm256_add_epi8(_mm256_shuffle_epi8(counts, _mm256_and_si256(value, low)),
                         _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi64(value, 4), low)));
}

// What adds up, byte by byte, to the marks of a large node's word up to and including the slot's.
inline Vector counts_within(Vector slot, Vector marks) {
  const Vector first = _mm256_mullo_epi16(word_of(slot), splat(kWordSlots));
  const Vector rest = _mm256_sub_epi64(_mm256_add_epi64(first, splat(63)), slot);
  return byte_counts(_mm256_sllv_epi64(marks, rest));
}

// Where the entry of `slot` stands in that node; 1 << kShift bytes an entry.
template <int kShift>
inline Vector place_in(Vector entry, Vector slot, Vector marks) {
  const Vector large = is_large(entry);
  const Vector within = counts_within(slot, marks);
  // A tiny node's starts: a one for each byte below the slot.
  const Vector bytes = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8, 0, 0, 0, 0, 0, 0, 0,
                                        0, 8, 8, 8, 8, 8, 8, 8, 8);
  const Vector slots = _mm256_shuffle_epi8(slot, bytes);
  const Vector not_below = _mm256_cmpeq_epi8(_mm256_subs_epu8(slots, marks), _mm256_setzero_si256());
  const Vector below = _mm256_andnot_si256(not_below, _mm256_set1_epi8(1));
  const Vector counted = _mm256_sad_epu8(_mm256_blendv_epi8(below, within, large), _mm256_setzero_si256());
  const Vector interval = _mm256_add_epi64(counted, _mm256_and_si256(large, _mm256_srli_epi64(marks, 56)));
  const Vector map = _mm256_add_epi64(splat(1), _mm256_and_si256(large, splat(kWords - 1)));
  const Vector entries = _mm256_slli_epi64(_mm256_add_epi64(_mm256_srli_epi64(entry, 33), map), 3);
  return _mm256_add_epi64(entries, _mm256_slli_epi64(interval, kShift));
}

// The leaf of `entry` in the lower half where it is an answer, `otherwise` where not; above, anything.
inline Vector better(Vector entry, Vector none, Vector otherwise) {
  return _mm256_blendv_epi8(entry, otherwise, _mm256_cmpeq_epi32(entry, none));
}
// A bit for each lane in which they are the same.
inline std::uint32_t lanes_equal(Vector a, Vector b) {
  return static_cast<std::uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(a, b))));
}
inline void store_answers(std::uint32_t* out, Vector answers) {
  const Vector lower = _mm256_permutevar8x32_epi32(answers, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(lower));
}

template <typename Leaf>
inline void many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  const Vector none = _mm256_set1_epi32(static_cast<int>(view.none)), deep_leaf = splat(view.deep);
  std::size_t i = 0;
  for (; i + kChunk <= n; i += kChunk) {
    Vector slot[kGroups], entry[kGroups];
    alignas(32) Lanes at[kGroups];
    for (std::size_t g = 0; g < kGroups; ++g) {
      const std::uint32_t* const four = addresses + i + kLanes * g;
      const Vector address = _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(four)));
      if (g % 4 == 0) ask_ahead(four);
      slot[g] = byte_of(address, 8);
      put(at[g], _mm256_slli_epi64(_mm256_srli_epi64(address, 16), 3));
    }
    for (std::size_t g = 0; g < kGroups; ++g) {
      entry[g] = fetch<std::uint64_t>(view.root4, at[g]);
      put(at[g], _mm256_slli_epi64(_mm256_add_epi64(_mm256_srli_epi64(entry[g], 33), word_of(slot[g])), 3));
    }
    for (std::size_t g = 0; g < kGroups; ++g) {
      const Vector marks = fetch<std::uint64_t>(view.arena, at[g]);
      const Vector counted = _mm256_sad_epu8(counts_within(slot[g], marks), _mm256_setzero_si256());
      const Vector interval = _mm256_add_epi64(counted, _mm256_srli_epi64(marks, 56));
      const Vector map = _mm256_add_epi64(_mm256_srli_epi64(entry[g], 33), splat(kWords));
      put(at[g], _mm256_add_epi64(_mm256_slli_epi64(map, 3),
                                  _mm256_slli_epi64(interval, sizeof(Leaf) == 4 ? 2 : 1)));
    }
    std::uint32_t deep[kGroups];
    std::uint32_t any_deep = 0;
    for (std::size_t g = 0; g < kGroups; ++g) {
      const Vector leaf = fetch<Leaf>(view.arena, at[g]);
      deep[g] = lanes_equal(leaf, deep_leaf);
      any_deep |= deep[g];
      store_answers(out + i + kLanes * g, better(leaf, none, better(entry[g], none, splat(missing))));
    }
    if (any_deep == 0) continue;
    for (std::size_t g = 0; g < kGroups; ++g) {
      for (; deep[g] != 0; deep[g] &= deep[g] - 1) {
        const std::size_t k = i + kLanes * g + static_cast<std::size_t>(__builtin_ctz(deep[g]));
        loop4<Leaf>(view, addresses + k, out + k, 1, missing);
      }
    }
  }
  loop4<Leaf>(view, addresses + i, out + i, n - i, missing);
}

// The first eight bytes of four addresses, as integers.
inline Vector tops(const std::uint8_t* addresses) {
  const Vector bytes = _mm256_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3,
                                        2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8);
  const auto* const pairs = reinterpret_cast<const Vector*>(addresses);
  const Vector four = _mm256_unpacklo_epi64(_mm256_loadu_si256(pairs), _mm256_loadu_si256(pairs + 1));
  return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(four, bytes), 0b11011000);
}

template <typename Leaf>
inline void many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  const Vector none = _mm256_set1_epi32(static_cast<int>(view.none)), deep_leaf = splat(view.deep);
  std::size_t i = 0;
  for (; i + kChunk <= n; i += kChunk) {
    Vector top[kGroups], entry[kGroups], answer[kGroups];
    alignas(32) Lanes at[kGroups];
    Vector any = _mm256_setzero_si256();
    for (std::size_t g = 0; g < kGroups; ++g) {
      const std::uint8_t* const four = addresses + 16 * (i + kLanes * g);
      top[g] = tops(four);
      ask_ahead(four);
      put(at[g], _mm256_slli_epi64(_mm256_srli_epi64(top[g], 48), 2));
    }
    for (std::size_t g = 0; g < kGroups; ++g) {
      const Vector page = fetch<std::uint32_t>(view.root6, at[g]);
      const Vector row = _mm256_or_si256(_mm256_slli_epi64(page, 8), byte_of(top[g], 40));
      put(at[g], _mm256_slli_epi64(row, 3));
    }
    for (std::size_t g = 0; g < kGroups; ++g) {
      entry[g] = fetch<std::uint64_t>(view.pages, at[g]);
      answer[g] = better(entry[g], none, splat(missing));
      put(at[g], marks_at(entry[g], byte_of(top[g], 32)));
      any = _mm256_or_si256(any, entry[g]);
    }
    if (_mm256_testz_si256(any, splat(~std::uint64_t{0xFFFFFFFF})) != 0) {
      for (std::size_t g = 0; g < kGroups; ++g) store_answers(out + i + kLanes * g, answer[g]);
      continue;
    }
    for (unsigned shift = 32; shift >= 24; shift -= 8) {
      for (std::size_t g = 0; g < kGroups; ++g) {
        put(at[g], place_in<3>(entry[g], byte_of(top[g], shift), fetch<std::uint64_t>(view.arena, at[g])));
      }
      for (std::size_t g = 0; g < kGroups; ++g) {
        entry[g] = fetch<std::uint64_t>(view.arena, at[g]);
        answer[g] = better(entry[g], none, answer[g]);
        put(at[g], marks_at(entry[g], byte_of(top[g], shift - 8)));
      }
    }
    for (std::size_t g = 0; g < kGroups; ++g) {
      const Vector marks = fetch<std::uint64_t>(view.arena, at[g]);
      put(at[g], place_in<sizeof(Leaf) == 4 ? 2 : 1>(entry[g], byte_of(top[g], 16), marks));
    }
    std::uint32_t deep[kGroups];
    std::uint32_t any_deep = 0;
    for (std::size_t g = 0; g < kGroups; ++g) {
      const Vector leaf = fetch<Leaf>(view.arena, at[g]);
      deep[g] = lanes_equal(leaf, deep_leaf);
      any_deep |= deep[g];
      store_answers(out + i + kLanes * g, better(leaf, none, answer[g]));
    }
    if (any_deep == 0) continue;
    for (std::size_t g = 0; g < kGroups; ++g) {
      for (; deep[g] != 0; deep[g] &= deep[g] - 1) {
        const std::size_t k = i + kLanes * g + static_cast<std::size_t>(__builtin_ctz(deep[g]));
        loop6<Leaf>(view, addresses + 16 * k, out + k, 1, missing);
      }
    }
  }
  loop6<Leaf>(view, addresses + 16 * i, out + i, n - i, missing);
}

#include "fib_entry.hpp"
}  // namespace

const Kernels* kernels_avx2() noexcept { return &kKernels; }
}  // namespace fastpath::fib

#pragma GCC pop_options
#else
namespace fastpath::fib {
const Kernels* kernels_avx2() noexcept { return nullptr; }
}  // namespace fastpath::fib
#endif
