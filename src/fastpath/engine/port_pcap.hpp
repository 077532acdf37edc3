// Capture files as a port: frames out of one file, as fast as the switch takes them, and into another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <time.h>

#include "port_io.hpp"
#include "switch_capture.hpp"

namespace fastpath::engine {

// The records of a classic pcap file of Ethernet frames that is held in memory, either byte order.
class PcapReader {
 public:
  // Throws std::invalid_argument that says what is wrong with the file.
  explicit PcapReader(std::string bytes) : bytes_(std::move(bytes)) {
    if (bytes_.size() < kFileHeader) throw std::invalid_argument("shorter than the header of a pcap file");
    std::uint32_t magic;
    std::memcpy(&magic, bytes_.data(), sizeof magic);
    swapped_ = magic == 0xD4C3B2A1 || magic == 0x4D3CB2A1;
    if (!swapped_ && magic != 0xA1B2C3D4 && magic != 0xA1B23C4D) {
      throw std::invalid_argument(
          "not a pcap file (pcapng files are not read; convert them with editcap -F pcap)");
    }
    const std::uint32_t link_type = word(20) & 0xFFFF;
    if (link_type != 1)
      throw std::invalid_argument("link type " + std::to_string(link_type) + ", expected 1 (Ethernet)");
    // Every record is checked here, so that reading needs no checks.
    for (std::size_t at = kFileHeader; at < bytes_.size();) {
      if (bytes_.size() - at < kRecord || bytes_.size() - at - kRecord < word(at + 8)) {
        throw std::invalid_argument("ends within the record at byte " + std::to_string(at));
      }
      if (word(at + 8) > kMaxFrame) {
        throw std::invalid_argument("a frame of " + std::to_string(word(at + 8)) + " bytes at byte " +
                                    std::to_string(at));
      }
      at += kRecord + word(at + 8);
    }
  }

  std::size_t position() const noexcept { return at_; }
  std::size_t end() const noexcept { return bytes_.size(); }
  // The next frame; nullptr at the end.
  const char* next(std::size_t& length) noexcept {
    if (at_ >= bytes_.size()) return nullptr;
    length = word(at_ + 8);
    const char* frame = bytes_.data() + at_ + kRecord;
    at_ += kRecord + length;
    return frame;
  }

 private:
  static constexpr std::size_t kFileHeader = 24;
  static constexpr std::size_t kRecord = 16;

  std::uint32_t word(std::size_t at) const noexcept {
    std::uint32_t value;
    std::memcpy(&value, bytes_.data() + at, sizeof value);
    return swapped_ ? __builtin_bswap32(value) : value;
  }

  std::string bytes_;
  bool swapped_ = false;
  std::size_t at_ = kFileHeader;
};

class PcapPort final : public PortIo {
 public:
  // Either may be null.
  PcapPort(std::unique_ptr<PcapReader> reader, std::unique_ptr<Capture> writer)
      : reader_(std::move(reader)), writer_(std::move(writer)) {}

  bool pending() const noexcept override { return reader_ && reader_->position() < reader_->end(); }
  std::uint64_t put_until() const noexcept override { return reader_ ? reader_->end() : 0; }
  std::uint64_t taken_until() const noexcept override { return reader_ ? reader_->position() : 0; }

  Receive receive(Batch& batch, std::uint32_t number, std::size_t budget) noexcept override {
    while (budget-- > 0 && batch.has_room()) {
      std::size_t length;
      const char* frame = reader_ ? reader_->next(length) : nullptr;
      if (frame == nullptr) break;
      std::memset(batch.next(), 0, kVnetLength);
      std::memcpy(batch.next() + kVnetLength, frame, length);
      batch.push(number, length);
    }
    return Receive::ok;
  }

  Transmit transmit(const Frame& frame) noexcept override {
    if (!writer_) return Transmit::sent;
    timespec now;
    ::clock_gettime(CLOCK_REALTIME, &now);
    with_finished_checksum(frame, [&] {
      writer_->add(frame, static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u +
                              static_cast<std::uint64_t>(now.tv_nsec));
      return true;
    });
    return writer_->failed() ? Transmit::error : Transmit::sent;
  }

  int close() noexcept override {
    if (writer_) writer_->finish();
    const int error = writer_ ? writer_->error() : 0;
    reader_.reset();
    writer_.reset();
    return error;
  }
  void abandon() noexcept override {
    if (writer_) writer_->abandon();
    close();
  }

 private:
  std::unique_ptr<PcapReader> reader_;
  std::unique_ptr<Capture> writer_;
};

}  // namespace fastpath::engine
