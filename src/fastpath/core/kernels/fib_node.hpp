// Reading one node. Included by whoever reads nodes, inside an anonymous namespace of fastpath::fib and, in
// the kernels, inside a target region: every copy is compiled for its own instruction set.

template <typename T>
inline T read(const std::uint8_t* p) noexcept {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// How many bits are set. Where the platform's baseline has no instruction for it, compilers call a function.
inline std::size_t ones(std::uint64_t word) noexcept {
#if defined(__x86_64__) && !defined(__POPCNT__)
  word -= word >> 1 & 0x5555555555555555ull;
  word = (word & 0x3333333333333333ull) + (word >> 2 & 0x3333333333333333ull);
  return ((word + (word >> 4)) & 0x0F0F0F0F0F0F0F0Full) * 0x0101010101010101ull >> 56;
#else
  return static_cast<std::size_t>(__builtin_popcountll(word));
#endif
}

// How many marks a map of kWords words has up to and including `slot`, and as many more as the entries that
// would fit into the map: the place of the slot's entry, counted in entries from the map's begin.
inline std::size_t marks_up_to(const std::uint8_t* map, unsigned slot) noexcept {
  const unsigned word = slot * 293 >> 14;  // slot / kWordSlots
  const std::uint64_t marks = read<std::uint64_t>(map + 8 * word);
  const std::uint64_t below = marks & ~(~std::uint64_t{1} << (slot - kWordSlots * word));
  return ones(below) + (marks >> 56);
}

// How many of the eight bytes of `starts` are below `slot`.
inline std::size_t starts_below(std::uint64_t starts, unsigned slot) noexcept {
#if defined(__SSE2__)
  const __m128i rest = _mm_subs_epu8(_mm_set1_epi8(static_cast<char>(slot)),
                                     _mm_cvtsi64_si128(static_cast<long long>(starts)));
  const unsigned not_below =
      static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(rest, _mm_setzero_si128()))) & 0xFF;
  return 8 - ones(not_below);
#else
  // Eight comparisons at once: the top bit of each byte of `below` is set where starts < slot.
  constexpr std::uint64_t kTop = 0x8080808080808080ull;
  const std::uint64_t slots = slot * 0x0101010101010101ull;
  const std::uint64_t not_below = (starts | kTop) - (slots & ~kTop);
  const std::uint64_t below = ((~starts & slots) | (~(starts ^ slots) & ~not_below)) & kTop;
  return ones(below);
#endif
}

// How many entries would fit into a map, which its first word tells: no mark comes before that.
inline std::size_t map_entries(const std::uint8_t* map) noexcept { return map[7]; }

// A node as found by its reference.
struct Node {
  const std::uint8_t* begin;
  std::uint32_t kind;
  bool tiny() const noexcept { return (kind & kTiny) != 0; }
  bool plain() const noexcept { return (kind & kPlain) != 0; }
  std::size_t map_bytes() const noexcept { return !tiny() ? 8 * kWords : (kind & kMini) != 0 ? 4 : 8; }
  const std::uint8_t* entries() const noexcept { return begin + map_bytes(); }
  // The starts of a tiny node's intervals but the first, less one; 255 where there are no more.
  std::uint64_t starts() const noexcept {
    return read<std::uint64_t>(begin) | ((kind & kMini) != 0 ? ~std::uint64_t{0} << 32 : 0);
  }
  // The entry of a slot, `bytes` wide.
  const std::uint8_t* entry_of(unsigned slot, std::size_t bytes) const noexcept {
    if (tiny()) return begin + 8 + bytes * starts_below(starts(), slot);
    return begin + bytes * marks_up_to(begin, slot);
  }
  std::size_t interval_of(unsigned slot) const noexcept {
    if (tiny()) return starts_below(starts(), slot);
    return marks_up_to(begin, slot) - map_entries(begin);
  }
  std::size_t intervals() const noexcept { return interval_of(255) + 1; }
};

inline Node node_at(const std::uint8_t* arena, std::uint32_t ref) noexcept {
  return {arena + ref_unit(ref) * kUnit, ref & ((1u << kKindBits) - 1)};
}

// The entry of the child that a leaf stands for.
inline const std::uint8_t* child_entry(const std::uint8_t* begin, std::uint32_t deep,
                                       std::uint32_t leaf) noexcept {
  return begin - 8 * (std::size_t{leaf - deep} + 1);
}
inline bool is_deep(std::uint32_t leaf, std::uint32_t deep) noexcept { return leaf - deep < kDeepLeaves; }

inline unsigned code_at(const std::uint8_t* codes, std::size_t interval) noexcept {
  return codes[interval >> 1] >> ((interval & 1) * 4) & 0xF;
}

// The parts of a node behind its entries. Of one that is not plain: how many hidden prefixes and children it
// has, the codes of its intervals, the hidden prefixes.
struct Tail {
  std::size_t intervals;
  const std::uint8_t* codes;  // nullptr: each is that of its interval's slots, if it has an answer
  std::size_t hidden_count;
  std::size_t child_count;
  const std::uint8_t* hidden;
  const std::uint8_t* end;
};

constexpr std::size_t kCountBytes = 3;  // hidden prefixes in 8 bits; children, up to 256, in 16
constexpr unsigned kNatural = 0x8000;   // in the count of children: no codes

// Slot, then value and code.
constexpr std::size_t hidden_bytes(unsigned leaf_bits) noexcept { return 1 + (leaf_bits + 3 + 7) / 8; }

inline Tail tail_of(Node node, std::size_t entry_bits, unsigned leaf_bits) noexcept {
  Tail tail{};
  tail.intervals = node.intervals();
  const std::uint8_t* const counts = node.entries() + (entry_bits * tail.intervals + 7) / 8;
  tail.hidden = tail.end = counts;
  if (node.plain()) return tail;
  const unsigned children = read<std::uint16_t>(counts + 1);
  tail.hidden_count = counts[0];
  tail.child_count = children & ~kNatural;
  tail.hidden = counts + kCountBytes;
  if ((children & kNatural) == 0) {
    tail.codes = tail.hidden;
    tail.hidden += (tail.intervals + 1) / 2;
  }
  tail.end = tail.hidden + hidden_bytes(leaf_bits) * tail.hidden_count;
  return tail;
}

// The code of a prefix that has just the slots from `start` to before `end`.
inline unsigned natural_code(unsigned start, unsigned end) noexcept {
  return 8 - static_cast<unsigned>(__builtin_ctz(end - start));
}

// The same of the interval that holds a slot.
inline unsigned natural_code_of(Node node, unsigned slot) noexcept {
  unsigned start = 0;
  unsigned end = 256;
  if (node.tiny()) {
    const std::uint64_t starts = node.starts();
    const std::size_t interval = starts_below(starts, slot);
    if (interval != 0) start = (starts >> (8 * (interval - 1)) & 0xFF) + 1;
    if (interval != 8) end = (starts >> (8 * interval) & 0xFF) + 1;
    return natural_code(start, end);
  }
  constexpr std::uint64_t kMarks = (std::uint64_t{1} << kWordSlots) - 1;
  const auto marks = [&](unsigned word) { return read<std::uint64_t>(node.begin + 8 * word) & kMarks; };
  const unsigned word = slot * 293 >> 14;
  const std::uint64_t later = ~std::uint64_t{1} << (slot - kWordSlots * word);
  for (unsigned w = word + 1; w-- > 0;) {
    const std::uint64_t found = w == word ? marks(w) & ~later : marks(w);
    if (found == 0) continue;
    start = kWordSlots * w + 63 - static_cast<unsigned>(__builtin_clzll(found));
    break;
  }
  for (unsigned w = word; w < kWords; ++w) {
    const std::uint64_t found = w == word ? marks(w) & later : marks(w);
    if (found == 0) continue;
    end = kWordSlots * w + static_cast<unsigned>(__builtin_ctzll(found));
    break;
  }
  return natural_code(start, end);
}
