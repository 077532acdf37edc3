// The rules of one address family: tuples that every edit keeps up to date (merged tuples, after Daly et al.,
// "TupleMerge", 2019), and a tree compiled from them for batches. What was edited since stands beside the
// tree, until it is compiled again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "fastpath/epoch.hpp"
#include "fastpath/policy/tree.hpp"
#include "fastpath/policy/tuple.hpp"

namespace fastpath {

template <typename Address>
class PolicyFamily {
 public:
  using Rule = PolicyRule<Address>;
  using Packet = PolicyPacket<Address>;
  using Tuple = PolicyTuple<Address>;
  using Tree = PolicyTree<Address>;
  using Tuples = std::vector<std::shared_ptr<const Tuple>>;  // by first order

  // What readers see; never changed but replaced.
  struct State {
    Tuples tuples;  // all rules
    std::size_t rules = 0;
    std::shared_ptr<const Tree> tree;  // null, or the rules of some time; erased ones are marked in it
    Tuples added;                      // rules that the tree does not know
  };

  PolicyFamily(std::uint64_t seed, Isa isa) : seed_(seed), isa_(isa) { state_.store(new State()); }
  PolicyFamily(const PolicyFamily&) = delete;
  PolicyFamily& operator=(const PolicyFamily&) = delete;
  ~PolicyFamily() { delete state_.load(); }

  // Readers hold a guard of the policy's epochs or whatever lock guards reclaim().
  const State& state() const noexcept { return *state_.load(std::memory_order_acquire); }
  bool compiled() const noexcept { return state().tree != nullptr || state().tuples.empty(); }
  // The first rule that matches and comes before `order`, or null.
  static const Rule* find(const Tuples& tuples, const Packet& packet,
                          std::uint64_t order = ~std::uint64_t{0}) noexcept {
    const Rule* best = nullptr;
    for (const auto& tuple : tuples) {
      if (tuple->first_order() >= order) break;
      if (const Rule* rule = tuple->find(packet, order)) {
        order = rule->order;
        best = rule;
      }
    }
    return best;
  }

  // Notes packets that the tree could not answer alone; true once compiling is cheaper than more of them.
  bool note_slow(const State& state, std::size_t packets) noexcept {
    const std::size_t noted = slow_.fetch_add(packets, std::memory_order_relaxed) + packets;
    return noted >= kPacketsPerRule * state.rules && (state.tree == nullptr || stale(state)) &&
           rest_.load(std::memory_order_relaxed) == 0;
  }
  // Compiles a tree from the rules of now and publishes it; edits may go on meanwhile. `mutex` is the
  // writers' lock. At most one call at a time. If bounded, it may give up: note_slow() then says nothing
  // until half of the rules have changed.
  void compile(std::mutex& mutex, EpochDomain& epochs, bool bounded);

  // Everything below: writers only, under their lock.

  std::unique_ptr<State> with(const Rule& rule) const;
  // Null: no such rule.
  std::unique_ptr<State> without(const Rule& rule) const;
  // Rules that are there, with other orders. A tree goes on: it leaves them to the tuples beside it.
  std::unique_ptr<State> moved(const std::vector<Rule>& from, const std::vector<Rule>& to) const;
  // All rules at once.
  std::unique_ptr<State> of(std::vector<Rule> rules) const;
  void publish(std::unique_ptr<State> next, EpochDomain& epochs) {
    epochs.retire(state_.exchange(next.release()));
  }
  // Told of every edit that is published.
  void log_added(const Rule& rule) { log({rule, true}); }
  void log_erased(const Rule& rule) { log({rule, false}); }
  void log_replaced() noexcept {
    ++generation_;
    rest_.store(0, std::memory_order_relaxed);
  }
  // Whoever compiled is gone.
  void forget_compiling() noexcept {
    compiling_ = false;
    edits_.clear();
  }
  std::size_t nbytes() const noexcept;

 private:
  struct Edit {
    Rule rule;
    bool added;
  };

  static constexpr std::size_t kCollisions = 6;       // rules of a bucket, before it is split
  static constexpr std::size_t kPacketsPerRule = 64;  // that take longer than compiling a rule

  // Of a bounded compilation, beyond what ClassBench's sets take: about 0.1 s, and 20 microseconds a rule.
  static constexpr std::uint64_t kSteps = std::uint64_t{1} << 26;
  static constexpr std::uint64_t kStepsPerRule = 1 << 14;

  static bool stale(const State& state) noexcept { return !state.added.empty() || state.tree->any_erased(); }
  void log(const Edit& edit) {
    if (compiling_) edits_.push_back(edit);
    const std::size_t rest = rest_.load(std::memory_order_relaxed);
    if (rest != 0) rest_.store(rest - 1, std::memory_order_relaxed);
  }
  std::uint32_t seed_of(unsigned source_length, unsigned destination_length) const noexcept {
    return static_cast<std::uint32_t>(seed_ >> 32) ^
           (source_length * 0x9E3779B1u + destination_length * 0x85EBCA77u);
  }
  void insert(Tuples& tuples, const Rule& rule) const;
  static bool remove(Tuples& tuples, const Rule& rule);
  static void sort(Tuples& tuples);

  const std::uint64_t seed_;
  const Isa isa_;
  std::atomic<State*> state_{nullptr};
  std::atomic<std::size_t> slow_{0};
  std::atomic<std::size_t> rest_{0};  // edits to come before compiling is tried again
  // Under the writers' lock:
  std::uint64_t generation_ = 0;  // of whole sets
  bool compiling_ = false;
  std::vector<Edit> edits_;  // since compiling began
};

}  // namespace fastpath
