// Header fields of Ethernet frames, every length checked; flow keys of them; and Internet checksums.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/mac.hpp"
#include "fastpath/wire.hpp"

namespace fastpath {

// What a frame turned out to hold.
enum PacketFlag : std::uint16_t {
  kPacketVlan = 1,          // an 802.1Q tag
  kPacketQinq = 2,          // two of them
  kPacketArp = 4,           // for IPv4 over Ethernet
  kPacketIpv4 = 8,          //
  kPacketIpv6 = 16,         //
  kPacketFragment = 32,     // part of a datagram
  kPacketLater = 64,        // a fragment that is not the first: no ports
  kPacketTcp = 128,         // ports and flags are there
  kPacketUdp = 256,         // ports are there
  kPacketSctp = 512,        // ports are there
  kPacketIcmp = 1024,       // type and code are there (ICMP or ICMPv6)
  kPacketTruncated = 2048,  // the frame ends inside a header, or before the length that its IP header names
  kPacketMalformed = 4096,  // a header contradicts itself; nothing after it is read
};

// One row of the result; its layout is the numpy dtype of fastpath.packets.
struct PacketFields {
  std::uint64_t dst_mac;
  std::uint64_t src_mac;
  std::uint8_t src[16];  // IPv6, or IPv4 in the first four bytes
  std::uint8_t dst[16];
  std::uint32_t src_ipv4;
  std::uint32_t dst_ipv4;
  std::uint32_t length;   // of the frame
  std::uint32_t payload;  // offset of what follows the last header read
  std::uint16_t flags;
  std::uint16_t ethertype;  // behind the tags
  std::uint16_t vlan;       // the outer one
  std::uint16_t inner_vlan;
  std::uint16_t ip_length;  // of the datagram, headers included
  std::uint16_t ip_id;
  std::uint16_t fragment_offset;  // bytes
  std::uint16_t src_port;
  std::uint16_t dst_port;
  std::uint16_t arp_operation;
  std::uint8_t protocol;  // behind the IPv6 extension headers
  std::uint8_t ttl;
  std::uint8_t tos;
  std::uint8_t tcp_flags;
  std::uint8_t icmp_type;
  std::uint8_t icmp_code;
  std::uint8_t unused[6];
};
static_assert(sizeof(PacketFields) == 96);

namespace packet_detail {

// Ports, types and flags behind an IP header. `end` is where the datagram or the frame ends, `datagram_end`
// where the datagram would.
inline void parse_transport(const std::uint8_t* frame, std::size_t at, std::size_t end,
                            std::size_t datagram_end, PacketFields& out) noexcept {
  std::size_t size = 0;
  switch (out.protocol) {
    case 6:
      size = 20;
      break;
    case 17:
      size = 8;
      break;
    case 132:
      size = 12;
      break;
    case 1:
    case 58:
      size = 4;
      break;
    default:
      return;
  }
  if ((out.protocol == 1 && (out.flags & kPacketIpv4) == 0) ||
      (out.protocol == 58 && (out.flags & kPacketIpv6) == 0)) {
    return;
  }
  if (end - at < size) {
    out.flags |= kPacketTruncated;
    return;
  }
  const std::uint8_t* p = frame + at;
  if (size == 4) {
    out.icmp_type = p[0];
    out.icmp_code = p[1];
    out.flags |= kPacketIcmp;
    out.payload = static_cast<std::uint32_t>(at + 4);
    return;
  }
  if (out.protocol == 6) {
    size = static_cast<std::size_t>(p[12] >> 4) * 4;
    if (size < 20) {
      out.flags |= kPacketMalformed;
      return;
    }
    if (end - at < size) {
      out.flags |= kPacketTruncated;
      return;
    }
    out.tcp_flags = p[13];
    out.flags |= kPacketTcp;
  } else if (out.protocol == 17) {
    const std::size_t length = load_be16(p + 4);
    if (length < 8 || ((out.flags & kPacketFragment) == 0 && length > datagram_end - at)) {
      out.flags |= kPacketMalformed;
      return;
    }
    out.flags |= kPacketUdp;
  } else {
    out.flags |= kPacketSctp;
  }
  out.src_port = load_be16(p);
  out.dst_port = load_be16(p + 2);
  out.payload = static_cast<std::uint32_t>(at + size);
}

inline void parse_ipv4(const std::uint8_t* frame, std::size_t at, std::size_t size,
                       PacketFields& out) noexcept {
  if (size - at < 20) {
    out.flags |= kPacketTruncated;
    return;
  }
  const std::uint8_t* p = frame + at;
  const std::size_t header = static_cast<std::size_t>(p[0] & 15) * 4;
  const std::size_t total = load_be16(p + 2);
  if (p[0] >> 4 != 4 || header < 20 || total < header) {
    out.flags |= kPacketMalformed;
    return;
  }
  out.flags |= kPacketIpv4;
  out.tos = p[1];
  out.ip_length = static_cast<std::uint16_t>(total);
  out.ip_id = load_be16(p + 4);
  out.ttl = p[8];
  out.protocol = p[9];
  std::memcpy(out.src, p + 12, 4);
  std::memcpy(out.dst, p + 16, 4);
  out.src_ipv4 = load_be32(p + 12);
  out.dst_ipv4 = load_be32(p + 16);
  if (size - at < total) out.flags |= kPacketTruncated;
  if (size - at < header) return;
  out.payload = static_cast<std::uint32_t>(at + header);
  const std::uint16_t fragment = load_be16(p + 6);
  out.fragment_offset = static_cast<std::uint16_t>((fragment & 0x1FFF) << 3);
  if ((fragment & 0x3FFF) != 0) out.flags |= kPacketFragment;
  if ((fragment & 0x1FFF) != 0) {
    out.flags |= kPacketLater;
    return;
  }
  parse_transport(frame, at + header, at + total < size ? at + total : size, at + total, out);
}

inline void parse_ipv6(const std::uint8_t* frame, std::size_t at, std::size_t size,
                       PacketFields& out) noexcept {
  if (size - at < 40) {
    out.flags |= kPacketTruncated;
    return;
  }
  const std::uint8_t* p = frame + at;
  if (p[0] >> 4 != 6) {
    out.flags |= kPacketMalformed;
    return;
  }
  const std::size_t total = 40 + std::size_t{load_be16(p + 4)};
  out.flags |= kPacketIpv6;
  out.tos = static_cast<std::uint8_t>(load_be16(p) >> 4);
  out.ip_length = static_cast<std::uint16_t>(total < 65535 ? total : 65535);
  out.ttl = p[7];
  std::memcpy(out.src, p + 8, 16);
  std::memcpy(out.dst, p + 24, 16);
  if (size - at < total) out.flags |= kPacketTruncated;
  const std::size_t datagram_end = at + total;
  const std::size_t end = datagram_end < size ? datagram_end : size;
  std::uint8_t next = p[6];
  at += 40;
  // Extension headers, see RFC 8200 section 4; each is at least eight bytes, so the loop ends with the frame.
  for (;;) {
    out.protocol = next;
    out.payload = static_cast<std::uint32_t>(at);
    const bool is_extension =
        next == 0 || next == 43 || next == 60 || next == 135 || next == 139 || next == 140;
    if (!is_extension && next != 44 && next != 51) break;
    if (end - at < 8) {
      out.flags |= kPacketTruncated;
      return;
    }
    p = frame + at;
    std::size_t header = 8;
    if (is_extension) header = (std::size_t{p[1]} + 1) * 8;
    if (next == 51) header = (std::size_t{p[1]} + 2) * 4;
    if (next == 44) {
      const std::uint16_t fragment = load_be16(p + 2);
      out.flags |= kPacketFragment;
      out.fragment_offset = fragment & 0xFFF8;
      out.ip_id = static_cast<std::uint16_t>(load_be32(p + 4));
    }
    if (end - at < header) {
      out.flags |= kPacketTruncated;
      return;
    }
    next = p[0];
    at += header;
    if (out.fragment_offset != 0) {
      out.protocol = next;
      out.payload = static_cast<std::uint32_t>(at);
      out.flags |= kPacketLater;
      return;
    }
  }
  parse_transport(frame, at, end, datagram_end, out);
}

}  // namespace packet_detail

// Reads a frame of `size` bytes from its destination address on (no preamble, no check sequence).
inline void parse_packet(const std::uint8_t* frame, std::size_t size, PacketFields& out) noexcept {
  using namespace packet_detail;
  std::memset(&out, 0, sizeof out);
  out.length = static_cast<std::uint32_t>(size < 0xFFFFFFFF ? size : 0xFFFFFFFF);
  if (size < 14) {
    out.flags = kPacketTruncated;
    return;
  }
  out.dst_mac = mac_from_bytes(frame);
  out.src_mac = mac_from_bytes(frame + 6);
  std::size_t at = 14;
  std::uint16_t type = load_be16(frame + 12);
  for (int tags = 0; tags < 2 && (type == 0x8100 || type == 0x88A8 || type == 0x9100); ++tags) {
    if (size - at < 4) {
      out.ethertype = type;
      out.flags |= kPacketTruncated;
      return;
    }
    const std::uint16_t vlan = load_be16(frame + at) & 0x0FFF;
    (tags == 0 ? out.vlan : out.inner_vlan) = vlan;
    out.flags |= tags == 0 ? kPacketVlan : kPacketQinq;
    type = load_be16(frame + at + 2);
    at += 4;
  }
  out.ethertype = type;
  out.payload = static_cast<std::uint32_t>(at);
  if (type == 0x0800) {
    parse_ipv4(frame, at, size, out);
  } else if (type == 0x86DD) {
    parse_ipv6(frame, at, size, out);
  } else if (type == 0x0806) {
    if (size - at < 28) {
      out.flags |= kPacketTruncated;
      return;
    }
    const std::uint8_t* p = frame + at;
    if (load_be16(p) != 1 || load_be16(p + 2) != 0x0800 || p[4] != 6 || p[5] != 4) return;
    out.flags |= kPacketArp;
    out.arp_operation = load_be16(p + 6);
    std::memcpy(out.src, p + 14, 4);
    std::memcpy(out.dst, p + 24, 4);
    out.src_ipv4 = load_be32(p + 14);
    out.dst_ipv4 = load_be32(p + 24);
    out.payload = static_cast<std::uint32_t>(at + 28);
  }
}

// Frames inside a buffer of `size` bytes. Returns how many were read: less than n if the next one leaves it.
inline std::size_t parse_packets(const std::uint8_t* data, std::size_t size, const std::uint64_t* offsets,
                                 const std::uint64_t* lengths, std::size_t n, PacketFields* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t offset = offsets[i];
    const std::uint64_t length = lengths[i];
    if (offset > size || length > size - offset) return i;
    parse_packet(data + offset, length, out[i]);
  }
  return n;
}

inline constexpr std::size_t kIpv4KeySize = 16;
inline constexpr std::size_t kKeySize = 40;

// The key of a packet's flow: addresses, ports, protocol, zero-padded to kIpv4KeySize (IPv4 alone) or to
// kKeySize, where the last byte is the family. Zeros for a frame without such a header.
inline void packet_key(const PacketFields& fields, std::size_t key_size, std::uint8_t* key) noexcept {
  std::memset(key, 0, key_size);
  const bool is_ipv6 = (fields.flags & kPacketIpv6) != 0;
  if (is_ipv6 ? key_size != kKeySize : (fields.flags & kPacketIpv4) == 0) return;
  const std::size_t width = is_ipv6 ? 16 : 4;
  std::memcpy(key, fields.src, width);
  std::memcpy(key + width, fields.dst, width);
  store_be16(key + 2 * width, fields.src_port);
  store_be16(key + 2 * width + 2, fields.dst_port);
  key[2 * width + 4] = fields.protocol;
  if (key_size == kKeySize) key[kKeySize - 1] = is_ipv6 ? 6 : 4;
}

// The sum of RFC 1071, not yet folded: add up parts (each but the last of even size), then fold.
inline std::uint64_t checksum_add(const std::uint8_t* data, std::size_t size,
                                  std::uint64_t sum = 0) noexcept {
  for (; size >= 4; size -= 4, data += 4) sum += load_be32(data);
  if (size >= 2) {
    sum += load_be16(data);
    data += 2;
    size -= 2;
  }
  return size == 0 ? sum : sum + (static_cast<std::uint64_t>(data[0]) << 8);
}
inline std::uint16_t checksum_fold(std::uint64_t sum) noexcept {
  while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}
// The checksum after a field changed, see RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
inline std::uint16_t checksum_update(std::uint16_t checksum, const std::uint8_t* before,
                                     const std::uint8_t* after, std::size_t size) noexcept {
  std::uint64_t sum = static_cast<std::uint16_t>(~checksum);
  for (std::size_t i = 0; i + 1 < size; i += 2) {
    sum += static_cast<std::uint16_t>(~load_be16(before + i));
    sum += load_be16(after + i);
  }
  return checksum_fold(sum);
}

}  // namespace fastpath
