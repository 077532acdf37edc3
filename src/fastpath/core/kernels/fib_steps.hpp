// Look-ups in plain C++: a chunk of addresses goes through each step together, so that their loads overlap,
// and no step branches on what it found.

constexpr std::size_t kChunk = 32;

// `a` where `choose`, else `b`, without a branch for the compiler to guess at.
template <typename T>
inline T either(bool choose, T a, T b) noexcept {
  const T mask = static_cast<T>(-static_cast<T>(choose));
  return static_cast<T>((a & mask) | (b & ~mask));
}

// A place of a leaf: where it is read, and how many bits of others come before it there.
struct Place {
  std::size_t at;
  unsigned shift;
};
template <typename Leaf>
inline Place place_of(const View& view, std::size_t map, std::size_t head, std::size_t count) noexcept {
  if constexpr (!kIsPacked<Leaf>) return {map + head + sizeof(Leaf) * count, 0};
  const std::size_t bit = view.leaf_bits * count;
  return {map + head + bit / 8, static_cast<unsigned>(bit % 8)};
}
template <typename Leaf>
inline std::uint32_t leaf_at(const View& view, Place place) noexcept {
  const std::uint8_t* const from = view.arena + place.at;
  if constexpr (!kIsPacked<Leaf>) return read_leaf<Leaf>(from);
  return static_cast<std::uint32_t>(read_packed(from) >> place.shift) & ((1u << view.leaf_bits) - 1);
}

// Where the entry of `slot` stands in a node of any kind; all kinds are reckoned, one is taken.
template <typename Leaf>
inline Place place_in(const View& view, std::uint32_t ref, unsigned slot) noexcept {
  const std::size_t map = ref_unit(ref) * kUnit;
  const bool tiny = (ref & kTiny) != 0;
  const bool mini = kIsPacked<Leaf> && (ref & kMini) != 0;
  const unsigned word = slot * 293 >> 14;
  const auto marks = read<std::uint64_t>(view.arena + map + either<std::size_t>(tiny, 0, 8 * word));
  const std::uint64_t below = marks & ~(~std::uint64_t{1} << ((slot - kWordSlots * word) & 63));
  const std::size_t large = ones(below) + (marks >> 56);
  const std::size_t small =
      starts_below(marks | either<std::uint64_t>(mini, ~std::uint64_t{0} << 32, 0), slot);
  const std::size_t head = either<std::size_t>(mini, 4, 8);
  return place_of<Leaf>(view, map, either<std::size_t>(tiny, head, kIsPacked<Leaf> ? 8 * kWords : 0),
                        either(tiny, small, large));
}

template <typename Leaf>
inline void many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  const std::uint32_t none = view.none;
  std::size_t i = 0;
  for (; i + kChunk <= n; i += kChunk) {
    std::uint64_t entry[kChunk];
    Place at[kChunk];
    for (std::size_t k = 0; k < kChunk; ++k) entry[k] = read_entry(view.root4 + (addresses[i + k] >> 16));
    for (std::size_t k = 0; k < kChunk; ++k) {
      const unsigned slot = addresses[i + k] >> 8 & 0xFF;
      if constexpr (kIsPacked<Leaf>) {
        at[k] = place_in<Leaf>(view, entry_ref(entry[k]), slot);
      } else {
        const Node node = large_node_at(view, entry_ref(entry[k]));
        at[k] = {static_cast<std::size_t>(node.entry_of(slot, sizeof(Leaf)) - view.arena), 0};
      }
      __builtin_prefetch(view.arena + at[k].at);
    }
    std::uint32_t deep = 0;
    for (std::size_t k = 0; k < kChunk; ++k) {
      const std::uint32_t leaf = leaf_at<Leaf>(view, at[k]);
      deep |= std::uint32_t{is_deep(leaf, view.deep)} << k;
      const std::uint32_t above = either(entry_leaf(entry[k]) == none, missing, entry_leaf(entry[k]));
      out[i + k] = either(leaf == none, above, leaf);
    }
    for (; deep != 0; deep &= deep - 1) {
      const std::size_t k = i + static_cast<std::size_t>(__builtin_ctz(deep));
      loop4<Leaf>(view, addresses + k, out + k, 1, missing);
    }
  }
  loop4<Leaf>(view, addresses + i, out + i, n - i, missing);
}

template <typename Leaf>
inline void many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  const std::uint32_t none = view.none;
  std::size_t i = 0;
  for (; i + kChunk <= n; i += kChunk) {
    std::uint64_t top[kChunk];
    std::uint32_t ref[kChunk], answer[kChunk];
    Place at[kChunk];
    for (std::size_t k = 0; k < kChunk; ++k) {
      top[k] = __builtin_bswap64(read<std::uint64_t>(addresses + 16 * (i + k)));
      const std::uint32_t page = __atomic_load_n(view.root6 + (top[k] >> 48), __ATOMIC_ACQUIRE);
      const std::uint64_t entry = read_entry(view.pages + (std::size_t{page} << 8 | (top[k] >> 40 & 0xFF)));
      ref[k] = entry_ref(entry);
      answer[k] = either(entry_leaf(entry) == none, missing, entry_leaf(entry));
    }
    for (unsigned shift = 32; shift >= 24; shift -= 8) {
      using Entry = std::conditional_t<kIsPacked<Leaf>, Packed, std::uint64_t>;
      for (std::size_t k = 0; k < kChunk; ++k) {
        at[k] = place_in<Entry>(view, ref[k], top[k] >> shift & 0xFF);
        __builtin_prefetch(view.arena + at[k].at);
      }
      for (std::size_t k = 0; k < kChunk; ++k) {
        if constexpr (kIsPacked<Leaf>) {
          const std::uint32_t leaf = leaf_at<Leaf>(view, at[k]);
          const bool deep = is_deep(leaf, view.deep);
          const std::size_t child = (ref_unit(ref[k]) - (leaf - view.deep) - 1) * kUnit;
          const std::size_t entry = either(deep, child, kNoEntry);
          ref[k] = read_ref(view.arena + entry);
          const std::uint32_t found = either(deep, read_leaf<std::uint32_t>(view.arena + entry), leaf);
          answer[k] = either(found == none, answer[k], found);
        } else {
          ref[k] = read_ref(view.arena + at[k].at);
          const std::uint32_t leaf = read_leaf<std::uint32_t>(view.arena + at[k].at);
          answer[k] = either(leaf == none, answer[k], leaf);
        }
        __builtin_prefetch(view.arena + ref_unit(ref[k]) * kUnit);
      }
    }
    for (std::size_t k = 0; k < kChunk; ++k) {
      at[k] = place_in<Leaf>(view, ref[k], top[k] >> 16 & 0xFF);
      __builtin_prefetch(view.arena + at[k].at);
    }
    std::uint32_t deep = 0;
    for (std::size_t k = 0; k < kChunk; ++k) {
      const std::uint32_t leaf = leaf_at<Leaf>(view, at[k]);
      deep |= std::uint32_t{is_deep(leaf, view.deep)} << k;
      out[i + k] = either(leaf == none, answer[k], leaf);
    }
    for (; deep != 0; deep &= deep - 1) {
      const std::size_t k = i + static_cast<std::size_t>(__builtin_ctz(deep));
      loop6<Leaf>(view, addresses + 16 * k, out + k, 1, missing);
    }
  }
  loop6<Leaf>(view, addresses + 16 * i, out + i, n - i, missing);
}
