// Every key size, with and without counters, in batches of every length, in a crowded table: each instruction
// set answers as a map does, and reads and writes nothing outside.
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "check.hpp"
#include "fastpath/flow_table.hpp"

namespace {

using fastpath::FlowTable;
using fastpath::Isa;
using Bytes = std::vector<std::uint8_t>;

// Keys in a block of exactly their size, so that a read behind the last one is seen.
Bytes joined(const std::vector<Bytes>& keys, std::size_t begin, std::size_t n) {
  Bytes all;
  for (std::size_t i = begin; i < begin + n; ++i) all.insert(all.end(), keys[i].begin(), keys[i].end());
  all.shrink_to_fit();
  return all;
}

void against_a_map(std::size_t size, bool counts, Isa isa) {
  constexpr std::size_t kCapacity = 400;
  FlowTable table({size, kCapacity, FlowTable::kForever, FlowTable::kForever, counts, size}, isa);
  std::mt19937 random(static_cast<unsigned>(size));
  std::map<Bytes, std::uint32_t> twin;
  std::vector<Bytes> keys;
  for (std::size_t i = 0; i < 500; ++i) {
    Bytes key(size);
    for (auto& byte : key) byte = static_cast<std::uint8_t>(random() % (size == 1 ? 256 : 16));
    keys.push_back(key);
  }
  std::vector<std::uint32_t> values(keys.size());
  for (auto& value : values) value = static_cast<std::uint32_t>(random()) | 1;
  for (int round = 0; round < 60; ++round) {
    const std::size_t begin = random() % keys.size();
    const std::size_t n = random() % (keys.size() - begin + 1);
    for (std::size_t i = begin; i < begin + n && twin.size() + (begin + n - i) <= kCapacity; ++i) {
      std::uint32_t value = 0;
      const bool removes = random() % 4 == 0;
      if (removes) {
        CHECK(table.erase(keys[i].data(), &value) == (twin.count(keys[i]) != 0));
        CHECK(twin.erase(keys[i]) == 0 || value != 0);
      } else {
        const FlowTable::Put put = table.put(keys[i].data(), values[i], 1, FlowTable::kDefault,
                                             round % 2 ? 5000u : FlowTable::kDefault, nullptr);
        CHECK(put.added == (twin.count(keys[i]) == 0));
        CHECK(put.added || put.previous == twin[keys[i]]);
        twin[keys[i]] = values[i];
      }
    }
    CHECK(table.size() == twin.size());
    const std::size_t from = random() % keys.size();
    const std::size_t asked = std::min(keys.size() - from, static_cast<std::size_t>(random() % 140));
    const Bytes block = joined(keys, from, asked);
    const std::vector<std::uint32_t> sizes(asked, 60);
    std::vector<std::uint32_t> found(asked);
    std::size_t hits = 0;
    CHECK(table.find_many(block.data(), round % 3 ? sizes.data() : nullptr, asked, 2, found.data(), 0) <=
          asked);
    for (std::size_t i = 0; i < asked; ++i) {
      const auto at = twin.find(keys[from + i]);
      CHECK(found[i] == (at == twin.end() ? 0 : at->second));
      hits += found[i] != 0;
    }
    CHECK(table.find_many(block.data(), nullptr, asked, 2, found.data(), 0) == hits);
  }
  CHECK(table.evictions() == 0);
  Bytes exported;
  std::vector<FlowTable::Flow> flows;
  table.export_to(2, exported, flows);
  CHECK(flows.size() == twin.size());
  for (std::size_t i = 0; i < flows.size(); ++i) {
    const Bytes key(exported.begin() + static_cast<long>(i * size),
                    exported.begin() + static_cast<long>((i + 1) * size));
    CHECK(twin.at(key) == flows[i].value);
  }
  FlowTable::Gone gone;
  table.clear(&gone);
  CHECK(gone.size() == twin.size() && table.size() == 0);
}

// A table never holds more than its capacity, whatever that is, and the newest flow is always there.
void overfull(std::size_t capacity, Isa isa) {
  FlowTable table({8, capacity, 1000, FlowTable::kForever, false, 3}, isa);
  for (std::uint64_t i = 0; i < 5 * capacity + 200; ++i) {
    Bytes key(8);
    std::memcpy(key.data(), &i, 8);
    table.put(key.data(), static_cast<std::uint32_t>(i), 1, FlowTable::kDefault, FlowTable::kDefault,
              nullptr);
    std::uint32_t value = 0;
    CHECK(table.find(key.data(), 1, 0, &value) && value == i);
    CHECK(table.size() <= capacity);
  }
  CHECK(table.size() == capacity);
  CHECK(table.evictions() == 4 * capacity + 200);
}

}  // namespace

int main() {
  for (const Isa isa : {Isa::scalar, Isa::avx512}) {
    if (!fastpath::isa_supported(isa)) continue;
    for (std::size_t size = 1; size <= 64; ++size) against_a_map(size, size % 3 == 0, isa);
    for (std::size_t capacity : {1, 2, 3, 6, 7, 8, 13, 14, 50, 1000}) overfull(capacity, isa);
  }
  return 0;
}
