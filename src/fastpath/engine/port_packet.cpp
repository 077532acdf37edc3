#include "port_packet.hpp"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace fastpath::engine {

namespace {

constexpr int kReceiveBuffer = 8 << 20;

void set(int socket, int option, const char* name) {
  const int on = 1;
  if (::setsockopt(socket, SOL_PACKET, option, &on, sizeof on) != 0)
    throw_errno(errno, std::string("set ") + name);
}

}  // namespace

std::unique_ptr<PacketPort> PacketPort::open(const std::string& ifname) {
  Descriptor socket(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) throw_errno(errno, "open a packet socket");
  ifreq request{};
  std::strncpy(request.ifr_name, ifname.c_str(), IFNAMSIZ - 1);
  if (::ioctl(socket.get(), SIOCGIFINDEX, &request) != 0) throw_errno(errno, "find interface " + ifname);
  const int index = request.ifr_ifindex;
  if (::ioctl(socket.get(), SIOCGIFHWADDR, &request) != 0)
    throw_errno(errno, "read the MAC address of " + ifname);
  if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
    throw_errno(EINVAL, ifname + " is not an Ethernet interface");
  Mac mac;
  std::memcpy(mac.data(), request.ifr_hwaddr.sa_data, mac.size());

  set(socket.get(), PACKET_VNET_HDR, "PACKET_VNET_HDR");
  set(socket.get(), PACKET_AUXDATA, "PACKET_AUXDATA");
  set(socket.get(), PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING");
  // Bounded by the system's limit where the process may not go beyond it.
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBuffer, sizeof kReceiveBuffer) != 0) {
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUF, &kReceiveBuffer, sizeof kReceiveBuffer);
  }
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = index;
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    throw_errno(errno, "bind a packet socket to " + ifname);
  }
  packet_mreq membership{};
  membership.mr_ifindex = index;
  membership.mr_type = PACKET_MR_PROMISC;
  if (::setsockopt(socket.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership) != 0) {
    throw_errno(errno, "make " + ifname + " promiscuous");
  }
  return std::unique_ptr<PacketPort>(new PacketPort(static_cast<Descriptor&&>(socket), index, mac));
}

PacketPort::PacketPort(Descriptor socket, int index, const Mac& mac)
    : socket_(static_cast<Descriptor&&>(socket)),
      index_(index),
      mac_(mac),
      buffers_(new std::uint8_t[kVector * kBuffer]),
      received_{},
      queued_{} {
  for (std::size_t i = 0; i < kVector; ++i) {
    received_at_[i] = {buffers_.get() + i * kBuffer, kBuffer};
    received_[i].msg_hdr.msg_iov = &received_at_[i];
    received_[i].msg_hdr.msg_iovlen = 1;
    queued_[i].msg_hdr.msg_iov = &queued_at_[i];
    queued_[i].msg_hdr.msg_iovlen = 1;
  }
}

// The index survives the interface; its name does not.
bool PacketPort::exists() const noexcept {
  ifreq request{};
  request.ifr_ifindex = index_;
  return ::ioctl(socket_.get(), SIOCGIFNAME, &request) == 0;
}

void PacketPort::fill(std::size_t most) noexcept {
  for (std::size_t i = 0; i < most; ++i) {
    received_[i].msg_hdr.msg_control = control_[i].bytes;
    received_[i].msg_hdr.msg_controllen = sizeof control_[i].bytes;
  }
  const int n = ::recvmmsg(socket_.get(), received_, static_cast<unsigned>(most), MSG_DONTWAIT, nullptr);
  next_ = 0;
  filled_ = n > 0 ? static_cast<std::size_t>(n) : 0;
  // Other errors are those of one frame (EINVAL: a kind of offload that the header cannot express).
  if (n < 0 && (errno == ENETDOWN || errno == ENODEV || errno == ENXIO || errno == EBADF)) gone_ = !exists();
}

void PacketPort::take(std::size_t i, Batch& batch, std::uint32_t number) noexcept {
  const std::size_t length = received_[i].msg_len;
  if (length < kVnetLength) return;
  const std::uint8_t* from = static_cast<const std::uint8_t*>(received_at_[i].iov_base);
  std::uint8_t* to = batch.next();
  msghdr& message = received_[i].msg_hdr;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA) continue;
    tpacket_auxdata aux;
    std::memcpy(&aux, CMSG_DATA(c), sizeof aux);
    if ((aux.tp_status & TP_STATUS_VLAN_VALID) == 0 || length < kVnetLength + 12) continue;
    const std::uint16_t tpid =
        (aux.tp_status & TP_STATUS_VLAN_TPID_VALID) != 0 ? aux.tp_vlan_tpid : ETH_P_8021Q;
    VnetHeader header;
    std::memcpy(&header, from, kVnetLength);
    if ((header.flags & kVnetNeedsCsum) != 0) header.csum_start += kVlanTagLength;
    if (header.hdr_len != 0) header.hdr_len += kVlanTagLength;
    const std::uint16_t tag[2] = {htons(tpid), htons(aux.tp_vlan_tci)};
    std::memcpy(to, &header, kVnetLength);
    std::memcpy(to + kVnetLength, from + kVnetLength, 12);
    std::memcpy(to + kVnetLength + 12, tag, sizeof tag);
    std::memcpy(to + kVnetLength + 16, from + kVnetLength + 12, length - kVnetLength - 12);
    batch.push(number, length - kVnetLength + kVlanTagLength);
    return;
  }
  std::memcpy(to, from, length);
  batch.push(number, length - kVnetLength);
}

Receive PacketPort::receive(Batch& batch, std::uint32_t number, std::size_t budget) noexcept {
  if (next_ == filled_) fill(std::min(budget, kVector));
  for (; next_ < filled_; ++next_) {
    if (!batch.has_room()) return Receive::more;
    take(next_, batch, number);
  }
  return gone_ ? Receive::gone : Receive::ok;
}

Transmit PacketPort::transmit(const Frame& frame) noexcept {
  if (queue_ == kVector) send_queued();
  queued_at_[queue_++] = {const_cast<std::uint8_t*>(frame.wire()), frame.wire_length()};
  return Transmit::queued;
}

void PacketPort::send_queued() noexcept {
  std::size_t done = 0;
  const auto fail = [&](Transmit reason, std::size_t n) {
    flushed_.failed[static_cast<std::size_t>(reason)] += n;
    done += n;
  };
  while (done < queue_) {
    const int n = ::sendmmsg(socket_.get(), queued_ + done, static_cast<unsigned>(queue_ - done),
                             MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
      for (int i = 0; i < n; ++i)
        flushed_.bytes += queued_at_[done + static_cast<std::size_t>(i)].iov_len - kVnetLength;
      flushed_.packets += static_cast<std::uint64_t>(n);
      done += static_cast<std::size_t>(n);
      continue;
    }
    switch (errno) {
      case EINTR:
        break;
      case EAGAIN:
        fail(Transmit::full, queue_ - done);
        break;
      case ENOBUFS:
        fail(Transmit::full, 1);
        break;
      case ENETDOWN:
      case ENXIO:
      case ENODEV:
        fail(exists() ? Transmit::down : Transmit::gone, queue_ - done);
        break;
      case EBADF:
        fail(Transmit::gone, queue_ - done);
        break;
      default:
        fail(Transmit::error, 1);
    }
  }
  queue_ = 0;
}

Flushed PacketPort::flush() noexcept {
  send_queued();
  const Flushed flushed = flushed_;
  flushed_ = {};
  return flushed;
}

}  // namespace fastpath::engine
