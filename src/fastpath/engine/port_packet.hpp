// An existing interface, through a packet socket with the virtio-net header: bursts of up to 32 frames a
// system call, TCP segments whole, VLAN tags put back where the kernel took them off.
#pragma once

#include <linux/if_packet.h>
#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <string>

#include "port_io.hpp"
#include "port_link.hpp"

namespace fastpath::engine {

class PacketPort final : public PortIo {
 public:
  // Takes over the frames of an interface in the current namespace (promiscuous while the object lives).
  // Throws std::system_error.
  static std::unique_ptr<PacketPort> open(const std::string& ifname);

  int fd() const noexcept override { return socket_.get(); }
  Receive receive(Batch& batch, std::uint32_t number, std::size_t budget) noexcept override;
  Transmit transmit(const Frame& frame) noexcept override;
  bool queues() const noexcept override { return true; }
  Flushed flush() noexcept override;
  int close() noexcept override {
    socket_ = Descriptor();
    return 0;
  }

  const Mac& mac() const noexcept { return mac_; }

 private:
  static constexpr std::size_t kVector = 32;
  // One byte more than the largest frame, so that a larger one is seen as such.
  static constexpr std::size_t kBuffer = kVnetLength + kMaxFrame + 1;

  struct Control {
    alignas(cmsghdr) char bytes[CMSG_SPACE(sizeof(tpacket_auxdata))];
  };

  PacketPort(Descriptor socket, int index, const Mac& mac);
  void fill(std::size_t most) noexcept;
  void take(std::size_t i, Batch& batch, std::uint32_t number) noexcept;
  void send_queued() noexcept;
  bool exists() const noexcept;

  Descriptor socket_;
  int index_;
  Mac mac_;
  bool gone_ = false;

  std::unique_ptr<std::uint8_t[]> buffers_;
  mmsghdr received_[kVector];
  iovec received_at_[kVector];
  Control control_[kVector];
  std::size_t filled_ = 0;
  std::size_t next_ = 0;

  mmsghdr queued_[kVector];
  iovec queued_at_[kVector];
  std::size_t queue_ = 0;
  Flushed flushed_;
};

}  // namespace fastpath::engine
