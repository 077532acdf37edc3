#if defined(__GNUC__) && !defined(__clang__)
// Some intrinsics of GCC 12 leave don't-care lanes unset on purpose.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "fastpath/exact_table.hpp"
#include "fastpath/fdb.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512dq,avx512vl")

namespace fastpath {
namespace {

// One vector is one line. A writer may change it meanwhile: each 64-bit word of it is whole on this
// architecture, and the version tells whether they belong together.
template <typename Key, typename Value>
__attribute__((no_sanitize("thread"))) inline std::uint32_t match(const Bucket<Key, Value>& line,
                                                                  const Key& key) {
  const __m512i data = _mm512_load_si512(&line);
  if constexpr (sizeof(Key) == 4) {
    return _mm512_cmpeq_epi32_mask(data, _mm512_set1_epi32(static_cast<int>(key)));
  } else if constexpr (sizeof(Key) == 8) {
    return _mm512_cmpeq_epi64_mask(data, _mm512_set1_epi64(static_cast<long long>(key)));
  } else {
    const __m128i wanted = _mm_loadu_si128(reinterpret_cast<const __m128i*>(&key));
    std::uint32_t words = _mm512_cmpeq_epi64_mask(data, _mm512_broadcast_i64x2(wanted));
    __asm__("" : "+r"(words));  // else the mask is moved to a general register twice
    return words & words >> 1;
  }
}

#include "exact_find.hpp"

// hash_key() of eight keys at once.

inline __m512i shift_mix(__m512i h, unsigned bits) { return _mm512_xor_si512(h, _mm512_srli_epi64(h, bits)); }

// Of the 128-bit products, the lower half xor the upper one.
inline __m512i fold128(__m512i a, __m512i b) {
  const __m512i low_half = _mm512_set1_epi64(0xFFFFFFFF);
  const __m512i a_high = _mm512_srli_epi64(a, 32);
  const __m512i b_high = _mm512_srli_epi64(b, 32);
  const __m512i low = _mm512_mul_epu32(a, b);
  const __m512i middle1 = _mm512_mul_epu32(a, b_high);
  const __m512i middle2 = _mm512_mul_epu32(a_high, b);
  const __m512i high = _mm512_mul_epu32(a_high, b_high);
  const __m512i middle =
      _mm512_add_epi64(_mm512_add_epi64(_mm512_srli_epi64(low, 32), _mm512_and_si512(middle1, low_half)),
                       _mm512_and_si512(middle2, low_half));
  const __m512i carried =
      _mm512_add_epi64(_mm512_add_epi64(_mm512_srli_epi64(middle1, 32), _mm512_srli_epi64(middle2, 32)),
                       _mm512_add_epi64(high, _mm512_srli_epi64(middle, 32)));
  const __m512i lower = _mm512_or_si512(_mm512_slli_epi64(middle, 32), _mm512_and_si512(low, low_half));
  return _mm512_xor_si512(lower, carried);
}

// Keys of 4 and of 8 bytes.
template <typename Key>
struct Hasher {
  explicit Hasher(std::uint64_t seed)
      : flip(_mm512_set1_epi64(static_cast<long long>(hash_detail::xxh3_flip_4to8(seed)))) {}
  __m512i operator()(const Key* keys) const {
    __m512i h;
    if constexpr (sizeof(Key) == 8) {
      h = _mm512_rol_epi64(_mm512_load_si512(keys), 32);
    } else {
      const __m512i key = _mm512_cvtepu32_epi64(_mm256_load_si256(reinterpret_cast<const __m256i*>(keys)));
      h = _mm512_or_si512(key, _mm512_slli_epi64(key, 32));
    }
    const __m512i prime = _mm512_set1_epi64(static_cast<long long>(hash_detail::kPrimeMx2));
    h = _mm512_xor_si512(h, flip);
    h = _mm512_xor_si512(h, _mm512_xor_si512(_mm512_rol_epi64(h, 49), _mm512_rol_epi64(h, 24)));
    h = _mm512_mullo_epi64(h, prime);
    h = _mm512_xor_si512(h, _mm512_add_epi64(_mm512_srli_epi64(h, 35),
                                             _mm512_set1_epi64(static_cast<long long>(sizeof(Key)))));
    h = _mm512_mullo_epi64(h, prime);
    return shift_mix(h, 28);
  }
  __m512i flip;
};

template <>
struct Hasher<Key16> {
  explicit Hasher(std::uint64_t seed)
      : flip_low(_mm512_set1_epi64(static_cast<long long>(hash_detail::xxh3_flip_low(seed)))),
        flip_high(_mm512_set1_epi64(static_cast<long long>(hash_detail::xxh3_flip_high(seed)))) {}
  __m512i operator()(const Key16* keys) const {
    const __m512i swap = _mm512_broadcast_i32x4(_mm_set_epi64x(0x08090A0B0C0D0E0F, 0x0001020304050607));
    const __m512i first = _mm512_load_si512(keys);
    const __m512i second = _mm512_load_si512(keys + 4);
    const __m512i even = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1);
    const __m512i low = _mm512_xor_si512(_mm512_permutex2var_epi64(first, even, second), flip_low);
    const __m512i high = _mm512_xor_si512(_mm512_permutex2var_epi64(first, odd, second), flip_high);
    __m512i h = _mm512_add_epi64(
        _mm512_add_epi64(_mm512_shuffle_epi8(low, swap), high),
        _mm512_add_epi64(fold128(low, high), _mm512_set1_epi64(static_cast<long long>(sizeof(Key16)))));
    h = shift_mix(h, 37);
    h = _mm512_mullo_epi64(h, _mm512_set1_epi64(static_cast<long long>(hash_detail::kPrimeMx1)));
    return shift_mix(h, 32);
  }
  __m512i flip_low;
  __m512i flip_high;
};

// The upper half of hash * count: the home buckets, for counts below 2**32.
inline __m512i home_of(__m512i hash, __m512i count) {
  const __m512i high = _mm512_mul_epu32(_mm512_srli_epi64(hash, 32), count);
  const __m512i low = _mm512_mul_epu32(hash, count);
  return _mm512_srli_epi64(_mm512_add_epi64(high, _mm512_srli_epi64(low, 32)), 32);
}

// What find_inline() does, with eight keys to a vector where keys are hashed and lanes are sorted into hits
// and misses; only the look into a line is done key by key, and without a branch. What a writer disturbs is
// done again the slow way, a group at a time.
template <typename Index>
std::size_t find_lanes(const Index& index, std::uint64_t seed, const std::uint8_t* keys, std::size_t size,
                       std::size_t n, typename Index::Entry* values, typename Index::Entry missing,
                       std::uint8_t* hit_flags) {
  using Key = typename Index::Wanted;
  using Value = typename Index::Entry;
  using State = typename Index::State;
  using Generation = typename Index::Generation;
  using Line = typename Index::Line;
  constexpr std::uint32_t kMeaning = Line::kVersionMask | Line::kAlternateMask | Line::kValidMask;
  struct alignas(64) Group {
    Key key[kGroup];
    const Line* line[kGroup];
    Value value[kGroup];
    std::uint32_t meta[kGroup];
    std::uint8_t found[kGroup];
    const Line* visited[kGroup * Index::kAlternates];  // buckets that home buckets name
    std::uint8_t visitor[kGroup * Index::kAlternates];
    std::size_t visits;
    const State* state;
    std::size_t begin;
    std::size_t count;
    std::uint64_t hit;
    std::uint64_t pending;  // keys that are not in their home bucket, which names others
    std::uint32_t changed;
  };
  const Hasher<Key> hasher(seed);
  if (index.state().current->count >> 32 != 0) [[unlikely]]
    return find_inline(index, seed, keys, size, n, values, missing, hit_flags);

  // One look into a line. The value is the one of the last slot where nothing is found.
  const auto look = [](const Line& line, const Key& key, Value* value, std::uint32_t* meta,
                       std::uint32_t* changed) {
    *meta = line.meta(std::memory_order_acquire);
    const std::uint32_t found = match(line, key) & *meta & Line::kValidMask;
    constexpr std::uint32_t kLast = Line::bit(Line::kSlots - 1);
    constexpr std::size_t kStep = sizeof(Value) / Line::kBitStep;
    const std::size_t at = static_cast<std::size_t>(std::countr_zero(found | kLast)) * kStep;
    *value = bucket_detail::load_relaxed(
        *reinterpret_cast<const Value*>(reinterpret_cast<const std::uint8_t*>(line.values) + at));
    std::atomic_thread_fence(std::memory_order_acquire);
    *changed |= *meta ^ line.meta(std::memory_order_relaxed);
    return found;
  };

  const auto stage = [&](Group& group, std::size_t begin) {
    const State& state = index.state();
    const Generation& generation = *state.current;
    group.state = &state;
    group.begin = begin;
    group.count = std::min(kGroup, n - begin);
    const std::uint8_t* key = keys + begin * size;
    if (size == sizeof(Key)) {
      std::memcpy(group.key, key, group.count * sizeof(Key));
    } else {
      for (std::size_t i = 0; i < group.count; ++i, key += size) group.key[i] = load_key<Key>(key, size);
    }
    const std::size_t lanes = (group.count + 7) / 8 * 8;
    std::memset(static_cast<void*>(group.key + group.count), 0, (lanes - group.count) * sizeof(Key));
    const __m512i count = _mm512_set1_epi64(static_cast<long long>(generation.count));
    const __m512i base = _mm512_set1_epi64(reinterpret_cast<long long>(generation.lines));
    for (std::size_t i = 0; i < lanes; i += 8) {
      const __m512i offset = _mm512_slli_epi64(home_of(hasher(group.key + i), count), 6);
      _mm512_store_si512(group.line + i, _mm512_add_epi64(base, offset));
      for (std::size_t j = i; j < i + 8; ++j) __builtin_prefetch(group.line[j]);
    }
  };

  const auto compare = [&](Group& group) {
    if (group.state->old != nullptr) [[unlikely]] {
      group.hit = group.pending = group.visits = 0;
      group.changed = kMeaning;
      return;
    }
    std::uint32_t changed = 0;
    const std::size_t lanes = group.count;
#pragma GCC unroll 4
    for (std::size_t i = 0; i < lanes; ++i) {
      group.found[i] = static_cast<std::uint8_t>(
          look(*group.line[i], group.key[i], &group.value[i], &group.meta[i], &changed));
    }
    const std::uint64_t all = ~std::uint64_t{0} >> (kGroup - lanes);
    const __m512i found = _mm512_load_si512(group.found);
    const __m512i alternates = _mm512_set1_epi32(Line::kAlternateMask);
    std::uint64_t away = 0;
    for (std::size_t i = 0; i < kGroup; i += 16) {
      const __m512i meta = _mm512_load_si512(group.meta + i);
      away |= static_cast<std::uint64_t>(_mm512_test_epi32_mask(meta, alternates)) << i;
    }
    group.hit = _mm512_test_epi8_mask(found, found) & all;
    group.pending = away & ~group.hit & all;
    group.changed = changed;
    const Generation& generation = *group.state->current;
    const Line* end = generation.lines + generation.count;
    std::size_t visits = 0;
    for (std::uint64_t left = group.pending; left != 0; left &= left - 1) {
      const std::size_t i = static_cast<std::size_t>(std::countr_zero(left));
      for (std::size_t which = 0; which < Index::kAlternates; ++which) {
        const Line* line = group.line[i] + generation.distance[which];
        group.visited[visits] = line >= end ? line - generation.count : line;
        group.visitor[visits] = static_cast<std::uint8_t>(i);
        visits += group.meta[i] >> (Line::kAlternateShift + which) & 1;
      }
    }
    for (std::size_t v = 0; v < visits; ++v) __builtin_prefetch(group.visited[v]);
    group.visits = visits;
  };

  std::size_t hits = 0;
  const auto settle = [&](Group& group) {
    std::uint32_t changed = group.changed;
    for (std::size_t v = 0; v < group.visits; ++v) {
      const std::size_t i = group.visitor[v];
      Value value;
      std::uint32_t meta;
      const std::uint32_t found = look(*group.visited[v], group.key[i], &value, &meta, &changed);
      group.value[i] = select(nonzero(found), value, group.value[i]);
      group.hit |= static_cast<std::uint64_t>(nonzero(found)) << i;
    }
    for (std::uint64_t left = group.pending; left != 0; left &= left - 1) {
      const std::size_t i = static_cast<std::size_t>(std::countr_zero(left));
      changed |= group.meta[i] ^ group.line[i]->meta(std::memory_order_acquire);
    }
    const std::uint64_t all = ~std::uint64_t{0} >> (kGroup - group.count);
    if ((changed & kMeaning) != 0 || (group.hit != all && &index.state() != group.state)) [[unlikely]] {
      group.hit = 0;
      for (std::size_t i = 0; i < group.count; ++i) {
        const bool hit = index.get(hash_key(group.key[i], seed), group.key[i], &group.value[i]);
        group.hit |= static_cast<std::uint64_t>(hit) << i;
      }
    }
    constexpr std::size_t kWidth = 64 / sizeof(Value);
    Value* out = values + group.begin;
    for (std::size_t i = 0; i < group.count; i += kWidth) {
      const __m512i value = _mm512_load_si512(group.value + i);
      if constexpr (sizeof(Value) == 4) {
        const __m512i miss = _mm512_set1_epi32(static_cast<int>(missing));
        const auto hit = static_cast<__mmask16>(group.hit >> i);
        _mm512_mask_storeu_epi32(out + i, static_cast<__mmask16>(all >> i),
                                 _mm512_mask_blend_epi32(hit, miss, value));
      } else {
        const __m512i miss = _mm512_set1_epi64(static_cast<long long>(missing));
        const auto hit = static_cast<__mmask8>(group.hit >> i);
        _mm512_mask_storeu_epi64(out + i, static_cast<__mmask8>(all >> i),
                                 _mm512_mask_blend_epi64(hit, miss, value));
      }
    }
    if (hit_flags != nullptr) {
      _mm512_mask_storeu_epi8(hit_flags + group.begin, all, _mm512_maskz_set1_epi8(group.hit, 1));
    }
    hits += static_cast<std::size_t>(std::popcount(group.hit));
  };

  run_groups<Group>(n, stage, compare, settle);
  return hits;
}

}  // namespace

ExactKernels exact_kernels_avx512() {
  return {find_lanes<InlineTable<std::uint32_t>::Index>, find_lanes<InlineTable<std::uint64_t>::Index>,
          find_lanes<InlineTable<Key16>::Index>, find_lanes<Fdb::Index>, find_wide};
}

}  // namespace fastpath

#pragma GCC pop_options
#endif
