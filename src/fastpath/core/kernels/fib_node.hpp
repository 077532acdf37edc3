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
  bool tiny;
  const std::uint8_t* entries() const noexcept { return begin + (tiny ? 8 : 8 * kWords); }
  // The entry of a slot, `bytes` wide.
  const std::uint8_t* entry_of(unsigned slot, std::size_t bytes) const noexcept {
    if (tiny) return begin + 8 + bytes * starts_below(read<std::uint64_t>(begin), slot);
    return begin + bytes * marks_up_to(begin, slot);
  }
  std::size_t interval_of(unsigned slot) const noexcept {
    if (tiny) return starts_below(read<std::uint64_t>(begin), slot);
    return marks_up_to(begin, slot) - map_entries(begin);
  }
  std::size_t intervals() const noexcept { return interval_of(255) + 1; }
};

inline Node node_at(const std::uint8_t* arena, std::uint32_t ref) noexcept {
  return {arena + ref_unit(ref) * kUnit, ref_tiny(ref)};
}

inline unsigned code_at(const std::uint8_t* codes, std::size_t interval) noexcept {
  return codes[interval >> 1] >> ((interval & 1) * 4) & 0xF;
}

// The parts of a node behind its entries. A narrow node with children has a map of their slots there and an
// entry for each.
struct Tail {
  std::size_t intervals;
  const std::uint8_t* codes;
  unsigned hidden_count;
  const std::uint8_t* children;  // the map, or nullptr
  const std::uint8_t* hidden;
  const std::uint8_t* end;
};

constexpr std::size_t kHiddenBytes = 6;  // slot, code, value

inline Tail tail_of(Node node, std::size_t entry_bytes) noexcept {
  Tail tail{};
  tail.intervals = node.intervals();
  tail.codes = node.entries() + entry_bytes * tail.intervals;
  const std::uint8_t* const counts = tail.codes + (tail.intervals + 1) / 2;
  tail.hidden_count = counts[0];
  tail.hidden = counts + 2;
  if (counts[1] != 0) {
    const std::size_t at = static_cast<std::size_t>(tail.hidden - node.begin);
    tail.children = node.begin + ((at + 7) & ~std::size_t{7});
    tail.hidden = tail.children + 8 * marks_up_to(tail.children, 255);
  }
  tail.end = tail.hidden + kHiddenBytes * tail.hidden_count;
  return tail;
}

// The entry of a child in a narrow node whose map of children has a mark for `slot`.
inline const std::uint8_t* child_entry(const std::uint8_t* children, unsigned slot) noexcept {
  return children + 8 * (marks_up_to(children, slot) - 1);
}
