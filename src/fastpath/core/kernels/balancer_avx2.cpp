// Batch picks, four or eight at a time.
#include "fastpath/balance/balancer.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2")

namespace fastpath::balance {

namespace {

// As in balancer_avx512.cpp. Folded below 2^52, a number becomes a double by setting
// the exponent of 2^52 above it.
inline __m128i remainder4(__m256i hash, __m256i fold, __m256d slots, __m256d inverse) {
  const __m256i low = _mm256_and_si256(hash, _mm256_set1_epi64x(0xFFFFFFFF));
  const __m256i folded = _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(hash, 32), fold), low);
  const __m256d magic = _mm256_set1_pd(0x1p52);
  const __m256d value =
      _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(folded, _mm256_castpd_si256(magic))), magic);
  const __m256d quotient = _mm256_floor_pd(_mm256_mul_pd(value, inverse));
  __m256d rest = _mm256_sub_pd(value, _mm256_mul_pd(quotient, slots));
  rest = _mm256_add_pd(rest, _mm256_and_pd(_mm256_cmp_pd(rest, _mm256_setzero_pd(), _CMP_LT_OQ), slots));
  rest = _mm256_sub_pd(rest, _mm256_and_pd(_mm256_cmp_pd(rest, slots, _CMP_GE_OQ), slots));
  return _mm256_cvttpd_epi32(rest);
}

void slots(const std::uint16_t* table, std::uint32_t slots, const std::uint64_t* hashes, Id* ids,
           std::size_t n) {
  std::size_t i = 0;
  if (slots < (1u << 19)) {
    const __m256i fold = _mm256_set1_epi64x(static_cast<long long>((std::uint64_t{1} << 32) % slots));
    const __m256d divisor = _mm256_set1_pd(slots);
    const __m256d inverse = _mm256_set1_pd(1.0 / slots);
    for (; i + 8 <= n; i += 8) {
      const auto* at = reinterpret_cast<const __m256i*>(hashes + i);
      const __m128i low = remainder4(_mm256_loadu_si256(at), fold, divisor, inverse);
      const __m128i high = remainder4(_mm256_loadu_si256(at + 1), fold, divisor, inverse);
      const __m256i pair =
          _mm256_i32gather_epi32(reinterpret_cast<const int*>(table), _mm256_set_m128i(high, low), 2);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids + i),
                          _mm256_and_si256(pair, _mm256_set1_epi32(0xFFFF)));
    }
  }
  for (; i < n; ++i) ids[i] = table[hashes[i] % slots];
}

inline __m256i multiply4(__m256i a, std::uint64_t by) {
  const __m256i b = _mm256_set1_epi64x(static_cast<long long>(by));
  const __m256i cross = _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(a, 32), b),
                                         _mm256_mul_epu32(a, _mm256_srli_epi64(b, 32)));
  return _mm256_add_epi64(_mm256_mul_epu32(a, b), _mm256_slli_epi64(cross, 32));
}

inline __m256i mix4(__m256i x) {
  x = multiply4(_mm256_xor_si256(x, _mm256_srli_epi64(x, 30)), 0xBF58476D1CE4E5B9u);
  x = multiply4(_mm256_xor_si256(x, _mm256_srli_epi64(x, 27)), 0x94D049BB133111EBu);
  return _mm256_xor_si256(x, _mm256_srli_epi64(x, 31));
}

void alias(const std::uint64_t* table, const Id* members, std::uint64_t count, std::uint64_t seed,
           std::uint64_t first, Id* ids, std::size_t n) {
  const __m256i low = _mm256_set1_epi64x(0xFFFFFFFF);
  const __m256i wide = _mm256_set1_epi64x(static_cast<long long>(count));
  const __m256i step = _mm256_set1_epi64x(static_cast<long long>(4 * kGolden));
  alignas(32) std::uint64_t start[4];
  for (std::uint64_t lane = 0; lane < 4; ++lane) start[lane] = seed + (first + lane + 1) * kGolden;
  __m256i state = _mm256_load_si256(reinterpret_cast<const __m256i*>(start));
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4, state = _mm256_add_epi64(state, step)) {
    const __m256i x = mix4(state);
    __m256i index = _mm256_srli_epi64(_mm256_mul_epu32(_mm256_srli_epi64(x, 32), wide), 32);
    if (table != nullptr) {
      const __m256i entry = _mm256_i64gather_epi64(reinterpret_cast<const long long*>(table), index, 8);
      // Both halves are below 2^32, so a signed comparison is right.
      const __m256i keep = _mm256_cmpgt_epi64(_mm256_and_si256(entry, low), _mm256_and_si256(x, low));
      index = _mm256_blendv_epi8(_mm256_srli_epi64(entry, 32), index, keep);
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(ids + i),
                     _mm256_i64gather_epi32(reinterpret_cast<const int*>(members), index, 4));
  }
  if (i < n) scalar_kernels().alias(table, members, count, seed, first + i, ids + i, n - i);
}

}  // namespace

const Kernels& avx2_kernels() noexcept {
  static constexpr Kernels kernels{slots, alias};
  return kernels;
}

}  // namespace fastpath::balance

#pragma GCC pop_options

#endif
