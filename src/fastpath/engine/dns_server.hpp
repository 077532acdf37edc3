// UDP and TCP in front of a responder, each on a thread of its own.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "dns_responder.hpp"

namespace fastpath::engine::dns {

// A file descriptor that closes itself.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd();
  int get() const noexcept { return fd_; }
  int release() noexcept;

 private:
  int fd_ = -1;
};

struct ServerOptions {
  sockaddr_storage address{};  // with the port; 0: one that is free for UDP and TCP
  socklen_t address_size = 0;
  std::string netns;  // path of a network namespace; empty: this thread's
  std::size_t max_connections = 256;
  std::chrono::milliseconds idle{10000};
};

struct ServerCounters {
  std::atomic<std::uint64_t> udp_queries{0};
  std::atomic<std::uint64_t> udp_dropped{0};  // answers the kernel did not take, queries too long to be one
  std::atomic<std::uint64_t> tcp_queries{0};
  std::atomic<std::uint64_t> tcp_connections{0};
  std::atomic<std::uint64_t> tcp_closed_for_room{0};
};

class Server {
 public:
  // Opens and binds the sockets; std::system_error when that fails.
  Server(Source& source, const ServerOptions& options, std::uint64_t seed);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Ends both threads and closes the sockets; may be called again.
  void stop();

  // In the child of a fork: closes the sockets and forgets the threads, which only the parent has. Nothing
  // may be called afterwards, not even the destructor.
  void abandon() noexcept;

  std::uint16_t port() const noexcept { return port_; }
  const ServerCounters& counters() const noexcept { return counters_; }
  const Counters& udp_answers() const noexcept { return udp_responder_.counters(); }
  const Counters& tcp_answers() const noexcept { return tcp_responder_.counters(); }

 private:
  struct Connection {
    ~Connection();
    Fd fd;
    int epoll = -1;
    std::vector<std::uint8_t> in;
    std::vector<std::uint8_t> out;
    std::size_t sent = 0;
    std::chrono::steady_clock::time_point active;
    bool ending = false;  // the client sends no more, or sent what is no query
    std::uint32_t events = 0;
  };
  using Connections = std::unordered_map<int, std::unique_ptr<Connection>>;

  void open_sockets();
  void open_pair();
  void run_udp();
  void run_tcp();
  void accept_all(int epoll);
  bool serve(int epoll, Connection& connection, std::uint32_t events);
  bool take_messages(Connection& connection);
  bool flush(Connection& connection);
  void close_idlest();

  ServerOptions options_;
  bool wildcard_ = false;
  std::uint16_t port_ = 0;
  Fd udp_, tcp_, stop_;
  Responder udp_responder_, tcp_responder_;
  ServerCounters counters_;
  Connections connections_;
  std::vector<std::uint8_t> tcp_answer_;
  std::thread udp_thread_, tcp_thread_;
};

}  // namespace fastpath::engine::dns
