// The immutable part of a balancer: who stands where, for one tier of backends under one policy.
//
// A table knows members and weights, nothing of health or load: those are flags and counters beside it, so
// that a flip never rebuilds one.
#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "fastpath/balance/draw.hpp"
#include "fastpath/balance/ring.hpp"

namespace fastpath::balance {

// The id of a backend in one balancer; 0 is "none".
using Id = std::uint32_t;

enum class Policy : std::uint8_t {
  round_robin,
  weighted_round_robin,
  random,
  weighted_random,
  least_request,
  power_of_two,
  peak_ewma,
  maglev,
  ketama,
  rendezvous,
  jump,
  stable,
};

inline bool is_hash_policy(Policy policy) noexcept { return policy >= Policy::maglev; }

// Whose layout and order a policy follows; `none` is this library's own.
enum class Compat : std::uint8_t { none, nginx, envoy, envoy_murmur2, grpc, lvs, libmemcached, pymemcache };

struct TableOptions {
  Policy policy = Policy::weighted_round_robin;
  Compat compat = Compat::none;
  std::uint32_t slots = 65537;       // maglev, stable
  std::uint32_t points = 160;        // ketama: points for one unit of weight
  std::uint64_t ring_min = 1024;     // ketama, Envoy's layout
  std::uint64_t ring_max = 8388608;  // ketama, Envoy's layout
  double slack = 0.05;               // stable: how far above its share a backend may go
  bool repair = false;               // stable: start from the table before
};

struct Member {
  Id id = 0;
  double weight = 1.0;
  std::uint64_t hash = 0;  // of its key: XXH64
  std::string_view key;    // where the layout takes more than the hash (needs_keys)
};

inline bool needs_keys(const TableOptions& options) noexcept {
  return options.policy == Policy::maglev ||
         (options.compat != Compat::none && is_hash_policy(options.policy));
}

inline bool ignores_weights(const TableOptions& options) noexcept {
  return options.policy == Policy::round_robin || options.policy == Policy::random ||
         options.compat == Compat::pymemcache;
}

// Ids in two bytes each while they fit.
class IdArray {
 public:
  void assign(const std::vector<Id>& ids);
  Id operator[](std::size_t i) const noexcept { return wide_.empty() ? narrow_[i] : wide_[i]; }
  std::size_t size() const noexcept { return size_; }
  // Padded by one element, so that a four-byte load of the last one stays inside. Null if ids are wide.
  const std::uint16_t* narrow() const noexcept { return wide_.empty() ? narrow_.data() : nullptr; }
  const std::uint32_t* wide() const noexcept { return wide_.empty() ? nullptr : wide_.data(); }
  // In order of places, every id with a surplus gives so many of its places to the takers, one each.
  void hand_over(std::vector<std::uint32_t>& surplus, const std::vector<Id>& takers);
  std::size_t nbytes() const noexcept { return narrow_.capacity() * 2 + wide_.capacity() * 4; }

 private:
  std::vector<std::uint16_t> narrow_;
  std::vector<std::uint32_t> wide_;
  std::size_t size_ = 0;
};

enum class TableKind : std::uint8_t {
  list,
  schedule,
  stride,
  alias,
  two_choices,
  scan,
  slots,
  ring,
  rendezvous,
  jump
};

struct Table {
  TableKind kind = TableKind::list;
  std::vector<Id> members;      // with a weight above 0
  std::vector<double> weights;  // of the members; kept where the next table or a tournament needs them
  double total_weight = 0.0;
  bool even = false;  // all count as 1, whatever their weights

  IdArray ids;  // schedule: ids in order of picks; slots; jump: buckets
  // Low half: threshold, high half: index of the other member. Empty: everybody has the same share. Also in
  // layouts by key whose shares are cheaper to draw from than a hash is to look up (drawn()).
  std::vector<std::uint64_t> alias;
  std::vector<std::uint16_t> stride;
  Ring ring;
  std::vector<std::uint64_t> node_hash;   // rendezvous, of the members
  std::vector<double> inverse_weight;     // rendezvous, of the members
  std::vector<std::uint32_t> slots_held;  // stable, of the members
  std::uint32_t (*jump_bucket)(std::uint64_t hash, std::uint32_t buckets) noexcept = nullptr;  // jump

  std::size_t nbytes() const noexcept;

  // Whether a pick without a key comes from the alias table.
  bool drawn() const noexcept {
    return kind == TableKind::alias || kind == TableKind::ring || kind == TableKind::rendezvous ||
           kind == TableKind::jump;
  }
  Id alias_owner(std::uint64_t x) const noexcept {
    const std::uint64_t i = reduce(x, members.size());
    if (alias.empty()) return members[i];
    const std::uint64_t entry = alias[i];
    // Without a branch: it would be mispredicted half of the time.
    const std::uint64_t other = entry >> 32;
    const std::uint64_t keep =
        0 - std::uint64_t{static_cast<std::uint32_t>(x) < static_cast<std::uint32_t>(entry)};
    return members[other ^ ((other ^ i) & keep)];
  }
  Id slot_owner(std::uint64_t hash) const noexcept { return ids[hash % ids.size()]; }
  Id jump_owner(std::uint64_t hash) const noexcept;
  Id rendezvous_owner(std::uint64_t hash) const noexcept;  // 0 where scores need the bytes of the key
  // Where a hash stands in layouts by key; 0 in others.
  Id first_owner(std::uint64_t hash) const noexcept {
    switch (kind) {
      case TableKind::slots:
        return slot_owner(hash);
      case TableKind::ring:
        return ring.owner(ring.index(hash));
      case TableKind::jump:
        return jump_owner(hash);
      case TableKind::rendezvous:
        return rendezvous_owner(hash);
      default:
        return 0;
    }
  }
};

// Jump consistent hash: Lamping, Veach, "A fast, minimal memory, consistent hash algorithm" (2014).
inline constexpr std::uint64_t kJumpMultiplier = 2862933555777941757u;

inline std::uint32_t jump_hash(std::uint64_t key, std::uint32_t buckets) noexcept {
  const double end = buckets;
#if defined(__SSE2__)
  if (buckets < std::uint32_t{1} << 31) {
    // A bucket goes into the next one by a product, a cut and a sum. In vector registers the cut costs half
    // of what it costs by way of a general one; the quotients are off that path.
    __m128i bucket = _mm_setzero_si128();
    __m128d after = _mm_set_sd(1.0);
    for (;;) {
      key = key * kJumpMultiplier + 1;
      const auto part = static_cast<double>(static_cast<std::int64_t>((key >> 33) + 1));
      const __m128d next = _mm_mul_sd(after, _mm_set_sd(0x1p31 / part));
      if (!(_mm_cvtsd_f64(next) < end)) return static_cast<std::uint32_t>(_mm_cvtsi128_si32(bucket));
      bucket = _mm_cvttpd_epi32(next);
      after = _mm_cvtepi32_pd(_mm_add_epi32(bucket, _mm_set1_epi32(1)));
    }
  }
#endif
  std::uint32_t bucket = 0;
  for (;;) {
    key = key * kJumpMultiplier + 1;
    const double next = (bucket + 1.0) * (0x1p31 / static_cast<double>((key >> 33) + 1));
    if (!(next < end)) return bucket;
    bucket = static_cast<std::uint32_t>(next);
  }
}

inline Id Table::jump_owner(std::uint64_t hash) const noexcept {
  return ids[jump_bucket(hash, static_cast<std::uint32_t>(ids.size()))];
}

// Smaller is better: weighted rendezvous hashing (Schindelhauer, Schomaker, 2005), -ln(u) / weight.
inline double rendezvous_score(std::uint64_t hash, std::uint64_t node, double inverse_weight) noexcept {
  return -std::log(unit_above_zero(mix64(hash ^ node))) * inverse_weight;
}

// Throws std::invalid_argument when the table of these weights (all above 0) would be larger than the options
// allow.
void check_size(const std::vector<double>& weights, const TableOptions& options);

// Builds the table of `members` (in order of their addition). Members of weight 0 get no place. `before` is
// the table to repair, or null. Throws as check_size().
Table build_table(std::vector<Member> members, const TableOptions& options, const Table* before);

// The parts, each of which the tests hold against known answers.
std::vector<std::uint32_t> smooth_schedule(const std::vector<std::uint64_t>& weights);  // nginx's order
std::vector<std::uint32_t> even_schedule(const std::vector<std::uint64_t>& weights);    // deviation below 1
// Where picks may begin in such an order (whose indexes are below n), so that again no prefix is a whole pick
// off.
std::vector<std::uint32_t> even_starts(const std::vector<std::uint32_t>& order, std::size_t n);
std::vector<std::uint32_t> lvs_schedule(const std::vector<std::uint64_t>& weights);  // gcd and current weight
std::vector<std::uint16_t> stride_weights(const std::vector<double>& weights,
                                          bool grpc);  // empty: no scheduler
std::vector<std::uint64_t> alias_table(const std::vector<double>& weights);
std::vector<std::uint32_t> maglev_fill(const std::vector<std::uint64_t>& offsets,
                                       const std::vector<std::uint64_t>& skips,
                                       const std::vector<double>& weights, std::uint32_t slots);
std::vector<std::uint32_t> stable_fill(const std::vector<std::uint64_t>& node_hash,
                                       const std::vector<double>& weights, std::uint32_t slots, double slack);
void stable_repair(Table& table, const Table& before, std::uint32_t slots, double slack);
bool is_prime(std::uint64_t n) noexcept;

// A backend is chosen for a step of the static stride scheduler (gRPC, static_stride_scheduler.cc) or not.
inline bool stride_accepts(std::uint64_t weight, std::uint64_t index, std::uint64_t generation) noexcept {
  constexpr std::uint64_t kMax = 65535;
  return (weight * generation + index * (kMax / 2)) % kMax >= kMax - weight;
}

}  // namespace fastpath::balance
