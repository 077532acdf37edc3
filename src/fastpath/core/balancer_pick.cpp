// One pick, off the shortest path.
#include "fastpath/balance/balancer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fastpath/hash.hpp"

namespace fastpath::balance {

namespace {

constexpr int kTries = 32;  // random choices before everybody is looked at
constexpr std::uint64_t kStrideTries = std::uint64_t{1} << 16;
constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr double kNever = std::numeric_limits<double>::infinity();

// What slow start means to a look at a backend: it takes its part of all looks, or of the keys that are to
// become its own, or this key was its own before.
enum class Warming : std::uint8_t { by_look, by_key, ignored };

}  // namespace

// What one pick knows while it looks for a backend.
struct Balancer::Choice {
  const Ask& ask;
  const Tier& tier;
  const Storage& storage;
  std::uint8_t mask;
  std::uint64_t salt;  // the hash or the draw, which decides about backends that are being warmed up
  double bound;        // in-flight requests for one unit of weight; infinity: no bound
  Reason reason;
  Id id = 0;
  Warming warming = Warming::by_look;

  double factor(const Balancer& balancer, Id id) const noexcept {
    return (held(id) & kRamping) != 0 ? balancer.ramp_factor(storage, id, ask.now) : 1.0;
  }
  std::uint8_t held(Id id) const noexcept {
    return static_cast<std::uint8_t>(storage.flags[id].load(kRelaxed) & mask);
  }
  bool over_bound(Id id) const noexcept {
    const Lane& lane = storage.lanes[id];
    return bound < kNever && static_cast<double>(lane.in_flight.load(kRelaxed)) >=
                                 std::ceil(bound * lane.weight.load(kRelaxed));
  }
};

// How much of its way to the new weight a backend has made, 0 to 1.
double Balancer::ramp_part(const Ramp& ramp, double now) const noexcept {
  const double elapsed = std::max(now - ramp.start.load(kRelaxed), 0.001);
  if (elapsed >= options_.slow_start_s) return 1.0;
  double part = elapsed / options_.slow_start_s;
  if (options_.slow_start_aggression != 1.0) part = std::pow(part, 1.0 / options_.slow_start_aggression);
  return std::max(options_.slow_start_min, part);
}

// The part of its weight that a backend has reached.
double Balancer::ramp_factor(const Storage& storage, Id id, double now) const noexcept {
  const Ramp& ramp = storage.ramps[id];
  const double ratio = ramp.outset.load(kRelaxed) / storage.lanes[id].weight.load(kRelaxed);
  const double from = ratio < 1.0 ? ratio : 1.0;  // also of 0 / 0
  return from + (1.0 - from) * ramp_part(ramp, now);
}

// The part of the keys that are to become a backend's which it takes already: so many that its share of all
// keys is that of the weight it has reached.
double Balancer::ramp_keys(const Choice& choice, Id id) const noexcept {
  const Table& table = choice.tier.table;
  const bool even = ignores_weights(options_.table);
  const double weight = even ? 1.0 : choice.storage.lanes[id].weight.load(kRelaxed);
  const double total = even ? static_cast<double>(table.members.size()) : table.total_weight;
  const double lacking = weight * (1.0 - ramp_factor(choice.storage, id, choice.ask.now));
  return ramp_part(choice.storage.ramps[id], choice.ask.now) * total / (total - lacking);
}

// The layout of `jump` takes keys from a backend whose weight is raised. They leave as others become its own,
// or it would have less before it has more.
bool Balancer::leaves_later(const Choice& choice, Id to) const noexcept {
  if (choice.tier.table.kind != TableKind::jump || !choice.tier.outset) return false;
  const Id from = choice.tier.outset->first_owner(choice.salt);
  return from != 0 && from != to && (choice.held(from) & kRamping) != 0 &&
         unit(mix64(choice.salt ^ (from * kGolden))) >= ramp_keys(choice, from);
}

// ok or drain_sticky: the backend may take this pick. Anything else: why it may not.
Reason Balancer::verdict(const Choice& choice, Id id) const noexcept {
  if (choice.ask.exclude != nullptr && (*choice.ask.exclude)[id]) return Reason::empty;
  Reason answer = Reason::ok;
  const std::uint8_t held = choice.held(id);
  if (held != 0) {
    if ((held & ~(kRamping | kDraining)) != 0)
      return (held & ~kFull) == 0 ? Reason::overloaded : Reason::rehashed;
    if ((held & kDraining) != 0) {
      if (!choice.ask.keyed || !remembered(choice.ask.hash, id)) return Reason::rehashed;
      answer = Reason::drain_sticky;
    }
    if ((held & kRamping) != 0 && choice.warming != Warming::ignored) {
      const double part = choice.warming == Warming::by_key ? ramp_keys(choice, id)
                                                            : ramp_factor(choice.storage, id, choice.ask.now);
      if (unit(mix64(choice.salt ^ (id * kGolden))) >= part) return Reason::slow_start;
    }
  }
  return choice.over_bound(id) ? Reason::over_bound : answer;
}

// By weight among all that may take the pick, backends in slow start with the part of their weight that they
// have reached.
Id Balancer::fallback(Choice& choice, std::uint64_t x) const noexcept {
  const Table& table = choice.tier.table;
  const auto open = [&](std::size_t i) {
    const Id id = table.members[i];
    if (choice.ask.exclude != nullptr && (*choice.ask.exclude)[id]) return 0.0;
    const std::uint8_t held = choice.held(id);
    if ((held & ~kRamping) != 0 || choice.over_bound(id)) return 0.0;
    return weight_in(table, choice.storage, i) *
           (held != 0 ? ramp_factor(choice.storage, id, choice.ask.now) : 1.0);
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
  Id owner = 0;
  choice.warming = Warming::by_key;
  const auto accepts = [&](Id id, std::uint64_t h) {
    if (owner == 0) owner = id;
    choice.salt = h;
    const Reason answer = verdict(choice, id);
    if (choice.ask.trace != nullptr && std::none_of(choice.ask.trace->begin(), choice.ask.trace->end(),
                                                    [id](const Considered& seen) { return seen.id == id; })) {
      choice.ask.trace->push_back({id, answer});
    }
    const bool takes = answer == Reason::ok || answer == Reason::drain_sticky;
    if (takes && (!leaves_later(choice, id) || answer == Reason::drain_sticky)) {
      choice.id = id;
      if (answer == Reason::drain_sticky) first = answer;
      return true;
    }
    const Reason refusal = takes ? Reason::slow_start : answer;
    if (first == Reason::ok && refusal != Reason::empty) first = refusal;
    if (refusal == Reason::slow_start && choice.tier.outset) {
      // Not its key yet: it stays where it was.
      const Id kept = choice.tier.outset->first_owner(h);
      choice.warming = Warming::ignored;
      const Reason stays = kept != 0 ? verdict(choice, kept) : Reason::empty;
      choice.warming = Warming::by_key;
      if (stays == Reason::ok || stays == Reason::drain_sticky) {
        choice.id = kept;
        // What was its own before is its own now.
        if (kept == owner && first == Reason::slow_start) first = stays;
        return true;
      }
    }
    if (takes) choice.id = id;
    return takes;
  };
  const auto settle = [&] {
    if (first == Reason::slow_start && choice.id == owner) first = Reason::ok;
    // That it is another priority, zone or a panic says more than what the key found there.
    if (first == Reason::ok || choice.reason != Reason::ok) return;
    choice.reason = first == Reason::overloaded ? Reason::rehashed : first;
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
        if (accepts(table.ids[place], h)) return settle();
      }
      break;
    }
    case TableKind::ring: {
      const std::size_t n = table.ring.size();
      std::size_t i = table.ring.index(hash);
      Id before = 0;
      for (std::size_t step = 0; step < n; ++step, i = i + 1 == n ? 0 : i + 1) {
        if (table.ring.owner(i) == before) continue;
        before = table.ring.owner(i);
        if (accepts(before, hash)) return settle();
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
          text = keys_[id];
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
          return score < than || (murmur && holder != 0 && score == than && keys_[id] > keys_[holder]);
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
      if (best_anybody != 0 && accepts(best_anybody, hash)) return settle();
      choice.id = chosen;
      if (chosen != 0) {
        accepts(chosen, hash);
        return settle();
      }
    }
  }
  choice.id = fallback(choice, mix64(hash));
  if (choice.id != 0) {
    if (choice.ask.trace != nullptr) choice.ask.trace->push_back({choice.id, Reason::ok});
    if (choice.id != owner) settle();
  }
}

// Two different backends drawn by weight; the one with less load, the first drawn if equal.
void Balancer::choose_two(Choice& choice) const noexcept {
  const Table& table = choice.tier.table;
  std::uint64_t x = choice.salt;
  Id drawn[2] = {0, 0};
  for (int which = 0; which < 2; ++which) {
    for (int i = 0; i < kTries && drawn[which] == 0; ++i, x = next_draw(x)) {
      const Id id = table.alias_owner(x);
      choice.salt = x;  // who is refused once may be drawn again
      if (id != drawn[0] && verdict(choice, id) == Reason::ok) drawn[which] = id;
    }
    if (drawn[which] == 0) {
      // Weights far apart, or hardly anybody left: look at everybody, without the first drawn.
      std::vector<bool> without;
      if (choice.ask.exclude != nullptr) without = *choice.ask.exclude;
      if (drawn[0] != 0) {
        without.resize(std::max<std::size_t>(without.size(), choice.storage.capacity), false);
        without[drawn[0]] = true;
      }
      Ask ask = choice.ask;
      ask.exclude = without.empty() ? nullptr : &without;
      Choice rest{ask, choice.tier, choice.storage, choice.mask, choice.salt, choice.bound, choice.reason};
      drawn[which] = fallback(rest, x);
      x = next_draw(x);
    }
  }
  choice.id = drawn[0];
  if (drawn[1] != 0 && drawn[0] != 0 &&
      less_loaded(choice.tier, choice.storage, drawn[0], drawn[1], choice.factor(*this, drawn[0]),
                  choice.factor(*this, drawn[1]))) {
    choice.id = drawn[1];
  }
  if (choice.ask.trace != nullptr) {
    for (const Id id : drawn) {
      if (id != 0) choice.ask.trace->push_back({id, Reason::ok});
    }
  }
}

// The least load of all; among equal ones by weight. Who is in slow start has the weight that it has reached.
void Balancer::choose_least(Choice& choice) const noexcept {
  const Table& table = choice.tier.table;
  const bool everybody = choice.tier.flagged.load(kRelaxed) == 0 && choice.ask.exclude == nullptr;
  choice.warming = Warming::ignored;
  const auto open = [&](Id id) { return everybody || verdict(choice, id) == Reason::ok; };
  const auto weight_of = [&](std::size_t i) {
    return everybody ? table.weights[i] : table.weights[i] * choice.factor(*this, table.members[i]);
  };
  double least = 0.0;
  double tied = 0.0;
  for (std::size_t i = 0; i < table.members.size(); ++i) {
    const Id id = table.members[i];
    if (!open(id)) continue;
    const double weight = weight_of(i);
    // The quotient of Lane::load(), whose rounding decides what is a tie.
    const double load = choice.storage.lanes[id].in_flight.load(kRelaxed) / weight;
    if (tied == 0.0 || load < least) {
      least = load;
      tied = weight;
    } else if (load == least) {
      tied += weight;
    }
  }
  if (tied == 0.0) {
    choice.id = fallback(choice, choice.salt);
  } else {
    double left = unit(choice.salt) * tied;
    for (std::size_t i = 0; i < table.members.size(); ++i) {
      const Id id = table.members[i];
      if (!open(id)) continue;
      const double weight = weight_of(i);
      if (choice.storage.lanes[id].in_flight.load(kRelaxed) / weight != least) continue;
      choice.id = id;
      if (left < weight) break;
      left -= weight;
    }
  }
  if (choice.ask.trace != nullptr && choice.id != 0) choice.ask.trace->push_back({choice.id, Reason::ok});
}

Decision Balancer::decide(const Ask& given) const noexcept {
  const Generation* g = generation_.load(std::memory_order_acquire);
  if (g->tiers.empty()) return {0, Reason::empty, given.position};
  Ask ask = given;
  const bool hashed = is_hash_policy(options_.table.policy);
  if (hashed && !ask.keyed) ask.hash = draw(options_.seed, ask.position);
  const Tier* tier = g->sole.load(kRelaxed);
  std::uint64_t cursor = ask.position;
  const bool shared = tier == nullptr;
  if (shared) {
    const std::size_t step = hashed ? ask.hash % 100 : ask.position % 100;
    tier = g->tiers[g->pattern[step].load(kRelaxed)].get();
    if (!hashed) {
      // Its own count of picks, so that its order goes on smoothly while others take theirs.
      cursor = ask.position / 100 * tier->load.load(kRelaxed) + g->rank[step].load(kRelaxed);
    }
  }
  const bool refused = tier->panic.load(kRelaxed) && options_.panic_fail;
  if (hashed && ask.keyed && sticky_) {
    // That members drain must not send away the keys of those that do: tiers which would have been asked
    // before.
    for (const auto& before : g->tiers) {
      if (before.get() == tier && !refused) break;
      if (before->draining.load(kRelaxed) != 0) {
        const Decision kept = decide_in(*g, *before, ask, cursor, false);
        if (kept.id != 0 && (g->storage->flags[kept.id].load(kRelaxed) & kDraining) != 0) {
          return {kept.id, kept.reason, ask.position};
        }
      }
      if (before.get() == tier) break;
    }
  }
  Decision decision = decide_in(*g, *tier, ask, cursor, !shared);
  // Nobody there takes it: a zone or a priority that is full, or excluded, is no dead end.
  for (std::size_t i = 0; i < g->tiers.size() && decision.id == 0 && !refused; ++i) {
    const Tier* other = g->tiers[i].get();
    if (other == tier || (other->panic.load(kRelaxed) && options_.panic_fail)) continue;
    // By the count of those that it takes over, which follow each other where their positions do not.
    const Decision found = decide_in(*g, *other, ask, cursor, false);
    if (found.id != 0 || found.reason == Reason::overloaded) decision = found;
  }
  if (shared) decision.next = ask.position + 1;
  if (hashed && ask.keyed) decision.next = ask.position;
  return decision;
}

Decision Balancer::decide_at(std::uint64_t position, double now) const noexcept {
  Ask ask;
  ask.position = position;
  ask.now = now;
  return decide(ask);
}

// The pick if this tier takes it; `next` is the position after it if the tier takes all picks, as `alone`
// says.
Decision Balancer::decide_in(const Generation& g, const Tier& tier, const Ask& ask, std::uint64_t cursor,
                             bool alone) const noexcept {
  const bool hashed = is_hash_policy(options_.table.policy);
  const std::uint64_t x = hashed ? ask.hash : draw(options_.seed, ask.position);
  std::uint64_t next = ask.position + 1;
  const Table& table = tier.table;
  Reason reason = Reason::ok;
  const bool refuses = tier.panic.load(kRelaxed) && options_.panic_fail;
  if (refuses) {
    // But for keys whose backend drains, which is no illness.
    if (!hashed || !ask.keyed || tier.draining.load(kRelaxed) == 0) return {0, Reason::none_healthy, next};
  } else if (tier.panic.load(kRelaxed)) {
    reason = Reason::panic;
  } else if (tier.rank > 0) {
    reason = Reason::failover;
  } else if (tier.remote) {
    reason = Reason::spilled_zone;
  }
  double bound = kNever;
  if (options_.load_bound > 0.0) {
    const double live = tier.live_weight.load(kRelaxed);
    if (live > 0.0) bound = options_.load_bound * (tier.in_flight.load(kRelaxed) + 1.0) / live;
  }
  Choice choice{ask, tier, *g.storage, tier.mask.load(kRelaxed), x, bound, reason};
  const auto trace = [&](Id id, Reason answer) {
    if (ask.trace == nullptr || id == 0) return;
    const auto seen = std::find_if(ask.trace->begin(), ask.trace->end(),
                                   [id](const Considered& considered) { return considered.id == id; });
    if (seen == ask.trace->end()) {
      ask.trace->push_back({id, answer});
    } else {
      seen->verdict = answer;
    }
  };
  // Where a pick has no key, the shares of a layout by key are all that counts.
  switch (hashed && !ask.keyed && table.drawn() ? TableKind::alias : table.kind) {
    case TableKind::list:
    case TableKind::schedule: {
      const std::size_t n = table.kind == TableKind::list ? table.members.size() : table.ids.size();
      const std::uint64_t most = alone ? n : kTries;
      std::size_t place = cursor % n;
      std::uint64_t y = draw(options_.seed, cursor);
      for (std::uint64_t step = 0; step < most; ++step) {
        const Id id = table.kind == TableKind::list ? table.members[place] : table.ids[place];
        choice.salt = y;
        const Reason answer = verdict(choice, id);
        trace(id, answer);
        if (answer == Reason::ok) {
          choice.id = id;
          break;
        }
        if (alone) {
          // Places of those who take no picks are passed once for all, which keeps the order of the others.
          // Draws of slow start differ from one turn to the next.
          next = ask.position + step + 2;
          place = place + 1 == n ? 0 : place + 1;
          y = draw(options_.seed, cursor + step + 1);
        } else {
          // Positions are not this tier's alone, so none can be passed. Another place takes the pick, from
          // turn to turn each of all places once, or the place behind would have the picks of two. If that
          // one takes none either, a place is drawn.
          y = next_draw(y);
          place = step == 0 ? (place + cursor / n + draw(options_.seed, place)) % n : reduce(y, n);
        }
      }
      if (choice.id == 0) {
        next = ask.position + 1;
        choice.id = fallback(choice, x);
        trace(choice.id, Reason::ok);
      }
      break;
    }
    case TableKind::stride: {
      const std::uint64_t n = table.members.size();
      const std::uint64_t most = alone ? kStrideTries : kTries * kTries;
      std::uint64_t sequence = cursor;
      std::uint64_t y = x;
      for (std::uint64_t step = 0; step < most; ++step) {
        const std::uint64_t index = sequence % n;
        if (stride_accepts(table.stride[index], index, sequence / n)) {
          choice.salt = alone ? draw(options_.seed, sequence) : y;
          const Reason answer = verdict(choice, table.members[index]);
          trace(table.members[index], answer);
          if (answer == Reason::ok) {
            choice.id = table.members[index];
            if (alone) next = ask.position + step + 1;
            break;
          }
        }
        // As above; any step is as good as another for a pick that cannot pass some.
        sequence = alone ? sequence + 1 : (y = next_draw(y)) >> 16;
      }
      if (choice.id == 0) {
        choice.id = fallback(choice, x);
        trace(choice.id, Reason::ok);
      }
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
        trace(choice.id, Reason::ok);
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
  if (refuses && (choice.held(choice.id) & kDraining) == 0) return {0, Reason::none_healthy, next};
  if (choice.id == 0) {
    bool full = false;
    for (const Id id : table.members) {
      full = full || (choice.held(id) & ~kRamping) == kFull;
    }
    return {0, full ? Reason::overloaded : Reason::none_healthy, next};
  }
  // Nobody has to be ill for the last ones to drain.
  if (choice.reason == Reason::panic && (choice.held(choice.id) & kDraining) != 0) {
    choice.reason = Reason::drain_sticky;
  }
  return {choice.id, choice.reason, next};
}

}  // namespace fastpath::balance
