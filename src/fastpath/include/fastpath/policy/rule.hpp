// Rules over five-tuples and the packets that they are held against.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace fastpath {

struct Address16 {
  std::uint64_t high;
  std::uint64_t low;
  friend bool operator==(const Address16&, const Address16&) = default;
  friend Address16 operator&(const Address16& a, const Address16& b) noexcept {
    return {a.high & b.high, a.low & b.low};
  }
};

template <typename Address>
Address prefix_mask(unsigned length) noexcept {
  if constexpr (sizeof(Address) == 4) {
    return length == 0 ? 0u : ~0u << (32 - length);
  } else {
    const auto half = [](unsigned bits) {
      return bits == 0 ? std::uint64_t{0} : ~std::uint64_t{0} << (64 - bits);
    };
    return {half(std::min(length, 64u)), length <= 64 ? 0 : half(length - 64)};
  }
}

template <typename Address>
struct PolicyRule {
  std::uint64_t order;  // smaller comes first; no two rules of a set share one
  std::uint32_t id;
  std::uint16_t protocol;  // 256: any
  std::uint16_t source_ports[2];
  std::uint16_t destination_ports[2];
  std::uint8_t source_length;
  std::uint8_t destination_length;
  Address source;
  Address destination;
};

template <typename Address>
struct PolicyPacket {
  Address source;
  Address destination;
  std::uint16_t source_port;
  std::uint16_t destination_port;
  std::uint8_t protocol;
};

template <typename Address>
inline bool matches(const PolicyRule<Address>& rule, const PolicyPacket<Address>& packet) noexcept {
  // No branches: which field differs is anyone's guess.
  const bool ports = (packet.source_port >= rule.source_ports[0]) &
                     (packet.source_port <= rule.source_ports[1]) &
                     (packet.destination_port >= rule.destination_ports[0]) &
                     (packet.destination_port <= rule.destination_ports[1]);
  return ports & ((rule.protocol == 256) | (rule.protocol == packet.protocol)) &
         ((packet.source & prefix_mask<Address>(rule.source_length)) == rule.source) &
         ((packet.destination & prefix_mask<Address>(rule.destination_length)) == rule.destination);
}

}  // namespace fastpath
