// A set of rules compiled for batches. A packet's source and destination each fall into a class by a few of
// their bits, and each pair of classes has a decision tree, whose nodes cut on a few bits of one field.
// Leaves hold the few rules that are left, in order, a cache line of them at a time: a line tells by two
// windows of 16 bits which of its rules are worth a full comparison.
//
// Packets and rules are rows of 32-bit words: the addresses, the ports in one word and the protocol. A rule
// is a range in each half of each word: a prefix is one in both halves of its words.
//
// Classes go back to Gupta and McKeown, "Packet Classification on Multiple Fields" (1999), cuts on a window
// of bits to their "Packet Classification using Hierarchical Intelligent Cuttings" (1999); here the window is
// chosen that leaves the shortest lists.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "fastpath/cpu.hpp"
#include "fastpath/pages.hpp"
#include "fastpath/policy/rule.hpp"

namespace fastpath {

// Packets by column. Addresses of IPv4 are 32-bit integers, of IPv6 16 bytes each.
struct PolicyColumns {
  const void* sources;
  const void* destinations;
  const std::uint8_t* protocols;
  const std::uint16_t* source_ports;
  const std::uint16_t* destination_ports;
};

// An inner node: the child is nodes[base + (row[word] >> shift & mask)]. A leaf: lines[base]. In one word,
// whose lowest bits are the shift, as a shift by a register wants them.
class PolicyNode {
 public:
  PolicyNode() = default;
  static PolicyNode cut(std::size_t base, std::size_t word, unsigned shift, std::uint32_t mask) noexcept {
    return PolicyNode(std::uint64_t{base} << 32 | std::uint64_t{mask} << 16 | word << 8 | shift);
  }
  static PolicyNode leaf(std::size_t line) noexcept { return cut(line, kLeaf, 0, 0); }
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

// Up to five rules of a leaf, in order. A packet's two windows as one word pass a rule if each half, less the
// low end of the rule, is at most its width: then the rule is worth a full comparison. The last one all
// packets pass: it is a rule that all match, where the leaf ends, or one that none matches, where the next
// line goes on.
struct alignas(64) PolicyLine {
  static constexpr std::size_t kLast = 4;
  std::uint32_t low[kLast];
  std::uint32_t width[kLast];
  std::uint32_t rule[kLast + 1];
  std::uint8_t at[2];  // where in a row the windows begin, in bytes
};
static_assert(sizeof(PolicyLine) == 64);
static_assert(std::endian::native == std::endian::little);  // for the windows

template <typename Address>
struct PolicyRow {
  static constexpr std::size_t kAddressWords = sizeof(Address) / 4;
  static constexpr std::size_t kPorts = 2 * kAddressWords;  // the source's in the upper half
  static constexpr std::size_t kProtocol = kPorts + 1;
  static constexpr std::size_t kUsed = kPorts + 2;
  static constexpr std::size_t kWords = kAddressWords == 1 ? 4 : 16;  // what is not used is 0
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
  struct Side {  // the class of an address is classes[row[word] >> shift & mask]
    const std::uint8_t* classes;
    std::uint32_t mask;
    std::uint8_t word;
    std::uint8_t shift;
  };
  Side sides[2];
  std::uint32_t columns;  // classes of destinations: a pair's root is nodes[source * columns + destination]
  const PolicyNode* nodes;
  const PolicyLine* lines;
  const std::uint32_t* bounds;  // of each rule: the low ends of its ranges, then their widths
  bool large;                   // lines and bounds take more bytes than kLarge
  // Beyond the caches of a core; where they fit, fetching ahead costs more than it saves.
  static constexpr std::size_t kLarge = std::size_t{4} << 20;
};

// For up to kPolicyBlock packets from `begin` on, the numbers of their rules.
using PolicyWalk = void (*)(const PolicyTreeView& tree, const PolicyColumns& packets, std::size_t begin,
                            std::size_t count, std::uint32_t* found);
inline constexpr std::size_t kPolicyBlock = 256;

void policy_walk4_scalar(const PolicyTreeView&, const PolicyColumns&, std::size_t, std::size_t,
                         std::uint32_t*);
void policy_walk6_scalar(const PolicyTreeView&, const PolicyColumns&, std::size_t, std::size_t,
                         std::uint32_t*);
#if defined(__x86_64__)
void policy_walk4_avx2(const PolicyTreeView&, const PolicyColumns&, std::size_t, std::size_t, std::uint32_t*);
void policy_walk6_avx2(const PolicyTreeView&, const PolicyColumns&, std::size_t, std::size_t, std::uint32_t*);
void policy_walk4_avx512(const PolicyTreeView&, const PolicyColumns&, std::size_t, std::size_t,
                         std::uint32_t*);
void policy_walk6_avx512(const PolicyTreeView&, const PolicyColumns&, std::size_t, std::size_t,
                         std::uint32_t*);
#endif

// Immutable but for the marks of rules that have been erased since.
template <typename Address>
class PolicyTree {
 public:
  using Rule = PolicyRule<Address>;
  using Row = PolicyRow<Address>;

  // Thrown by the constructor: it takes more steps than it was given.
  struct TooLong {};

  // `rules` by order. Its memory is bounded by the number of rules: where rules are so entangled that the
  // tree would outgrow it, leaves say unknown(). Its time is bounded by `steps` alone: a nanosecond or two
  // each.
  PolicyTree(const std::vector<Rule>& rules, Isa isa, std::uint64_t steps = ~std::uint64_t{0});

  // Numbers of no rule: none matches; ask something else.
  std::uint32_t none() const noexcept { return static_cast<std::uint32_t>(orders_.size()) - 2; }
  std::uint32_t unknown() const noexcept { return none() + 1; }
  // Whether there is any packet that it does not know.
  bool partial() const noexcept { return partial_; }
  // Numbers of rules for up to kPolicyBlock packets, as PolicyWalk.
  void find(const PolicyColumns& packets, std::size_t begin, std::size_t count, std::uint32_t* found) const {
    walk_(view_, packets, begin, count, found);
  }
  // 0 for what is no rule.
  std::uint32_t id(std::uint32_t rule) const noexcept {
    const std::uint32_t* at = view_.bounds + std::size_t{rule} * 2 * Row::kWords + Row::kProtocol;
    return at[0] >> 16 | (at[Row::kWords] & 0xFFFF0000);
  }
  std::uint64_t order(std::uint32_t rule) const noexcept { return orders_[rule]; }

  void mark_erased(const Rule& rule) const noexcept;
  bool any_erased() const noexcept { return any_erased_.load(std::memory_order_acquire); }
  bool erased(std::uint32_t rule) const noexcept {
    return erased_[rule].load(std::memory_order_acquire) != 0;
  }
  std::size_t nbytes() const noexcept;

 private:
  class Builder;

  Pages nodes_;
  Pages lines_;
  Pages bounds_;
  std::array<std::vector<std::uint8_t>, 2> classes_;
  std::vector<std::uint64_t> orders_;  // those of no rule are the last
  mutable std::unique_ptr<std::atomic<std::uint8_t>[]> erased_;
  mutable std::atomic<bool> any_erased_{false};
  bool partial_ = false;
  PolicyTreeView view_{};
  PolicyWalk walk_;
};

}  // namespace fastpath
