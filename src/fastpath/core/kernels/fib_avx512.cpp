// Longest-prefix match for AVX-512: a chunk of addresses goes through each step together. Arithmetic is done
// in vectors, loads one by one. Nodes are not prefetched: that costs more than it hides once enough loads are
// under way. Addresses are, since the loads between them keep the hardware from doing it.
#if defined(__GNUC__) && !defined(__clang__)
// Some intrinsics of GCC 12 leave don't-care lanes unset on purpose.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/fib_view.hpp"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target( \
    "avx2,bmi,bmi2,popcnt,lzcnt,movbe,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vbmi,avx512vbmi2,avx512vpopcntdq")

namespace fastpath::fib {
namespace {
#include "fib_walk.hpp"

#include "fib_lanes.hpp"

using Vector = __m512i;

constexpr std::size_t kLanes = 8;  // addresses a vector
// Vectors that take a step together: enough to hide the caches' latency, few enough to stay in the first one.
constexpr std::size_t kGroups = 16;
constexpr std::size_t kChunk = kLanes * kGroups;

inline Vector splat(std::uint64_t value) { return _mm512_set1_epi64(static_cast<long long>(value)); }
inline Vector byte_of(Vector value, unsigned shift) {
  return _mm512_and_si512(_mm512_srli_epi64(value, shift), splat(0xFF));
}

// Where a step leaves offsets, for the next one to load them one by one. A step goes over all vectors in
// between: a lane that is loaded right after its vector was stored waits.
using Lanes = std::uint64_t[kLanes];
inline void put(Lanes& lanes, Vector at) { _mm512_store_si512(lanes, at); }

// What stands at these offsets from `base`.
template <typename T>
inline Vector fetch(const void* from, const Lanes& at) {
  const auto* const base = static_cast<const std::uint8_t*>(from);
  return _mm512_set_epi64(read_at<T>(base, at[7]), read_at<T>(base, at[6]), read_at<T>(base, at[5]),
                          read_at<T>(base, at[4]), read_at<T>(base, at[3]), read_at<T>(base, at[2]),
                          read_at<T>(base, at[1]), read_at<T>(base, at[0]));
}

// The word of a large node's map that holds `slot`: slot / kWordSlots.
inline Vector word_of(Vector slot) { return _mm512_mulhi_epu16(slot, splat(65536 / kWordSlots + 1)); }
// How far a map's word is shifted up for its marks behind the slot to drop out, and the count above them.
inline Vector rest_of(Vector slot) {
  const Vector first = _mm512_mullo_epi16(word_of(slot), splat(kWordSlots));
  return _mm512_sub_epi64(_mm512_add_epi64(first, splat(63)), slot);
}
// `leaf` where it is an answer, `otherwise` where not.
inline Vector better(Vector leaf, Vector none, Vector otherwise) {
  return _mm512_mask_mov_epi64(leaf, _mm512_cmpeq_epi64_mask(leaf, none), otherwise);
}
// The same for entries, whose lower halves are leaves; what comes above an answer does not matter.
inline Vector better_entry(Vector entry, Vector none, Vector otherwise) {
  return _mm512_mask_mov_epi32(otherwise, _mm512_cmpneq_epi32_mask(entry, none), entry);
}
inline void store_answers(std::uint32_t* out, Vector answers) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi64_epi32(answers));
}

inline Vector addresses4(const std::uint32_t* addresses) {
  return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(addresses)));
}
inline Vector root_at(Vector address) { return _mm512_slli_epi64(_mm512_srli_epi64(address, 16), 3); }

// Slots that many4_of_few_slots can tell apart.
constexpr std::uint32_t kFewSlots = 32;

// Whether a chunk lies within kFewSlots slots of one node, beginning with the first address's, as sorted
// addresses do.
inline bool in_few_slots(const std::uint32_t* addresses) {
  const std::uint32_t first = addresses[0] >> 8;
  const std::uint32_t bound = 256 - (first & 0xFF) < kFewSlots ? 256 - (first & 0xFF) : kFewSlots;
  if ((addresses[kChunk - 1] >> 8) - first >= bound) return false;
  const Vector base = _mm512_set1_epi32(static_cast<int>(first));
  Vector most = _mm512_setzero_si512();
  for (std::size_t k = 0; k < kChunk; k += 2 * kLanes) {
    const Vector slot = _mm512_srli_epi32(_mm512_loadu_si512(addresses + k), 8);
    most = _mm512_max_epu32(most, _mm512_sub_epi32(slot, base));
  }
  return _mm512_cmpge_epu32_mask(most, _mm512_set1_epi32(static_cast<int>(bound))) == 0;
}

// Sixteen leaves from `entries` on; those that are not `wanted` are not read.
template <typename Leaf>
inline Vector leaves_at(const std::uint8_t* entries, std::uint32_t wanted) {
  if constexpr (sizeof(Leaf) == 4) return _mm512_maskz_loadu_epi32(static_cast<__mmask16>(wanted), entries);
  return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(wanted), entries));
}

// As many4, for a chunk within few slots: their leaves are read once, and chosen from in registers.
template <typename Leaf>
inline void many4_of_few_slots(const View& view, const std::uint32_t* addresses, std::uint32_t* out,
                               std::uint32_t missing) noexcept {
  const std::uint32_t first = addresses[0] >> 8;
  const unsigned slot = first & 0xFF;
  const std::uint64_t entry = read_entry(view.root4 + (first >> 8));
  const Node node = large_node_at(view, entry_ref(entry));
  // The marks of the slots behind the first, one bit each.
  const unsigned word = slot * 293 >> 14;
  const unsigned within = slot - kWordSlots * word;
  constexpr std::uint64_t kMarks = (std::uint64_t{1} << kWordSlots) - 1;
  std::uint64_t marks = (read<std::uint64_t>(node.begin + 8 * word) & kMarks) >> within;
  if (word + 1 < kWords) marks |= read<std::uint64_t>(node.begin + 8 * (word + 1)) << (kWordSlots - within);
  const auto later = static_cast<std::uint32_t>(marks >> 1) & (~std::uint32_t{0} >> 1);

  const Vector window = _mm512_set1_epi32(static_cast<int>(later));
  const Vector lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const Vector none_before = _mm512_set1_epi32(-1);
  const std::uint8_t* const entries = node.entries() + sizeof(Leaf) * marks_up_to(node.begin, slot);
  const std::uint64_t wanted = (std::uint64_t{2} << __builtin_popcount(later)) - 1;
  const Vector low = leaves_at<Leaf>(entries, static_cast<std::uint32_t>(wanted));
  const Vector high = leaves_at<Leaf>(entries + 16 * sizeof(Leaf), static_cast<std::uint32_t>(wanted >> 16));
  Vector leaves[2];
  std::uint32_t deep = 0;
  for (unsigned half = 0; half < 2; ++half) {
    const Vector at = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(16 * half)));
    const Vector before = _mm512_andnot_si512(_mm512_sllv_epi32(none_before, at), window);
    const Vector leaf = _mm512_permutex2var_epi32(low, _mm512_popcnt_epi32(before), high);
    const __mmask16 bare = _mm512_cmpeq_epi32_mask(leaf, _mm512_set1_epi32(static_cast<int>(view.none)));
    const std::uint32_t above = entry_leaf(entry) == view.none ? missing : entry_leaf(entry);
    deep |= std::uint32_t{_mm512_cmpeq_epi32_mask(leaf, _mm512_set1_epi32(static_cast<int>(view.deep)))}
            << (16 * half);
    leaves[half] = _mm512_mask_mov_epi32(leaf, bare, _mm512_set1_epi32(static_cast<int>(above)));
  }
  const Vector base = _mm512_set1_epi32(static_cast<int>(first));
  for (std::size_t k = 0; k < kChunk; k += 2 * kLanes) {
    const Vector slots = _mm512_srli_epi32(_mm512_loadu_si512(addresses + k), 8);
    _mm512_storeu_si512(out + k,
                        _mm512_permutex2var_epi32(leaves[0], _mm512_sub_epi32(slots, base), leaves[1]));
  }
  for (std::size_t k = 0; deep != 0 && k < kChunk; ++k) {
    if ((deep >> ((addresses[k] >> 8) - first) & 1) != 0)
      loop4<Leaf>(view, addresses + k, out + k, 1, missing);
  }
}

template <typename Leaf>
inline void many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  const Vector none = splat(view.none), deep_leaf = splat(view.deep);
  const Vector none_leaf = _mm512_set1_epi32(static_cast<int>(view.none));
  std::size_t i = 0;
  for (; i + kChunk <= n; i += kChunk) {
    if (in_few_slots(addresses + i)) {
      many4_of_few_slots<Leaf>(view, addresses + i, out + i, missing);
      continue;
    }
    Vector slot[kGroups], entry[kGroups];
    alignas(64) Lanes at[kGroups];
    for (std::size_t g = 0; g < kGroups; ++g) {
      const Vector address = addresses4(addresses + i + kLanes * g);
      if (g % 2 == 0) ask_ahead(addresses + i + kLanes * g);
      slot[g] = byte_of(address, 8);
      put(at[g], root_at(address));
    }
    for (std::size_t g = 0; g < kGroups; ++g) {
      entry[g] = fetch<std::uint64_t>(view.root4, at[g]);
      put(at[g], _mm512_slli_epi64(_mm512_add_epi64(_mm512_srli_epi64(entry[g], 33), word_of(slot[g])), 3));
    }
    for (std::size_t g = 0; g < kGroups; ++g) {
      const Vector unit = _mm512_srli_epi64(entry[g], 33);
      const Vector marks = fetch<std::uint64_t>(view.arena, at[g]);
      const Vector counted = _mm512_popcnt_epi64(_mm512_sllv_epi64(marks, rest_of(slot[g])));
      const Vector interval = _mm512_add_epi64(counted, _mm512_srli_epi64(marks, 56));
      const Vector entries = _mm512_slli_epi64(_mm512_add_epi64(unit, splat(kWords)), 3);
      put(at[g], _mm512_add_epi64(entries, _mm512_slli_epi64(interval, sizeof(Leaf) == 4 ? 2 : 1)));
    }
    std::uint32_t deep[kGroups];
    std::uint32_t any_deep = 0;
    for (std::size_t g = 0; g < kGroups; ++g) {
      const Vector leaf = fetch<Leaf>(view.arena, at[g]);
      deep[g] = _mm512_cmpeq_epi64_mask(leaf, deep_leaf);
      any_deep |= deep[g];
      store_answers(out + i + kLanes * g,
                    better(leaf, none, better_entry(entry[g], none_leaf, splat(missing))));
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

// Where the word stands that tells the interval of `slot` in the node that `entry` refers to.
inline Vector marks_at(Vector entry, Vector slot) {
  const __mmask8 large = _mm512_testn_epi64_mask(entry, splat(std::uint64_t{1} << 32));
  const Vector unit = _mm512_srli_epi64(entry, 33);
  return _mm512_slli_epi64(_mm512_mask_add_epi64(unit, large, unit, word_of(slot)), 3);
}

// Where the entry of `slot` stands in that node; 1 << kShift bytes an entry.
template <int kShift>
inline Vector place_in(Vector entry, Vector slot, Vector marks) {
  const __mmask8 large = _mm512_testn_epi64_mask(entry, splat(std::uint64_t{1} << 32));
  const Vector unit = _mm512_srli_epi64(entry, 33);
  // A tiny node's starts: one bit for each byte below the slot.
  const Vector slots = _mm512_shuffle_epi8(slot, _mm512_set4_epi32(0x08080808, 0x08080808, 0, 0));
  const Vector starts = _mm512_maskz_set1_epi8(_mm512_cmpgt_epu8_mask(slots, marks), 1);
  const Vector counted = _mm512_popcnt_epi64(_mm512_mask_sllv_epi64(starts, large, marks, rest_of(slot)));
  const Vector interval = _mm512_mask_add_epi64(counted, large, counted, _mm512_srli_epi64(marks, 56));
  const Vector first = _mm512_mask_mov_epi64(splat(1), large, splat(kWords));
  const Vector entries = _mm512_slli_epi64(_mm512_add_epi64(unit, first), 3);
  return _mm512_add_epi64(entries, _mm512_slli_epi64(interval, kShift));
}

// The first eight bytes of eight addresses, as integers.
inline Vector tops(const std::uint8_t* addresses) {
  const Vector evens = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
  const Vector bytes = _mm512_set4_epi32(0x08090A0B, 0x0C0D0E0F, 0x00010203, 0x04050607);
  return _mm512_shuffle_epi8(
      _mm512_permutex2var_epi64(_mm512_loadu_si512(addresses), evens, _mm512_loadu_si512(addresses + 64)),
      bytes);
}

template <typename Leaf>
inline void many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  const Vector none = splat(view.none), deep_leaf = splat(view.deep);
  const Vector none_leaf = _mm512_set1_epi32(static_cast<int>(view.none));
  std::size_t i = 0;
  for (; i + kChunk <= n; i += kChunk) {
    Vector top[kGroups], entry[kGroups], answer[kGroups];
    alignas(64) Lanes at[kGroups];
    Vector any = _mm512_setzero_si512();
    for (std::size_t g = 0; g < kGroups; ++g) {
      const std::uint8_t* const eight = addresses + 16 * (i + kLanes * g);
      top[g] = tops(eight);
      ask_ahead(eight);
      ask_ahead(eight + 64);
      put(at[g], _mm512_slli_epi64(_mm512_srli_epi64(top[g], 48), 2));
    }
    for (std::size_t g = 0; g < kGroups; ++g) {
      const Vector page = fetch<std::uint32_t>(view.root6, at[g]);
      const Vector row = _mm512_or_si512(_mm512_slli_epi64(page, 8), byte_of(top[g], 40));
      put(at[g], _mm512_slli_epi64(row, 3));
    }
    for (std::size_t g = 0; g < kGroups; ++g) {
      entry[g] = fetch<std::uint64_t>(view.pages, at[g]);
      answer[g] = better_entry(entry[g], none_leaf, splat(missing));
      put(at[g], marks_at(entry[g], byte_of(top[g], 32)));
      any = _mm512_or_si512(any, entry[g]);
    }
    if (_mm512_test_epi64_mask(any, splat(~std::uint64_t{0xFFFFFFFF})) == 0) {
      for (std::size_t g = 0; g < kGroups; ++g) store_answers(out + i + kLanes * g, answer[g]);
      continue;
    }
    for (unsigned shift = 32; shift >= 24; shift -= 8) {
      for (std::size_t g = 0; g < kGroups; ++g) {
        put(at[g], place_in<3>(entry[g], byte_of(top[g], shift), fetch<std::uint64_t>(view.arena, at[g])));
      }
      for (std::size_t g = 0; g < kGroups; ++g) {
        entry[g] = fetch<std::uint64_t>(view.arena, at[g]);
        answer[g] = better_entry(entry[g], none_leaf, answer[g]);
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
      deep[g] = _mm512_cmpeq_epi64_mask(leaf, deep_leaf);
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

const Kernels* kernels_avx512() noexcept { return &kKernels; }
}  // namespace fastpath::fib

#pragma GCC pop_options
#else
namespace fastpath::fib {
const Kernels* kernels_avx512() noexcept { return nullptr; }
}  // namespace fastpath::fib
#endif
