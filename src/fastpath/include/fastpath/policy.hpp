// Ordered rules over five-tuples with prefixes, port ranges and protocol: the first match decides.
//
// Both address families, with hit counters. One writer at a time (a lock sees to it); readers never wait and
// see a set of rules as before or after an edit: a batch as a whole sees one set.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <vector>

#include "fastpath/cpu.hpp"
#include "fastpath/epoch.hpp"
#include "fastpath/policy/family.hpp"
#include "fastpath/policy/hits.hpp"
#include "fastpath/policy/rule.hpp"

namespace fastpath {

// Rule ids are the caller's, from 1 on; 0 is no rule. An id that is free again must not be given to another
// rule while somebody may still hold results that name it.
class Policy {
 public:
  using Rule4 = PolicyRule<std::uint32_t>;
  using Rule6 = PolicyRule<Address16>;

  explicit Policy(std::uint64_t seed, Isa isa = isa_in_use()) : four_(seed, isa), six_(seed, isa) {}
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;

  // A rule may stand in one family or in both; null: not in this one.
  void add(const Rule4* four, const Rule6* six);
  // The same rule as was added.
  void erase(const Rule4* four, const Rule6* six);
  // Replaces all rules; each family by one store.
  void replace(const std::vector<Rule4>& four, const std::vector<Rule6>& six);
  // Gives rules other orders; their places among all rules stay, so nobody sees a difference.
  void move(const std::vector<Rule4>& four, const std::vector<std::uint64_t>& four_orders,
            const std::vector<Rule6>& six, const std::vector<std::uint64_t>& six_orders);
  // Makes batches fast now, rather than when enough packets were slow. Edits and readers go on meanwhile.
  void compile();

  std::uint32_t decide4(const PolicyPacket<std::uint32_t>& packet, bool count) const noexcept {
    return decide(four_, packet, count);
  }
  std::uint32_t decide6(const PolicyPacket<Address16>& packet, bool count) const noexcept {
    return decide(six_, packet, count);
  }
  // `ids` for n packets. Compiles when enough packets were slow, unless that takes long.
  void decide4_many(const PolicyColumns& packets, std::size_t n, std::uint32_t* ids);
  void decide6_many(const PolicyColumns& packets, std::size_t n, std::uint32_t* ids);

  // Packets that this rule has decided.
  std::uint64_t hits(std::uint32_t id) const noexcept { return hits_.of(id); }
  std::size_t nbytes() const;
  bool compiled() const noexcept {
    const EpochDomain::Guard guard(epochs_);
    return four_.compiled() && six_.compiled();
  }
  EpochDomain& epochs() const noexcept { return epochs_; }
  // Returns false if someone edits now, so that an edit would have to wait, or a thread that forks is going
  // to have the lock.
  bool reclaim() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock) epochs_.reclaim();
    return lock.owns_lock() && !forking_.load(std::memory_order_relaxed);
  }
  // With the GIL held, before lock_for_fork() waits without it: from here on reclaim() is false. Who holds
  // the GIL must not wait for the thread that forks, which needs the GIL to go on.
  void expect_fork() noexcept { forking_.store(true, std::memory_order_relaxed); }
  // By the thread that forks, before and after: meanwhile nobody edits, and no compiled tree is published. In
  // the child, where no other thread is, unlock_in_child() takes the place of the latter: it forgets readers,
  // and what others were compiling.
  void lock_for_fork() { mutex_.lock(); }
  void unlock_after_fork() noexcept {
    forking_.store(false, std::memory_order_relaxed);
    mutex_.unlock();
  }
  void unlock_in_child() noexcept {
    forking_.store(false, std::memory_order_relaxed);
    new (&compiling_) std::mutex;  // whoever holds it is gone
    four_.forget_compiling();
    six_.forget_compiling();
    hits_.forget_lanes();
    epochs_.forget_readers();
    mutex_.unlock();
  }

 private:
  template <typename Address>
  std::uint32_t decide(const PolicyFamily<Address>& family, const PolicyPacket<Address>& packet,
                       bool count) const noexcept {
    const PolicyRule<Address>* rule = PolicyFamily<Address>::find(family.state().tuples, packet);
    if (rule == nullptr) return 0;
    if (count) hits_.add(rule->id);
    return rule->id;
  }
  template <typename Address>
  void decide_many(PolicyFamily<Address>& family, const PolicyColumns& packets, std::size_t n,
                   std::uint32_t* ids);

  mutable std::mutex mutex_;
  std::atomic<bool> forking_{false};
  std::mutex compiling_;
  mutable EpochDomain epochs_;
  PolicyFamily<std::uint32_t> four_;
  PolicyFamily<Address16> six_;
  PolicyHits hits_;
};

}  // namespace fastpath
