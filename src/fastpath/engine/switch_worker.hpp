// The thread that moves the frames of one switch, and the control side that talks to it.
//
// The worker owns ports, pipeline and captures while it runs; the control side changes them by commands that
// the worker runs between two rounds and acknowledges. While no worker runs, commands run on the caller's
// thread. Counters may be read at any time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fastpath/capi.h"
#include "port_io.hpp"
#include "port_link.hpp"
#include "switch_capture.hpp"
#include "switch_counters.hpp"
#include "switch_pipeline.hpp"

namespace fastpath::engine {

struct SwitchSettings {
  std::string name = "fp0";
  std::size_t mtu = 1500;
  std::size_t max_pairs = 65536;
};

// One port of a switch; whoever holds it may read its counters, also after the port is gone.
struct SwitchPort {
  SwitchPort(std::shared_ptr<PortIo> port_io, std::uint32_t port_number, std::uint16_t port_segment)
      : io(std::move(port_io)), number(port_number), segment(port_segment) {}

  std::shared_ptr<PortIo> io;
  const std::uint32_t number;
  const std::uint16_t segment;
  std::atomic<bool> up{true};  // false: the other end vanished, or the port was detached
  PortCounters counters;
};

class SwitchWorker {
 public:
  // The two tables must outlive this object.
  SwitchWorker(SwitchSettings settings, const fastpath_forwarding_v1& forwarding, const fastpath_fdb_v1& fdb);
  ~SwitchWorker();
  SwitchWorker(const SwitchWorker&) = delete;
  SwitchWorker& operator=(const SwitchWorker&) = delete;

  void start();
  void stop();
  // Stops, removes every port and ends every capture; then throws what writing a port's file threw.
  void close();
  bool running() const noexcept { return running_.load(); }

  // The number is one more than the last one given: numbers are never used twice.
  std::shared_ptr<SwitchPort> add_port(std::shared_ptr<PortIo> io, std::uint16_t segment);
  // After it returns nothing is learned for or sent to the port, and its descriptor is closed. False: not
  // here. Throws what writing the port's file threw; it is gone all the same.
  bool remove_port(std::uint32_t number);

  // Handles frames as if the port had sent them.
  void inject(std::uint32_t number, const std::vector<std::string>& frames);

  std::uint64_t add_capture(Descriptor file, std::uint32_t port);
  // Writes what is left and closes the file. The number of frames; throws what writing threw.
  std::uint64_t remove_capture(std::uint64_t id);

  // Copies of the pairs that carried traffic.
  std::vector<Pair> pairs();
  // Returns when every frame that memory ports held at the call has been handled.
  void settle();
  // Wakes the worker if it sleeps: a memory port has something.
  void wake_if_asleep() noexcept;

  struct Counters {
    Counter rounds;
    Counter frames;
    Counter faults;  // rounds given up for lack of memory
    Counter pair_hits;
    Counter fdb_hits;
    Counter floods;
    Counter learned;
    Counter pairs;
    Counter pairs_inserted;
    Counter pairs_erased;
  };
  const Counters& counters() const noexcept { return counters_; }

  // In the child of a fork: closes every descriptor and forgets the thread, which only the parent has.
  void abandon() noexcept;

 private:
  struct Command {
    std::function<void()> body;
    bool done = false;
    std::exception_ptr error;
  };

  void run(std::function<void()> body);
  void run_commands();  // with mutex_ held
  void work() noexcept;
  void round(int timeout_ms, bool& busy);
  void receive(SwitchPort& port);
  void forward();
  void send(SwitchPort& port, const Frame& frame);
  void lose(SwitchPort& port);
  void watch(SwitchPort& port);
  void unwatch(SwitchPort& port) noexcept;
  void list_ports();
  void upkeep(std::uint64_t now_ns);
  void publish() noexcept;
  void wake() noexcept;
  SwitchPort* port_at(std::uint32_t number) const noexcept {
    return number < ports_.size() ? ports_[number].get() : nullptr;
  }

  const SwitchSettings settings_;
  Descriptor epoll_;
  Descriptor event_;
  Pipeline pipeline_;
  Batch batch_;
  Counters counters_;

  std::vector<std::shared_ptr<SwitchPort>> ports_;    // by number
  std::vector<std::vector<SwitchPort*>> by_segment_;  // ports that are up
  std::vector<SwitchPort*> polled_;                   // ports without a descriptor that are up
  std::vector<SwitchPort*> queueing_;                 // ports whose transmit() queues that are up
  std::vector<std::pair<std::uint64_t, std::unique_ptr<Capture>>> captures_;
  std::uint64_t last_capture_ = 0;
  std::uint64_t next_upkeep_ns_ = 0;
  bool sweeping_ = false;
  bool lost_port_ = false;

  std::mutex lifecycle_;  // start and stop, one at a time
  std::mutex mutex_;      // commands_ and in_thread_
  std::condition_variable done_;
  std::vector<Command*> commands_;
  bool in_thread_ = false;  // the worker owns the state
  std::atomic<bool> has_commands_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> running_{false};
  std::atomic<bool> asleep_{false};
  std::unique_ptr<std::thread> thread_;
};

}  // namespace fastpath::engine
