// Links in network namespaces: run a piece of code in another namespace, and set a link up over rtnetlink.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace fastpath::engine {

using Mac = std::array<std::uint8_t, 6>;

struct LinkAddress {
  std::vector<std::uint8_t> bytes;  // 4 or 16, network order
  std::uint8_t prefixlen;
};

struct LinkSettings {
  std::optional<Mac> mac;
  std::uint32_t mtu = 1500;
  std::vector<LinkAddress> addresses;
};

// Closes when it goes out of scope.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) noexcept : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int get() const noexcept { return fd_; }
  int release() noexcept;

 private:
  int fd_;
};

// Throws std::system_error: ENOENT (no such file), EINVAL (not a network namespace).
Descriptor open_namespace(const std::string& path);

// Runs `body` on a short-lived thread of its own, inside a network namespace; the calling thread stays where
// it is. What body throws is thrown here.
void in_namespace(const Descriptor& target, const std::function<void()>& body);

// Moves a link of the calling thread's namespace into another one, under a new name.
void move_link(const std::string& ifname, const Descriptor& target, const std::string& new_name);

// In the calling thread's namespace: sets MAC, MTU and addresses, then sets the link up. The MAC address it
// has. Throws std::system_error that names the step.
Mac set_up_link(const std::string& ifname, const LinkSettings& settings);

// std::system_error from errno and a text.
[[noreturn]] void throw_errno(int error, const std::string& what);

}  // namespace fastpath::engine
