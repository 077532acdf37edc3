// Policies for AVX-512: a row is a quarter of a vector (IPv4) or one, compared to a mask.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/policy/tree.hpp"
#include "fastpath/wire.hpp"

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

#include "policy_rows.hpp"

struct Steps : PolicyRows {
  static std::uint32_t passing(const std::uint32_t* row, const PolicyLine& line) noexcept {
    const auto load = [](const std::uint32_t* words) {
      return _mm_load_si128(reinterpret_cast<const __m128i*>(words));
    };
    const __m128i windows = _mm_set1_epi32(static_cast<int>(policy_windows(row, line)));
    const __m128i over = _mm_subs_epu16(_mm_sub_epi16(windows, load(line.low)), load(line.width));
    return _mm_testn_epi32_mask(over, over);
  }
  template <typename Row>
  static bool hold(const std::uint32_t* row, const std::uint32_t* low) noexcept {
    // But for the upper half of the protocol's word.
    constexpr std::uint32_t kCounts = ~(std::uint32_t{2} << 2 * Row::kProtocol);
    if constexpr (Row::kWords == 4) {
      const auto load = [](const std::uint32_t* words) {
        return _mm_load_si128(reinterpret_cast<const __m128i*>(words));
      };
      return (_mm_cmpgt_epu16_mask(_mm_sub_epi16(load(row), load(low)), load(low + 4)) & kCounts) == 0;
    } else {
      const __m512i above = _mm512_sub_epi16(_mm512_load_si512(row), _mm512_load_si512(low));
      return (_mm512_cmpgt_epu16_mask(above, _mm512_load_si512(low + 16)) & kCounts) == 0;
    }
  }
};
}  // namespace

void policy_walk4_avx512(const PolicyTreeView& tree, const PolicyColumns& packets, std::size_t begin,
                         std::size_t count, std::uint32_t* found) {
  policy_walk<std::uint32_t, Steps>(tree, packets, begin, count, found);
}
void policy_walk6_avx512(const PolicyTreeView& tree, const PolicyColumns& packets, std::size_t begin,
                         std::size_t count, std::uint32_t* found) {
  policy_walk<Address16, Steps>(tree, packets, begin, count, found);
}

}  // namespace fastpath

#pragma GCC pop_options
#endif
