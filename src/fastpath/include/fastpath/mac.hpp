// MAC addresses as integers: the first octet of the wire in bits 47..40.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fastpath/wire.hpp"

namespace fastpath {

inline constexpr std::uint64_t kMacMask = (std::uint64_t{1} << 48) - 1;

// Group (multicast and broadcast) addresses have the lowest bit of the first octet set.
inline constexpr bool mac_is_group(std::uint64_t mac) noexcept { return (mac >> 40 & 1) != 0; }

// An address that a frame may come from.
inline constexpr bool mac_is_station(std::uint64_t mac) noexcept {
  return (mac & kMacMask) != 0 && !mac_is_group(mac);
}

inline std::uint64_t mac_from_bytes(const std::uint8_t* p) noexcept { return load_be48(p); }

// Reads "aa:bb:cc:dd:ee:ff", "aa-bb-cc-dd-ee-ff" or "aabbccddeeff", in either case and nothing else.
inline bool parse_mac(const char* text, std::size_t size, std::uint64_t* mac) noexcept {
  const std::size_t step = size == 17 ? 3 : 2;
  if (size != 17 && size != 12) return false;
  const char separator = step == 3 ? text[2] : '\0';
  if (step == 3 && separator != ':' && separator != '-') return false;
  std::uint64_t value = 0;
  for (std::size_t at = 0; at < size; at += step) {
    for (std::size_t i = 0; i < 2; ++i) {
      const char c = text[at + i];
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return false;
      value = value << 4 | static_cast<std::uint64_t>(digit);
    }
    if (step == 3 && at + 2 < size && text[at + 2] != separator) return false;
  }
  *mac = value;
  return true;
}

// Writes the 17 characters of "aa:bb:cc:dd:ee:ff".
inline void format_mac(std::uint64_t mac, char* text) noexcept {
  constexpr char kDigits[] = "0123456789abcdef";
  for (int i = 0; i < 6; ++i) {
    const std::uint64_t octet = mac >> (40 - 8 * i) & 0xFF;
    text[3 * i] = kDigits[octet >> 4];
    text[3 * i + 1] = kDigits[octet & 15];
    if (i < 5) text[3 * i + 2] = ':';
  }
}

}  // namespace fastpath
