// Readers that refresh beside a writer that inserts beyond capacity, moves, gives timeouts of their own,
// evicts, expires, deletes and clears: a value always belongs to its flow. And a flow that nobody removes is
// found by every look-up, however often others push it from its home to its other set.
#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fastpath/flow_table.hpp"

namespace {

using fastpath::FlowTable;

struct Keys {
  Keys(std::uint32_t n, std::size_t size) : size(size), bytes(n * size), numbers(n) {
    for (std::uint32_t i = 0; i < n; ++i) {
      std::memset(&bytes[i * size], static_cast<int>(i % 250), size);
      std::memcpy(&bytes[i * size], &i, 4);
      numbers[i] = i + 1;
    }
  }
  const std::uint8_t* at(std::size_t i) const { return &bytes[i * size]; }
  std::size_t size;
  std::vector<std::uint8_t> bytes;
  std::vector<std::uint32_t> numbers;
};

void churn(std::size_t size, bool counts, fastpath::Isa isa) {
  constexpr std::uint32_t kFlows = 3000;
  FlowTable table({size, 800, 50, FlowTable::kForever, counts, 9}, isa);
  std::atomic<std::uint64_t> now{1};
  std::atomic<bool> stop{false};
  const Keys keys(kFlows, size);
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&, t] {
      std::vector<std::uint32_t> values(kFlows);
      for (std::uint32_t turn = 0; !stop.load(std::memory_order_relaxed); ++turn) {
        table.find_many(keys.at(0), keys.numbers.data(), kFlows, now.load(), values.data(), 0);
        for (std::uint32_t i = 0; i < kFlows; ++i) CHECK(values[i] == 0 || values[i] == i + 1);
        std::uint32_t value = 0;
        const std::uint32_t one = (turn * 7 + static_cast<std::uint32_t>(t)) % kFlows;
        if (table.peek(keys.at(one), now.load(), &value)) CHECK(value == one + 1);
      }
    });
  }
  std::mt19937 random(5);
  FlowTable::Gone gone;
  std::vector<std::uint8_t> exported;
  std::vector<FlowTable::Flow> flows;
  for (int round = 0; round < 120; ++round) {
    now += 3;
    const std::uint32_t first = random() % (kFlows - 100);
    table.put_many(keys.at(first), &keys.numbers[first], 100, now, nullptr, &gone);
    for (int i = 0; i < 5; ++i) {
      const std::uint32_t one = random() % kFlows;
      table.put(keys.at(one), one + 1, now, 20, 90, &gone);
    }
    std::uint32_t value = 0;
    table.erase(keys.at(random() % kFlows), &value);
    if (round % 10 == 0) table.expire(now, 1000, ~std::size_t{0}, &gone);
    if (round % 40 == 9) table.clear(&gone);
    // Time makes a leap: stamps are brought up to date beside the readers.
    if (round % 50 == 49) now += std::uint64_t{1} << 31;
    exported.clear();
    flows.clear();
    table.export_to(now, exported, flows);
    for (std::size_t i = 0; i < flows.size(); ++i) {
      std::uint32_t number = 0;
      std::memcpy(&number, &exported[i * size], 4);
      CHECK(flows[i].value == number + 1);
    }
    CHECK(table.size() <= 800);
  }
  stop = true;
  for (auto& reader : readers) reader.join();
  CHECK(!gone.empty());
}

void keep(std::size_t size, fastpath::Isa isa) {
  constexpr std::uint32_t kKept = 600;
  constexpr std::uint32_t kFlows = 2600;
  FlowTable table({size, 2000, FlowTable::kForever, FlowTable::kForever, false, 4}, isa);
  std::atomic<bool> stop{false};
  const Keys keys(kFlows, size);
  table.put_many(keys.at(0), keys.numbers.data(), kKept, 1, nullptr, nullptr);
  std::thread reader([&] {
    std::vector<std::uint32_t> values(kKept);
    while (!stop.load(std::memory_order_relaxed)) {
      CHECK(table.find_many(keys.at(0), nullptr, kKept, 1, values.data(), 0) == kKept);
      std::uint32_t value = 0;
      for (std::uint32_t i = 0; i < kKept; ++i) CHECK(table.find(keys.at(i), 1, 0, &value) && value == i + 1);
    }
  });
  // Up to 95 % of the places beside them are filled and emptied.
  for (int round = 0; round < 40; ++round) {
    for (std::uint32_t i = kKept; i < kKept + 1390; ++i)
      table.put(keys.at(i), i + 1, 1, round % 2 ? 9 : 8, 9, nullptr);
    for (std::uint32_t i = 0; i < kKept; i += 7) table.put(keys.at(i), i + 1, 1, 1000, 1000, nullptr);
    std::uint32_t value = 0;
    for (std::uint32_t i = kKept; i < kKept + 1390; ++i)
      CHECK(table.erase(keys.at(i), &value) && value == i + 1);
  }
  stop = true;
  reader.join();
  CHECK(table.evictions() == 0);
  CHECK(table.size() == kKept);
}

}  // namespace

int main() {
  for (const fastpath::Isa isa : {fastpath::Isa::scalar, fastpath::Isa::avx512}) {
    if (!fastpath::isa_supported(isa)) continue;
    for (std::size_t size : {4, 13, 16, 40}) churn(size, size == 4 || size == 40, isa);
    for (std::size_t size : {16, 40}) keep(size, isa);
  }
  return 0;
}
