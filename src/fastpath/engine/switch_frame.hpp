// Frames as the switch sees them: the virtio-net header, the Ethernet header, and why a frame is refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "fastpath/mac.hpp"
#include "fastpath/wire.hpp"

namespace fastpath::engine {

// struct virtio_net_hdr, in host byte order as TAP and AF_PACKET give it (virtio 1.2, section 5.1.6).
struct VnetHeader {
  std::uint8_t flags;
  std::uint8_t gso_type;
  std::uint16_t hdr_len;
  std::uint16_t gso_size;
  std::uint16_t csum_start;
  std::uint16_t csum_offset;
};
static_assert(sizeof(VnetHeader) == 10);

inline constexpr std::uint8_t kVnetNeedsCsum = 1;
inline constexpr std::uint8_t kVnetDataValid = 2;
inline constexpr std::uint8_t kGsoNone = 0;
inline constexpr std::uint8_t kGsoTcp4 = 1;
inline constexpr std::uint8_t kGsoUdp = 3;
inline constexpr std::uint8_t kGsoTcp6 = 4;
inline constexpr std::uint8_t kGsoUdpL4 = 5;
inline constexpr std::uint8_t kGsoEcn = 0x80;

inline constexpr std::size_t kVnetLength = sizeof(VnetHeader);
inline constexpr std::size_t kEthernetLength = 14;
inline constexpr std::size_t kVlanTagLength = 4;
// The largest frame that a GSO sender may hand over: 64 KiB of IP behind an Ethernet header and two tags.
inline constexpr std::size_t kMaxFrame = 65536 + kEthernetLength + 2 * kVlanTagLength;

// Port numbers start at 1.
inline constexpr std::uint32_t kNoPort = 0;
inline constexpr std::uint32_t kFlood = ~std::uint32_t{0};

// Why a received frame goes nowhere. drop_name() and the stubs list them in this order.
enum class Drop : std::uint8_t {
  none,
  short_frame,  // no whole Ethernet header
  long_frame,   // beyond the MTU, and not GSO
  vnet_header,  // offsets outside the frame, GSO without a size, an unknown GSO kind
  bad_source,   // a group or all-zero source address
  reserved,     // 01:80:c2:00:00:0x, which bridges never forward (IEEE 802.1Q, table 8-1)
  hairpin,      // the way out is the way in
  no_listener,  // nobody else in the segment
  count_,
};

inline const char* drop_name(Drop reason) noexcept {
  constexpr const char* kNames[] = {"none",       "short_frame", "long_frame", "vnet_header",
                                    "bad_source", "reserved",    "hairpin",    "no_listener"};
  static_assert(sizeof(kNames) / sizeof(kNames[0]) == static_cast<std::size_t>(Drop::count_));
  return kNames[static_cast<std::size_t>(reason)];
}

inline bool is_reserved(std::uint64_t mac) noexcept { return (mac & ~std::uint64_t{0xF}) == 0x0180C2000000; }

// The header comes from whoever owns the other end of the port, so nothing in it is believed.
inline bool vnet_header_holds(const VnetHeader& header, std::size_t length) noexcept {
  if ((header.flags & kVnetNeedsCsum) != 0) {
    if (header.csum_start < kEthernetLength) return false;
    if (std::size_t{header.csum_start} + header.csum_offset + 2 > length) return false;
  }
  if (header.hdr_len > length) return false;
  switch (header.gso_type & ~kGsoEcn) {
    case kGsoNone:
      return header.gso_type == kGsoNone;
    case kGsoTcp4:
    case kGsoTcp6:
      break;
    case kGsoUdp:
    case kGsoUdpL4:
      if ((header.gso_type & kGsoEcn) != 0) return false;
      break;
    default:
      return false;
  }
  // Segmentation rewrites checksums, so a sender that asks for one without the other is mistaken.
  return header.gso_size != 0 && (header.flags & kVnetNeedsCsum) != 0;
}

inline Drop check_frame(const VnetHeader& header, const std::uint8_t* frame, std::size_t length,
                        std::size_t mtu) noexcept {
  if (length < kEthernetLength) return Drop::short_frame;
  if (!vnet_header_holds(header, length)) return Drop::vnet_header;
  const std::size_t payload = header.gso_type == kGsoNone ? length - kEthernetLength : header.gso_size;
  if (payload > mtu + kVlanTagLength || length > kMaxFrame) return Drop::long_frame;
  const std::uint64_t source = mac_from_bytes(frame + 6);
  if (source == 0 || mac_is_group(source)) return Drop::bad_source;
  if (is_reserved(mac_from_bytes(frame))) return Drop::reserved;
  return Drop::none;
}

// A sum left to the egress (NEEDS_CSUM) is finished here, for ports that take no virtio-net header.
inline void complete_checksum(const VnetHeader& header, std::uint8_t* frame, std::size_t length) noexcept {
  std::uint64_t sum = 0;
  std::size_t i = header.csum_start;
  for (; i + 1 < length; i += 2) sum += (std::uint32_t{frame[i]} << 8) | frame[i + 1];
  if (i < length) sum += std::uint32_t{frame[i]} << 8;
  while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
  const auto folded = static_cast<std::uint16_t>(~sum);
  // Zero would mean "no checksum" in UDP; for the other protocols both forms of zero are equal.
  const std::uint16_t stored = folded == 0 ? 0xFFFF : folded;
  std::uint8_t* place = frame + header.csum_start + header.csum_offset;
  store_be16(place, stored);
}

// One frame of a batch: the virtio-net header stands right before the Ethernet header.
struct Frame {
  std::uint8_t* data;
  std::uint32_t length;

  VnetHeader header() const noexcept {
    VnetHeader header;
    std::memcpy(&header, data - kVnetLength, kVnetLength);
    return header;
  }
  const std::uint8_t* wire() const noexcept { return data - kVnetLength; }
  std::size_t wire_length() const noexcept { return length + kVnetLength; }
};

// Calls `use` with the frame's checksum finished. Other ports may get the same frame with its sum still open,
// so it is put back afterwards. GSO frames are left as they are: each segment would have a sum of its own.
template <typename Use>
auto with_finished_checksum(const Frame& frame, Use&& use) noexcept {
  const VnetHeader header = frame.header();
  if ((header.flags & kVnetNeedsCsum) == 0 || header.gso_type != kGsoNone) return use();
  std::uint8_t* place = frame.data + header.csum_start + header.csum_offset;
  const std::uint8_t open[2] = {place[0], place[1]};
  complete_checksum(header, frame.data, frame.length);
  auto result = use();
  std::memcpy(place, open, 2);
  return result;
}

// The frames of one round, packed into one arena that stays in L2: small frames use little of it, and seven
// whole GSO frames fill it.
class Batch {
 public:
  static constexpr std::size_t kFrames = 256;
  static constexpr std::size_t kArena = 512 * 1024;
  // What must be free for one more frame of any size: alignment, header, a tag put back, the frame.
  static constexpr std::size_t kRoom = 16 + kVnetLength + kVlanTagLength + kMaxFrame;

  Batch() : arena_(new std::uint8_t[kArena]) {}

  std::size_t size() const noexcept { return count_; }
  bool has_room() const noexcept { return count_ < kFrames && used_ + kRoom <= kArena; }
  void clear() noexcept { count_ = used_ = 0; }

  // Where the next frame goes, virtio-net header first; kRoom bytes are free behind it. Needs has_room().
  std::uint8_t* next() noexcept { return arena_.get() + used_; }
  // Takes `length` bytes of frame behind the header that now stands at next() + skip.
  void push(std::uint32_t ingress, std::size_t length, std::size_t skip = 0) noexcept {
    frames_[count_] = {next() + skip + kVnetLength, static_cast<std::uint32_t>(length)};
    ingress_[count_] = ingress;
    ++count_;
    used_ += (skip + kVnetLength + length + 15) & ~std::size_t{15};
  }

  const Frame& frame(std::size_t i) const noexcept { return frames_[i]; }
  std::uint32_t ingress(std::size_t i) const noexcept { return ingress_[i]; }

  // What the pipeline decided: a port number, kFlood, or kNoPort with a reason.
  std::uint32_t egress[kFrames];
  Drop reason[kFrames];

 private:
  std::unique_ptr<std::uint8_t[]> arena_;
  std::size_t used_ = 0;
  std::size_t count_ = 0;
  Frame frames_[kFrames];
  std::uint32_t ingress_[kFrames];
};

}  // namespace fastpath::engine
