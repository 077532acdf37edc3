// Policies for AVX2: a row is half a vector (IPv4) or two.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/policy/tree.hpp"
#include "fastpath/wire.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")

namespace fastpath {
namespace {
#include "policy_walk.hpp"

#include "policy_rows.hpp"

struct Steps : PolicyRows {
  static __m128i load4(const std::uint32_t* words) noexcept {
    return _mm_load_si128(reinterpret_cast<const __m128i*>(words));
  }
  static __m128i over4(__m128i row, const std::uint32_t* low, const std::uint32_t* width) noexcept {
    return _mm_subs_epu16(_mm_sub_epi16(row, load4(low)), load4(width));
  }
  static __m256i over8(const std::uint32_t* row, const std::uint32_t* low,
                       const std::uint32_t* width) noexcept {
    return _mm256_subs_epu16(_mm256_sub_epi16(load8(row), load8(low)), load8(width));
  }
  static std::uint32_t passing(const std::uint32_t* row, const PolicyLine& line) noexcept {
    const __m128i windows = _mm_set1_epi32(static_cast<int>(policy_windows(row, line)));
    const __m128i passes = _mm_cmpeq_epi32(over4(windows, line.low, line.width), _mm_setzero_si128());
    return static_cast<std::uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(passes)));
  }
  template <typename Row>
  static bool hold(const std::uint32_t* row, const std::uint32_t* low) noexcept {
    // But for the upper half of the protocol's word.
    if constexpr (Row::kWords == 4) {
      const __m128i over = over4(load4(row), low, low + 4);
      return _mm_testz_si128(over, _mm_set_epi32(0xFFFF, -1, -1, -1)) != 0;
    } else {
      const __m256i counts = _mm256_set_epi32(0, 0, 0, 0, 0, 0, 0xFFFF, -1);
      const __m256i rest = _mm256_and_si256(over8(row + 8, low + 8, low + 24), counts);
      const __m256i over = _mm256_or_si256(over8(row, low, low + 16), rest);
      return _mm256_testz_si256(over, over) != 0;
    }
  }
};
}  // namespace

void policy_walk4_avx2(const PolicyTreeView& tree, const PolicyColumns& packets, std::size_t begin,
                       std::size_t count, std::uint32_t* found) {
  policy_walk<std::uint32_t, Steps>(tree, packets, begin, count, found);
}
void policy_walk6_avx2(const PolicyTreeView& tree, const PolicyColumns& packets, std::size_t begin,
                       std::size_t count, std::uint32_t* found) {
  policy_walk<Address16, Steps>(tree, packets, begin, count, found);
}

}  // namespace fastpath

#pragma GCC pop_options
#endif
