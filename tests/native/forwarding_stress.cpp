// sources: core/exact_table.cpp core/kernels/exact_*.cpp

// Readers ask for pairs while a writer adds and removes the exact entry over one for any source: the answer
// is always one of the two, also where now the one and now the other is made before the other is broken.
#include <atomic>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fastpath/forwarding_table.hpp"

int main() {
  constexpr std::uint64_t kStations = 700;
  fastpath::ForwardingTable table(8, 0, 1);
  const auto bytes = [](const std::uint64_t& mac) { return reinterpret_cast<const std::uint8_t*>(&mac); };
  std::uint32_t previous = 0;
  for (std::uint64_t to = 1; to <= kStations; ++to)
    table.put(nullptr, bytes(to), static_cast<std::uint32_t>(to), &previous);
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      std::vector<std::uint64_t> from(kStations), to(kStations);
      std::vector<std::uint32_t> egress(kStations);
      for (std::uint64_t i = 0; i < kStations; ++i) {
        to[i] = i + 1;
        from[i] = i * 7 + 1;
      }
      while (!stop.load(std::memory_order_relaxed)) {
        table.find_many(bytes(from[0]), bytes(to[0]), kStations, egress.data(), 0);
        for (std::uint64_t i = 0; i < kStations; ++i)
          CHECK(egress[i] == to[i] || egress[i] == to[i] + 100000);
        table.find_many(nullptr, bytes(to[0]), kStations, egress.data(), 0);
        for (std::uint64_t i = 0; i < kStations; ++i) CHECK(egress[i] == to[i] || egress[i] == 0);
      }
    });
  }
  for (int round = 0; round < 12; ++round) {
    for (std::uint64_t i = 0; i < kStations; ++i) {
      const std::uint64_t from = i * 7 + 1, to = i + 1;
      table.put(bytes(from), bytes(to), static_cast<std::uint32_t>(to + 100000), &previous);
    }
    for (std::uint64_t i = 0; i < kStations; ++i) {
      const std::uint64_t from = i * 7 + 1, to = i + 1;
      CHECK(table.erase(bytes(from), bytes(to), &previous));
    }
    table.reclaim();
  }
  for (int round = 0; round < 12; ++round) {
    for (std::uint64_t i = 0; i < kStations; ++i) {
      const std::uint64_t from = i * 7 + 1, to = i + 1;
      table.put(bytes(from), bytes(to), static_cast<std::uint32_t>(to + 100000), &previous);
      CHECK(table.erase(nullptr, bytes(to), &previous));
      table.put(nullptr, bytes(to), static_cast<std::uint32_t>(to), &previous);
      CHECK(table.erase(bytes(from), bytes(to), &previous));
    }
    table.reclaim();
  }
  std::vector<std::uint64_t> from(kStations), to(kStations);
  std::vector<std::uint32_t> any(kStations), exact(kStations);
  for (std::uint64_t i = 0; i < kStations; ++i) {
    to[i] = i + 1;
    from[i] = i * 7 + 1;
    any[i] = static_cast<std::uint32_t>(to[i]);
    exact[i] = static_cast<std::uint32_t>(to[i] + 100000);
  }
  for (int round = 0; round < 12; ++round) {
    std::vector<std::uint32_t> gone;
    CHECK(table.put_many(bytes(from[0]), bytes(to[0]), exact.data(), kStations, nullptr) == kStations);
    CHECK(table.erase_many(nullptr, bytes(to[0]), kStations, &gone) == kStations);
    CHECK(gone == any);
    CHECK(table.put_many(nullptr, bytes(to[0]), any.data(), kStations, nullptr) == kStations);
    CHECK(table.erase_many(bytes(from[0]), bytes(to[0]), kStations, nullptr) == kStations);
    CHECK(table.erase_many(bytes(from[0]), bytes(to[0]), kStations, &gone) == 0);
    table.reclaim();
  }
  stop = true;
  for (auto& reader : readers) reader.join();
  CHECK(table.size() == kStations);
  return 0;
}
