// Memory that runs out: each allocation of each operation fails in turn, and the table must be what it was,
// or, where a free may wait, what it became.
//
// sources: core/fib*.cpp core/kernels/fib_*.cpp
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "check.hpp"
#include "fastpath/fib.hpp"
#include "fib_routes.hpp"

namespace {

long allocations_left = -1;  // until one fails; below 0: none does

void* allocate(std::size_t size) {
  if (allocations_left > 0 && --allocations_left == 0) throw std::bad_alloc();
  if (void* const memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return std::malloc(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using fastpath::Fib;
using Route = Fib::Route;

constexpr std::size_t kPrefixes = 900;
constexpr int kSteps = 700;

// Many of few pages and nodes, so that pages and leaves of any kind come and go.
std::vector<Route> universe(std::mt19937& random) {
  return distinct_routes(
      kPrefixes, [&] { return random() % 4 == 0 ? 4 : 6; },
      [&](Route& route, unsigned width) {
        const unsigned most = random() % 3 == 0 ? width : width / 4 + 24;
        route.length = static_cast<std::uint8_t>(random() % (most + 1));
        for (unsigned i = 0; i < width / 8; ++i) route.address[i] = static_cast<std::uint8_t>(random() % 3);
        route.address[1] = static_cast<std::uint8_t>(random() % 100);
      });
}

class Tried {
 public:
  explicit Tried(std::mt19937& random) : random_(random), routes_(universe(random)), there_(kPrefixes) {}

  // Calls it with its first allocation failing, then its second, until none does.
  template <typename Call>
  void until_it_works(Call&& call) {
    for (long fails = 1;; ++fails) {
      allocations_left = fails;
      bool failed = false;
      try {
        call();
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      allocations_left = -1;
      if (!failed) return;
      ++failures_;
      check();
    }
  }

  void step() {
    const std::size_t i = random_() % kPrefixes;
    const Route& route = routes_[i];
    const unsigned kind = random_() % 100;
    if (kind < 40) {
      bool added = false;
      until_it_works([&] { added = fib_.insert(route.family, route.address, route.length, route.value); });
      CHECK(added == !there_[i]);
      there_[i] = true;
    } else if (kind < 90) {
      bool removed = false;
      until_it_works([&] { removed = fib_.erase(route.family, route.address, route.length); });
      CHECK(removed == there_[i]);
      there_[i] = false;
    } else if (kind < 95) {
      until_it_works([&] { fib_.collect(); });
    } else if (kind == 95) {
      {
        // Much waits for a reader, and becomes free at once.
        const fastpath::EpochDomain::Guard guard(fib_.epochs());
        for (std::size_t k = 0; k < kPrefixes; ++k) {
          if (!there_[k] || random_() % 4 == 0) continue;
          CHECK(fib_.erase(routes_[k].family, routes_[k].address, routes_[k].length));
          there_[k] = false;
        }
      }
      until_it_works([&] { fib_.collect(); });
    } else if (kind == 96) {
      std::unique_ptr<Fib> snapshot;
      until_it_works([&] { snapshot = fib_.snapshot(); });
      kept_ = std::move(snapshot);
    } else if (kind == 97) {
      until_it_works([&] { fib_.insert_many(routes_); });
      std::fill(there_.begin(), there_.end(), true);
    } else if (kind == 98) {
      // One family comes in bulk beside the other.
      std::vector<Route> six;
      for (std::size_t k = 0; k < kPrefixes; ++k) {
        if (routes_[k].family != 6) continue;
        if (there_[k]) CHECK(fib_.erase(6, routes_[k].address, routes_[k].length));
        there_[k] = false;
        six.push_back(routes_[k]);
      }
      until_it_works([&] { fib_.insert_many(six); });
      for (std::size_t k = 0; k < kPrefixes; ++k) there_[k] = there_[k] || routes_[k].family == 6;
    } else {
      until_it_works([&] { fib_.begin(); });
      const std::vector<bool> before = there_;
      for (std::size_t k = 0; k < 60; ++k) {
        const std::size_t one = random_() % kPrefixes;
        const Route& changed = routes_[one];
        if (there_[one]) {
          until_it_works([&] { CHECK(fib_.erase(changed.family, changed.address, changed.length)); });
        } else {
          until_it_works(
              [&] { CHECK(fib_.insert(changed.family, changed.address, changed.length, changed.value)); });
        }
        there_[one] = !there_[one];
      }
      // Neither end may fail.
      allocations_left = 1;
      if (random_() % 2 == 0) {
        fib_.rollback();
        there_ = before;
      } else {
        fib_.commit();
      }
      allocations_left = -1;
    }
    check();
  }

  long failures() const { return failures_; }

 private:
  // Some prefixes as the table has them, and the answers for some addresses.
  void check() {
    CHECK(fib_.size(4) + fib_.size(6) ==
          static_cast<std::size_t>(std::count(there_.begin(), there_.end(), true)));
    for (int k = 0; k < 8; ++k) {
      const std::size_t i = random_() % kPrefixes;
      const Route& route = routes_[i];
      const auto value = fib_.get(route.family, route.address, route.length);
      CHECK(value.has_value() == there_[i]);
      if (fib_.before() != nullptr) continue;
      std::uint8_t address[16];
      std::memcpy(address, route.address, 16);
      if (random_() % 2 == 0) address[random_() % 16] ^= 1;
      CHECK(answer(route.family, address) == expected(route.family, address));
    }
  }
  std::uint32_t answer(int family, const std::uint8_t* address) const {
    const fastpath::fib::Kernels& kernels = *fastpath::fib::kernels_named("scalar");
    std::uint32_t found = 0;
    if (family == 6) {
      fib_.lookup_many6(kernels, address, &found, 1, 0);
    } else {
      std::uint32_t word = 0;
      std::memcpy(&word, address, 4);
      word = __builtin_bswap32(word);
      fib_.lookup_many4(kernels, &word, &found, 1, 0);
    }
    return found;
  }
  std::uint32_t expected(int family, const std::uint8_t* address) const {
    Route host{};
    host.length = family == 4 ? 32 : 128;
    std::memcpy(host.address, address, 16);
    const Route* best = nullptr;
    for (std::size_t i = 0; i < kPrefixes; ++i) {
      const Route& route = routes_[i];
      if (!there_[i] || route.family != family || !route.contains(host)) continue;
      if (best == nullptr || route.length > best->length) best = &route;
    }
    return best == nullptr ? 0 : best->value;
  }

  std::mt19937& random_;
  const std::vector<Route> routes_;
  std::vector<bool> there_;
  Fib fib_{std::size_t{1} << 16};  // small, so that it moves while it grows
  std::unique_ptr<Fib> kept_;
  long failures_ = 0;
};

}  // namespace

int main() {
  for (unsigned seed = 1; seed <= 2; ++seed) {
    std::mt19937 random(seed);
    Tried tried(random);
    for (int step = 0; step < kSteps; ++step) tried.step();
    CHECK(tried.failures() > 100);
  }
  return 0;
}
