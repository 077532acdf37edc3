#include "switch_worker.hpp"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>

#include "fastpath/signals.hpp"

namespace fastpath::engine {

namespace {

constexpr std::size_t kBudget = 64;               // frames that a descriptor may bring in one turn
constexpr std::size_t kPolledBudget = 128;        // and a memory port, which costs no system call
constexpr std::uint64_t kUpkeepNs = 250'000'000;  // pairs are compared with the Fdb this often
constexpr int kUpkeepMs = 250;
constexpr int kMaxSpin = 64;  // empty rounds before the worker sleeps

std::uint64_t clock_ns(clockid_t clock) noexcept {
  timespec now;
  ::clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
}

std::uint64_t random_seed() {
  std::random_device random;
  return std::uint64_t{random()} << 32 | random();
}

}  // namespace

SwitchWorker::SwitchWorker(SwitchSettings settings, const fastpath_forwarding_v1& forwarding,
                           const fastpath_fdb_v1& fdb)
    : settings_(std::move(settings)),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      event_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      pipeline_(forwarding, fdb, settings_.mtu, settings_.max_pairs, random_seed()),
      ports_(1) {
  if (epoll_.get() < 0) throw_errno(errno, "make an epoll descriptor");
  if (event_.get() < 0) throw_errno(errno, "make an eventfd");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kNoPort;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, event_.get(), &event) != 0)
    throw_errno(errno, "watch an eventfd");
}

SwitchWorker::~SwitchWorker() { stop(); }

// --- the control side ------------------------------------------------------------------------------------

void SwitchWorker::start() {
  const std::lock_guard lifecycle(lifecycle_);
  if (thread_) return;
  stopping_ = false;
  {
    const std::lock_guard lock(mutex_);
    in_thread_ = true;
  }
  try {
    const SignalsBlocked blocked;
    thread_ = std::make_unique<std::thread>([this] { work(); });
  } catch (...) {
    const std::lock_guard lock(mutex_);
    in_thread_ = false;
    run_commands();  // those that came for the thread
    throw;
  }
  ::pthread_setname_np(thread_->native_handle(), ("switch " + settings_.name).substr(0, 15).c_str());
  running_ = true;
}

void SwitchWorker::stop() {
  const std::lock_guard lifecycle(lifecycle_);
  if (!thread_) return;
  stopping_ = true;
  wake();
  thread_->join();
  thread_.reset();
  running_ = false;
}

void SwitchWorker::close() {
  stop();
  std::exception_ptr error;
  for (std::uint32_t number = 1;; ++number) {
    {
      const std::lock_guard lock(mutex_);
      if (number >= ports_.size()) break;
    }
    try {
      remove_port(number);
    } catch (const std::system_error&) {
      error = std::current_exception();
    }
  }
  std::vector<std::pair<std::uint64_t, std::unique_ptr<Capture>>> captures;
  run([&] { captures.swap(captures_); });
  if (error) std::rethrow_exception(error);
}

void SwitchWorker::run(std::function<void()> body) {
  std::unique_lock lock(mutex_);
  if (!in_thread_) {
    body();
    publish();
    return;
  }
  Command command{std::move(body), false, nullptr};
  commands_.push_back(&command);
  has_commands_ = true;
  wake();
  done_.wait(lock, [&] { return command.done; });
  if (command.error) std::rethrow_exception(command.error);
}

void SwitchWorker::run_commands() {
  has_commands_ = false;
  for (Command* command : commands_) {
    try {
      command->body();
    } catch (...) {
      command->error = std::current_exception();
    }
    command->done = true;
  }
  commands_.clear();
  publish();
  done_.notify_all();
}

std::shared_ptr<SwitchPort> SwitchWorker::add_port(std::shared_ptr<PortIo> io, std::uint16_t segment) {
  std::shared_ptr<SwitchPort> port;
  run([&] {
    port = std::make_shared<SwitchPort>(std::move(io), static_cast<std::uint32_t>(ports_.size()), segment);
    ports_.push_back(port);
    try {
      pipeline_.add_port(port->number, segment);
      list_ports();
      watch(*port);
    } catch (...) {
      pipeline_.remove_port(port->number);
      ports_.back().reset();
      list_ports();
      throw;
    }
  });
  return port;
}

bool SwitchWorker::remove_port(std::uint32_t number) {
  std::shared_ptr<SwitchPort>
      port;  // freed here, not on the worker: removing an interface takes milliseconds
  run([&] {
    if (port_at(number) == nullptr) return;
    port = std::move(ports_[number]);
    if (port->up) lose(*port);
    list_ports();
    std::erase_if(captures_, [&](const auto& capture) { return capture.second->port() == number; });
  });
  if (!port) return false;
  if (const int error = port->io->close(); error != 0) throw_errno(error, "write the port's file");
  return true;
}

void SwitchWorker::inject(std::uint32_t number, const std::vector<std::string>& frames) {
  run([&] {
    const SwitchPort* port = port_at(number);
    for (const std::string& frame : frames) {
      if (port == nullptr || !port->up || frame.size() > kMaxFrame) continue;
      const VnetHeader none{};
      std::memcpy(batch_.next(), &none, sizeof none);
      std::memcpy(batch_.next() + sizeof none, frame.data(), frame.size());
      batch_.push(number, frame.size());
      forward();
    }
    if (lost_port_) list_ports();
  });
}

std::uint64_t SwitchWorker::add_capture(Descriptor file, std::uint32_t port) {
  auto capture = std::make_unique<Capture>(std::move(file), port);
  std::uint64_t id = 0;
  run([&] {
    id = ++last_capture_;
    captures_.emplace_back(id, std::move(capture));
  });
  return id;
}

std::uint64_t SwitchWorker::remove_capture(std::uint64_t id) {
  std::unique_ptr<Capture> capture;
  run([&] {
    const auto found =
        std::find_if(captures_.begin(), captures_.end(), [&](auto& item) { return item.first == id; });
    if (found == captures_.end()) return;
    capture = std::move(found->second);
    captures_.erase(found);
  });
  if (!capture) return 0;
  capture->finish();
  if (capture->failed()) throw_errno(capture->error(), "write the capture");
  return capture->frames();
}

std::vector<Pair> SwitchWorker::pairs() {
  std::vector<Pair> copies;
  run([&] {
    PairTable& table = pipeline_.pairs();
    copies.reserve(table.size());
    for (std::size_t i = 0; i < table.high_water(); ++i) {
      if (table.at(i).live) copies.push_back(table.at(i));
    }
  });
  return copies;
}

void SwitchWorker::settle() {
  std::vector<std::pair<std::shared_ptr<SwitchPort>, std::uint64_t>> waiting;
  run([&] {
    for (const SwitchPort* port : polled_) waiting.emplace_back(ports_[port->number], port->io->put_until());
  });
  while (!waiting.empty() && running_) {
    // Commands run between two rounds, so what has been taken has been forwarded too.
    run([&] {
      std::erase_if(waiting, [](const auto& item) {
        return !item.first->up || item.first->io->taken_until() >= item.second;
      });
    });
    if (!waiting.empty()) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void SwitchWorker::wake_if_asleep() noexcept {
  // Pairs with the fence in work(): either this thread sees the worker asleep, or the worker sees the frame.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (asleep_.load(std::memory_order_relaxed)) wake();
}

void SwitchWorker::wake() noexcept {
  const std::uint64_t one = 1;
  // A full counter is as good as a written one.
  [[maybe_unused]] const ssize_t n = ::write(event_.get(), &one, sizeof one);
}

void SwitchWorker::abandon() noexcept {
  // The thread's handle is meaningless here, and joining or detaching it is undefined.
  static_cast<void>(thread_.release());
  running_ = false;
  in_thread_ = false;
  commands_.clear();
  for (const auto& port : ports_) {
    if (!port) continue;
    port->up = false;
    port->io->abandon();
  }
  for (const auto& capture : captures_) capture.second->abandon();
  captures_.clear();
  epoll_ = Descriptor();
  event_ = Descriptor();
}

// --- the worker ------------------------------------------------------------------------------------------

void SwitchWorker::work() noexcept {
  int spin = 0;
  int allowed_spin = 0;
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (has_commands_.load(std::memory_order_acquire)) {
      const std::lock_guard lock(mutex_);
      run_commands();
    }
    int timeout_ms = 0;
    const bool may_sleep = spin >= allowed_spin && !sweeping_;
    if (may_sleep) {
      asleep_.store(true, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      const bool waiting = has_commands_ || stopping_ ||
                           std::any_of(polled_.begin(), polled_.end(),
                                       [](const SwitchPort* port) { return port->io->pending(); });
      // Nothing remembered and nothing captured: nothing to look after.
      const bool idle = pipeline_.pairs().size() == 0 && captures_.empty();
      if (!waiting) timeout_ms = idle ? -1 : kUpkeepMs;
    }
    bool busy = false;
    try {
      round(timeout_ms, busy);
      upkeep(clock_ns(CLOCK_MONOTONIC));
    } catch (const std::exception&) {
      batch_.clear();
      counters_.faults.add();
    }
    // Spinning pays while frames keep coming; every spin in vain halves the next one.
    if (busy) {
      if (spin > 0 || allowed_spin == 0) allowed_spin = std::min(kMaxSpin, allowed_spin * 2 + 1);
      spin = 0;
    } else if (may_sleep) {
      allowed_spin /= 2;
      spin = 0;
    } else {
      ++spin;
    }
  }
  const std::lock_guard lock(mutex_);
  for (const auto& capture : captures_) capture.second->flush();
  in_thread_ = false;
  run_commands();
}

void SwitchWorker::round(int timeout_ms, bool& busy) {
  const std::uint64_t before = counters_.frames.get();
  epoll_event events[64];
  const int n = ::epoll_wait(epoll_.get(), events, 64, timeout_ms);
  asleep_.store(false, std::memory_order_relaxed);
  for (int i = 0; i < n; ++i) {
    if (events[i].data.u64 == kNoPort) {
      std::uint64_t count;
      [[maybe_unused]] const ssize_t got = ::read(event_.get(), &count, sizeof count);
      continue;
    }
    SwitchPort* port = port_at(static_cast<std::uint32_t>(events[i].data.u64));
    if (port != nullptr && port->up) receive(*port);
  }
  for (SwitchPort* port : polled_) {
    if (port->io->pending()) receive(*port);
  }
  forward();
  busy = counters_.frames.get() != before;
  if (lost_port_) list_ports();
  counters_.rounds.add();
}

void SwitchWorker::receive(SwitchPort& port) {
  const std::size_t budget = port.io->fd() < 0 ? kPolledBudget : kBudget;
  if (!batch_.has_room() || batch_.size() + budget > Batch::kFrames) forward();
  if (!port.up) return;
  Receive result = port.io->receive(batch_, port.number, budget);
  while (result == Receive::more) {
    forward();
    if (!port.up) return;
    result = port.io->receive(batch_, port.number, budget);
  }
  if (result == Receive::gone) {
    forward();  // what it sent before, while it still has a segment
    lose(port);
  }
}

void SwitchWorker::forward() {
  if (batch_.size() == 0) return;
  const std::uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);
  pipeline_.decide(batch_, static_cast<double>(now_ns) * 1e-9);
  const std::uint64_t wall_ns = captures_.empty() ? 0 : clock_ns(CLOCK_REALTIME);
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    const Frame& frame = batch_.frame(i);
    SwitchPort& ingress = *ports_[batch_.ingress(i)];
    ingress.counters.rx_packets.add();
    ingress.counters.rx_bytes.add(frame.length);
    for (auto& [id, capture] : captures_) {
      const std::uint32_t only = capture->port();
      if (only == kNoPort || only == ingress.number || only == batch_.egress[i] ||
          (batch_.egress[i] == kFlood && port_at(only) != nullptr &&
           port_at(only)->segment == ingress.segment)) {
        capture->add(frame, wall_ns);
      }
    }
    if (batch_.egress[i] == kFlood) {
      ingress.counters.floods.add();
      for (SwitchPort* port : by_segment_[ingress.segment]) {
        if (port != &ingress) send(*port, frame);
      }
    } else if (batch_.egress[i] != kNoPort) {
      send(*ports_[batch_.egress[i]], frame);
    } else {
      ingress.counters.rx_drops[static_cast<std::size_t>(batch_.reason[i])].add();
    }
  }
  for (SwitchPort* port : queueing_) {
    const Flushed flushed = port->io->flush();
    port->counters.tx_packets.add(flushed.packets);
    port->counters.tx_bytes.add(flushed.bytes);
    for (std::size_t k = kFirstFailure; k < static_cast<std::size_t>(Transmit::count_); ++k) {
      if (flushed.failed[k] != 0) port->counters.tx_drops[k].add(flushed.failed[k]);
    }
    if (flushed.failed[static_cast<std::size_t>(Transmit::gone)] != 0 && port->up) lose(*port);
  }
  counters_.frames.add(batch_.size());
  batch_.clear();
  publish();
}

void SwitchWorker::send(SwitchPort& port, const Frame& frame) {
  const Transmit result = port.up ? port.io->transmit(frame) : Transmit::gone;
  if (result == Transmit::sent) {
    port.counters.tx_packets.add();
    port.counters.tx_bytes.add(frame.length);
    return;
  }
  if (result == Transmit::queued) return;
  port.counters.tx_drops[static_cast<std::size_t>(result)].add();
  if (result == Transmit::gone && port.up) lose(port);
}

// The other end vanished: no more frames in or out, and no wake-ups from a descriptor that is ready for ever.
// The lists are made anew at the end of the round, because they may be being walked.
void SwitchWorker::lose(SwitchPort& port) {
  port.up = false;
  unwatch(port);
  pipeline_.remove_port(port.number);
  lost_port_ = true;
}

void SwitchWorker::watch(SwitchPort& port) {
  if (port.io->fd() < 0) return;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = port.number;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, port.io->fd(), &event) != 0)
    throw_errno(errno, "watch a port");
}

void SwitchWorker::unwatch(SwitchPort& port) noexcept {
  if (port.io->fd() >= 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, port.io->fd(), nullptr);
}

void SwitchWorker::list_ports() {
  lost_port_ = false;
  for (auto& members : by_segment_) members.clear();
  polled_.clear();
  queueing_.clear();
  for (const auto& port : ports_) {
    if (!port || !port->up) continue;
    if (by_segment_.size() <= port->segment) by_segment_.resize(port->segment + std::size_t{1});
    by_segment_[port->segment].push_back(port.get());
    if (port->io->fd() < 0) polled_.push_back(port.get());
    if (port->io->queues()) queueing_.push_back(port.get());
  }
}

void SwitchWorker::upkeep(std::uint64_t now_ns) {
  if (!sweeping_ && now_ns >= next_upkeep_ns_) {
    next_upkeep_ns_ = now_ns + kUpkeepNs;
    sweeping_ = true;
    for (const auto& capture : captures_) capture.second->flush();
  }
  if (sweeping_) {
    sweeping_ = pipeline_.sweep();
    publish();
  }
}

void SwitchWorker::publish() noexcept {
  const Pipeline::Counters& from = pipeline_.counters();
  counters_.pair_hits.set(from.pair_hits);
  counters_.fdb_hits.set(from.fdb_hits);
  counters_.floods.set(from.floods);
  counters_.learned.set(from.learned);
  counters_.pairs.set(pipeline_.pairs().size());
  counters_.pairs_inserted.set(from.pairs_inserted);
  counters_.pairs_erased.set(from.pairs_erased);
}

}  // namespace fastpath::engine
