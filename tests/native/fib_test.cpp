// Every kernel of this machine against a linear search, on tables small enough to search and dense enough to
// collide; also the moves of a table that outgrows its arena, leaves of all kinds of widths, nodes with
// as many children as there can be.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include "check.hpp"
#include "fastpath/addresses.hpp"
#include "fastpath/fib.hpp"

namespace {

long allocations_left = -1;  // before one fails; below 0: none does

}  // namespace

// Not inline, or the compiler warns of memory that one of them gives and std::free takes.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  void* const memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return std::malloc(size);
}
[[gnu::noinline]] void* operator new[](std::size_t size) { return operator new(size); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using fastpath::Fib;
using Route = Fib::Route;

struct Found {
  std::uint32_t value = 0;
  std::uint8_t length = 0;
};

Found search(const std::vector<Route>& routes, int family, const std::uint8_t* address) {
  const unsigned width = family == 4 ? 32 : 128;
  Found best;
  bool any = false;
  for (const Route& route : routes) {
    if (route.family != family || (any && route.length < best.length)) continue;
    std::uint8_t masked[16];
    std::memcpy(masked, address, 16);
    fastpath::mask_host_bits(masked, width, route.length);
    if (std::memcmp(masked, route.address, width / 8) != 0) continue;
    best = {route.value, route.length};
    any = true;
  }
  return best;
}

void check_all(const Fib& fib, const std::vector<Route>& routes, std::mt19937& random) {
  constexpr std::size_t kAsked = 600;
  std::vector<std::uint32_t> four(kAsked), answers(kAsked);
  std::vector<std::uint8_t> bytes(16 * kAsked), lengths(kAsked);
  std::vector<Found> expected4(kAsked), expected6(kAsked);
  for (std::size_t i = 0; i < kAsked; ++i) {
    std::uint8_t* const address = &bytes[16 * i];
    if (!routes.empty() && random() % 4 != 0) {
      std::memcpy(address, routes[random() % routes.size()].address, 16);
      address[random() % 16] ^= static_cast<std::uint8_t>(1u << (random() % 8));
    } else {
      for (std::size_t k = 0; k < 16; ++k) address[k] = static_cast<std::uint8_t>(random() % 3);
    }
    four[i] = std::uint32_t{address[0]} << 24 | std::uint32_t{address[1]} << 16 |
              std::uint32_t{address[2]} << 8 | address[3];
    expected4[i] = search(routes, 4, address);
    expected6[i] = search(routes, 6, address);
  }
  for (const fastpath::fib::NamedKernels& named : fastpath::fib::kKernelsByName) {
    const fastpath::fib::Kernels* const kernels = fastpath::fib::kernels_named(named.name);
    if (kernels == nullptr) continue;
    const std::size_t first = random() % 5;
    const std::size_t n = kAsked - first;
    const std::uint8_t* const six = &bytes[16 * first];
    const auto check = [&](const std::vector<Found>& expected, bool with_lengths) {
      for (std::size_t i = 0; i < n; ++i) {
        CHECK(answers[i] == expected[first + i].value);
        CHECK(!with_lengths || lengths[i] == expected[first + i].length);
      }
    };
    fib.lookup_many4(*kernels, &four[first], answers.data(), n, 0);
    check(expected4, false);
    fib.match_many4(*kernels, &four[first], answers.data(), lengths.data(), n, 0);
    check(expected4, true);
    fib.lookup_many6(*kernels, six, answers.data(), n, 0);
    check(expected6, false);
    fib.match_many6(*kernels, six, answers.data(), lengths.data(), n, 0);
    check(expected6, true);
  }
}

// IPv4 addresses close to each other, which kernels may take together: in order, and in disorder.
void check_close(const Fib& fib, const std::vector<Route>& routes, std::mt19937& random) {
  constexpr std::size_t kAsked = 384;
  for (const std::uint32_t step : {1u, 17u, 61u, 64u, 255u}) {
    std::vector<std::uint32_t> asked(kAsked), answers(kAsked), expected(kAsked);
    const std::uint32_t first = random() % 3 << 24 | random() % 3 << 16 | random() % 0x10000;
    for (std::size_t i = 0; i < kAsked; ++i) {
      asked[i] = first + step * static_cast<std::uint32_t>(i);
    }
    if (random() % 2 == 0) std::shuffle(asked.begin() + 1, asked.end(), random);
    for (std::size_t i = 0; i < kAsked; ++i) {
      std::uint8_t address[16] = {};
      for (unsigned k = 0; k < 4; ++k) address[k] = static_cast<std::uint8_t>(asked[i] >> (24 - 8 * k));
      expected[i] = search(routes, 4, address).value;
    }
    for (const fastpath::fib::NamedKernels& named : fastpath::fib::kKernelsByName) {
      const fastpath::fib::Kernels* const kernels = fastpath::fib::kernels_named(named.name);
      if (kernels == nullptr) continue;
      fib.lookup_many4(*kernels, asked.data(), answers.data(), kAsked, 0);
      CHECK(answers == expected);
    }
  }
}

// Nodes whose slots all have children, which come and go in any order.
void check_children(std::mt19937& random) {
  struct Kind {
    std::uint8_t family;
    std::size_t at;  // the byte that tells the slot
    std::uint8_t length;
  };
  for (const std::uint32_t greatest : {200u, 700u, 30000u, 60000u, 70000u}) {
    for (const Kind kind :
         {Kind{4, 2, 26}, Kind{6, 3, 40}, Kind{6, 4, 48}, Kind{6, 5, 56}, Kind{6, 14, 128}}) {
      std::vector<Route> routes(256);
      for (std::size_t i = 0; i < routes.size(); ++i) {
        routes[i] = {{1}, 1 + static_cast<std::uint32_t>(random() % greatest), kind.length, kind.family};
        routes[i].address[kind.at] = static_cast<std::uint8_t>(i);
      }
      routes.push_back({{1}, greatest, static_cast<std::uint8_t>(8 * kind.at + 1), kind.family});
      std::shuffle(routes.begin(), routes.end(), random);
      Fib fib;
      fib.insert_many(routes);
      const std::vector<Route> all = routes;
      for (int round = 0; round < 2; ++round) {
        while (!routes.empty()) {
          const Route gone = routes.back();
          routes.pop_back();
          CHECK(fib.erase(gone.family, gone.address, gone.length));
          CHECK(!fib.get(gone.family, gone.address, gone.length));
          if (routes.size() % 32 == 0) check_all(fib, routes, random);
          fib.collect();
        }
        CHECK(fib.size(kind.family) == 0);
        if (round == 1) break;
        for (const Route& route : all) {
          CHECK(fib.insert(route.family, route.address, route.length, route.value));
          routes.push_back(route);
          if (routes.size() % 64 == 0) check_all(fib, routes, random);
          CHECK(fib.get(route.family, route.address, route.length) == route.value);
        }
        std::shuffle(routes.begin(), routes.end(), random);
      }
    }
  }
}

// A reader that sleeps under its guard leaves much to free at once; the nodes must not move each time.
void check_moves(std::mt19937& random) {
  Fib fib;
  std::vector<Route> routes(240000);
  for (std::size_t i = 0; i < routes.size(); ++i) {
    const auto high = static_cast<std::uint8_t>(10 + (i >> 16));
    routes[i] = {{high, static_cast<std::uint8_t>(i >> 8), static_cast<std::uint8_t>(i)}, 1, 24, 4};
  }
  fib.insert_many(routes);
  std::size_t moves = 0;
  const std::uint8_t* arena = fib.view().arena;
  for (int round = 0; round < 40; ++round) {
    {
      const fastpath::EpochDomain::Guard guard(fib.epochs());
      for (int i = 0; i < 200; ++i) {
        const Route& route = routes[random() % routes.size()];
        fib.insert(4, route.address, 24, 1 + static_cast<std::uint32_t>(random() % 60000));
        if (i % 64 == 0) fib.collect();
      }
    }
    fib.collect();
    moves += fib.view().arena != arena;
    arena = fib.view().arena;
  }
  CHECK(moves <= 40 / 2);
}

// Prefixes that go and come back: what one node leaves free, others must find, or the nodes would move.
void check_churn(std::mt19937& random) {
  Fib fib;
  std::vector<Route> routes(120000);
  for (Route& route : routes) {
    const auto length = static_cast<std::uint8_t>(18 + random() % 7);
    route = {{10}, 1, length, 4};
    for (int i = 0; i < 3; ++i) route.address[i + 1] = static_cast<std::uint8_t>(random());
    fastpath::mask_host_bits(route.address, 32, route.length);
  }
  fib.insert_many(routes);
  std::size_t moves = 0;
  const std::uint8_t* arena = fib.view().arena;
  for (int i = 0; i < 150000; ++i) {
    const Route& route = routes[random() % routes.size()];
    if (fib.erase(4, route.address, route.length))
      fib.insert(4, route.address, route.length, 1 + static_cast<std::uint32_t>(random() % 60000));
    if (i % 32 == 0) fib.collect();
    moves += fib.view().arena != arena;
    arena = fib.view().arena;
  }
  CHECK(moves <= 2);  // about 800, if free pieces do not join
}

// A node of many intervals that tell their codes, whose last ones are listed from then on.
void check_told(std::mt19937& random) {
  for (const std::uint8_t length : {22, 23}) {
    const unsigned last = 256 - (1u << (24 - length));
    std::vector<Route> routes;
    for (unsigned slot = 0; slot < last; ++slot)
      routes.push_back({{1, 1, static_cast<std::uint8_t>(slot)}, 1 + slot % 50, 24, 4});
    routes.push_back({{1, 1, static_cast<std::uint8_t>(last)}, 7, length, 4});
    Fib fib;
    fib.insert_many(routes);
    CHECK(fib.view().packed());
    routes.push_back({{1, 1, static_cast<std::uint8_t>(last + 1), 1}, 9, 32, 4});
    CHECK(fib.insert(4, routes.back().address, 32, 9));
    check_all(fib, routes, random);
  }
}

// The greatest integers as values, of prefixes that come to another family's: what is reserved is none of
// them.
void check_greatest(std::mt19937& random) {
  for (const std::uint32_t below : {2u, 257u, 300u, 512u, 513u}) {
    Fib fib;
    std::vector<Route> routes = {{{1}, 1, 8, 4}};
    fib.insert_many(routes);
    std::vector<Route> others;
    for (unsigned i = 0; i < 100; ++i)
      others.push_back(
          {{1, 2, 0, 0, static_cast<std::uint8_t>(i)}, i % 2 == 0 ? 0xFFFFFFFFu : 0u - below, 40, 6});
    fib.insert_many(others);
    routes.insert(routes.end(), others.begin(), others.end());
    check_all(fib, routes, random);
  }
}

// A value that makes all be built anew, while memory runs out anywhere on the way.
void check_out_of_memory(std::mt19937& random) {
  for (long at = 0;; ++at) {
    std::vector<Route> routes;
    for (unsigned i = 0; i < 200; ++i) {
      const auto byte = static_cast<std::uint8_t>(i);
      routes.push_back({{1, byte, 1}, 1 + i % 100, 24, 4});
      routes.push_back({{2, 1, byte, 0, 7}, 1 + i % 100, 40, 6});
      routes.push_back({{3, byte}, 1 + i % 100, 20, 6});
    }
    Fib fib;
    fib.insert_many(routes);
    const Route fresh{{1, 0, 2}, 300, 24, 4};
    bool failed = false;
    allocations_left = at;
    try {
      fib.insert(4, fresh.address, fresh.length, fresh.value);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    allocations_left = -1;
    if (failed) check_all(fib, routes, random);
    CHECK(fib.size(4) + fib.size(6) == routes.size() + (failed ? 0 : 1));
    CHECK(fib.insert(4, fresh.address, fresh.length, fresh.value) == failed);
    routes.push_back(fresh);
    check_all(fib, routes, random);
    if (!failed) break;
  }
}

// A family that comes to another one, while memory runs out anywhere on the way.
void check_family_out_of_memory(std::mt19937& random) {
  for (long at = 0;; ++at) {
    std::vector<Route> routes;
    std::vector<Route> others;
    for (unsigned i = 0; i < 100; ++i) {
      const auto byte = static_cast<std::uint8_t>(i);
      routes.push_back({{1, byte, 1}, 1 + i % 50, 24, 4});
      others.push_back({{2, byte, 1, 0, 7}, 1 + i % 50, 40, 6});
    }
    Fib fib;
    fib.insert_many(routes);
    bool failed = false;
    allocations_left = at;
    try {
      fib.insert_many(others);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    allocations_left = -1;
    if (!failed) routes.insert(routes.end(), others.begin(), others.end());
    CHECK(fib.size(4) + fib.size(6) == routes.size());
    routes.push_back({{1, 0, 2}, 40, 24, 4});
    CHECK(fib.insert(4, routes.back().address, 24, 40));
    check_all(fib, routes, random);
    if (!failed) break;
  }
}

// Units that no reference reaches are not given out.
void check_reach() {
  const fastpath::fib::Arena arena(std::size_t{1} << 36);
  CHECK(arena.reserved() <= fastpath::fib::kMostUnits * fastpath::fib::kUnit);
}

}  // namespace

int main() {
  std::mt19937 random(11);
  for (const std::uint32_t greatest : {200u, 500u, 5000u, 0x7E00u, 0xFFFDu, 0xFFFFFFFFu}) {
    Fib fib(1);
    fib.clear();  // an empty table that was built has the narrowest leaves
    std::vector<Route> routes;
    for (int step = 0; step < 900; ++step) {
      if (!routes.empty() && random() % 3 == 0) {
        const std::size_t i = random() % routes.size();
        CHECK(fib.erase(routes[i].family, routes[i].address, routes[i].length));
        routes[i] = routes.back();
        routes.pop_back();
      } else {
        Route route{};
        route.family = random() % 2 == 0 ? 4 : 6;
        const unsigned width = route.family == 4 ? 32 : 128;
        route.length = static_cast<std::uint8_t>(random() % 3 == 0 ? random() % (width + 1)
                                                                   : width / 4 + random() % (width / 4));
        for (unsigned i = 0; i < width / 8; ++i) route.address[i] = static_cast<std::uint8_t>(random() % 3);
        fastpath::mask_host_bits(route.address, width, route.length);
        route.value = 1 + static_cast<std::uint32_t>(random() % greatest);
        if (random() % 16 == 0) route.value = greatest - static_cast<std::uint32_t>(random() % 3);
        const bool known = fib.get(route.family, route.address, route.length).has_value();
        CHECK(fib.insert(route.family, route.address, route.length, route.value) == !known);
        for (std::size_t i = 0; known && i < routes.size(); ++i) {
          if (routes[i].family == route.family && routes[i].length == route.length &&
              std::memcmp(routes[i].address, route.address, 16) == 0) {
            routes[i] = routes.back();
            routes.pop_back();
          }
        }
        routes.push_back(route);
      }
      fib.collect();
      if (step % 60 == 0) {
        check_all(fib, routes, random);
        check_close(fib, routes, random);
      }
    }
    CHECK(fib.size(4) + fib.size(6) == routes.size());
    Fib bulk(1);
    bulk.insert_many(routes);
    check_all(bulk, routes, random);
    fib.clear();
    check_all(fib, {}, random);
  }
  check_children(random);
  check_moves(random);
  check_churn(random);
  check_told(random);
  check_greatest(random);
  check_out_of_memory(random);
  check_family_out_of_memory(random);
  check_reach();
  return 0;
}
