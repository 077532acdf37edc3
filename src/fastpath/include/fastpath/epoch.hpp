// Epoch-based reclamation: one writer at a time, any number of readers that never wait.
//
// A reader holds a Guard while it follows pointers that a writer may replace. A writer publishes the new
// object (an atomic exchange, sequentially consistent), then calls retire() on the old one; reclaim() frees
// what no reader can still see. After Fraser, "Practical lock-freedom" (2004), section 5.2.3, with one slot
// a reader and no thread registration.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace fastpath {

class EpochDomain {
 public:
  EpochDomain() = default;
  EpochDomain(const EpochDomain&) = delete;
  EpochDomain& operator=(const EpochDomain&) = delete;
  ~EpochDomain() {
    for (const Retired& item : retired_) item.free(item.object);
  }

  // Pins the current epoch. About 20 cycles; takes no lock. More than kSlots readers at once share one
  // counter, which only delays reclamation.
  class Guard {
   public:
    explicit Guard(EpochDomain& domain) noexcept : domain_(domain), slot_(domain.enter()) {}
    ~Guard() { domain_.leave(slot_); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    EpochDomain& domain_;
    int slot_;
  };

  // Writer only. After this the next retire(), or the next `count` of them, do not fail.
  void expect(std::size_t count = 1) {
    if (retired_.size() + count > retired_.capacity()) retired_.reserve(2 * retired_.size() + count);
  }
  // Writer only. `object` is freed by `free` once no guard that could have seen it is left.
  template <typename T>
  void retire(T* object) {
    retire(object, [](void* p) { delete static_cast<T*>(p); });
  }
  void retire(void* object, void (*free)(void*)) { retired_.push_back({advance(), object, free}); }

  // Writer only, for owners that keep their own list of what waits: call advance() after publishing, keep its
  // result beside the old object, and free the object once oldest() is greater.
  std::uint64_t advance() noexcept { return epoch_.fetch_add(1); }
  std::uint64_t oldest() const noexcept {
    std::uint64_t oldest = overflow_.load() != 0 ? 0 : ~std::uint64_t{0};
    for (const Slot& slot : slots_) {
      const std::uint64_t pinned = slot.pinned.load();
      if (pinned != kFree && pinned < oldest) oldest = pinned;
    }
    return oldest;
  }

  // Writer only. Frees what is safe to free; returns how many objects still wait.
  std::size_t reclaim() {
    if (retired_.empty()) return 0;
    const std::uint64_t safe = oldest();
    std::size_t kept = 0;
    for (const Retired& item : retired_) {
      if (item.epoch < safe) {
        item.free(item.object);
      } else {
        retired_[kept++] = item;
      }
    }
    retired_.resize(kept);
    return kept;
  }

  std::size_t waiting() const noexcept { return retired_.size(); }

  // In the child of a fork, where no other thread is: their guards would stay for good.
  void forget_readers() noexcept {
    overflow_ = 0;
    for (Slot& slot : slots_) slot.pinned = kFree;
  }

 private:
  static constexpr int kSlots = 64;
  static constexpr int kOverflow = -1;
  static constexpr std::uint64_t kFree = 0;

  struct alignas(64) Slot {
    std::atomic<std::uint64_t> pinned{kFree};
  };
  struct Retired {
    std::uint64_t epoch;
    void* object;
    void (*free)(void*);
  };

  int enter() noexcept {
    const std::size_t start = std::hash<std::thread::id>{}(std::this_thread::get_id());
    for (int i = 0; i < kSlots; ++i) {
      const int index = static_cast<int>((start + static_cast<std::size_t>(i)) % kSlots);
      std::uint64_t expected = kFree;
      if (slots_[index].pinned.load(std::memory_order_relaxed) == kFree &&
          slots_[index].pinned.compare_exchange_strong(expected, epoch_.load())) {
        return index;
      }
    }
    overflow_.fetch_add(1);
    return kOverflow;
  }
  void leave(int slot) noexcept {
    if (slot == kOverflow) {
      overflow_.fetch_sub(1);
    } else {
      slots_[slot].pinned.store(kFree, std::memory_order_release);
    }
  }

  // Starts at 1, so that a pinned epoch never equals kFree.
  std::atomic<std::uint64_t> epoch_{1};
  std::atomic<std::uint32_t> overflow_{0};
  Slot slots_[kSlots];
  std::vector<Retired> retired_;  // guarded by the writer's lock
};

}  // namespace fastpath
