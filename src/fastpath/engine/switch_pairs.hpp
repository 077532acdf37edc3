// The (source, destination) pairs that carried traffic: how much, where to, and whether the switch put them
// into the forwarding table itself.
//
// One thread uses it. All memory is taken at construction; a full table refuses new pairs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace fastpath::engine {

struct Pair {
  std::uint64_t source;
  std::uint64_t destination;
  std::uint64_t packets;
  std::uint64_t bytes;
  std::uint32_t port;
  std::uint16_t segment;
  bool learned;  // inserted into the forwarding table by the switch, and its to remove
  bool live;
  // Chains of indices + 1; 0 ends a chain. The one by destination goes both ways: thousands of stations may
  // talk to one, and each of their pairs must come out in one step.
  std::uint32_t next_pair;
  std::uint32_t next_destination;
  std::uint32_t previous_destination;
};

class PairTable {
 public:
  PairTable(std::size_t capacity, std::uint64_t seed)
      : capacity_(capacity),
        seed_(seed),
        mask_(bucket_count(capacity) - 1),
        pairs_(new Pair[capacity]),
        by_pair_(new std::uint32_t[mask_ + 1]()),
        by_destination_(new std::uint32_t[mask_ + 1]()) {}

  std::size_t size() const noexcept { return size_; }
  std::size_t capacity() const noexcept { return capacity_; }
  // Slots below this index may be live; walk them with at().
  std::size_t high_water() const noexcept { return fresh_; }
  Pair& at(std::size_t index) noexcept { return pairs_[index]; }

  Pair* find(std::uint64_t source, std::uint64_t destination) noexcept {
    for (std::uint32_t i = by_pair_[pair_bucket(source, destination)]; i != 0; i = pairs_[i - 1].next_pair) {
      Pair& pair = pairs_[i - 1];
      if (pair.source == source && pair.destination == destination) return &pair;
    }
    return nullptr;
  }

  // The pair must not be there yet. nullptr: the table is full.
  Pair* insert(std::uint64_t source, std::uint64_t destination, std::uint16_t segment, std::uint32_t port,
               bool learned) noexcept {
    std::uint32_t link;
    if (free_ != 0) {
      link = free_;
      free_ = pairs_[link - 1].next_pair;
    } else if (fresh_ < capacity_) {
      link = static_cast<std::uint32_t>(++fresh_);
    } else {
      return nullptr;
    }
    std::uint32_t& pair_head = by_pair_[pair_bucket(source, destination)];
    std::uint32_t& destination_head = by_destination_[destination_bucket(destination)];
    pairs_[link - 1] = {source,    destination,      0, 0, port, segment, learned, true,
                        pair_head, destination_head, 0};
    if (destination_head != 0) pairs_[destination_head - 1].previous_destination = link;
    pair_head = destination_head = link;
    ++size_;
    return &pairs_[link - 1];
  }

  void erase(Pair& pair) noexcept {
    const auto link = static_cast<std::uint32_t>(&pair - pairs_.get() + 1);
    std::uint32_t* place = &by_pair_[pair_bucket(pair.source, pair.destination)];
    while (*place != link) place = &pairs_[*place - 1].next_pair;
    *place = pair.next_pair;
    if (pair.previous_destination != 0) {
      pairs_[pair.previous_destination - 1].next_destination = pair.next_destination;
    } else {
      by_destination_[destination_bucket(pair.destination)] = pair.next_destination;
    }
    if (pair.next_destination != 0) {
      pairs_[pair.next_destination - 1].previous_destination = pair.previous_destination;
    }
    pair.live = false;
    pair.next_pair = free_;
    free_ = link;
    --size_;
  }

  // Calls visit(pair) for every pair to `destination`; visit may erase the pair it is given.
  template <typename Visit>
  void for_destination(std::uint64_t destination, Visit&& visit) {
    std::uint32_t i = by_destination_[destination_bucket(destination)];
    while (i != 0) {
      Pair& pair = pairs_[i - 1];
      i = pair.next_destination;
      if (pair.destination == destination) visit(pair);
    }
  }

 private:
  static std::size_t bucket_count(std::size_t capacity) noexcept {
    std::size_t n = 16;
    while (n < capacity) n *= 2;
    return n;
  }
  // Two multiply-and-fold rounds over a secret seed: stations choose their addresses, and must not be able to
  // choose long chains.
  std::size_t mix(std::uint64_t x) const noexcept {
    x = (x ^ seed_) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
    return (x >> 32) & mask_;
  }
  std::size_t pair_bucket(std::uint64_t source, std::uint64_t destination) const noexcept {
    return mix((source << 16 | source >> 32) ^ destination);
  }
  std::size_t destination_bucket(std::uint64_t destination) const noexcept { return mix(destination); }

  std::size_t capacity_;
  std::uint64_t seed_;
  std::size_t mask_;
  std::unique_ptr<Pair[]> pairs_;
  std::unique_ptr<std::uint32_t[]> by_pair_;
  std::unique_ptr<std::uint32_t[]> by_destination_;
  std::size_t size_ = 0;
  std::size_t fresh_ = 0;
  std::uint32_t free_ = 0;
};

}  // namespace fastpath::engine
