// Members, flags, and the generations that readers follow.
#include "fastpath/balance/balancer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <utility>

#include "fastpath/balance/priority.hpp"
#include "fastpath/hash.hpp"

namespace fastpath::balance {

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr double kNever = std::numeric_limits<double>::infinity();

}  // namespace

void Lane::copy_from(const Lane& other) noexcept {
  in_flight.store(other.in_flight.load(kRelaxed), kRelaxed);
  tier = other.tier;
  weight.store(other.weight.load(kRelaxed), kRelaxed);
}

void Latency::copy_from(const Latency& other) noexcept {
  cost.store(other.cost.load(kRelaxed), kRelaxed);
  level.store(other.level.load(kRelaxed), kRelaxed);
}

void Ramp::copy_from(const Ramp& other) noexcept {
  start.store(other.start.load(kRelaxed), kRelaxed);
  outset.store(other.outset.load(kRelaxed), kRelaxed);
}

Storage::Storage(std::size_t n, bool measured, bool ramped)
    : capacity(n), flags(new std::atomic<std::uint8_t>[n]), lanes(new Lane[n]) {
  for (std::size_t i = 0; i < n; ++i) flags[i].store(kGone, kRelaxed);
  if (measured) latencies.reset(new Latency[n]);
  if (ramped) ramps.reset(new Ramp[n]);
}

std::size_t Storage::nbytes() const noexcept {
  return sizeof *this +
         capacity * (1 + sizeof(Lane) + (latencies ? sizeof(Latency) : 0) + (ramps ? sizeof(Ramp) : 0));
}

void Balancer::pick_many_keys(const std::uint8_t* keys, std::size_t size, Id* ids, std::size_t n,
                              double now) {
  constexpr std::size_t kChunk = 1024;
  std::uint64_t hashes[kChunk];
  for (std::size_t done = 0; done < n; done += kChunk) {
    const std::size_t some = std::min(kChunk, n - done);
    const std::uint8_t* key = keys + done * size;
    if (size == 16) {
      for (std::size_t i = 0; i < some; ++i) hashes[i] = xxh3_64(key + 16 * i, 16);
    } else {
      for (std::size_t i = 0; i < some; ++i) hashes[i] = xxh3_64(key + size * i, size);
    }
    pick_many(hashes, ids + done, some, now);
  }
}

Balancer::Balancer(const Options& options) : options_(options) {
  entries_.resize(1);
  if (needs_keys(options_.table)) keys_.resize(1);
  if (options_.outlier.on) records_.resize(1);
  reserve(15);
  if (options_.sticky_bits > 0 && is_hash_policy(options_.table.policy)) {
    sticky_ = std::make_unique<Sticky>(options_.sticky_bits);
  }
  dirty_ = true;
  rebuild();
}

Balancer::~Balancer() { delete generation_.load(kRelaxed); }

void Balancer::reserve(std::size_t more) {
  const std::size_t free = free_ids_.size() > kResting ? free_ids_.size() - kResting : 0;
  const std::size_t wanted = entries_.size() + (more > free ? more - free : 0);
  if (storage_ && wanted <= storage_->capacity) return;
  const std::size_t capacity = std::max(wanted, storage_ ? storage_->capacity * 3 / 2 : 0);
  auto larger = std::make_shared<Storage>(capacity, options_.table.policy == Policy::peak_ewma,
                                          options_.slow_start_s > 0.0);
  entries_.reserve(capacity);
  if (!keys_.empty()) keys_.reserve(capacity);
  if (!records_.empty()) records_.reserve(capacity);
  for (std::size_t i = 0; storage_ && i < storage_->capacity; ++i) {
    larger->flags[i].store(storage_->flags[i].load(kRelaxed), kRelaxed);
    larger->lanes[i].copy_from(storage_->lanes[i]);
    if (larger->latencies) larger->latencies[i].copy_from(storage_->latencies[i]);
    if (larger->ramps) larger->ramps[i].copy_from(storage_->ramps[i]);
  }
  storage_ = std::move(larger);
}

// Nothing of whom the id belonged to before.
void Balancer::reset(Id id) {
  storage_->lanes[id].copy_from(Lane());
  if (storage_->latencies) storage_->latencies[id].copy_from(Latency());
  if (storage_->ramps) storage_->ramps[id].copy_from(Ramp());
  if (!records_.empty()) records_[id] = {};
  if (id < suspicious_.size()) suspicious_[id] = false;
}

Id Balancer::add(const std::string& key, double weight, int priority, bool local, double now, bool ramp,
                 Id leased) {
  Id id = leased;
  const std::uint32_t leases = leased != 0 ? in_flight(leased) : 0;
  if (leased != 0) {
    // It comes back while its requests run.
  } else if (free_ids_.size() > kResting) {
    id = free_ids_.front();
    free_ids_.pop_front();
  } else {
    reserve(1);
    id = static_cast<Id>(entries_.size());
    entries_.emplace_back();
    if (!keys_.empty()) keys_.resize(entries_.size());
    if (!records_.empty()) records_.emplace_back();
  }
  if (!keys_.empty()) keys_.set(id, key);
  reset(id);
  storage_->lanes[id].weight.store(weight, kRelaxed);
  storage_->lanes[id].in_flight.store(leases, kRelaxed);
  Entry& entry = entries_[id];
  entry.hash = xxh64(key.data(), key.size());
  if (additions_ == std::numeric_limits<std::uint32_t>::max()) renumber();
  entry.order = additions_++;
  entry.priority = static_cast<std::uint32_t>(priority);
  entry.local = local;
  ++present_;
  const bool full = options_.max_in_flight != 0 && leases >= options_.max_in_flight;
  storage_->flags[id].store(static_cast<std::uint8_t>((weight > 0.0 ? 0 : kWeightless) | (full ? kFull : 0)),
                            kRelaxed);
  dirty_ = true;
  if (ramp && options_.slow_start_s > 0.0) start_ramp(id, 0.0, now);
  return id;
}

// Orders of addition begin again from 0.
void Balancer::renumber() {
  std::vector<std::pair<std::uint32_t, Id>> all;
  for (Id id = 1; id < entries_.size(); ++id) {
    if (present(id)) all.push_back({entries_[id].order, id});
  }
  std::sort(all.begin(), all.end());
  additions_ = 0;
  for (const auto& [order, id] : all) entries_[id].order = additions_++;
}

void Balancer::remove(Id id) {
  set_flags(id, kGone, 0);
  std::erase(ejected_, id);
  std::erase(ramping_, id);
  entries_[id] = {};
  if (!keys_.empty()) keys_.forget(id);
  --present_;
  if (in_flight(id) == 0) free_ids_.push_back(id);  // else when its last lease ends
  dirty_ = true;
}

void Balancer::set_key(Id id, const std::string& key) {
  const std::uint64_t hash = xxh64(key.data(), key.size());
  if (entries_[id].hash == hash && (keys_.empty() || keys_[id] == key)) return;
  entries_[id].hash = hash;
  if (!keys_.empty()) keys_.set(id, key);
  dirty_ = true;
}

void Balancer::set_place(Id id, int priority, bool local) {
  Entry& entry = entries_[id];
  const auto wanted = static_cast<std::uint32_t>(priority);
  if (entry.priority == wanted && entry.local == local) return;
  entry.priority = wanted;
  entry.local = local;
  dirty_ = true;
}

void Balancer::set_weight(Id id, double weight, double now) {
  const double before = this->weight(id);
  if (weight == before) return;
  // To those who do not look at weights, only 0 says something.
  const bool same = ignores_weights(options_.table) && weight > 0.0 && before > 0.0;
  if (options_.slow_start_s > 0.0 && !same) {
    // A raise begins where the backend is now; a lower weight holds at once, because it protects.
    const bool ramping = (flags(id) & kRamping) != 0;
    const double reached = ramping ? effective_weight(id, now) : before;
    if (weight > reached) {
      start_ramp(id, reached, now);
    } else if (ramping) {
      std::erase(ramping_, id);
      set_flags(id, 0, kRamping);
    }
  }
  storage_->lanes[id].weight.store(weight, kRelaxed);
  dirty_ = true;
  set_flags(id, weight > 0.0 ? 0 : kWeightless, weight > 0.0 ? kWeightless : 0);
}

void Balancer::start_ramp(Id id, double outset, double now) {
  Ramp& ramp = storage_->ramps[id];
  ramp.outset.store(outset, kRelaxed);
  ramp.start.store(now, kRelaxed);
  if ((flags(id) & kRamping) == 0) {
    ramping_.push_back(id);
    set_flags(id, kRamping, 0);
  }
  next_event_ = std::min(next_event_, now + options_.slow_start_s);
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
  if (dirty_ || g == nullptr) return;                            // rebuild() counts anew
  if ((before & (kWeightless | kOutside | kGone)) != 0) return;  // in no tier
  Tier& tier = *g->tiers[storage_->lanes[id].tier];
  const std::size_t total = tier.total;
  const std::size_t healthy = tier.healthy;
  const bool ramping = tier.ramping.load(kRelaxed) != 0;
  count(tier, id, before, -1);
  count(tier, id, after, 1);
  publish_weight(tier);
  const bool ramps = tier.ramping.load(kRelaxed) != 0;
  if (tier.total != total || tier.healthy != healthy || ramps != ramping) publish_loads(*g);
  update_load(tier, id);
}

// What the tournament of least_request knows of a backend that is in a tier.
void Balancer::update_load(Tier& tier, Id id) noexcept {
  if (tier.table.kind != TableKind::scan) return;
  const bool out = (flags(id) & tier.mask.load(kRelaxed)) != 0;
  const Lane& lane = storage_->lanes[id];
  tier.least.set(places_[id], out ? Tournament::kOut : lane.load());
}

void Balancer::count(Tier& tier, Id id, std::uint8_t flags, int sign) const noexcept {
  const bool counted = (flags & (kDraining | kOutside | kGone | kWeightless)) == 0;
  if (counted) {
    tier.total += static_cast<std::size_t>(sign);
    if ((flags & (kUnhealthy | kEjected)) == 0) tier.healthy += static_cast<std::size_t>(sign);
  }
  const auto add = [sign](std::atomic<std::uint32_t>& counter) {
    counter.store(counter.load(kRelaxed) + static_cast<std::uint32_t>(sign), kRelaxed);
  };
  if (flags != 0) add(tier.flagged);
  if ((flags & kRamping) != 0) add(tier.ramping);
  if ((flags & kDraining) != 0) add(tier.draining);
  if ((flags & ~kRamping) == 0) {
    const auto units = static_cast<unsigned __int128>(weight(id) / tier.unit);
    tier.live_units += sign > 0 ? units : -units;
  }
}

void Balancer::publish_weight(Tier& tier) noexcept {
  tier.live_weight.store(static_cast<double>(tier.live_units) * tier.unit, kRelaxed);
}

void Balancer::publish_loads(Generation& g) {
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
  bool moved = false;
  bool drains = false;  // somebody in a tier before the last one
  for (std::size_t i = 0; i < g.tiers.size(); ++i) {
    Tier& tier = *g.tiers[i];
    const PriorityLoad& priority = priorities[tier.rank];
    const Tier* next =
        i + 1 < g.tiers.size() && g.tiers[i + 1]->rank == tier.rank ? g.tiers[i + 1].get() : nullptr;
    std::uint32_t load = priority.load;
    if (i > 0 && g.tiers[i - 1]->rank == tier.rank) {
      load -= g.tiers[i - 1]->load.load(kRelaxed);  // what the local zone leaves
    } else if (next != nullptr) {
      const std::uint64_t here = priority.panic ? tier.total : tier.healthy;
      const std::uint64_t there = priority.panic ? next->total : next->healthy;
      std::uint64_t share = 100;
      if (there != 0) {
        share =
            tier.total == 0 ? 0 : std::min<std::uint64_t>(100, options_.overprovisioning * here / tier.total);
      }
      load = static_cast<std::uint32_t>(load * share / 100);
    }
    moved = tier.load.exchange(load, kRelaxed) != load || moved;
    tier.panic.store(priority.panic, kRelaxed);
    const int ignored = priority.panic && !options_.panic_fail ? kUnhealthy | kEjected : 0;
    const auto mask = static_cast<std::uint8_t>(~ignored);
    if (tier.mask.exchange(mask, kRelaxed) != mask) {
      for (const Id id : tier.table.members) update_load(tier, id);
    }
    if (load > 0) {
      last = &tier;
      drains = sticky_ && std::any_of(g.tiers.begin(), g.tiers.begin() + static_cast<std::ptrdiff_t>(i),
                                      [](const auto& other) { return other->draining.load(kRelaxed) != 0; });
    }
  }
  if (last == nullptr) {
    // Nobody is healthy and panic is off, or everybody drains: sticky keys still find their backend.
    last = g.tiers.front().get();
    last->load.store(100, kRelaxed);
    moved = true;
  }
  // The shortcut asks flags alone, so what depends on more must not take it.
  const bool refuses = last->panic.load(kRelaxed) && options_.panic_fail;
  const bool keeps = last->table.kind == TableKind::jump && last->outset && last->ramping.load(kRelaxed) != 0;
  const bool alone = last->load.load(kRelaxed) == 100 && !refuses && !keeps && !drains;
  if (alone || g.patterned) g.sole.store(alone ? last : nullptr, kRelaxed);
  if (alone || (g.patterned && !moved)) {
    g.patterned = g.patterned && !moved;
    return;
  }
  g.patterned = true;
  // Hashes below a priority's cumulated load belong to it; counted picks visit the hundred in strides of 61,
  // which spreads every tier's share evenly.
  std::uint32_t tier_of[100] = {};
  std::size_t place = 0;
  for (std::uint32_t i = 0; i < g.tiers.size(); ++i) {
    for (std::uint32_t k = 0; k < g.tiers[i]->load.load(kRelaxed); ++k) tier_of[place++] = i;
  }
  const bool hashed = is_hash_policy(options_.table.policy);
  std::vector<std::uint32_t> seen(g.tiers.size(), 0);
  for (std::size_t i = 0; i < 100; ++i) {
    const std::uint32_t tier = tier_of[hashed ? i : i * 61 % 100];
    g.pattern[i].store(tier, kRelaxed);
    g.rank[i].store(seen[tier]++, kRelaxed);
  }
  g.sole.store(nullptr, kRelaxed);
}

// The backends with the best rendezvous scores for this balancer's seed: one change of members changes at
// most one of them.
std::vector<bool> Balancer::subset() const {
  std::vector<bool> inside(entries_.size(), true);
  if (options_.subset_size == 0) return inside;
  std::vector<std::pair<std::uint64_t, Id>> scores;
  for (Id id = 1; id < entries_.size(); ++id) {
    const Entry& entry = entries_[id];
    if (present(id) && weight(id) > 0.0) scores.push_back({mix64(options_.seed ^ entry.hash), id});
  }
  if (scores.size() <= options_.subset_size) return inside;
  std::nth_element(scores.begin(), scores.begin() + options_.subset_size, scores.end(), std::greater<>());
  for (std::size_t i = options_.subset_size; i < scores.size(); ++i) inside[scores[i].second] = false;
  return inside;
}

// The table from before slow start, of those of `members` who had a weight then.
std::unique_ptr<Table> Balancer::build_outset(const std::vector<Member>& now, const Tier* before) const {
  if (!is_hash_policy(options_.table.policy) || ramping_.empty()) return nullptr;
  std::vector<Member> members = now;
  bool warming = false;
  for (Member& member : members) {
    if ((flags(member.id) & kRamping) == 0) continue;
    warming = true;
    member.weight = storage_->ramps[member.id].outset.load(kRelaxed);
    // A second raise may have begun between two whole weights.
    if (options_.table.policy == Policy::jump) member.weight = std::floor(member.weight);
  }
  if (!warming) return nullptr;
  const Table* repaired = before == nullptr ? nullptr
                          : before->outset  ? before->outset.get()
                                            : &before->table;
  try {
    return std::make_unique<Table>(build_table(std::move(members), options_.table, repaired));
  } catch (const std::invalid_argument&) {
    return nullptr;  // such weights between others may need too large a table
  }
}

void Balancer::rebuild() {
  if (!dirty_) return;
  const std::vector<bool> inside = subset();
  // By priority, the local zone before the others, in order of addition.
  using Place = std::pair<int, bool>;
  std::map<Place, std::vector<std::uint64_t>> groups;  // the order above the id
  auto group = groups.end();                           // mostly that of the one before
  const auto put = [&](Id id) {
    const Entry& entry = entries_[id];
    if (!present(id) || weight(id) <= 0.0 || !inside[id]) return;
    const Place place{static_cast<int>(entry.priority), !entry.local};
    if (group == groups.end() || group->first != place) {
      group = groups.try_emplace(place).first;
      group->second.reserve(present_);
    }
    group->second.push_back(std::uint64_t{entry.order} << 32 | id);
  };
  // Members of the tables before are in order already, which ids that others had are not.
  const Generation* old = generation_.load(kRelaxed);
  std::vector<std::uint8_t> met(entries_.size(), 0);
  if (old != nullptr) {
    for (const auto& tier : old->tiers) {
      for (const Id id : tier->table.members) {
        met[id] = 1;
        put(id);
      }
    }
  }
  for (Id id = 1; id < entries_.size(); ++id) {
    if (met[id] == 0) put(id);
  }
  keys_.tidy();
  if (options_.table.policy == Policy::least_request) places_.resize(entries_.size());
  auto g = std::make_unique<Generation>();
  g->storage = storage_;
  for (auto& [place, group] : groups) {
    if (!std::is_sorted(group.begin(), group.end())) std::sort(group.begin(), group.end());
    auto tier = std::make_unique<Tier>();
    tier->priority = place.first;
    tier->rank = g->tiers.empty() ? 0 : g->tiers.back()->rank + (g->tiers.back()->priority != place.first);
    tier->remote = place.second;
    std::vector<Member> members;
    members.reserve(group.size());
    for (const std::uint64_t ordered : group) {
      const Id id = static_cast<Id>(ordered);
      members.push_back({id, weight(id), entries_[id].hash, keys_.empty() ? std::string_view() : keys_[id]});
    }
    const Tier* before = nullptr;
    if (old != nullptr) {
      for (const auto& other : old->tiers) {
        if (other->priority == place.first && other->remote == place.second) before = other.get();
      }
    }
    tier->outset = build_outset(members, before);
    tier->table =
        build_table(std::move(members), options_.table, before != nullptr ? &before->table : nullptr);
    if (tier->table.kind == TableKind::scan) tier->least.resize(tier->table.weights);
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
    tier.unit = std::exp2(std::ilogb(tier.table.total_weight) - 110);
    std::uint32_t place = 0;
    for (const Id id : tier.table.members) {
      storage_->lanes[id].tier = static_cast<std::uint32_t>(t);
      if (tier.table.kind == TableKind::scan) places_[id] = place++;
      count(tier, id, flags(id), 1);
      tier.in_flight.store(tier.in_flight.load(kRelaxed) + in_flight(id), kRelaxed);
      update_load(tier, id);
    }
    publish_weight(tier);
  }
  publish_loads(*g);
  dirty_ = false;
  Generation* replaced = generation_.exchange(g.release());
  if (replaced != nullptr) domain_.retire(replaced);
  domain_.reclaim();
  align_start();
}

void Balancer::start_near(std::uint64_t position) {
  position_.store(position, kRelaxed);
  start_ = position;
  anywhere_ = true;
  if (!dirty_) align_start();
}

void Balancer::align_start() {
  if (!anywhere_) return;
  std::uint64_t held = start_;
  const Tier* tier = generation()->sole.load(kRelaxed);
  if (tier != nullptr && tier->table.kind == TableKind::schedule) {
    const IdArray& ids = tier->table.ids;
    std::vector<std::uint32_t> order(ids.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = ids[i];
    const std::vector<std::uint32_t> starts = even_starts(order, entries_.size());
    if (!starts.empty()) start_ += starts[mix64(start_) % starts.size()] - start_ % order.size();
  }
  anywhere_ = position_.compare_exchange_strong(held, start_, kRelaxed);
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

void Balancer::sample_owners(Id* owners, double now) {
  const bool plain = options_.table.policy == Policy::maglev || options_.table.policy == Policy::stable;
  std::vector<std::uint64_t> hashes(sample_size());
  // Hashes 0 to slots - 1 meet every slot once; other layouts are sampled.
  for (std::size_t i = 0; i < hashes.size(); ++i) hashes[i] = plain ? i : mix64(i);
  pick_many(hashes.data(), owners, hashes.size(), now);
}

std::vector<double> Balancer::shares(double now) const {
  std::vector<double> share(entries_.size(), 0.0);
  share[0] = 1.0;
  const Generation* g = generation();
  const auto refuses = [&](const Tier& tier) { return tier.panic.load(kRelaxed) && options_.panic_fail; };
  // What everybody of a tier who takes picks weighs; 0 for the tier if nobody does.
  const auto weigh = [&](const Tier& tier, std::vector<double>& weights) {
    const std::uint8_t mask = tier.mask.load(kRelaxed) & static_cast<std::uint8_t>(~kRamping);
    double total = 0.0;
    weights.clear();
    for (std::size_t i = 0; i < tier.table.members.size(); ++i) {
      const Id id = tier.table.members[i];
      const double factor = (flags(id) & kRamping) != 0 ? ramp_factor(*storage_, id, now) : 1.0;
      weights.push_back((flags(id) & mask) != 0 ? 0.0 : weight_in(tier.table, *storage_, i) * factor);
      total += weights.back();
    }
    return total;
  };
  std::vector<double> weights;
  for (const auto& loaded : g->tiers) {
    const double load = loaded->load.load(kRelaxed) / 100.0;
    if (load == 0.0 || refuses(*loaded)) continue;
    const Tier* tier = loaded.get();
    double total = weigh(*tier, weights);
    // As decide() does it: the first of the others takes over.
    for (std::size_t t = 0; total == 0.0 && t < g->tiers.size(); ++t) {
      tier = g->tiers[t].get();
      total = refuses(*tier) ? 0.0 : weigh(*tier, weights);
    }
    if (total == 0.0) continue;
    share[0] -= load;
    for (std::size_t i = 0; i < weights.size(); ++i)
      share[tier->table.members[i]] += weights[i] / total * load;
  }
  return share;
}

}  // namespace fastpath::balance
