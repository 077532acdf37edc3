// Bytes as prefixes in text, and as a saved table: whatever they are, they are read or refused.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "fastpath/fib.hpp"
#include "fastpath/fib_text.hpp"

using fastpath::Fib;

namespace {

const char kText[] =
    "10.0.0.0/8\n# comment\n 2001:db8::/32 \r\n::ffff:1.2.3.4/128\n10.1.2.3\n0.0.0.0/0\n::/0\n";

std::vector<std::uint8_t> saved() {
  Fib fib;
  std::vector<fastpath::fib::Route> routes;
  CHECK(fastpath::fib::parse_lines(kText, sizeof kText - 1, true, routes).kind ==
        fastpath::fib::TextError::none);
  // IPv6 alone: without a root for IPv4, inputs stay small enough for thousands of rounds.
  for (const auto& route : routes) {
    if (route.family == 6 && route.length <= 24) fib.insert(6, route.address, route.length, 1);
  }
  fib.clear();
  const std::string contents = fib.saved("extra");
  return {contents.begin(), contents.end()};
}

}  // namespace

std::vector<std::vector<std::uint8_t>> fuzz_seeds() {
  return {std::vector<std::uint8_t>(kText, kText + sizeof kText - 1), saved()};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<fastpath::fib::Route> routes;
  const auto error =
      fastpath::fib::parse_lines(reinterpret_cast<const char*>(data), size, size % 2 == 0, routes);
  CHECK(error.kind == fastpath::fib::TextError::none || (error.line > 0 && error.begin <= error.end));
  for (const auto& route : routes) {
    const unsigned width = route.family == 4 ? 32 : 128;
    CHECK(route.length <= width);
    CHECK(!fastpath::host_bits_set(route.address, width, route.length));
    char text[fastpath::kMaxIpv6Text];
    std::uint8_t again[16] = {};
    if (route.family == 6) {
      CHECK(fastpath::parse_ipv6(text, fastpath::format_ipv6(route.address, text), again));
      CHECK(std::memcmp(again, route.address, 16) == 0);
    }
  }

  // A copy of exactly this size, so that every byte beyond it is out of bounds.
  const std::shared_ptr<std::uint8_t> copy(
      static_cast<std::uint8_t*>(std::aligned_alloc(64, (size + 63) / 64 * 64 + 64)), std::free);
  std::memcpy(copy.get(), data, size);
  std::string_view extra;
  try {
    const std::unique_ptr<Fib> table = Fib::open(copy.get(), size, copy, extra);
    CHECK(table->size(4) + table->size(6) == 0);
    CHECK(extra == "extra");
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
