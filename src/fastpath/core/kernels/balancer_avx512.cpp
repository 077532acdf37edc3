// Batch picks, eight or sixteen at a time.
#include "fastpath/balance/balancer.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

// The intrinsics of GCC 12 read a deliberately undefined register.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")

namespace fastpath::balance {

namespace {

struct Simd {
  using Words = std::uint64_t __attribute__((vector_size(64)));
  using Reals = double __attribute__((vector_size(64)));
  using Places = __m256i;

  static __m512i in(Words x) noexcept { return reinterpret_cast<__m512i>(x); }
  static Words out(__m512i x) noexcept { return reinterpret_cast<Words>(x); }
  static Reals real(Words x) noexcept { return _mm512_cvtepu64_pd(in(x)); }
  static Reals small_real(Words x) noexcept { return real(x); }
  static Places places(Reals x) noexcept { return _mm512_cvttpd_epi32(x); }
  static void store(Places x, std::uint32_t* to) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x);
  }
  static Reals floor(Reals x) noexcept {
    return _mm512_roundscale_pd(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  }
  static double floor(double x) noexcept { return __builtin_floor(x); }
  // (x + 1) * by, where x + 1 is exact.
  static double product_of_next(double x, double by) noexcept { return __builtin_fma(x, by, by); }
  static Reals minus_product(Reals x, Reals a, double b) noexcept {
    return _mm512_fnmadd_pd(a, _mm512_set1_pd(b), x);
  }
  static Words multiply_low(Words x, std::uint64_t by) noexcept {
    return out(_mm512_mul_epu32(in(x), _mm512_set1_epi64(static_cast<long long>(by))));
  }
  static Words gather(const std::uint64_t* table, Words index) noexcept {
    return out(_mm512_i64gather_epi64(in(index), table, 8));
  }
  static void gather_ids(const Id* members, Words index, Id* ids) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids), _mm512_i64gather_epi32(in(index), members, 4));
  }
  static void gather_pairs(const std::uint16_t* table, Places low, Places high, Id* ids) noexcept {
    const __m512i place = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    const __m512i pair = _mm512_i32gather_epi32(place, table, 2);
    _mm512_storeu_si512(ids, _mm512_and_epi32(pair, _mm512_set1_epi32(0xFFFF)));
  }
  template <typename Mask>
  static unsigned mask(Mask x) noexcept {
    return _mm512_movepi64_mask(reinterpret_cast<__m512i>(x));
  }
};

#include "balancer_steps.hpp"

}  // namespace

const Kernels& avx512_kernels() noexcept {
  static constexpr Kernels kernels{slots, alias, rendezvous, jump, jump_one};
  return kernels;
}

}  // namespace fastpath::balance

#pragma GCC pop_options
#pragma GCC diagnostic pop

#endif
