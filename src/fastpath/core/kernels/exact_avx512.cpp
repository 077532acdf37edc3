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
#include "fastpath/prefetch.hpp"

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
  void operator()(const Key* keys, std::uint64_t* hashes) const {
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
    _mm512_store_si512(hashes, shift_mix(h, 28));
  }
  __m512i flip;
};

template <>
struct Hasher<Key16> {
  explicit Hasher(std::uint64_t seed)
      : flip_low(_mm512_set1_epi64(static_cast<long long>(hash_detail::xxh3_flip_low(seed)))),
        flip_high(_mm512_set1_epi64(static_cast<long long>(hash_detail::xxh3_flip_high(seed)))) {}
  void operator()(const Key16* keys, std::uint64_t* hashes) const {
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
    _mm512_store_si512(hashes, shift_mix(h, 32));
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

inline __m512i every(std::uint64_t word) { return _mm512_set1_epi64(static_cast<long long>(word)); }

inline void aim(const std::uint64_t* hashes, std::uint64_t buckets, std::uint64_t from, std::uint64_t lines,
                std::uint64_t nothing, std::uint64_t* addresses) {
  if (buckets >> 32 != 0) [[unlikely]] {
    for (std::size_t i = 0; i < 8; ++i) {
      const auto home =
          static_cast<std::uint64_t>((static_cast<unsigned __int128>(hashes[i]) * buckets) >> 64);
      addresses[i] = home >= from ? lines + 64 * home : nothing;
    }
    return;
  }
  const __m512i home = home_of(_mm512_load_si512(hashes), every(buckets));
  const __m512i address = _mm512_add_epi64(every(lines), _mm512_slli_epi64(home, 6));
  const __mmask8 there = _mm512_cmpge_epu64_mask(home, every(from));
  _mm512_store_si512(addresses, _mm512_mask_blend_epi64(there, every(nothing), address));
}

inline std::uint64_t nonzero_bytes(const std::uint8_t* bytes) {
  const __m512i all = _mm512_load_si512(bytes);
  return _mm512_test_epi8_mask(all, all);
}

inline std::uint64_t any_bits(const std::uint32_t* words, std::uint32_t bits) {
  const __m512i wanted = _mm512_set1_epi32(static_cast<int>(bits));
  std::uint64_t mask = 0;
  for (std::size_t i = 0; i < 64; i += 16) {
    mask |= static_cast<std::uint64_t>(_mm512_test_epi32_mask(_mm512_load_si512(words + i), wanted)) << i;
  }
  return mask;
}

template <typename Value>
inline void deliver(Value* out, const Value* values, std::uint64_t hit, std::size_t count, Value missing) {
  const std::uint64_t all = ~std::uint64_t{0} >> (64 - count);
  for (std::size_t i = 0; i < count; i += 64 / sizeof(Value)) {
    const __m512i value = _mm512_loadu_si512(values + i);
    if constexpr (sizeof(Value) == 4) {
      const __m512i miss = _mm512_set1_epi32(static_cast<int>(missing));
      _mm512_mask_storeu_epi32(out + i, static_cast<__mmask16>(all >> i),
                               _mm512_mask_blend_epi32(static_cast<__mmask16>(hit >> i), miss, value));
    } else {
      _mm512_mask_storeu_epi64(
          out + i, static_cast<__mmask8>(all >> i),
          _mm512_mask_blend_epi64(static_cast<__mmask8>(hit >> i), every(missing), value));
    }
  }
}

// A record is zero after its key. One of 32 bytes is read as such: a vector of 64 from the second half of a
// line would wait for the next line, though it wants nothing there.
template <std::size_t kRecord>
__attribute__((no_sanitize("thread"))) inline bool same_record(const WideTable& table,
                                                               const std::uint8_t* record,
                                                               const std::uint8_t* key) {
  const std::size_t size = table.key_size();
  if constexpr (kRecord == 32) {
    const __m256i wanted = _mm256_maskz_loadu_epi8(~std::uint32_t{0} >> (32 - size), key);
    const __m256i stored = _mm256_load_si256(reinterpret_cast<const __m256i*>(record));
    return _mm256_cmpneq_epi64_mask(stored, wanted) == 0;
  } else {
    const __m512i wanted = _mm512_maskz_loadu_epi8(~std::uint64_t{0} >> (64 - size), key);
    return _mm512_cmpneq_epi64_mask(_mm512_load_si512(record), wanted) == 0;
  }
}

inline void join_row(const std::uint8_t* first, const std::uint8_t* second, std::uint64_t mask, Key16* keys) {
  const __m512i low = _mm512_and_si512(_mm512_loadu_si512(first), every(mask));
  const __m512i high = _mm512_and_si512(_mm512_loadu_si512(second), every(mask));
  const __m512i front = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0);
  const __m512i back = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
  _mm512_store_si512(keys, _mm512_permutex2var_epi64(low, front, high));
  _mm512_store_si512(keys + 4, _mm512_permutex2var_epi64(low, back, high));
}
inline void join_row(const std::uint8_t* first, const std::uint8_t* second, std::uint32_t mask,
                     std::uint64_t* keys) {
  const __m512i low = _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first)));
  const __m512i high = _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)));
  const __m512i both = _mm512_or_si512(low, _mm512_slli_epi64(high, 32));
  const std::uint64_t wanted = mask | std::uint64_t{mask} << 32;
  _mm512_store_si512(keys, _mm512_and_si512(both, every(wanted)));
}

#include "exact_find.hpp"

}  // namespace

ExactKernels exact_kernels_avx512() { return kernels_here(); }

}  // namespace fastpath

#pragma GCC pop_options
#endif
