// Picks off the shortest path, members, flags and counters.
#include "fastpath/balance/balancer.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>
#include <utility>

#include "fastpath/balance/priority.hpp"
#include "fastpath/hash.hpp"

namespace fastpath::balance {

namespace {

constexpr int kTries = 32;  // random choices before everybody is looked at
constexpr std::uint64_t kStrideTries = std::uint64_t{1} << 16;
constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kUnmeasured = 1e6;  // cost of a backend with requests under way and no answer yet

}  // namespace

void Lane::copy_from(const Lane& other) noexcept {
  in_flight.store(other.in_flight.load(kRelaxed), kRelaxed);
  tier = other.tier;
  consecutive = other.consecutive;
  weight.store(other.weight.load(kRelaxed), kRelaxed);
  cost.store(other.cost.load(kRelaxed), kRelaxed);
  stamp.store(other.stamp.load(kRelaxed), kRelaxed);
  passed = other.passed;
  failed = other.failed;
  ejected_until = other.ejected_until;
  ramp_from.store(other.ramp_from.load(kRelaxed), kRelaxed);
  ejections = other.ejections;
  ejected_this_interval = other.ejected_this_interval;
  ramp_start.store(other.ramp_start.load(kRelaxed), kRelaxed);
}

// --- one pick
// ------------------------------------------------------------------------------------------------

// What one pick knows while it looks for a backend.
struct Balancer::Choice {
  const Ask& ask;
  const Tier& tier;
  const std::atomic<std::uint8_t>* flags;
  const Lane* lanes;
  std::uint8_t mask;
  std::uint64_t salt;  // the hash or the draw, which decides about backends that are being warmed up
  double bound;        // in-flight requests for one unit of weight; infinity: no bound
  Reason reason;
  std::size_t capacity;  // of the flags, for sets of excluded backends
  Id id = 0;
};

double Balancer::ramp_factor(const Lane& lane, double now) const noexcept {
  if (options_.slow_start_s <= 0.0) return 1.0;
  const double elapsed = std::max(now - lane.ramp_start.load(kRelaxed), 0.001);
  if (elapsed >= options_.slow_start_s) return 1.0;
  double part = elapsed / options_.slow_start_s;
  if (options_.slow_start_aggression != 1.0) part = std::pow(part, 1.0 / options_.slow_start_aggression);
  const auto from = static_cast<double>(lane.ramp_from.load(kRelaxed));
  return from + (1.0 - from) * std::max(options_.slow_start_min, part);
}

// ok or drain_sticky: the backend may take this pick. Anything else: why it may not.
Reason Balancer::verdict(const Choice& choice, Id id) const noexcept {
  if (choice.ask.exclude != nullptr && (*choice.ask.exclude)[id]) return Reason::empty;
  const Lane& lane = choice.lanes[id];
  Reason answer = Reason::ok;
  const std::uint8_t held = choice.flags[id].load(kRelaxed) & choice.mask;
  if (held != 0) {
    if ((held & ~(kRamping | kDraining)) != 0)
      return (held & ~kFull) == 0 ? Reason::overloaded : Reason::rehashed;
    if ((held & kDraining) != 0) {
      if (!choice.ask.keyed || !remembered(choice.ask.hash)) return Reason::rehashed;
      answer = Reason::drain_sticky;
    }
    if ((held & kRamping) != 0 &&
        unit(mix64(choice.salt ^ (id * kGolden))) >= ramp_factor(lane, choice.ask.now)) {
      return Reason::slow_start;
    }
  }
  if (choice.bound < kNever) {
    const double cap = std::ceil(choice.bound * lane.weight.load(kRelaxed));
    if (static_cast<double>(lane.in_flight.load(kRelaxed)) >= cap) return Reason::over_bound;
  }
  return answer;
}

// By weight among all that may take the pick, backends in slow start with the part of their weight that they
// have reached.
Id Balancer::fallback(Choice& choice, std::uint64_t x) const noexcept {
  const Table& table = choice.tier.table;
  const auto open = [&](std::size_t i) {
    const Id id = table.members[i];
    if (choice.ask.exclude != nullptr && (*choice.ask.exclude)[id]) return 0.0;
    const std::uint8_t held = choice.flags[id].load(kRelaxed) & choice.mask;
    if ((held & ~kRamping) != 0) return 0.0;
    const Lane& lane = choice.lanes[id];
    if (choice.bound < kNever && static_cast<double>(lane.in_flight.load(kRelaxed)) >=
                                     std::ceil(choice.bound * lane.weight.load(kRelaxed))) {
      return 0.0;
    }
    return table.weights[i] * (held != 0 ? ramp_factor(lane, choice.ask.now) : 1.0);
  };
  double total = 0.0;
  for (std::size_t i = 0; i < table.members.size(); ++i) total += open(i);
  if (total <= 0.0) return 0;
  double left = unit(x) * total;
  Id last = 0;
  for (std::size_t i = 0; i < table.members.size(); ++i) {
    const double part = open(i);
    if (part <= 0.0) continue;
    last = table.members[i];
    if (left < part) break;
    left -= part;
  }
  return last;
}

void Balancer::choose_hashed(Choice& choice) const noexcept {
  const Table& table = choice.tier.table;
  const std::uint64_t hash = choice.ask.hash;
  Reason first = Reason::ok;
  const auto accepts = [&](Id id) {
    const Reason answer = verdict(choice, id);
    if (choice.ask.trace != nullptr && std::none_of(choice.ask.trace->begin(), choice.ask.trace->end(),
                                                    [id](const Considered& seen) { return seen.id == id; })) {
      choice.ask.trace->push_back({id, answer});
    }
    if (answer == Reason::ok || answer == Reason::drain_sticky) {
      choice.id = id;
      if (answer == Reason::drain_sticky) first = answer;
      return true;
    }
    if (first == Reason::ok && answer != Reason::empty) first = answer;
    return false;
  };
  const auto settle = [&] {
    if (first != Reason::ok) choice.reason = first == Reason::overloaded ? Reason::rehashed : first;
  };
  switch (table.kind) {
    case TableKind::slots:
    case TableKind::jump: {
      const bool envoy = options_.table.compat == Compat::envoy;
      for (std::uint64_t attempt = 0; attempt < kTries; ++attempt) {
        const std::uint64_t h = attempt == 0 ? hash : envoy ? hash ^ (0 - attempt) : draw(hash, attempt - 1);
        const std::size_t n = table.ids.size();
        const std::size_t place =
            table.kind == TableKind::slots ? h % n : jump_hash(h, static_cast<std::uint32_t>(n));
        if (accepts(table.ids[place])) return settle();
      }
      break;
    }
    case TableKind::ring: {
      const std::size_t n = table.points.size();
      std::size_t i = table.ring_index(hash);
      Id before = 0;
      for (std::size_t step = 0; step < n; ++step, i = i + 1 == n ? 0 : i + 1) {
        if (table.owners[i] == before) continue;
        before = table.owners[i];
        if (accepts(before)) return settle();
      }
      break;
    }
    default: {
      const bool murmur = options_.table.compat == Compat::pymemcache;
      std::string text;
      Id best_anybody = 0;
      double lowest_anybody = kNever;
      double lowest = kNever;
      for (std::size_t i = 0; i < table.members.size(); ++i) {
        const Id id = table.members[i];
        double score;
        if (murmur) {
          text = entries_[id].key;
          text += '-';
          if (choice.ask.key != nullptr) {
            text.append(static_cast<const char*>(choice.ask.key), choice.ask.key_size);
          } else {
            text += std::to_string(hash);
          }
          score = -static_cast<double>(murmur3_32(text.data(), text.size()));
        } else {
          // -ln(u) is at least 1 - u, which mostly spares the logarithm.
          const double u = unit_above_zero(mix64(hash ^ table.node_hash[i]));
          const double least = (1.0 - u) * table.inverse_weight[i];
          if (least > lowest && least > lowest_anybody) continue;
          score = -std::log(u) * table.inverse_weight[i];
        }
        const auto better = [&](double than, Id holder) {
          return score < than ||
                 (murmur && holder != 0 && score == than && entries_[id].key > entries_[holder].key);
        };
        if (better(lowest_anybody, best_anybody)) {
          lowest_anybody = score;
          best_anybody = id;
        }
        if (better(lowest, choice.id)) {
          const Reason answer = verdict(choice, id);
          if (answer == Reason::ok || answer == Reason::drain_sticky) {
            lowest = score;
            choice.id = id;
          }
        }
      }
      const Id chosen = choice.id;
      if (best_anybody != 0) accepts(best_anybody);
      choice.id = chosen;
      if (chosen != 0) {
        if (chosen != best_anybody) accepts(chosen);
        return settle();
      }
    }
  }
  choice.id = fallback(choice, mix64(hash));
  if (choice.id != 0) {
    if (choice.ask.trace != nullptr) choice.ask.trace->push_back({choice.id, Reason::ok});
    settle();
  }
}

// Whether b is to be preferred over a. Equal loads leave a, which was drawn first.
bool Balancer::less_loaded(const Tier& tier, const Lane& a, const Lane& b, double now) const noexcept {
  const double weight_a = a.weight.load(kRelaxed);
  const double weight_b = b.weight.load(kRelaxed);
  const double pending_a = a.in_flight.load(kRelaxed);
  const double pending_b = b.in_flight.load(kRelaxed);
  if (options_.table.policy != Policy::peak_ewma) return pending_b * weight_a < pending_a * weight_b;
  const double mean = tier.table.total_weight / static_cast<double>(tier.table.members.size());
  const auto load = [&](const Lane& lane, double pending, double weight) {
    const double cost = cost_of(lane, now);
    // Who has not answered yet gets one request, and then no more until it does.
    if (cost == 0.0) return pending > 0.0 ? kUnmeasured + pending : 0.0;
    return cost * (1.0 + pending * mean / weight);
  };
  return load(b, pending_b, weight_b) < load(a, pending_a, weight_a);
}

// Two different backends drawn by weight; the one with less load, the first drawn if equal.
void Balancer::choose_two(Choice& choice) const noexcept {
  const Table& table = choice.tier.table;
  std::uint64_t x = choice.salt;
  Id drawn[2] = {0, 0};
  for (int which = 0; which < 2; ++which) {
    for (int i = 0; i < kTries && drawn[which] == 0; ++i, x = next_draw(x)) {
      const Id id = table.alias_owner(x);
      if (id != drawn[0] && verdict(choice, id) == Reason::ok) drawn[which] = id;
    }
    if (drawn[which] == 0) {
      // Weights far apart, or hardly anybody left: look at everybody, without the first drawn.
      std::vector<bool> without;
      if (choice.ask.exclude != nullptr) without = *choice.ask.exclude;
      if (drawn[0] != 0) {
        without.resize(std::max<std::size_t>(without.size(), choice.capacity), false);
        without[drawn[0]] = true;
      }
      Ask ask = choice.ask;
      ask.exclude = without.empty() ? nullptr : &without;
      Choice rest{ask,         choice.tier,  choice.flags,  choice.lanes,   choice.mask,
                  choice.salt, choice.bound, choice.reason, choice.capacity};
      drawn[which] = fallback(rest, x);
      x = next_draw(x);
    }
  }
  choice.id = drawn[0];
  if (drawn[1] != 0 && drawn[0] != 0 &&
      less_loaded(choice.tier, choice.lanes[drawn[0]], choice.lanes[drawn[1]], choice.ask.now)) {
    choice.id = drawn[1];
  }
  if (choice.ask.trace != nullptr) {
    for (const Id id : drawn) {
      if (id != 0) choice.ask.trace->push_back({id, Reason::ok});
    }
  }
}

// The least load of all; among equal ones by weight.
void Balancer::choose_least(Choice& choice) const noexcept {
  const Table& table = choice.tier.table;
  const bool everybody = choice.tier.flagged.load(kRelaxed) == 0 && choice.ask.exclude == nullptr;
  const auto open = [&](Id id) { return everybody || verdict(choice, id) == Reason::ok; };
  // Loads in-flight / weight are compared crosswise: -1, 0, 1.
  const auto compare = [](double pending, double weight, double least, double least_weight) {
    const double mine = pending * least_weight;
    const double other = least * weight;
    return mine < other ? -1 : mine > other ? 1 : 0;
  };
  double least = 0.0;
  double least_weight = 0.0;
  double tied = 0.0;
  for (std::size_t i = 0; i < table.members.size(); ++i) {
    const Id id = table.members[i];
    if (!open(id)) continue;
    const double pending = choice.lanes[id].in_flight.load(kRelaxed);
    const int order = tied == 0.0 ? -1 : compare(pending, table.weights[i], least, least_weight);
    if (order < 0) {
      least = pending;
      least_weight = table.weights[i];
      tied = table.weights[i];
    } else if (order == 0) {
      tied += table.weights[i];
    }
  }
  if (tied == 0.0) {
    choice.id = fallback(choice, choice.salt);
  } else {
    double left = unit(choice.salt) * tied;
    for (std::size_t i = 0; i < table.members.size(); ++i) {
      const Id id = table.members[i];
      if (!open(id)) continue;
      const double pending = choice.lanes[id].in_flight.load(kRelaxed);
      if (compare(pending, table.weights[i], least, least_weight) != 0) continue;
      choice.id = id;
      if (left < table.weights[i]) break;
      left -= table.weights[i];
    }
  }
  if (choice.ask.trace != nullptr && choice.id != 0) choice.ask.trace->push_back({choice.id, Reason::ok});
}

Decision Balancer::decide(const Ask& given) const noexcept {
  const Generation* g = generation_.load(std::memory_order_acquire);
  if (g->tiers.empty()) return {0, Reason::empty, given.position};
  Ask ask = given;
  const std::uint64_t x = draw(options_.seed, ask.position);
  const bool hashed = is_hash_policy(options_.table.policy);
  std::uint64_t next = ask.position + 1;
  if (hashed && !ask.keyed) {
    ask.hash = x;
  } else if (hashed) {
    next = ask.position;
  }
  const Tier* tier = g->sole.load(kRelaxed);
  std::uint64_t cursor = ask.position;
  const bool shared = tier == nullptr;
  if (shared) {
    const std::size_t step = hashed ? ask.hash % 100 : ask.position % 100;
    tier = g->tiers[g->pattern[step].load(kRelaxed)].get();
    if (!hashed) {
      // Its own count of picks, so that its order goes on smoothly while others take theirs.
      std::uint64_t per_hundred = 0;
      for (const auto& other : g->pattern) per_hundred += g->tiers[other.load(kRelaxed)].get() == tier;
      cursor = ask.position / 100 * per_hundred + g->rank[step].load(kRelaxed);
    }
  }
  const Table& table = tier->table;
  if (table.members.empty()) return {0, Reason::none_healthy, next};
  const bool panic = tier->panic.load(kRelaxed);
  Reason reason = Reason::ok;
  if (panic) {
    if (options_.panic_fail) return {0, Reason::none_healthy, next};
    reason = Reason::panic;
  } else if (tier->rank > 0) {
    reason = Reason::failover;
  } else if (tier->remote) {
    reason = Reason::spilled_zone;
  }
  double bound = kNever;
  if (options_.load_bound > 0.0) {
    const double live = tier->live_weight.load(kRelaxed);
    if (live > 0.0) bound = options_.load_bound * (tier->in_flight.load(kRelaxed) + 1.0) / live;
  }
  Choice choice{ask,
                *tier,
                g->storage->flags.get(),
                g->storage->lanes.get(),
                tier->mask.load(kRelaxed),
                hashed ? ask.hash : x,
                bound,
                reason,
                g->storage->capacity};
  const auto trace = [&](Id id, Reason answer) {
    if (ask.trace != nullptr) ask.trace->push_back({id, answer});
  };
  switch (table.kind) {
    case TableKind::list:
    case TableKind::schedule: {
      const std::size_t n = table.kind == TableKind::list ? table.members.size() : table.ids.size();
      for (std::size_t step = 0; step < n && choice.id == 0; ++step) {
        const std::size_t place = (cursor + step) % n;
        const Id id = table.kind == TableKind::list ? table.members[place] : table.ids[place];
        // Draws of slow start differ from one turn to the next.
        choice.salt = draw(options_.seed, cursor + step);
        const Reason answer = verdict(choice, id);
        trace(id, answer);
        if (answer == Reason::ok) {
          choice.id = id;
          // Places of those who take no picks are passed once for all, which keeps the order of the others.
          if (!shared) next = ask.position + step + 1;
        }
      }
      if (choice.id == 0) choice.id = fallback(choice, x);
      break;
    }
    case TableKind::stride: {
      const std::uint64_t n = table.members.size();
      for (std::uint64_t step = 0; step < kStrideTries && choice.id == 0; ++step) {
        const std::uint64_t sequence = cursor + step;
        const std::uint64_t index = sequence % n;
        if (!stride_accepts(table.stride[index], index, sequence / n)) continue;
        choice.salt = draw(options_.seed, sequence);
        const Reason answer = verdict(choice, table.members[index]);
        trace(table.members[index], answer);
        if (answer == Reason::ok) {
          choice.id = table.members[index];
          if (!shared) next = ask.position + step + 1;
        }
      }
      if (choice.id == 0) choice.id = fallback(choice, x);
      break;
    }
    case TableKind::alias: {
      std::uint64_t y = x;
      for (int i = 0; i < kTries && choice.id == 0; ++i, y = next_draw(y)) {
        const Id id = table.alias_owner(y);
        choice.salt = y;
        const Reason answer = verdict(choice, id);
        trace(id, answer);
        if (answer == Reason::ok) choice.id = id;
      }
      if (choice.id == 0) {
        choice.id = fallback(choice, y);
        if (choice.id != 0) trace(choice.id, Reason::ok);
      }
      break;
    }
    case TableKind::two_choices:
      choose_two(choice);
      break;
    case TableKind::scan:
      choose_least(choice);
      break;
    default:
      choose_hashed(choice);
  }
  if (choice.id == 0) {
    bool full = false;
    for (const Id id : table.members) {
      const std::uint8_t held = choice.flags[id].load(kRelaxed) & choice.mask;
      full = full || (held & ~kRamping) == kFull;
    }
    return {0, full ? Reason::overloaded : Reason::none_healthy, next};
  }
  return {choice.id, choice.reason, next};
}

// --- many picks
// ----------------------------------------------------------------------------------------------

void Balancer::pick_many(Id* ids, std::size_t n, double now) {
  EpochDomain::Guard guard(domain_);
  const Generation* g = generation_.load(std::memory_order_acquire);
  const Tier* tier = g->sole.load(kRelaxed);
  const auto* flags = g->storage->flags.get();
  if (tier != nullptr && tier->table.kind == TableKind::alias) {
    const std::uint64_t first = position_.fetch_add(n, kRelaxed);
    const Table& table = tier->table;
    kernels().alias(table.alias.empty() ? nullptr : table.alias.data(), table.members.data(),
                    table.members.size(), options_.seed, first, ids, n);
    if (tier->flagged.load(kRelaxed) != 0) {
      for (std::size_t i = 0; i < n; ++i) {
        if ((flags[ids[i]].load(kRelaxed) & tier->mask.load(kRelaxed)) == 0) continue;
        Ask ask;
        ask.position = first + i;
        ask.now = now;
        ids[i] = decide(ask).id;
      }
    }
    return;
  }
  const bool in_order =
      tier != nullptr && (tier->table.kind == TableKind::list || tier->table.kind == TableKind::schedule);
  if (in_order && tier->flagged.load(kRelaxed) == 0) {
    const std::uint64_t first = position_.fetch_add(n, kRelaxed);
    const Table& table = tier->table;
    const bool list = table.kind == TableKind::list;
    const std::size_t period = list ? table.members.size() : table.ids.size();
    std::size_t place = first % period;
    // One period from the table, then copies of it, each twice as long as the one before.
    std::size_t done = 0;
    for (; done < n && done < period; ++done) {
      ids[done] = list ? table.members[place] : table.ids[place];
      if (++place == period) place = 0;
    }
    while (done < n) {
      const std::size_t some = std::min(done / period * period, n - done);
      std::memcpy(ids + done, ids, some * sizeof(Id));
      done += some;
    }
    return;
  }
  constexpr std::size_t kChunk = 1024;
  for (std::size_t done = 0; done < n;) {
    const std::size_t some = std::min(kChunk, n - done);
    std::uint64_t first = position_.load(kRelaxed);
    Ask ask;
    ask.now = now;
    do {
      ask.position = first;
      for (std::size_t i = 0; i < some; ++i) {
        const Decision decision = quick(ask);
        ids[done + i] = decision.id;
        ask.position = decision.next;
      }
    } while (!position_.compare_exchange_weak(first, ask.position, kRelaxed));
    done += some;
  }
}

void Balancer::pick_many(const std::uint64_t* hashes, Id* ids, std::size_t n, double now) {
  EpochDomain::Guard guard(domain_);
  const Generation* g = generation_.load(std::memory_order_acquire);
  const Tier* tier = g->sole.load(kRelaxed);
  Ask ask;
  ask.keyed = true;
  ask.now = now;
  const bool quickly = tier != nullptr && options_.load_bound == 0.0;
  const auto* flags = g->storage->flags.get();
  if (quickly && tier->table.kind == TableKind::slots && tier->table.ids.narrow() != nullptr) {
    const Table& table = tier->table;
    kernels().slots(table.ids.narrow(), static_cast<std::uint32_t>(table.ids.size()), hashes, ids, n);
    if (tier->flagged.load(kRelaxed) == 0) return;
    for (std::size_t i = 0; i < n; ++i) {
      if ((flags[ids[i]].load(kRelaxed) & tier->mask.load(kRelaxed)) == 0) continue;
      ask.hash = hashes[i];
      ids[i] = decide(ask).id;
    }
    return;
  }
  for (std::size_t i = 0; i < n; ++i) {
    if (quickly && tier->table.kind == TableKind::ring) {
      ids[i] = tier->table.owners[tier->table.ring_index(hashes[i])];
      if ((flags[ids[i]].load(kRelaxed) & tier->mask.load(kRelaxed)) == 0) continue;
    }
    ask.hash = hashes[i];
    ids[i] = decide(ask).id;
  }
}

// --- members
// -------------------------------------------------------------------------------------------------

Balancer::Balancer(const Options& options) : options_(options), storage_(std::make_shared<Storage>(64)) {
  uses_clock_ = options_.table.policy == Policy::peak_ewma;
  entries_.resize(1);
  if (options_.sticky_bits > 0 && is_hash_policy(options_.table.policy)) {
    const std::size_t n = std::size_t{1} << options_.sticky_bits;
    sticky_.reset(new std::atomic<std::uint16_t>[n]());
    sticky_shift_ = 64 - static_cast<int>(options_.sticky_bits);
  }
  dirty_ = true;
  rebuild();
}

Balancer::~Balancer() { delete generation_.load(kRelaxed); }

Id Balancer::add(const std::string& key, double weight, int priority, bool local, double now, bool ramp) {
  Id id = 0;
  if (!free_ids_.empty() && storage_->lanes[free_ids_.front()].in_flight.load(kRelaxed) == 0) {
    id = free_ids_.front();
    free_ids_.pop_front();
  } else {
    id = static_cast<Id>(entries_.size());
    entries_.emplace_back();
    if (id >= storage_->capacity) {
      auto larger = std::make_shared<Storage>(storage_->capacity * 3 / 2);
      for (std::size_t i = 0; i < storage_->capacity; ++i) {
        larger->flags[i].store(storage_->flags[i].load(kRelaxed), kRelaxed);
        larger->lanes[i].copy_from(storage_->lanes[i]);
      }
      storage_ = std::move(larger);
    }
  }
  storage_->lanes[id].copy_from(Lane());
  storage_->lanes[id].weight.store(weight, kRelaxed);
  entries_[id] = {key, weight, priority, local, true, additions_++};
  storage_->flags[id].store(weight > 0.0 ? 0 : kWeightless, kRelaxed);
  dirty_ = true;
  if (ramp && options_.slow_start_s > 0.0) start_ramp(id, 0.0, now);
  return id;
}

void Balancer::remove(Id id) {
  set_flags(id, kGone, 0);
  std::erase(ejected_, id);
  std::erase(ramping_, id);
  entries_[id] = {};
  free_ids_.push_back(id);
  dirty_ = true;
}

void Balancer::set_key(Id id, const std::string& key) {
  if (entries_[id].key == key) return;
  entries_[id].key = key;
  dirty_ = true;
}

void Balancer::set_place(Id id, int priority, bool local) {
  Entry& entry = entries_[id];
  if (entry.priority == priority && entry.local == local) return;
  entry.priority = priority;
  entry.local = local;
  dirty_ = true;
}

void Balancer::set_weight(Id id, double weight, double now) {
  const double before = entries_[id].weight;
  if (weight == before) return;
  if (options_.slow_start_s > 0.0) {
    // A raise begins where the backend is now; a lower weight holds at once, because it protects.
    const bool ramping = (flags(id) & kRamping) != 0;
    const double reached = ramping ? effective_weight(id, now) : before;
    if (weight > reached) {
      start_ramp(id, reached / weight, now);
    } else if (ramping) {
      std::erase(ramping_, id);
      set_flags(id, 0, kRamping);
    }
  }
  entries_[id].weight = weight;
  storage_->lanes[id].weight.store(weight, kRelaxed);
  dirty_ = true;
  set_flags(id, weight > 0.0 ? 0 : kWeightless, weight > 0.0 ? kWeightless : 0);
}

void Balancer::start_ramp(Id id, double from, double now) {
  Lane& lane = storage_->lanes[id];
  lane.ramp_from.store(static_cast<float>(from), kRelaxed);
  lane.ramp_start.store(now, kRelaxed);
  if ((flags(id) & kRamping) == 0) {
    ramping_.push_back(id);
    set_flags(id, kRamping, 0);
  }
  schedule_event();
}

// A flip: two bytes and a few counters, whatever the number of backends.
void Balancer::set_flags(Id id, std::uint8_t set, std::uint8_t clear) {
  const std::uint8_t before = flags(id);
  const auto after = static_cast<std::uint8_t>((before | set) & ~clear);
  if (after == before) return;
  storage_->flags[id].store(after, kRelaxed);
  Generation* g = generation_.load(kRelaxed);
  // Readers of a generation from before the storage grew must hear of it too.
  if (g != nullptr && id < g->storage->capacity) g->storage->flags[id].store(after, kRelaxed);
  if (dirty_ || g == nullptr) return;  // rebuild() counts anew
  if ((before & kWeightless) != 0) return;
  Tier& tier = *g->tiers[storage_->lanes[id].tier];
  const std::size_t total = tier.total;
  const std::size_t healthy = tier.healthy;
  count(tier, id, before, -1);
  count(tier, id, after, 1);
  if (tier.total != total || tier.healthy != healthy) publish_loads(*g);
}

void Balancer::count(Tier& tier, Id id, std::uint8_t flags, int sign) const noexcept {
  const bool counted = (flags & (kDraining | kOutside | kGone | kWeightless)) == 0;
  if (counted) {
    tier.total += static_cast<std::size_t>(sign);
    if ((flags & (kUnhealthy | kEjected)) == 0) tier.healthy += static_cast<std::size_t>(sign);
  }
  if (flags != 0)
    tier.flagged.store(tier.flagged.load(kRelaxed) + static_cast<std::uint32_t>(sign), kRelaxed);
  if ((flags & ~kRamping) == 0) {
    tier.live_weight.store(tier.live_weight.load(kRelaxed) + sign * entries_[id].weight, kRelaxed);
  }
}

void Balancer::publish_loads(Generation& g) const {
  if (g.tiers.empty()) {
    g.sole.store(nullptr, kRelaxed);
    return;
  }
  std::vector<PriorityLoad> priorities(g.tiers.back()->rank + 1);
  for (const auto& tier : g.tiers) {
    priorities[tier->rank].healthy += tier->healthy;
    priorities[tier->rank].total += tier->total;
  }
  distribute_load(priorities, options_.overprovisioning, options_.panic_threshold);
  Tier* last = nullptr;
  for (std::size_t i = 0; i < g.tiers.size(); ++i) {
    Tier& tier = *g.tiers[i];
    const PriorityLoad& priority = priorities[tier.rank];
    const bool pair = i + 1 < g.tiers.size() && g.tiers[i + 1]->rank == tier.rank;
    if (tier.remote && i > 0 && g.tiers[i - 1]->rank == tier.rank) {
      tier.load = priority.load - g.tiers[i - 1]->load;
    } else if (pair) {
      const Tier& other = *g.tiers[i + 1];
      const std::uint64_t here = priority.panic ? tier.total : tier.healthy;
      const std::uint64_t there = priority.panic ? other.total : other.healthy;
      const std::uint64_t share =
          there == 0        ? 100
          : tier.total == 0 ? 0
                            : std::min<std::uint64_t>(100, options_.overprovisioning * here / tier.total);
      tier.load = static_cast<std::uint32_t>(priority.load * share / 100);
    } else {
      tier.load = priority.load;
    }
    tier.panic.store(priority.panic, kRelaxed);
    tier.mask.store(priority.panic && !options_.panic_fail
                        ? static_cast<std::uint8_t>(~(kUnhealthy | kEjected))
                        : std::uint8_t{0xFF},
                    kRelaxed);
    if (tier.load > 0) last = &tier;
  }
  if (last == nullptr) {
    // Nobody is healthy and panic is off, or everybody drains: sticky keys still find their backend.
    last = g.tiers.front().get();
    last->load = 100;
  }
  if (last->load == 100) {
    const bool refuses = last->panic.load(kRelaxed) && options_.panic_fail;
    // The shortcut asks flags alone, so what depends on more must not take it.
    g.sole.store(refuses ? nullptr : last, kRelaxed);
  } else {
    g.sole.store(nullptr, kRelaxed);
  }
  // Hashes below a priority's cumulated load belong to it; counted picks visit the hundred in strides of 61,
  // which spreads every tier's share evenly.
  std::uint8_t tier_of[100];
  std::size_t place = 0;
  for (std::size_t i = 0; i < g.tiers.size(); ++i) {
    for (std::uint32_t k = 0; k < g.tiers[i]->load && place < 100; ++k)
      tier_of[place++] = static_cast<std::uint8_t>(i);
  }
  while (place < 100) tier_of[place++] = tier_of[0];
  std::uint8_t seen[256] = {};
  const bool hashed = is_hash_policy(options_.table.policy);
  for (std::size_t i = 0; i < 100; ++i) {
    const std::uint8_t tier = tier_of[hashed ? i : i * 61 % 100];
    g.pattern[i].store(tier, kRelaxed);
    g.rank[i].store(seen[tier]++, kRelaxed);
  }
}

// The backends with the best rendezvous scores for this balancer's seed: one change of members changes at
// most one of them.
std::vector<bool> Balancer::subset() const {
  std::vector<bool> inside(entries_.size(), true);
  if (options_.subset_size == 0) return inside;
  std::vector<std::pair<std::uint64_t, Id>> scores;
  for (Id id = 1; id < entries_.size(); ++id) {
    const Entry& entry = entries_[id];
    if (entry.present)
      scores.push_back({mix64(options_.seed ^ xxh64(entry.key.data(), entry.key.size())), id});
  }
  if (scores.size() <= options_.subset_size) return inside;
  std::nth_element(scores.begin(), scores.begin() + options_.subset_size, scores.end(), std::greater<>());
  for (std::size_t i = options_.subset_size; i < scores.size(); ++i) inside[scores[i].second] = false;
  return inside;
}

void Balancer::rebuild() {
  if (!dirty_) return;
  const std::vector<bool> inside = subset();
  // By priority, the local zone before the others, in order of addition.
  std::map<std::pair<int, bool>, std::vector<std::pair<std::uint64_t, Id>>> groups;
  std::map<int, bool> has_local;
  for (Id id = 1; id < entries_.size(); ++id) {
    const Entry& entry = entries_[id];
    if (!entry.present || entry.weight <= 0.0 || !inside[id]) continue;
    groups[{entry.priority, !entry.local}].push_back({entry.order, id});
  }
  if (groups.size() > 255)
    throw std::invalid_argument("there are more than 255 priorities and zones in them");
  const Generation* old = generation_.load(kRelaxed);
  auto g = std::make_unique<Generation>();
  g->storage = storage_;
  for (auto& [place, group] : groups) {
    std::sort(group.begin(), group.end());
    auto tier = std::make_unique<Tier>();
    tier->priority = place.first;
    tier->rank = g->tiers.empty() ? 0 : g->tiers.back()->rank + (g->tiers.back()->priority != place.first);
    tier->remote = place.second;
    std::vector<Member> members;
    for (const auto& [order, id] : group) members.push_back({id, entries_[id].weight, &entries_[id].key});
    const Table* before = nullptr;
    if (old != nullptr) {
      for (const auto& other : old->tiers) {
        if (other->priority == place.first && other->remote == place.second) before = &other->table;
      }
    }
    tier->table = build_table(members, options_.table, before);
    g->tiers.push_back(std::move(tier));
  }
  // Nothing below throws: the new tables take over.
  for (Id id = 1; id < entries_.size(); ++id) {
    const std::uint8_t held = flags(id);
    storage_->flags[id].store(static_cast<std::uint8_t>(inside[id] ? held & ~kOutside : held | kOutside),
                              kRelaxed);
  }
  for (std::size_t t = 0; t < g->tiers.size(); ++t) {
    Tier& tier = *g->tiers[t];
    for (const Id id : tier.table.members) {
      storage_->lanes[id].tier = static_cast<std::uint16_t>(t);
      count(tier, id, flags(id), 1);
      tier.in_flight.store(tier.in_flight.load(kRelaxed) + in_flight(id), kRelaxed);
    }
  }
  publish_loads(*g);
  dirty_ = false;
  Generation* replaced = generation_.exchange(g.release());
  if (replaced != nullptr) domain_.retire(replaced);
  domain_.reclaim();
}

std::size_t Balancer::sample_size() const noexcept {
  switch (options_.table.policy) {
    case Policy::maglev:
    case Policy::stable:
      return options_.table.slots;
    case Policy::rendezvous:
      return 4096;
    default:
      return 65536;
  }
}

void Balancer::sample_owners(Id* owners) const {
  const Generation* g = generation();
  const bool plain = options_.table.policy == Policy::maglev || options_.table.policy == Policy::stable;
  const std::size_t n = sample_size();
  for (std::size_t i = 0; i < n; ++i) {
    owners[i] = 0;
    if (g->tiers.empty()) continue;
    // Hashes 0 to slots - 1 meet every slot once; other layouts are sampled.
    const std::uint64_t hash = plain ? i : mix64(i);
    const Tier* tier = g->sole.load(kRelaxed);
    if (tier == nullptr) tier = g->tiers[g->pattern[hash % 100].load(kRelaxed)].get();
    const Table& table = tier->table;
    switch (table.kind) {
      case TableKind::slots:
        owners[i] = table.slot_owner(hash);
        break;
      case TableKind::ring:
        owners[i] = table.owners[table.ring_index(hash)];
        break;
      case TableKind::jump:
        owners[i] = table.ids[jump_hash(hash, static_cast<std::uint32_t>(table.ids.size()))];
        break;
      default: {
        double lowest = kNever;
        for (std::size_t k = 0; k < table.members.size(); ++k) {
          const double score = rendezvous_score(hash, table.node_hash[k], table.inverse_weight[k]);
          if (score < lowest) {
            lowest = score;
            owners[i] = table.members[k];
          }
        }
      }
    }
  }
}

std::vector<double> Balancer::shares() const {
  std::vector<double> share(entries_.size(), 0.0);
  const Generation* g = generation();
  for (const auto& tier : g->tiers) {
    const Table& table = tier->table;
    for (std::size_t i = 0; i < table.members.size(); ++i) {
      share[table.members[i]] = table.weights[i] / table.total_weight * tier->load / 100.0;
    }
  }
  return share;
}

// --- load and health
// -----------------------------------------------------------------------------------------

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
