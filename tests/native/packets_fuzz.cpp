// Any bytes are a frame: parsing reads nothing outside them, and what it says is consistent.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.hpp"
#include "fastpath/packets.hpp"

std::vector<std::vector<std::uint8_t>> fuzz_seeds() {
  std::vector<std::uint8_t> tcp4(14 + 20 + 20, 0);
  tcp4[12] = 0x08;
  tcp4[14] = 0x45;
  tcp4[17] = 40;
  tcp4[23] = 6;
  tcp4[46] = 0x50;
  std::vector<std::uint8_t> qinq = tcp4;
  const std::uint8_t tags[8] = {0x88, 0xA8, 0, 1, 0x81, 0, 0, 2};
  qinq.insert(qinq.begin() + 12, tags, tags + 8);
  // IPv6: hop-by-hop, routing, fragment, authentication, destination options, UDP.
  std::vector<std::uint8_t> udp6(14 + 40, 0);
  udp6[12] = 0x86;
  udp6[13] = 0xDD;
  udp6[14] = 0x60;
  udp6[20] = 0;
  for (const std::uint8_t next : {43, 44, 51, 60, 17}) {
    const std::uint8_t header[8] = {next, 0, 0, 0, 0, 0, 0, 0};
    udp6.insert(udp6.end(), header, header + 8);
  }
  udp6.resize(udp6.size() + 8, 8);
  udp6[19] = static_cast<std::uint8_t>(udp6.size() - 54);
  std::vector<std::uint8_t> arp(14 + 28, 0);
  const std::uint8_t start[10] = {0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1};
  std::memcpy(arp.data() + 12, start, 10);
  return {tcp4, qinq, udp6, arp};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // A copy of its own, so that the sanitizer sees a read one byte outside.
  std::vector<std::uint8_t> frame(data, data + size);
  fastpath::PacketFields out;
  fastpath::parse_packet(frame.data(), frame.size(), out);
  CHECK(out.length == size);
  CHECK(out.payload <= size);
  const int ports = (out.flags & fastpath::kPacketTcp) + (out.flags & fastpath::kPacketUdp) +
                    (out.flags & fastpath::kPacketSctp) + (out.flags & fastpath::kPacketIcmp);
  CHECK((ports & (ports - 1)) == 0);
  CHECK((out.flags & fastpath::kPacketLater) == 0 || ports == 0);
  CHECK((out.flags & fastpath::kPacketLater) == 0 || (out.flags & fastpath::kPacketFragment) != 0);
  CHECK((out.flags & fastpath::kPacketQinq) == 0 || (out.flags & fastpath::kPacketVlan) != 0);
  for (const std::size_t key_size : {fastpath::kIpv4KeySize, fastpath::kKeySize}) {
    std::vector<std::uint8_t> key(key_size, 0xEE);
    fastpath::packet_key(out, key_size, key.data());
    CHECK(key_size == fastpath::kIpv4KeySize || key.back() == 0 || key.back() == 4 || key.back() == 6);
  }
  // Offsets and lengths from anywhere: what leaves the buffer ends the batch.
  std::uint64_t offsets[3] = {0, size / 2, size};
  std::uint64_t lengths[3] = {size, size - size / 2, 0};
  fastpath::PacketFields batch[3];
  CHECK(fastpath::parse_packets(frame.data(), size, offsets, lengths, 3, batch) == 3);
  for (int i = 0; i < 3; ++i) {
    if (size < 16) continue;
    std::memcpy(&offsets[i], &frame[0], 8);
    std::memcpy(&lengths[i], &frame[8], 8);
    if (i == 1) offsets[i] %= size + 1;
    if (i == 2) lengths[i] = ~std::uint64_t{0} - offsets[i] + 1;
  }
  const std::size_t done = fastpath::parse_packets(frame.data(), size, offsets, lengths, 3, batch);
  for (std::size_t i = 0; i < done; ++i) CHECK(offsets[i] <= size && lengths[i] <= size - offsets[i]);
  const std::uint16_t sum = fastpath::checksum_fold(fastpath::checksum_add(frame.data(), frame.size()));
  if (size >= 4 && size % 2 == 0) {
    std::vector<std::uint8_t> changed = frame;
    changed[0] = static_cast<std::uint8_t>(changed[0] + 77);
    changed[3] = static_cast<std::uint8_t>(changed[3] ^ 0x5A);
    const std::uint16_t wanted =
        fastpath::checksum_fold(fastpath::checksum_add(changed.data(), changed.size()));
    const std::uint16_t got = fastpath::checksum_update(sum, frame.data(), changed.data(), 4);
    // 0 and 0xFFFF are one number in this arithmetic.
    CHECK(got % 0xFFFF == wanted % 0xFFFF);
  }
  return 0;
}
