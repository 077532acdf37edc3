// Look-ups in plain C++: a chunk of addresses goes through each step together, so that their loads overlap,
// and no step branches on what it found.

constexpr std::size_t kChunk = 32;

// `a` where `choose`, else `b`, without a branch for the compiler to guess at.
template <typename T>
inline T either(bool choose, T a, T b) noexcept {
  const T mask = static_cast<T>(-static_cast<T>(choose));
  return static_cast<T>((a & mask) | (b & ~mask));
}

template <typename Leaf>
inline void many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  const std::uint32_t none = view.none;
  std::size_t i = 0;
  for (; i + kChunk <= n; i += kChunk) {
    std::uint64_t entry[kChunk];
    std::size_t at[kChunk];
    for (std::size_t k = 0; k < kChunk; ++k) entry[k] = read_entry(view.root4 + (addresses[i + k] >> 16));
    for (std::size_t k = 0; k < kChunk; ++k) {
      const Node node = large_node_at(view, entry_ref(entry[k]));
      const std::uint8_t* const entry_at = node.entry_of(addresses[i + k] >> 8 & 0xFF, sizeof(Leaf));
      at[k] = static_cast<std::size_t>(entry_at - view.arena);
      __builtin_prefetch(view.arena + at[k]);
    }
    std::uint32_t deep = 0;
    for (std::size_t k = 0; k < kChunk; ++k) {
      const std::uint32_t leaf = read<Leaf>(view.arena + at[k]);
      deep |= std::uint32_t{leaf == view.deep} << k;
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

// Where the entry of `slot` stands in a node of either kind; both kinds are reckoned, one is taken.
inline std::size_t place_in(const View& view, std::uint32_t ref, unsigned slot,
                            std::size_t entry_bytes) noexcept {
  const std::uint8_t* const node = view.arena + ref_unit(ref) * kUnit;
  const bool tiny = ref_tiny(ref);
  const unsigned word = slot * 293 >> 14;
  const auto marks = read<std::uint64_t>(node + either<std::size_t>(tiny, 0, 8 * word));
  const std::uint64_t below = marks & ~(~std::uint64_t{1} << ((slot - kWordSlots * word) & 63));
  const std::size_t large = ones(below) + (marks >> 56);
  const std::size_t small = starts_below(marks, slot);
  return ref_unit(ref) * kUnit + either(tiny, 8 + entry_bytes * small, entry_bytes * large);
}

template <typename Leaf>
inline void many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  const std::uint32_t none = view.none;
  std::size_t i = 0;
  for (; i + kChunk <= n; i += kChunk) {
    std::uint64_t top[kChunk];
    std::uint32_t ref[kChunk], answer[kChunk];
    std::size_t at[kChunk];
    for (std::size_t k = 0; k < kChunk; ++k) {
      top[k] = __builtin_bswap64(read<std::uint64_t>(addresses + 16 * (i + k)));
      const std::uint32_t page = __atomic_load_n(view.root6 + (top[k] >> 48), __ATOMIC_ACQUIRE);
      const std::uint64_t entry = read_entry(view.pages + (std::size_t{page} << 8 | (top[k] >> 40 & 0xFF)));
      ref[k] = entry_ref(entry);
      answer[k] = either(entry_leaf(entry) == none, missing, entry_leaf(entry));
    }
    for (unsigned shift = 32; shift >= 24; shift -= 8) {
      for (std::size_t k = 0; k < kChunk; ++k) {
        at[k] = place_in(view, ref[k], top[k] >> shift & 0xFF, 8);
        __builtin_prefetch(view.arena + at[k]);
      }
      for (std::size_t k = 0; k < kChunk; ++k) {
        ref[k] = read_ref(view.arena + at[k]);
        __builtin_prefetch(view.arena + ref_unit(ref[k]) * kUnit);
        const auto leaf = read<std::uint32_t>(view.arena + at[k]);
        answer[k] = either(leaf == none, answer[k], leaf);
      }
    }
    for (std::size_t k = 0; k < kChunk; ++k) {
      at[k] = place_in(view, ref[k], top[k] >> 16 & 0xFF, sizeof(Leaf));
      __builtin_prefetch(view.arena + at[k]);
    }
    std::uint32_t deep = 0;
    for (std::size_t k = 0; k < kChunk; ++k) {
      const std::uint32_t leaf = read<Leaf>(view.arena + at[k]);
      deep |= std::uint32_t{leaf == view.deep} << k;
      out[i + k] = either(leaf == none, answer[k], leaf);
    }
    for (; deep != 0; deep &= deep - 1) {
      const std::size_t k = i + static_cast<std::size_t>(__builtin_ctz(deep));
      loop6<Leaf>(view, addresses + 16 * k, out + k, 1, missing);
    }
  }
  loop6<Leaf>(view, addresses + 16 * i, out + i, n - i, missing);
}
