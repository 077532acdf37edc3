// What the worker asks of a port, whatever is behind it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "switch_frame.hpp"

namespace fastpath::engine {

enum class Receive : std::uint8_t {
  ok,    // took what was there, or as much as the budget allows
  more,  // the batch is full, and the port holds frames that no descriptor will tell of
  gone,  // the other end vanished and will not come back
};

// Counted by the worker; names and order as in transmit_name().
enum class Transmit : std::uint8_t {
  sent,
  queued,  // flush() will tell
  full,    // the queue has no room: dropped, never waited for
  down,    // the link exists but is not up
  error,   // refused for another reason
  gone,    // the other end vanished and will not come back
  count_,
};

inline constexpr std::size_t kFirstFailure = static_cast<std::size_t>(Transmit::full);

inline const char* transmit_name(Transmit result) noexcept {
  constexpr const char* kNames[] = {"sent", "queued", "full", "down", "error", "gone"};
  static_assert(sizeof(kNames) / sizeof(kNames[0]) == static_cast<std::size_t>(Transmit::count_));
  return kNames[static_cast<std::size_t>(result)];
}

// What became of queued frames.
struct Flushed {
  std::uint64_t packets = 0;
  std::uint64_t bytes = 0;
  std::uint64_t failed[static_cast<std::size_t>(Transmit::count_)] = {};
};

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
  // Sends or queues one frame. Never blocks. The frame is the caller's and may go to other ports too; its
  // bytes stay where they are until flush().
  virtual Transmit transmit(const Frame& frame) noexcept = 0;
  // Whether transmit() queues; then flush() is called at the end of each round.
  virtual bool queues() const noexcept { return false; }
  virtual Flushed flush() noexcept { return {}; }
  // Closes descriptors and finishes files; errno of what could not be written, or 0. The port is unusable
  // afterwards.
  virtual int close() noexcept { return 0; }
  // The same in the child of a fork, where files are the parent's to finish.
  virtual void abandon() noexcept { close(); }
};

}  // namespace fastpath::engine
