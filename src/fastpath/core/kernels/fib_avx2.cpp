// Longest-prefix match for AVX2 with BMI and POPCNT.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "fastpath/fib_view.hpp"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,lzcnt,movbe")

namespace fastpath::fib {
namespace {
#include "fib_walk.hpp"

#include "fib_lanes.hpp"

using Vector = __m256i;
using Choice = __m256i;            // of lanes: all ones
constexpr std::size_t kLanes = 4;  // addresses a vector

inline Vector splat(std::uint64_t value) { return _mm256_set1_epi64x(static_cast<long long>(value)); }
inline Vector splat_half(std::uint32_t value) { return _mm256_set1_epi32(static_cast<int>(value)); }
inline Vector splat_word(unsigned value) { return _mm256_set1_epi16(static_cast<short>(value)); }
inline Vector load(const std::uint64_t* from) {
  return _mm256_load_si256(reinterpret_cast<const Vector*>(from));
}
inline void store(std::uint64_t* to, Vector value) {
  _mm256_store_si256(reinterpret_cast<Vector*>(to), value);
}
inline Vector both(Vector a, Vector b) { return _mm256_and_si256(a, b); }
inline Vector either(Vector a, Vector b) { return _mm256_or_si256(a, b); }
inline Vector plus(Vector a, Vector b) { return _mm256_add_epi64(a, b); }
inline Vector minus(Vector a, Vector b) { return _mm256_sub_epi64(a, b); }
inline Vector choose(Choice lanes, Vector a, Vector b) { return _mm256_blendv_epi8(b, a, lanes); }
// Of lanes below 2^63.
inline Choice at_least(Vector a, Vector b) {
  return _mm256_cmpgt_epi64(a, _mm256_sub_epi64(b, _mm256_set1_epi64x(1)));
}
inline Vector shift_down_by(Vector value, Vector bits) { return _mm256_srlv_epi64(value, bits); }
inline Vector plus_where(Choice lanes, Vector a, Vector b) { return plus(a, both(lanes, b)); }
template <int kBits>
inline Vector shift_down(Vector value) {
  return _mm256_srli_epi64(value, kBits);
}
template <int kBits>
inline Vector shift_up(Vector value) {
  return _mm256_slli_epi64(value, kBits);
}
// In words of 16 bits.
inline Vector plus_words(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
inline Vector minus_words(Vector a, Vector b) { return _mm256_sub_epi16(a, b); }
inline Vector low_products(Vector a, Vector b) { return _mm256_mullo_epi16(a, b); }
inline Vector high_products(Vector a, Vector b) { return _mm256_mulhi_epu16(a, b); }
// Bytes of each lane, by their numbers in it; zero where the number is 0x80.
inline Vector bytes_of(Vector value, BytePattern pattern) {
  return _mm256_shuffle_epi8(value, _mm256_set_epi64x(pattern.odd, pattern.even, pattern.odd, pattern.even));
}
// Where the entry refers to a large node.
inline Choice is_large(Vector entry) {
  return _mm256_cmpeq_epi64(both(entry, splat(std::uint64_t{kTiny} << 32)), _mm256_setzero_si256());
}
inline Choice is_mini(Vector entry) {
  const Vector bit = splat(std::uint64_t{kMini} << 32);
  return _mm256_cmpeq_epi64(both(entry, bit), bit);
}
// Whether any lane has a bit in its upper half.
inline bool any_above(Vector value) {
  return _mm256_testz_si256(value, splat(~std::uint64_t{0xFFFFFFFF})) == 0;
}
// A bit for each lane whose lower halves are the same: the lower one of the lane's two.
inline std::uint32_t lanes_equal(Vector a, Vector b) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)))) & 0x55;
}
// Entries where their lower halves are answers, `otherwise` where not; the upper halves may be of either.
inline Vector better(Vector entry, Vector none, Vector otherwise) {
  return _mm256_blendv_epi8(entry, otherwise, _mm256_cmpeq_epi32(entry, none));
}
inline void store_answers(std::uint32_t* out, Vector answers) {
  const Vector lower = _mm256_permutevar8x32_epi32(answers, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(lower));
}

// What stands at places that a step left for the next one. A step goes over all vectors in between: a lane
// that is loaded right after its vector was stored waits.
template <typename T>
inline Vector fetch(const void* from, const std::uint64_t* at) {
  const auto* const base = static_cast<const std::uint8_t*>(from);
  return _mm256_set_epi64x(read_at<T>(base, at[3]), read_at<T>(base, at[2]), read_at<T>(base, at[1]),
                           read_at<T>(base, at[0]));
}

// How many bits each byte has.
inline Vector byte_counts(Vector value) {
  const Vector counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2,
                                         3, 1, 2, 2, 3, 2, 3, 3, 4);
  const Vector low = _mm256_set1_epi8(0xF);
  return _mm256_add_epi8(_mm256_shuffle_epi8(counts, both(value, low)),
                         _mm256_shuffle_epi8(counts, both(shift_down<4>(value), low)));
}
inline Vector sum_bytes(Vector value) { return _mm256_sad_epu8(value, _mm256_setzero_si256()); }

// A large node's marks up to and including the slot's, and the count that the word has above them.
inline Vector count_large(Vector marks, Vector rest) {
  return plus(sum_bytes(byte_counts(_mm256_sllv_epi64(marks, rest))), shift_down<56>(marks));
}
// The same in lanes of large nodes; in those of tiny ones `kFirst`, and one more for each start below the
// slot.
template <unsigned kFirst>
inline Vector count(Choice large, Vector marks, Vector rest, Vector slots) {
  const Vector within = byte_counts(_mm256_sllv_epi64(marks, rest));
  const Vector not_below = _mm256_cmpeq_epi8(_mm256_subs_epu8(slots, marks), _mm256_setzero_si256());
  const Vector starts = _mm256_add_epi8(not_below, splat(0x0101'0101'0101'0101 + kFirst));
  const Vector counted = sum_bytes(_mm256_blendv_epi8(starts, within, large));
  return plus_where(large, counted, shift_down<56>(marks));
}

inline Vector addresses4(const std::uint32_t* addresses) {
  return _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(addresses)));
}
// The first eight bytes of four addresses.
inline Vector heads6(const std::uint8_t* addresses) {
  const auto* const pairs = reinterpret_cast<const Vector*>(addresses);
  return _mm256_permute4x64_epi64(
      _mm256_unpacklo_epi64(_mm256_loadu_si256(pairs), _mm256_loadu_si256(pairs + 1)), 0b11011000);
}

constexpr std::size_t kChunk4 = 128;  // IPv4 addresses a chunk
template <typename Leaf>
inline bool take_together4(const View&, const std::uint32_t*, std::uint32_t*, std::uint32_t) noexcept {
  return false;
}

inline Vector words_at(const void* from, const std::uint64_t* at) { return fetch<std::uint64_t>(from, at); }
template <std::size_t kCount>
inline void roots6_at(const View& view, const std::uint8_t* addresses, std::uint64_t* at) {
  roots6_one_by_one<kCount>(view, addresses, at);
}

#include "fib_vectors.hpp"

#include "fib_entry.hpp"
}  // namespace

const Kernels* kernels_avx2() noexcept { return &kKernels; }
}  // namespace fastpath::fib

#pragma GCC pop_options
#else
namespace fastpath::fib {
const Kernels* kernels_avx2() noexcept { return nullptr; }
}  // namespace fastpath::fib
#endif
