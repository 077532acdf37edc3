// Leases, reports, ejections and slow start.
#include "fastpath/balance/balancer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace fastpath::balance {

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr double kNever = std::numeric_limits<double>::infinity();

}  // namespace

void Balancer::acquire(Id id) noexcept {
  Lane& lane = storage_->lanes[id];
  const std::uint32_t now = lane.in_flight.load(kRelaxed) + 1;
  lane.in_flight.store(now, kRelaxed);
  ++total_in_flight_;
  if (!dirty_ && (flags(id) & (kGone | kWeightless | kOutside)) == 0) {
    Tier& tier = *generation_.load(kRelaxed)->tiers[lane.tier];
    tier.in_flight.store(tier.in_flight.load(kRelaxed) + 1, kRelaxed);
  }
  if (options_.max_in_flight != 0 && now >= options_.max_in_flight) set_flags(id, kFull, 0);
}

void Balancer::release(Id id) noexcept {
  Lane& lane = storage_->lanes[id];
  const std::uint32_t now = lane.in_flight.load(kRelaxed) - 1;
  lane.in_flight.store(now, kRelaxed);
  --total_in_flight_;
  if (!dirty_ && (flags(id) & (kGone | kWeightless | kOutside)) == 0) {
    Tier& tier = *generation_.load(kRelaxed)->tiers[lane.tier];
    tier.in_flight.store(tier.in_flight.load(kRelaxed) - 1, kRelaxed);
  }
  if (options_.max_in_flight != 0 && now < options_.max_in_flight) set_flags(id, 0, kFull);
}

bool Balancer::retry_begins() noexcept {
  const double allowed = std::max(static_cast<double>(options_.min_retries),
                                  options_.retry_budget * static_cast<double>(total_in_flight_));
  if (static_cast<double>(retries_) >= allowed) return false;
  ++retries_;
  return true;
}

double Balancer::cost_of(const Lane& lane, double now) const noexcept {
  const double cost = lane.cost.load(kRelaxed);
  if (cost == 0.0) return 0.0;
  const double age = std::max(0.0, now - lane.stamp.load(kRelaxed));
  return cost * std::exp(-age / options_.decay_s);
}

double Balancer::effective_weight(Id id, double now) const noexcept {
  const Lane& lane = storage_->lanes[id];
  return lane.weight.load(kRelaxed) * ((flags(id) & kRamping) != 0 ? ramp_factor(lane, now) : 1.0);
}

// The cost jumps up to a latency above it and comes down by its moving average. A failure counts as slow,
// however fast it came.
void Balancer::report(Id id, bool ok, double latency_s, double now) {
  Lane& lane = storage_->lanes[id];
  if (options_.table.policy == Policy::peak_ewma && (latency_s >= 0.0 || !ok)) {
    const double seen = ok ? latency_s : std::max(latency_s, options_.failure_latency_s);
    const double age = std::max(0.0, now - lane.stamp.load(kRelaxed));
    const double keep = std::exp(-age / options_.decay_s);
    const double held = lane.cost.load(kRelaxed);
    const double decayed = held * keep + seen * (1.0 - keep);
    lane.cost.store(std::max(seen > held ? seen : decayed, 1e-9), kRelaxed);
    lane.stamp.store(now, kRelaxed);
  }
  const Outlier& outlier = options_.outlier;
  if (!outlier.on || (flags(id) & kGone) != 0) return;
  if (next_sweep_ == kNever) {
    next_sweep_ = now + outlier.interval_s;
    schedule_event();
  }
  if (ok) {
    ++lane.passed;
    lane.consecutive = 0;
    return;
  }
  ++lane.failed;
  if (lane.consecutive < std::numeric_limits<std::uint16_t>::max()) ++lane.consecutive;
  if (outlier.consecutive_failures != 0 && lane.consecutive >= outlier.consecutive_failures) {
    lane.consecutive = 0;
    eject(id, now);
  }
}

void Balancer::eject(Id id, double now) {
  if ((flags(id) & (kEjected | kGone)) != 0) return;
  const Outlier& outlier = options_.outlier;
  std::size_t hosts = 0;
  for (const Entry& entry : entries_) hosts += entry.present;
  // The share is asked before, so that one backend may always go.
  if (!ejected_.empty() &&
      static_cast<double>(ejected_.size()) >= outlier.max_ejected * static_cast<double>(hosts)) {
    return;
  }
  if (outlier.max_ejected <= 0.0) return;
  Lane& lane = storage_->lanes[id];
  ++lane.ejections;
  lane.ejected_this_interval = true;
  const double longest = std::max(outlier.base_ejection_s, outlier.max_ejection_s);
  lane.ejected_until = now + std::min(outlier.base_ejection_s * lane.ejections, longest) +
                       outlier.jitter_s * unit(draw(~options_.seed, jitter_draws_++));
  ejected_.push_back(id);
  set_flags(id, kEjected, 0);
  schedule_event();
}

void Balancer::sweep(double now) {
  const Outlier& outlier = options_.outlier;
  double sum = 0.0;
  std::vector<std::pair<Id, double>> rates;
  std::vector<Id> failing;
  std::size_t measured = 0;
  bool any = false;
  for (Id id = 1; id < entries_.size(); ++id) {
    if (!entries_[id].present) continue;
    Lane& lane = storage_->lanes[id];
    const std::uint32_t requests = lane.passed + lane.failed;
    any = any || requests > 0;
    if (requests >= outlier.min_requests && (flags(id) & kEjected) == 0) {
      const double rate = 100.0 * lane.passed / requests;
      rates.push_back({id, rate});
      sum += rate;
      ++measured;
      if (outlier.failure_share > 0.0 && lane.failed >= outlier.failure_share * requests)
        failing.push_back(id);
    }
    if (!lane.ejected_this_interval && lane.ejections > 0 && (flags(id) & kEjected) == 0) --lane.ejections;
    lane.ejected_this_interval = false;
    lane.passed = 0;
    lane.failed = 0;
  }
  next_sweep_ = any || !ejected_.empty() ? now + outlier.interval_s : kNever;
  if (measured < outlier.min_hosts || measured == 0) return;
  const double mean = sum / static_cast<double>(measured);
  double variance = 0.0;
  for (const auto& [id, rate] : rates) variance += (rate - mean) * (rate - mean);
  const double deviation = std::sqrt(variance / static_cast<double>(measured));
  if (outlier.stdev_factor > 0.0) {
    for (const auto& [id, rate] : rates) {
      if (rate < mean - outlier.stdev_factor * deviation) eject(id, now);
    }
  }
  for (const Id id : failing) eject(id, now);
}

void Balancer::schedule_event() {
  next_event_ = next_sweep_;
  for (const Id id : ejected_) next_event_ = std::min(next_event_, storage_->lanes[id].ejected_until);
  for (const Id id : ramping_) {
    next_event_ =
        std::min(next_event_, storage_->lanes[id].ramp_start.load(kRelaxed) + options_.slow_start_s);
  }
}

void Balancer::tick(double now) {
  if (now >= next_sweep_) sweep(now);
  for (std::size_t i = 0; i < ejected_.size();) {
    const Id id = ejected_[i];
    if (now < storage_->lanes[id].ejected_until) {
      ++i;
      continue;
    }
    ejected_.erase(ejected_.begin() + static_cast<std::ptrdiff_t>(i));
    set_flags(id, 0, kEjected);
  }
  for (std::size_t i = 0; i < ramping_.size();) {
    const Id id = ramping_[i];
    if (now < storage_->lanes[id].ramp_start.load(kRelaxed) + options_.slow_start_s) {
      ++i;
      continue;
    }
    ramping_.erase(ramping_.begin() + static_cast<std::ptrdiff_t>(i));
    set_flags(id, 0, kRamping);
  }
  schedule_event();
}

std::size_t Balancer::nbytes() const noexcept {
  std::size_t bytes = sizeof *this + storage_->capacity * (sizeof(Lane) + 1);
  for (const Entry& entry : entries_)
    bytes += sizeof entry + (entry.key.size() > 15 ? entry.key.capacity() : 0);
  if (sticky_) bytes += 2u << options_.sticky_bits;
  const Generation* g = generation();
  bytes += sizeof *g;
  for (const auto& tier : g->tiers) bytes += sizeof *tier + tier->table.nbytes() - sizeof(Table);
  return bytes;
}

}  // namespace fastpath::balance
