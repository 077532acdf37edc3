// Ordered rules over five-tuples with prefixes, port ranges and protocol: the first match decides.
//
// Rules of similar prefix lengths share a tuple: a hash table on their masked addresses (merged tuples, after
// Daly et al., "TupleMerge", 2019). A batch asks tuple by tuple: a filter of one bit a packet, vectorised,
// says who has to look closer. Tuples and the list of them are never changed but replaced, so readers see a
// set of rules as before or after a write, and a write costs one tuple.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "fastpath/cpu.hpp"
#include "fastpath/epoch.hpp"
#include "fastpath/hash.hpp"

namespace fastpath {

struct Address16 {
  std::uint64_t high;
  std::uint64_t low;
  friend bool operator==(const Address16&, const Address16&) = default;
  friend Address16 operator&(const Address16& a, const Address16& b) noexcept {
    return {a.high & b.high, a.low & b.low};
  }
};

template <typename Address>
Address prefix_mask(unsigned length) noexcept {
  if constexpr (sizeof(Address) == 4) {
    return length == 0 ? 0u : ~0u << (32 - length);
  } else {
    const auto half = [](unsigned bits) {
      return bits == 0 ? std::uint64_t{0} : ~std::uint64_t{0} << (64 - bits);
    };
    return {half(std::min(length, 64u)), length <= 64 ? 0 : half(length - 64)};
  }
}

template <typename Address>
struct PolicyRule {
  std::uint64_t order;  // smaller comes first
  std::uint32_t id;
  std::uint16_t protocol;  // 256: any
  std::uint16_t source_ports[2];
  std::uint16_t destination_ports[2];
  std::uint8_t source_length;
  std::uint8_t destination_length;
  Address source;
  Address destination;
};

template <typename Address>
struct PolicyPacket {
  Address source;
  Address destination;
  std::uint16_t source_port;
  std::uint16_t destination_port;
  std::uint8_t protocol;
};

template <typename Address>
inline bool matches(const PolicyRule<Address>& rule, const PolicyPacket<Address>& packet) noexcept {
  // No branches: which field differs is anyone's guess.
  const bool ports = (packet.source_port >= rule.source_ports[0]) &
                     (packet.source_port <= rule.source_ports[1]) &
                     (packet.destination_port >= rule.destination_ports[0]) &
                     (packet.destination_port <= rule.destination_ports[1]);
  return ports & ((rule.protocol == 256) | (rule.protocol == packet.protocol)) &
         ((packet.source & prefix_mask<Address>(rule.source_length)) == rule.source) &
         ((packet.destination & prefix_mask<Address>(rule.destination_length)) == rule.destination);
}

// The rules whose prefixes are at least so long, hashed on so much of their addresses. Immutable.
template <typename Address>
class PolicyTuple {
 public:
  using Rule = PolicyRule<Address>;

  PolicyTuple(unsigned source_length, unsigned destination_length, std::uint32_t seed,
              std::vector<Rule> rules)
      : source_length_(source_length),
        destination_length_(destination_length),
        source_mask_(prefix_mask<Address>(source_length)),
        destination_mask_(prefix_mask<Address>(destination_length)),
        seed_(seed),
        rules_(std::move(rules)) {
    // By hash, then by order; the rules of a tuple before are in this order already, with a new one behind
    // them.
    struct Key {
      std::uint32_t hash;
      std::uint32_t index;
      std::uint64_t order;
      bool operator<(const Key& other) const noexcept {
        return hash != other.hash ? hash < other.hash : order < other.order;
      }
    };
    std::vector<Key> keys(rules_.size());
    first_order_ = ~std::uint64_t{0};
    for (std::size_t i = 0; i < rules_.size(); ++i) {
      keys[i] = {hash(rules_[i].source, rules_[i].destination), static_cast<std::uint32_t>(i),
                 rules_[i].order};
      first_order_ = std::min(first_order_, rules_[i].order);
    }
    if (!std::is_sorted(keys.begin(), keys.end())) {
      if (std::is_sorted(keys.begin(), keys.end() - 1)) {
        const auto at = std::upper_bound(keys.begin(), keys.end() - 1, keys.back());
        std::rotate(rules_.begin() + (at - keys.begin()), rules_.end() - 1, rules_.end());
        std::rotate(at, keys.end() - 1, keys.end());
      } else {
        std::sort(keys.begin(), keys.end());
        std::vector<Rule> sorted;
        sorted.reserve(rules_.size());
        for (const Key& key : keys) sorted.push_back(rules_[key.index]);
        rules_ = std::move(sorted);
      }
    }
    const unsigned bits = static_cast<unsigned>(std::bit_width(rules_.size() * 2));
    slots_.resize(std::size_t{1} << bits);
    filter_bits_ = bits + 4;  // about one packet in sixty-four looks closer in vain
    filter_.resize((std::size_t{1} << filter_bits_) / 32 + 1);
    for (std::size_t i = 0; i < rules_.size();) {
      std::size_t end = i + 1;
      while (end < rules_.size() && keys[end].hash == keys[i].hash) ++end;
      std::size_t at = keys[i].hash & (slots_.size() - 1);
      while (slots_[at].count != 0) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = {keys[i].hash, static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(end - i)};
      const std::uint32_t bit = keys[i].hash >> (32 - filter_bits_);
      filter_[bit / 32] |= 1u << (bit % 32);
      i = end;
    }
  }

  std::uint32_t hash(const Address& source, const Address& destination) const noexcept {
    if constexpr (sizeof(Address) == 4) {
      std::uint32_t h = ((source & source_mask_) ^ seed_) * 0x9E3779B1u;
      h = (h ^ h >> 15) + (destination & destination_mask_);
      h *= 0x85EBCA77u;
      h = (h ^ h >> 13) * 0xC2B2AE3Du;
      return h ^ h >> 16;
    } else {
      const Address pair[2] = {source & source_mask_, destination & destination_mask_};
      return static_cast<std::uint32_t>(xxh3_64(pair, sizeof pair, seed_) >> 32);
    }
  }
  bool passes_filter(std::uint32_t hash) const noexcept {
    const std::uint32_t bit = hash >> (32 - filter_bits_);
    return (filter_[bit / 32] >> (bit % 32) & 1) != 0;
  }
  // The first matching rule that comes before `order`, or null.
  const Rule* find(std::uint32_t hash, const PolicyPacket<Address>& packet,
                   std::uint64_t order) const noexcept {
    for (std::size_t at = hash & (slots_.size() - 1); slots_[at].count != 0;
         at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].hash != hash) continue;
      for (std::uint32_t i = slots_[at].begin; i < slots_[at].begin + slots_[at].count; ++i) {
        if (rules_[i].order >= order) return nullptr;
        if (matches(rules_[i], packet)) return &rules_[i];
      }
      return nullptr;
    }
    return nullptr;
  }
  // How many rules the bucket of this rule holds.
  std::size_t neighbours(const Rule& rule) const noexcept {
    const std::uint32_t wanted = hash(rule.source, rule.destination);
    for (std::size_t at = wanted & (slots_.size() - 1); slots_[at].count != 0;
         at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].hash == wanted) return slots_[at].count;
    }
    return 0;
  }
  bool takes(const Rule& rule) const noexcept {
    return source_length_ <= rule.source_length && destination_length_ <= rule.destination_length;
  }

  unsigned source_length() const noexcept { return source_length_; }
  unsigned destination_length() const noexcept { return destination_length_; }
  const Address& source_mask() const noexcept { return source_mask_; }
  const Address& destination_mask() const noexcept { return destination_mask_; }
  std::uint32_t seed() const noexcept { return seed_; }
  const std::uint32_t* filter() const noexcept { return filter_.data(); }
  unsigned filter_bits() const noexcept { return filter_bits_; }
  std::uint64_t first_order() const noexcept { return first_order_; }
  const std::vector<Rule>& rules() const noexcept { return rules_; }
  std::size_t nbytes() const noexcept {
    return sizeof *this + rules_.size() * sizeof(Rule) + slots_.size() * sizeof(Slot) + filter_.size() * 4;
  }

 private:
  struct Slot {
    std::uint32_t hash = 0;
    std::uint32_t begin = 0;
    std::uint32_t count = 0;
  };
  unsigned source_length_;
  unsigned destination_length_;
  Address source_mask_;
  Address destination_mask_;
  std::uint32_t seed_;
  unsigned filter_bits_ = 0;
  std::uint64_t first_order_;
  std::vector<Rule> rules_;  // by hash, then by order
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> filter_;
};

// A batch in columns.
template <typename Address>
struct PolicyBlock {
  static constexpr std::size_t kSize = 128;
  std::size_t count;
  alignas(64) Address source[kSize];
  alignas(64) Address destination[kSize];
  alignas(64) std::uint32_t hash[kSize];
  alignas(64) std::uint64_t order[kSize];  // of the best match so far
  std::uint32_t id[kSize];
  std::uint8_t candidate[kSize + 16];
};

// Hashes a block for a tuple and lists the packets that pass its filter and have no match yet that comes
// before all rules of the tuple; returns how many.
using PolicyFilter4 = std::size_t (*)(const PolicyTuple<std::uint32_t>&, PolicyBlock<std::uint32_t>&);

template <typename Address>
std::size_t policy_filter(const PolicyTuple<Address>& tuple, PolicyBlock<Address>& block) {
  std::size_t candidates = 0;
  for (std::size_t i = 0; i < block.count; ++i) {
    block.hash[i] = tuple.hash(block.source[i], block.destination[i]);
    block.candidate[candidates] = static_cast<std::uint8_t>(i);
    candidates += tuple.passes_filter(block.hash[i]) & (tuple.first_order() < block.order[i]);
  }
  return candidates;
}
#if defined(__x86_64__)
std::size_t policy_filter4_avx512(const PolicyTuple<std::uint32_t>&, PolicyBlock<std::uint32_t>&);
#endif

// The rules of one address family. Readers hold a guard of epochs() or whatever lock guards reclaim().
template <typename Address>
class PolicyFamily {
 public:
  using Rule = PolicyRule<Address>;
  using Packet = PolicyPacket<Address>;
  using Tuple = PolicyTuple<Address>;
  struct State {
    std::vector<std::shared_ptr<const Tuple>> tuples;  // by first order
  };

  explicit PolicyFamily(std::uint64_t seed) : seed_(seed) { state_.store(new State()); }
  PolicyFamily(const PolicyFamily&) = delete;
  PolicyFamily& operator=(const PolicyFamily&) = delete;
  ~PolicyFamily() { delete state_.load(); }

  std::uint32_t decide(const Packet& packet) const noexcept {
    const State& state = *state_.load(std::memory_order_acquire);
    std::uint64_t order = ~std::uint64_t{0};
    std::uint32_t id = 0;
    for (const auto& tuple : state.tuples) {
      if (tuple->first_order() >= order) break;
      const std::uint32_t hash = tuple->hash(packet.source, packet.destination);
      if (!tuple->passes_filter(hash)) continue;
      if (const Rule* rule = tuple->find(hash, packet, order)) {
        order = rule->order;
        id = rule->id;
      }
    }
    return id;
  }

  // `block` holds the addresses; `packet(i)` is one of them in whole.
  template <typename Filter, typename PacketAt>
  void decide_block(const State& state, PolicyBlock<Address>& block, Filter&& filter,
                    PacketAt&& packet) const {
    std::fill_n(block.order, block.count, ~std::uint64_t{0});
    std::fill_n(block.id, block.count, 0u);
    for (const auto& tuple : state.tuples) {
      const std::size_t candidates = filter(*tuple, block);
      for (std::size_t c = 0; c < candidates; ++c) {
        const std::size_t i = block.candidate[c];
        if (const Rule* rule = tuple->find(block.hash[i], packet(i), block.order[i])) {
          block.order[i] = rule->order;
          block.id[i] = rule->id;
        }
      }
    }
  }
  const State& state() const noexcept { return *state_.load(std::memory_order_acquire); }

  // Everything below: writer only, under the lock of the policy.

  State* with(const Rule& rule) const {
    const State& now = state();
    auto next = std::make_unique<State>(now);
    // The most specific tuple that takes the rule and has room in its bucket.
    std::size_t best = next->tuples.size();
    for (std::size_t i = 0; i < next->tuples.size(); ++i) {
      const Tuple& tuple = *next->tuples[i];
      if (!tuple.takes(rule) || tuple.neighbours(rule) >= kCollisions) continue;
      if (best == next->tuples.size() || length(tuple) > length(*next->tuples[best])) best = i;
    }
    if (best < next->tuples.size()) {
      const Tuple& tuple = *next->tuples[best];
      std::vector<Rule> rules = tuple.rules();
      rules.push_back(rule);
      next->tuples[best] = std::make_shared<const Tuple>(tuple.source_length(), tuple.destination_length(),
                                                         tuple.seed(), std::move(rules));
    } else {
      add_tuple(*next, rule);
    }
    sort(*next);
    return next.release();
  }
  State* without(std::uint32_t id) const {
    auto next = std::make_unique<State>(state());
    for (std::size_t i = 0; i < next->tuples.size(); ++i) {
      const Tuple& tuple = *next->tuples[i];
      std::vector<Rule> rules;
      rules.reserve(tuple.rules().size());
      for (const Rule& rule : tuple.rules()) {
        if (rule.id != id) rules.push_back(rule);
      }
      if (rules.size() == tuple.rules().size()) continue;
      if (rules.empty()) {
        next->tuples.erase(next->tuples.begin() + static_cast<std::ptrdiff_t>(i));
      } else {
        next->tuples[i] = std::make_shared<const Tuple>(tuple.source_length(), tuple.destination_length(),
                                                        tuple.seed(), std::move(rules));
      }
      break;
    }
    sort(*next);
    return next.release();
  }
  // All rules at once: decides where each goes as with() does, and builds each tuple once.
  State* of(std::vector<Rule> rules) const {
    std::vector<Plan> plans;
    // Long prefixes first: they make the specific tuples that short ones cannot join.
    std::stable_sort(rules.begin(), rules.end(), [](const Rule& a, const Rule& b) {
      return a.source_length + a.destination_length > b.source_length + b.destination_length;
    });
    for (const Rule& rule : rules) {
      Plan* best = nullptr;
      for (Plan& plan : plans) {
        if (plan.source_length > rule.source_length || plan.destination_length > rule.destination_length)
          continue;
        if (best != nullptr && plan.length() <= best->length()) continue;
        if (plan.bucket(rule) < kCollisions) best = &plan;
      }
      if (best == nullptr) {
        const auto lengths = relaxed(rule, [&](unsigned s, unsigned d) {
          return std::any_of(plans.begin(), plans.end(), [&](const Plan& plan) {
            return plan.source_length == s && plan.destination_length == d;
          });
        });
        best = nullptr;
        for (Plan& plan : plans) {
          if (plan.source_length == lengths[0] && plan.destination_length == lengths[1]) best = &plan;
        }
        if (best == nullptr) {
          plans.push_back(Plan(lengths[0], lengths[1]));
          best = &plans.back();
        }
      }
      best->add(rule);
    }
    auto next = std::make_unique<State>();
    for (Plan& plan : plans) {
      next->tuples.push_back(std::make_shared<const Tuple>(
          plan.source_length, plan.destination_length, seed_of(plan.source_length, plan.destination_length),
          std::move(plan.rules)));
    }
    sort(*next);
    return next.release();
  }
  void publish(State* next, EpochDomain& epochs) { epochs.retire(state_.exchange(next)); }

  std::size_t nbytes() const noexcept {
    std::size_t bytes = 0;
    for (const auto& tuple : state().tuples) bytes += tuple->nbytes();
    return bytes;
  }

 private:
  static constexpr std::size_t kCollisions = 6;

  struct Plan {
    Plan(unsigned s, unsigned d) : source_length(s), destination_length(d), counts(1024) {}
    unsigned length() const noexcept { return source_length + destination_length; }
    std::size_t index(const Rule& rule) const noexcept {
      const Address pair[2] = {rule.source & prefix_mask<Address>(source_length),
                               rule.destination & prefix_mask<Address>(destination_length)};
      return static_cast<std::size_t>(xxh3_64(pair, sizeof pair, 0)) & (counts.size() - 1);
    }
    std::size_t bucket(const Rule& rule) const noexcept { return counts[index(rule)]; }
    void add(const Rule& rule) {
      rules.push_back(rule);
      if (rules.size() * 4 > counts.size()) {
        counts.assign(counts.size() * 4, 0);
        for (const Rule& known : rules) ++counts[index(known)];
      } else {
        ++counts[index(rule)];
      }
    }
    unsigned source_length;
    unsigned destination_length;
    std::vector<Rule> rules;
    std::vector<std::uint32_t> counts;  // an upper bound of each bucket's size
  };

  static unsigned length(const Tuple& tuple) noexcept {
    return tuple.source_length() + tuple.destination_length();
  }
  std::uint32_t seed_of(unsigned source_length, unsigned destination_length) const noexcept {
    return static_cast<std::uint32_t>(seed_ >> 32) ^
           (source_length * 0x9E3779B1u + destination_length * 0x85EBCA77u);
  }
  // Lengths of a new tuple for a rule: shorter than its own, so that others may join, unless that tuple is
  // there already (and its bucket full).
  template <typename Exists>
  static std::array<unsigned, 2> relaxed(const Rule& rule, Exists&& exists) {
    const unsigned s = rule.source_length, d = rule.destination_length;
    for (unsigned cut : {4u, 2u, 1u}) {
      const unsigned shorter_s = s - std::min(s, s % cut == 0 ? cut : s % cut);
      const unsigned shorter_d = d - std::min(d, d % cut == 0 ? cut : d % cut);
      if (!exists(shorter_s, shorter_d)) return {shorter_s, shorter_d};
    }
    return {s, d};
  }
  void add_tuple(State& next, const Rule& rule) const {
    const auto lengths = relaxed(rule, [&](unsigned s, unsigned d) {
      return std::any_of(next.tuples.begin(), next.tuples.end(), [&](const auto& tuple) {
        return tuple->source_length() == s && tuple->destination_length() == d;
      });
    });
    std::vector<Rule> rules = {rule};
    // The rule's very own lengths may be taken, by a bucket that cannot be split any further.
    for (auto& tuple : next.tuples) {
      if (tuple->source_length() != lengths[0] || tuple->destination_length() != lengths[1]) continue;
      rules.insert(rules.end(), tuple->rules().begin(), tuple->rules().end());
      tuple = std::make_shared<const Tuple>(lengths[0], lengths[1], tuple->seed(), std::move(rules));
      return;
    }
    next.tuples.push_back(std::make_shared<const Tuple>(lengths[0], lengths[1],
                                                        seed_of(lengths[0], lengths[1]), std::move(rules)));
  }
  static void sort(State& state) {
    std::sort(state.tuples.begin(), state.tuples.end(),
              [](const auto& a, const auto& b) { return a->first_order() < b->first_order(); });
  }

  const std::uint64_t seed_;
  std::atomic<State*> state_{nullptr};
};

// Both families, with hit counters. Rule ids are the caller's, from 1 on.
class Policy {
 public:
  using Rule4 = PolicyRule<std::uint32_t>;
  using Rule6 = PolicyRule<Address16>;

  explicit Policy(std::uint64_t seed, Isa isa = isa_in_use()) : four_(seed), six_(seed) {
    filter4_ = policy_filter<std::uint32_t>;
#if defined(__x86_64__)
    if (isa == Isa::avx512) filter4_ = policy_filter4_avx512;
#else
    static_cast<void>(isa);
#endif
    hits_.store(new Hits(64));
  }
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;
  ~Policy() { delete hits_.load(); }

  // A rule may stand in one family or in both; null: not in this one.
  void add(const Rule4* four, const Rule6* six) {
    const std::lock_guard lock(mutex_);
    if (four != nullptr) room_for(four->id);
    if (six != nullptr) room_for(six->id);
    auto* next_four = four != nullptr ? four_.with(*four) : nullptr;
    auto* next_six = six != nullptr ? six_.with(*six) : nullptr;
    if (next_four != nullptr) four_.publish(next_four, epochs_);
    if (next_six != nullptr) six_.publish(next_six, epochs_);
  }
  void erase(std::uint32_t id) {
    const std::lock_guard lock(mutex_);
    four_.publish(four_.without(id), epochs_);
    six_.publish(six_.without(id), epochs_);
    hits_.load()->of(id).store(0, std::memory_order_relaxed);
  }
  // Replaces all rules of a family by one store each.
  void replace(const std::vector<Rule4>& four, const std::vector<Rule6>& six, bool keep_hits) {
    const std::lock_guard lock(mutex_);
    for (const Rule4& rule : four) room_for(rule.id);
    for (const Rule6& rule : six) room_for(rule.id);
    auto* next_four = four_.of(four);
    auto* next_six = six_.of(six);
    four_.publish(next_four, epochs_);
    six_.publish(next_six, epochs_);
    if (!keep_hits) hits_.load()->clear();
  }

  std::uint32_t decide4(const PolicyPacket<std::uint32_t>& packet, bool count) const noexcept {
    return counted(four_.decide(packet), count);
  }
  std::uint32_t decide6(const PolicyPacket<Address16>& packet, bool count) const noexcept {
    return counted(six_.decide(packet), count);
  }
  void decide4_many(const std::uint32_t* sources, const std::uint32_t* destinations,
                    const std::uint8_t* protocols, const std::uint16_t* source_ports,
                    const std::uint16_t* destination_ports, std::size_t n, std::uint32_t* ids) const {
    decide_many(four_, filter4_, n, ids, [&](PolicyBlock<std::uint32_t>& block, std::size_t begin) {
      std::copy_n(sources + begin, block.count, block.source);
      std::copy_n(destinations + begin, block.count, block.destination);
      return [&block, begin, protocols, source_ports, destination_ports](std::size_t i) {
        return PolicyPacket<std::uint32_t>{block.source[i], block.destination[i], source_ports[begin + i],
                                           destination_ports[begin + i], protocols[begin + i]};
      };
    });
  }
  void decide6_many(const std::uint8_t* sources, const std::uint8_t* destinations,
                    const std::uint8_t* protocols, const std::uint16_t* source_ports,
                    const std::uint16_t* destination_ports, std::size_t n, std::uint32_t* ids) const {
    decide_many(
        six_, policy_filter<Address16>, n, ids, [&](PolicyBlock<Address16>& block, std::size_t begin) {
          for (std::size_t i = 0; i < block.count; ++i) {
            block.source[i] = address(sources + 16 * (begin + i));
            block.destination[i] = address(destinations + 16 * (begin + i));
          }
          return [&block, begin, protocols, source_ports, destination_ports](std::size_t i) {
            return PolicyPacket<Address16>{block.source[i], block.destination[i], source_ports[begin + i],
                                           destination_ports[begin + i], protocols[begin + i]};
          };
        });
  }
  static Address16 address(const std::uint8_t* p) noexcept {
    return {__builtin_bswap64(hash_detail::load64(p)), __builtin_bswap64(hash_detail::load64(p + 8))};
  }

  // Packets that this rule has decided.
  std::uint64_t hits(std::uint32_t id) const noexcept {
    const Hits* hits = hits_.load(std::memory_order_acquire);
    return id < hits->size() ? hits->of(id).load(std::memory_order_relaxed) : 0;
  }
  std::size_t nbytes() const {
    const std::lock_guard lock(mutex_);
    return four_.nbytes() + six_.nbytes();
  }
  std::size_t tuples() const {
    const std::lock_guard lock(mutex_);
    return four_.state().tuples.size() + six_.state().tuples.size();
  }
  EpochDomain& epochs() const noexcept { return epochs_; }
  void reclaim() {
    if (const std::unique_lock lock(mutex_, std::try_to_lock); lock) epochs_.reclaim();
  }

 private:
  // Counters keep their address: chunks, so that growth copies pointers and no count is lost.
  class Hits {
   public:
    explicit Hits(std::size_t count) { grow(count); }
    void grow(std::size_t count) {
      while (size() < count) chunks_.push_back(std::make_shared<Chunk>());
    }
    std::size_t size() const noexcept { return chunks_.size() * kChunk; }
    std::atomic<std::uint64_t>& of(std::uint32_t id) const noexcept {
      return (*chunks_[id / kChunk])[id % kChunk];
    }
    void clear() const noexcept {
      for (const auto& chunk : chunks_) {
        for (auto& counter : *chunk) counter.store(0, std::memory_order_relaxed);
      }
    }

   private:
    static constexpr std::size_t kChunk = 1024;
    using Chunk = std::array<std::atomic<std::uint64_t>, kChunk>;
    std::vector<std::shared_ptr<Chunk>> chunks_;
  };

  std::uint32_t counted(std::uint32_t id, bool count) const noexcept {
    if (count && id != 0)
      hits_.load(std::memory_order_acquire)->of(id).fetch_add(1, std::memory_order_relaxed);
    return id;
  }
  template <typename Address, typename Filter, typename Load>
  void decide_many(const PolicyFamily<Address>& family, Filter&& filter, std::size_t n, std::uint32_t* ids,
                   Load&& load) const {
    const EpochDomain::Guard guard(epochs_);
    PolicyBlock<Address> block;
    for (std::size_t begin = 0; begin < n; begin += PolicyBlock<Address>::kSize) {
      block.count = std::min(PolicyBlock<Address>::kSize, n - begin);
      const auto packet = load(block, begin);
      family.decide_block(family.state(), block, filter, packet);
      std::copy_n(block.id, block.count, ids + begin);
      const Hits* hits = hits_.load(std::memory_order_acquire);
      for (std::size_t i = 0; i < block.count;) {
        std::size_t end = i + 1;
        while (end < block.count && block.id[end] == block.id[i]) ++end;
        if (block.id[i] != 0) hits->of(block.id[i]).fetch_add(end - i, std::memory_order_relaxed);
        i = end;
      }
    }
  }
  void room_for(std::uint32_t id) {
    Hits* hits = hits_.load(std::memory_order_relaxed);
    if (id < hits->size()) return;
    auto larger = std::make_unique<Hits>(*hits);
    larger->grow(std::max<std::size_t>(std::size_t{id} + 1, hits->size() * 2));
    hits_.store(larger.release(), std::memory_order_release);
    epochs_.retire(hits);
  }

  mutable std::mutex mutex_;
  mutable EpochDomain epochs_;
  PolicyFamily<std::uint32_t> four_;
  PolicyFamily<Address16> six_;
  PolicyFilter4 filter4_;
  std::atomic<Hits*> hits_{nullptr};
};

}  // namespace fastpath
