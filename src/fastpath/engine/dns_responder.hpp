// From query bytes to answer bytes: ready images by (name, type), asked for anew when the records change.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "dns_message.hpp"

namespace fastpath::engine::dns {

// Where images come from, shared by all responders. Whoever changes the records says so here before an image
// of the new revision can be asked for.
class Source {
 public:
  static constexpr std::size_t kTopics = 4096;

  explicit Source(std::size_t edns_size) : edns_size(edns_size) {}
  virtual ~Source() = default;
  // The image for a name (wire form, lower case); null when none can be made (SERVFAIL).
  virtual std::shared_ptr<const Image> image(std::string_view name, std::uint16_t type) = 0;

  // Services share slots; a neighbour's change costs no more than an image made for nothing.
  static std::int32_t topic_of(std::string_view service) noexcept;
  void changed(std::uint64_t revision, std::string_view service) noexcept {
    topics_[static_cast<std::size_t>(topic_of(service))].store(revision, std::memory_order_release);
    revision_.store(revision, std::memory_order_release);
  }
  void all_changed(std::uint64_t revision) noexcept {
    for (auto& topic : topics_) topic.store(revision, std::memory_order_release);
    revision_.store(revision, std::memory_order_release);
  }
  std::uint64_t revision() const noexcept { return revision_.load(std::memory_order_acquire); }
  bool current(const Image& image) const noexcept {
    if (image.topic < 0) return image.revision == revision();
    return image.revision >= topics_[static_cast<std::size_t>(image.topic)].load(std::memory_order_acquire);
  }

  const std::size_t edns_size;

 private:
  std::atomic<std::uint64_t> revision_{0};
  std::array<std::atomic<std::uint64_t>, kTopics> topics_{};
};

// Written by the thread that answers, read by any.
struct Counters {
  std::atomic<std::uint64_t> queries{0};
  std::atomic<std::uint64_t> ignored{0};
  std::atomic<std::uint64_t> truncated{0};
  std::atomic<std::uint64_t> misses{0};
  std::array<std::atomic<std::uint64_t>, 17> rcodes{};

  static void add(std::atomic<std::uint64_t>& counter, std::uint64_t n = 1) noexcept {
    counter.fetch_add(n, std::memory_order_relaxed);
  }
};

class Responder {
 public:
  Responder(Source& source, std::uint64_t seed);

  // Writes the answer to `message` into `out`, which holds max(max_size, source.edns_size) bytes, and returns
  // its size; 0: say nothing. `max_size` (512 to 65535) is what goes without EDNS.
  std::size_t respond(const std::uint8_t* message, std::size_t size, std::size_t max_size, std::uint8_t* out);

  const Counters& counters() const noexcept { return counters_; }
  std::size_t edns_size() const noexcept { return source_.edns_size; }

 private:
  struct Hash {
    using is_transparent = void;
    std::uint64_t seed;
    std::size_t operator()(std::string_view key) const noexcept;
  };
  using Images = std::unordered_map<std::string, std::shared_ptr<const Image>, Hash, std::equal_to<>>;

  std::shared_ptr<const Image> find(std::string_view key);
  void keep(std::string_view key, std::shared_ptr<const Image> image);

  Source& source_;
  std::mutex mutex_;  // guards the images and the dice; never held while the source is asked
  Images positive_;
  Images negative_;  // apart, so that a flood of made-up names cannot push out the real ones
  Random random_;
  Scratch scratch_;
  Counters counters_;
};

}  // namespace fastpath::engine::dns
