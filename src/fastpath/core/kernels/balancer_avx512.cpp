// Batch picks, eight or sixteen at a time.
#include "fastpath/balance/balancer.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

// The intrinsics of GCC 12 read a deliberately undefined register.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")

namespace fastpath::balance {

namespace {

// hash mod slots, as h = high * 2^32 + low = high * (2^32 mod slots) + low (mod slots). That is below 2^53,
// so a double holds it; the quotient is off by one at most, and the fused multiply-add leaves an exact
// remainder.
inline __m256i remainder8(__m512i hash, __m512i fold, __m512d slots, __m512d inverse) {
  const __m512i low = _mm512_and_epi64(hash, _mm512_set1_epi64(0xFFFFFFFF));
  const __m512i folded = _mm512_add_epi64(_mm512_mul_epu32(_mm512_srli_epi64(hash, 32), fold), low);
  const __m512d value = _mm512_cvtepu64_pd(folded);
  const __m512d quotient =
      _mm512_roundscale_pd(_mm512_mul_pd(value, inverse), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512d rest = _mm512_fnmadd_pd(quotient, slots, value);
  rest = _mm512_mask_add_pd(rest, _mm512_cmp_pd_mask(rest, _mm512_setzero_pd(), _CMP_LT_OQ), rest, slots);
  rest = _mm512_mask_sub_pd(rest, _mm512_cmp_pd_mask(rest, slots, _CMP_GE_OQ), rest, slots);
  return _mm512_cvttpd_epi32(rest);
}

void slots(const std::uint16_t* table, std::uint32_t slots, const std::uint64_t* hashes, Id* ids,
           std::size_t n) {
  std::size_t i = 0;
  if (slots < (1u << 20)) {
    const __m512i fold = _mm512_set1_epi64(static_cast<long long>((std::uint64_t{1} << 32) % slots));
    const __m512d divisor = _mm512_set1_pd(slots);
    const __m512d inverse = _mm512_set1_pd(1.0 / slots);
    for (; i + 16 <= n; i += 16) {
      const __m256i low = remainder8(_mm512_loadu_si512(hashes + i), fold, divisor, inverse);
      const __m256i high = remainder8(_mm512_loadu_si512(hashes + i + 8), fold, divisor, inverse);
      const __m512i place = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
      const __m512i pair = _mm512_i32gather_epi32(place, table, 2);
      _mm512_storeu_si512(ids + i, _mm512_and_epi32(pair, _mm512_set1_epi32(0xFFFF)));
    }
  }
  for (; i < n; ++i) ids[i] = table[hashes[i] % slots];
}

inline __m512i mix8(__m512i x) {
  x = _mm512_mullo_epi64(_mm512_xor_epi64(x, _mm512_srli_epi64(x, 30)),
                         _mm512_set1_epi64(static_cast<long long>(0xBF58476D1CE4E5B9u)));
  x = _mm512_mullo_epi64(_mm512_xor_epi64(x, _mm512_srli_epi64(x, 27)),
                         _mm512_set1_epi64(static_cast<long long>(0x94D049BB133111EBu)));
  return _mm512_xor_epi64(x, _mm512_srli_epi64(x, 31));
}

void alias(const std::uint64_t* table, const Id* members, std::uint64_t count, std::uint64_t seed,
           std::uint64_t first, Id* ids, std::size_t n) {
  const __m512i low = _mm512_set1_epi64(0xFFFFFFFF);
  const __m512i wide = _mm512_set1_epi64(static_cast<long long>(count));
  const __m512i step = _mm512_set1_epi64(static_cast<long long>(8 * kGolden));
  alignas(64) std::uint64_t start[8];
  for (std::uint64_t lane = 0; lane < 8; ++lane) start[lane] = seed + (first + lane + 1) * kGolden;
  __m512i state = _mm512_load_si512(start);
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8, state = _mm512_add_epi64(state, step)) {
    const __m512i x = mix8(state);
    __m512i index = _mm512_srli_epi64(_mm512_mul_epu32(_mm512_srli_epi64(x, 32), wide), 32);
    if (table != nullptr) {
      const __m512i entry = _mm512_i64gather_epi64(index, table, 8);
      const __mmask8 other = _mm512_cmpge_epu64_mask(_mm512_and_epi64(x, low), _mm512_and_epi64(entry, low));
      index = _mm512_mask_srli_epi64(index, other, entry, 32);
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids + i), _mm512_i64gather_epi32(index, members, 4));
  }
  if (i < n) scalar_kernels().alias(table, members, count, seed, first + i, ids + i, n - i);
}

}  // namespace

const Kernels& avx512_kernels() noexcept {
  static constexpr Kernels kernels{slots, alias};
  return kernels;
}

}  // namespace fastpath::balance

#pragma GCC pop_options
#pragma GCC diagnostic pop

#endif
