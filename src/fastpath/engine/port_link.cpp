#include "port_link.hpp"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <system_error>
#include <thread>

namespace fastpath::engine {

void throw_errno(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = other.release();
  }
  return *this;
}
Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}
int Descriptor::release() noexcept {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

Descriptor open_namespace(const std::string& path) {
  Descriptor target(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (target.get() < 0) throw_errno(errno, "open network namespace " + path);
  if (::ioctl(target.get(), NS_GET_NSTYPE) != CLONE_NEWNET)
    throw_errno(EINVAL, path + " is not a network namespace");
  return target;
}

void in_namespace(const Descriptor& target, const std::function<void()>& body) {
  std::exception_ptr failure;
  std::thread([&] {
    try {
      if (::setns(target.get(), CLONE_NEWNET) != 0) throw_errno(errno, "enter the network namespace");
      body();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
}

namespace {

// One rtnetlink request with its attributes.
class Request {
 public:
  template <typename Header>
  Request(std::uint16_t type, std::uint16_t flags, const Header& header)
      : bytes_(NLMSG_LENGTH(sizeof header)) {
    nlmsghdr head{};
    head.nlmsg_type = type;
    head.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
    std::memcpy(bytes_.data(), &head, sizeof head);
    std::memcpy(bytes_.data() + NLMSG_HDRLEN, &header, sizeof header);
  }

  void add(std::uint16_t type, const void* data, std::size_t length) {
    rtattr attribute{};
    attribute.rta_type = type;
    attribute.rta_len = static_cast<std::uint16_t>(RTA_LENGTH(length));
    const std::size_t at = NLMSG_ALIGN(bytes_.size());
    bytes_.resize(at + RTA_SPACE(length));
    std::memcpy(bytes_.data() + at, &attribute, sizeof attribute);
    std::memcpy(bytes_.data() + at + RTA_LENGTH(0), data, length);
  }
  void add_u32(std::uint16_t type, std::uint32_t value) { add(type, &value, sizeof value); }

  // Sends it and waits for the kernel's answer; throws what the kernel says.
  void run(int socket, const std::string& what) {
    const auto length = static_cast<std::uint32_t>(bytes_.size());
    std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof length);
    if (::send(socket, bytes_.data(), bytes_.size(), 0) < 0) throw_errno(errno, what);
    alignas(nlmsghdr) char answer[8192];
    const ssize_t n = ::recv(socket, answer, sizeof answer, 0);
    if (n < 0) throw_errno(errno, what);
    if (static_cast<std::size_t>(n) < NLMSG_LENGTH(sizeof(int))) throw_errno(EPROTO, what);
    nlmsghdr head;
    std::memcpy(&head, answer, sizeof head);
    int error = 0;
    std::memcpy(&error, answer + NLMSG_HDRLEN, sizeof error);
    if (head.nlmsg_type != NLMSG_ERROR) throw_errno(EPROTO, what);
    if (error != 0) throw_errno(-error, what);
  }

 private:
  std::vector<char> bytes_;
};

Descriptor open_rtnetlink() {
  Descriptor socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (socket.get() < 0) throw_errno(errno, "open an rtnetlink socket");
  return socket;
}

ifinfomsg link_named(const std::string& ifname) {
  const unsigned index = ::if_nametoindex(ifname.c_str());
  if (index == 0) throw_errno(errno, "find interface " + ifname);
  ifinfomsg link{};
  link.ifi_family = AF_UNSPEC;
  link.ifi_index = static_cast<int>(index);
  return link;
}

}  // namespace

void move_link(const std::string& ifname, const Descriptor& target, const std::string& new_name) {
  const Descriptor socket = open_rtnetlink();
  Request request(RTM_NEWLINK, 0, link_named(ifname));
  request.add_u32(IFLA_NET_NS_FD, static_cast<std::uint32_t>(target.get()));
  request.add(IFLA_IFNAME, new_name.c_str(), new_name.size() + 1);
  request.run(socket.get(), "move an interface into the namespace as " + new_name);
}

Mac set_up_link(const std::string& ifname, const LinkSettings& settings) {
  const Descriptor socket = open_rtnetlink();
  ifinfomsg link = link_named(ifname);
  if (settings.mac) {
    Request request(RTM_NEWLINK, 0, link);
    request.add(IFLA_ADDRESS, settings.mac->data(), settings.mac->size());
    request.run(socket.get(), "set the MAC address of " + ifname);
  }
  Request mtu(RTM_NEWLINK, 0, link);
  mtu.add_u32(IFLA_MTU, settings.mtu);
  mtu.run(socket.get(), "set the MTU of " + ifname + " to " + std::to_string(settings.mtu));
  for (const LinkAddress& address : settings.addresses) {
    ifaddrmsg message{};
    message.ifa_family = address.bytes.size() == 4 ? AF_INET : AF_INET6;
    message.ifa_prefixlen = address.prefixlen;
    // The switch hands out addresses once; waiting a second for duplicate detection would only delay the
    // start.
    message.ifa_flags = message.ifa_family == AF_INET6 ? IFA_F_NODAD : 0;
    message.ifa_index = static_cast<unsigned>(link.ifi_index);
    Request request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, message);
    request.add(IFA_LOCAL, address.bytes.data(), address.bytes.size());
    request.add(IFA_ADDRESS, address.bytes.data(), address.bytes.size());
    request.run(socket.get(),
                "add an IPv" + std::string(address.bytes.size() == 4 ? "4" : "6") + " address to " + ifname);
  }
  link.ifi_flags = IFF_UP;
  link.ifi_change = IFF_UP;
  Request up(RTM_NEWLINK, 0, link);
  up.run(socket.get(), "set " + ifname + " up");

  const Descriptor any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strncpy(request.ifr_name, ifname.c_str(), IFNAMSIZ - 1);
  if (any.get() < 0 || ::ioctl(any.get(), SIOCGIFHWADDR, &request) != 0) {
    throw_errno(errno, "read the MAC address of " + ifname);
  }
  Mac mac;
  std::memcpy(mac.data(), request.ifr_hwaddr.sa_data, mac.size());
  return mac;
}

}  // namespace fastpath::engine
