// Policies for AVX2: a row is one vector (IPv4) or two.
#include <cstddef>
#include <cstdint>

#include "fastpath/policy/tree.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")

namespace fastpath {
namespace {
#include "policy_walk.hpp"

template <std::size_t Words>
struct Bounds {
  static constexpr std::size_t kWords = Words;
  static bool hold(const std::uint32_t* row, const std::uint32_t* bounds) noexcept {
    __m256i inside = _mm256_set1_epi32(-1);
    for (std::size_t w = 0; w < Words; w += 8) {
      const __m256i low = _mm256_load_si256(reinterpret_cast<const __m256i*>(bounds + w));
      const __m256i width = _mm256_load_si256(reinterpret_cast<const __m256i*>(bounds + Words + w));
      const __m256i value = _mm256_load_si256(reinterpret_cast<const __m256i*>(row + w));
      const __m256i above = _mm256_sub_epi32(value, low);
      inside = _mm256_and_si256(inside, _mm256_cmpeq_epi32(_mm256_max_epu32(above, width), width));
    }
    return _mm256_movemask_epi8(inside) == -1;
  }
};
}  // namespace

void policy_walk4_avx2(const PolicyTreeView& tree, const std::uint32_t* rows, std::size_t count,
                       std::uint32_t* found) {
  policy_walk<Bounds<PolicyRow<std::uint32_t>::kWords>>(tree, rows, count, found);
}
void policy_walk6_avx2(const PolicyTreeView& tree, const std::uint32_t* rows, std::size_t count,
                       std::uint32_t* found) {
  policy_walk<Bounds<PolicyRow<Address16>::kWords>>(tree, rows, count, found);
}

}  // namespace fastpath

#pragma GCC pop_options
#endif
