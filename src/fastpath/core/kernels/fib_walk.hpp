// One longest-prefix match, and plain loops over many. Included by each kernel file inside its own anonymous
// namespace and target region, after its system headers: every copy is compiled for its own instruction set.

#include "fib_node.hpp"

// References are published while readers run; entries are 4-byte aligned at least.
inline std::uint32_t read_ref(const std::uint8_t* entry) noexcept {
  return __atomic_load_n(reinterpret_cast<const std::uint32_t*>(entry + kEntryRef), __ATOMIC_ACQUIRE);
}
// As are leaves, whose prefix may get another value.
template <typename Leaf>
inline std::uint32_t read_leaf(const std::uint8_t* entry) noexcept {
  return __atomic_load_n(reinterpret_cast<const Leaf*>(entry), __ATOMIC_RELAXED);
}
inline std::uint64_t read_entry(const std::uint64_t* p) noexcept {
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

// An entry of a root and the length of its answer, which are written one after the other. The count is odd
// while an answer of the stripe changes, and then another one: both were read in between changes, or are read
// again.
inline std::uint8_t settled_length(const std::uint64_t* entries, const std::uint8_t* lengths, std::size_t at,
                                   const std::uint32_t* changes, std::uint64_t& entry) noexcept {
  for (;;) {
    const std::uint32_t before = __atomic_load_n(changes, __ATOMIC_ACQUIRE);
    const std::uint8_t length = __atomic_load_n(lengths + at, __ATOMIC_RELAXED);
    entry = read_entry(entries + at);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (before % 2 == 0 && __atomic_load_n(changes, __ATOMIC_RELAXED) == before) return length;
  }
}

// IPv4 nodes are all large, but for those with packed leaves; this asks no questions.
inline Node large_node_at(const View& view, std::uint32_t ref) noexcept {
  return {view.arena + ref_unit(ref) * kUnit, 0};
}

// Leaves of 9 to 15 bits.
struct Packed {};
template <typename Leaf>
inline constexpr bool kIsPacked = std::is_same_v<Leaf, Packed>;

// Eight bytes from the one on in which a packed leaf begins: the others may be those of a node next to it.
#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"),
               noinline)) inline std::uint64_t read_unseen(const std::uint8_t* p) noexcept {
  std::uint64_t value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}
inline std::uint64_t read_packed(const std::uint8_t* p) noexcept {
  // The checker is to see what is of the leaf, however few bits.
  const volatile std::uint8_t* const leaf = p;
  static_cast<void>(leaf[0] + leaf[1]);
  return read_unseen(p);
}
#else
inline std::uint64_t read_packed(const std::uint8_t* p) noexcept { return read<std::uint64_t>(p); }
#endif

inline std::uint32_t packed_leaf(const View& view, const std::uint8_t* entries,
                                 std::size_t interval) noexcept {
  const std::size_t bit = view.leaf_bits * interval;
  return static_cast<std::uint32_t>(read_packed(entries + bit / 8) >> (bit % 8)) &
         ((1u << view.leaf_bits) - 1);
}

template <typename Leaf>
inline std::uint32_t leaf_of(const View& view, Node node, unsigned slot) noexcept {
  if constexpr (!kIsPacked<Leaf>) return read_leaf<Leaf>(node.entry_of(slot, sizeof(Leaf)));
  return packed_leaf(view, node.entries(),
                     node.tiny() ? starts_below(node.starts(), slot) : marks_up_to(node.begin, slot));
}

// Walks narrow nodes from `ref`, whose slots are *bytes, keeping the last answer.
template <typename Leaf>
inline std::uint32_t walk_narrow(const View& view, std::uint32_t ref, const std::uint8_t* bytes,
                                 std::uint32_t answer) noexcept {
  for (;;) {
    const Node node = node_at(view.arena, ref);
    const unsigned slot = *bytes++;
    std::uint32_t leaf = leaf_of<Leaf>(view, node, slot);
    if (!is_deep(leaf, view.deep)) return leaf == view.none ? answer : leaf;
    const std::uint8_t* const entry = child_entry(node.begin, view.deep, leaf);
    leaf = read_leaf<std::uint32_t>(entry);
    if (leaf != view.none) answer = leaf;
    ref = read_ref(entry);
  }
}

template <typename Leaf>
inline std::uint32_t find4(const View& view, std::uint32_t address) noexcept {
  const std::uint64_t entry = read_entry(view.root4 + (address >> 16));
  const Node node =
      kIsPacked<Leaf> ? node_at(view.arena, entry_ref(entry)) : large_node_at(view, entry_ref(entry));
  const unsigned slot = address >> 8 & 0xFF;
  const std::uint32_t leaf = leaf_of<Leaf>(view, node, slot);
  if (__builtin_expect(is_deep(leaf, view.deep), 0)) {
    const std::uint8_t bytes[2] = {static_cast<std::uint8_t>(slot), static_cast<std::uint8_t>(address)};
    return walk_narrow<Leaf>(view, entry_ref(entry), bytes, entry_leaf(entry));
  }
  return leaf == view.none ? entry_leaf(entry) : leaf;
}

inline std::uint64_t wide_entry(const View& view, std::uint32_t ref, unsigned slot) noexcept {
  const Node node = node_at(view.arena, ref);
  const std::uint8_t* const entry = node.entry_of(slot, 8);
  return make_entry(read_ref(entry), read_leaf<std::uint32_t>(entry));
}

template <typename Leaf>
inline std::uint32_t find6(const View& view, const std::uint8_t* address) noexcept {
  const std::uint64_t top = __builtin_bswap64(read<std::uint64_t>(address));
  const std::uint32_t page = __atomic_load_n(view.root6 + (top >> 48), __ATOMIC_ACQUIRE);
  const std::uint64_t entry = read_entry(view.pages + (std::size_t{page} << 8 | (top >> 40 & 0xFF)));
  std::uint32_t answer = entry_leaf(entry);
  if constexpr (kIsPacked<Leaf>) return walk_narrow<Leaf>(view, entry_ref(entry), address + 3, answer);
  const std::uint64_t entry24 = wide_entry(view, entry_ref(entry), top >> 32 & 0xFF);
  answer = entry_leaf(entry24) == view.none ? answer : entry_leaf(entry24);
  const std::uint64_t entry32 = wide_entry(view, entry_ref(entry24), top >> 24 & 0xFF);
  answer = entry_leaf(entry32) == view.none ? answer : entry_leaf(entry32);
  const Node node = node_at(view.arena, entry_ref(entry32));
  const std::uint32_t leaf = leaf_of<Leaf>(view, node, top >> 16 & 0xFF);
  if (__builtin_expect(is_deep(leaf, view.deep), 0))
    return walk_narrow<Leaf>(view, entry_ref(entry32), address + 5, answer);
  return leaf == view.none ? answer : leaf;
}

// The code of a slot that has an answer, in a narrow node.
inline unsigned code_of(const View& view, Node node, unsigned slot) noexcept {
  const std::uint8_t* codes = nullptr;
  if (!node.plain()) codes = tail_of(node, view.leaf_bits, view.leaf_bits).codes;
  return codes == nullptr ? natural_code_of(node, slot) : code_at(codes, node.interval_of(slot));
}

// As walk_narrow, with the length; `level` is the number of bits above the node.
template <typename Leaf>
inline Match trace_narrow(const View& view, std::uint32_t ref, const std::uint8_t* bytes, unsigned level,
                          Match match) noexcept {
  for (;;) {
    const Node node = node_at(view.arena, ref);
    const unsigned slot = *bytes++;
    const std::uint8_t* entry = nullptr;
    std::uint32_t leaf = leaf_of<Leaf>(view, node, slot);
    const bool last = !is_deep(leaf, view.deep);
    if (!last) {
      entry = child_entry(node.begin, view.deep, leaf);
      leaf = read_leaf<std::uint32_t>(entry);
    }
    if (leaf != view.none) match = {leaf, static_cast<std::uint8_t>(level + code_of(view, node, slot))};
    if (last) return match;
    ref = read_ref(entry);
    level += 8;
  }
}

template <typename Leaf>
inline Match trace4(const View& view, std::uint32_t address) noexcept {
  const std::size_t top = address >> 16;
  std::uint64_t entry = 0;
  const std::uint8_t length =
      settled_length(view.root4, view.root4_length, top, view.changes + (top >> 8), entry);
  const std::uint8_t bytes[2] = {static_cast<std::uint8_t>(address >> 8), static_cast<std::uint8_t>(address)};
  return trace_narrow<Leaf>(view, entry_ref(entry), bytes, 16, {entry_leaf(entry), length});
}

template <typename Leaf>
inline Match trace6(const View& view, const std::uint8_t* address) noexcept {
  const std::uint32_t page =
      __atomic_load_n(view.root6 + (std::size_t{address[0]} << 8 | address[1]), __ATOMIC_ACQUIRE);
  const std::size_t at = std::size_t{page} << 8 | address[2];
  std::uint64_t entry = 0;
  const std::uint8_t length =
      settled_length(view.pages, view.page_length, at, view.changes + kStripes + page % kStripes, entry);
  Match match{entry_leaf(entry), length};
  if constexpr (kIsPacked<Leaf>) return trace_narrow<Leaf>(view, entry_ref(entry), address + 3, 24, match);
  for (unsigned level = 24; level < 40; level += 8) {
    const Node node = node_at(view.arena, entry_ref(entry));
    const std::size_t interval = node.interval_of(address[level / 8]);
    const unsigned code = code_at(node.entries() + 8 * node.intervals() + kCountBytes, interval);
    entry = wide_entry(view, entry_ref(entry), address[level / 8]);
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
