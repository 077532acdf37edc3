// Orders of picks for weighted round robin.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "fastpath/balance/table.hpp"

namespace fastpath::balance {

namespace {

std::uint64_t sum_of(const std::vector<std::uint64_t>& weights) {
  return std::accumulate(weights.begin(), weights.end(), std::uint64_t{0});
}

}  // namespace

// Each step adds a backend's weight to its credit; the largest credit wins (the first of equal ones) and pays
// the sum of all weights. The credit over that sum is the deviation from the ideal share.
std::vector<std::uint32_t> smooth_schedule(const std::vector<std::uint64_t>& weights) {
  const auto period = static_cast<std::int64_t>(sum_of(weights));
  std::vector<std::int64_t> credit(weights.size(), 0);
  std::vector<std::uint32_t> order;
  order.reserve(static_cast<std::size_t>(period));
  for (std::int64_t step = 0; step < period; ++step) {
    std::size_t best = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      credit[i] += static_cast<std::int64_t>(weights[i]);
      if (credit[i] > credit[best]) best = i;
    }
    credit[best] -= period;
    order.push_back(static_cast<std::uint32_t>(best));
  }
  return order;
}

// Pick k of a backend may happen in the window [floor(k*W/w), ceil((k+1)*W/w)) and earliest deadline goes
// first: a feasible Pfair schedule, so that no prefix is a whole pick away from its share (Baruah, Cohen,
// Plaxton, Varvel, "Proportionate progress", 1996).
std::vector<std::uint32_t> even_schedule(const std::vector<std::uint64_t>& weights) {
  const std::uint64_t period = sum_of(weights);
  using Job = std::pair<std::uint64_t, std::uint32_t>;
  // Who is released at a step, as lists through `next`: a backend waits for one release at a time.
  constexpr std::uint32_t kNobody = 0xFFFFFFFFu;
  std::vector<std::uint32_t> released(period + 1, kNobody);
  std::vector<std::uint32_t> next(weights.size(), kNobody);
  std::vector<std::uint64_t> done(weights.size(), 0);
  std::vector<Job> ready;
  const auto release = [&](std::uint32_t i, std::uint64_t step) {
    next[i] = released[step];
    released[step] = i;
  };
  for (std::uint32_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0) release(i, 0);
  }
  std::vector<std::uint32_t> order;
  order.reserve(period);
  for (std::uint64_t step = 0; step < period; ++step) {
    for (std::uint32_t i = released[step]; i != kNobody; i = next[i]) {
      ready.emplace_back(((done[i] + 1) * period + weights[i] - 1) / weights[i], i);
      std::push_heap(ready.begin(), ready.end(), std::greater<>());
    }
    std::pop_heap(ready.begin(), ready.end(), std::greater<>());
    const std::uint32_t i = ready.back().second;
    ready.pop_back();
    order.push_back(i);
    if (++done[i] < weights[i]) release(i, std::max(done[i] * period / weights[i], step + 1));
  }
  return order;
}

std::vector<std::uint32_t> even_starts(const std::vector<std::uint32_t>& order, std::size_t n) {
  const auto period = static_cast<std::int64_t>(order.size());
  std::vector<std::int64_t> weight(n, 0);
  for (const std::uint32_t i : order) ++weight[i];
  // How far a backend is ahead of its share at a step, times the period. It falls but for its own picks, so
  // that extremes are just before and after those.
  struct Range {
    std::int64_t least = 0;
    std::int64_t most = 0;
    std::int64_t count = 0;
    std::int64_t since = 0;  // the step after its last pick
  };
  std::vector<Range> ranges(n);
  for (std::int64_t step = 0; step < period; ++step) {
    const std::uint32_t i = order[static_cast<std::size_t>(step)];
    Range& range = ranges[i];
    range.least = std::min(range.least, range.count * period - weight[i] * step);
    ++range.count;
    range.most = std::max(range.most, range.count * period - weight[i] * (step + 1));
  }
  // From a start at which it is ahead by d, all deviations are less by d: most - period < d < least + period.
  // How many backends allow a start, as differences from one step to the next.
  std::vector<std::int64_t> allow(order.size() + 1, 0);
  const auto stretch = [&](std::uint32_t i, std::int64_t end) {
    const Range& range = ranges[i];
    const std::int64_t ahead = range.count * period;  // less weight * step
    std::int64_t first = range.since;
    if (const std::int64_t over = ahead - range.least - period; over >= 0) {
      first = std::max(first, over / weight[i] + 1);
    }
    const std::int64_t under = ahead - range.most + period;
    const std::int64_t last = under <= 0 ? 0 : std::min(end, (under - 1) / weight[i] + 1);
    if (first >= last) return;
    ++allow[static_cast<std::size_t>(first)];
    --allow[static_cast<std::size_t>(last)];
  };
  for (Range& range : ranges) range.count = 0;
  for (std::int64_t step = 0; step < period; ++step) {
    const std::uint32_t i = order[static_cast<std::size_t>(step)];
    stretch(i, step + 1);
    ++ranges[i].count;
    ranges[i].since = step + 1;
  }
  std::int64_t users = 0;
  for (std::uint32_t i = 0; i < n; ++i) {
    if (weight[i] == 0) continue;
    ++users;
    stretch(i, period);
  }
  std::vector<std::uint32_t> starts;
  std::int64_t allowed = 0;
  for (std::uint32_t step = 0; step < order.size(); ++step) {
    allowed += allow[step];
    if (allowed == users) starts.push_back(step);
  }
  return starts;
}

// The walk of the Linux virtual server: a threshold falls from the largest weight by the greatest common
// divisor, and everybody at or above it is chosen in turn.
std::vector<std::uint32_t> lvs_schedule(const std::vector<std::uint64_t>& weights) {
  std::uint64_t divisor = 0;
  std::uint64_t largest = 0;
  for (const std::uint64_t weight : weights) {
    divisor = std::gcd(divisor, weight);
    largest = std::max(largest, weight);
  }
  std::vector<std::uint32_t> order;
  for (std::uint64_t threshold = largest; threshold > 0; threshold -= divisor) {
    for (std::uint32_t i = 0; i < weights.size(); ++i) {
      if (weights[i] >= threshold) order.push_back(i);
    }
  }
  return order;
}

std::vector<std::uint16_t> stride_weights(const std::vector<double>& weights, bool grpc) {
  constexpr double kMax = 65535.0;
  constexpr double kMaxRatio = 10.0;
  constexpr double kMinRatio = 0.01;
  double sum = 0.0;
  double largest = 0.0;
  std::size_t present = 0;
  for (const double weight : weights) {
    sum += weight;
    largest = std::max(largest, weight);
    present += weight > 0.0;
  }
  if (present == 0 || (grpc && weights.size() < 2)) return {};
  const double unscaled_mean = sum / static_cast<double>(present);
  if (grpc && largest / unscaled_mean > kMaxRatio) largest = kMaxRatio * unscaled_mean;
  const double scale = kMax / largest;
  const auto mean = static_cast<std::uint16_t>(std::lround(scale * unscaled_mean));
  const auto floor =
      grpc ? std::max<std::uint16_t>(1, static_cast<std::uint16_t>(std::lround(mean * kMinRatio)))
           : std::uint16_t{1};
  std::vector<std::uint16_t> scaled;
  scaled.reserve(weights.size());
  for (const double weight : weights) {
    if (weight == 0.0) {
      scaled.push_back(mean);
    } else {
      const double capped = std::min(weight, largest);
      scaled.push_back(std::max(static_cast<std::uint16_t>(std::lround(capped * scale)), floor));
    }
  }
  return scaled;
}

}  // namespace fastpath::balance
