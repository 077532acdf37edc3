// The walk through a tree of rules, included by the kernels inside their target region; Bounds says how a row
// is held against a rule.
//
// A level, or a rule of each leaf, at a time for all packets that are not done: their steps do not depend on
// each other, so the loads of many packets are under way at once, and no branch hangs on one packet.

template <typename Bounds>
void policy_walk(const PolicyTreeView& tree, const std::uint32_t* rows, std::size_t count,
                 std::uint32_t* found) {
  constexpr std::size_t kWords = Bounds::kWords;
  const PolicyNode* const nodes = tree.nodes;
  const auto child = [&](PolicyNode node, std::size_t i) {
    return nodes[node.base() + (rows[i * kWords + node.word()] >> node.shift() & node.mask())];
  };
  PolicyNode at[kPolicyBlock];  // of each packet
  PolicyNode inner[kPolicyBlock];
  std::uint32_t packet[kPolicyBlock];  // whose node is inner[k]
  std::size_t left = 0;
  const auto descend = [&](PolicyNode node, std::uint32_t i) {
    const PolicyNode next = child(node, i);
    at[i] = next;
    inner[left] = next;
    packet[left] = i;
    left += !next.is_leaf();
  };
  if (nodes[0].is_leaf()) {
    for (std::size_t i = 0; i < count; ++i) at[i] = nodes[0];
  } else {
    for (std::uint32_t i = 0; i < count; ++i) descend(nodes[0], i);
  }
  while (left != 0) {
    const std::size_t now = left;
    left = 0;
    for (std::size_t k = 0; k < now; ++k) descend(inner[k], packet[k]);
  }

  std::uint64_t work[kPolicyBlock];  // packet and place in the lists
  for (std::uint32_t i = 0; i < count; ++i) {
    work[left] = std::uint64_t{i} << 32 | at[i].base();
    found[i] = 0;
    left += at[i].mask() != 0;
  }
  while (left != 0) {
    std::size_t kept = 0;
    for (std::size_t k = 0; k < left; ++k) {
      const std::uint64_t item = work[k];
      const std::size_t i = item >> 32;
      const std::uint32_t entry = tree.lists[static_cast<std::uint32_t>(item)];
      const std::uint32_t rule = entry & ~kPolicyLast;
      std::uint32_t fits = Bounds::hold(rows + i * kWords, tree.bounds + std::size_t{rule} * 2 * kWords);
      asm("" : "+r"(fits));  // or the compiler makes a branch of it, which would be wrong half the time
      found[i] = (rule + 1) & (0u - fits);
      work[kept] = item + 1;
      kept += ~(fits | entry >> 31) & 1;
    }
    left = kept;
  }
}
