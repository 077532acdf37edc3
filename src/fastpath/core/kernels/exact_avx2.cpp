#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/exact_table.hpp"
#include "fastpath/fdb.hpp"
#include "fastpath/prefetch.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,lzcnt")

namespace fastpath {
namespace {

// Vector loads of a line that a writer may change: each 64-bit word of it is whole on this architecture, and
// the version tells whether they belong together.
template <typename Key, typename Value>
__attribute__((no_sanitize("thread"))) inline std::uint32_t match(const Bucket<Key, Value>& line,
                                                                  const Key& key) {
  const auto* data = reinterpret_cast<const __m256i*>(&line);
  const __m256i low = _mm256_load_si256(data);
  if constexpr (sizeof(Key) == 4) {
    const __m256i equal = _mm256_cmpeq_epi32(low, _mm256_set1_epi32(static_cast<int>(key)));
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(equal)));
  } else if constexpr (sizeof(Key) == 8) {
    const __m256i wanted = _mm256_set1_epi64x(static_cast<long long>(key));
    const auto first = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(low, wanted)));
    if constexpr (Bucket<Key, Value>::kSlots <= 4) return static_cast<std::uint32_t>(first);
    return static_cast<std::uint32_t>(first) | static_cast<std::uint32_t>(line.key(4) == key) << 4;
  } else {
    const __m256i wanted =
        _mm256_set_epi64x(static_cast<long long>(key.high), static_cast<long long>(key.low),
                          static_cast<long long>(key.high), static_cast<long long>(key.low));
    const auto words =
        static_cast<std::uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(low, wanted))));
    return (words & words >> 1 & 0b101) | static_cast<std::uint32_t>(line.key(2) == key) << 4;
  }
}

// The front of the key and its end, which overlap.
template <std::size_t kRecord>
__attribute__((no_sanitize("thread"))) inline bool same_record(const WideTable& table,
                                                               const std::uint8_t* record,
                                                               const std::uint8_t* key) {
  const std::size_t end = table.key_size() - kRecord / 2;
  if constexpr (kRecord == 32) {
    const __m128i front = _mm_xor_si128(_mm_load_si128(reinterpret_cast<const __m128i*>(record)),
                                        _mm_loadu_si128(reinterpret_cast<const __m128i*>(key)));
    const __m128i back = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(record + end)),
                                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(key + end)));
    const __m128i differ = _mm_or_si128(front, back);
    return _mm_testz_si128(differ, differ) != 0;
  } else {
    const __m256i front = _mm256_xor_si256(_mm256_load_si256(reinterpret_cast<const __m256i*>(record)),
                                           _mm256_loadu_si256(reinterpret_cast<const __m256i*>(key)));
    const __m256i back = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(record + end)),
                                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(key + end)));
    const __m256i differ = _mm256_or_si256(front, back);
    return _mm256_testz_si256(differ, differ) != 0;
  }
}

#include "exact_steps.hpp"

#include "exact_find.hpp"

}  // namespace

ExactKernels exact_kernels_avx2() { return kernels_here(); }

}  // namespace fastpath

#pragma GCC pop_options
#endif
