// Finding rules that can never match.
#include "fastpath/policy/shadow.hpp"

#include <algorithm>
#include <utility>

namespace fastpath {
namespace {

using Key = std::pair<std::uint64_t, std::uint64_t>;

Key key(std::uint32_t value) noexcept { return {0, value}; }
Key key(const Address16& address) noexcept { return {address.high, address.low}; }
Key after(const Key& value) noexcept { return {value.first + (value.second + 1 == 0), value.second + 1}; }

std::uint32_t last_of(std::uint32_t address, unsigned length) noexcept {
  return address | ~prefix_mask<std::uint32_t>(length);
}
Address16 last_of(const Address16& address, unsigned length) noexcept {
  const auto mask = prefix_mask<Address16>(length);
  return {address.high | ~mask.high, address.low | ~mask.low};
}

template <typename Address>
std::array<std::array<Key, 2>, 5> ranges(const PolicyRule<Address>& rule) noexcept {
  const bool any = rule.protocol == 256;
  return {{{key(rule.source), key(last_of(rule.source, rule.source_length))},
           {key(rule.destination), key(last_of(rule.destination, rule.destination_length))},
           {key(rule.source_ports[0]), key(rule.source_ports[1])},
           {key(rule.destination_ports[0]), key(rule.destination_ports[1])},
           {key(any ? 0 : rule.protocol), key(any ? 255 : rule.protocol)}}};
}

}  // namespace

template <typename Address>
PolicyShadow::PolicyShadow(const std::vector<PolicyRule<Address>>& rules, std::vector<std::uint8_t> asked)
    : boxes_(rules.size()), asked_(std::move(asked)), shadowed_(rules.size()) {
  for (std::size_t field = 0; field < kFields; ++field) {
    std::vector<Key> starts;  // of the stretches that no bound divides
    for (const auto& rule : rules) {
      const auto [low, high] = ranges(rule)[field];
      starts.push_back(low);
      starts.push_back(after(high));  // of the very last one: 0, which is below all ranks asked for
    }
    std::sort(starts.begin(), starts.end());
    starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
    for (std::size_t i = 0; i < rules.size(); ++i) {
      const auto [low, high] = ranges(rules[i])[field];
      boxes_[i].low[field] =
          static_cast<std::int32_t>(std::lower_bound(starts.begin(), starts.end(), low) - starts.begin());
      boxes_[i].high[field] =
          static_cast<std::int32_t>(std::upper_bound(starts.begin(), starts.end(), high) - starts.begin());
    }
  }
}

bool PolicyShadow::gather(std::size_t rule) {
  const Box& box = boxes_[rule];
  const std::size_t n = earlier_[0].size();
  overlaps_.assign(n, -1);
  for (std::size_t field = 0; field < kFields; ++field) {
    const std::int32_t* lows = earlier_[field].data();
    const std::int32_t* highs = earlier_[kFields + field].data();
    const std::int32_t low = box.low[field], high = box.high[field];
    for (std::size_t i = 0; i < n; ++i) overlaps_[i] &= -((lows[i] < high) & (low < highs[i]));
  }
  arena_.clear();
  for (std::size_t i = 0; i < n; ++i) {
    if (overlaps_[i] == 0) continue;
    Box hole;
    bool covers = true;
    for (std::size_t field = 0; field < kFields; ++field) {
      hole.low[field] = earlier_[field][i];
      hole.high[field] = earlier_[kFields + field][i];
      covers &= hole.low[field] <= box.low[field] && hole.high[field] >= box.high[field];
    }
    if (covers) return true;
    arena_.push_back(hole);
  }
  return false;
}

bool PolicyShadow::close(Box& room, std::vector<Box>& boxes) {
  std::vector<std::pair<std::int32_t, std::int32_t>> slabs;
  std::vector<std::int32_t> removed;
  for (bool again = true; again;) {
    again = false;
    for (std::size_t field = 0; field < kFields; ++field) {
      slabs.clear();
      for (const Box& box : boxes) {
        bool slab = true;
        for (std::size_t other = 0; other < kFields; ++other) {
          slab &=
              other == field || (box.low[other] == room.low[other] && box.high[other] == room.high[other]);
        }
        if (slab) slabs.emplace_back(box.low[field], box.high[field]);
      }
      spent_ += boxes.size();
      if (slabs.empty()) continue;
      again = true;
      std::sort(slabs.begin(), slabs.end());
      // Disjoint ones, and how much has gone before each.
      std::size_t kept = 0;
      for (const auto& slab : slabs) {
        if (kept != 0 && slab.first <= slabs[kept - 1].second) {
          slabs[kept - 1].second = std::max(slabs[kept - 1].second, slab.second);
        } else {
          slabs[kept++] = slab;
        }
      }
      slabs.resize(kept);
      removed.assign(1, 0);
      for (const auto& slab : slabs) removed.push_back(removed.back() + slab.second - slab.first);
      const auto closed = [&](std::int32_t at) {
        const auto next = std::upper_bound(slabs.begin(), slabs.end(), std::pair{at, INT32_MAX});
        const auto before = static_cast<std::size_t>(next - slabs.begin());
        if (before == 0) return at;
        const auto& slab = slabs[before - 1];
        return at - removed[before - 1] - (std::min(at, slab.second) - slab.first);
      };
      room.high[field] = closed(room.high[field]);
      if (room.low[field] >= room.high[field]) return true;
      std::size_t left = 0;
      for (Box& box : boxes) {
        box.low[field] = closed(box.low[field]);
        box.high[field] = closed(box.high[field]);
        if (box.low[field] >= box.high[field]) continue;
        if (box.low == room.low && box.high == room.high) return true;
        boxes[left++] = box;
      }
      boxes.resize(left);
    }
  }
  return false;
}

void PolicyShadow::split(const Box& room, const std::vector<Box>& boxes, std::size_t from) {
  // What a box costs below, by how many of its sides lie inside the room: slabs go at once.
  static constexpr std::array<double, kFields + 1> kCost = {0, 0.1, 1, 4, 16, 64};
  const auto inside = [&](const Box& box, std::size_t field) {
    return box.low[field] != room.low[field] || box.high[field] != room.high[field];
  };
  std::vector<std::int32_t> bounds;
  std::vector<std::uint8_t> sides;
  for (const Box& box : boxes) {
    std::uint8_t count = 0;
    for (std::size_t field = 0; field < kFields; ++field) count += inside(box, field);
    sides.push_back(count);
  }
  double least = -1;
  std::array<Question, 2> best;
  std::array<double, 2> best_cost{};
  for (std::size_t field = 0; field < kFields; ++field) {
    bounds.clear();
    for (const Box& box : boxes) {
      if (box.low[field] != room.low[field]) bounds.push_back(box.low[field]);
      if (box.high[field] != room.high[field]) bounds.push_back(box.high[field]);
    }
    if (bounds.empty()) continue;
    const auto middle = bounds.begin() + static_cast<std::ptrdiff_t>(bounds.size() / 2);
    std::nth_element(bounds.begin(), middle, bounds.end());
    const std::int32_t cut = *middle;
    std::array<double, 2> cost{};
    std::array<bool, 2> covered{};
    for (std::size_t i = 0; i < boxes.size(); ++i) {
      const std::int32_t low = boxes[i].low[field], high = boxes[i].high[field];
      const std::size_t others = sides[i] - std::size_t{inside(boxes[i], field)};
      const auto add = [&](std::size_t half, std::int32_t start, std::int32_t end) {
        if (low >= end || high <= start) return;
        const std::size_t count = others + (low > start || high < end);
        cost[half] += kCost[count];
        covered[half] |= count == 0;
      };
      add(0, room.low[field], cut);
      add(1, cut, room.high[field]);
    }
    for (std::size_t half = 0; half < 2; ++half) {
      if (covered[half]) cost[half] = 0;
    }
    if (least >= 0 && cost[0] + cost[1] >= least) continue;
    least = cost[0] + cost[1];
    best_cost = cost;
    best = {Question{room, from, from + boxes.size()}, Question{room, from, from + boxes.size()}};
    best[0].room.high[field] = cut;
    best[1].room.low[field] = cut;
  }
  spent_ += boxes.size();
  // The emptier half is asked first: what is free ends the search.
  const std::size_t first = best_cost[1] < best_cost[0];
  questions_.push_back(best[1 - first]);
  questions_.push_back(best[first]);
}

bool PolicyShadow::ask(const Question& question) {
  Box room = question.room;
  std::vector<Box> boxes;
  spent_ += question.to - question.from + 1;
  for (std::size_t i = question.from; i < question.to; ++i) {
    Box box = arena_[i];
    bool overlaps = true;
    for (std::size_t field = 0; field < kFields; ++field) {
      box.low[field] = std::max(box.low[field], room.low[field]);
      box.high[field] = std::min(box.high[field], room.high[field]);
      overlaps &= box.low[field] < box.high[field];
    }
    if (!overlaps) continue;
    if (box.low == room.low && box.high == room.high) return true;
    boxes.push_back(box);
  }
  if (close(room, boxes)) return true;
  if (boxes.empty()) return false;
  arena_.resize(question.to);  // what is beyond belongs to questions that are answered
  arena_.insert(arena_.end(), boxes.begin(), boxes.end());
  split(room, boxes, question.to);
  return true;
}

void PolicyShadow::finish(bool shadowed) {
  shadowed_[rule_] = shadowed;
  questions_.clear();
  if (!shadowed) {
    for (std::size_t field = 0; field < kFields; ++field) {
      earlier_[field].push_back(boxes_[rule_].low[field]);
      earlier_[kFields + field].push_back(boxes_[rule_].high[field]);
    }
  }
  ++rule_;
}

bool PolicyShadow::run(std::uint64_t steps) {
  spent_ = 0;
  while (rule_ < boxes_.size()) {
    if (spent_ >= steps) return false;
    if (questions_.empty()) {
      if (asked_[rule_] == 0) {
        finish(false);
        continue;
      }
      spent_ += earlier_[0].size() / 16 + 1;
      if (gather(rule_)) {
        finish(true);
        continue;
      }
      questions_.push_back({boxes_[rule_], 0, arena_.size()});
    }
    const Question question = questions_.back();
    questions_.pop_back();
    if (!ask(question)) {
      finish(false);
    } else if (questions_.empty()) {
      finish(true);
    }
  }
  return true;
}

template PolicyShadow::PolicyShadow(const std::vector<PolicyRule<std::uint32_t>>&, std::vector<std::uint8_t>);
template PolicyShadow::PolicyShadow(const std::vector<PolicyRule<Address16>>&, std::vector<std::uint8_t>);

}  // namespace fastpath
