#include <bit>
#include <cstddef>
#include <cstdint>

#include "fastpath/policy.hpp"

#if defined(__x86_64__)
// The compiler's own header starts vectors from themselves on purpose, and warns of it when it is inlined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2")

namespace fastpath {
namespace {

inline __m512i shifted_xor(__m512i h, unsigned by) { return _mm512_xor_si512(h, _mm512_srli_epi32(h, by)); }

}  // namespace

// PolicyTuple::hash and passes_filter on sixteen packets at a time.
std::size_t policy_filter4_avx512(const PolicyTuple<std::uint32_t>& tuple,
                                  PolicyBlock<std::uint32_t>& block) {
  const __m512i source_mask = _mm512_set1_epi32(static_cast<int>(tuple.source_mask()));
  const __m512i destination_mask = _mm512_set1_epi32(static_cast<int>(tuple.destination_mask()));
  const __m512i seed = _mm512_set1_epi32(static_cast<int>(tuple.seed()));
  const __m512i one = _mm512_set1_epi32(1);
  const __m512i first = _mm512_set1_epi64(static_cast<long long>(tuple.first_order()));
  const __m128i low = _mm_cvtsi32_si128(static_cast<int>(32 - tuple.filter_bits()));
  __m128i lanes = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  std::size_t candidates = 0;
  for (std::size_t i = 0; i < block.count; i += 16) {
    const unsigned open = _mm512_cmpgt_epu64_mask(_mm512_load_si512(block.order + i), first) |
                          _mm512_cmpgt_epu64_mask(_mm512_load_si512(block.order + i + 8), first) << 8;
    const auto live =
        static_cast<__mmask16>(block.count - i >= 16 ? open : open & ((1u << (block.count - i)) - 1));
    if (live == 0) {
      lanes = _mm_add_epi8(lanes, _mm_set1_epi8(16));
      continue;
    }
    const __m512i source = _mm512_load_si512(block.source + i);
    const __m512i destination = _mm512_load_si512(block.destination + i);
    __m512i h = _mm512_mullo_epi32(_mm512_xor_si512(_mm512_and_si512(source, source_mask), seed),
                                   _mm512_set1_epi32(static_cast<int>(0x9E3779B1u)));
    h = _mm512_add_epi32(shifted_xor(h, 15), _mm512_and_si512(destination, destination_mask));
    h = _mm512_mullo_epi32(h, _mm512_set1_epi32(static_cast<int>(0x85EBCA77u)));
    h = _mm512_mullo_epi32(shifted_xor(h, 13), _mm512_set1_epi32(static_cast<int>(0xC2B2AE3Du)));
    h = shifted_xor(h, 16);
    _mm512_store_si512(block.hash + i, h);
    const __m512i bit = _mm512_srl_epi32(h, low);
    const __m512i words = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), live, _mm512_srli_epi32(bit, 5),
                                                      tuple.filter(), 4);
    const __m512i wanted = _mm512_sllv_epi32(one, _mm512_and_si512(bit, _mm512_set1_epi32(31)));
    const __mmask16 pass = _mm512_mask_test_epi32_mask(live, words, wanted);
    _mm_mask_compressstoreu_epi8(block.candidate + candidates, pass, lanes);
    candidates += static_cast<std::size_t>(std::popcount(static_cast<unsigned>(pass)));
    lanes = _mm_add_epi8(lanes, _mm_set1_epi8(16));
  }
  return candidates;
}

}  // namespace fastpath

#pragma GCC pop_options
#endif
