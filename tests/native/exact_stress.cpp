// Readers beside a writer that inserts, replaces, deletes, displaces, grows and at last clears: a key that
// stays is always found until then, a value always belongs to its key, and a key that was never there is
// never found.
#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fastpath/exact_table.hpp"

namespace {

using fastpath::ExactTable;
using fastpath::Isa;

// The key of a number; short keys hold its low bytes.
void make_key(std::uint32_t number, std::uint8_t* key, std::size_t size) {
  std::memset(key, static_cast<int>(number % 251), size);
  std::memcpy(key, &number, std::min<std::size_t>(size, 4));
  if (size >= 8) std::memcpy(key + size - 4, &number, 4);
}

// A value names its key and a turn.
std::uint32_t value_of(std::uint32_t number, std::uint32_t turn) { return number << 8 | (turn & 0xFF); }

void run(std::size_t size, Isa isa) {
  constexpr std::uint32_t kStay = 300;
  constexpr std::uint32_t kChurn = 3000;
  constexpr std::uint32_t kNever = 400;
  constexpr std::uint32_t kFar = 100'000;
  auto table = ExactTable::make(size, 0, 42, isa);
  std::uint8_t key[64];
  std::uint32_t previous = 0;
  for (std::uint32_t i = 0; i < kStay; ++i) {
    make_key(i, key, size);
    table->put(key, value_of(i, 0), &previous);
  }
  std::atomic<bool> stop{false};
  std::atomic<bool> cleared{false};
  std::atomic<bool> far{false};  // all numbers may be there
  const auto check = [&cleared, &far](std::uint32_t number, bool hit, std::uint32_t value) {
    if (number < kStay && !cleared) CHECK(hit);
    if (number >= kStay + kChurn && !far) CHECK(!hit);
    if (hit) CHECK(value >> 8 == number);
  };
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&, t] {
      constexpr std::size_t kBatch = 200;
      std::mt19937 random(static_cast<unsigned>(t));
      std::vector<std::uint8_t> keys(kBatch * size);
      std::vector<std::uint32_t> numbers(kBatch), values(kBatch);
      std::vector<std::uint64_t> hits(kBatch / 64 + 1);
      while (!stop.load(std::memory_order_relaxed)) {
        for (std::size_t i = 0; i < kBatch; ++i) {
          numbers[i] = random() % (kStay + kChurn + kNever);
          make_key(numbers[i], keys.data() + i * size, size);
        }
        table->find_many(keys.data(), kBatch, values.data(), 0, hits.data());
        for (std::size_t i = 0; i < kBatch; ++i) check(numbers[i], hits[i / 64] >> i % 64 & 1, values[i]);
        const fastpath::EpochDomain::Guard guard(table->epochs());
        for (std::size_t i = 0; i < kBatch; ++i) {
          std::uint32_t value = 0;
          const bool found = table->find(keys.data() + i * size, &value);
          check(numbers[i], found, value);
        }
      }
    });
  }
  std::mt19937 random(7);
  for (std::uint32_t round = 0; round < 3; ++round) {
    for (std::uint32_t n = 0; n < 6000; ++n) {
      const std::uint32_t number = random() % (kStay + kChurn);
      make_key(number, key, size);
      if (number >= kStay && random() % 2 == 0) {
        table->erase(key, &previous);
      } else {
        table->put(key, value_of(number, n), &previous);
      }
      if (n % 64 == 0) table->reclaim();
    }
    for (std::uint32_t number = kStay; number < kStay + kChurn; ++number) {
      make_key(number, key, size);
      table->erase(key, &previous);
    }
    CHECK(table->size() == kStay);
  }
  cleared = true;
  for (std::uint32_t round = 0; round < 20; ++round) {
    table->clear();
    CHECK(table->size() == 0);
    const std::uint32_t there = random() % (kStay + kChurn);
    for (std::uint32_t number = 0; number < there; ++number) {
      make_key(number, key, size);
      table->put(key, value_of(number, round), &previous);
      if (number % 64 == 0) table->reclaim();
    }
    CHECK(table->size() == there);
  }
  // Arrays and records whose memory another thread makes ready meanwhile.
  if (isa == Isa::scalar && size >= 16) {
    far = true;
    for (std::uint32_t number = 0; number < kFar; ++number) {
      make_key(number, key, size);
      table->put(key, value_of(number, 0), &previous);
      if (number % 64 == 0) table->reclaim();
    }
    for (std::uint32_t number = 0; number < kFar; number += 7) {
      make_key(number, key, size);
      CHECK(table->find(key, &previous) && previous == value_of(number, 0));
    }
  }
  stop = true;
  for (auto& reader : readers) reader.join();
}

}  // namespace

int main() {
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (!fastpath::isa_supported(isa)) continue;
    for (std::size_t size : {4, 8, 16, 24, 40}) run(size, isa);
  }
  return 0;
}
