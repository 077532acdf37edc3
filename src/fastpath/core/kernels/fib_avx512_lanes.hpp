// What AVX-512 has for look-ups in vectors, however it loads. Included behind fib_lanes.hpp.

using Vector = __m512i;
using Choice = __mmask8;           // of lanes
constexpr std::size_t kLanes = 8;  // addresses a vector

inline Vector splat(std::uint64_t value) { return _mm512_set1_epi64(static_cast<long long>(value)); }
inline Vector splat_half(std::uint32_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }
inline Vector splat_word(unsigned value) { return _mm512_set1_epi16(static_cast<short>(value)); }
inline Vector load(const std::uint64_t* from) { return _mm512_load_si512(from); }
inline void store(std::uint64_t* to, Vector value) { _mm512_store_si512(to, value); }
inline Vector both(Vector a, Vector b) { return _mm512_and_si512(a, b); }
inline Vector either(Vector a, Vector b) { return _mm512_or_si512(a, b); }
inline Vector plus(Vector a, Vector b) { return _mm512_add_epi64(a, b); }
inline Vector minus(Vector a, Vector b) { return _mm512_sub_epi64(a, b); }
inline Vector choose(Choice lanes, Vector a, Vector b) { return _mm512_mask_mov_epi64(b, lanes, a); }
inline Choice at_least(Vector a, Vector b) { return _mm512_cmpge_epu64_mask(a, b); }
inline Vector shift_down_by(Vector value, Vector bits) { return _mm512_srlv_epi64(value, bits); }
inline Vector plus_where(Choice lanes, Vector a, Vector b) { return _mm512_mask_add_epi64(a, lanes, a, b); }
template <int kBits>
inline Vector shift_down(Vector value) {
  return _mm512_srli_epi64(value, kBits);
}
template <int kBits>
inline Vector shift_up(Vector value) {
  return _mm512_slli_epi64(value, kBits);
}
// In words of 16 bits.
inline Vector plus_words(Vector a, Vector b) { return _mm512_add_epi16(a, b); }
inline Vector minus_words(Vector a, Vector b) { return _mm512_sub_epi16(a, b); }
inline Vector low_products(Vector a, Vector b) { return _mm512_mullo_epi16(a, b); }
inline Vector high_products(Vector a, Vector b) { return _mm512_mulhi_epu16(a, b); }
// Bytes of each lane, by their numbers in it; zero where the number is 0x80.
inline Vector bytes_of(Vector value, BytePattern pattern) {
  return _mm512_shuffle_epi8(value, _mm512_set_epi64(pattern.odd, pattern.even, pattern.odd, pattern.even,
                                                     pattern.odd, pattern.even, pattern.odd, pattern.even));
}
// Where the entry refers to a large node.
inline Choice is_large(Vector entry) {
  return _mm512_testn_epi64_mask(entry, splat(std::uint64_t{kTiny} << 32));
}
inline Choice is_mini(Vector entry) {
  return _mm512_test_epi64_mask(entry, splat(std::uint64_t{kMini} << 32));
}
// Whether any lane has a bit in its upper half.
inline bool any_above(Vector value) {
  return _mm512_test_epi64_mask(value, splat(~std::uint64_t{0xFFFFFFFF})) != 0;
}
// A bit for each lane whose lower halves are the same: the lower one of the lane's two.
inline std::uint32_t lanes_equal(Vector a, Vector b) { return _mm512_mask_cmpeq_epi32_mask(0x5555, a, b); }
// Entries where their lower halves are answers, `otherwise` where not; the upper halves may be of either.
inline Vector better(Vector entry, Vector none, Vector otherwise) {
  Vector found = _mm512_mask_mov_epi32(otherwise, _mm512_cmpneq_epi32_mask(entry, none), entry);
  return found;
}
inline void store_answers(std::uint32_t* out, Vector answers) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi64_epi32(answers));
}

// What stands at places that a step left for the next one. A step goes over all vectors in between: a lane
// that is loaded right after its vector was stored waits.
template <typename T>
inline Vector fetch(const void* from, const std::uint64_t* at) {
  const auto* const base = static_cast<const std::uint8_t*>(from);
  return _mm512_set_epi64(read_at<T>(base, at[7]), read_at<T>(base, at[6]), read_at<T>(base, at[5]),
                          read_at<T>(base, at[4]), read_at<T>(base, at[3]), read_at<T>(base, at[2]),
                          read_at<T>(base, at[1]), read_at<T>(base, at[0]));
}

// A large node's marks up to and including the slot's, and the count that the word has above them.
inline Vector count_large(Vector marks, Vector rest) {
  return plus(_mm512_popcnt_epi64(_mm512_sllv_epi64(marks, rest)), shift_down<56>(marks));
}
// The same in lanes of large nodes; in those of tiny ones `kFirst`, and one more for each start below the
// slot.
template <unsigned kFirst>
inline Vector count(Choice large, Vector marks, Vector rest, Vector slots) {
  constexpr std::uint64_t kBits = (1u << kFirst) - 1;
  const Vector starts = _mm512_mask_blend_epi8(_mm512_cmpgt_epu8_mask(slots, marks), splat(kBits),
                                               splat(0x0101'0101'0101'0100 | (2 * kBits + 1)));
  const Vector counted = _mm512_popcnt_epi64(_mm512_mask_sllv_epi64(starts, large, marks, rest));
  return plus_where(large, counted, shift_down<56>(marks));
}

// The first eight bytes of eight addresses.
inline Vector heads6(const std::uint8_t* addresses) {
  const Vector evens = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
  return _mm512_permutex2var_epi64(_mm512_loadu_si512(addresses), evens, _mm512_loadu_si512(addresses + 64));
}

inline Vector addresses4(const std::uint32_t* addresses) {
  return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(addresses)));
}

constexpr std::size_t kChunk4 = 128;  // IPv4 addresses a chunk
// Slots that take_together4() can tell apart.
constexpr std::uint32_t kFewSlots = 32;

// Whether a chunk lies within kFewSlots slots of one node, beginning with the first address's, as sorted
// addresses do.
inline bool in_few_slots(const std::uint32_t* addresses) {
  const std::uint32_t first = addresses[0] >> 8;
  const std::uint32_t bound = 256 - (first & 0xFF) < kFewSlots ? 256 - (first & 0xFF) : kFewSlots;
  if ((addresses[kChunk4 - 1] >> 8) - first >= bound) return false;
  const Vector base = _mm512_set1_epi32(static_cast<int>(first));
  Vector most = _mm512_setzero_si512();
  for (std::size_t k = 0; k < kChunk4; k += 2 * kLanes) {
    const Vector slot = _mm512_srli_epi32(_mm512_loadu_si512(addresses + k), 8);
    most = _mm512_max_epu32(most, _mm512_sub_epi32(slot, base));
  }
  return _mm512_cmpge_epu32_mask(most, _mm512_set1_epi32(static_cast<int>(bound))) == 0;
}

// Sixteen leaves from `entries` on; those that are not `wanted` are not read.
template <typename Leaf>
inline Vector leaves_at(const std::uint8_t* entries, std::uint32_t wanted) {
  if constexpr (sizeof(Leaf) == 4) return _mm512_maskz_loadu_epi32(static_cast<__mmask16>(wanted), entries);
  return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(wanted), entries));
}

// A chunk of IPv4 addresses within few slots: their leaves are read once, and chosen from in registers. False
// where they lie apart.
template <typename Leaf>
inline bool take_together4(const View& view, const std::uint32_t* addresses, std::uint32_t* out,
                           std::uint32_t missing) noexcept {
  if constexpr (kIsPacked<Leaf>) return false;
  if (!in_few_slots(addresses)) return false;
  const std::uint32_t first = addresses[0] >> 8;
  const unsigned slot = first & 0xFF;
  const std::uint64_t entry = read_entry(view.root4 + (first >> 8));
  const Node node = large_node_at(view, entry_ref(entry));
  // The marks of the slots behind the first, one bit each.
  const unsigned word = slot * 293 >> 14;
  const unsigned within = slot - kWordSlots * word;
  constexpr std::uint64_t kMarks = (std::uint64_t{1} << kWordSlots) - 1;
  std::uint64_t marks = (read<std::uint64_t>(node.begin + 8 * word) & kMarks) >> within;
  if (word + 1 < kWords) marks |= read<std::uint64_t>(node.begin + 8 * (word + 1)) << (kWordSlots - within);
  const auto later = static_cast<std::uint32_t>(marks >> 1) & (~std::uint32_t{0} >> 1);

  const Vector window = _mm512_set1_epi32(static_cast<int>(later));
  const Vector lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const Vector none_before = _mm512_set1_epi32(-1);
  const std::uint8_t* const entries = node.entry_of(slot, sizeof(Leaf));
  const std::uint64_t wanted = (std::uint64_t{2} << __builtin_popcount(later)) - 1;
  const Vector low = leaves_at<Leaf>(entries, static_cast<std::uint32_t>(wanted));
  const Vector high = leaves_at<Leaf>(entries + 16 * sizeof(Leaf), static_cast<std::uint32_t>(wanted >> 16));
  Vector leaves[2];
  std::uint32_t deep = 0;
  for (unsigned half = 0; half < 2; ++half) {
    const Vector at = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(16 * half)));
    const Vector before = _mm512_andnot_si512(_mm512_sllv_epi32(none_before, at), window);
    const Vector leaf = _mm512_permutex2var_epi32(low, _mm512_popcnt_epi32(before), high);
    const __mmask16 bare = _mm512_cmpeq_epi32_mask(leaf, _mm512_set1_epi32(static_cast<int>(view.none)));
    const std::uint32_t above = entry_leaf(entry) == view.none ? missing : entry_leaf(entry);
    const Vector last = _mm512_or_si512(leaf, _mm512_set1_epi32(kDeepLeaves - 1));
    const Vector last_deep = _mm512_set1_epi32(static_cast<int>(view.deep + kDeepLeaves - 1));
    deep |= std::uint32_t{_mm512_cmpeq_epi32_mask(last, last_deep)} << (16 * half);
    leaves[half] = _mm512_mask_mov_epi32(leaf, bare, _mm512_set1_epi32(static_cast<int>(above)));
  }
  const Vector base = _mm512_set1_epi32(static_cast<int>(first));
  for (std::size_t k = 0; k < kChunk4; k += 2 * kLanes) {
    const Vector slots = _mm512_srli_epi32(_mm512_loadu_si512(addresses + k), 8);
    _mm512_storeu_si512(out + k,
                        _mm512_permutex2var_epi32(leaves[0], _mm512_sub_epi32(slots, base), leaves[1]));
  }
  for (std::size_t k = 0; deep != 0 && k < kChunk4; ++k) {
    if ((deep >> ((addresses[k] >> 8) - first) & 1) != 0)
      loop4<Leaf>(view, addresses + k, out + k, 1, missing);
  }
  return true;
}
