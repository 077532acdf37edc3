// Readers decide beside a writer that adds, removes and replaces rules: every packet meets the rule that
// stays or one that comes before it.
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fastpath/policy.hpp"

namespace {

using fastpath::Address16;
using fastpath::Policy;

Policy::Rule4 rule4(std::uint32_t id, std::uint64_t order, std::uint32_t source, unsigned length) {
  return {order, id, 256, {0, 65535}, {0, 65535}, static_cast<std::uint8_t>(length), 0, source, 0};
}
Policy::Rule6 rule6(std::uint32_t id, std::uint64_t order) {
  return {order, id, 256, {0, 65535}, {0, 65535}, 0, 0, {0, 0}, {0, 0}};
}

void run(fastpath::Isa isa) {
  constexpr std::size_t kPackets = 400;
  Policy policy(1, isa);
  const Policy::Rule4 last4 = rule4(1, 1000000, 0, 0);
  const Policy::Rule6 last6 = rule6(1, 1000000);
  policy.add(&last4, &last6);
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      std::vector<std::uint32_t> addresses(kPackets), ids(kPackets);
      std::vector<std::uint8_t> wide(kPackets * 16, 7), protocols(kPackets, 6);
      std::vector<std::uint16_t> ports(kPackets, 80);
      for (std::uint32_t i = 0; i < kPackets; ++i) addresses[i] = i << 24;
      while (!stop.load(std::memory_order_relaxed)) {
        policy.decide4_many(addresses.data(), addresses.data(), protocols.data(), ports.data(), ports.data(),
                            kPackets, ids.data());
        for (std::uint32_t i = 0; i < kPackets; ++i) CHECK(ids[i] == 1 || ids[i] == 2 + i % 256);
        policy.decide6_many(wide.data(), wide.data(), protocols.data(), ports.data(), ports.data(), kPackets,
                            ids.data());
        for (const std::uint32_t id : ids) CHECK(id == 1);
      }
    });
  }
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    for (int n = 0; n < 20; ++n) {
      const std::uint32_t net = random() % 256;
      policy.erase(2 + net);
      const Policy::Rule4 rule = rule4(2 + net, 10 + net, net << 24, 8);
      policy.add(&rule, nullptr);
      if (random() % 2 == 0) policy.erase(2 + net);
    }
    if (round % 10 == 9) policy.replace({last4, rule4(9, 5, 7u << 24, 8)}, {last6}, round % 20 == 9);
    policy.reclaim();
  }
  stop = true;
  for (auto& reader : readers) reader.join();
  CHECK(policy.hits(1) > 0);
}

}  // namespace

int main() {
  for (fastpath::Isa isa : {fastpath::Isa::scalar, fastpath::Isa::avx512}) {
    if (fastpath::isa_supported(isa)) run(isa);
  }
  return 0;
}
