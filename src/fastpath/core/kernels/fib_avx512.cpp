// Longest-prefix match for AVX-512: a chunk of addresses goes through each step together. Arithmetic is done
// in vectors, loads one by one.
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

using Vector = __m512i;

constexpr std::size_t kLanes = 8;  // addresses a vector
// Vectors that take a step together: enough to hide the caches' latency, few enough to stay in the first one.
constexpr std::size_t kGroups4 = 16;
constexpr std::size_t kGroups6 = 8;
constexpr std::size_t kChunk4 = kLanes * kGroups4;
constexpr std::size_t kChunk6 = kLanes * kGroups6;

inline Vector splat(std::uint64_t value) { return _mm512_set1_epi64(static_cast<long long>(value)); }
inline Vector byte_of(Vector value, unsigned shift) {
  return _mm512_and_si512(_mm512_srli_epi64(value, shift), splat(0xFF));
}
inline Vector low32(Vector value) { return _mm512_and_si512(value, splat(0xFFFFFFFF)); }

// Loads are done one by one: on current cores that outruns gather instructions of 64-bit words.
template <typename T>
inline long long read_at(const std::uint8_t* base, std::uint64_t at) {
#if defined(__SANITIZE_THREAD__)
  // What the load below is on this machine, in the words that the checker knows: references are stored alone.
  if constexpr (sizeof(T) == 8) {
    const auto* const half = reinterpret_cast<const std::uint32_t*>(base + at);
    return static_cast<long long>(std::uint64_t{__atomic_load_n(half + 1, __ATOMIC_ACQUIRE)} << 32 |
                                  __atomic_load_n(half, __ATOMIC_ACQUIRE));
  }
  if constexpr (sizeof(T) == 4)
    return __atomic_load_n(reinterpret_cast<const T*>(base + at), __ATOMIC_ACQUIRE);
#endif
  return static_cast<long long>(std::uint64_t{read<T>(base + at)});
}

// What stands at `at` bytes from `base`.
template <typename T>
inline Vector fetch(const void* from, Vector at) {
  const auto* const base = static_cast<const std::uint8_t*>(from);
  alignas(64) std::uint64_t lane[kLanes];
  _mm512_store_si512(lane, at);
  return _mm512_set_epi64(read_at<T>(base, lane[7]), read_at<T>(base, lane[6]), read_at<T>(base, lane[5]),
                          read_at<T>(base, lane[4]), read_at<T>(base, lane[3]), read_at<T>(base, lane[2]),
                          read_at<T>(base, lane[1]), read_at<T>(base, lane[0]));
}

// Asks for these lines ahead of a fetch. Unlike a load, a prefetch does not hold up what comes after it while
// the outer caches answer.
inline void prefetch(const void* from, Vector at) {
  const auto* const base = static_cast<const char*>(from);
  alignas(64) std::uint64_t lane[kLanes];
  _mm512_store_si512(lane, at);
  for (std::size_t k = 0; k < kLanes; ++k) _mm_prefetch(base + lane[k], _MM_HINT_T0);
}

// The word of a large node's map that holds `slot`.
inline Vector word_of(Vector slot) { return _mm512_srli_epi64(_mm512_mullo_epi32(slot, splat(293)), 14); }
// The marks of that word up to and including the slot's.
inline Vector marks_below(Vector slot, Vector word, Vector marks) {
  const Vector first = _mm512_sub_epi64(_mm512_slli_epi64(word, 6), _mm512_slli_epi64(word, 3));
  return _mm512_andnot_si512(_mm512_sllv_epi64(splat(~std::uint64_t{1}), _mm512_sub_epi64(slot, first)),
                             marks);
}
// `leaf` where it is an answer, `otherwise` where not.
inline Vector better(Vector leaf, Vector none, Vector otherwise) {
  return _mm512_mask_mov_epi64(leaf, _mm512_cmpeq_epi64_mask(leaf, none), otherwise);
}
inline void store_answers(std::uint32_t* out, Vector answers) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi64_epi32(answers));
}

inline Vector addresses4(const std::uint32_t* addresses) {
  return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(addresses)));
}
inline Vector root_at(Vector address) { return _mm512_slli_epi64(_mm512_srli_epi64(address, 16), 3); }

// Whether a chunk of addresses has its first 16 bits in common, as sorted ones have.
inline bool share_a_root(const std::uint32_t* addresses) {
  const Vector first = _mm512_set1_epi32(static_cast<int>(addresses[0]));
  Vector differ = _mm512_setzero_si512();
  for (std::size_t k = 0; k < kChunk4; k += 2 * kLanes) {
    differ = _mm512_or_si512(differ, _mm512_xor_si512(first, _mm512_loadu_si512(addresses + k)));
  }
  return _mm512_test_epi32_mask(differ, _mm512_set1_epi32(static_cast<int>(0xFFFF0000))) == 0;
}

// As many4, for a chunk with one root entry: its node's map stays in a register.
template <typename Leaf>
inline void many4_of_one_root(const View& view, const std::uint32_t* addresses, std::uint32_t* out,
                              std::uint32_t missing) noexcept {
  const Vector none = splat(view.none), deep_leaf = splat(view.deep);
  const std::uint64_t entry = read_entry(view.root4 + (addresses[0] >> 16));
  const Node node = large_node_at(view, entry_ref(entry));
  const Vector map = _mm512_maskz_loadu_epi64((1u << kWords) - 1, node.begin);
  const Vector otherwise = splat(entry_leaf(entry) == view.none ? missing : entry_leaf(entry));
  for (std::size_t k = 0; k < kChunk4; k += kLanes) {
    const Vector slot = byte_of(addresses4(addresses + k), 8);
    const Vector word = word_of(slot);
    const Vector marks = _mm512_permutexvar_epi64(word, map);
    const Vector interval =
        _mm512_add_epi64(_mm512_popcnt_epi64(marks_below(slot, word, marks)), _mm512_srli_epi64(marks, 56));
    const Vector leaf = fetch<Leaf>(node.entries(), _mm512_slli_epi64(interval, sizeof(Leaf) == 4 ? 2 : 1));
    store_answers(out + k, better(leaf, none, otherwise));
    for (unsigned deep = _mm512_cmpeq_epi64_mask(leaf, deep_leaf); deep != 0; deep &= deep - 1) {
      const std::size_t lane = k + static_cast<std::size_t>(__builtin_ctz(deep));
      loop4<Leaf>(view, addresses + lane, out + lane, 1, missing);
    }
  }
}

template <typename Leaf>
inline void many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  const Vector none = splat(view.none), deep_leaf = splat(view.deep);
  std::size_t i = 0;
  for (; i + kChunk4 <= n; i += kChunk4) {
    if (share_a_root(addresses + i)) {
      many4_of_one_root<Leaf>(view, addresses + i, out + i, missing);
      continue;
    }
    Vector slot[kGroups4], entry[kGroups4], at[kGroups4];
    for (std::size_t g = 0; g < kGroups4; ++g) {
      const Vector address = addresses4(addresses + i + kLanes * g);
      slot[g] = byte_of(address, 8);
      entry[g] = fetch<std::uint64_t>(view.root4, root_at(address));
      at[g] = _mm512_slli_epi64(_mm512_add_epi64(_mm512_srli_epi64(entry[g], 33), word_of(slot[g])), 3);
    }
    for (std::size_t g = 0; g < kGroups4; ++g) {
      const Vector unit = _mm512_srli_epi64(entry[g], 33);
      const Vector marks = fetch<std::uint64_t>(view.arena, at[g]);
      const Vector interval = _mm512_add_epi64(
          _mm512_popcnt_epi64(marks_below(slot[g], word_of(slot[g]), marks)), _mm512_srli_epi64(marks, 56));
      const Vector entries = _mm512_slli_epi64(_mm512_add_epi64(unit, splat(kWords)), 3);
      at[g] = _mm512_add_epi64(entries, _mm512_slli_epi64(interval, sizeof(Leaf) == 4 ? 2 : 1));
      prefetch(view.arena, at[g]);
    }
    std::uint32_t deep[kGroups4];
    std::uint32_t any_deep = 0;
    for (std::size_t g = 0; g < kGroups4; ++g) {
      const Vector leaf = fetch<Leaf>(view.arena, at[g]);
      deep[g] = _mm512_cmpeq_epi64_mask(leaf, deep_leaf);
      any_deep |= deep[g];
      store_answers(out + i + kLanes * g, better(leaf, none, better(low32(entry[g]), none, splat(missing))));
    }
    if (any_deep == 0) continue;
    for (std::size_t g = 0; g < kGroups4; ++g) {
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
  const Vector word = word_of(slot);
  // A tiny node's starts: one bit for each byte below the slot.
  const Vector slots = _mm512_shuffle_epi8(slot, _mm512_set4_epi32(0x08080808, 0x08080808, 0, 0));
  const Vector starts = _mm512_maskz_set1_epi8(_mm512_cmpgt_epu8_mask(slots, marks), 1);
  const Vector counted =
      _mm512_popcnt_epi64(_mm512_mask_mov_epi64(starts, large, marks_below(slot, word, marks)));
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
  std::size_t i = 0;
  for (; i + kChunk6 <= n; i += kChunk6) {
    Vector top[kGroups6], entry[kGroups6], answer[kGroups6], at[kGroups6];
    for (std::size_t g = 0; g < kGroups6; ++g) {
      top[g] = tops(addresses + 16 * (i + kLanes * g));
      at[g] = fetch<std::uint32_t>(view.root6, _mm512_slli_epi64(_mm512_srli_epi64(top[g], 48), 2));
    }
    for (std::size_t g = 0; g < kGroups6; ++g) {
      const Vector row = _mm512_or_si512(_mm512_slli_epi64(at[g], 8), byte_of(top[g], 40));
      entry[g] = fetch<std::uint64_t>(view.pages, _mm512_slli_epi64(row, 3));
      answer[g] = better(low32(entry[g]), none, splat(missing));
      at[g] = marks_at(entry[g], byte_of(top[g], 32));
      prefetch(view.arena, at[g]);
    }
    for (unsigned shift = 32; shift >= 24; shift -= 8) {
      for (std::size_t g = 0; g < kGroups6; ++g) {
        at[g] = place_in<3>(entry[g], byte_of(top[g], shift), fetch<std::uint64_t>(view.arena, at[g]));
        prefetch(view.arena, at[g]);
      }
      for (std::size_t g = 0; g < kGroups6; ++g) {
        entry[g] = fetch<std::uint64_t>(view.arena, at[g]);
        answer[g] = better(low32(entry[g]), none, answer[g]);
        at[g] = marks_at(entry[g], byte_of(top[g], shift - 8));
        prefetch(view.arena, at[g]);
      }
    }
    for (std::size_t g = 0; g < kGroups6; ++g) {
      const Vector marks = fetch<std::uint64_t>(view.arena, at[g]);
      at[g] = place_in<sizeof(Leaf) == 4 ? 2 : 1>(entry[g], byte_of(top[g], 16), marks);
      prefetch(view.arena, at[g]);
    }
    std::uint32_t deep[kGroups6];
    std::uint32_t any_deep = 0;
    for (std::size_t g = 0; g < kGroups6; ++g) {
      const Vector leaf = fetch<Leaf>(view.arena, at[g]);
      deep[g] = _mm512_cmpeq_epi64_mask(leaf, deep_leaf);
      any_deep |= deep[g];
      store_answers(out + i + kLanes * g, better(leaf, none, answer[g]));
    }
    if (any_deep == 0) continue;
    for (std::size_t g = 0; g < kGroups6; ++g) {
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
