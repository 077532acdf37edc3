// Building the tree of a policy.
#include "fastpath/policy/tree.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>

#include "fastpath/hash.hpp"

namespace fastpath {
namespace {

std::uint64_t hash_of(const std::vector<std::uint32_t>& list) noexcept {
  return xxh3_64(list.data(), list.size() * sizeof(std::uint32_t), 0);
}

template <typename T>
Pages pages_of(const std::vector<T>& items) {
  Pages pages(std::max<std::size_t>(items.size(), 1) * sizeof(T));
  if (!items.empty()) std::memcpy(pages.data(), items.data(), items.size() * sizeof(T));
  return pages;
}

}  // namespace

template <typename Address>
class PolicyTree<Address>::Builder {
 public:
  static constexpr std::size_t kWords = Row::kWords;

  // How lavish a tree is: bits of a cut beyond those that number its rules, and what a child costs against
  // shorter lists.
  struct Style {
    unsigned spare;
    double weight;
  };

  Builder(std::vector<std::uint32_t> bounds, std::size_t rules) : bounds_(std::move(bounds)), rules_(rules) {
    limit_ = 65536 + 32 * rules;
    // Bits above all bounds of a word tell no rules apart.
    Known known{};
    for (std::size_t w = Row::kSourcePort; w < Row::kUsed; ++w) {
      std::uint32_t most = 0;
      for (std::size_t r = 0; r < rules_; ++r) most = std::max(most, high(r, w));
      known[w] = most == 0 ? ~0u : ~(std::bit_ceil(most + 1) - 1);
    }
    const List all = distinct();
    for (const Style& style : {Style{4, 0.005}, Style{3, 0.02}, Style{2, 0.1}, Style{1, 0.5}}) {
      if (style.spare == 4 && rules_ > kFew) continue;
      style_ = style;
      nodes_.assign(1, PolicyNode());
      lists_.clear();
      leaves_.clear();
      cut_short_ = false;
      // All but the last style give up when they need too much.
      last_ = style.spare == 1;
      grow(0, all, known, 0, kLeaf);
      if (!cut_short_) break;
    }
  }

  std::vector<PolicyNode> nodes_;
  std::vector<std::uint32_t> lists_;
  std::vector<std::uint32_t> bounds_;

 private:
  using Known = std::array<std::uint32_t, Row::kUsed>;  // bits that the cuts above have settled
  using List = std::vector<std::uint32_t>;
  struct Window {
    std::size_t word;
    unsigned shift;
    unsigned bits = 0;
    std::uint32_t mask() const noexcept { return (1u << bits) - 1; }
  };
  struct Span {
    std::uint32_t first;
    std::uint32_t last;
  };

  static constexpr std::size_t kLeaf = 10;  // a list this short is not cut any more
  // A list that many children share takes much of all packets, and is stored once: it is cut further.
  static constexpr std::size_t kShared = 8;
  static constexpr std::size_t kSharedLeaf = 3;
  static constexpr std::size_t kLongest = 64;    // of a leaf
  static constexpr std::size_t kFew = 4096;      // rules, of sets whose tree may be lavish and fit a cache
  static constexpr std::size_t kPairwise = 256;  // rules of a list that are held against each other
  static constexpr std::size_t kSample = 512;    // rules of a list that a window is judged by
  static constexpr unsigned kDepth = 32;
  static constexpr unsigned kBits = 14;

  std::uint32_t low(std::size_t rule, std::size_t word) const noexcept {
    return bounds_[rule * 2 * kWords + word];
  }
  std::uint32_t width(std::size_t rule, std::size_t word) const noexcept {
    return bounds_[rule * 2 * kWords + kWords + word];
  }
  std::uint32_t high(std::size_t rule, std::size_t word) const noexcept {
    return low(rule, word) + width(rule, word);
  }

  // All rules but those that another one before them equals.
  List distinct() const {
    List list;
    std::unordered_multimap<std::uint64_t, std::uint32_t> seen;
    for (std::uint32_t rule = 0; rule < rules_; ++rule) {
      const std::uint32_t* bounds = &bounds_[std::size_t{rule} * 2 * kWords];
      const std::uint64_t hash = xxh3_64(bounds, 2 * kWords * sizeof(std::uint32_t), 0);
      const auto range = seen.equal_range(hash);
      if (std::any_of(range.first, range.second, [&](const auto& entry) {
            return std::equal(bounds, bounds + 2 * kWords, &bounds_[std::size_t{entry.second} * 2 * kWords]);
          })) {
        continue;
      }
      seen.emplace(hash, rule);
      list.push_back(rule);
    }
    return list;
  }

  // Whether `a` takes all packets of `b` that come here.
  bool covers(std::uint32_t a, std::uint32_t b, const Known& known) const noexcept {
    for (std::size_t w = 0; w < Row::kSourcePort; ++w) {
      const std::uint32_t cares = ~width(a, w) & ~known[w];
      if ((cares & (width(b, w) | (low(a, w) ^ low(b, w)))) != 0) return false;
    }
    for (std::size_t w = Row::kSourcePort; w < Row::kUsed; ++w) {
      if (low(b, w) < low(a, w) || high(b, w) > high(a, w)) return false;
    }
    return true;
  }
  List uncovered(const List& list, const Known& known) const {
    List kept;
    for (const std::uint32_t rule : list) {
      if (std::none_of(kept.begin(), kept.end(),
                       [&](std::uint32_t before) { return covers(before, rule, known); })) {
        kept.push_back(rule);
      }
    }
    return kept;
  }

  // The children that a rule falls into. All of them, if its range begins and ends under different values of
  // the bits above the window: some may be more than needed, which is not wrong.
  Span span(std::uint32_t rule, const Window& window) const noexcept {
    const std::uint32_t from = low(rule, window.word);
    const std::uint32_t to = high(rule, window.word);
    const unsigned above = window.shift + window.bits;
    const bool same = above >= 32 || from >> above == to >> above;
    if (!same) return {0, window.mask()};
    return {from >> window.shift & window.mask(), to >> window.shift & window.mask()};
  }

  // The average list that a rule's packets meet below this cut, and how much the cut takes to store.
  double cost(const List& list, const Window& window, std::size_t step) {
    const std::size_t children = std::size_t{1} << window.bits;
    counts_.assign(children + 1, 0);
    weights_.assign(children + 1, 0);
    std::size_t sampled = 0;
    std::size_t entries = 0;
    for (std::size_t i = 0; i < list.size(); i += step, ++sampled) {
      const Span at = span(list[i], window);
      const float weight = 1.0f / static_cast<float>(at.last - at.first + 1);
      counts_[at.first] += 1;
      counts_[at.last + 1] -= 1;
      weights_[at.first] += weight;
      weights_[at.last + 1] -= weight;
      entries += at.last - at.first + 1;
    }
    double sum = 0;
    float count = 0;
    float weight = 0;
    for (std::size_t child = 0; child < children; ++child) {
      count += counts_[child];
      weight += weights_[child];
      sum += count * weight;
    }
    const auto n = static_cast<double>(sampled);
    if (sum >= 0.95 * n * n) return kNever;
    return sum / n * (1 + style_.weight * static_cast<double>(children + entries) / n);
  }

  Window best_cut(const List& list, const Known& known) {
    const std::size_t step = (list.size() + kSample - 1) / kSample;
    const auto most =
        std::clamp<unsigned>(static_cast<unsigned>(std::bit_width(list.size())) + style_.spare, 2, kBits);
    Window best{};
    double least = kNever;
    for (std::size_t w = 0; w < Row::kUsed; ++w) {
      // Bits in which rules differ and that some rule asks for.
      std::uint32_t differ = 0, asked = 0;
      for (std::size_t i = 0; i < list.size(); i += step) {
        differ |= (low(list[i], w) ^ low(list[0], w)) | (width(list[i], w) ^ width(list[0], w));
        asked |= w < Row::kSourcePort ? ~width(list[i], w) : ~0u;
      }
      const std::uint32_t useful = differ & asked & ~known[w];
      if (useful == 0) continue;
      for (unsigned bits = most; bits != 0; bits -= std::min(bits, bits > 4 ? 3u : 1u)) {
        for (unsigned shift = 0; shift + bits <= 32; ++shift) {
          Window window{w, shift, bits};
          const std::uint32_t top = 1u << (shift + bits - 1);
          if ((window.mask() << shift & known[w]) != 0) continue;
          if (w < Row::kSourcePort) {
            if ((useful & top) == 0 || (useful >> shift & 1) == 0) continue;
          } else if (shift + bits < 32 && (known[w] >> (shift + bits) & 1) == 0) {
            continue;  // intervals are cut from the top
          }
          const double each = cost(list, window, step);
          if (each < least) {
            least = each;
            best = window;
          }
        }
      }
    }
    return best;
  }

  void leaf(std::size_t at, const List& list) {
    if (list.size() > kLongest) return leaf(at, {static_cast<std::uint32_t>(rules_)});
    if (list.empty()) {
      nodes_[at] = PolicyNode::leaf(0, false);
      return;
    }
    List marked = list;
    marked.back() |= kPolicyLast;
    const std::uint64_t hash = hash_of(marked);
    const auto range = leaves_.equal_range(hash);
    for (auto known = range.first; known != range.second; ++known) {
      if (marked.size() <= lists_.size() - known->second &&
          std::equal(marked.begin(), marked.end(), lists_.begin() + known->second)) {
        nodes_[at] = PolicyNode::leaf(known->second, true);
        return;
      }
    }
    nodes_[at] = PolicyNode::leaf(lists_.size(), true);
    leaves_.emplace(hash, static_cast<std::uint32_t>(lists_.size()));
    lists_.insert(lists_.end(), marked.begin(), marked.end());
  }

  void grow(std::size_t at, List list, const Known& known, unsigned depth, std::size_t shortest) {
    if (list.size() <= kPairwise) list = uncovered(list, known);
    if (nodes_.size() + lists_.size() > limit_) {
      cut_short_ = true;
      if (!last_) return;
    }
    if (list.size() <= shortest || depth == kDepth || cut_short_) return leaf(at, list);
    const Window window = best_cut(list, known);
    if (window.bits == 0) return leaf(at, list);
    std::vector<List> children(std::size_t{1} << window.bits);
    for (const std::uint32_t rule : list) {
      const Span to = span(rule, window);
      for (std::uint32_t child = to.first; child <= to.last; ++child) children[child].push_back(rule);
    }
    list = List();
    const std::size_t base = nodes_.size();
    nodes_.resize(base + children.size());
    nodes_[at] = PolicyNode::cut(base, window.word, window.shift, window.mask());
    Known below = known;
    below[window.word] |= window.mask() << window.shift;
    // Children with one list share a subtree.
    std::unordered_map<std::uint64_t, std::size_t> first_of;
    std::vector<std::size_t> like(children.size());
    std::vector<std::size_t> sharers(children.size());
    for (std::size_t child = 0; child < children.size(); ++child) {
      const std::size_t first = first_of.emplace(hash_of(children[child]), child).first->second;
      like[child] = children[first] == children[child] ? first : child;
      ++sharers[like[child]];
    }
    for (std::size_t child = 0; child < children.size(); ++child) {
      if (like[child] != child) {
        nodes_[base + child] = nodes_[base + like[child]];
      } else {
        const std::size_t leaf = sharers[child] >= kShared ? kSharedLeaf : kLeaf;
        grow(base + child, std::move(children[child]), below, depth + 1, leaf);
      }
    }
  }

  static constexpr double kNever = 1e300;
  std::size_t rules_;
  std::size_t limit_;
  Style style_{};
  bool cut_short_ = false;
  bool last_ = false;
  std::vector<float> counts_;
  std::vector<float> weights_;
  std::unordered_multimap<std::uint64_t, std::uint32_t> leaves_;  // by hash: where they begin
};

template <typename Address>
PolicyTree<Address>::PolicyTree(const std::vector<Rule>& rules, Isa isa) {
  for (std::size_t side : {0u, 1u}) {
    const auto ports = [side](const Rule& rule) {
      return side == 0 ? rule.source_ports : rule.destination_ports;
    };
    std::vector<bool> starts(65537);
    for (const Rule& rule : rules) {
      starts[ports(rule)[0]] = true;
      starts[ports(rule)[1] + std::size_t{1}] = true;
    }
    if (std::find(starts.begin() + 1, starts.begin() + 65536, true) == starts.begin() + 65536) continue;
    intervals_[side].resize(65536);
    for (std::size_t port = 1; port < 65536; ++port) {
      intervals_[side][port] = static_cast<std::uint16_t>(intervals_[side][port - 1] + starts[port]);
    }
  }

  constexpr std::size_t kWords = Row::kWords;
  std::vector<std::uint32_t> bounds((rules.size() + 1) * 2 * kWords);
  for (std::size_t i = 0; i < rules.size(); ++i) {
    const Rule& rule = rules[i];
    std::uint32_t* low = &bounds[i * 2 * kWords];
    std::uint32_t* width = low + kWords;
    policy_words(rule.source, low);
    policy_words(rule.destination, low + Row::kAddressWords);
    policy_words(prefix_mask<Address>(rule.source_length), width);
    policy_words(prefix_mask<Address>(rule.destination_length), width + Row::kAddressWords);
    for (std::size_t w = 0; w < 2 * Row::kAddressWords; ++w) width[w] = ~width[w];
    low[Row::kSourcePort] = interval(0, rule.source_ports[0]);
    width[Row::kSourcePort] = interval(0, rule.source_ports[1]) - low[Row::kSourcePort];
    low[Row::kDestinationPort] = interval(1, rule.destination_ports[0]);
    width[Row::kDestinationPort] = interval(1, rule.destination_ports[1]) - low[Row::kDestinationPort];
    low[Row::kProtocol] = rule.protocol == 256 ? 0 : rule.protocol;
    width[Row::kProtocol] = rule.protocol == 256 ? 255 : 0;
    orders_.push_back(rule.order);
    ids_.push_back(rule.id);
  }
  // unknown() is a rule that everything matches.
  std::fill(bounds.end() - kWords, bounds.end(), ~0u);

  Builder builder(std::move(bounds), rules.size());
  nodes_ = pages_of(builder.nodes_);
  lists_ = pages_of(builder.lists_);
  bounds_ = pages_of(builder.bounds_);
  view_ = {static_cast<const PolicyNode*>(nodes_.data()), static_cast<const std::uint32_t*>(lists_.data()),
           static_cast<const std::uint32_t*>(bounds_.data())};
  erased_ = std::make_unique<std::atomic<std::uint8_t>[]>(rules.size());
  constexpr bool kFour = sizeof(Address) == 4;
  walk_ = kFour ? policy_walk4_scalar : policy_walk6_scalar;
#if defined(__x86_64__)
  if (isa == Isa::avx2) walk_ = kFour ? policy_walk4_avx2 : policy_walk6_avx2;
  if (isa == Isa::avx512) walk_ = kFour ? policy_walk4_avx512 : policy_walk6_avx512;
#else
  static_cast<void>(isa);
#endif
}

template <typename Address>
void PolicyTree<Address>::mark_erased(const Rule& rule) const noexcept {
  const auto at = std::lower_bound(orders_.begin(), orders_.end(), rule.order) - orders_.begin();
  erased_[static_cast<std::size_t>(at)].store(1, std::memory_order_release);
  any_erased_.store(true, std::memory_order_release);
}

template <typename Address>
std::size_t PolicyTree<Address>::nbytes() const noexcept {
  return sizeof *this + nodes_.bytes() + lists_.bytes() + bounds_.bytes() +
         (intervals_[0].size() + intervals_[1].size()) * sizeof(std::uint16_t) +
         ids_.size() * (sizeof(std::uint64_t) + sizeof(std::uint32_t) + 1);
}

template class PolicyTree<std::uint32_t>;
template class PolicyTree<Address16>;

}  // namespace fastpath
