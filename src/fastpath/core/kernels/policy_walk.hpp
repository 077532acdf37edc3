// The walk through a tree of rules, included by the kernels inside their target region; Steps makes rows of
// packets, and holds them against rules and lines.
//
// A level of the tree, or an entry of a line, of each packet that is not done, at a time: steps do not depend
// on each other, so the loads of many packets are under way at once, and no branch hangs on one packet. Each
// stage is a function of its own, for the sake of the compiler's registers.

template <typename Address, typename Steps>
struct PolicyWalker {
  using Row = PolicyRow<Address>;
  static constexpr std::size_t kWords = Row::kWords;

  alignas(64) std::uint32_t rows[kPolicyBlock * kWords];
  PolicyNode at[kPolicyBlock];        // of each packet
  std::uint64_t open[kPolicyBlock];   // place of the next entry to try, and packet
  std::uint32_t inner[kPolicyBlock];  // packets whose node is an inner one

  // The roots of pairs of classes. Returns how many nodes are inner ones, as descend() does.
  [[gnu::noinline]] std::size_t begin(const PolicyTreeView& tree, std::size_t count) {
    const PolicyTreeView::Side source = tree.sides[0], destination = tree.sides[1];
    const auto root = [&](std::size_t i, std::size_t source_word, std::size_t destination_word) {
      const std::uint32_t* row = rows + i * kWords;
      const std::size_t line = source.classes[row[source_word] >> source.shift & source.mask];
      return line * tree.columns +
             destination.classes[row[destination_word] >> destination.shift & destination.mask];
    };
    std::size_t left = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      const PolicyNode node =
          tree.nodes[kWords == 4 ? root(i, 0, 1) : root(i, source.word, destination.word)];
      at[i] = node;
      inner[left] = i;
      left += !node.is_leaf();
    }
    return left;
  }
  [[gnu::noinline]] std::size_t descend(const PolicyNode* nodes, std::size_t count) {
    std::size_t left = 0;
    for (std::size_t k = 0; k < count; ++k) {
      const std::uint32_t i = inner[k];
      const PolicyNode node = at[i];
      const PolicyNode next =
          nodes[node.base() + (rows[i * kWords + node.word()] >> node.shift() & node.mask())];
      at[i] = next;
      inner[left] = i;
      left += !next.is_leaf();
    }
    return left;
  }

  // Where the tree is larger than a cache: fetches what compare() will read, for all packets at once.
  [[gnu::noinline]] void prefetch(const PolicyTreeView& tree, std::size_t count) const {
    asm volatile("");  // or the compiler finds that this has no effect
    for (std::size_t i = 0; i < count; ++i) __builtin_prefetch(tree.lines + at[i].base());
    for (std::size_t i = 0; i < count; ++i) {
      const PolicyLine& line = tree.lines[at[i].base()];
      const std::uint32_t passing = Steps::passing(rows + i * kWords, line) | 1u << PolicyLine::kLast;
      const std::uint32_t* bounds =
          tree.bounds + std::size_t{line.rule[std::countr_zero(passing)]} * 2 * kWords;
      for (std::size_t w = 0; w < 2 * kWords; w += 16) __builtin_prefetch(bounds + w);
    }
  }

  // Tries the next entry of a line that a packet passes. Returns how many are still open.
  template <bool First>
  [[gnu::noinline]] std::size_t compare(const PolicyTreeView& tree, std::size_t count, std::uint32_t* found) {
    std::size_t left = 0;
    const PolicyLine* const lines = tree.lines;
    const std::uint32_t* const bounds = tree.bounds;
    for (std::size_t k = 0; k < count; ++k) {
      // The place of an entry is 8 * line + entry.
      const std::uint64_t place = First ? std::uint64_t{at[k].base()} << 3 : open[k] >> 16;
      const std::size_t i = First ? k : open[k] & 0xFFFF;
      const PolicyLine& line = lines[place >> 3];
      const std::uint32_t* const row = rows + i * kWords;
      std::uint32_t passing = Steps::passing(row, line) | 1u << PolicyLine::kLast;
      if constexpr (!First) passing &= ~0u << (place & 7);
      const auto entry = static_cast<std::uint32_t>(std::countr_zero(passing));
      const std::uint32_t rule = line.rule[entry];
      found[i] = rule;
      const bool holds = Steps::template hold<Row>(row, bounds + std::size_t{rule} * 2 * kWords);
      // The next entry, or the first one of the next line: without a branch, which would be wrong often.
      static_assert(PolicyLine::kLast == 4);
      const std::uint64_t next = (place & ~std::uint64_t{7}) + entry + 1 + 3 * (entry >> 2);
      open[left] = next << 16 | i;
      left += !holds;
    }
    return left;
  }
};

// The two windows of a row that a line asks for.
inline std::uint32_t policy_windows(const std::uint32_t* row, const PolicyLine& line) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(row);
  std::uint16_t windows[2];
  std::memcpy(&windows[0], bytes + line.at[0], 2);
  std::memcpy(&windows[1], bytes + line.at[1], 2);
  return windows[0] | std::uint32_t{windows[1]} << 16;
}

inline void policy_row(const PolicyColumns& packets, std::size_t i, std::uint32_t* row, std::uint32_t) {
  row[0] = static_cast<const std::uint32_t*>(packets.sources)[i];
  row[1] = static_cast<const std::uint32_t*>(packets.destinations)[i];
  row[2] = std::uint32_t{packets.source_ports[i]} << 16 | packets.destination_ports[i];
  row[3] = packets.protocols[i];
}
inline void policy_row(const PolicyColumns& packets, std::size_t i, std::uint32_t* row, const Address16&) {
  for (std::size_t side = 0; side < 2; ++side) {
    const auto* address =
        static_cast<const std::uint8_t*>(side == 0 ? packets.sources : packets.destinations) + 16 * i;
    for (std::size_t w = 0; w < 4; ++w) row[4 * side + w] = load_be32(address + 4 * w);
  }
  row[8] = std::uint32_t{packets.source_ports[i]} << 16 | packets.destination_ports[i];
  row[9] = packets.protocols[i];
  for (std::size_t w = 10; w < 16; ++w) row[w] = 0;
}

template <typename Address, typename Steps>
void policy_walk(const PolicyTreeView& tree, const PolicyColumns& packets, std::size_t begin,
                 std::size_t count, std::uint32_t* found) {
  PolicyWalker<Address, Steps> walker;
  Steps::rows(Address(), packets, begin, count, walker.rows);
  for (std::size_t left = walker.begin(tree, count); left != 0;) left = walker.descend(tree.nodes, left);
  if (tree.large) walker.prefetch(tree, count);
  std::size_t left = walker.template compare<true>(tree, count, found);
  while (left != 0) left = walker.template compare<false>(tree, left, found);
}
