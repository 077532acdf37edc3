// Random histories of inserting, replacing, deleting and clearing, held against std::unordered_map after each
// step: in the middle of growth above all.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "check.hpp"
#include "fastpath/exact_table.hpp"
#include "fastpath/prefault.hpp"

namespace {

using fastpath::ExactTable;
using fastpath::Isa;
using Twin = std::unordered_map<std::string, std::uint32_t>;

std::string key_of(std::uint32_t number, std::size_t size) {
  std::string key(size, static_cast<char>(number % 251));
  std::memcpy(key.data(), &number, std::min<std::size_t>(size, 4));
  return key;
}
const std::uint8_t* bytes(const std::string& key) {
  return reinterpret_cast<const std::uint8_t*>(key.data());
}

// Few keys a call, and keys whose halves stand in two arrays, give what one call for all gave.
void agree_in_parts(const ExactTable& table, const std::string& probes,
                    const std::vector<std::uint32_t>& expected,
                    const std::vector<std::uint64_t>& expected_hits, std::size_t size) {
  std::vector<std::uint32_t> values(expected.size(), 3);
  for (std::size_t begin = 0, n = 1; begin < values.size(); begin += n, n = n % 17 + 1) {
    const std::size_t count = std::min(n, values.size() - begin);
    std::uint64_t hits = ~std::uint64_t{0};
    std::size_t found = table.find_many(bytes(probes) + begin * size, count, &values[begin], 7, &hits);
    for (std::size_t i = 0; i < count; ++i) {
      const bool hit = expected_hits[(begin + i) / 64] >> (begin + i) % 64 & 1;
      CHECK((hits >> i & 1) == hit);
      found -= hit;
    }
    CHECK(found == 0);
  }
  CHECK(values == expected);
  if (size % 2 != 0) return;
  std::string first, second;
  for (std::size_t at = 0; at < probes.size(); at += size) {
    first += probes.substr(at, size / 2);
    second += probes.substr(at + size / 2, size / 2);
  }
  std::vector<std::uint64_t> hits(expected_hits.size());
  values.assign(expected.size(), 3);
  table.find_halves(bytes(first), bytes(second), ~std::uint64_t{0}, values.size(), values.data(), 7,
                    hits.data());
  CHECK(values == expected);
  CHECK(hits == expected_hits);
}

// The whole content, by each way of reading it.
void agree(const ExactTable& table, const Twin& twin, std::uint32_t numbers, std::size_t size) {
  CHECK(table.size() == twin.size());
  std::vector<std::uint8_t> keys;
  std::vector<std::uint32_t> values;
  table.export_to(keys, values);
  CHECK(values.size() == twin.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto found = twin.find(std::string(keys.begin() + i * size, keys.begin() + (i + 1) * size));
    CHECK(found != twin.end() && found->second == values[i]);
  }
  std::string probes;
  for (std::uint32_t number = 0; number < numbers; ++number) probes += key_of(number, size);
  values.assign(numbers, 0);
  std::vector<std::uint64_t> hits(numbers / 64 + 1);
  CHECK(table.find_many(bytes(probes), numbers, values.data(), 7, hits.data()) == twin.size());
  for (std::uint32_t number = 0; number < numbers; ++number) {
    const auto found = twin.find(key_of(number, size));
    const bool hit = hits[number / 64] >> number % 64 & 1;
    CHECK(hit == (found != twin.end()));
    CHECK(values[number] == (hit ? found->second : 7));
    std::uint32_t value = 0;
    CHECK(table.find(bytes(probes) + number * size, &value) == hit);
    CHECK(!hit || value == found->second);
  }
  agree_in_parts(table, probes, values, hits, size);
}

void run(std::size_t size, Isa isa, unsigned seed) {
  std::mt19937 random(seed);
  const std::uint32_t numbers = size == 1 ? 200 : 3000;
  auto table = ExactTable::make(size, 0, seed, isa);
  Twin twin;
  for (int phase = 0; phase < 12; ++phase) {
    const unsigned inserts = 1 + random() % 9;
    const unsigned steps = random() % 2500;
    for (unsigned step = 0; step < steps; ++step) {
      const std::string key = key_of(random() % numbers, size);
      std::uint32_t previous = 0;
      const auto before = twin.find(key);
      if (random() % 10 < inserts) {
        const std::uint32_t value = random();
        CHECK(table->put(bytes(key), value, &previous) == (before == twin.end()));
        CHECK(before == twin.end() || previous == before->second);
        twin[key] = value;
      } else {
        CHECK(table->erase(bytes(key), &previous) == (before != twin.end()));
        CHECK(before == twin.end() || previous == before->second);
        if (before != twin.end()) twin.erase(before);
      }
      CHECK(table->size() == twin.size());
      if (step % 100 == 0) table->reclaim();
    }
    agree(*table, twin, numbers, size);
    if (random() % 3 == 0) {
      table->clear();
      twin.clear();
      agree(*table, twin, numbers, size);
    }
  }
}

// More keys than a batch looks for at once, most of which are in one of two arrays.
void run_many(std::size_t size, Isa isa) {
  auto table = ExactTable::make(size, 0, 1, isa);
  Twin twin;
  std::uint32_t previous = 0;
  std::uint32_t next = 0;
  for (std::size_t before = 0; next < 5000 || table->nbytes() == before; ++next) {
    before = table->nbytes();
    CHECK(table->put(bytes(key_of(next, size)), next, &previous));
    twin[key_of(next, size)] = next;
  }
  agree(*table, twin, next + 3000, size);
}

// Clears and exports while a table grows and entries that were moved have gone, so that their records belong
// to others.
void run_growing(std::size_t size, Isa isa, unsigned seed) {
  std::mt19937 random(seed);
  auto table = ExactTable::make(size, 0, seed, isa);
  for (int round = 0; round < 40; ++round) {
    Twin twin;
    std::vector<std::string> there;
    std::uint32_t next = 0;
    std::uint32_t previous = 0;
    const auto put = [&] {
      there.push_back(key_of(next, size));
      CHECK(table->put(bytes(there.back()), next, &previous));
      twin[there.back()] = next++;
    };
    // The arrays of both sizes are counted while a table grows.
    for (unsigned growths = 1 + random() % 4; growths > 0; --growths) {
      for (const std::size_t before = table->nbytes(); table->nbytes() == before;) put();
    }
    for (unsigned step = random() % 40; step > 0; --step) {
      if (there.empty() || random() % 2 == 0) {
        put();
        continue;
      }
      std::swap(there[random() % there.size()], there.back());
      CHECK(table->erase(bytes(there.back()), &previous));
      twin.erase(there.back());
      there.pop_back();
    }
    agree(*table, twin, next, size);
    table->clear();
    agree(*table, {}, next, size);
    table->reclaim();
  }
}

// Arrays so large that a thread makes their memory ready: written, cleared and given up while it is at it.
// `numbers` keys reach an array or a chunk of records that is made ready, and do not fill it.
void run_ahead(std::size_t size, std::uint32_t numbers) {
  std::string keys;
  std::vector<std::uint32_t> expected(numbers), values(numbers);
  for (std::uint32_t number = 0; number < numbers; ++number) keys += key_of(expected[number] = number, size);
  for (int round = 0; round < 2; ++round) {
    auto table = ExactTable::make(size, 0, static_cast<unsigned>(round));
    const auto fill = [&] {
      std::uint32_t previous = 0;
      for (std::uint32_t i = 0; i < numbers; ++i) CHECK(table->put(bytes(keys) + i * size, i, &previous));
      CHECK(table->find_many(bytes(keys), numbers, values.data(), ~0u) == numbers);
      CHECK(values == expected);
    };
    fill();
    table->clear();
    CHECK(table->size() == 0);
    CHECK(table->nbytes() < std::size_t{5} << 19);  // of records, small chunks stay
    fill();
    if (round == 0) {
      CHECK(table->erase_many(bytes(keys), numbers, nullptr) == numbers);
      table->reclaim();
      fill();
    }
  }
}

void run_prefault() {
  for (const std::size_t bytes : {1u, 64u, 4095u, (2u << 20) - 1, 2u << 20, (6u << 20) + 1}) {
    fastpath::Pages pages(bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(pages.data()) % 64 == 0);
    CHECK(pages.bytes() >= bytes);
    auto* data = static_cast<std::uint8_t*>(pages.data());
    CHECK(std::all_of(data, data + pages.bytes(), [](std::uint8_t byte) { return byte == 0; }));
    fastpath::Pages moved(std::move(pages));
    CHECK(pages.data() == nullptr && moved.data() == data);
    {
      const fastpath::Prefault prefault(moved);
      for (std::size_t at = 0; at < moved.bytes(); at += 64) std::atomic_ref(data[at]).store(1);
    }
    for (std::size_t at = 0; at < moved.bytes(); ++at) CHECK(data[at] == (at % 64 == 0));
    const fastpath::Prefault prefault(moved);
    while (!prefault.done()) std::this_thread::yield();
    CHECK(data[0] == 1);
  }
  fastpath::Pages fresh(8u << 20);
  madvise(fresh.data(), fresh.bytes(), MADV_NOHUGEPAGE);  // each page has to be touched
  const auto resident = [&fresh] {
    std::vector<unsigned char> pages(fresh.bytes() / 4096);
    CHECK(mincore(fresh.data(), fresh.bytes(), pages.data()) == 0);
    return std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; });
  };
  CHECK(resident() == 0);
  {
    const fastpath::Prefault prefault(fresh);
    while (!prefault.done()) std::this_thread::yield();
    CHECK(resident() == 2048);
    // A child has no such thread, and does not wait for it.
    const auto late = std::make_unique<fastpath::Prefault>(fresh);
    if (const pid_t child = fork(); child == 0) {
      _exit(late->done() ? 0 : 1);
    } else {
      int status = 1;
      CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
  }
}

}  // namespace

int main() {
  run_prefault();
  for (const auto& [size, numbers] :
       {std::pair{4, 125'000}, {8, 80'000}, {16, 46'000}, {16, 100'000}, {40, 31'000}}) {
    run_ahead(static_cast<std::size_t>(size), static_cast<std::uint32_t>(numbers));
  }
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (!fastpath::isa_supported(isa)) continue;
    for (std::size_t size : {1, 4, 7, 8, 13, 16, 17, 32, 33, 40, 64}) {
      for (unsigned seed = 0; seed < 4; ++seed) run(size, isa, seed);
    }
    for (std::size_t size : {4, 8, 16, 40}) {
      run_growing(size, isa, static_cast<unsigned>(isa));
      run_many(size, isa);
    }
  }
  return 0;
}
