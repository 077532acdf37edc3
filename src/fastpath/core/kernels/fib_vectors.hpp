// Look-ups in vectors of 64-bit lanes, an address a lane: a chunk of addresses goes through each step
// together. Arithmetic is done in vectors, loads one by one. Nodes are not prefetched: that costs more than
// it hides once enough loads are under way. Addresses are, since the loads between them keep the hardware
// from doing it.
//
// Included by the kernel files with vectors behind what they define: vectors, how words and the entries of
// IPv6 roots are read (words_at(), roots6_at()), and take_together4() for chunks that need not be taken
// apart. Places are counted from the arena's begin: a node's in units, an entry's in entries.

// Vectors that take a step together: enough to hide the caches' latency, few enough to stay in the first one.
constexpr std::size_t kChunk6 = 64;
constexpr std::size_t kGroups4 = kChunk4 / kLanes;
constexpr std::size_t kGroups6 = kChunk6 / kLanes;

// Leaves in the lower halves; above, anything.
template <typename Leaf>
inline Vector leaves_of(Vector read) {
  return sizeof(Leaf) == 4 ? read : both(read, splat(0xFFFF));
}

inline Vector unit_of(Vector entry) { return shift_down<32 + kKindBits>(entry); }

// The word of a large node's map that holds a slot: slot / kWordSlots.
inline Vector word_of(Vector slot) { return high_products(slot, splat_word(65536 / kWordSlots + 1)); }

// Where the word stands that tells the interval of a slot in the node that `entry` refers to.
inline Vector marks_at(Vector entry, Vector word) {
  const Vector unit = unit_of(entry);
  return plus_where(is_large(entry), unit, word);
}

// Where a node begins, counted in entries.
template <typename Entry>
inline Vector begin_of(Vector entry) {
  constexpr int kShift = sizeof(Entry) == 8 ? 0 : sizeof(Entry) == 4 ? 1 : 2;
  return shift_up<kShift>(unit_of(entry));
}

// What reads leaves: where they stand is stored for fetch(), and how far they are from the byte's begin.
template <typename Leaf>
class Leaves {
 public:
  explicit Leaves(const View& view)
      : bits_(splat(view.leaf_bits)), mask_(splat((std::uint64_t{1} << view.leaf_bits) - 1)) {}
  // `count` leaves behind the begin of the node, or, where they are packed, behind the `head` bits of its
  // map.
  void place(std::uint64_t* at, Vector& shift, Vector entry, Vector head, Vector count) const {
    if constexpr (kIsPacked<Leaf>) {
      const Vector bit = plus(plus(shift_up<6>(unit_of(entry)), head), low_products(count, bits_));
      shift = both(bit, splat(7));
      store(at, shift_down<3>(bit));
    } else {
      store(at, plus(begin_of<Leaf>(entry), count));
    }
  }
  Vector read(const View& view, const std::uint64_t* at, Vector shift) const {
    const Vector found = fetch<Leaf>(view.arena, at);
    if constexpr (kIsPacked<Leaf>) return both(shift_down_by(found, shift), mask_);
    return leaves_of<Leaf>(found);
  }

 private:
  Vector bits_;
  Vector mask_;
};

// A bit for each lane with a leaf that stands for a child, as lanes_equal() has it.
inline std::uint32_t lanes_deep(Vector leaf, Vector last_deep) {
  return lanes_equal(either(leaf, splat(kDeepLeaves - 1)), last_deep);
}

// The count of a slot's leaf among packed ones, whose node may be mini too, and the bits before the first.
inline Vector count_packed(Vector entry, Vector slots, Vector rest, Vector marks, Vector& map_bits) {
  const Choice large = is_large(entry);
  const Choice mini = is_mini(entry);
  map_bits = choose(large, splat(64 * kWords), choose(mini, splat(32), splat(64)));
  const Vector starts = either(marks, choose(mini, splat(~std::uint64_t{0} << 32), splat(0)));
  return count<0>(large, starts, rest, slots);
}

// IPv4 nodes are all large, but for those with packed leaves.
template <typename Leaf>
inline void many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  const Vector none = splat_half(view.none), last_deep = splat_half(view.deep + kDeepLeaves - 1);
  const Leaves<Leaf> leaves(view);
  std::size_t i = 0;
  for (; i + kChunk4 <= n; i += kChunk4) {
    if (take_together4<Leaf>(view, addresses + i, out + i, missing)) continue;
    Vector slot[kGroups4], entry[kGroups4], shift[kGroups4];
    alignas(8 * kLanes) std::uint64_t at[kChunk4];
    for (std::size_t g = 0; g < kGroups4; ++g) {
      const std::uint32_t* const first = addresses + i + kLanes * g;
      if (g % (16 / kLanes) == 0) {
        ask_ahead(first);
        ask_ahead_to_write(out + i + kLanes * g);
      }
      const Vector address = addresses4(first);
      slot[g] = both(shift_down<8>(address), splat(0xFF));
      store(at + kLanes * g, shift_down<16>(address));
    }
    for (std::size_t g = 0; g < kGroups4; ++g) {
      entry[g] = words_at(view.root4, at + kLanes * g);
      const Vector word = word_of(slot[g]);
      store(at + kLanes * g, kIsPacked<Leaf> ? marks_at(entry[g], word) : plus(unit_of(entry[g]), word));
    }
    for (std::size_t g = 0; g < kGroups4; ++g) {
      const Vector marks = words_at(view.arena, at + kLanes * g);
      const Vector spot =
          minus_words(plus(low_products(word_of(slot[g]), splat_word(kWordSlots)), splat(63)), slot[g]);
      Vector map_bits = splat(0);
      Vector counted;
      if constexpr (kIsPacked<Leaf>) {
        counted = count_packed(entry[g], bytes_of(slot[g], byte_pattern(0)), spot, marks, map_bits);
      } else {
        counted = count_large(marks, spot);
      }
      leaves.place(at + kLanes * g, shift[g], entry[g], map_bits, counted);
    }
    std::uint32_t deep[kGroups4];
    std::uint32_t any_deep = 0;
    for (std::size_t g = 0; g < kGroups4; ++g) {
      const Vector leaf = leaves.read(view, at + kLanes * g, shift[g]);
      deep[g] = lanes_deep(leaf, last_deep);
      any_deep |= deep[g];
      store_answers(out + i + kLanes * g, better(leaf, none, better(entry[g], none, splat(missing))));
    }
    if (any_deep == 0) continue;
    for (std::size_t g = 0; g < kGroups4; ++g) {
      for (; deep[g] != 0; deep[g] &= deep[g] - 1) {
        const std::size_t k = i + kLanes * g + static_cast<std::size_t>(__builtin_ctz(deep[g]) / 2);
        loop4<Leaf>(view, addresses + k, out + k, 1, missing);
      }
    }
  }
  loop4<Leaf>(view, addresses + i, out + i, n - i, missing);
}

// Bytes 3 to 5 of an address are the slots of its three nodes. What a node's map is asked for is reckoned for
// the three of them at once, in 16 bits each: the word's number above, and below how far the word is shifted
// up for its marks behind the slot to drop out, and the count above them.
constexpr std::uint64_t kSlotsApart = 0x8080'8005'8004'8003;
inline Vector spots_of(Vector head) {
  const Vector slots = bytes_of(head, byte_pattern(kSlotsApart));
  const Vector by_word = low_products(word_of(slots), splat_word(256 + kWordSlots));
  return minus_words(plus_words(by_word, splat_word(63)), slots);
}
template <int kNode>
inline Vector word_at(Vector spots) {
  return bytes_of(spots, byte_pattern(0x8080'8080'8080'8001 + 2 * kNode));
}

template <int kNode>
inline Vector slots_of(Vector head) {
  return bytes_of(head, byte_pattern((3 + kNode) * 0x0101'0101'0101'0101));
}
template <int kNode>
inline Vector rest_of(Vector spots) {
  return bytes_of(spots, byte_pattern(0x8080'8080'8080'8000 + 2 * kNode));
}

template <typename Leaf>
inline void many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  const Vector none = splat_half(view.none), last_deep = splat_half(view.deep + kDeepLeaves - 1);
  const Leaves<Leaf> leaves(view);
  const std::uint8_t* const arena = view.arena;
  const Vector deep = splat(view.deep);
  std::size_t i = 0;
  for (; i + kChunk6 <= n; i += kChunk6) {
    Vector head[kGroups6], spots[kGroups6], entry[kGroups6], answer[kGroups6], shift[kGroups6];
    alignas(8 * kLanes) std::uint64_t at[kChunk6];
    roots6_at<kChunk6>(view, addresses + 16 * i, at);
    Vector any = splat(0);
    for (std::size_t g = 0; g < kGroups6; ++g) {
      if (g % (16 / kLanes) == 0) ask_ahead_to_write(out + i + kLanes * g);
      head[g] = heads6(addresses + 16 * (i + kLanes * g));
      spots[g] = spots_of(head[g]);
      entry[g] = load(at + kLanes * g);
      answer[g] = better(entry[g], none, splat(missing));
      store(at + kLanes * g, marks_at(entry[g], word_at<0>(spots[g])));
      any = either(any, entry[g]);
    }
    if (!any_above(any)) {
      for (std::size_t g = 0; g < kGroups6; ++g) store_answers(out + i + kLanes * g, answer[g]);
      continue;
    }
    const auto place_leaves = [&]<int kNode>() {
      for (std::size_t g = 0; g < kGroups6; ++g) {
        const Vector marks = words_at(arena, at + kLanes * g);
        Vector map_bits = splat(0);
        Vector counted;
        if constexpr (kIsPacked<Leaf>) {
          counted =
              count_packed(entry[g], slots_of<kNode>(head[g]), rest_of<kNode>(spots[g]), marks, map_bits);
        } else {
          counted = count<8 / sizeof(Leaf)>(is_large(entry[g]), marks, rest_of<kNode>(spots[g]),
                                            slots_of<kNode>(head[g]));
        }
        leaves.place(at + kLanes * g, shift[g], entry[g], map_bits, counted);
      }
    };
    const auto step = [&]<int kNode>() {
      if constexpr (kIsPacked<Leaf>) {
        // Where leaves stand for children, the entries of these; elsewhere one without a child.
        Vector leaf[kGroups6];
        place_leaves.template operator()<kNode>();
        for (std::size_t g = 0; g < kGroups6; ++g) {
          leaf[g] = leaves.read(view, at + kLanes * g, shift[g]);
          const Vector child = plus(minus(unit_of(entry[g]), leaf[g]), splat(view.deep - 1));
          store(at + kLanes * g, choose(at_least(leaf[g], deep), child, splat(kNoEntry / kUnit)));
        }
        for (std::size_t g = 0; g < kGroups6; ++g) {
          const Vector below = words_at(arena, at + kLanes * g);
          entry[g] = choose(at_least(leaf[g], deep), below, leaf[g]);
          answer[g] = better(entry[g], none, answer[g]);
          store(at + kLanes * g, marks_at(entry[g], word_at<kNode + 1>(spots[g])));
        }
        return;
      }
      for (std::size_t g = 0; g < kGroups6; ++g) {
        const Vector marks = words_at(arena, at + kLanes * g);
        const Vector counted =
            count<1>(is_large(entry[g]), marks, rest_of<kNode>(spots[g]), slots_of<kNode>(head[g]));
        store(at + kLanes * g, plus(begin_of<std::uint64_t>(entry[g]), counted));
      }
      for (std::size_t g = 0; g < kGroups6; ++g) {
        entry[g] = words_at(arena, at + kLanes * g);
        answer[g] = better(entry[g], none, answer[g]);
        store(at + kLanes * g, marks_at(entry[g], word_at<kNode + 1>(spots[g])));
      }
    };
    step.template operator()<0>();
    step.template operator()<1>();
    place_leaves.template operator()<2>();
    std::uint32_t below[kGroups6];
    std::uint32_t any_deep = 0;
    for (std::size_t g = 0; g < kGroups6; ++g) {
      const Vector leaf = leaves.read(view, at + kLanes * g, shift[g]);
      below[g] = lanes_deep(leaf, last_deep);
      any_deep |= below[g];
      store_answers(out + i + kLanes * g, better(leaf, none, answer[g]));
    }
    if (any_deep == 0) continue;
    for (std::size_t g = 0; g < kGroups6; ++g) {
      for (; below[g] != 0; below[g] &= below[g] - 1) {
        const std::size_t k = i + kLanes * g + static_cast<std::size_t>(__builtin_ctz(below[g]) / 2);
        loop6<Leaf>(view, addresses + 16 * k, out + k, 1, missing);
      }
    }
  }
  loop6<Leaf>(view, addresses + 16 * i, out + i, n - i, missing);
}
