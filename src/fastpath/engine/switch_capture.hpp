// Frames into a pcap file, by the worker: packed into a buffer, written when it is full and a few times a
// second. Where the file is a pipe whose reader falls behind, frames are left out rather than waited for.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "port_link.hpp"
#include "switch_frame.hpp"

namespace fastpath::engine {

class Capture {
 public:
  // Takes an open, empty file. port: what it received and what was sent to it; kNoPort: all that was
  // received.
  Capture(Descriptor file, std::uint32_t port) : file_(static_cast<Descriptor&&>(file)), port_(port) {
    ::fcntl(file_.get(), F_SETFL, ::fcntl(file_.get(), F_GETFL) | O_NONBLOCK);
    buffer_.reserve(kBuffer);
    // Classic pcap, nanoseconds, host byte order, LINKTYPE_ETHERNET.
    const std::uint32_t magic = 0xA1B23C4D;
    const std::uint16_t version[2] = {2, 4};
    const std::uint32_t rest[4] = {0, 0, kSnap, 1};
    append(&magic, sizeof magic);
    append(version, sizeof version);
    append(rest, sizeof rest);
  }
  ~Capture() { finish(); }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  std::uint32_t port() const noexcept { return port_; }
  bool failed() const noexcept { return error_ != 0; }
  int error() const noexcept { return error_; }
  std::uint64_t frames() const noexcept { return frames_; }

  void add(const Frame& frame, std::uint64_t now_ns) noexcept {
    if (buffer_.size() + kRecord + frame.length > kBuffer) flush();
    if (error_ != 0 || buffer_.size() + kRecord + frame.length > kBuffer) return;
    const std::uint32_t header[4] = {static_cast<std::uint32_t>(now_ns / 1000000000),
                                     static_cast<std::uint32_t>(now_ns % 1000000000), frame.length,
                                     frame.length};
    append(header, sizeof header);
    append(frame.data, frame.length);
    ++frames_;
  }

  // In the child of a fork: what is not written yet is the parent's to write.
  void abandon() noexcept { buffer_.clear(); }

  // Writes what the file takes now; what it does not take waits in the buffer.
  void flush() noexcept {
    std::size_t done = 0;
    while (done < buffer_.size() && error_ == 0) {
      const ssize_t n = ::write(file_.get(), buffer_.data() + done, buffer_.size() - done);
      if (n >= 0) {
        done += static_cast<std::size_t>(n);
      } else if (errno == EAGAIN) {
        break;
      } else if (errno != EINTR) {
        error_ = errno;
      }
    }
    if (error_ != 0) done = buffer_.size();
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(done));
  }

  // The end: a slow reader gets a moment for each part of what is left.
  void finish() noexcept {
    for (flush(); !buffer_.empty() && error_ == 0; flush()) {
      pollfd ready{file_.get(), POLLOUT, 0};
      if (::poll(&ready, 1, kPatienceMs) == 0) error_ = EAGAIN;
    }
  }

 private:
  static constexpr std::size_t kBuffer = 256 * 1024;
  static constexpr std::size_t kRecord = 16;
  static constexpr std::uint32_t kSnap = 262144;
  static constexpr int kPatienceMs = 200;

  void append(const void* data, std::size_t length) noexcept {
    const auto* bytes = static_cast<const std::uint8_t*>(data);
    buffer_.insert(buffer_.end(), bytes, bytes + length);  // within the reserve: no allocation
  }

  Descriptor file_;
  std::uint32_t port_;
  int error_ = 0;
  std::uint64_t frames_ = 0;
  std::vector<std::uint8_t> buffer_;
};

}  // namespace fastpath::engine
