// Text <-> addresses, as strict as Python's `ipaddress`: no leading zeros in IPv4 octets, every text form of
// RFC 4291 section 2.2 for IPv6, no scope ids. Output of IPv6 follows RFC 5952 sections 4.1 to 4.3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastpath {

// Reads a decimal of 1 to `digits` digits without leading zeros, at most `limit`, at `p`; returns the end, or
// nullptr.
inline const char* parse_decimal(const char* p, const char* end, int digits, unsigned limit,
                                 unsigned& value) noexcept {
  const char* const start = p;
  unsigned v = 0;
  while (p != end && static_cast<unsigned char>(*p - '0') <= 9) {
    if (p - start == digits) return nullptr;
    v = v * 10 + static_cast<unsigned>(*p - '0');
    ++p;
  }
  if (p == start || v > limit || (*start == '0' && p - start > 1)) return nullptr;
  value = v;
  return p;
}

// The whole of [p, end) must be a dotted quad.
inline bool parse_ipv4(const char* p, const char* end, std::uint32_t& address) noexcept {
  std::uint32_t value = 0;
  for (int octet = 0; octet < 4; ++octet) {
    if (octet != 0) {
      if (p == end || *p != '.') return false;
      ++p;
    }
    unsigned v = 0;
    p = parse_decimal(p, end, 3, 255, v);
    if (p == nullptr) return false;
    value = value << 8 | v;
  }
  if (p != end) return false;
  address = value;
  return true;
}

inline int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  if (lower >= 'a' && lower <= 'f') return lower - 'a' + 10;
  return -1;
}

// The whole of [p, end) must be an IPv6 address; writes 16 bytes in network order.
inline bool parse_ipv6(const char* p, const char* end, std::uint8_t* address) noexcept {
  std::uint8_t bytes[16] = {};
  int filled = 0;  // bytes written
  int gap = -1;    // where "::" stands, in bytes
  if (end - p < 2) return false;
  if (*p == ':') {
    if (p[1] != ':') return false;
    gap = 0;
    p += 2;
  }
  while (p != end) {
    if (filled == 16) return false;
    const char* const group = p;
    unsigned v = 0;
    int digit = 0;
    while (p != end && (digit = hex_digit(*p)) >= 0) {
      if (p - group == 4) return false;
      v = v << 4 | static_cast<unsigned>(digit);
      ++p;
    }
    if (p != end && *p == '.') {
      std::uint32_t v4 = 0;
      if (filled > 12 || !parse_ipv4(group, end, v4)) return false;
      for (int shift = 24; shift >= 0; shift -= 8) bytes[filled++] = static_cast<std::uint8_t>(v4 >> shift);
      p = end;
      break;
    }
    if (p == group) return false;
    bytes[filled++] = static_cast<std::uint8_t>(v >> 8);
    bytes[filled++] = static_cast<std::uint8_t>(v);
    if (p == end) break;
    if (*p != ':') return false;
    ++p;
    if (p == end) return false;  // a single colon ends the text
    if (*p == ':') {
      if (gap >= 0) return false;
      gap = filled;
      ++p;
    }
  }
  if (gap < 0) {
    if (filled != 16) return false;
  } else {
    if (filled == 16) return false;  // "::" stands for at least one group
    const int tail = filled - gap;
    std::memmove(bytes + 16 - tail, bytes + gap, static_cast<std::size_t>(tail));
    std::memset(bytes + gap, 0, static_cast<std::size_t>(16 - filled));
  }
  std::memcpy(address, bytes, 16);
  return true;
}

// What a text names: an address or a prefix of either family.
struct TextPrefix {
  int family = 0;  // 4 or 6; 0: not valid
  unsigned length = 0;
  bool host_bits = false;  // a bit beyond `length` is set
  std::uint8_t address[16] = {};
};

inline bool host_bits_set(const std::uint8_t* address, unsigned width, unsigned length) noexcept {
  for (unsigned byte = length / 8; byte < width / 8; ++byte) {
    const unsigned kept = byte == length / 8 ? length % 8 : 0;
    if ((address[byte] & (0xFFu >> kept)) != 0) return true;
  }
  return false;
}

inline void mask_host_bits(std::uint8_t* address, unsigned width, unsigned length) noexcept {
  for (unsigned byte = length / 8; byte < width / 8; ++byte) {
    const unsigned kept = byte == length / 8 ? length % 8 : 0;
    address[byte] = static_cast<std::uint8_t>(address[byte] & ~(0xFFu >> kept));
  }
}

// "address" or "address/length"; an address alone has its full length.
inline TextPrefix parse_prefix(const char* p, const char* end) noexcept {
  TextPrefix result;
  const char* slash = end;
  bool colon = false;
  for (const char* c = p; c != end; ++c) {
    if (*c == '/') {
      slash = c;
      break;
    }
    colon |= *c == ':';
  }
  const unsigned width = colon ? 128 : 32;
  if (colon) {
    if (!parse_ipv6(p, slash, result.address)) return result;
  } else {
    std::uint32_t v4 = 0;
    if (!parse_ipv4(p, slash, v4)) return result;
    for (int i = 0; i < 4; ++i) result.address[i] = static_cast<std::uint8_t>(v4 >> (24 - 8 * i));
  }
  result.length = width;
  if (slash != end) {
    // Like `ipaddress`, leading zeros of the length are read as decimal.
    const char* digits = slash + 1;
    if (digits == end || end - digits > 3) return result;
    unsigned length = 0;
    for (; digits != end; ++digits) {
      if (*digits < '0' || *digits > '9') return result;
      length = length * 10 + static_cast<unsigned>(*digits - '0');
    }
    if (length > width) return result;
    result.length = length;
  }
  result.family = colon ? 6 : 4;
  result.host_bits = host_bits_set(result.address, width, result.length);
  return result;
}

constexpr std::size_t kMaxIpv4Text = 15;
constexpr std::size_t kMaxIpv6Text = 39;

// Writes at most kMaxIpv4Text characters; returns the end.
inline char* format_ipv4(std::uint32_t address, char* out) noexcept {
  for (int shift = 24; shift >= 0; shift -= 8) {
    const unsigned v = address >> shift & 0xFF;
    if (v >= 100) *out++ = static_cast<char>('0' + v / 100);
    if (v >= 10) *out++ = static_cast<char>('0' + v / 10 % 10);
    *out++ = static_cast<char>('0' + v % 10);
    if (shift != 0) *out++ = '.';
  }
  return out;
}

// Writes at most kMaxIpv6Text characters; returns the end. The longest run of two or more zero groups, the
// first of equals, becomes "::".
inline char* format_ipv6(const std::uint8_t* address, char* out) noexcept {
  unsigned groups[8];
  for (int i = 0; i < 8; ++i) groups[i] = static_cast<unsigned>(address[2 * i]) << 8 | address[2 * i + 1];
  int best = -1;
  int best_length = 1;
  for (int i = 0; i < 8;) {
    int j = i;
    while (j < 8 && groups[j] == 0) ++j;
    if (j - i > best_length) {
      best = i;
      best_length = j - i;
    }
    i = j == i ? i + 1 : j;
  }
  for (int i = 0; i < 8; ++i) {
    if (i == best) {
      *out++ = ':';
      *out++ = ':';
      i += best_length - 1;
      continue;
    }
    if (i != 0 && (best < 0 || i != best + best_length)) *out++ = ':';
    bool started = false;
    for (int shift = 12; shift >= 0; shift -= 4) {
      const unsigned nibble = groups[i] >> shift & 0xF;
      if (nibble != 0 || started || shift == 0) {
        *out++ = "0123456789abcdef"[nibble];
        started = true;
      }
    }
  }
  return out;
}

}  // namespace fastpath
