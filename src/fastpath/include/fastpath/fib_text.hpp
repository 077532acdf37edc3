// Prefixes in text, one a line.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "fastpath/addresses.hpp"
#include "fastpath/fib.hpp"

namespace fastpath::fib {

struct TextError {
  enum Kind : int { none, malformed, host_bits } kind = none;
  std::size_t line = 0;  // from 1
  const char* begin = nullptr;
  const char* end = nullptr;
};

inline bool is_blank(char c) noexcept { return c == ' ' || c == '\t' || c == '\r'; }

// Appends one route for each line, their values unset. Empty lines and lines that begin with # do not count;
// blanks around a prefix are ignored.
inline TextError parse_lines(const char* text, std::size_t size, bool strict, std::vector<Route>& routes) {
  const char* const end = text + size;
  routes.reserve(routes.size() + size / 18);
  std::size_t line = 0;
  for (const char* p = text; p != end;) {
    ++line;
    const void* const newline = std::memchr(p, '\n', static_cast<std::size_t>(end - p));
    const char* const next = newline == nullptr ? end : static_cast<const char*>(newline) + 1;
    const char* last = newline == nullptr ? end : next - 1;
    while (p != last && is_blank(*p)) ++p;
    while (p != last && is_blank(last[-1])) --last;
    if (p != last && *p != '#') {
      TextPrefix prefix = parse_prefix(p, last);
      if (prefix.family == 0) return {TextError::malformed, line, p, last};
      if (prefix.host_bits) {
        if (strict) return {TextError::host_bits, line, p, last};
        mask_host_bits(prefix.address, prefix.family == 4 ? 32 : 128, prefix.length);
      }
      Route route{};
      std::memcpy(route.address, prefix.address, 16);
      route.length = static_cast<std::uint8_t>(prefix.length);
      route.family = static_cast<std::uint8_t>(prefix.family);
      routes.push_back(route);
    }
    p = next;
  }
  return {};
}

}  // namespace fastpath::fib
