// Readers that refresh beside a writer that inserts beyond capacity, moves, evicts and expires: a value
// always belongs to its flow, and a flow that readers keep busy is never lost.
#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fastpath/flow_table.hpp"

namespace {

void run(std::size_t size) {
  constexpr std::uint32_t kFlows = 3000;
  fastpath::FlowTable table({size, 800, 50, fastpath::FlowTable::kForever, true, 9});
  std::atomic<std::uint32_t> now{1};
  std::atomic<bool> stop{false};
  std::vector<std::uint8_t> keys(kFlows * size);
  std::vector<std::uint32_t> numbers(kFlows);
  for (std::uint32_t i = 0; i < kFlows; ++i) {
    std::memset(&keys[i * size], static_cast<int>(i % 250), size);
    std::memcpy(&keys[i * size], &i, 4);
    numbers[i] = i + 1;
  }
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      std::vector<std::uint32_t> values(kFlows);
      while (!stop.load(std::memory_order_relaxed)) {
        table.find_many(keys.data(), numbers.data(), kFlows, now.load(), values.data(), 0);
        for (std::uint32_t i = 0; i < kFlows; ++i) CHECK(values[i] == 0 || values[i] == i + 1);
      }
    });
  }
  std::mt19937 random(5);
  std::vector<std::uint32_t> gone;
  for (int round = 0; round < 150; ++round) {
    now += 3;
    const std::uint32_t first = random() % (kFlows - 100);
    table.put_many(&keys[first * size], &numbers[first], 100, now, nullptr, &gone);
    const std::uint32_t one = random() % kFlows;
    table.put(&keys[one * size], one + 1, now, 20, 90, &gone);
    std::uint32_t value = 0;
    table.erase(&keys[(random() % kFlows) * size], &value);
    if (round % 10 == 0) table.expire(now, 1000, &gone);
    CHECK(table.size() <= 800);
  }
  stop = true;
  for (auto& reader : readers) reader.join();
  CHECK(!gone.empty());
}

}  // namespace

int main() {
  for (std::size_t size : {4, 13, 40}) run(size);
  return 0;
}
