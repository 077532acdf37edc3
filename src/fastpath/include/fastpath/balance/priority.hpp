// How much of the traffic each priority takes, and which of them panic: Envoy's integer arithmetic
// (load_balancer_impl.cc: recalculatePerPriorityState, ...Panic, ...LoadInTotalPanic).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastpath::balance {

struct PriorityLoad {
  std::uint64_t healthy = 0;
  std::uint64_t total = 0;
  std::uint32_t load = 0;  // percent; all loads add up to 100 unless nobody has members
  bool panic = false;
};

// `factor` is the overprovisioning factor in percent (140), `panic_threshold` in percent (0: never).
inline void distribute_load(std::vector<PriorityLoad>& priorities, std::uint64_t factor,
                            double panic_threshold) {
  std::vector<std::uint64_t> health(priorities.size());
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < priorities.size(); ++i) {
    PriorityLoad& p = priorities[i];
    p.load = 0;
    p.panic = false;
    health[i] = p.total == 0 ? 0 : std::min<std::uint64_t>(100, factor * p.healthy / p.total);
    sum += health[i];
  }
  const std::uint64_t normalized = std::min<std::uint64_t>(100, sum);
  if (normalized > 0) {
    std::uint64_t left = 100;
    PriorityLoad* first = nullptr;
    for (std::size_t i = 0; i < priorities.size(); ++i) {
      const std::uint64_t load = std::min(left, health[i] * 100 / normalized);
      priorities[i].load = static_cast<std::uint32_t>(load);
      left -= load;
      if (first == nullptr && health[i] > 0) first = &priorities[i];
    }
    first->load += static_cast<std::uint32_t>(left);
  }
  if (normalized == 100) return;
  bool everywhere = true;
  std::uint64_t members = 0;
  for (PriorityLoad& p : priorities) {
    const double percent =
        p.total == 0 ? 0.0 : 100.0 * static_cast<double>(p.healthy) / static_cast<double>(p.total);
    p.panic = percent < panic_threshold;
    everywhere = everywhere && p.panic;
    members += p.total;
  }
  if (!everywhere || members == 0) return;
  std::uint64_t left = 100;
  PriorityLoad* first = nullptr;
  for (PriorityLoad& p : priorities) {
    p.load = static_cast<std::uint32_t>(100 * p.total / members);
    left -= p.load;
    if (first == nullptr && p.total > 0) first = &p;
  }
  first->load += static_cast<std::uint32_t>(left);
}

}  // namespace fastpath::balance
