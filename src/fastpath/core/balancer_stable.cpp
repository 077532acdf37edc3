// The low-disruption table.
//
// Every backend throws darts at the slots, at times given by its key alone and scaled by its weight: dart j
// of a node hits slot draw(node, 2j) mod slots at time (j + u) / weight. In order of time, a dart takes its
// slot if the slot is free and the backend is below its cap. Times and slots of one backend know nothing of
// the others: that is weighted rendezvous hashing with a cap, whose stable matching the greedy order is (both
// sides rank by time). Only what a changed backend gains or loses, and what is pushed over a cap by that,
// moves.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "fastpath/balance/table.hpp"

namespace fastpath::balance {

namespace {

struct Dart {
  double time;
  std::uint32_t slot;
  std::uint32_t node;
};

// A share rounded up always fits, so the caps leave room for every slot.
std::uint32_t most_slots(double share, double slack) {
  return static_cast<std::uint32_t>(std::ceil(share * (1.0 + slack)));
}

// The places of the `count` least loads, and mostly few more. Halving a range takes no branch that depends on
// a load, which would be mispredicted every other time.
std::vector<std::uint32_t> least_of(const std::vector<float>& loads, std::size_t count) {
  const auto up_to = [&](float bound) {
    std::uint32_t found = 0;
    for (const float load : loads) found += load <= bound;
    return found;
  };
  // A load is mostly near 1, or -1 where the most loaded come first.
  float low = -2.0F;
  float high = 2.0F;
  if (up_to(high) < count) high = std::numeric_limits<float>::infinity();
  for (int step = 0; step < 10 && high <= 2.0F; ++step) {
    const float middle = (low + high) / 2;
    (up_to(middle) < count ? low : high) = middle;
  }
  std::vector<std::uint32_t> places(loads.size());
  std::size_t found = 0;
  for (std::uint32_t i = 0; i < loads.size(); ++i) {
    places[found] = i;
    found += loads[i] <= high;
  }
  places.resize(found);
  return places;
}

}  // namespace

std::vector<std::uint32_t> stable_fill(const std::vector<std::uint64_t>& node_hash,
                                       const std::vector<double>& weights, std::uint32_t slots,
                                       double slack) {
  constexpr std::uint32_t kFree = 0xFFFFFFFFu;
  const std::size_t n = weights.size();
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::uint32_t> table(slots, kFree);
  std::vector<std::uint32_t> room(n);
  std::vector<std::uint64_t> thrown(n, 0);
  for (std::size_t i = 0; i < n; ++i) {
    room[i] = most_slots(weights[i] / total * slots, slack);
  }
  std::uint32_t left = slots;
  // Rounds of one dart for every slot on average, thrown by those who have room.
  const double round = static_cast<double>(slots) / total;
  std::vector<Dart> darts;
  for (double end = round; left > 0; end += round) {
    darts.clear();
    for (std::uint32_t i = 0; i < n; ++i) {
      if (room[i] == 0) continue;
      for (;; ++thrown[i]) {
        const std::uint64_t j = thrown[i];
        const double time = (static_cast<double>(j) + unit(draw(node_hash[i], 2 * j + 1))) / weights[i];
        if (time >= end) break;
        const auto slot = static_cast<std::uint32_t>(draw(node_hash[i], 2 * j) % slots);
        if (table[slot] == kFree) darts.push_back({time, slot, i});
      }
    }
    std::sort(darts.begin(), darts.end(), [](const Dart& a, const Dart& b) {
      return a.time != b.time ? a.time < b.time : a.node < b.node;
    });
    for (const Dart& dart : darts) {
      if (table[dart.slot] != kFree || room[dart.node] == 0) continue;
      table[dart.slot] = dart.node;
      --room[dart.node];
      --left;
    }
  }
  return table;
}

// Whoever is gone, or holds more than the cap, gives slots; whoever holds too few takes them. Nothing else
// moves, so a change moves its optimum; but the table depends on the ones before it.
void stable_repair(Table& table, const Table& before, std::uint32_t slots, double slack) {
  const std::size_t n = table.members.size();
  const Id largest = std::max(*std::max_element(table.members.begin(), table.members.end()),
                              *std::max_element(before.members.begin(), before.members.end()));
  // By id.
  std::vector<std::uint32_t> held(largest + 1, 0);
  std::vector<double> weight(largest + 1, 0.0);
  for (std::size_t i = 0; i < before.members.size(); ++i) {
    held[before.members[i]] = before.slots_held[i];
    weight[before.members[i]] = before.weights[i];
  }
  std::vector<double> share(n);
  for (std::size_t i = 0; i < n; ++i) share[i] = table.weights[i] / table.total_weight * slots;
  std::vector<std::uint32_t> goal(n);
  std::int64_t excess = -static_cast<std::int64_t>(slots);
  for (std::size_t i = 0; i < n; ++i) {
    const Id id = table.members[i];
    double wanted = held[id];
    if (weight[id] != table.weights[i]) wanted += share[i] - weight[id] / before.total_weight * slots;
    // Hardly anybody is at the cap, whose rounding the others are spared.
    if (wanted > share[i] * (1.0 + slack)) wanted = std::min<double>(wanted, most_slots(share[i], slack));
    goal[i] = static_cast<std::uint32_t>(std::max(wanted, 0.0) + 0.5);
    excess += goal[i];
  }
  if (excess != 0) {
    // The goals must add up: one at a time, the most loaded lowers its goal or the least loaded raises it.
    const bool lower = excess > 0;
    using Load = std::pair<double, std::size_t>;
    const auto load = [&](std::size_t i) { return lower ? -(goal[i] / share[i]) : (goal[i] + 1) / share[i]; };
    std::vector<float> loads(n);
    for (std::size_t i = 0; i < n; ++i) loads[i] = static_cast<float>(load(i));
    // So many steps cannot reach anybody but as many first ones; rounding to a float keeps the order.
    std::vector<Load> heap;
    for (const std::uint32_t i : least_of(loads, static_cast<std::size_t>(std::abs(excess)))) {
      heap.push_back({load(i), i});
    }
    std::make_heap(heap.begin(), heap.end(), std::greater<>());
    for (; excess != 0; excess += lower ? -1 : 1) {
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      Load& next = heap.back();
      goal[next.second] += lower ? -1 : 1;
      next.first = load(next.second);
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
  std::vector<Id> takers;
  std::vector<std::uint32_t> surplus = held;
  for (std::size_t i = 0; i < n; ++i) {
    const Id id = table.members[i];
    surplus[id] = held[id] > goal[i] ? held[id] - goal[i] : 0;
    if (goal[i] > held[id]) takers.insert(takers.end(), goal[i] - held[id], id);
  }
  table.ids = before.ids;
  table.ids.hand_over(surplus, takers);
  table.slots_held = std::move(goal);
}

namespace {

template <typename T>
void hand_over_in(std::vector<T>& ids, std::size_t size, std::vector<std::uint32_t>& surplus,
                  const std::vector<Id>& takers) {
  constexpr std::size_t kBlock = 64;
  constexpr std::size_t kGroup = 8;
  const auto gives = [](std::uint32_t left) { return left > 0; };
  auto givers = std::count_if(surplus.begin(), surplus.end(), gives);
  auto only = static_cast<T>(std::find_if(surplus.begin(), surplus.end(), gives) - surplus.begin());
  auto taker = takers.begin();
  const auto give = [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end && taker != takers.end(); ++i) {
      std::uint32_t& left = surplus[ids[i]];
      if (left == 0) continue;
      ids[i] = static_cast<T>(*taker++);
      if (--left == 0 && --givers == 1) {
        only = static_cast<T>(std::find_if(surplus.begin(), surplus.end(), gives) - surplus.begin());
      }
    }
  };
  // Where one alone gives, most blocks hold none of its slots; where many do, most groups.
  std::size_t begin = 0;
  for (; begin + kBlock <= size && taker != takers.end(); begin += kBlock) {
    const T* const block = ids.data() + begin;
    if (givers == 1) {
      T found = 0;
      for (std::size_t i = 0; i < kBlock; ++i) found |= static_cast<T>(block[i] == only);
      if (found == 0) continue;
    }
    for (std::size_t group = 0; group < kBlock; group += kGroup) {
      std::uint32_t left = 0;
      for (std::size_t i = 0; i < kGroup; ++i) left |= surplus[block[group + i]];
      if (left != 0) give(begin + group, begin + group + kGroup);
    }
  }
  give(begin, size);
}

}  // namespace

void IdArray::hand_over(std::vector<std::uint32_t>& surplus, const std::vector<Id>& takers) {
  if (wide_.empty()) {
    hand_over_in(narrow_, size_, surplus, takers);
  } else {
    hand_over_in(wide_, size_, surplus, takers);
  }
}

}  // namespace fastpath::balance
