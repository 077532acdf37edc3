// A set of rules compiled for batches: a decision tree whose nodes cut on a few bits of one field, and whose
// leaves hold the few rules that are left, in order.
//
// Packets and rules are rows of 32-bit words: the addresses, the ports as numbers of elementary intervals
// (neighbouring ports that no rule tells apart share a number) and the protocol. A rule is a range in each
// word. Cuts on a window of bits go back to Gupta and McKeown, "Packet Classification using Hierarchical
// Intelligent Cuttings" (1999); here the window is chosen that leaves the shortest lists.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "fastpath/cpu.hpp"
#include "fastpath/pages.hpp"
#include "fastpath/policy/rule.hpp"

namespace fastpath {

// An inner node: the child is nodes[base + (row[word] >> shift & mask)]. A leaf: lists[base] and on, up to an
// entry with kPolicyLast, or nothing if the mask is 0. In one word, whose lowest bits are the shift, as a
// shift by a register wants them.
class PolicyNode {
 public:
  PolicyNode() = default;
  static PolicyNode cut(std::size_t base, std::size_t word, unsigned shift, std::uint32_t mask) noexcept {
    return PolicyNode(std::uint64_t{base} << 32 | std::uint64_t{mask} << 16 | word << 8 | shift);
  }
  static PolicyNode leaf(std::size_t base, bool filled) noexcept { return cut(base, kLeaf, 0, filled); }
  bool is_leaf() const noexcept { return word() == kLeaf; }
  std::uint32_t base() const noexcept { return static_cast<std::uint32_t>(bits_ >> 32); }
  std::uint32_t mask() const noexcept { return static_cast<std::uint32_t>(bits_ >> 16 & 0xFFFF); }
  std::size_t word() const noexcept { return bits_ >> 8 & 0xFF; }
  unsigned shift() const noexcept { return static_cast<unsigned>(bits_) & 31; }

 private:
  static constexpr std::size_t kLeaf = 0xFF;
  explicit PolicyNode(std::uint64_t bits) noexcept : bits_(bits) {}
  std::uint64_t bits_;
};
inline constexpr std::uint32_t kPolicyLast = 1u << 31;  // marks the last rule of a leaf

template <typename Address>
struct PolicyRow {
  static constexpr std::size_t kAddressWords = sizeof(Address) / 4;
  static constexpr std::size_t kSourcePort = 2 * kAddressWords;
  static constexpr std::size_t kDestinationPort = kSourcePort + 1;
  static constexpr std::size_t kProtocol = kSourcePort + 2;
  static constexpr std::size_t kUsed = kSourcePort + 3;
  static constexpr std::size_t kWords = kAddressWords == 1 ? 8 : 16;  // what is not used is 0
};

// An address as words, the most significant first.
inline void policy_words(std::uint32_t address, std::uint32_t* words) noexcept { words[0] = address; }
inline void policy_words(const Address16& address, std::uint32_t* words) noexcept {
  words[0] = static_cast<std::uint32_t>(address.high >> 32);
  words[1] = static_cast<std::uint32_t>(address.high);
  words[2] = static_cast<std::uint32_t>(address.low >> 32);
  words[3] = static_cast<std::uint32_t>(address.low);
}

// What the kernels read.
struct PolicyTreeView {
  const PolicyNode* nodes;
  const std::uint32_t* lists;   // rules of the leaves
  const std::uint32_t* bounds;  // of each rule: the low ends of its ranges, then their widths
};

// For each of up to kBlock rows, 1 + the number of its first rule, or 0.
using PolicyWalk = void (*)(const PolicyTreeView& tree, const std::uint32_t* rows, std::size_t count,
                            std::uint32_t* found);
inline constexpr std::size_t kPolicyBlock = 256;

void policy_walk4_scalar(const PolicyTreeView&, const std::uint32_t*, std::size_t, std::uint32_t*);
void policy_walk6_scalar(const PolicyTreeView&, const std::uint32_t*, std::size_t, std::uint32_t*);
#if defined(__x86_64__)
void policy_walk4_avx2(const PolicyTreeView&, const std::uint32_t*, std::size_t, std::uint32_t*);
void policy_walk6_avx2(const PolicyTreeView&, const std::uint32_t*, std::size_t, std::uint32_t*);
void policy_walk4_avx512(const PolicyTreeView&, const std::uint32_t*, std::size_t, std::uint32_t*);
void policy_walk6_avx512(const PolicyTreeView&, const std::uint32_t*, std::size_t, std::uint32_t*);
#endif

// Immutable but for the marks of rules that have been erased since.
template <typename Address>
class PolicyTree {
 public:
  using Rule = PolicyRule<Address>;
  using Row = PolicyRow<Address>;

  // `rules` by order. Its memory is bounded by the number of rules: where rules are so entangled that the
  // tree would outgrow it, leaves say kUnknown.
  PolicyTree(const std::vector<Rule>& rules, Isa isa);

  // A number of no rule: ask something else.
  std::uint32_t unknown() const noexcept { return static_cast<std::uint32_t>(ids_.size()); }
  // Rules for up to kPolicyBlock rows, as PolicyWalk.
  void find(const std::uint32_t* rows, std::size_t count, std::uint32_t* found) const {
    walk_(view_, rows, count, found);
  }
  // Writes the words of a packet; those that are not used must be 0.
  void row(const PolicyPacket<Address>& packet, std::uint32_t* words) const noexcept {
    policy_words(packet.source, words);
    policy_words(packet.destination, words + Row::kAddressWords);
    words[Row::kSourcePort] = interval(0, packet.source_port);
    words[Row::kDestinationPort] = interval(1, packet.destination_port);
    words[Row::kProtocol] = packet.protocol;
  }
  std::uint32_t id(std::uint32_t rule) const noexcept { return ids_[rule]; }
  std::uint64_t order(std::uint32_t rule) const noexcept { return orders_[rule]; }

  void mark_erased(const Rule& rule) const noexcept;
  bool any_erased() const noexcept { return any_erased_.load(std::memory_order_acquire); }
  bool erased(std::uint32_t rule) const noexcept {
    return erased_[rule].load(std::memory_order_acquire) != 0;
  }
  std::size_t nbytes() const noexcept;

 private:
  class Builder;

  std::uint32_t interval(std::size_t side, std::uint16_t port) const noexcept {
    return intervals_[side].empty() ? 0 : intervals_[side][port];
  }

  Pages nodes_;
  Pages lists_;
  Pages bounds_;
  std::array<std::vector<std::uint16_t>, 2> intervals_;  // by port, source and destination; empty: one
  std::vector<std::uint64_t> orders_;
  std::vector<std::uint32_t> ids_;
  mutable std::unique_ptr<std::atomic<std::uint8_t>[]> erased_;
  mutable std::atomic<bool> any_erased_{false};
  PolicyTreeView view_{};
  PolicyWalk walk_;
};

}  // namespace fastpath
