// A balancer: tables that change rarely (table.hpp), and beside them flags and counters that flip in place.
//
// Threads. pick_many() may run on any number of threads, beside all else. The other calls are made by one
// thread at a time (in Python: under the GIL). What readers follow is one published Generation, freed by
// epochs.
#pragma once

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "fastpath/balance/draw.hpp"
#include "fastpath/balance/keys.hpp"
#include "fastpath/balance/sticky.hpp"
#include "fastpath/balance/table.hpp"
#include "fastpath/balance/tournament.hpp"
#include "fastpath/cpu.hpp"
#include "fastpath/epoch.hpp"

namespace fastpath::balance {

// Why a backend takes no picks (or, ramping, only some).
enum Flag : std::uint8_t {
  kUnhealthy = 1,
  kEjected = 2,
  kDraining = 4,
  kFull = 8,
  kRamping = 16,
  kWeightless = 32,
  kOutside = 64,  // not in the subset
  kGone = 128,
};

enum class Reason : std::uint8_t {
  ok,
  panic,
  failover,      // a priority that is not the first
  spilled_zone,  // another zone than the local one
  rehashed,      // the key's own backend is out of order
  over_bound,    // the key's own backend is at its bound
  slow_start,    // the key's own backend is still being warmed up
  drain_sticky,  // the backend drains, but knows this key
  none_healthy,
  overloaded,  // all that are left are at max_in_flight
  empty,
};

struct Outlier {
  bool on = false;
  std::uint32_t consecutive_failures = 5;
  double interval_s = 10.0;
  double base_ejection_s = 30.0;
  double max_ejection_s = 300.0;
  double max_ejected = 0.1;
  double stdev_factor = 1.9;
  double failure_share = 0.85;
  std::uint32_t min_hosts = 5;
  std::uint32_t min_requests = 100;
  double jitter_s = 3.0;
};

struct Options {
  TableOptions table;
  std::uint64_t seed = 0;
  double load_bound = 0.0;  // 0: none
  double slow_start_s = 0.0;
  double slow_start_min = 0.1;
  double slow_start_aggression = 1.0;
  double panic_threshold = 50.0;  // percent
  bool panic_fail = false;
  std::uint64_t overprovisioning = 140;  // percent
  std::uint32_t subset_size = 0;         // 0: everybody
  std::uint32_t max_in_flight = 0;       // 0: no limit
  std::uint32_t sticky_bits = 0;         // remembered keys: 2^bits; 0: none
  double decay_s = 10.0;                 // peak_ewma
  double failure_latency_s = 1.0;        // peak_ewma
  double retry_budget = 0.2;
  std::uint32_t min_retries = 3;
  Outlier outlier;
};

// What picks read of every backend; what only some policies and options need is beside it.
struct Lane {
  std::atomic<std::uint32_t> in_flight{0};
  std::uint32_t tier = 0;  // of the generation
  std::atomic<double> weight{0.0};

  double load() const noexcept {
    return in_flight.load(std::memory_order_relaxed) / weight.load(std::memory_order_relaxed);
  }
  void copy_from(const Lane& other) noexcept;
};
static_assert(sizeof(Lane) == 16);

// peak_ewma. Costs decay alike, so they are compared as they would be at one reference time (`level`), for
// which a pick needs no clock. How old a cost is, its level tells.
struct Latency {
  std::atomic<double> cost{0.0};  // seconds, when it was measured
  std::atomic<double> level{0.0};

  void copy_from(const Latency& other) noexcept;
};

struct Ramp {
  std::atomic<double> start{0.0};
  std::atomic<double> outset{0.0};  // the weight at the start

  void copy_from(const Ramp& other) noexcept;
};

struct Storage {
  Storage(std::size_t n, bool measured, bool ramped);
  std::size_t nbytes() const noexcept;

  std::size_t capacity;
  std::unique_ptr<std::atomic<std::uint8_t>[]> flags;
  std::unique_ptr<Lane[]> lanes;
  std::unique_ptr<Latency[]> latencies;  // null but for peak_ewma
  std::unique_ptr<Ramp[]> ramps;         // null without slow start
};

// The backends of one priority, or of the local zone in it, or of the other zones.
struct Tier {
  Table table;
  // By key, while some are in slow start: the table by the weights from which they began. A key that they do
  // not take yet stays with its owner there. Null: none.
  std::unique_ptr<Table> outset;
  int priority = 0;
  std::size_t rank = 0;  // of the priority, from 0
  bool remote = false;   // other zones, while the local one has members in this priority
  // Counters that follow the flags.
  std::size_t total = 0;  // with a weight and not draining
  std::size_t healthy = 0;
  std::atomic<std::uint32_t> flagged{0};  // members with any flag
  std::atomic<std::uint32_t> ramping{0};  // members in slow start
  std::atomic<std::uint32_t> draining{0};
  // Of the members that take picks; counted in whole units, so that no flip leaves a rounding error behind.
  std::atomic<double> live_weight{0.0};
  unsigned __int128 live_units = 0;
  double unit = 1.0;
  Tournament least;  // least_request
  std::atomic<std::uint32_t> in_flight{0};
  std::atomic<std::uint8_t> mask{0xFF};  // flags that keep a backend from being picked
  std::atomic<bool> panic{false};
  std::atomic<std::uint32_t> load{0};  // percent
};

struct Generation {
  std::shared_ptr<Storage> storage;
  std::vector<std::unique_ptr<Tier>> tiers;
  std::atomic<Tier*> sole{nullptr};  // takes all picks
  // A pick at position p goes to the tier pattern[p % 100], as its rank[p % 100]-th of this hundred.
  std::atomic<std::uint32_t> pattern[100];
  std::atomic<std::uint32_t> rank[100];
  bool patterned = false;  // the pattern follows the loads
};

struct Considered {
  Id id;
  Reason verdict;
};

struct Ask {
  bool keyed = false;
  std::uint64_t hash = 0;
  const void* key = nullptr;  // pymemcache's scores need the bytes
  std::size_t key_size = 0;
  std::uint64_t position = 0;
  double now = 0.0;
  const std::vector<bool>* exclude = nullptr;
  std::vector<Considered>* trace = nullptr;
};

struct Decision {
  Id id = 0;
  Reason reason = Reason::empty;
  std::uint64_t next = 0;  // position after this pick
};

class Balancer {
 public:
  explicit Balancer(const Options& options);
  Balancer(const Balancer&) = delete;
  Balancer& operator=(const Balancer&) = delete;
  ~Balancer();

  const Options& options() const noexcept { return options_; }
  // In the child of a fork, where no other thread is.
  void forget_readers() noexcept { domain_.forget_readers(); }

  // --- picks
  // `now` matters only while uses_time() is true.
  bool uses_time() const noexcept { return next_event_ < std::numeric_limits<double>::infinity(); }
  // `alone`: no pick_many() runs, so nobody else moves the position. The locked exchange, which waits for all
  // stores of the caller, is spared.
  Id pick(double now, bool alone = false) noexcept {
    for (;;) {
      std::uint64_t position = position_.load(std::memory_order_relaxed);
      const Decision decision = quick(position, now);
      if (alone) {
        position_.store(decision.next, std::memory_order_relaxed);
        return decision.id;
      }
      if (decision.next == position ||
          position_.compare_exchange_weak(position, decision.next, std::memory_order_relaxed)) {
        return decision.id;
      }
    }
  }
  // A hash policy, a hash ready.
  Id pick_hash(std::uint64_t hash, double now) noexcept {
    const Generation* g = generation_.load(std::memory_order_acquire);
    const Tier* tier = g->sole.load(std::memory_order_relaxed);
    if (tier != nullptr && options_.load_bound == 0.0) {
      const Id id = tier->table.first_owner(hash);
      if (id != 0 && (g->storage->flags[id].load(std::memory_order_relaxed) &
                      tier->mask.load(std::memory_order_relaxed)) == 0) {
        remember(hash, id);
        return id;
      }
    }
    Ask ask;
    ask.keyed = true;
    ask.hash = hash;
    ask.now = now;
    const Id id = decide(ask).id;
    if (id != 0) remember(hash, id);
    return id;
  }
  // The same for scores that need the bytes of the key.
  Id pick_key(std::uint64_t hash, const void* key, std::size_t size, double now) noexcept {
    Ask ask;
    ask.keyed = true;
    ask.hash = hash;
    ask.key = key;
    ask.key_size = size;
    ask.now = now;
    const Id id = decide(ask).id;
    if (id != 0) remember(hash, id);
    return id;
  }
  // The whole rule, of which the calls above are shortcuts. Advances nothing.
  Decision decide(const Ask& ask) const noexcept;
  // `ids` for the next n positions, or for n hashes; same answers as one by one. The caller holds no guard.
  void pick_many(Id* ids, std::size_t n, double now);
  void pick_many(const std::uint64_t* hashes, Id* ids, std::size_t n, double now);
  // For n keys of `size` bytes each, hashed by XXH3-64.
  void pick_many_keys(const std::uint8_t* keys, std::size_t size, Id* ids, std::size_t n, double now);
  // As pick_many() from a position on, with nothing advanced; returns the position after it.
  std::uint64_t look(Id* ids, std::size_t n, std::uint64_t position, double now) const noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      const Decision decision = quick(position, now);
      ids[i] = decision.id;
      position = decision.next;
    }
    return position;
  }
  void remember(std::uint64_t hash, Id id) noexcept {
    if (sticky_) sticky_->add(hash ^ (id * kGolden));
  }

  std::uint64_t position() const noexcept { return position_.load(std::memory_order_relaxed); }
  void set_position(std::uint64_t position) noexcept {
    position_.store(position, std::memory_order_relaxed);
    anywhere_ = false;
  }
  // Picks begin near this position: at the next rebuild() it goes, if nobody has picked yet, to where a
  // schedule can begin without a pick too much or too few for anybody.
  void start_near(std::uint64_t position);

  // --- members
  void reserve(std::size_t more);  // before so many are added
  // `leased`: the id that a member had which is gone but for its leases, to be had again; 0: another one.
  Id add(const std::string& key, double weight, int priority, bool local, double now, bool ramp,
         Id leased = 0);
  void remove(Id id);
  void set_key(Id id, const std::string& key);
  void set_place(Id id, int priority, bool local);
  void set_weight(Id id, double weight, double now);
  void set_healthy(Id id, bool healthy) { set_flags(id, healthy ? 0 : kUnhealthy, healthy ? kUnhealthy : 0); }
  void set_draining(Id id, bool draining) {
    set_flags(id, draining ? kDraining : 0, draining ? 0 : kDraining);
  }
  std::uint8_t flags(Id id) const noexcept { return storage_->flags[id].load(std::memory_order_relaxed); }

  // Tables follow edits of members on the next rebuild(), so that many edits cost one.
  bool dirty() const noexcept { return dirty_; }
  void rebuild();
  // The picks of many hashes, which disruption is measured by.
  std::size_t sample_size() const noexcept;
  void sample_owners(Id* owners, double now);
  // The share of picks of every id as things stand, for keyless policies; that of 0 gets nobody.
  std::vector<double> shares(double now) const;

  // --- load and health
  void acquire(Id id) noexcept;
  void release(Id id) noexcept;
  std::uint32_t in_flight(Id id) const noexcept {
    return storage_->lanes[id].in_flight.load(std::memory_order_relaxed);
  }
  bool retry_begins() noexcept;
  void retry_ends() noexcept { --retries_; }
  bool wants_reports() const noexcept {
    return options_.outlier.on || options_.table.policy == Policy::peak_ewma;
  }
  void report(Id id, bool ok, double latency_s, double now);  // latency below 0: unknown
  // A request was given up after so long: it would have taken at least that.
  void report_abandoned(Id id, double waited_s, double now);
  bool due(double now) const noexcept { return now >= next_event_; }
  void tick(double now);
  double cost(Id id, double now) const noexcept;
  double effective_weight(Id id, double now) const noexcept;  // with slow start

  const Generation* generation() const noexcept { return generation_.load(std::memory_order_acquire); }
  std::uint32_t total_in_flight() const noexcept { return total_in_flight_; }
  std::uint32_t retries() const noexcept { return retries_; }
  std::size_t capacity() const noexcept { return storage_->capacity; }
  std::size_t nbytes() const noexcept;

 private:
  struct Entry {
    std::uint64_t hash = 0;   // of the key
    std::uint32_t order = 0;  // of addition
    std::uint32_t priority : 31 = 0;
    std::uint32_t local : 1 = 1;
  };
  struct Record {                // of outlier detection
    double ejected_until = 0.0;  // also of the last ejection, when that is over
    std::uint32_t passed = 0;    // reports in this interval
    std::uint32_t failed = 0;
    std::uint16_t consecutive = 0;  // failures in a row
    std::uint16_t ejections = 0;
  };

  Decision decide_at(std::uint64_t position, double now) const noexcept;
  // The same for the common case: one tier, and nothing wrong with the backend that comes first.
  [[gnu::always_inline]] Decision quick(std::uint64_t position, double now) const noexcept {
    const Generation* g = generation_.load(std::memory_order_acquire);
    const Tier* tier = g->sole.load(std::memory_order_relaxed);
    if (tier == nullptr || options_.load_bound != 0.0) return decide_at(position, now);
    const std::uint8_t mask = tier->mask.load(std::memory_order_relaxed);
    const auto* flags = g->storage->flags.get();
    const auto open = [&](Id id) { return (flags[id].load(std::memory_order_relaxed) & mask) == 0; };
    const Table& table = tier->table;
    Id id = 0;
    switch (table.kind) {
      case TableKind::schedule:
        id = table.ids[position % table.ids.size()];
        break;
      case TableKind::list:
        id = table.members[position % table.members.size()];
        break;
      case TableKind::alias:
        id = table.alias_owner(draw(options_.seed, position));
        break;
      case TableKind::two_choices: {
        std::uint64_t x = draw(options_.seed, position);
        id = table.alias_owner(x);
        Id other = id;
        for (int tries = 0; tries < 4 && other == id; ++tries) {
          x = next_draw(x);
          other = table.alias_owner(x);
        }
        if (id == other || !open(other) || !open(id)) return decide_at(position, now);
        if (less_loaded(*tier, *g->storage, id, other)) id = other;
        return {id, Reason::ok, position + 1};
      }
      case TableKind::slots:
        id = table.slot_owner(draw(options_.seed, position));
        break;
      case TableKind::ring:
      case TableKind::rendezvous:
      case TableKind::jump:
        id = table.alias_owner(draw(options_.seed, position));
        break;
      case TableKind::scan: {
        if (tier->ramping.load(std::memory_order_relaxed) != 0) return decide_at(position, now);
        const std::size_t place = tier->least.pick(unit(draw(options_.seed, position)));
        if (place == Tournament::kNobody) return decide_at(position, now);
        id = table.members[place];
        break;
      }
      default:
        return decide_at(position, now);
    }
    if (!open(id)) return decide_at(position, now);
    return {id, Reason::ok, position + 1};
  }

  bool remembered(std::uint64_t hash, Id id) const noexcept {
    return sticky_ && sticky_->contains(hash ^ (id * kGolden));
  }
  // Load of a backend with requests under way and no answer yet.
  static constexpr double kUnmeasured = 1e300;
  struct Choice;
  double ramp_part(const Ramp& ramp, double now) const noexcept;
  double ramp_factor(const Storage& storage, Id id, double now) const noexcept;
  double ramp_keys(const Choice& choice, Id id) const noexcept;
  bool leaves_later(const Choice& choice, Id to) const noexcept;
  Reason verdict(const Choice& choice, Id id) const noexcept;
  Id fallback(Choice& choice, std::uint64_t x) const noexcept;
  void choose_hashed(Choice& choice) const noexcept;
  void choose_two(Choice& choice) const noexcept;
  void choose_least(Choice& choice) const noexcept;
  // Whether b is to be preferred over a. Equal loads leave a, which was drawn first. The factors are of slow
  // start.
  bool less_loaded(const Tier& tier, const Storage& storage, Id a, Id b, double factor_a = 1.0,
                   double factor_b = 1.0) const noexcept {
    constexpr auto kRelaxed = std::memory_order_relaxed;
    const Lane& lane_a = storage.lanes[a];
    const Lane& lane_b = storage.lanes[b];
    const double weight_a = lane_a.weight.load(kRelaxed) * factor_a;
    const double weight_b = lane_b.weight.load(kRelaxed) * factor_b;
    const double pending_a = lane_a.in_flight.load(kRelaxed);
    const double pending_b = lane_b.in_flight.load(kRelaxed);
    if (!storage.latencies) return pending_b * weight_a < pending_a * weight_b;
    const double mean = tier.table.total_weight / static_cast<double>(tier.table.members.size());
    const auto load = [&](Id id, double pending, double weight) {
      const double level = storage.latencies[id].level.load(kRelaxed);
      // Who has not answered yet gets one request, and then no more until it does.
      if (level == 0.0) return pending > 0.0 ? kUnmeasured * (1.0 + pending) : 0.0;
      return level * (1.0 + pending * mean / weight);
    };
    // Costs that are equal but for roundings are a tie.
    return load(b, pending_b, weight_b) < load(a, pending_a, weight_a) * (1.0 - 1e-9);
  }
  Decision decide_in(const Generation& generation, const Tier& tier, const Ask& ask, std::uint64_t cursor,
                     bool alone) const noexcept;
  // By how much costs have lost of their levels.
  double growth(double time) const noexcept { return std::exp((time - reference_) / options_.decay_s); }
  void measure(Id id, double seen, double now, bool passed);
  double failure_cost(double now) const noexcept;
  void update_load(Tier& tier, Id id) noexcept;
  double weight(Id id) const noexcept { return storage_->lanes[id].weight.load(std::memory_order_relaxed); }
  bool present(Id id) const noexcept { return (flags(id) & kGone) == 0; }
  // The weight of a member of a table.
  static double weight_in(const Table& table, const Storage& storage, std::size_t i) noexcept {
    if (table.even) return 1.0;
    return storage.lanes[table.members[i]].weight.load(std::memory_order_relaxed);
  }
  void renumber();
  void set_flags(Id id, std::uint8_t set, std::uint8_t clear);
  void count(Tier& tier, Id id, std::uint8_t flags, int sign) const noexcept;
  void publish_loads(Generation& generation);
  void align_start();
  static void publish_weight(Tier& tier) noexcept;
  void eject(Id id, double now);
  void sweep(double now);
  void schedule_event();
  void reset(Id id);
  void start_ramp(Id id, double outset, double now);
  std::vector<bool> subset() const;
  std::unique_ptr<Table> build_outset(const std::vector<Member>& now, const Tier* before) const;

  Options options_;
  std::atomic<std::uint64_t> position_{0};
  std::atomic<Generation*> generation_{nullptr};
  std::unique_ptr<Sticky> sticky_;
  bool dirty_ = false;
  bool anywhere_ = false;  // picks begin at any position, and have not begun
  std::uint64_t start_ = 0;
  double next_event_ = std::numeric_limits<double>::infinity();

  std::shared_ptr<Storage> storage_;
  std::vector<Entry> entries_;         // by id
  Keys keys_;                          // where the policy needs them
  std::vector<Record> records_;        // by id, with outlier detection
  std::vector<std::uint32_t> places_;  // by id, in the tier's tournament: least_request
  std::size_t present_ = 0;
  // Without leases, oldest first. So many rest, that an id which somebody still holds is no other backend's.
  static constexpr std::size_t kResting = 256;
  std::deque<Id> free_ids_;
  std::uint32_t additions_ = 0;
  std::uint32_t total_in_flight_ = 0;
  std::uint32_t retries_ = 0;
  std::vector<Id> ejected_;
  std::vector<Id> ramping_;
  double next_sweep_ = std::numeric_limits<double>::infinity();
  std::uint64_t jitter_draws_ = 0;
  // Latencies: time as it passed, which a clock that is set back does not stop; and the time of levels.
  double latest_ = -std::numeric_limits<double>::infinity();
  double set_back_ = 0.0;
  double reference_ = 0.0;
  double slowest_ = 0.0;          // the highest level that answers have led to, failures left out
  std::vector<bool> suspicious_;  // by id: part of its cost is of failures
  EpochDomain domain_;
};

// Kernels, bound by instruction set (core/kernels/balancer_*.cpp).
struct Kernels {
  // ids[i] = table[hashes[i] % slots]; the table is padded by two bytes.
  void (*slots)(const std::uint16_t* table, std::uint32_t slots, const std::uint64_t* hashes, Id* ids,
                std::size_t n);
  // ids[i] by alias table (null: uniform) for position first + i.
  void (*alias)(const std::uint64_t* table, const Id* members, std::uint64_t count, std::uint64_t seed,
                std::uint64_t first, Id* ids, std::size_t n);
  // Who of n > 0 nodes has the best score, the first of equal ones.
  std::size_t (*rendezvous)(const std::uint64_t* nodes, const double* inverse_weights, std::size_t n,
                            std::uint64_t hash);
  // buckets[i] = jump_hash(hashes[i], count).
  void (*jump)(const std::uint64_t* hashes, std::uint32_t count, std::uint32_t* buckets, std::size_t n);
  // jump_hash(hash, count).
  std::uint32_t (*jump_one)(std::uint64_t hash, std::uint32_t count) noexcept;
};
const Kernels& scalar_kernels() noexcept;
const Kernels& avx2_kernels() noexcept;
const Kernels& avx512_kernels() noexcept;
inline const Kernels& kernels() noexcept {
#if defined(__x86_64__)
  if (isa_in_use() == Isa::avx512) return avx512_kernels();
  if (isa_in_use() == Isa::avx2) return avx2_kernels();
#endif
  return scalar_kernels();
}

}  // namespace fastpath::balance
