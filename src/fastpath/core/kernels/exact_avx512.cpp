#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "fastpath/exact_table.hpp"

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
    const __m128i wanted = _mm_set_epi64x(static_cast<long long>(key.high), static_cast<long long>(key.low));
    const std::uint32_t words = _mm512_cmpeq_epi64_mask(data, _mm512_maskz_broadcast_i64x2(0xFF, wanted));
    return _pext_u32(words & (words >> 1), 0x55);
  }
}

#include "exact_find.hpp"

}  // namespace

ExactKernels exact_kernels_avx512() { return kernels(); }

}  // namespace fastpath

#pragma GCC pop_options
#endif
