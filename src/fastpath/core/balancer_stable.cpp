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
#include <numeric>

#include "fastpath/balance/table.hpp"

namespace fastpath::balance {

namespace {

struct Dart {
  double time;
  std::uint32_t slot;
  std::uint32_t node;
};

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
    room[i] = static_cast<std::uint32_t>(std::ceil(weights[i] / total * slots * (1.0 + slack)));
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

}  // namespace fastpath::balance
