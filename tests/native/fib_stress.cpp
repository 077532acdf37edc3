// Readers of both families, one address at a time and in batches, beside a writer that inserts, deletes,
// opens transactions, takes snapshots and rebuilds: every answer must be a prefix that contains the address,
// with that prefix's length.
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

namespace {

using fastpath::Fib;
using Route = Fib::Route;

constexpr std::size_t kPrefixes = 1500;
constexpr std::size_t kBatch = 300;

// The value of a prefix is its place in this list plus one.
std::vector<Route> universe(std::mt19937& random) {
  std::vector<Route> routes;
  while (routes.size() < kPrefixes) {
    Route route{};
    route.family = random() % 2 == 0 ? 4 : 6;
    const unsigned width = route.family == 4 ? 32 : 128;
    route.length =
        static_cast<std::uint8_t>(random() % 4 == 0 ? random() % (width + 1) : width / 2 + random() % 17);
    for (unsigned i = 0; i < width / 8; ++i) route.address[i] = static_cast<std::uint8_t>(random() % 3);
    fastpath::mask_host_bits(route.address, width, route.length);
    const bool known = std::any_of(routes.begin(), routes.end(), [&](const Route& other) {
      return other.family == route.family && other.length == route.length &&
             std::memcmp(other.address, route.address, 16) == 0;
    });
    if (known) continue;
    route.value = static_cast<std::uint32_t>(routes.size() + 1);
    routes.push_back(route);
  }
  return routes;
}

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
    CHECK(value <= routes.size());
    const Route& route = routes[value - 1];
    CHECK(route.family == family);
    CHECK(contains(route, address, family == 4 ? 32 : 128));
    CHECK(length < 0 || length == route.length);
  };
  while (!stop.load(std::memory_order_relaxed)) {
    for (std::size_t i = 0; i < kBatch; ++i) {
      for (std::size_t k = 0; k < 16; ++k) six[16 * i + k] = static_cast<std::uint8_t>(random() % 3);
      four[i] = std::uint32_t{six[16 * i]} << 24 | std::uint32_t{six[16 * i + 1]} << 16 |
                std::uint32_t{six[16 * i + 2]} << 8 | six[16 * i + 3];
    }
    fib.lookup_many4(kernels, four.data(), answers.data(), kBatch, 0);
    for (std::size_t i = 0; i < kBatch; ++i) check(answers[i], &six[16 * i], 4, -1);
    fib.match_many4(kernels, four.data(), answers.data(), lengths.data(), kBatch, 0);
    for (std::size_t i = 0; i < kBatch; ++i) check(answers[i], &six[16 * i], 4, lengths[i]);
    fib.lookup_many6(kernels, six.data(), answers.data(), kBatch, 0);
    for (std::size_t i = 0; i < kBatch; ++i) check(answers[i], &six[16 * i], 6, -1);
    fib.match_many6(kernels, six.data(), answers.data(), lengths.data(), kBatch, 0);
    for (std::size_t i = 0; i < kBatch; ++i) check(answers[i], &six[16 * i], 6, lengths[i]);
  }
}

}  // namespace

int main() {
  std::mt19937 random(7);
  const std::vector<Route> routes = universe(random);
  Fib fib(1 << 16);  // small, so that it moves while it grows
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  unsigned seed = 1;
  for (const fastpath::Isa isa :
       {fastpath::Isa::scalar, fastpath::Isa::avx2, fastpath::Isa::avx512, fastpath::Isa::neon}) {
    const fastpath::fib::Kernels* const kernels = fastpath::fib::kernels_for(isa);
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
      CHECK(!found || *found == route.value);
    }
  });
  std::unique_ptr<Fib> snapshot;
  std::vector<bool> there(routes.size());
  const auto toggle = [&](std::size_t i) {
    const Route& route = routes[i];
    if (there[i]) {
      CHECK(fib.erase(route.family, route.address, route.length));
    } else {
      CHECK(fib.insert(route.family, route.address, route.length, route.value));
    }
    there[i] = !there[i];
  };
  for (int step = 0; step < 800; ++step) {
    const std::lock_guard lock(fib.gate());
    const unsigned kind = random() % 100;
    if (kind == 0) {
      fib.insert_many(routes);
      std::fill(there.begin(), there.end(), true);
    } else if (kind == 1) {
      fib.clear();
      std::fill(there.begin(), there.end(), false);
    } else if (kind == 2) {
      snapshot = random() % 2 == 0 ? fib.snapshot() : nullptr;
    } else if (kind < 6) {
      const std::vector<bool> before = there;
      fib.begin();
      for (int i = 0; i < 20; ++i) toggle(random() % routes.size());
      if (kind == 3) {
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
  for (std::size_t i = 0; i < routes.size(); ++i) {
    const auto found = fib.get(routes[i].family, routes[i].address, routes[i].length);
    CHECK(found.has_value() == there[i]);
    CHECK(!found || *found == routes[i].value);
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  return 0;
}
