// Readers decide beside a writer that adds, erases, moves and replaces rules, and a thread that compiles
// them: every packet meets the rule that stays or one that comes before it, and no hit is lost.
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fastpath/policy.hpp"

namespace {

using fastpath::Address16;
using fastpath::Policy;

constexpr std::uint32_t kPackets = 600;

Policy::Rule4 rule4(std::uint32_t id, std::uint64_t order, std::uint32_t source, unsigned length) {
  return {order, id, 256, {0, 65535}, {0, 65535}, static_cast<std::uint8_t>(length), 0, source, 0};
}
Policy::Rule6 rule6(std::uint32_t id, std::uint64_t order) {
  return {order, id, 256, {0, 65535}, {0, 65535}, 0, 0, {0, 0}, {0, 0}};
}

struct Batch {
  std::vector<std::uint32_t> addresses = std::vector<std::uint32_t>(kPackets), ids = addresses;
  std::vector<std::uint8_t> wide = std::vector<std::uint8_t>(kPackets * 16, 7);
  std::vector<std::uint8_t> protocols = std::vector<std::uint8_t>(kPackets, 6);
  std::vector<std::uint16_t> ports = std::vector<std::uint16_t>(kPackets, 80);
  Batch() {
    for (std::uint32_t i = 0; i < kPackets; ++i) addresses[i] = i << 24;
  }
  void decide4(Policy& policy) {
    policy.decide4_many({addresses.data(), addresses.data(), protocols.data(), ports.data(), ports.data()},
                        kPackets, ids.data());
  }
  void decide6(Policy& policy) {
    policy.decide6_many({wide.data(), wide.data(), protocols.data(), ports.data(), ports.data()}, kPackets,
                        ids.data());
  }
};

void edits(fastpath::Isa isa) {
  Policy policy(1, isa);
  const Policy::Rule4 last4 = rule4(1, 1000000, 0, 0);
  const Policy::Rule6 last6 = rule6(1, 1000000);
  policy.add(&last4, &last6);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      Batch batch;
      while (!stop.load(std::memory_order_relaxed)) {
        batch.decide4(policy);
        for (std::uint32_t i = 0; i < kPackets; ++i) {
          CHECK(batch.ids[i] == 1 || batch.ids[i] == 2 + i % 256);
          CHECK(batch.ids[i] == batch.ids[i % 256]);  // a batch sees one set of rules
        }
        batch.decide6(policy);
        for (const std::uint32_t id : batch.ids) CHECK(id == 1);
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop.load(std::memory_order_relaxed)) policy.compile();
  });
  std::mt19937 random(3);
  std::vector<bool> there(256);
  std::uint64_t base = 10;  // of the orders
  for (int round = 0; round < 60; ++round) {
    for (int n = 0; n < 20; ++n) {
      const std::uint32_t net = random() % 256;
      const Policy::Rule4 rule = rule4(2 + net, base + net, net << 24, 8);
      if (there[net]) {
        policy.erase(&rule, nullptr);
      } else {
        policy.add(&rule, nullptr);
      }
      there[net] = !there[net];
      Batch batch;
      batch.decide4(policy);
      for (std::uint32_t i = 0; i < 256; ++i) CHECK(batch.ids[i] == (there[i] ? 2 + i : 1));
    }
    if (round % 3 == 2) {
      std::vector<Policy::Rule4> moved;
      std::vector<std::uint64_t> orders;
      const std::uint64_t next = base == 10 ? 1000 : 10;
      for (std::uint32_t net = 0; net < 256; ++net) {
        if (!there[net]) continue;
        moved.push_back(rule4(2 + net, base + net, net << 24, 8));
        orders.push_back(next + net);
      }
      policy.move(moved, orders, {}, {});
      base = next;
    }
    if (round % 10 == 9) {
      policy.replace({last4, rule4(9, 17, 7u << 24, 8)}, {last6});
      there.assign(256, false);
      there[7] = true;
      base = 10;
    }
    policy.reclaim();
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  CHECK(policy.hits(1) > 0);
}

// More readers than lanes to lend.
void hits(fastpath::Isa isa) {
  Policy policy(1, isa);
  const Policy::Rule4 low = rule4(1, 10, 0, 1), all = rule4(700, 20, 0, 0);
  policy.add(&low, nullptr);
  policy.add(&all, nullptr);
  constexpr std::uint64_t kThreads = 6, kRounds = 200;
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      Batch batch;
      for (std::uint64_t round = 0; round < kRounds; ++round) {
        batch.decide4(policy);
        policy.decide4({0, 0, 1, 1, 6}, true);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(policy.compiled());
  std::uint64_t under = 0;
  for (std::uint32_t i = 0; i < kPackets; ++i) under += i % 256 < 128;
  CHECK(policy.hits(1) == kThreads * kRounds * (under + 1));
  CHECK(policy.hits(700) == kThreads * kRounds * (kPackets - under));
  policy.erase(&low, nullptr);
  policy.add(&low, nullptr);
  CHECK(policy.hits(1) == 0);
}

}  // namespace

int main() {
  for (fastpath::Isa isa : {fastpath::Isa::scalar, fastpath::Isa::avx2, fastpath::Isa::avx512}) {
    if (!fastpath::isa_supported(isa)) continue;
    edits(isa);
    hits(isa);
  }
  return 0;
}
