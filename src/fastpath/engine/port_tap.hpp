// A TAP interface with the virtio-net header: the kernel hands over 64 KiB TCP segments whole and leaves
// checksums open, so that one look-up moves what would be 45 frames.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "port_io.hpp"
#include "port_link.hpp"

namespace fastpath::engine {

class TapPort final : public PortIo {
 public:
  // Makes the interface inside the namespace at `netns` (empty: the current one), sets it up, and keeps its
  // descriptor: the interface lives as long as this object. Throws std::system_error.
  static std::unique_ptr<TapPort> create(const std::string& netns, const std::string& ifname,
                                         const LinkSettings& settings);

  int fd() const noexcept override { return tap_.get(); }
  Receive receive(Batch& batch, std::uint32_t number, std::size_t budget) noexcept override;
  Transmit transmit(const Frame& frame) noexcept override;
  int close() noexcept override {
    tap_ = Descriptor();
    return 0;
  }

  const Mac& mac() const noexcept { return mac_; }
  // What the kernel accepted of checksum, TSO and USO: TUN_F_* flags.
  unsigned offloads() const noexcept { return offloads_; }

 private:
  TapPort(Descriptor tap, const Mac& mac, unsigned offloads)
      : tap_(static_cast<Descriptor&&>(tap)), mac_(mac), offloads_(offloads) {}

  Descriptor tap_;
  Mac mac_;
  unsigned offloads_;
};

}  // namespace fastpath::engine
