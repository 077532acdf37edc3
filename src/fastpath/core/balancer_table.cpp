// Building the tables of every policy.
#include "fastpath/balance/table.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "fastpath/balance/balancer.hpp"
#include "fastpath/balance/md5.hpp"
#include "fastpath/hash.hpp"

namespace fastpath::balance {

namespace {

constexpr std::uint64_t kLongestSchedule = 65536;
constexpr std::uint64_t kMostUnits = 1000;
constexpr std::uint64_t kSmoothWork = std::uint64_t{1} << 20;  // steps times backends
constexpr double kStrideSteps = 16.0;
constexpr double kIdleLooks = 16.0;
constexpr std::uint64_t kMostBuckets = std::uint64_t{1} << 20;
constexpr std::uint64_t kMostPoints = std::uint64_t{1} << 24;
constexpr double kUsualPoints = 0x1p20;  // of rings whose weights would give too many

// Weights as whole numbers without a common factor; empty if they are not whole numbers.
std::vector<std::uint64_t> whole_weights(const std::vector<double>& weights) {
  std::vector<std::uint64_t> whole;
  std::uint64_t divisor = 0;
  for (const double weight : weights) {
    if (weight != std::floor(weight)) return {};
    whole.push_back(static_cast<std::uint64_t>(weight));
    divisor = std::gcd(divisor, whole.back());
  }
  for (std::uint64_t& weight : whole) weight /= divisor;
  return whole;
}

// Weights that are multiples of a common unit, as decimals are, in such units; empty if there is none of
// which the smallest weight has at most kMostUnits. What roundings of a double add does not count.
std::vector<std::uint64_t> whole_multiples(const std::vector<double>& weights) {
  constexpr double kRounding = 1e-12;
  const double least = *std::min_element(weights.begin(), weights.end());
  std::vector<std::uint64_t> whole(weights.size());
  for (std::uint64_t units = 1; units <= kMostUnits; ++units) {
    bool fits = true;
    for (std::size_t i = 0; i < weights.size() && fits; ++i) {
      const double exact = weights[i] / least * static_cast<double>(units);
      whole[i] = static_cast<std::uint64_t>(exact + 0.5);
      fits = exact < static_cast<double>(kLongestSchedule) &&
             std::fabs(exact - static_cast<double>(whole[i])) <= kRounding * exact;
    }
    if (fits) return whole;
  }
  return {};
}

// Picks per `period`, at least one for everybody, by largest remainder (the first of equal ones).
std::vector<std::uint64_t> apportion(const std::vector<double>& weights, std::uint64_t period) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::uint64_t> counts(weights.size());
  std::vector<std::pair<double, std::size_t>> rest(weights.size());
  std::uint64_t given = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double ideal = weights[i] / total * static_cast<double>(period);
    counts[i] = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(ideal));
    rest[i] = {static_cast<double>(counts[i]) - ideal, i};
    given += counts[i];
  }
  std::sort(rest.begin(), rest.end());
  for (std::size_t i = 0; given < period; i = (i + 1) % rest.size(), ++given) ++counts[rest[i].second];
  return counts;
}

std::vector<Id> ids_of(const std::vector<std::uint32_t>& indexes, const std::vector<Id>& members) {
  std::vector<Id> ids(indexes.size());
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = members[indexes[i]];
  return ids;
}

bool deviates(const std::vector<std::uint32_t>& order, const std::vector<std::uint64_t>& weights) {
  const auto period = static_cast<std::int64_t>(order.size());
  std::vector<std::int64_t> count(weights.size(), 0);
  // Between its own picks a backend only falls behind, so it is enough to look just before and after each.
  for (std::int64_t step = 0; step < period; ++step) {
    const std::uint32_t i = order[static_cast<std::size_t>(step)];
    const auto weight = static_cast<std::int64_t>(weights[i]);
    if (weight * step - count[i] * period >= period) return true;
    ++count[i];
    if (count[i] * period - weight * (step + 1) >= period) return true;
  }
  return false;
}

void build_weighted_round_robin(Table& table, Compat compat) {
  std::vector<std::uint64_t> whole = whole_weights(table.weights);
  if (whole.empty()) whole = whole_multiples(table.weights);
  const std::uint64_t period = std::accumulate(whole.begin(), whole.end(), std::uint64_t{0});
  const std::uint64_t n = table.members.size();
  table.kind = TableKind::schedule;
  if (compat == Compat::lvs || compat == Compat::nginx) {
    table.ids.assign(
        ids_of(compat == Compat::lvs ? lvs_schedule(whole) : smooth_schedule(whole), table.members));
    return;
  }
  if (compat == Compat::grpc) {
    table.stride = stride_weights(table.weights, true);
    table.kind = table.stride.empty() ? TableKind::list : TableKind::stride;
    return;
  }
  if (!whole.empty() && period <= kLongestSchedule) {
    std::vector<std::uint32_t> order;
    if (period * n <= kSmoothWork) order = smooth_schedule(whole);
    if (order.empty() || deviates(order, whole)) order = even_schedule(whole);
    table.ids.assign(ids_of(order, table.members));
    return;
  }
  const double largest = *std::max_element(table.weights.begin(), table.weights.end());
  if (largest * static_cast<double>(n) <= kStrideSteps * table.total_weight || n > kLongestSchedule / 2) {
    table.kind = TableKind::stride;
    table.stride = stride_weights(table.weights, false);
    return;
  }
  table.ids.assign(ids_of(even_schedule(apportion(table.weights, kLongestSchedule)), table.members));
}

std::uint64_t murmur2_64a(const void* data, std::size_t size, std::uint64_t seed) noexcept {
  constexpr std::uint64_t kMul = 0xC6A4A7935BD1E995u;
  const auto* in = static_cast<const std::uint8_t*>(data);
  std::uint64_t h = seed ^ (size * kMul);
  for (; size >= 8; size -= 8, in += 8) {
    std::uint64_t k = hash_detail::load64(in) * kMul;
    k = (k ^ (k >> 47)) * kMul;
    h = (h ^ k) * kMul;
  }
  if (size > 0) {
    std::uint64_t tail = 0;
    for (std::size_t i = size; i-- > 0;) tail = (tail << 8) | in[i];
    h = (h ^ tail) * kMul;
  }
  h = (h ^ (h >> 47)) * kMul;
  return h ^ (h >> 47);
}

// Points of Envoy's ring, all backends together.
double envoy_points(double smallest_share, const TableOptions& options) noexcept {
  return std::min(std::ceil(smallest_share * static_cast<double>(options.ring_min)) / smallest_share,
                  static_cast<double>(options.ring_max));
}

// 160 points for a unit of weight, each the CRC-32 of host, zero, port and the point before it.
void nginx_points(std::vector<Point>& ring, const Member& member, std::uint32_t per_weight) {
  const std::size_t colon = member.key.rfind(':');
  std::string host(member.key.substr(0, colon));
  if (host.size() > 1 && host.front() == '[') host = host.substr(1, host.size() - 2);
  std::string base = host;
  base.push_back('\0');
  if (colon != std::string::npos) base += member.key.substr(colon + 1);
  const std::uint32_t seed = crc32(base.data(), base.size());
  std::uint32_t point = 0;
  const auto count = static_cast<std::uint64_t>(member.weight) * per_weight;
  for (std::uint64_t i = 0; i < count; ++i) {
    std::uint8_t previous[4];
    for (int b = 0; b < 4; ++b) previous[b] = static_cast<std::uint8_t>(point >> (8 * b));
    point = crc32(previous, sizeof previous, seed);
    ring.push_back({point, member.id});
  }
}

// What weights are taken times in this library's own layout: a power of two, so that all below 1 get the
// points of weights above, and large ones no more than a ring may have. Else 1, for points that depend on
// others move keys.
double point_scale(const Table& table, std::uint32_t points) {
  const double largest = *std::max_element(table.weights.begin(), table.weights.end());
  const double total = table.total_weight * points;
  const auto most = static_cast<double>(kMostPoints);
  double scale = largest < 1.0 ? std::exp2(-std::ilogb(largest)) : 1.0;
  if (total * scale <= most) return scale;
  const double usual = std::clamp(static_cast<double>(table.members.size()) * points, kUsualPoints, most);
  while (total * scale > usual) scale /= 2.0;
  return scale;
}

// Points by weight. What is left after whole ones is a point that owns only such a part of the arc before it:
// the rest stays with the next whole point.
void own_points(std::vector<Point>& ring, const Table& table, const std::vector<Member>& members,
                std::uint32_t points) {
  constexpr double kNone = 1e-9;  // what a product of decimals is off
  const double scale = point_scale(table, points);
  std::vector<std::pair<Point, double>> parts;
  for (const Member& member : members) {
    const double wanted = member.weight * scale * points;
    const double whole = std::floor(wanted + kNone);
    const auto count = static_cast<std::uint64_t>(whole);
    for (std::uint64_t i = 0; i < count; ++i) ring.push_back({draw(member.hash, i), member.id});
    if (wanted - whole < kNone && count > 0) continue;
    ring.push_back({draw(member.hash, count), member.id});
    parts.push_back({ring.back(), wanted - whole});
  }
  const std::size_t n = ring.size();
  if (parts.empty() || parts.size() == n || members.size() == 1) return;
  const auto before = [](const Point& a, const Point& b) { return a.hash < b.hash; };
  std::stable_sort(ring.begin(), ring.end(), before);
  std::vector<bool> partial(n, false);
  std::vector<std::size_t> places;
  for (const auto& [point, part] : parts) {
    auto place = std::lower_bound(ring.begin(), ring.end(), point, before);
    while (place->owner != point.owner) ++place;
    places.push_back(static_cast<std::size_t>(place - ring.begin()));
    partial[places.back()] = true;
  }
  for (std::size_t k = 0; k < parts.size(); ++k) {
    const std::size_t i = places[k];
    const std::uint64_t arc = ring[i].hash - ring[(i + n - 1) % n].hash;
    std::size_t next = (i + 1) % n;
    while (partial[next]) next = (next + 1) % n;
    const auto own =
        std::max<std::uint64_t>(1, static_cast<std::uint64_t>(parts[k].second * static_cast<double>(arc)));
    ring.push_back({ring[i].hash - own, ring[next].owner});
  }
}

bool by_id(const Member& a, const Member& b) noexcept { return a.id < b.id; }

void build_ring(Table& table, const std::vector<Member>& members, const TableOptions& options) {
  std::vector<Point> ring;
  const bool narrow = options.compat == Compat::nginx || options.compat == Compat::libmemcached;
  table.kind = TableKind::ring;
  switch (options.compat) {
    case Compat::nginx:
      for (const Member& member : members) nginx_points(ring, member, options.points);
      break;
    case Compat::libmemcached: {
      const auto n = static_cast<double>(members.size());
      for (const Member& member : members) {
        const auto digests = static_cast<std::uint32_t>(
            std::floor(static_cast<float>(member.weight / table.total_weight) * 40.0 * n + 0.0000000001));
        for (std::uint32_t i = 0; i < digests; ++i) {
          const std::string text = std::string(member.key) + '-' + std::to_string(i);
          const auto digest = md5(text.data(), text.size());
          for (int word = 0; word < 4; ++word) {
            ring.push_back({hash_detail::load32(digest.data() + 4 * word), member.id});
          }
        }
      }
      break;
    }
    case Compat::envoy:
    case Compat::envoy_murmur2: {
      double smallest = 1.0;
      for (const Member& member : members) smallest = std::min(smallest, member.weight / table.total_weight);
      const double scale = envoy_points(smallest, options);
      double current = 0.0;
      double target = 0.0;
      for (const Member& member : members) {
        target += scale * (member.weight / table.total_weight);
        for (std::uint64_t i = 0; current < target; ++i, current += 1.0) {
          const std::string text = std::string(member.key) + '_' + std::to_string(i);
          ring.push_back({options.compat == Compat::envoy
                              ? xxh64(text.data(), text.size())
                              : murmur2_64a(text.data(), text.size(), 0xC70F6907u),
                          member.id});
        }
      }
      break;
    }
    default:
      own_points(ring, table, members, options.points);
  }
  // Stable, so that of equal points the one of the member added first stays.
  std::stable_sort(ring.begin(), ring.end(), [](const Point& a, const Point& b) { return a.hash < b.hash; });
  if (options.compat == Compat::nginx) {
    ring.erase(std::unique(ring.begin(), ring.end(),
                           [](const Point& a, const Point& b) { return a.hash == b.hash; }),
               ring.end());
  }
  table.ring.assign(ring, narrow);
  // Every point owns the arc that ends at it.
  if (members.size() == 1) return;
  std::vector<std::uint64_t> arcs(1 + std::max_element(members.begin(), members.end(), by_id)->id, 0);
  std::uint64_t previous = ring.back().hash;
  for (const Point& point : ring) {
    arcs[point.owner] += (point.hash - previous) & table.ring.mask();
    previous = point.hash;
  }
  // All of the circle is an arc of 0.
  if (std::all_of(arcs.begin(), arcs.end(), [](std::uint64_t arc) { return arc == 0; })) {
    arcs[ring.front().owner] = 1;
  }
  std::vector<double> shares;
  for (const Member& member : members) shares.push_back(static_cast<double>(arcs[member.id]));
  table.alias = alias_table(shares);
}

void build_maglev(Table& table, const std::vector<Member>& members, const TableOptions& options) {
  std::vector<const Member*> sorted;
  for (const Member& member : members) sorted.push_back(&member);
  std::sort(sorted.begin(), sorted.end(), [](const Member* a, const Member* b) { return a->key < b->key; });
  std::vector<std::uint64_t> offsets;
  std::vector<std::uint64_t> skips;
  std::vector<double> weights;
  std::vector<Id> ids;
  for (const Member* member : sorted) {
    offsets.push_back(member->hash % options.slots);
    skips.push_back(xxh64(member->key.data(), member->key.size(), 1) % (options.slots - 1) + 1);
    weights.push_back(member->weight / table.total_weight);
    ids.push_back(member->id);
  }
  table.kind = TableKind::slots;
  table.ids.assign(ids_of(maglev_fill(offsets, skips, weights, options.slots), ids));
}

void build_stable(Table& table, const std::vector<Member>& members, const TableOptions& options,
                  const Table* before) {
  const bool narrow =
      std::all_of(members.begin(), members.end(), [](const Member& m) { return m.id <= 0xFFFF; });
  if (options.repair && before != nullptr && before->ids.size() == options.slots &&
      narrow == (before->ids.narrow() != nullptr)) {
    stable_repair(table, *before, options.slots, options.slack);
    return;
  }
  std::vector<std::uint64_t> hashes;
  for (const Member& member : members) hashes.push_back(member.hash);
  const std::vector<std::uint32_t> owners = stable_fill(hashes, table.weights, options.slots, options.slack);
  table.ids.assign(ids_of(owners, table.members));
  table.slots_held.resize(members.size());
  for (const std::uint32_t owner : owners) ++table.slots_held[owner];
}

void build_jump(Table& table) {
  const std::vector<std::uint64_t> whole = whole_weights(table.weights);
  std::vector<Id> ids;
  for (std::size_t i = 0; i < whole.size(); ++i) ids.insert(ids.end(), whole[i], table.members[i]);
  table.kind = TableKind::jump;
  table.jump_bucket = kernels().jump_one;
  table.ids.assign(ids);
}

}  // namespace

void IdArray::assign(const std::vector<Id>& ids) {
  size_ = ids.size();
  const Id largest = ids.empty() ? 0 : *std::max_element(ids.begin(), ids.end());
  if (largest > 0xFFFF) {
    narrow_.clear();
    wide_ = ids;
    return;
  }
  wide_.clear();
  narrow_.resize(size_ + 1);
  for (std::size_t i = 0; i < size_; ++i) narrow_[i] = static_cast<std::uint16_t>(ids[i]);
}

std::size_t Table::nbytes() const noexcept {
  return sizeof *this + members.capacity() * sizeof(Id) + weights.capacity() * sizeof(double) + ids.nbytes() +
         alias.capacity() * 8 + stride.capacity() * 2 + ring.nbytes() + node_hash.capacity() * 8 +
         inverse_weight.capacity() * 8 + slots_held.capacity() * 4;
}

void check_size(const std::vector<double>& weights, const TableOptions& options) {
  if (weights.empty()) return;
  if (options.policy == Policy::ketama) {
    if (options.compat == Compat::none) return;
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    const auto n = static_cast<double>(weights.size());
    const bool envoy = options.compat == Compat::envoy || options.compat == Compat::envoy_murmur2;
    const double smallest = *std::min_element(weights.begin(), weights.end()) / total;
    const double points = envoy                                    ? envoy_points(smallest, options)
                          : options.compat == Compat::libmemcached ? 160.0 * n
                                                                   : total * options.points + n;
    if (points > static_cast<double>(kMostPoints)) {
      throw std::invalid_argument("the ring would have " +
                                  std::to_string(static_cast<std::uint64_t>(points)) + " points, more than " +
                                  std::to_string(kMostPoints) +
                                  "; lower the weights or the points for one unit of weight");
    }
    return;
  }
  const bool walk = options.compat == Compat::lvs || options.compat == Compat::nginx;
  if (options.policy != Policy::jump && !walk) return;
  const std::vector<std::uint64_t> whole = whole_weights(weights);
  const std::uint64_t sum = std::accumulate(whole.begin(), whole.end(), std::uint64_t{0});
  if (!walk && (whole.empty() || sum > kMostBuckets)) {
    throw std::invalid_argument("jump takes whole numbers as weights, which add up to at most " +
                                std::to_string(kMostBuckets) + " when their common factor is taken out; " +
                                (whole.empty() ? "some are not whole" : "these make " + std::to_string(sum)));
  }
  if (!walk) return;
  if (whole.empty()) throw std::invalid_argument("this compat mode takes whole numbers as weights");
  if (sum > kMostBuckets || sum * weights.size() > (kSmoothWork << 9)) {
    throw std::invalid_argument(
        "the period of the weights (their sum over their greatest common divisor) is " + std::to_string(sum) +
        " picks of " + std::to_string(weights.size()) + " backends: too long; at most " +
        std::to_string(kMostBuckets) + " were expected, and fewer of very many backends");
  }
}

bool is_prime(std::uint64_t n) noexcept {
  if (n < 2) return false;
  for (std::uint64_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return true;
}

// Vose, "A linear algorithm for generating random numbers with a given distribution" (1991).
std::vector<std::uint64_t> alias_table(const std::vector<double>& weights) {
  const std::size_t n = weights.size();
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<double> share(n);
  std::vector<std::uint64_t> table(n);
  std::vector<std::size_t> small;
  std::vector<std::size_t> large;
  for (std::size_t i = 0; i < n; ++i) {
    share[i] = weights[i] * static_cast<double>(n) / total;
    (share[i] < 1.0 ? small : large).push_back(i);
  }
  const auto entry = [](double probability, std::size_t other) {
    const double scaled = std::floor(probability * 0x1p32);
    const std::uint64_t threshold = scaled >= 0x1p32 ? 0xFFFFFFFFu : static_cast<std::uint64_t>(scaled);
    return (static_cast<std::uint64_t>(other) << 32) | threshold;
  };
  while (!small.empty() && !large.empty()) {
    const std::size_t less = small.back();
    const std::size_t more = large.back();
    small.pop_back();
    table[less] = entry(share[less], more);
    share[more] = (share[more] + share[less]) - 1.0;
    if (share[more] < 1.0) {
      large.pop_back();
      small.push_back(more);
    }
  }
  for (const std::size_t i : small) table[i] = entry(1.0, i);
  for (const std::size_t i : large) table[i] = entry(1.0, i);
  return table;
}

// Eisenbud et al., "Maglev" (NSDI 2016), section 3.4, with the turns of Envoy (maglev_lb.cc): in round r a
// backend takes a turn when r * weight has reached its target, which then grows by the largest weight. In
// doubles, because the rounding of that sum is part of the layout.
std::vector<std::uint32_t> maglev_fill(const std::vector<std::uint64_t>& offsets,
                                       const std::vector<std::uint64_t>& skips,
                                       const std::vector<double>& weights, std::uint32_t slots) {
  std::vector<std::uint32_t> table(slots);
  std::vector<std::uint64_t> taken((slots + 63) / 64, 0);
  const std::size_t n = weights.size();
  struct Walk {
    std::uint32_t position;
    std::uint32_t skip;
    double target;
  };
  std::vector<Walk> walks(n);
  for (std::size_t i = 0; i < n; ++i) {
    walks[i] = {static_cast<std::uint32_t>(offsets[i]), static_cast<std::uint32_t>(skips[i]), 0.0};
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  std::uint32_t filled = 0;
  const auto take_turn = [&](std::size_t i) {
    Walk& walk = walks[i];
    walk.target += largest;
    std::uint32_t position = walk.position;
    while ((taken[position >> 6] >> (position & 63)) & 1) {
      position += walk.skip;
      if (position >= slots) position -= slots;
    }
    taken[position >> 6] |= std::uint64_t{1} << (position & 63);
    table[position] = static_cast<std::uint32_t>(i);
    position += walk.skip;
    walk.position = position >= slots ? position - slots : position;
    return ++filled == slots;
  };
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (largest * static_cast<double>(n) <= kIdleLooks * total) {
    for (double round = 1.0;; round += 1.0) {
      for (std::size_t i = 0; i < n; ++i) {
        if (round * weights[i] >= walks[i].target && take_turn(i)) return table;
      }
    }
  }
  // Weights far apart: most backends have no turn in most rounds, so the next turn is found by a heap.
  using Turn = std::pair<double, std::size_t>;  // round, backend
  std::vector<Turn> turns(n);
  for (std::size_t i = 0; i < n; ++i) turns[i] = {1.0, i};
  for (;;) {
    std::pop_heap(turns.begin(), turns.end(), std::greater<>());
    auto& [round, i] = turns.back();
    if (take_turn(i)) return table;
    round = std::max(round + 1.0, std::floor(walks[i].target / weights[i]) - 1.0);
    while (round * weights[i] < walks[i].target) round += 1.0;
    std::push_heap(turns.begin(), turns.end(), std::greater<>());
  }
}

Table build_table(std::vector<Member> members, const TableOptions& options, const Table* before) {
  Table table;
  std::erase_if(members, [](const Member& member) { return !(member.weight > 0.0); });
  table.even = options.policy == Policy::round_robin || options.policy == Policy::random;
  table.members.reserve(members.size());
  table.weights.reserve(members.size());
  for (const Member& member : members) {
    table.members.push_back(member.id);
    table.weights.push_back(table.even ? 1.0 : member.weight);
    table.total_weight += table.weights.back();
  }
  if (members.empty()) return table;
  check_size(table.weights, options);
  const auto differ = [&] {
    return std::any_of(table.weights.begin(), table.weights.end(),
                       [&](double weight) { return weight != table.weights.front(); });
  };
  switch (options.policy) {
    case Policy::round_robin:
    case Policy::random:
      table.kind = options.policy == Policy::random ? TableKind::alias : TableKind::list;
      break;
    case Policy::weighted_round_robin:
      build_weighted_round_robin(table, options.compat);
      break;
    case Policy::weighted_random:
      table.kind = TableKind::alias;
      table.alias = alias_table(table.weights);
      break;
    case Policy::power_of_two:
    case Policy::peak_ewma:
      table.kind = TableKind::two_choices;
      table.alias = alias_table(table.weights);
      break;
    case Policy::least_request:
      table.kind = TableKind::scan;
      break;
    case Policy::maglev:
      build_maglev(table, members, options);
      break;
    case Policy::ketama:
      build_ring(table, members, options);
      break;
    case Policy::rendezvous:
      table.kind = TableKind::rendezvous;
      if (options.compat == Compat::pymemcache) break;
      table.node_hash.reserve(members.size());
      table.inverse_weight.reserve(members.size());
      for (const Member& member : members) {
        table.node_hash.push_back(member.hash);
        table.inverse_weight.push_back(1.0 / member.weight);
      }
      if (differ()) table.alias = alias_table(table.weights);
      break;
    case Policy::jump:
      build_jump(table);
      if (differ()) table.alias = alias_table(table.weights);
      break;
    case Policy::stable:
      table.kind = TableKind::slots;
      build_stable(table, members, options, before);
      break;
  }
  const bool repaired = options.policy == Policy::stable && options.repair;
  if (!repaired && options.policy != Policy::least_request) std::vector<double>().swap(table.weights);
  return table;
}

}  // namespace fastpath::balance
