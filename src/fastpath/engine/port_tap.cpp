#include "port_tap.hpp"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace fastpath::engine {

namespace {

// Newer than some C libraries' headers; the values are the kernel's ABI (Linux 6.2).
constexpr unsigned kTunUso4 = 0x20;
constexpr unsigned kTunUso6 = 0x40;

// In the calling thread's namespace. `ifname` may be a pattern with %d; it becomes the name that was given.
Descriptor open_tap(std::string& ifname) {
  Descriptor tap(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (tap.get() < 0) throw_errno(errno, "open /dev/net/tun");
  ifreq request{};
  std::strncpy(request.ifr_name, ifname.c_str(), IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(tap.get(), TUNSETIFF, &request) != 0) throw_errno(errno, "make TAP interface " + ifname);
  ifname = request.ifr_name;
  int header = static_cast<int>(kVnetLength);
  if (::ioctl(tap.get(), TUNSETVNETHDRSZ, &header) != 0) {
    throw_errno(errno, "set the virtio-net header size of " + ifname);
  }
  return tap;
}

unsigned set_offloads(int tap) noexcept {
  constexpr unsigned kTcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
  for (const unsigned wanted : {kTcp | kTunUso4 | kTunUso6, kTcp, unsigned{TUN_F_CSUM}}) {
    if (::ioctl(tap, TUNSETOFFLOAD, static_cast<unsigned long>(wanted)) == 0) return wanted;
  }
  return 0;
}

}  // namespace

std::unique_ptr<TapPort> TapPort::create(const std::string& netns, const std::string& ifname,
                                         const LinkSettings& settings) {
  Descriptor tap;
  Mac mac;
  if (netns.empty()) {
    if (::if_nametoindex(ifname.c_str()) != 0) throw_errno(EEXIST, "make TAP interface " + ifname);
    std::string name = ifname;
    tap = open_tap(name);
    mac = set_up_link(name, settings);
  } else {
    // A descriptor of /dev/net/tun keeps the namespace alive in which it was opened. So the interface is made
    // here and moved: the container's namespace ends with the container, and takes the interface along.
    const Descriptor target = open_namespace(netns);
    std::string name = "fptap%d";
    tap = open_tap(name);
    move_link(name, target, ifname);
    in_namespace(target, [&] { mac = set_up_link(ifname, settings); });
  }
  const unsigned offloads = set_offloads(tap.get());
  return std::unique_ptr<TapPort>(new TapPort(static_cast<Descriptor&&>(tap), mac, offloads));
}

Receive TapPort::receive(Batch& batch, std::uint32_t number, std::size_t budget) noexcept {
  while (budget-- > 0 && batch.has_room()) {
    const ssize_t n = ::read(tap_.get(), batch.next(), kVnetLength + kMaxFrame + 1);
    if (n < 0) {
      if (errno == EINTR) continue;
      // EBADFD: the interface was removed, or its namespace ended.
      return errno == EAGAIN || errno == EIO || errno == ENOBUFS || errno == ENOMEM ? Receive::ok
                                                                                    : Receive::gone;
    }
    if (n < static_cast<ssize_t>(kVnetLength)) return Receive::ok;
    batch.push(number, static_cast<std::size_t>(n) - kVnetLength);
  }
  return Receive::ok;
}

Transmit TapPort::transmit(const Frame& frame) noexcept {
  for (;;) {
    if (::write(tap_.get(), frame.wire(), frame.wire_length()) >= 0) return Transmit::sent;
    switch (errno) {
      case EINTR:
        continue;
      case EAGAIN:
      case ENOBUFS:
      case ENOMEM:
        return Transmit::full;
      case EIO:
      case ENETDOWN:
        return Transmit::down;
      case EBADFD:
      case EBADF:
      case ENODEV:
        return Transmit::gone;
      default:
        return Transmit::error;
    }
  }
}

}  // namespace fastpath::engine
