// Readers pick in batches and one by one while a writer adds, removes, flips, weighs, acquires and releases.
#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fastpath/balance/balancer.hpp"

using namespace fastpath::balance;

namespace {

void run(Policy policy, bool bounded) {
  Options options;
  options.table.policy = policy;
  options.table.slots = 251;
  options.table.points = 5;
  options.table.repair = true;
  options.seed = 7;
  options.slow_start_s = 1.0;
  options.max_in_flight = 50;
  options.sticky_bits = 8;
  options.outlier.on = true;
  if (bounded && is_hash_policy(policy)) options.load_bound = 1.25;
  Balancer balancer(options);
  constexpr Id kFirst = 12;
  for (Id i = 1; i <= kFirst; ++i) {
    CHECK(balancer.add("b" + std::to_string(i), 1.0 + i % 3, static_cast<int>(i % 2), i % 4 != 0, 0.0,
                       false) == i);
  }
  balancer.rebuild();
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (unsigned t = 0; t < 3; ++t) {
    readers.emplace_back([&balancer, &stop, t] {
      std::vector<std::uint64_t> hashes(300);
      std::vector<Id> ids(300);
      for (std::uint64_t round = 0; !stop.load(std::memory_order_relaxed); ++round) {
        for (std::size_t i = 0; i < hashes.size(); ++i) hashes[i] = draw(t, round * 300 + i);
        balancer.pick_many(hashes.data(), ids.data(), ids.size(), 0.5);
        for (const Id id : ids) CHECK(id < 200);
        balancer.pick_many(ids.data(), ids.size(), 0.5);
        for (const Id id : ids) CHECK(id < 200);
      }
    });
  }
  double now = 0.0;
  for (Id round = 0; round < 150; ++round) {
    now += 0.05;
    const Id id = round % kFirst + 1;
    balancer.set_healthy(id, round % 5 != 0);
    balancer.set_draining(id, round % 7 == 0);
    balancer.set_weight(id, 1.0 + round % 4, now);
    const Id added = balancer.add("n" + std::to_string(round), 2.0, 0, true, now, true);
    balancer.rebuild();
    for (int i = 0; i < 5; ++i) {
      const Id picked = is_hash_policy(policy) ? balancer.pick_hash(draw(9, round), now) : balancer.pick(now);
      if (picked == 0) continue;
      balancer.acquire(picked);
      balancer.report(picked, i != 0, 0.001, now);
      balancer.release(picked);
    }
    balancer.tick(now);
    balancer.remove(added);
    balancer.rebuild();
  }
  stop = true;
  for (auto& reader : readers) reader.join();
  for (Id id = 1; id <= kFirst; ++id) CHECK(balancer.in_flight(id) == 0);
  CHECK(balancer.total_in_flight() == 0);
}

}  // namespace

int main() {
  for (int policy = 0; policy <= static_cast<int>(Policy::stable); ++policy)
    run(static_cast<Policy>(policy), policy % 2);
  run(Policy::maglev, true);
  return 0;
}
