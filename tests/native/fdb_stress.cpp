// sources: core/exact_table.cpp core/kernels/exact_*.cpp

// Readers beside writers that learn, move, age, purge and evict: a station is only ever found on a port that
// it was learned on, and a static one always.
#include <atomic>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fastpath/fdb.hpp"

int main() {
  constexpr std::uint64_t kStations = 2000;
  constexpr std::uint64_t kStatic = 50;
  fastpath::Fdb fdb({10.0, 1500, 600}, 0.0, false, 3);
  for (std::uint64_t mac = 1; mac <= kStatic; ++mac) CHECK(fdb.add_static(mac, 0, 7, 0.0));
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      std::vector<std::uint64_t> macs(kStations);
      std::vector<std::uint32_t> ports(kStations);
      for (std::uint64_t i = 0; i < kStations; ++i) macs[i] = i + 1;
      while (!stop.load(std::memory_order_relaxed)) {
        fdb.find_many(macs.data(), nullptr, kStations, fdb.native_now_s(), ports.data(), 0);
        for (std::uint64_t i = 0; i < kStations; ++i) {
          if (macs[i] <= kStatic) {
            CHECK(ports[i] == 7);
          } else {
            CHECK(ports[i] == 0 || ports[i] % 100 == macs[i] % 100);
          }
        }
      }
    });
  }
  const auto write = [&](std::uint32_t shift) {
    std::vector<std::uint64_t> macs;
    std::vector<std::uint32_t> ports;
    for (int round = 0; round < 20; ++round) {
      const double now = round;
      macs.clear();
      ports.clear();
      for (std::uint64_t i = 0; i < kStations; i += 1 + i % 3) {
        macs.push_back(i + 1);
        ports.push_back(static_cast<std::uint32_t>((i + 1) % 100 + 100 * (shift + round % 4)));
      }
      fdb.learn_many(macs.data(), nullptr, ports.data(), macs.size(), now);
      CHECK(fdb.size() <= 1500);
      if (round % 5 == 4) fdb.age(now + 6);
      fdb.purge(100 * (shift + round % 4) + 5, false);
      fdb.reclaim();
    }
  };
  std::thread second([&] { write(10); });
  write(20);
  second.join();
  stop = true;
  for (auto& reader : readers) reader.join();
  return 0;
}
