// The fewest prefixes with the same answers.
//
//   see: Draves, King, Venkatachary, Zill, "Constructing optimal IP routing tables", INFOCOM 1999
//
// Addresses without an answer cannot be told by a prefix, so no prefix may cover one: their part of the tree
// has the single candidate "none", and so has every part that contains them.
#include <algorithm>
#include <iterator>

#include "fastpath/fib.hpp"

namespace fastpath {

namespace {

using fib::Route;

struct Part {
  bool covered = false;                   // every address within has an answer
  std::vector<std::uint32_t> candidates;  // sorted; the answers that make this part cheapest
  std::uint32_t children[2] = {0, 0};     // 0: none, the part is uniform
};

class Aggregation {
 public:
  explicit Aggregation(const std::vector<Route>& routes) : routes_(routes), parts_(1) {}

  std::vector<Route> run() {
    if (routes_.empty()) return {};
    const std::uint32_t root = split(0, routes_.size(), 0, nullptr);
    Route route{};
    route.family = routes_[0].family;
    emit(root, route, nullptr);
    return std::move(out_);
  }

 private:
  static bool bit(const Route& route, unsigned at) {
    return (route.address[at / 8] >> (7 - at % 8) & 1) != 0;
  }

  // Routes begin..end lie within one prefix of `length` bits; `above` is the value that it inherits.
  std::uint32_t split(std::size_t begin, std::size_t end, unsigned length, const std::uint32_t* above) {
    if (begin != end && routes_[begin].length == length) above = &routes_[begin++].value;
    Part part;
    if (begin == end) {
      part.covered = above != nullptr;
      if (above != nullptr) part.candidates = {*above};
      return add(std::move(part));
    }
    std::size_t middle = begin;
    while (middle != end && !bit(routes_[middle], length)) ++middle;
    part.children[0] = split(begin, middle, length + 1, above);
    part.children[1] = split(middle, end, length + 1, above);
    const Part& left = parts_[part.children[0]];
    const Part& right = parts_[part.children[1]];
    part.covered = left.covered && right.covered;
    if (part.covered) {
      const auto& a = left.candidates;
      const auto& b = right.candidates;
      std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(part.candidates));
      if (part.candidates.empty()) {
        std::set_union(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(part.candidates));
      }
    }
    return add(std::move(part));
  }

  void emit(std::uint32_t at, Route& route, const std::uint32_t* above) {
    const Part& part = parts_[at];
    std::uint32_t own = 0;
    if (part.covered &&
        (above == nullptr || !std::binary_search(part.candidates.begin(), part.candidates.end(), *above))) {
      own = part.candidates.front();
      above = &own;
      route.value = own;
      out_.push_back(route);
    }
    if (part.children[0] == 0) return;
    ++route.length;
    emit(part.children[0], route, above);
    const unsigned last = route.length - 1u;
    route.address[last / 8] = static_cast<std::uint8_t>(route.address[last / 8] | 0x80u >> last % 8);
    emit(part.children[1], route, above);
    route.address[last / 8] = static_cast<std::uint8_t>(route.address[last / 8] & ~(0x80u >> last % 8));
    --route.length;
  }

  std::uint32_t add(Part part) {
    parts_.push_back(std::move(part));
    return static_cast<std::uint32_t>(parts_.size() - 1);
  }

  const std::vector<Route>& routes_;
  std::vector<Part> parts_;  // the first stands for "none"
  std::vector<Route> out_;
};

}  // namespace

std::vector<Fib::Route> Fib::aggregated(int family) const {
  const std::uint8_t zero[16] = {};
  const std::vector<Route> all = routes(family, zero, 0);
  return Aggregation(all).run();
}

}  // namespace fastpath
