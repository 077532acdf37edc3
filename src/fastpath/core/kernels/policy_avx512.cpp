// Policies for AVX-512: a row is one vector, compared to a mask.
#include <cstddef>
#include <cstdint>

#include "fastpath/policy/tree.hpp"

#if defined(__x86_64__)
// The compiler's own header starts vectors from themselves on purpose, and warns of it when it is inlined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl")

namespace fastpath {
namespace {
#include "policy_walk.hpp"

template <std::size_t Words>
struct Bounds {
  static constexpr std::size_t kWords = Words;
  static bool hold(const std::uint32_t* row, const std::uint32_t* bounds) noexcept {
    if constexpr (Words == 8) {
      const __m256i above = _mm256_sub_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(row)),
                                             _mm256_load_si256(reinterpret_cast<const __m256i*>(bounds)));
      return _mm256_cmpgt_epu32_mask(above,
                                     _mm256_load_si256(reinterpret_cast<const __m256i*>(bounds + 8))) == 0;
    } else {
      const __m512i above = _mm512_sub_epi32(_mm512_load_si512(row), _mm512_load_si512(bounds));
      return _mm512_cmpgt_epu32_mask(above, _mm512_load_si512(bounds + 16)) == 0;
    }
  }
};
}  // namespace

void policy_walk4_avx512(const PolicyTreeView& tree, const std::uint32_t* rows, std::size_t count,
                         std::uint32_t* found) {
  policy_walk<Bounds<PolicyRow<std::uint32_t>::kWords>>(tree, rows, count, found);
}
void policy_walk6_avx512(const PolicyTreeView& tree, const std::uint32_t* rows, std::size_t count,
                         std::uint32_t* found) {
  policy_walk<Bounds<PolicyRow<Address16>::kWords>>(tree, rows, count, found);
}

}  // namespace fastpath

#pragma GCC pop_options
#endif
