// Building the tree of a policy.
#include "fastpath/policy/tree.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>

#include "fastpath/hash.hpp"

namespace fastpath {
namespace {

struct HashOfList {
  std::size_t operator()(const std::vector<std::uint32_t>& list) const noexcept {
    return xxh3_64(list.data(), list.size() * sizeof(std::uint32_t), 0);
  }
};

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

  Builder(std::vector<std::uint32_t> bounds, std::size_t rules, std::uint64_t steps)
      : bounds_(std::move(bounds)), rules_(rules), steps_(steps) {
    const List all = distinct();
    for (std::size_t side = 0; side < 2; ++side) sides_[side] = best_side(side, all);
    // The larger of them gives way, if there are too many pairs or rules fall into too many.
    while (std::size_t{sides_[0].count} * sides_[1].count > 2048 + 2 * rules_ ||
           placed(all) > 65536 + 32 * rules_) {
      const std::size_t side = sides_[1].count > sides_[0].count;
      sides_[side] = classify(all, sides_[side].window.narrower());
    }
    limit_ = 65536 + 32 * rules;
    for (const Style& style : {Style{3, 0.01}, Style{2, 0.1}, Style{1, 0.5}}) {
      style_ = style;
      nodes_.assign(std::size_t{sides_[0].count} * sides_[1].count, PolicyNode());
      lines_.clear();
      known_lines_.clear();
      cut_short_ = false;
      partial_ = false;
      // All but the last style give up when they need too much.
      last_ = style.spare == 1;
      plant(all);
      if (!cut_short_) break;
    }
  }

  struct Window {
    std::size_t word = 0;
    unsigned shift = 0;
    unsigned bits = 0;
    std::uint32_t mask() const noexcept { return (1u << bits) - 1; }
    Window narrower() const noexcept { return {word, shift + 1, bits - 1}; }
  };
  // The classes of one side's addresses: values of a window that the same rules match.
  struct Side {
    Window window;
    std::size_t count = 1;
    std::vector<std::uint8_t> classes;   // by value
    std::vector<std::uint32_t> example;  // a value of each class
    double score = 0;                    // less is better
  };

  std::vector<PolicyNode> nodes_;
  std::vector<PolicyLine> lines_;
  std::vector<std::uint32_t> bounds_;
  std::array<Side, 2> sides_;
  bool partial_ = false;

 private:
  // How lavish a tree is: bits of a cut beyond those that number its rules, and what a child costs against
  // shorter lists.
  struct Style {
    unsigned spare;
    double weight;
  };
  using Known = std::array<std::uint32_t, Row::kUsed>;  // bits that the cuts above have settled
  using List = std::vector<std::uint32_t>;
  struct Span {
    std::uint32_t first;
    std::uint32_t last;
  };
  struct Change {  // from one child to the next
    std::uint32_t count;
    std::uint32_t weight;
  };

  // A list that many children share takes much of all packets, and is stored once: it is cut until it fits a
  // line.
  static constexpr std::size_t kShared = 8;
  static constexpr std::size_t kLeaf = 8;        // a list this short is not cut: another line costs as much
  static constexpr std::size_t kLongest = 64;    // of a leaf
  static constexpr std::size_t kPairwise = 256;  // rules of a list that are held against each other
  static constexpr std::size_t kSample = 256;    // rules of a list that a window is judged by
  static constexpr unsigned kDepth = 32;
  static constexpr unsigned kBits = 14;
  static constexpr unsigned kClassBits = 14;

  std::uint32_t low(std::size_t rule, std::size_t word) const noexcept {
    return bounds_[rule * 2 * kWords + word];
  }
  std::uint32_t width(std::size_t rule, std::size_t word) const noexcept {
    return bounds_[rule * 2 * kWords + kWords + word];
  }
  static bool is_address(std::size_t word) noexcept { return word < Row::kPorts; }

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

  void spend(std::uint64_t steps) {
    if (steps > steps_) throw TooLong();
    steps_ -= steps;
  }

  std::uint32_t none() const noexcept { return static_cast<std::uint32_t>(rules_); }
  std::uint32_t unknown() const noexcept { return none() + 1; }
  std::uint32_t never() const noexcept { return none() + 2; }

  // The values of a window that a rule takes: all of them, if its range begins and ends under different
  // values of the bits above. Some may be more than needed, which is not wrong.
  Span span(std::uint32_t rule, const Window& window) const noexcept {
    std::uint32_t from = low(rule, window.word), to = from + width(rule, window.word);
    unsigned end = window.shift + window.bits, shift = window.shift;
    if (window.word == Row::kPorts) {
      // Two fields, each in its half.
      const unsigned half = shift & 16;
      const std::uint32_t width = this->width(rule, window.word);
      from = from >> half & 0xFFFF;
      to = from + (width >> half & 0xFFFF);
      shift -= half;
      end -= half;
    }
    if (end < 32 && from >> end != to >> end) return {0, window.mask()};
    return {from >> shift & window.mask(), to >> shift & window.mask()};
  }

  // Nothing, if there are more than a byte can number.
  Side classify(const List& all, const Window& window) const {
    Side made;
    made.window = window;
    const std::size_t values = std::size_t{1} << window.bits;
    // Which rules a value meets, as the sum of numbers that stand for them.
    std::vector<std::uint64_t> sums(values + 1);
    std::vector<std::int32_t> counts(values + 1);
    for (const std::uint32_t rule : all) {
      const Span at = span(rule, window);
      const std::uint64_t number = mix(rule);
      sums[at.first] += number;
      sums[at.last + 1] -= number;
      ++counts[at.first];
      --counts[at.last + 1];
    }
    std::unordered_map<std::uint64_t, std::size_t> known;
    made.classes.resize(values);
    std::uint64_t sum = 0;
    std::int32_t count = 0;
    double uniform = 0;
    std::uint64_t before = 0;
    std::size_t which = 0;
    for (std::size_t value = 0; value < values; ++value) {
      sum += sums[value];
      counts[value] = count += counts[value];
      uniform += count;
      if (value == 0 || sum != before) {
        which = known.emplace(sum, known.size()).first->second;
        if (which == made.example.size()) made.example.push_back(static_cast<std::uint32_t>(value));
        if (which > 255) return {};
        before = sum;
      }
      made.classes[value] = static_cast<std::uint8_t>(which);
    }
    double own = 0;
    for (const std::uint32_t rule : all) own += counts[span(rule, window).first];
    made.count = made.example.size();
    uniform /= static_cast<double>(values);
    // Lists that the rules' own packets meet are cut again below; any packets should be done here.
    made.score = own * uniform * uniform * uniform;
    return made;
  }
  static std::uint64_t mix(std::uint64_t x) noexcept {
    x = (x + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
  }
  Side best_side(std::size_t side, const List& all) const {
    Side best;
    const std::size_t first = side * Row::kAddressWords;
    const unsigned most =
        std::min<unsigned>(kClassBits, static_cast<unsigned>(std::bit_width(all.size())) + 4);
    for (std::size_t word = first; word < first + Row::kAddressWords; ++word) {
      std::uint32_t asked = 0;
      for (const std::uint32_t rule : all) asked |= ~width(rule, word);
      for (unsigned end = 32; end >= most; end -= 4) {
        if (!best.classes.empty() && (asked >> (end - most) & ((1u << most) - 1)) == 0) continue;
        for (unsigned bits = most;; bits -= 2) {
          Side made = classify(all, {word, end - bits, bits});
          if (made.classes.empty()) continue;  // too many, but not of 8 bits or less
          if (best.classes.empty() || made.score < best.score) best = std::move(made);
          break;
        }
      }
    }
    return best;
  }

  std::vector<std::uint8_t> classes_of(std::uint32_t rule, const Side& side) const {
    const Span at = span(rule, side.window);
    std::vector<std::uint8_t> found;
    for (std::size_t c = 0; c < side.count; ++c) {
      const std::uint32_t value = side.example[c];
      if (at.first <= value && value <= at.last) found.push_back(static_cast<std::uint8_t>(c));
    }
    return found;
  }
  // How many rules fall into all pairs together.
  std::size_t placed(const List& all) const {
    std::size_t sum = 0;
    for (const std::uint32_t rule : all) {
      sum += classes_of(rule, sides_[0]).size() * classes_of(rule, sides_[1]).size();
    }
    return sum;
  }

  // Whether `a` takes all packets of `b` that come here.
  bool covers(std::uint32_t a, std::uint32_t b, const Known& known) const noexcept {
    for (std::size_t w = 0; w < Row::kPorts; ++w) {
      const std::uint32_t cares = ~width(a, w) & ~known[w];
      if ((cares & (width(b, w) | (low(a, w) ^ low(b, w)))) != 0) return false;
    }
    for (std::size_t w = Row::kPorts; w < Row::kUsed; ++w) {
      for (unsigned half = 0; half < 32; half += 16) {
        if (w == Row::kProtocol && half != 0) continue;
        const std::uint32_t a_low = low(a, w) >> half & 0xFFFF, a_width = width(a, w) >> half & 0xFFFF;
        const std::uint32_t b_low = low(b, w) >> half & 0xFFFF, b_width = width(b, w) >> half & 0xFFFF;
        if (b_low < a_low || b_low + b_width > a_low + a_width) return false;
      }
    }
    return true;
  }
  // Whether it takes all packets that come here.
  bool takes_all(std::uint32_t rule, const Known& known) const noexcept {
    for (std::size_t w = 0; w < Row::kPorts; ++w) {
      if ((~width(rule, w) & ~known[w]) != 0) return false;
    }
    return width(rule, Row::kPorts) == ~0u && (width(rule, Row::kProtocol) & 0xFFFF) >= 255;
  }
  // Without what never decides here.
  void prune(List& list, const Known& known) {
    spend(list.size());
    const auto last =
        std::find_if(list.begin(), list.end(), [&](std::uint32_t rule) { return takes_all(rule, known); });
    if (last != list.end()) list.erase(last + 1, list.end());
    if (list.size() > kPairwise) return;
    List kept;
    for (const std::uint32_t rule : list) {
      if (std::none_of(kept.begin(), kept.end(),
                       [&](std::uint32_t before) { return covers(before, rule, known); })) {
        kept.push_back(rule);
      }
    }
    spend(list.size() * kept.size());
    list = std::move(kept);
  }

  // The average list that a rule's packets meet below this cut, and how much the cut takes to store.
  double cost(const List& list, const Window& window, std::size_t step) {
    // A rule's packets as an integer, whose sums take less time than those of fractions.
    constexpr std::uint32_t kOne = 1u << 20;
    const std::size_t children = std::size_t{1} << window.bits;
    changes_.assign(children + 1, Change{});
    std::size_t sampled = 0;
    std::size_t entries = 0;
    for (std::size_t i = 0; i < list.size(); i += step, ++sampled) {
      const Span at = span(list[i], window);
      const std::uint32_t taken = at.last - at.first + 1;
      const std::uint32_t weight = kOne / taken;
      Change &first = changes_[at.first], &after = changes_[at.last + 1];
      ++first.count;
      --after.count;
      first.weight += weight;
      after.weight -= weight;
      entries += taken;
    }
    std::uint64_t sum = 0;
    std::uint32_t count = 0, weight = 0;
    for (std::size_t child = 0; child < children; ++child) {
      count += changes_[child].count;
      weight += changes_[child].weight;
      sum += std::uint64_t{count} * weight;
    }
    spend(sampled + children);
    const auto n = static_cast<double>(sampled);
    const double own = static_cast<double>(sum) / kOne;
    if (own >= 0.95 * n * n) return kNever;
    return own / n * (1 + style_.weight * static_cast<double>(children + entries) / n);
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
        asked |= is_address(w) ? ~width(list[i], w) : ~0u;
      }
      if (w == Row::kProtocol) asked &= 0xFF;
      std::uint32_t useful = differ & asked & ~known[w];
      for (unsigned bits = most; bits != 0; bits -= std::min(bits, bits > 4 ? 3u : 1u)) {
        for (unsigned shift = 0; shift + bits <= 32; ++shift) {
          Window window{w, shift, bits};
          const std::uint32_t top = 1u << (shift + bits - 1);
          if ((window.mask() << shift & known[w]) != 0) continue;
          if ((useful & top) == 0 || (useful >> shift & 1) == 0) continue;
          if (w == Row::kPorts && shift < 16 && shift + bits > 16) continue;
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

  // A rule's range in two bytes of a row; in the lower half its low end, in the upper its width.
  std::uint32_t in_window(std::uint32_t rule, unsigned at) const noexcept {
    const unsigned w = at / 4, shift = at % 4 * 8;
    const std::uint32_t from = low(rule, w) >> shift & 0xFFFF;
    if (!is_address(w)) return from | (width(rule, w) >> shift << 16);
    return from | (((low(rule, w) + width(rule, w)) >> shift & 0xFFFF) - from) << 16;
  }

  // Chooses the windows of a line: those that save most comparisons, half of packets being those of its
  // rules, half being any.
  void set_windows(PolicyLine& line, const std::uint32_t* rules, std::size_t count) const {
    constexpr std::size_t kMost = PolicyLine::kLast;
    std::array<double, kMost> passed;  // by this part of any packets
    passed.fill(1);
    std::array<std::array<bool, kMost>, kMost> apart{};
    for (unsigned half = 0; half < 2; ++half) {
      double most = -1;
      unsigned best = 0;
      std::array<std::uint32_t, kMost> range{}, best_range{};
      for (unsigned at = 0; at <= 4 * Row::kProtocol; ++at) {
        if (at % 4 == 3 || (at / 4 == Row::kPorts && at % 2 != 0)) continue;
        double saved = 0;
        for (std::size_t k = 0; k < count; ++k) {
          range[k] = in_window(rules[k], at);
          saved += passed[k] * (1 - part(at, range[k]));
          for (std::size_t j = 0; j < k; ++j) {
            if (!apart[j][k] && disjoint(range[j], range[k])) saved += 1 / static_cast<double>(count);
          }
        }
        if (saved > most) {
          most = saved;
          best = at;
          best_range = range;
        }
      }
      line.at[half] = static_cast<std::uint8_t>(best);
      for (std::size_t k = 0; k < count; ++k) {
        line.low[k] |= (best_range[k] & 0xFFFF) << (16 * half);
        line.width[k] |= best_range[k] >> 16 << (16 * half);
        passed[k] *= part(best, best_range[k]);
        for (std::size_t j = 0; j < k; ++j) apart[j][k] |= disjoint(best_range[j], best_range[k]);
      }
    }
  }
  // How many of any packets pass a range. Few protocols make most of the packets.
  static double part(unsigned at, std::uint32_t range) noexcept {
    if (at == 4 * Row::kProtocol) return range >> 16 == 0 ? 0.3 : 1;
    return static_cast<double>((range >> 16) + 1) / 65536;
  }
  static bool disjoint(std::uint32_t a, std::uint32_t b) noexcept {
    return (a & 0xFFFF) + (a >> 16) < (b & 0xFFFF) || (b & 0xFFFF) + (b >> 16) < (a & 0xFFFF);
  }

  // The first of the lines of a list that ends with a rule that all packets match.
  std::size_t lines_of(const List& list) {
    const auto [known, fresh] = known_lines_.emplace(list, lines_.size());
    if (!fresh) return known->second;
    for (std::size_t begin = 0; begin + 1 < list.size() || begin == 0; begin += PolicyLine::kLast) {
      PolicyLine line{};
      const std::uint32_t* const rules = list.data() + begin;
      const std::size_t left = list.size() - begin;
      const std::size_t count = std::min(left - 1, PolicyLine::kLast);
      std::copy_n(rules, count, line.rule);
      std::fill(line.rule + count, line.rule + PolicyLine::kLast + 1,
                count + 1 == left ? rules[count] : never());
      std::fill(line.width + count, line.width + PolicyLine::kLast, ~0u);
      set_windows(line, rules, count);
      lines_.push_back(line);
    }
    return known->second;
  }

  void leaf(std::size_t at, List list, const Known& known) {
    if (list.size() > kLongest) {
      partial_ = true;
      list.assign(1, unknown());
    } else if (list.empty() || !takes_all(list.back(), known)) {
      list.push_back(none());
    }
    nodes_[at] = PolicyNode::leaf(lines_of(list));
  }

  bool fits_line(const List& list, const Known& known) const {
    return list.size() <= PolicyLine::kLast + (!list.empty() && takes_all(list.back(), known));
  }

  // The nodes of a cut: children with one list share a subtree.
  void share(std::size_t base, std::vector<List>& children, const Known& known, unsigned depth) {
    std::unordered_map<std::uint64_t, std::size_t> first_of;
    std::vector<std::size_t> like(children.size());
    std::vector<std::size_t> sharers(children.size());
    for (std::size_t child = 0; child < children.size(); ++child) {
      const std::size_t first = first_of.emplace(HashOfList()(children[child]), child).first->second;
      like[child] = children[first] == children[child] ? first : child;
      ++sharers[like[child]];
      if (like[child] != child) children[child] = List();
    }
    for (std::size_t child = 0; child < children.size(); ++child) {
      if (like[child] != child) {
        nodes_[base + child] = nodes_[base + like[child]];
      } else {
        grow(base + child, std::move(children[child]), known, depth, sharers[child] >= kShared);
      }
    }
  }

  void plant(const List& all) {
    std::vector<List> pairs(nodes_.size());
    for (const std::uint32_t rule : all) {
      const auto destinations = classes_of(rule, sides_[1]);
      for (const std::size_t source : classes_of(rule, sides_[0])) {
        for (const std::size_t destination : destinations) {
          pairs[source * sides_[1].count + destination].push_back(rule);
        }
      }
    }
    Known known{};
    for (const Side& side : sides_) known[side.window.word] |= side.window.mask() << side.window.shift;
    known[Row::kProtocol] = ~0xFFu;
    share(0, pairs, known, 0);
  }

  void grow(std::size_t at, List list, const Known& known, unsigned depth, bool shared) {
    prune(list, known);
    if (nodes_.size() + lines_.size() * (sizeof(PolicyLine) / sizeof(PolicyNode)) > limit_) {
      cut_short_ = true;
      if (!last_) return;
    }
    const bool is_short = list.size() <= kLeaf && (!shared || fits_line(list, known));
    const Window window = is_short || depth == kDepth || cut_short_ ? Window() : best_cut(list, known);
    if (window.bits == 0) return leaf(at, std::move(list), known);
    for (const std::uint32_t rule : list) {
      const Span to = span(rule, window);
      spend(to.last - to.first + 1);
    }
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
    share(base, children, below, depth + 1);
  }

  static constexpr double kNever = 1e300;
  std::size_t rules_;
  std::size_t limit_ = 0;
  std::uint64_t steps_;  // that are left
  Style style_{};
  bool cut_short_ = false;
  bool last_ = false;
  std::vector<Change> changes_;
  std::unordered_map<List, std::size_t, HashOfList> known_lines_;  // by what they hold
};

template <typename Address>
PolicyTree<Address>::PolicyTree(const std::vector<Rule>& rules, Isa isa, std::uint64_t steps) {
  constexpr std::size_t kWords = Row::kWords;
  // After the rules come none and unknown, which all packets match and whose id is 0, and one that no packet
  // matches.
  std::vector<std::uint32_t> bounds((rules.size() + 3) * 2 * kWords);
  bounds[(rules.size() + 2) * 2 * kWords + Row::kProtocol] = 256;
  for (std::size_t i = 0; i < rules.size() + 2; ++i) {
    std::uint32_t* low = &bounds[i * 2 * kWords];
    std::uint32_t* width = low + kWords;
    if (i >= rules.size()) {
      std::fill_n(width, kWords, ~0u);
      width[Row::kProtocol] = 0xFFFF;
      orders_.push_back(~std::uint64_t{0});
      continue;
    }
    const Rule& rule = rules[i];
    policy_words(rule.source, low);
    policy_words(rule.destination, low + Row::kAddressWords);
    policy_words(prefix_mask<Address>(rule.source_length), width);
    policy_words(prefix_mask<Address>(rule.destination_length), width + Row::kAddressWords);
    for (std::size_t w = 0; w < Row::kPorts; ++w) width[w] = ~width[w];
    low[Row::kPorts] = std::uint32_t{rule.source_ports[0]} << 16 | rule.destination_ports[0];
    width[Row::kPorts] =
        (std::uint32_t{rule.source_ports[1]} << 16 | rule.destination_ports[1]) - low[Row::kPorts];
    low[Row::kProtocol] = rule.protocol == 256 ? 0 : rule.protocol;
    width[Row::kProtocol] = rule.protocol == 256 ? 255 : 0;
    orders_.push_back(rule.order);
  }

  Builder builder(std::move(bounds), rules.size(), steps);
  // Ids stand in the halves that no field uses.
  for (std::size_t i = 0; i < rules.size(); ++i) {
    std::uint32_t* protocol = &builder.bounds_[i * 2 * kWords + Row::kProtocol];
    protocol[0] |= rules[i].id << 16;
    protocol[kWords] |= rules[i].id & 0xFFFF0000;
  }
  nodes_ = pages_of(builder.nodes_);
  lines_ = pages_of(builder.lines_);
  bounds_ = pages_of(builder.bounds_);
  for (std::size_t side = 0; side < 2; ++side) {
    const auto& made = builder.sides_[side];
    classes_[side] = made.classes;
    view_.sides[side] = {classes_[side].data(), made.window.mask(),
                         static_cast<std::uint8_t>(made.window.word),
                         static_cast<std::uint8_t>(made.window.shift)};
  }
  view_.columns = static_cast<std::uint32_t>(builder.sides_[1].count);
  view_.nodes = static_cast<const PolicyNode*>(nodes_.data());
  view_.lines = static_cast<const PolicyLine*>(lines_.data());
  view_.bounds = static_cast<const std::uint32_t*>(bounds_.data());
  view_.large = lines_.bytes() + bounds_.bytes() > PolicyTreeView::kLarge;
  partial_ = builder.partial_;
  erased_ = std::make_unique<std::atomic<std::uint8_t>[]>(rules.size() + 2);
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
  return sizeof *this + nodes_.bytes() + lines_.bytes() + bounds_.bytes() + classes_[0].capacity() +
         classes_[1].capacity() + orders_.size() * (sizeof(std::uint64_t) + 1);
}

template class PolicyTree<std::uint32_t>;
template class PolicyTree<Address16>;

}  // namespace fastpath
