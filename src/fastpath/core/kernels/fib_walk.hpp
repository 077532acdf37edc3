// One longest-prefix match, and plain loops over many. Included by each kernel file inside its own anonymous
// namespace and target region, after its system headers: every copy is compiled for its own instruction set.

template <typename T>
inline T read(const std::uint8_t* p) noexcept {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// References are published while readers run; entries are 4-byte aligned at least.
inline std::uint32_t read_ref(const std::uint8_t* p) noexcept {
  return __atomic_load_n(reinterpret_cast<const std::uint32_t*>(p), __ATOMIC_ACQUIRE);
}
inline std::uint64_t read_entry(const std::uint64_t* p) noexcept {
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

inline const std::uint8_t* node_at(const View& view, std::uint32_t ref) noexcept {
  return view.arena + std::size_t{ref} * kUnit;
}

// Index of the interval that holds `slot`.
inline std::size_t rank_of(const std::uint8_t* map, unsigned slot) noexcept {
  const unsigned word = slot >> 6;
  const std::uint64_t below = read<std::uint64_t>(map + word * 8) << (63 - (slot & 63));
  return static_cast<std::size_t>(__builtin_popcountll(below)) + map[kRank + word] - 1;
}
inline std::size_t intervals_of(const std::uint8_t* map) noexcept { return rank_of(map, 255) + 1; }

template <typename Leaf>
inline const std::uint8_t* codes_of_narrow(const std::uint8_t* node, std::size_t intervals) noexcept {
  return node + kNarrowLeaves + sizeof(Leaf) * intervals;
}
inline const std::uint8_t* codes_of_wide(const std::uint8_t* node, std::size_t intervals) noexcept {
  return node + kWideEntries + 8 * intervals;
}
inline unsigned code_at(const std::uint8_t* codes, std::size_t interval) noexcept {
  return codes[interval >> 1] >> ((interval & 1) * 4) & 0xF;
}

// The entry of a slot whose leaf is `deep`.
template <typename Leaf>
inline const std::uint8_t* deep_entry(const std::uint8_t* node, unsigned slot) noexcept {
  const std::size_t intervals = intervals_of(node);
  const std::size_t codes = kNarrowLeaves + sizeof(Leaf) * intervals;
  const std::uint8_t* const table = node + ((codes + (intervals + 1) / 2 + 2 + 7) & ~std::size_t{7});
  return table + kWideEntries + 8 * rank_of(table, slot);
}

// Walks narrow nodes from `ref`, whose slots are *bytes, keeping the last answer.
template <typename Leaf>
inline std::uint32_t walk_narrow(const View& view, std::uint32_t ref, const std::uint8_t* bytes,
                                 std::uint32_t answer) noexcept {
  for (;;) {
    const std::uint8_t* const node = node_at(view, ref);
    const unsigned slot = *bytes++;
    std::uint32_t leaf = read<Leaf>(node + kNarrowLeaves + sizeof(Leaf) * rank_of(node, slot));
    if (leaf != view.deep) return leaf == view.none ? answer : leaf;
    const std::uint8_t* const entry = deep_entry<Leaf>(node, slot);
    leaf = read<std::uint32_t>(entry + 4);
    if (leaf != view.none) answer = leaf;
    ref = read_ref(entry);
  }
}

template <typename Leaf>
inline std::uint32_t find4(const View& view, std::uint32_t address) noexcept {
  const std::uint64_t entry = read_entry(view.root4 + (address >> 16));
  const std::uint8_t* const node = node_at(view, entry_ref(entry));
  const unsigned slot = address >> 8 & 0xFF;
  const std::uint32_t leaf = read<Leaf>(node + kNarrowLeaves + sizeof(Leaf) * rank_of(node, slot));
  if (__builtin_expect(leaf == view.deep, 0)) {
    const std::uint8_t bytes[2] = {static_cast<std::uint8_t>(slot), static_cast<std::uint8_t>(address)};
    return walk_narrow<Leaf>(view, entry_ref(entry), bytes, entry_leaf(entry));
  }
  return leaf == view.none ? entry_leaf(entry) : leaf;
}

inline std::uint64_t wide_entry(const std::uint8_t* node, unsigned slot) noexcept {
  const std::uint8_t* const entry = node + kWideEntries + 8 * rank_of(node, slot);
  return make_entry(read_ref(entry), read<std::uint32_t>(entry + 4));
}

template <typename Leaf>
inline std::uint32_t find6(const View& view, const std::uint8_t* address) noexcept {
  const std::uint64_t top = __builtin_bswap64(read<std::uint64_t>(address));
  const std::uint32_t page = __atomic_load_n(view.root6 + (top >> 48), __ATOMIC_ACQUIRE);
  const std::uint64_t entry = read_entry(view.pages + (std::size_t{page} << 8 | (top >> 40 & 0xFF)));
  std::uint32_t answer = entry_leaf(entry);
  const std::uint64_t entry24 = wide_entry(node_at(view, entry_ref(entry)), top >> 32 & 0xFF);
  answer = entry_leaf(entry24) == view.none ? answer : entry_leaf(entry24);
  const std::uint64_t entry32 = wide_entry(node_at(view, entry_ref(entry24)), top >> 24 & 0xFF);
  answer = entry_leaf(entry32) == view.none ? answer : entry_leaf(entry32);
  const std::uint8_t* const node = node_at(view, entry_ref(entry32));
  const std::uint32_t leaf =
      read<Leaf>(node + kNarrowLeaves + sizeof(Leaf) * rank_of(node, top >> 16 & 0xFF));
  if (__builtin_expect(leaf == view.deep, 0))
    return walk_narrow<Leaf>(view, entry_ref(entry32), address + 5, answer);
  return leaf == view.none ? answer : leaf;
}

// As walk_narrow, with the length; `level` is the number of bits above the node.
template <typename Leaf>
inline Match trace_narrow(const View& view, std::uint32_t ref, const std::uint8_t* bytes, unsigned level,
                          Match match) noexcept {
  for (;;) {
    const std::uint8_t* const node = node_at(view, ref);
    const unsigned slot = *bytes++;
    const std::size_t interval = rank_of(node, slot);
    const unsigned code = code_at(codes_of_narrow<Leaf>(node, intervals_of(node)), interval);
    std::uint32_t leaf = read<Leaf>(node + kNarrowLeaves + sizeof(Leaf) * interval);
    const bool last = leaf != view.deep;
    const std::uint8_t* entry = nullptr;
    if (!last) {
      entry = deep_entry<Leaf>(node, slot);
      leaf = read<std::uint32_t>(entry + 4);
    }
    // The node of "no answer" has no codes.
    if (leaf != view.none) match = {leaf, static_cast<std::uint8_t>(level + code)};
    if (last) return match;
    ref = read_ref(entry);
    level += 8;
  }
}

template <typename Leaf>
inline Match trace4(const View& view, std::uint32_t address) noexcept {
  const std::size_t top = address >> 16;
  const std::uint64_t entry = read_entry(view.root4 + top);
  const std::uint8_t bytes[2] = {static_cast<std::uint8_t>(address >> 8), static_cast<std::uint8_t>(address)};
  return trace_narrow<Leaf>(view, entry_ref(entry), bytes, 16, {entry_leaf(entry), view.root4_length[top]});
}

template <typename Leaf>
inline Match trace6(const View& view, const std::uint8_t* address) noexcept {
  const std::uint32_t page =
      __atomic_load_n(view.root6 + (std::size_t{address[0]} << 8 | address[1]), __ATOMIC_ACQUIRE);
  const std::size_t at = std::size_t{page} << 8 | address[2];
  std::uint64_t entry = read_entry(view.pages + at);
  Match match{entry_leaf(entry), view.page_length[at]};
  for (unsigned level = 24; level < 40; level += 8) {
    const std::uint8_t* const node = node_at(view, entry_ref(entry));
    const std::size_t interval = rank_of(node, address[level / 8]);
    const unsigned code = code_at(codes_of_wide(node, intervals_of(node)), interval);
    entry = wide_entry(node, address[level / 8]);
    if (entry_leaf(entry) != view.none) match = {entry_leaf(entry), static_cast<std::uint8_t>(level + code)};
  }
  return trace_narrow<Leaf>(view, entry_ref(entry), address + 5, 40, match);
}

template <typename Leaf>
inline void loop4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t leaf = find4<Leaf>(view, addresses[i]);
    out[i] = leaf == view.none ? missing : leaf;
  }
}

template <typename Leaf>
inline void loop6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t leaf = find6<Leaf>(view, addresses + 16 * i);
    out[i] = leaf == view.none ? missing : leaf;
  }
}

template <typename Leaf>
inline void trace_loop4(const View& view, const std::uint32_t* addresses, std::uint32_t* out,
                        std::uint8_t* lengths, std::size_t n, std::uint32_t missing) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const Match match = trace4<Leaf>(view, addresses[i]);
    const bool found = match.leaf != view.none;
    out[i] = found ? match.leaf : missing;
    lengths[i] = found ? match.length : 0;
  }
}

template <typename Leaf>
inline void trace_loop6(const View& view, const std::uint8_t* addresses, std::uint32_t* out,
                        std::uint8_t* lengths, std::size_t n, std::uint32_t missing) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const Match match = trace6<Leaf>(view, addresses + 16 * i);
    const bool found = match.leaf != view.none;
    out[i] = found ? match.leaf : missing;
    lengths[i] = found ? match.length : 0;
  }
}

// Each entry point chooses the leaf's width once a call.
std::uint32_t lookup4(const View& view, std::uint32_t address) {
  return view.short_leaves ? find4<std::uint16_t>(view, address) : find4<std::uint32_t>(view, address);
}
std::uint32_t lookup6(const View& view, const std::uint8_t* address) {
  return view.short_leaves ? find6<std::uint16_t>(view, address) : find6<std::uint32_t>(view, address);
}
Match match4(const View& view, std::uint32_t address) {
  return view.short_leaves ? trace4<std::uint16_t>(view, address) : trace4<std::uint32_t>(view, address);
}
Match match6(const View& view, const std::uint8_t* address) {
  return view.short_leaves ? trace6<std::uint16_t>(view, address) : trace6<std::uint32_t>(view, address);
}
void lookup_many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) {
  const View local = view;
  if (local.short_leaves) {
    loop4<std::uint16_t>(local, addresses, out, n, missing);
  } else {
    loop4<std::uint32_t>(local, addresses, out, n, missing);
  }
}
void lookup_many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) {
  const View local = view;
  if (local.short_leaves) {
    loop6<std::uint16_t>(local, addresses, out, n, missing);
  } else {
    loop6<std::uint32_t>(local, addresses, out, n, missing);
  }
}
void match_many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::uint8_t* lengths,
                 std::size_t n, std::uint32_t missing) {
  if (view.short_leaves) {
    trace_loop4<std::uint16_t>(view, addresses, out, lengths, n, missing);
  } else {
    trace_loop4<std::uint32_t>(view, addresses, out, lengths, n, missing);
  }
}
void match_many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::uint8_t* lengths,
                 std::size_t n, std::uint32_t missing) {
  if (view.short_leaves) {
    trace_loop6<std::uint16_t>(view, addresses, out, lengths, n, missing);
  } else {
    trace_loop6<std::uint32_t>(view, addresses, out, lengths, n, missing);
  }
}

constexpr Kernels kKernels = {lookup4,      lookup6,      match4,      match6,
                              lookup_many4, lookup_many6, match_many4, match_many6};
