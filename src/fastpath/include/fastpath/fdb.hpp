// A learning bridge's table: (MAC, VLAN) -> port, with ages.
//
// An entry is one 64-bit word beside its key: the port's number in this table and the microsecond of its last
// refresh, so a refresh is one store and a look-up knows the age without a second line.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "fastpath/bucket_index.hpp"
#include "fastpath/epoch.hpp"
#include "fastpath/exact_table.hpp"
#include "fastpath/mac.hpp"

namespace fastpath {

// Look-ups take no lock; writes queue on one. The thread rules of ExactTable hold.
class Fdb {
 public:
  using Index = BucketIndex<std::uint64_t, std::uint64_t, Fdb>;
  struct Limits {
    double max_age_s;
    std::size_t max_entries;
    std::size_t max_entries_per_port;
  };
  struct Counters {
    std::uint64_t moves = 0;      // known stations seen on another port
    std::uint64_t evictions = 0;  // live entries that made room
    std::uint64_t refused = 0;    // stations not learned: no room, or no port number left
  };
  struct Entry {
    std::uint64_t mac;
    std::uint16_t vlan;
    std::uint32_t port;
    bool is_static;
    double age_s;
  };

  // start_s: the reading of the clock from which times are counted; monotonic: that clock is CLOCK_MONOTONIC.
  Fdb(Limits limits, double start_s, bool monotonic, std::uint64_t seed, Isa isa = isa_in_use())
      : limits_(limits),
        start_s_(start_s),
        monotonic_(monotonic),
        seed_(seed),
        find_batch_(exact_kernels(isa).find_station),
        index_(*this, epochs_, 0) {
    const double age = limits.max_age_s * 1e6;
    max_age_ = age < static_cast<double>(kStatic) ? static_cast<std::uint64_t>(std::llround(age)) : kStatic;
    ports_.store(new PortNames(16));
  }
  Fdb(const Fdb&) = delete;
  Fdb& operator=(const Fdb&) = delete;
  ~Fdb() { delete ports_.load(); }

  static std::uint64_t key(std::uint64_t mac, std::uint16_t vlan) noexcept {
    return (mac & kMacMask) | static_cast<std::uint64_t>(vlan) << 48;
  }
  std::uint64_t hash_of(std::uint64_t key, std::uint64_t) const noexcept { return hash_key(key, seed_); }

  bool find(std::uint64_t mac, std::uint16_t vlan, double now_s, std::uint32_t* port) const noexcept {
    const std::uint64_t wanted = key(mac, vlan);
    std::uint64_t word = 0;
    const bool hit = index_.get(hash_key(wanted, seed_), wanted, &word);
    if (!hit || (word & kStampMask) < oldest_fresh(now_s)) return false;
    *port = ports_.load(std::memory_order_acquire)->at(word >> kStampBits);
    return true;
  }

  // vlans may be null: VLAN 0. Holds a guard.
  void find_many(const std::uint64_t* macs, const std::uint16_t* vlans, std::size_t n, double now_s,
                 std::uint32_t* ports, std::uint32_t missing) const noexcept {
    const EpochDomain::Guard guard(epochs_);
    const std::uint64_t oldest = std::max<std::uint64_t>(oldest_fresh(now_s), 1);
    constexpr std::size_t kBlock = 512;
    std::uint64_t keys[kBlock];
    std::uint64_t words[kBlock];
    for (std::size_t begin = 0; begin < n; begin += kBlock) {
      const std::size_t count = std::min(kBlock, n - begin);
      if (vlans == nullptr) {
        for (std::size_t i = 0; i < count; ++i) keys[i] = key(macs[begin + i], 0);
      } else {
        for (std::size_t i = 0; i < count; ++i) keys[i] = key(macs[begin + i], vlans[begin + i]);
      }
      // A stamp is never 0, so a word of 0 is older than any.
      find_batch_(index_, seed_, reinterpret_cast<const std::uint8_t*>(keys), sizeof(std::uint64_t), count,
                  words, 0, nullptr);
      // The names are read after the entries that use them.
      const PortNames& names = *ports_.load(std::memory_order_acquire);
      for (std::size_t i = 0; i < count; ++i) {
        const bool fresh = (words[i] & kStampMask) >= oldest;
        const std::uint32_t port = names.at(fresh ? words[i] >> kStampBits : 0);
        ports[begin + i] = fresh ? port : missing;
      }
    }
  }

  // Learns or refreshes; returns how many entries are new or have moved.
  std::size_t learn_many(const std::uint64_t* macs, const std::uint16_t* vlans, const std::uint32_t* ports,
                         std::size_t n, double now_s) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t now = stamp(now_s);
    std::size_t changed = 0;
    const auto key_at = [&](std::size_t i) {
      return key(macs[i], vlans == nullptr ? std::uint16_t{0} : vlans[i]);
    };
    index_.for_each_ahead(
        n, [&](std::size_t i) { return hash_key(key_at(i), seed_); },
        [&](std::size_t i, std::uint64_t hash) { changed += learn_locked(hash, key_at(i), ports[i], now); });
    return changed;
  }

  // An entry that neither ages nor moves. False: the table is full of such entries.
  bool add_static(std::uint64_t mac, std::uint16_t vlan, std::uint32_t port, double now_s) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t now = stamp(now_s);
    const std::uint64_t wanted = key(mac, vlan);
    std::uint32_t number = 0;
    if (!number_of(port, &number)) return false;
    const std::uint64_t hash = hash_key(wanted, seed_);
    if (auto place = locate(hash, wanted)) {
      count(place.line().value(place.slot), -1);
      place.line().set_value(place.slot, word_of(number, kStatic));
    } else {
      if (index_.size() >= limits_.max_entries && !evict(number, now, true)) return false;
      index_.add(hash, wanted, word_of(number, kStatic));
    }
    count(word_of(number, kStatic), 1);
    return true;
  }

  bool erase(std::uint64_t mac, std::uint16_t vlan) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t wanted = key(mac, vlan);
    auto place = locate(hash_key(wanted, seed_), wanted);
    if (!place) return false;
    remove(place);
    return true;
  }

  // Removes what is too old; returns how many.
  std::size_t age(double now_s) {
    const std::lock_guard lock(mutex_);
    stamp(now_s);
    const std::uint64_t oldest = oldest_fresh(now_s);
    return remove_if([&](std::uint64_t word) { return (word & kStampMask) < oldest; });
  }

  // Removes the learned entries of a port, and the static ones if asked; returns how many.
  std::size_t purge(std::uint32_t port, bool with_static) {
    const std::lock_guard lock(mutex_);
    const auto known = numbers_.find(port);
    if (known == numbers_.end()) return 0;
    const std::uint32_t number = known->second;
    const std::size_t removed = remove_if([&](std::uint64_t word) {
      return word >> kStampBits == number && (with_static || (word & kStampMask) != kStatic);
    });
    if (counts_[number] == 0) give_back(known);
    return removed;
  }

  void clear() {
    const std::lock_guard lock(mutex_);
    remove_if([](std::uint64_t) { return true; });
    while (!numbers_.empty()) give_back(numbers_.begin());
  }

  // Live entries at one point in time.
  std::vector<Entry> entries(double now_s) const {
    const std::lock_guard lock(mutex_);
    const std::uint64_t now = ticks(now_s);
    const std::uint64_t oldest = oldest_fresh(now_s);
    std::vector<Entry> result;
    result.reserve(index_.size());
    index_.for_each([&](std::uint64_t key, std::uint64_t word, const auto&) {
      const std::uint64_t seen = word & kStampMask;
      if (seen < oldest) return;
      const bool is_static = seen == kStatic;
      const std::uint32_t port = ports_.load(std::memory_order_relaxed)->at(word >> kStampBits);
      const double age_s = is_static || now < seen ? 0.0 : static_cast<double>(now - seen) / 1e6;
      result.push_back({key & kMacMask, static_cast<std::uint16_t>(key >> 48), port, is_static, age_s});
    });
    return result;
  }

  std::size_t count_of(std::uint32_t port) const {
    const std::lock_guard lock(mutex_);
    const auto known = numbers_.find(port);
    return known == numbers_.end() ? 0 : counts_[known->second];
  }
  Counters counters() const {
    const std::lock_guard lock(mutex_);
    return counters_;
  }
  const Limits& limits() const noexcept { return limits_; }
  // The clock as native code can read it; of another clock than CLOCK_MONOTONIC, what the latest write
  // brought.
  double native_now_s() const noexcept {
    if (!monotonic_) return latest_s_.load(std::memory_order_relaxed);
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
  }
  std::size_t size() const noexcept { return index_.size(); }
  std::size_t nbytes() const noexcept { return index_.nbytes(); }
  void reclaim() {
    if (const std::unique_lock lock(mutex_, std::try_to_lock); lock) epochs_.reclaim();
  }

 private:
  static constexpr int kStampBits = 48;
  static constexpr std::uint64_t kStampMask = (std::uint64_t{1} << kStampBits) - 1;
  static constexpr std::uint64_t kStatic = kStampMask;
  static constexpr std::uint32_t kMaxPorts = 1u << 16;

  // Port numbers of this table -> ports.
  class PortNames {
   public:
    explicit PortNames(std::size_t capacity) : names_(capacity) {}
    std::uint32_t at(std::uint64_t number) const noexcept {
      return names_[number].load(std::memory_order_relaxed);
    }
    void set(std::size_t number, std::uint32_t port) noexcept {
      names_[number].store(port, std::memory_order_relaxed);
    }
    std::size_t capacity() const noexcept { return names_.size(); }

   private:
    std::vector<std::atomic<std::uint32_t>> names_;
  };
  // A port looked up lately: almost every learned frame comes from one of a few.
  struct Recent {
    std::uint32_t port = 0;
    std::uint32_t number = 0;
    bool known = false;
  };
  static constexpr std::size_t kRecent = 256;
  struct FreedNumber {
    Fdb* fdb;
    std::uint32_t number;
  };
  using Place = Index::Place;

  static std::uint64_t word_of(std::uint32_t number, std::uint64_t stamp) noexcept {
    return static_cast<std::uint64_t>(number) << kStampBits | stamp;
  }

  // Microseconds since the start, from 1 on; a clock that runs backwards stands still.
  std::uint64_t ticks(double now_s) const noexcept {
    const double us = std::floor((now_s - start_s_) * 1e6);
    if (!(us > 0)) return 1;
    return us < static_cast<double>(kStatic - 2) ? static_cast<std::uint64_t>(us) + 1 : kStatic - 1;
  }
  std::uint64_t stamp(double now_s) noexcept {
    latest_s_.store(now_s, std::memory_order_relaxed);
    return ticks(now_s);
  }
  std::uint64_t oldest_fresh(double now_s) const noexcept {
    const std::uint64_t now = ticks(now_s);
    return now > max_age_ ? now - max_age_ : 0;
  }

  Place locate(std::uint64_t hash, std::uint64_t key) const {
    return index_.locate(hash, key, [](std::uint64_t) { return true; });
  }

  void count(std::uint64_t word, int change) noexcept {
    const std::uint32_t number = static_cast<std::uint32_t>(word >> kStampBits);
    counts_[number] += static_cast<std::size_t>(change);
    if (counts_[number] > counts_[largest_]) largest_ = number;
  }
  void remove(const Place& place) {
    count(place.line().value(place.slot), -1);
    index_.erase(place);
  }
  template <typename Condition>
  std::size_t remove_if(Condition&& condition) {
    std::size_t removed = 0;
    index_.for_each([&](std::uint64_t, std::uint64_t word, const Place& place) {
      if (!condition(word)) return;
      remove(place);
      ++removed;
    });
    return removed;
  }

  // The number of a port in this table; false when all are taken.
  bool number_of(std::uint32_t port, std::uint32_t* number) {
    Recent& recent = recent_[port % kRecent];
    if (recent.known && recent.port == port) {
      *number = recent.number;
      return true;
    }
    const auto known = numbers_.find(port);
    if (known != numbers_.end()) {
      *number = known->second;
    } else {
      if (!free_numbers_.empty()) {
        *number = free_numbers_.back();
        free_numbers_.pop_back();
      } else {
        if (counts_.size() == kMaxPorts) return false;
        *number = static_cast<std::uint32_t>(counts_.size());
        counts_.push_back(0);
      }
      numbers_.emplace(port, *number);
      name(*number, port);
    }
    recent = {port, *number, true};
    return true;
  }
  // Takes the number of a port that has no entries. Readers may still turn the number into the port: it is
  // free for another port when they are gone.
  void give_back(std::unordered_map<std::uint32_t, std::uint32_t>::iterator known) {
    epochs_.retire(new FreedNumber{this, known->second}, [](void* object) {
      auto* freed = static_cast<FreedNumber*>(object);
      freed->fdb->free_numbers_.push_back(freed->number);
      delete freed;
    });
    recent_[known->first % kRecent].known = false;
    numbers_.erase(known);
  }
  void name(std::uint32_t number, std::uint32_t port) {
    PortNames* names = ports_.load(std::memory_order_relaxed);
    if (number >= names->capacity()) {
      auto* larger = new PortNames(names->capacity() * 2);
      for (std::size_t i = 0; i < names->capacity(); ++i) larger->set(i, names->at(i));
      ports_.store(larger);
      epochs_.retire(names);
      names = larger;
    }
    names->set(number, port);
  }

  std::size_t learn_locked(std::uint64_t hash, std::uint64_t wanted, std::uint32_t port, std::uint64_t now) {
    if (!mac_is_station(wanted & kMacMask)) return 0;
    std::uint32_t number = 0;
    if (!number_of(port, &number)) {
      ++counters_.refused;
      return 0;
    }
    const std::uint64_t word = word_of(number, now);
    if (auto place = locate(hash, wanted)) {
      const std::uint64_t before = place.line().value(place.slot);
      const std::uint64_t seen = before & kStampMask;
      if (seen == kStatic) return 0;
      if (before >> kStampBits == number) {
        place.line().set_value(place.slot, word);
        return seen + max_age_ < now;
      }
      if (counts_[number] >= limits_.max_entries_per_port && !evict(number, now, false)) {
        ++counters_.refused;
        return 0;
      }
      place = locate(hash, wanted);
      if (place) {  // unless it was the one to go
        counters_.moves += seen + max_age_ >= now;
        count(before, -1);
        place.line().set_value(place.slot, word);
        count(word, 1);
        return 1;
      }
    } else if ((counts_[number] >= limits_.max_entries_per_port && !evict(number, now, false)) ||
               (index_.size() >= limits_.max_entries && !evict(number, now, true))) {
      ++counters_.refused;
      return 0;
    }
    index_.add(hash, wanted, word);
    count(word, 1);
    return 1;
  }

  // Makes room for an entry of `number`. Whoever fills the table pays: the victim is the oldest of a few
  // learned entries of the port that has most of them, or of `number` itself when `anyone` is false.
  bool evict(std::uint32_t number, std::uint64_t now, bool anyone) {
    index_.finish_growth();
    if (!anyone) return evict_from(number, false, now);
    if (evict_rounds_++ % (1 + counts_.size() / 64) == 0) {
      largest_ =
          static_cast<std::uint32_t>(std::max_element(counts_.begin(), counts_.end()) - counts_.begin());
    }
    const std::uint32_t payer = counts_[largest_] > counts_[number] + 1 ? largest_ : number;
    // A payer that has nothing but static entries cannot pay.
    return evict_from(payer, true, now) || evict_from(kAnyPort, true, now);
  }
  // `expired_of_all`: an entry of any port that is too old goes first.
  bool evict_from(std::uint32_t payer, bool expired_of_all, std::uint64_t now) {
    const std::uint64_t oldest = now > max_age_ ? now - max_age_ : 0;
    const std::uint64_t buckets = index_.buckets();
    Place victim;
    std::uint64_t victim_stamp = kStatic;
    std::size_t candidates = 0;
    for (std::uint64_t walked = 0; walked < buckets && candidates < kCandidates; ++walked) {
      hand_ = hand_ + 1 >= buckets ? 0 : hand_ + 1;
      index_.for_some(hand_, 1, [&](std::uint64_t, std::uint64_t word, const Place& place) {
        const std::uint64_t seen = word & kStampMask;
        const bool pays =
            payer == kAnyPort || word >> kStampBits == payer || (expired_of_all && seen < oldest);
        if (seen == kStatic || !pays) return;
        candidates = seen < oldest ? kCandidates : candidates + 1;
        if (seen < victim_stamp) {
          victim = place;
          victim_stamp = seen;
        }
      });
    }
    if (!victim) return false;
    counters_.evictions += victim_stamp >= oldest;
    remove(victim);
    return true;
  }

  static constexpr std::size_t kCandidates = 8;
  static constexpr std::uint32_t kAnyPort = kMaxPorts;

  const Limits limits_;
  const double start_s_;
  const bool monotonic_;
  const std::uint64_t seed_;
  const FindBatch<Index> find_batch_;
  std::uint64_t max_age_ = 0;
  mutable std::mutex mutex_;
  std::vector<std::uint32_t> free_numbers_;  // before epochs_, whose end still gives numbers back
  mutable EpochDomain epochs_;
  mutable Index index_;  // entries() walks it under the lock
  std::atomic<PortNames*> ports_{nullptr};
  std::atomic<double> latest_s_{-1e300};
  std::unordered_map<std::uint32_t, std::uint32_t> numbers_;
  std::vector<std::size_t> counts_;  // entries of each port number
  Recent recent_[kRecent];
  std::uint32_t largest_ = 0;
  std::uint64_t evict_rounds_ = 0;
  std::uint64_t hand_ = 0;
  Counters counters_;
};

}  // namespace fastpath
