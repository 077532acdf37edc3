#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "fastpath/flow_index.hpp"
#include "fastpath/hash.hpp"
#include "fastpath/prefetch.hpp"

#if defined(__x86_64__)
// GCC 12 sees uninitialised reads inside its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")

namespace fastpath {
namespace {

constexpr std::size_t kLanes = 8;

inline __m512i all(std::uint64_t word) { return _mm512_set1_epi64(static_cast<long long>(word)); }

// The low and the high half of 64-bit products, one xor the other.
inline __m512i fold128(__m512i a, __m512i b) {
  const __m512i low_half = all(0xFFFFFFFF);
  const __m512i a_high = _mm512_srli_epi64(a, 32);
  const __m512i b_high = _mm512_srli_epi64(b, 32);
  const __m512i low = _mm512_mul_epu32(a, b);
  const __m512i cross1 = _mm512_mul_epu32(a, b_high);
  const __m512i cross2 = _mm512_mul_epu32(a_high, b);
  const __m512i high = _mm512_mul_epu32(a_high, b_high);
  const __m512i middle = _mm512_add_epi64(
      _mm512_srli_epi64(low, 32),
      _mm512_add_epi64(_mm512_and_si512(cross1, low_half), _mm512_and_si512(cross2, low_half)));
  const __m512i carried =
      _mm512_add_epi64(_mm512_add_epi64(high, _mm512_srli_epi64(middle, 32)),
                       _mm512_add_epi64(_mm512_srli_epi64(cross1, 32), _mm512_srli_epi64(cross2, 32)));
  const __m512i below = _mm512_or_si512(_mm512_and_si512(low, low_half), _mm512_slli_epi64(middle, 32));
  return _mm512_xor_si512(carried, below);
}

void hash16(const FlowIndex& index, const std::uint8_t* keys, FlowGroup& group) {
  using namespace hash_detail;
  const __m512i flip_low = all((load64(kSecret + 24) ^ load64(kSecret + 32)) + index.seed);
  const __m512i flip_high = all((load64(kSecret + 40) ^ load64(kSecret + 48)) - index.seed);
  const __m512i swap =
      _mm512_broadcast_i32x4(_mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  const __m512i even = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1);
  const __m512i sets = all(index.sets);
  for (std::size_t i = 0; i < FlowGroup::kKeys; i += kLanes) {
    const __m512i first = _mm512_loadu_si512(keys + 16 * i);
    const __m512i second = _mm512_loadu_si512(keys + 16 * i + 64);
    const __m512i low = _mm512_xor_si512(_mm512_permutex2var_epi64(first, even, second), flip_low);
    const __m512i high = _mm512_xor_si512(_mm512_permutex2var_epi64(first, odd, second), flip_high);
    __m512i hash = _mm512_add_epi64(_mm512_add_epi64(all(16), _mm512_shuffle_epi8(low, swap)),
                                    _mm512_add_epi64(high, fold128(low, high)));
    hash = _mm512_xor_si512(hash, _mm512_srli_epi64(hash, 37));
    hash = _mm512_mullo_epi64(hash, all(kPrimeMx1));
    hash = _mm512_xor_si512(hash, _mm512_srli_epi64(hash, 32));
    const __m512i set = _mm512_srli_epi64(_mm512_mul_epu32(_mm512_srli_epi64(hash, 32), sets), 32);
    _mm512_store_si512(group.set + i, set);
    _mm512_store_si512(group.tag + i, _mm512_max_epu64(_mm512_and_si512(hash, all(0x7F)), all(1)));
    for (std::size_t k = i; k < i + kLanes; ++k) fetch_ahead(index.heads + group.set[k]);
  }
}

// Heads change while they are read: each is one word, whole on this architecture.
__attribute__((no_sanitize("thread"))) void match(const FlowIndex& index, FlowGroup& group) {
  alignas(64) const std::uint8_t* wanted[kLanes];
  const __m512i repeat = _mm512_set_epi64(
      static_cast<long long>(0x8008080808080808), static_cast<long long>(0x8000000000000000),
      static_cast<long long>(0x8008080808080808), static_cast<long long>(0x8000000000000000),
      static_cast<long long>(0x8008080808080808), static_cast<long long>(0x8000000000000000),
      static_cast<long long>(0x8008080808080808), static_cast<long long>(0x8000000000000000));
  const __m512i sets = all(index.sets);
  const __m256i numbers = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  std::uint32_t elsewheres = 0;
  for (std::size_t i = 0; i < FlowGroup::kKeys; i += kLanes) {
    const __m512i set = _mm512_load_si512(group.set + i);
    const __m512i tag = _mm512_load_si512(group.tag + i);
    const __m512i head = _mm512_i64gather_epi64(set, index.heads, 8);
    const __mmask64 equal =
        _mm512_cmpeq_epi8_mask(head, _mm512_shuffle_epi8(tag, repeat)) & 0x7F7F7F7F7F7F7F7F;
    const __m512i ways = _mm512_movm_epi8(equal);
    const __mmask8 found = _mm512_test_epi64_mask(ways, ways);
    const __m512i below = _mm512_andnot_si512(ways, _mm512_sub_epi64(ways, all(1)));
    const __m512i way = _mm512_srli_epi64(_mm512_popcnt_epi64(below), 3);
    const __m512i slot = _mm512_add_epi64(_mm512_sub_epi64(_mm512_slli_epi64(set, 3), set), way);
    _mm512_store_si512(group.slot + i, _mm512_mask_mov_epi64(all(FlowIndex::kNone), found, slot));
    const __m512i turn =
        _mm512_srli_epi64(_mm512_mul_epu32(_mm512_mullo_epi32(tag, all(FlowIndex::kTurn)), sets), 32);
    const __m512i back = _mm512_sub_epi64(turn, set);
    const __m512i other = _mm512_mask_add_epi64(back, _mm512_cmplt_epu64_mask(turn, set), back, sets);
    const __m512i record = _mm512_add_epi64(all(reinterpret_cast<std::uint64_t>(index.records)),
                                            _mm512_mullo_epi64(slot, all(index.stride)));
    const __m512i next =
        _mm512_add_epi64(all(reinterpret_cast<std::uint64_t>(index.heads)), _mm512_slli_epi64(other, 3));
    _mm512_store_si512(wanted, _mm512_mask_mov_epi64(next, found, record));
    for (const std::uint8_t* place : wanted) fetch_ahead(place);
    if (index.stride > 64) {
      for (const std::uint8_t* place : wanted) fetch_ahead(place + index.stride - 1);
    }
    // Some tags are those of two flows.
    const __m512i more = _mm512_andnot_si512(_mm512_sllv_epi64(all(0xFF), _mm512_slli_epi64(way, 3)), ways);
    if (__mmask8 twice = _mm512_test_epi64_mask(more, more); twice != 0) {
      alignas(64) std::uint64_t left[kLanes];
      _mm512_store_si512(left, more);
      for (; twice != 0; twice &= static_cast<__mmask8>(twice - 1)) {
        const auto lane = static_cast<std::size_t>(std::countr_zero(static_cast<unsigned>(twice)));
        const std::size_t second = static_cast<std::size_t>(std::countr_zero(left[lane])) / 8;
        fetch_ahead(index.records + (group.set[i + lane] * FlowIndex::kWays + second) * index.stride);
      }
    }
    const __mmask8 away = ~found & _mm512_test_epi64_mask(head, all(std::uint64_t{0xFF} << 56));
    const __m256i number = _mm256_add_epi32(numbers, _mm256_set1_epi32(static_cast<int>(i)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(group.elsewhere + elsewheres),
                        _mm256_maskz_compress_epi32(away, number));
    elsewheres += static_cast<std::uint32_t>(_mm_popcnt_u32(away));
  }
  group.elsewheres = elsewheres;
  std::atomic_signal_fence(std::memory_order_acquire);
}

}  // namespace

FlowKernel flow_kernel_avx512() noexcept { return {hash16, match}; }

}  // namespace fastpath

#pragma GCC pop_options
#endif
