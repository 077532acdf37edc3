// Readers of both families, one address at a time and in batches, beside a writer that inserts, deletes,
// changes values, opens transactions, takes snapshots and rebuilds: every answer must be a prefix that
// contains the address, with that prefix's length.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fastpath/addresses.hpp"
#include "fastpath/fib.hpp"
#include "fib_routes.hpp"

namespace {

using fastpath::Fib;
using Route = Fib::Route;

constexpr std::size_t kPrefixes = 1500;
constexpr std::size_t kBatch = 300;
constexpr std::uint32_t kScales[] = {1, 50};
// Of the second byte of IPv6 addresses: prefixes lie in many pages.
constexpr unsigned kSecond = 48;

// The value of a prefix is its place in this list plus one, or that and kPrefixes times `scale` or twice
// that: with the greater scale leaves have 32 bits, with the other one 13 to 16.
std::vector<Route> universe(std::mt19937& random) {
  return distinct_routes(
      kPrefixes, [&] { return random() % 2 == 0 ? 4 : 6; },
      [&](Route& route, unsigned width) {
        route.length =
            static_cast<std::uint8_t>(random() % 4 == 0 ? random() % (width + 1) : width / 2 + random() % 17);
        for (unsigned i = 0; i < width / 8; ++i) route.address[i] = static_cast<std::uint8_t>(random() % 3);
        if (route.family == 6) route.address[1] = static_cast<std::uint8_t>(random() % kSecond);
      });
}

std::size_t place_of(std::uint32_t value) { return (value - 1) % kPrefixes; }

bool contains(const Route& route, const std::uint8_t* address, unsigned width) {
  std::uint8_t masked[16];
  std::memcpy(masked, address, 16);
  fastpath::mask_host_bits(masked, width, route.length);
  return std::memcmp(masked, route.address, width / 8) == 0;
}

void read(const Fib& fib, const fastpath::fib::Kernels& kernels, const std::vector<Route>& routes,
          const std::atomic<bool>& stop, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::uint32_t> four(kBatch), answers(kBatch);
  std::vector<std::uint8_t> six(16 * kBatch), lengths(kBatch);
  const auto check = [&](std::uint32_t value, const std::uint8_t* address, int family, int length) {
    if (value == 0) return;
    CHECK(value <= (2 * kScales[1] + 1) * kPrefixes);
    const Route& route = routes[place_of(value)];
    CHECK(route.family == family);
    CHECK(contains(route, address, family == 4 ? 32 : 128));
    CHECK(length < 0 || length == route.length);
  };
  while (!stop.load(std::memory_order_relaxed)) {
    for (std::size_t i = 0; i < kBatch; ++i) {
      for (std::size_t k = 0; k < 16; ++k) six[16 * i + k] = static_cast<std::uint8_t>(random() % 3);
      four[i] = std::uint32_t{six[16 * i]} << 24 | std::uint32_t{six[16 * i + 1]} << 16 |
                std::uint32_t{six[16 * i + 2]} << 8 | six[16 * i + 3];
      six[16 * i + 1] = static_cast<std::uint8_t>(random() % kSecond);
    }
    const auto check4 = [&](std::size_t i, int length) {
      const std::uint32_t address = __builtin_bswap32(four[i]);
      std::uint8_t bytes[16] = {};
      std::memcpy(bytes, &address, 4);
      check(answers[i], bytes, 4, length);
    };
    fib.lookup_many4(kernels, four.data(), answers.data(), kBatch, 0);
    for (std::size_t i = 0; i < kBatch; ++i) check4(i, -1);
    fib.match_many4(kernels, four.data(), answers.data(), lengths.data(), kBatch, 0);
    for (std::size_t i = 0; i < kBatch; ++i) check4(i, lengths[i]);
    fib.lookup_many6(kernels, six.data(), answers.data(), kBatch, 0);
    for (std::size_t i = 0; i < kBatch; ++i) check(answers[i], &six[16 * i], 6, -1);
    fib.match_many6(kernels, six.data(), answers.data(), lengths.data(), kBatch, 0);
    for (std::size_t i = 0; i < kBatch; ++i) check(answers[i], &six[16 * i], 6, lengths[i]);
  }
}

void run(std::uint32_t scale) {
  std::mt19937 random(7);
  const std::vector<Route> routes = universe(random);
  Fib fib(1 << 16);  // small, so that it moves while it grows
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  unsigned seed = 1;
  for (const fastpath::fib::NamedKernels& named : fastpath::fib::kKernelsByName) {
    const fastpath::fib::Kernels* const kernels = fastpath::fib::kernels_named(named.name);
    if (kernels == nullptr) continue;
    readers.emplace_back([&fib, &routes, &stop, kernels, seed] { read(fib, *kernels, routes, stop, seed); });
    ++seed;
  }
  // One that waits for the writer, as the writer does for it.
  readers.emplace_back([&] {
    while (!stop) {
      const std::lock_guard lock(fib.gate());
      const Route& route = routes[fib.size(4) % routes.size()];
      const auto found = fib.get(route.family, route.address, route.length);
      CHECK(!found || place_of(*found) == place_of(route.value));
    }
  });
  std::unique_ptr<Fib> snapshot;
  std::vector<std::uint32_t> there(routes.size());  // the value, or 0
  std::vector<std::uint32_t> there_then;            // in the snapshot
  const auto holds = [&](const Fib& table, const std::vector<std::uint32_t>& values) {
    for (std::size_t i = 0; i < routes.size(); ++i) {
      CHECK(table.get(routes[i].family, routes[i].address, routes[i].length).value_or(0) == values[i]);
    }
  };
  const auto toggle = [&](std::size_t i) {
    const Route& route = routes[i];
    if (there[i] == 0 || random() % 2 == 0) {
      const std::uint32_t value = route.value + static_cast<std::uint32_t>(random() % 3 * kPrefixes) * scale;
      CHECK(fib.insert(route.family, route.address, route.length, value) == (there[i] == 0));
      there[i] = value;
    } else {
      CHECK(fib.erase(route.family, route.address, route.length));
      there[i] = 0;
    }
  };
  for (int step = 0; step < 1200; ++step) {
    const std::lock_guard lock(fib.gate());
    const unsigned kind = random() % 100;
    if (kind == 0) {
      fib.insert_many(routes);
      for (std::size_t i = 0; i < routes.size(); ++i) there[i] = routes[i].value;
    } else if (kind == 1) {
      fib.clear();
      std::fill(there.begin(), there.end(), 0);
    } else if (kind == 2) {
      if (snapshot) holds(*snapshot, there_then);
      snapshot = random() % 2 == 0 ? fib.snapshot() : nullptr;
      there_then = there;
    } else if (kind == 3) {
      // Most pages become free.
      const auto kept = static_cast<std::ptrdiff_t>(random() % 20);
      CHECK(fib.erase_many({routes.begin() + kept, routes.end()}) ==
            static_cast<std::size_t>(
                std::count_if(there.begin() + kept, there.end(), [](std::uint32_t v) { return v != 0; })));
      std::fill(there.begin() + kept, there.end(), 0);
    } else if (kind < 7) {
      const std::vector<std::uint32_t> before = there;
      fib.begin();
      for (int i = 0; i < 20; ++i) toggle(random() % routes.size());
      if (kind == 4) {
        fib.rollback();
        there = before;
      } else {
        fib.commit();
      }
    } else {
      toggle(random() % routes.size());
    }
    fib.collect();
  }
  holds(fib, there);
  stop = true;
  for (std::thread& reader : readers) reader.join();
}

}  // namespace

int main() {
  for (const std::uint32_t scale : kScales) run(scale);
  return 0;
}
