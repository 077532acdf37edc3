// A burst of frames in, a way out for each: parse, learn, look up, remember.
//
// No sockets, no threads, no clock of its own. One thread calls it; the two tables may be read and written by
// others meanwhile. Segments are the VLANs of the Fdb.
//
// Who answers for a frame, in this order:
//   1. the forwarding table: the exact (source, destination) pair, then any source. An answer that names a
//   port
//      that is gone or lies in another segment is no answer, so a stale entry never makes a black hole;
//   2. for a unicast destination the Fdb. Its answer is inserted into the forwarding table as a *learned*
//   pair,
//      unless something stands there;
//   3. nobody: the frame floods its segment.
//
// A learned pair lives as long as the Fdb still knows both its ends where they were: it goes at once when a
// station shows up elsewhere or its port is removed, and otherwise in the next sweep (worker: every 250 ms)
// after the Fdb aged an end out, or the user inserted an any-source entry for its destination. A pair whose
// value the user replaced, and every pair he inserted before the switch did, is his, and is only counted.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fastpath/capi.h"
#include "switch_frame.hpp"
#include "switch_pairs.hpp"

namespace fastpath::engine {

class Pipeline {
 public:
  static constexpr std::int32_t kNoSegment = -1;
  static constexpr std::size_t kSweepChunk = 256;

  struct Counters {
    std::uint64_t pair_hits = 0;       // frames whose way the forwarding table knew
    std::uint64_t fdb_hits = 0;        // frames whose way the Fdb knew
    std::uint64_t floods = 0;          // frames sent to the whole segment
    std::uint64_t learned = 0;         // stations that are new or have moved
    std::uint64_t pairs_inserted = 0;  // learned pairs put into the forwarding table
    std::uint64_t pairs_erased = 0;    // and taken out again
  };

  Pipeline(const fastpath_forwarding_v1& forwarding, const fastpath_fdb_v1& fdb, std::size_t mtu,
           std::size_t max_pairs, std::uint64_t seed)
      : forwarding_(forwarding), fdb_(fdb), mtu_(mtu), pairs_(max_pairs, seed), segment_of_(64, kNoSegment) {}

  // Makes `number` a way out within `segment`.
  void add_port(std::uint32_t number, std::uint16_t segment) {
    if (number >= segment_of_.size()) segment_of_.resize(number * 2, kNoSegment);
    segment_of_[number] = segment;
    if (members_.size() <= segment) members_.resize(segment + std::size_t{1}, 0);
    ++members_[segment];
  }

  // No frame leaves through it any more, and the pairs that the switch learned for it are gone.
  void remove_port(std::uint32_t number) {
    if (number >= segment_of_.size() || segment_of_[number] == kNoSegment) return;
    --members_[static_cast<std::size_t>(segment_of_[number])];
    segment_of_[number] = kNoSegment;
    for (std::size_t i = 0; i < pairs_.high_water(); ++i) {
      Pair& pair = pairs_.at(i);
      if (pair.live && pair.port == number) forget(pair);
    }
  }

  // Fills batch.egress and batch.reason. Every ingress must be a port that was added.
  void decide(Batch& batch, double now_s) {
    const std::size_t n = collect(batch);
    if (n == 0) return;
    learn(n, now_s);
    forwarding_.lookup_many(forwarding_.self, source_.data(), destination_.data(), answer_.data(), n);
    std::size_t missed = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (reachable(answer_[i], segment_[i])) {
        ++counters_.pair_hits;
        count_pair(i, batch);
        settle(batch, i, answer_[i]);
      } else if (!mac_is_group(destination_[i])) {
        missed_[missed] = static_cast<std::uint16_t>(i);
        missed_mac_[missed] = destination_[i];
        missed_segment_[missed] = segment_[i];
        ++missed;
      } else {
        flood(batch, i);
      }
    }
    if (missed == 0) return;
    fdb_.lookup_many(fdb_.self, missed_mac_.data(), missed_segment_.data(), known_.data(), missed);
    for (std::size_t k = 0; k < missed; ++k) {
      const std::size_t i = missed_[k];
      const std::uint32_t port = known_[k];
      if (!reachable(port, segment_[i])) {
        flood(batch, i);
        continue;
      }
      ++counters_.fdb_hits;
      if (port != ingress_[i]) remember(i, port, batch);
      settle(batch, i, port);
    }
  }

  // Checks the next kSweepChunk pairs against both tables. False: the round is complete.
  bool sweep() {
    std::size_t n = 0;
    while (n < kSweepChunk && sweep_at_ < pairs_.high_water()) {
      Pair& pair = pairs_.at(sweep_at_++);
      if (!pair.live) continue;
      swept_[n] = &pair;
      source_[n] = pair.source;
      destination_[n] = pair.destination;
      segment_[n] = pair.segment;
      ++n;
    }
    if (n > 0) {
      // A group address is never a source, so the exact pair is not found and the any-source entry shows.
      std::array<std::uint64_t, kSweepChunk> any_source;
      std::array<std::uint32_t, kSweepChunk> from_any;
      std::array<std::uint32_t, kSweepChunk> source_port;
      any_source.fill(std::uint64_t{1} << 40);
      forwarding_.lookup_many(forwarding_.self, source_.data(), destination_.data(), answer_.data(), n);
      forwarding_.lookup_many(forwarding_.self, any_source.data(), destination_.data(), from_any.data(), n);
      fdb_.lookup_many(fdb_.self, destination_.data(), segment_.data(), known_.data(), n);
      fdb_.lookup_many(fdb_.self, source_.data(), segment_.data(), source_port.data(), n);
      for (std::size_t i = 0; i < n; ++i) {
        Pair& pair = *swept_[i];
        if (answer_[i] == kNoPort) {
          pairs_.erase(pair);  // the user deleted it
        } else if (!pair.learned || answer_[i] != pair.port) {
          pair.learned = false;  // the user's own
          pair.port = answer_[i];
        } else if (known_[i] != pair.port || source_port[i] == kNoPort || from_any[i] != kNoPort) {
          forget(pair);
        }
      }
    }
    if (sweep_at_ < pairs_.high_water()) return true;
    sweep_at_ = 0;
    return false;
  }

  const Counters& counters() const noexcept { return counters_; }
  PairTable& pairs() noexcept { return pairs_; }

 private:
  template <typename T>
  using PerFrame = std::array<T, Batch::kFrames>;
  static_assert(kSweepChunk <= Batch::kFrames);

  // Checks every frame; lays the good ones out as columns.
  std::size_t collect(Batch& batch) noexcept {
    std::size_t n = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const Frame& frame = batch.frame(i);
      batch.egress[i] = kNoPort;
      batch.reason[i] = check_frame(frame.header(), frame.data, frame.length, mtu_);
      if (batch.reason[i] != Drop::none) continue;
      place_[n] = static_cast<std::uint16_t>(i);
      destination_[n] = mac_from_bytes(frame.data);
      source_[n] = mac_from_bytes(frame.data + 6);
      ingress_[n] = batch.ingress(i);
      segment_[n] = static_cast<std::uint16_t>(segment_of_[ingress_[n]]);
      ++n;
    }
    return n;
  }

  void learn(std::size_t n, double now_s) {
    fdb_.lookup_many(fdb_.self, source_.data(), segment_.data(), known_.data(), n);
    const std::size_t changed =
        fdb_.learn_many(fdb_.self, source_.data(), segment_.data(), ingress_.data(), n, now_s);
    if (changed == 0) return;
    counters_.learned += changed;
    fdb_.lookup_many(fdb_.self, source_.data(), segment_.data(), answer_.data(), n);
    for (std::size_t i = 0; i < n; ++i) {
      if (known_[i] == ingress_[i] && answer_[i] == ingress_[i]) continue;
      pairs_.for_destination(source_[i], [&](Pair& pair) {
        if (pair.learned && pair.segment == segment_[i] && pair.port != answer_[i]) forget(pair);
      });
    }
  }

  bool reachable(std::uint32_t port, std::uint16_t segment) const noexcept {
    return port < segment_of_.size() && segment_of_[port] == segment;
  }

  void settle(Batch& batch, std::size_t i, std::uint32_t port) noexcept {
    if (port == ingress_[i]) {
      batch.reason[place_[i]] = Drop::hairpin;
    } else {
      batch.egress[place_[i]] = port;
    }
  }

  void flood(Batch& batch, std::size_t i) noexcept {
    if (members_[segment_[i]] < 2) {
      batch.reason[place_[i]] = Drop::no_listener;
    } else {
      ++counters_.floods;
      batch.egress[place_[i]] = kFlood;
    }
  }

  void count(Pair& pair, std::size_t i, const Batch& batch) noexcept {
    ++pair.packets;
    pair.bytes += batch.frame(place_[i]).length;
  }

  // The forwarding table knew the way.
  void count_pair(std::size_t i, const Batch& batch) noexcept {
    Pair* pair = pairs_.find(source_[i], destination_[i]);
    if (pair == nullptr) {
      pair = pairs_.insert(source_[i], destination_[i], segment_[i], answer_[i], false);
      if (pair == nullptr) return;
    } else if (pair->port != answer_[i]) {
      pair->learned = false;  // the user replaced it
      pair->port = answer_[i];
      pair->segment = segment_[i];
    }
    count(*pair, i, batch);
  }

  // The Fdb knew the way. One forwarding table serves all segments: a pair that another segment holds stays,
  // and the Fdb answers for this one.
  void remember(std::size_t i, std::uint32_t port, const Batch& batch) {
    Pair* pair = pairs_.find(source_[i], destination_[i]);
    if (answer_[i] == kNoPort) {
      if (pair == nullptr) {
        pair = pairs_.insert(source_[i], destination_[i], segment_[i], port, true);
        if (pair == nullptr) return;
      }
      if (pair->segment == segment_[i] && (pair->packets == 0 || !pair->learned || pair->port != port)) {
        if (forwarding_.insert(forwarding_.self, pair->source, pair->destination, port) != 0) {
          pairs_.erase(*pair);
          return;
        }
        pair->learned = true;
        pair->port = port;
        ++counters_.pairs_inserted;
      }
    }
    if (pair != nullptr && pair->segment == segment_[i]) count(*pair, i, batch);
  }

  // Erases what the switch inserted, unless the user has put something else in its place.
  void forget(Pair& pair) noexcept {
    if (pair.learned) {
      std::uint32_t stands = kNoPort;
      forwarding_.lookup_many(forwarding_.self, &pair.source, &pair.destination, &stands, 1);
      if (stands == pair.port && forwarding_.erase(forwarding_.self, pair.source, pair.destination) != 0) {
        ++counters_.pairs_erased;
      }
    }
    pairs_.erase(pair);
  }

  const fastpath_forwarding_v1& forwarding_;
  const fastpath_fdb_v1& fdb_;
  std::size_t mtu_;
  PairTable pairs_;
  Counters counters_;
  std::vector<std::int32_t> segment_of_;  // by port number; kNoSegment: no way out
  std::vector<std::uint32_t> members_;    // ports by segment
  std::size_t sweep_at_ = 0;

  // Columns of the good frames of a batch.
  PerFrame<std::uint64_t> source_;
  PerFrame<std::uint64_t> destination_;
  PerFrame<std::uint16_t> segment_;
  PerFrame<std::uint32_t> ingress_;
  PerFrame<std::uint16_t> place_;
  PerFrame<std::uint32_t> answer_;
  PerFrame<std::uint32_t> known_;
  PerFrame<std::uint16_t> missed_;
  PerFrame<std::uint64_t> missed_mac_;
  PerFrame<std::uint16_t> missed_segment_;
  std::array<Pair*, kSweepChunk> swept_;
};

}  // namespace fastpath::engine
