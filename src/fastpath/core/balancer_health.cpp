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
constexpr double kFarthest = 200.0;  // from the reference time, in decay times
constexpr double kLeastCost = 1e-9;
constexpr double kFailureFactor = 8.0;  // what a failure costs, in slowest answers

// What is left of a cost.
double decayed(const Latency& latency, double growth) noexcept {
  const double cost = latency.cost.load(kRelaxed);
  const double left = latency.level.load(kRelaxed) / growth;
  // What roundings take away is no age.
  return left < cost * (1.0 - 1e-12) ? left : cost;
}

}  // namespace

void Balancer::acquire(Id id) noexcept {
  Lane& lane = storage_->lanes[id];
  const std::uint32_t now = lane.in_flight.load(kRelaxed) + 1;
  lane.in_flight.store(now, kRelaxed);
  ++total_in_flight_;
  if (!dirty_ && (flags(id) & (kGone | kWeightless | kOutside)) == 0) {
    Tier& tier = *generation_.load(kRelaxed)->tiers[storage_->lanes[id].tier];
    tier.in_flight.store(tier.in_flight.load(kRelaxed) + 1, kRelaxed);
    update_load(tier, id);
  }
  if (options_.max_in_flight != 0 && now >= options_.max_in_flight) set_flags(id, kFull, 0);
}

void Balancer::release(Id id) noexcept {
  Lane& lane = storage_->lanes[id];
  const std::uint32_t now = lane.in_flight.load(kRelaxed) - 1;
  lane.in_flight.store(now, kRelaxed);
  --total_in_flight_;
  if (now == 0 && (flags(id) & kGone) != 0) free_ids_.push_back(id);
  if (!dirty_ && (flags(id) & (kGone | kWeightless | kOutside)) == 0) {
    Tier& tier = *generation_.load(kRelaxed)->tiers[storage_->lanes[id].tier];
    tier.in_flight.store(tier.in_flight.load(kRelaxed) - 1, kRelaxed);
    update_load(tier, id);
  }
  if (options_.max_in_flight != 0 && now < options_.max_in_flight) set_flags(id, 0, kFull);
}

bool Balancer::retry_begins() noexcept {
  // Whole requests, of those in flight before this one; what a product of decimals lacks is no request less.
  const double budget = std::floor(options_.retry_budget * static_cast<double>(total_in_flight_) + 1e-9);
  if (static_cast<double>(retries_) >= std::max(static_cast<double>(options_.min_retries), budget)) {
    return false;
  }
  ++retries_;
  return true;
}

double Balancer::cost(Id id, double now) const noexcept {
  if (!storage_->latencies) return 0.0;
  const Latency& latency = storage_->latencies[id];
  return decayed(latency, growth(now + set_back_));
}

double Balancer::effective_weight(Id id, double now) const noexcept {
  return weight(id) * ((flags(id) & kRamping) != 0 ? ramp_factor(*storage_, id, now) : 1.0);
}

// The cost jumps up to a latency above it and comes down by its moving average.
void Balancer::measure(Id id, double seen, double now, bool passed) {
  Latency& latency = storage_->latencies[id];
  double time = now + set_back_;
  if (time < latest_) {
    set_back_ += latest_ - time;
    time = latest_;
  }
  if (latest_ == -kNever) reference_ = time;  // a clock may begin anywhere
  latest_ = time;
  const double tau = options_.decay_s;
  if (!((time - reference_) / tau < kFarthest)) {
    // Levels must stay within what a double holds.
    const double factor = std::exp((reference_ - time) / tau);
    for (Id other = 1; other < entries_.size(); ++other) {
      std::atomic<double>& level = storage_->latencies[other].level;
      level.store(level.load(kRelaxed) * factor, kRelaxed);
    }
    slowest_ *= factor;
    reference_ = time;
  }
  const double held = latency.cost.load(kRelaxed);
  const double growth = this->growth(time);
  const double left = decayed(latency, growth);
  const double cost = std::max(seen >= held ? seen : left + seen * (1.0 - left / held), kLeastCost);
  latency.cost.store(cost, kRelaxed);
  latency.level.store(cost * growth, kRelaxed);
  // What failures cost must not raise what further ones cost.
  if (suspicious_.size() <= id) suspicious_.resize(entries_.size());
  const bool suspicious = !passed || (suspicious_[id] && cost * growth > slowest_);
  if (passed) slowest_ = std::max(slowest_, (suspicious ? seen : cost) * growth);
  suspicious_[id] = suspicious;
}

// Where answers take long, a failure must not look like a fast one: it costs more than the slowest answer
// behind an average queue.
double Balancer::failure_cost(double now) const noexcept {
  const double queue =
      static_cast<double>(total_in_flight_) / static_cast<double>(std::max<std::size_t>(present_, 1));
  const double slowest = slowest_ > 0.0 ? slowest_ / growth(std::max(now + set_back_, latest_)) : 0.0;
  return std::max(options_.failure_latency_s, kFailureFactor * slowest * (1.0 + queue));
}

void Balancer::report_abandoned(Id id, double waited_s, double now) {
  if (!storage_->latencies || waited_s <= cost(id, now)) return;
  measure(id, waited_s, now, false);
}

// A failure counts as slow, however fast it came.
void Balancer::report(Id id, bool ok, double latency_s, double now) {
  if (due(now)) tick(now);  // an ejection that is over must not keep out the next one
  if (storage_->latencies && (latency_s >= 0.0 || !ok)) {
    measure(id, ok ? latency_s : std::max(latency_s, failure_cost(now)), now, ok);
  }
  const Outlier& outlier = options_.outlier;
  if (!outlier.on || (flags(id) & kGone) != 0) return;
  Record& record = records_[id];
  if (next_sweep_ == kNever) {
    next_sweep_ = now + outlier.interval_s;
    schedule_event();
  }
  if (ok) {
    ++record.passed;
    record.consecutive = 0;
    return;
  }
  ++record.failed;
  if (record.consecutive < std::numeric_limits<std::uint16_t>::max()) ++record.consecutive;
  if (outlier.consecutive_failures != 0 && record.consecutive >= outlier.consecutive_failures) {
    record.consecutive = 0;
    eject(id, now);
  }
}

void Balancer::eject(Id id, double now) {
  if ((flags(id) & (kEjected | kGone)) != 0) return;
  const Outlier& outlier = options_.outlier;
  if (outlier.max_ejected <= 0.0) return;
  // One backend may always go. What a product of decimals lacks is no backend less.
  const double most = outlier.max_ejected * static_cast<double>(present_) + 1e-9;
  if (!ejected_.empty() && static_cast<double>(ejected_.size() + 1) > most) return;
  Record& record = records_[id];
  const double calm = std::floor(std::max(now - record.ejected_until, 0.0) / outlier.interval_s);
  record.ejections = static_cast<std::uint16_t>(std::max(record.ejections - calm, 0.0));
  if (record.ejections < std::numeric_limits<std::uint16_t>::max()) ++record.ejections;
  const double longest = std::max(outlier.base_ejection_s, outlier.max_ejection_s);
  record.ejected_until = now + std::min(outlier.base_ejection_s * record.ejections, longest) +
                         outlier.jitter_s * unit(draw(~options_.seed, jitter_draws_++));
  ejected_.push_back(id);
  set_flags(id, kEjected, 0);
  next_event_ = std::min(next_event_, record.ejected_until);
}

void Balancer::sweep(double now) {
  const Outlier& outlier = options_.outlier;
  double sum = 0.0;
  std::vector<std::pair<Id, double>> rates;
  std::vector<Id> failing;
  std::size_t measured = 0;
  bool any = false;
  for (Id id = 1; id < entries_.size(); ++id) {
    if (!present(id)) continue;
    Record& record = records_[id];
    const std::uint32_t requests = record.passed + record.failed;
    any = any || requests > 0;
    if (requests >= outlier.min_requests && (flags(id) & kEjected) == 0) {
      const double rate = 100.0 * record.passed / requests;
      rates.push_back({id, rate});
      sum += rate;
      ++measured;
      if (outlier.failure_share > 0.0 && record.failed >= outlier.failure_share * requests)
        failing.push_back(id);
    }
    record.passed = 0;
    record.failed = 0;
  }
  next_sweep_ = any ? now + outlier.interval_s : kNever;
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
  for (const Id id : ejected_) next_event_ = std::min(next_event_, records_[id].ejected_until);
  for (const Id id : ramping_) {
    next_event_ = std::min(next_event_, storage_->ramps[id].start.load(kRelaxed) + options_.slow_start_s);
  }
}

void Balancer::tick(double now) {
  if (now >= next_sweep_) sweep(now);
  std::erase_if(ejected_, [&](Id id) {
    if (now < records_[id].ejected_until) return false;
    set_flags(id, 0, kEjected);
    return true;
  });
  std::erase_if(ramping_, [&](Id id) {
    if (now < storage_->ramps[id].start.load(kRelaxed) + options_.slow_start_s) return false;
    set_flags(id, 0, kRamping);
    return true;
  });
  schedule_event();
}

std::size_t Balancer::nbytes() const noexcept {
  const Generation* g = generation();
  std::size_t bytes = sizeof *this + suspicious_.capacity() / 8 + storage_->nbytes() +
                      entries_.capacity() * sizeof(Entry) + keys_.nbytes() +
                      records_.capacity() * sizeof(Record) + places_.capacity() * sizeof(std::uint32_t) +
                      free_ids_.size() * sizeof(Id) + sizeof *g;
  if (sticky_) bytes += sticky_->nbytes();
  if (g->storage != storage_) bytes += g->storage->nbytes();
  for (const auto& tier : g->tiers) {
    bytes += sizeof *tier + tier->table.nbytes() - sizeof(Table) + tier->least.nbytes() +
             (tier->outset ? tier->outset->nbytes() : 0);
  }
  return bytes;
}

}  // namespace fastpath::balance
