// Random prefixes for tests of Fib.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fastpath/addresses.hpp"
#include "fastpath/fib.hpp"

// `n` different prefixes: `draw(route, width)` chooses the length and the address of one, whose family is
// told by `family()`. The value of each is its place plus one.
template <typename Family, typename Draw>
std::vector<fastpath::Fib::Route> distinct_routes(std::size_t n, Family&& family, Draw&& draw) {
  using Route = fastpath::Fib::Route;
  std::vector<Route> routes;
  while (routes.size() < n) {
    Route route{};
    route.family = static_cast<std::uint8_t>(family());
    const unsigned width = route.family == 4 ? 32 : 128;
    draw(route, width);
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
