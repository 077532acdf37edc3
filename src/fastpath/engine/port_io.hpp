// What the worker asks of a port, whatever is behind it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "switch_frame.hpp"

namespace fastpath::engine {

enum class Receive : std::uint8_t {
  ok,    // took what was there, or as much as fits
  gone,  // the other end vanished and will not come back
};

// Counted by the worker; names and order as in transmit_name().
enum class Transmit : std::uint8_t {
  sent,
  full,   // the queue has no room: dropped, never waited for
  down,   // the link exists but is not up
  error,  // refused for another reason
  gone,   // the other end vanished and will not come back
  count_,
};

inline const char* transmit_name(Transmit result) noexcept {
  constexpr const char* kNames[] = {"sent", "full", "down", "error", "gone"};
  static_assert(sizeof(kNames) / sizeof(kNames[0]) == static_cast<std::size_t>(Transmit::count_));
  return kNames[static_cast<std::size_t>(result)];
}

// Every call but the destructor comes from the worker's thread, or from the control side while no worker
// runs.
class PortIo {
 public:
  virtual ~PortIo() = default;

  // Readable when frames wait; -1: has none, and is asked every round.
  virtual int fd() const noexcept { return -1; }
  // For ports without a descriptor: whether receive() would yield something.
  virtual bool pending() const noexcept { return false; }
  // The same as positions in a stream: what has been put in, and what receive() has taken.
  virtual std::uint64_t put_until() const noexcept { return 0; }
  virtual std::uint64_t taken_until() const noexcept { return 0; }

  // Appends up to `budget` frames to the batch while it has room. Never blocks.
  virtual Receive receive(Batch& batch, std::uint32_t number, std::size_t budget) noexcept = 0;
  // Sends one frame. Never blocks. The frame is the caller's and may go to other ports too.
  virtual Transmit transmit(const Frame& frame) noexcept = 0;
  // End of a round: hands over what transmit() collected, and adds what failed to `failed[Transmit]`.
  virtual void flush(std::uint64_t* failed) noexcept { (void)failed; }
  // Stops descriptors from outliving a fork. The port is unusable afterwards.
  virtual void close() noexcept {}
};

}  // namespace fastpath::engine
