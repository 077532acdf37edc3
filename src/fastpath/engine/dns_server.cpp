#include "dns_server.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

namespace fastpath::engine::dns {

namespace {

constexpr unsigned kBatch = 32;
constexpr std::size_t kMaxUdpQuery = 4096;
constexpr std::size_t kMaxPending =
    256 * 1024;  // answers a TCP client may leave unread before it is not heard
constexpr int kPortTries = 64;

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

void set_option(int fd, int level, int name, int value, const char* what) {
  if (::setsockopt(fd, level, name, &value, sizeof value) != 0) fail(what);
}

std::uint16_t& port_of(sockaddr_storage& address) {
  if (address.ss_family == AF_INET6) return reinterpret_cast<sockaddr_in6&>(address).sin6_port;
  return reinterpret_cast<sockaddr_in&>(address).sin_port;
}

bool is_wildcard(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET6) {
    return IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
  }
  return reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr == 0;
}

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = other.release();
  }
  return *this;
}

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

int Fd::release() noexcept { return std::exchange(fd_, -1); }

Server::Server(Source& source, const ServerOptions& options, std::uint64_t seed)
    : options_(options),
      udp_responder_(source, seed),
      tcp_responder_(source, seed + 1),
      tcp_answer_(kMaxMessage) {
  wildcard_ = is_wildcard(options_.address);
  stop_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (stop_.get() < 0) fail("eventfd");
  open_sockets();
  udp_thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "fastpath-dns-u");
    run_udp();
  });
  tcp_thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "fastpath-dns-t");
    run_tcp();
  });
}

Server::~Server() { stop(); }

void Server::stop() {
  if (stop_.get() >= 0) {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(stop_.get(), &one, sizeof one);
  }
  if (udp_thread_.joinable()) udp_thread_.join();
  if (tcp_thread_.joinable()) tcp_thread_.join();
  connections_.clear();
  udp_ = Fd();
  tcp_ = Fd();
  stop_ = Fd();
}

void Server::abandon() noexcept {
  udp_ = Fd();
  tcp_ = Fd();
  stop_ = Fd();
}

// A child of a fork may hold the socket too, and close() alone would then neither end the connection nor its
// events.
Server::Connection::~Connection() {
  if (fd.get() < 0) return;
  ::epoll_ctl(epoll, EPOLL_CTL_DEL, fd.get(), nullptr);
  ::shutdown(fd.get(), SHUT_RDWR);
}

// A socket belongs to the namespace in which it was made, so a thread that enters the namespace for a moment
// is enough, and no other thread is disturbed.
void Server::open_sockets() {
  if (options_.netns.empty()) {
    open_pair();
    return;
  }
  std::exception_ptr error;
  std::thread([&] {
    try {
      const Fd netns(::open(options_.netns.c_str(), O_RDONLY | O_CLOEXEC));
      if (netns.get() < 0) fail("open the network namespace");
      if (::setns(netns.get(), CLONE_NEWNET) != 0) fail("enter the network namespace");
      open_pair();
    } catch (...) {
      error = std::current_exception();
    }
  }).join();
  if (error) std::rethrow_exception(error);
}

void Server::open_pair() {
  sockaddr_storage address = options_.address;
  const bool any_port = port_of(address) == 0;
  const int family = address.ss_family;
  for (int tries = 0;; ++tries) {
    udp_ = Fd(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (udp_.get() < 0) fail("make a UDP socket");
    tcp_ = Fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (tcp_.get() < 0) fail("make a TCP socket");
    set_option(tcp_.get(), SOL_SOCKET, SO_REUSEADDR, 1, "set SO_REUSEADDR");
    port_of(address) = port_of(options_.address);
    if (::bind(udp_.get(), reinterpret_cast<sockaddr*>(&address), options_.address_size) != 0) {
      fail("bind the UDP port");
    }
    socklen_t size = sizeof address;
    if (::getsockname(udp_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) fail("getsockname");
    if (::bind(tcp_.get(), reinterpret_cast<sockaddr*>(&address), options_.address_size) == 0) break;
    if (!any_port || errno != EADDRINUSE || tries == kPortTries) fail("bind the TCP port");
  }
  port_ = ntohs(port_of(address));
  if (::listen(tcp_.get(), 128) != 0) fail("listen");
  // Bursts wait here while Python makes an image; a smaller buffer than asked for is no error.
  const int room = 1 << 20;
  ::setsockopt(udp_.get(), SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  if (wildcard_) {
    // So that an answer leaves from the address that the query came to.
    if (family == AF_INET6) set_option(udp_.get(), IPPROTO_IPV6, IPV6_RECVPKTINFO, 1, "set IPV6_RECVPKTINFO");
    if (family == AF_INET) set_option(udp_.get(), IPPROTO_IP, IP_PKTINFO, 1, "set IP_PKTINFO");
  }
}

void Server::run_udp() {
  const std::size_t answer_size = std::max(kMinUdpSize, udp_responder_.edns_size());
  std::vector<std::uint8_t> in(kBatch * kMaxUdpQuery), out(kBatch * answer_size);
  struct alignas(cmsghdr) Control {
    std::uint8_t bytes[CMSG_SPACE(sizeof(in6_pktinfo)) + CMSG_SPACE(sizeof(in_pktinfo))];
  };
  std::array<Control, kBatch> controls;
  std::array<sockaddr_storage, kBatch> peers;
  std::array<iovec, kBatch> in_vectors, out_vectors;
  std::array<mmsghdr, kBatch> received{}, answers{};
  for (unsigned i = 0; i < kBatch; ++i) in_vectors[i] = {in.data() + i * kMaxUdpQuery, kMaxUdpQuery};
  std::array<pollfd, 2> waits{{{udp_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};

  for (;;) {
    if (::poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) return;
    if (waits[1].revents != 0) return;
    int count = kBatch;
    while (count == static_cast<int>(kBatch)) {
      for (unsigned i = 0; i < kBatch; ++i) {
        received[i].msg_hdr = {.msg_name = &peers[i],
                               .msg_namelen = sizeof peers[i],
                               .msg_iov = &in_vectors[i],
                               .msg_iovlen = 1,
                               .msg_control = wildcard_ ? &controls[i] : nullptr,
                               .msg_controllen = wildcard_ ? sizeof controls[i] : 0,
                               .msg_flags = 0};
      }
      count = ::recvmmsg(udp_.get(), received.data(), kBatch, MSG_DONTWAIT, nullptr);
      if (count < 0) {
        // A link that went down tells of it here; wait for better times without spinning.
        if (errno != EAGAIN && errno != EINTR) ::poll(&waits[1], 1, 10);
        break;
      }
      Counters::add(counters_.udp_queries, static_cast<std::uint64_t>(count));
      unsigned ready = 0;
      for (int i = 0; i < count; ++i) {
        const msghdr& from = received[static_cast<unsigned>(i)].msg_hdr;
        std::size_t size = 0;
        std::uint8_t* answer = out.data() + ready * answer_size;
        if ((from.msg_flags & MSG_TRUNC) == 0) {
          size = udp_responder_.respond(static_cast<std::uint8_t*>(from.msg_iov->iov_base),
                                        received[static_cast<unsigned>(i)].msg_len, kMinUdpSize, answer);
        } else {
          Counters::add(counters_.udp_dropped);
        }
        if (size == 0) continue;
        out_vectors[ready] = {answer, size};
        answers[ready].msg_hdr = {.msg_name = from.msg_name,
                                  .msg_namelen = from.msg_namelen,
                                  .msg_iov = &out_vectors[ready],
                                  .msg_iovlen = 1,
                                  .msg_control = from.msg_controllen != 0 ? from.msg_control : nullptr,
                                  .msg_controllen = from.msg_controllen,
                                  .msg_flags = 0};
        ++ready;
      }
      for (unsigned sent = 0; sent < ready;) {
        const int n = ::sendmmsg(udp_.get(), answers.data() + sent, ready - sent, MSG_DONTWAIT);
        if (n > 0) {
          sent += static_cast<unsigned>(n);
        } else if (errno != EINTR) {
          // One that cannot go (no route, no room) must not hold up the others.
          Counters::add(counters_.udp_dropped);
          ++sent;
        }
      }
    }
  }
}

void Server::run_tcp() {
  const Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (epoll.get() < 0) return;
  for (const int fd : {tcp_.get(), stop_.get()}) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) return;
  }
  std::array<epoll_event, 64> events;
  auto swept = std::chrono::steady_clock::now();
  const auto sweep = std::clamp<std::chrono::milliseconds>(options_.idle / 4, std::chrono::milliseconds(10),
                                                           std::chrono::milliseconds(1000));
  for (;;) {
    const int timeout = connections_.empty() ? -1 : static_cast<int>(sweep.count());
    const int count = ::epoll_wait(epoll.get(), events.data(), static_cast<int>(events.size()), timeout);
    if (count < 0 && errno != EINTR) return;
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<unsigned>(i)].data.fd;
      if (fd == stop_.get()) return;
      if (fd == tcp_.get()) continue;
      const auto found = connections_.find(fd);
      if (found != connections_.end() &&
          !serve(epoll.get(), *found->second, events[static_cast<unsigned>(i)].events)) {
        connections_.erase(found);
      }
    }
    // New ones after the old: a descriptor closed above may come back as a new connection's.
    for (int i = 0; i < count; ++i) {
      if (events[static_cast<unsigned>(i)].data.fd == tcp_.get()) accept_all(epoll.get());
    }
    const auto now = std::chrono::steady_clock::now();
    if (now - swept >= sweep) {
      swept = now;
      std::erase_if(connections_,
                    [&](const auto& item) { return now - item.second->active >= options_.idle; });
    }
  }
}

void Server::accept_all(int epoll) {
  for (unsigned n = 0; n < 64; ++n) {
    Fd fd(::accept4(tcp_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd.get() < 0) {
      if ((errno == EMFILE || errno == ENFILE) && !connections_.empty()) {
        close_idlest();
        continue;
      }
      if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
        pollfd wait{stop_.get(), POLLIN, 0};
        ::poll(&wait, 1, 10);
      }
      return;
    }
    if (connections_.size() >= options_.max_connections) close_idlest();
    const int one = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd.get()}};
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd.get(), &event) != 0) continue;
    auto connection = std::make_unique<Connection>();
    connection->active = std::chrono::steady_clock::now();
    connection->events = EPOLLIN;
    const int key = fd.get();
    connection->fd = std::move(fd);
    connection->epoll = epoll;
    connections_[key] = std::move(connection);
    Counters::add(counters_.tcp_connections);
  }
}

void Server::close_idlest() {
  auto idlest = connections_.begin();
  for (auto it = connections_.begin(); it != connections_.end(); ++it) {
    if (it->second->active < idlest->second->active) idlest = it;
  }
  connections_.erase(idlest);
  Counters::add(counters_.tcp_closed_for_room);
}

// False: the connection is over.
bool Server::serve(int epoll, Connection& connection, std::uint32_t events) {
  if ((events & EPOLLERR) != 0) return false;
  if ((events & EPOLLOUT) != 0 && !flush(connection)) return false;
  if ((events & (EPOLLIN | EPOLLHUP)) != 0 && !connection.ending) {
    std::array<std::uint8_t, 16384> chunk;
    const ssize_t size = ::recv(connection.fd.get(), chunk.data(), chunk.size(), 0);
    if (size < 0 && errno != EAGAIN && errno != EINTR) return false;
    if (size == 0) connection.ending = true;
    if (size > 0) connection.in.insert(connection.in.end(), chunk.data(), chunk.data() + size);
  }
  // Answers come in the order of the queries; what a client does not fetch keeps it from being heard.
  for (;;) {
    const bool more = take_messages(connection);
    if (!flush(connection)) return false;
    if (!more || !connection.out.empty()) break;
  }
  const bool pending = !connection.out.empty();
  if (connection.ending && !pending) return false;
  const std::uint32_t wanted =
      (pending ? EPOLLOUT : 0u) | (connection.ending || connection.out.size() >= kMaxPending ? 0u : EPOLLIN);
  if (wanted != connection.events) {
    connection.events = wanted;
    epoll_event event{.events = wanted, .data = {.fd = connection.fd.get()}};
    if (::epoll_ctl(epoll, EPOLL_CTL_MOD, connection.fd.get(), &event) != 0) return false;
  }
  return true;
}

// Answers what has come in whole. True: more is there, but too much waits to be sent.
bool Server::take_messages(Connection& connection) {
  std::size_t at = 0;
  const std::vector<std::uint8_t>& in = connection.in;
  bool full = false;
  while (in.size() - at >= 2) {
    const std::size_t size = load_be16(in.data() + at);
    if (in.size() - at - 2 < size) break;
    full = connection.out.size() >= kMaxPending;
    if (full) break;
    Counters::add(counters_.tcp_queries);
    const std::size_t answer =
        tcp_responder_.respond(in.data() + at + 2, size, kMaxMessage, tcp_answer_.data());
    at += 2 + size;
    if (answer == 0) {
      connection.ending = true;
      at = in.size();
      break;
    }
    std::uint8_t prefix[2];
    store_be16(prefix, answer);
    connection.out.insert(connection.out.end(), prefix, prefix + 2);
    connection.out.insert(connection.out.end(), tcp_answer_.data(), tcp_answer_.data() + answer);
    connection.active = std::chrono::steady_clock::now();
  }
  connection.in.erase(connection.in.begin(), connection.in.begin() + static_cast<std::ptrdiff_t>(at));
  return full;
}

bool Server::flush(Connection& connection) {
  while (connection.sent < connection.out.size()) {
    const ssize_t n = ::send(connection.fd.get(), connection.out.data() + connection.sent,
                             connection.out.size() - connection.sent, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN;
    }
    connection.sent += static_cast<std::size_t>(n);
  }
  connection.out.clear();
  connection.sent = 0;
  return true;
}

}  // namespace fastpath::engine::dns
