// The walk through a tree of rules, included by the kernels inside their target region; Bounds says how a row
// is held against a rule.
//
// A level, or a rule of each leaf, at a time for all packets that are not done: their steps do not depend on
// each other, so the loads of many packets are under way at once, and no branch hangs on one packet.

template <typename Bounds>
void policy_walk(const PolicyTreeView& tree, const std::uint32_t* rows, std::size_t count,
                 std::uint32_t* found) {
  constexpr std::size_t kWords = Bounds::kWords;
  std::uint32_t work[kPolicyBlock + 1];
  std::uint32_t at[kPolicyBlock];
  std::uint32_t end[kPolicyBlock];
  const PolicyNode root = tree.nodes[0];
  std::size_t left = 0;
  if (root.word == PolicyNode::kLeaf) {
    for (std::size_t i = 0; i < count; ++i) at[i] = 0;
  } else {
    for (std::uint32_t i = 0; i < count; ++i) {
      at[i] = root.base + (rows[i * kWords + root.word] >> root.shift & root.mask);
      work[left] = i;
      left += tree.nodes[at[i]].word != PolicyNode::kLeaf;
    }
  }
  while (left != 0) {
    std::size_t kept = 0;
    for (std::size_t k = 0; k < left; ++k) {
      const std::uint32_t i = work[k];
      const PolicyNode node = tree.nodes[at[i]];
      const std::uint32_t next = node.base + (rows[i * kWords + node.word] >> node.shift & node.mask);
      at[i] = next;
      work[kept] = i;
      kept += tree.nodes[next].word != PolicyNode::kLeaf;
    }
    left = kept;
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    const PolicyNode leaf = tree.nodes[at[i]];
    at[i] = leaf.base;
    end[i] = leaf.base + leaf.mask;
    found[i] = 0;
    work[left] = i;
    left += leaf.mask != 0;
  }
  while (left != 0) {
    std::size_t kept = 0;
    for (std::size_t k = 0; k < left; ++k) {
      const std::uint32_t i = work[k];
      const std::uint32_t rule = tree.lists[at[i]];
      std::uint32_t fits = Bounds::hold(rows + i * kWords, tree.bounds + std::size_t{rule} * 2 * kWords);
      asm("" : "+r"(fits));  // or the compiler makes a branch of it, which would be wrong half the time
      found[i] = (rule + 1) & (0u - fits);
      ++at[i];
      work[kept] = i;
      kept += (fits ^ 1) & static_cast<std::uint32_t>(at[i] != end[i]);
    }
    left = kept;
  }
}
