// Zeroed memory for tables: aligned to a cache line, and on huge pages where the kernel grants them.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace fastpath {

// A random look-up into megabytes of 4 KiB pages pays a page walk on top of the cache miss.
class Pages {
 public:
  Pages() = default;
  explicit Pages(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    if (bytes < kHuge) {
      bytes_ = (bytes + 63) / 64 * 64;
      block_ = std::calloc(1, bytes_ + 63);  // new pages are zero: it does not write there
      if (block_ == nullptr) throw std::bad_alloc();
      data_ = reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(block_) + 63) / 64 * 64);
      return;
    }
    bytes_ = (bytes + kHuge - 1) / kHuge * kHuge;
    if (bytes_ < bytes) throw std::bad_alloc();
    void* mapped = mmap(nullptr, bytes_ + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    auto* start = static_cast<std::uint8_t*>(mapped);
    const std::size_t skip = (kHuge - reinterpret_cast<std::uintptr_t>(start) % kHuge) % kHuge;
    if (skip != 0) munmap(start, skip);
    munmap(start + skip + bytes_, kHuge - skip);
    data_ = start + skip;
#ifdef MADV_HUGEPAGE
    madvise(data_, bytes_, MADV_HUGEPAGE);  // advice: without it the table is slower, not wrong
#endif
  }
  Pages(Pages&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(block_, other.block_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() {
    std::free(block_);
    if (discardable()) munmap(data_, bytes_);
  }

  void* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

  // Gives the memory back and keeps the addresses: they read as zero, and cost memory again once written.
  bool discardable() const noexcept { return block_ == nullptr && data_ != nullptr; }
  void discard() noexcept { discard(0, bytes_); }
  // The whole pages of a range; returns how many bytes those are.
  std::size_t discard(std::size_t begin, std::size_t bytes) noexcept {
    const std::size_t first = (begin + kHuge - 1) / kHuge * kHuge;
    const std::size_t end = (begin + bytes) / kHuge * kHuge;
    if (!discardable() || first >= end) return 0;
    madvise(static_cast<std::uint8_t*>(data_) + first, end - first, MADV_DONTNEED);
    return end - first;
  }

 private:
  static constexpr std::size_t kHuge = std::size_t{2} << 20;
  void* block_ = nullptr;  // the allocator's, which holds what is small
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace fastpath
