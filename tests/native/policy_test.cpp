// Rules that can never match, against all packets of a small universe, asked in one go and piece by piece.
#include <random>
#include <vector>

#include "check.hpp"
#include "fastpath/policy/shadow.hpp"

namespace {

using fastpath::Address16;
using fastpath::PolicyPacket;
using fastpath::PolicyRule;
using fastpath::PolicyShadow;

void place(std::uint32_t bits, std::uint32_t& address) { address = bits << 29; }
void place(std::uint32_t bits, Address16& address) { address = {std::uint64_t{bits} << 61, 0}; }

template <typename Address>
void shadows(unsigned seed, std::size_t n) {
  std::mt19937 random(seed);
  const auto side = [&](Address& address, std::uint8_t& length) {
    length = static_cast<std::uint8_t>(random() % 4);
    place(random() % 8 >> (3 - length) << (3 - length), address);
  };
  const auto ports = [&](std::uint16_t* range) {
    const unsigned a = random() % 9, b = random() % 9;
    range[0] = static_cast<std::uint16_t>(a == b ? 0 : std::min(a, b) * 8192);
    range[1] = static_cast<std::uint16_t>(a == b ? 65535 : std::max(a, b) * 8192 - 1);
  };
  std::vector<PolicyRule<Address>> rules(n);
  for (std::size_t i = 0; i < n; ++i) {
    auto& rule = rules[i];
    rule.order = i;
    rule.id = static_cast<std::uint32_t>(i);
    rule.protocol = random() % 3 == 0 ? static_cast<std::uint16_t>(random() % 2 * 255) : 256;
    ports(rule.source_ports);
    ports(rule.destination_ports);
    side(rule.source, rule.source_length);
    side(rule.destination, rule.destination_length);
  }
  std::vector<bool> met(n);
  for (std::uint32_t at = 0; at < 8 * 8 * 8 * 8 * 3; ++at) {
    PolicyPacket<Address> packet;
    place(at & 7, packet.source);
    place(at >> 3 & 7, packet.destination);
    packet.source_port = static_cast<std::uint16_t>((at >> 6 & 7) * 8192);
    packet.destination_port = static_cast<std::uint16_t>((at >> 9 & 7) * 8192);
    packet.protocol = static_cast<std::uint8_t>(at / 4096 == 0 ? 0 : at / 4096 == 1 ? 6 : 255);
    for (std::size_t i = 0; i < n; ++i) {
      if (!fastpath::matches(rules[i], packet)) continue;
      met[i] = true;
      break;
    }
  }
  for (const std::uint64_t steps : {std::uint64_t{1}, ~std::uint64_t{0}}) {
    PolicyShadow shadow(rules, std::vector<std::uint8_t>(n, 1));
    while (!shadow.run(steps)) continue;
    for (std::size_t i = 0; i < n; ++i) CHECK(shadow.shadowed(i) != met[i]);
  }
}

}  // namespace

int main() {
  for (unsigned seed = 0; seed < 40; ++seed) {
    for (const std::size_t n : {0u, 1u, 12u, 60u, 200u}) {
      shadows<std::uint32_t>(seed, n);
      shadows<Address16>(seed, n);
    }
  }
  return 0;
}
