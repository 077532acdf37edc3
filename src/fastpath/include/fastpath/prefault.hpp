// New memory made ready ahead of who will write there, by a thread that touches its pages.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>

#include "fastpath/pages.hpp"
#include "fastpath/signals.hpp"

namespace fastpath {

// The first write to a huge page waits until the kernel has zeroed 2 MiB, and on a virtual machine until the
// host has found memory for it: milliseconds. Touched from elsewhere, pages are there when they are needed.
// Where no thread is to be had, nothing happens ahead and all else is the same.
class Prefault {
 public:
  // Less than this is not worth a thread.
  static constexpr std::size_t kLeastBytes = std::size_t{2} << 20;

  // `pages` must outlive this, and may be read and written meanwhile.
  explicit Prefault(const Pages& pages) {
    const SignalsBlocked blocked;
    work_->running.store(true, std::memory_order_relaxed);
    try {
      std::thread(&Prefault::touch, work_, static_cast<std::uint8_t*>(pages.data()), pages.bytes()).detach();
    } catch (const std::exception&) {
      work_->running.store(false, std::memory_order_relaxed);
    }
  }
  Prefault(const Prefault&) = delete;
  Prefault& operator=(const Prefault&) = delete;
  // Waits for the page that is being touched, if any.
  ~Prefault() {
    work_->stop.store(true, std::memory_order_relaxed);
    while (!done()) std::this_thread::yield();
  }

  // Nothing touches pages any more. The child of a fork has no such thread, wherever it was.
  bool done() const noexcept { return !work_->running.load(std::memory_order_acquire) || forks() != forks_; }

 private:
  struct Work {
    std::atomic<bool> stop{false};
    std::atomic<bool> running{false};
  };

  static void touch(const std::shared_ptr<Work>& work, std::uint8_t* data, std::size_t bytes) noexcept {
    constexpr std::size_t kPage = 4096;  // on huge pages all but one in 512 find theirs there
    for (std::size_t at = 0; at < bytes && !work->stop.load(std::memory_order_relaxed); at += kPage) {
      // Writes where it reads 0, and changes nothing. (A compiler may turn other such writes into reads.)
      std::uint8_t zero = 0;
      std::atomic_ref(data[at]).compare_exchange_strong(zero, 0, std::memory_order_relaxed);
    }
    work->running.store(false, std::memory_order_release);
  }

  // How many forks lie between this process and the one that loaded this code.
  static std::uint64_t forks() noexcept {
    static std::atomic<std::uint64_t> count{0};
    static const int counted = pthread_atfork(nullptr, nullptr, [] { count.fetch_add(1); });
    return counted == 0 ? count.load(std::memory_order_relaxed) : 0;
  }

  // The thread's as well: it may look at this after the end of the object.
  const std::shared_ptr<Work> work_ = std::make_shared<Work>();
  const std::uint64_t forks_ = forks();
};

}  // namespace fastpath
