// Batch picks, four or eight at a time.
#include "fastpath/balance/balancer.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2")

namespace fastpath::balance {

namespace {

struct Simd {
  using Words = std::uint64_t __attribute__((vector_size(32)));
  using Reals = double __attribute__((vector_size(32)));
  using Places = __m128i;

  static __m256i in(Words x) noexcept { return reinterpret_cast<__m256i>(x); }
  static Words out(__m256i x) noexcept { return reinterpret_cast<Words>(x); }
  // Below 2^52 a number becomes a double by setting the exponent of 2^52 above it.
  static Reals small_real(Words x) noexcept {
    return reinterpret_cast<Reals>(x | 0x4330000000000000u) - 0x1p52;
  }
  // Up to 2^53.
  static Reals real(Words x) noexcept { return small_real(x >> 32) * 0x1p32 + small_real(x & 0xFFFFFFFFu); }
  static Places places(Reals x) noexcept { return _mm256_cvttpd_epi32(x); }
  static void store(Places x, std::uint32_t* to) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), x);
  }
  static Reals floor(Reals x) noexcept { return _mm256_floor_pd(x); }
  static double floor(double x) noexcept { return __builtin_floor(x); }
  static double product_of_next(double x, double by) noexcept { return (x + 1.0) * by; }
  static Reals minus_product(Reals x, Reals a, double b) noexcept { return x - a * b; }
  static Words multiply_low(Words x, std::uint64_t by) noexcept {
    return out(_mm256_mul_epu32(in(x), _mm256_set1_epi64x(static_cast<long long>(by))));
  }
  static Words gather(const std::uint64_t* table, Words index) noexcept {
    return out(_mm256_i64gather_epi64(reinterpret_cast<const long long*>(table), in(index), 8));
  }
  static void gather_ids(const Id* members, Words index, Id* ids) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(ids),
                     _mm256_i64gather_epi32(reinterpret_cast<const int*>(members), in(index), 4));
  }
  static void gather_pairs(const std::uint16_t* table, Places low, Places high, Id* ids) noexcept {
    const __m256i place = _mm256_set_m128i(high, low);
    const __m256i pair = _mm256_i32gather_epi32(reinterpret_cast<const int*>(table), place, 2);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids), _mm256_and_si256(pair, _mm256_set1_epi32(0xFFFF)));
  }
  template <typename Mask>
  static unsigned mask(Mask x) noexcept {
    return static_cast<unsigned>(_mm256_movemask_pd(reinterpret_cast<__m256d>(x)));
  }
};

#include "balancer_steps.hpp"

}  // namespace

const Kernels& avx2_kernels() noexcept {
  static constexpr Kernels kernels{slots, alias, rendezvous, jump, jump_one};
  return kernels;
}

}  // namespace fastpath::balance

#pragma GCC pop_options

#endif
