// A learning bridge's table: (MAC, VLAN) -> port, with ages.
//
// An entry is one 64-bit word beside its key: the port's number in this table and the tick of its last
// refresh, so a refresh is one store and a look-up knows the age without a second line. Each port lists the
// stations learned on it, so that whoever must make room is found at once; a refresh does not touch the
// lists.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fastpath/bucket_index.hpp"
#include "fastpath/epoch.hpp"
#include "fastpath/exact_table.hpp"
#include "fastpath/mac.hpp"
#include "fastpath/prefetch.hpp"

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

  // A part of a batch of learn_many() on its way.
  struct LearnGroup {
    static constexpr std::size_t kKeys = 32;
    std::size_t count;
    std::uint64_t buckets;  // of the array that it looks into
    std::uint64_t key[kKeys];
    std::uint64_t hash[kKeys];
    Index::Line* line[kKeys];       // the bucket where the key was found, else its home
    std::uint8_t slot[kKeys];       // where in it
    std::uint8_t elsewhere[kKeys];  // keys that are not at home, where other buckets are named
    std::size_t elsewheres;
    Index::Line* visited[kKeys * Index::kAlternates];  // those
    std::uint8_t visitor[kKeys * Index::kAlternates];
    std::size_t visits;
  };

  // Looks for the keys of a group in their home buckets.
  using LookAtHome = void (*)(LearnGroup&);
  static LookAtHome look_at_home(Isa isa) noexcept;

  // start_s: the reading of the clock from which times are counted; monotonic: that clock is CLOCK_MONOTONIC.
  Fdb(Limits limits, double start_s, bool monotonic, std::uint64_t seed, Isa isa = isa_in_use())
      : limits_(limits),
        start_s_(start_s),
        monotonic_(monotonic),
        seed_(seed),
        find_batch_(exact_kernels(isa).find_station),
        look_at_home_(look_at_home(isa)),
        index_(*this, epochs_, 0, limits.max_entries),
        places_(*this, epochs_, 0, limits.max_entries) {
    const double age = limits.max_age_s * kTicksPerS;
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
  //
  // Four stages, each a group behind the one before: send for the home buckets; look for the keys there, and
  // send for the other buckets of those that are elsewhere; look there; write, in order. An entry that still
  // stands where it was found, under the port it is seen on, takes one store, and learn_locked() takes care
  // of all else.
  std::size_t learn_many(const std::uint64_t* macs, const std::uint16_t* vlans, const std::uint32_t* ports,
                         std::size_t n, double now_s) {
    const std::lock_guard lock(mutex_);
    const Index::InBatch in_batch(index_, n), in_batch_too(places_, n);
    const std::uint64_t now = stamp(now_s);
    std::size_t changed = 0;
    LearnGroup ring[4];
    const std::size_t groups = (n + LearnGroup::kKeys - 1) / LearnGroup::kKeys;
    for (std::size_t step = 0; step < groups + 3; ++step) {
      if (step < groups) {
        LearnGroup& group = ring[step % 4];
        const std::size_t begin = step * LearnGroup::kKeys;
        group.count = std::min(LearnGroup::kKeys, n - begin);
        send_for_homes(macs + begin, vlans == nullptr ? nullptr : vlans + begin, group);
      }
      if (step >= 1 && step - 1 < groups) find_homes(ring[(step - 1) % 4]);
      if (step >= 2 && step - 2 < groups) look_elsewhere(ring[(step - 2) % 4]);
      if (step >= 3) changed += write(ring[(step - 3) % 4], ports + (step - 3) * LearnGroup::kKeys, now);
    }
    // After one load a table has grown, and look-ups are as fast as they can be.
    index_.step_on(n);
    return changed;
  }

  // An entry that neither ages nor moves. False: the table is full of such entries, or no port number is
  // left.
  bool add_static(std::uint64_t mac, std::uint16_t vlan, std::uint32_t port, double now_s) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t now = stamp(now_s);
    const std::uint64_t wanted = key(mac, vlan);
    std::uint32_t number = 0;
    if (!number_of(port, &number)) return false;
    const std::uint64_t hash = hash_key(wanted, seed_);
    if (auto place = locate(index_, hash, wanted)) {
      const std::uint64_t before = place.line().value(place.slot);
      place.line().set_value(place.slot, word_of(number, kStatic));
      ++members_[number].fixed;
      leave(before, hash, wanted);
      settle(before >> kStampBits);
      return true;
    }
    if (index_.size() >= limits_.max_entries && !evict_of_anyone(number, now)) {
      settle(number);
      return false;
    }
    index_.add(hash, wanted, word_of(number, kStatic));
    ++members_[number].fixed;
    return true;
  }

  bool erase(std::uint64_t mac, std::uint16_t vlan) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t wanted = key(mac, vlan);
    auto place = locate(index_, hash_key(wanted, seed_), wanted);
    if (!place) return false;
    settle(remove(place));
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
    std::size_t removed = 0;
    for (std::vector<std::uint64_t>& learned = members_[number].learned; !learned.empty(); ++removed) {
      remove(locate(index_, hash_key(learned.back(), seed_), learned.back()));
    }
    if (with_static && members_[number].fixed != 0) {
      removed += remove_if([&](std::uint64_t word) { return word >> kStampBits == number; });
    } else {
      settle(number);
    }
    return removed;
  }

  void clear() {
    const std::lock_guard lock(mutex_);
    remove_if([](std::uint64_t) { return true; });
  }

  // The ports that lost their last entry since the last call, if the table was told to remember them; some of
  // them may have entries again.
  std::vector<std::uint32_t> take_vacated() {
    const std::lock_guard lock(mutex_);
    has_vacated_.store(false, std::memory_order_relaxed);
    return std::exchange(vacated_, {});
  }
  bool has_vacated() const noexcept { return has_vacated_.load(std::memory_order_relaxed); }
  void remember_vacated() noexcept { remembers_vacated_ = true; }

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
      const double age_s = is_static || now < seen ? 0.0 : static_cast<double>(now - seen) / kTicksPerS;
      result.push_back({key & kMacMask, static_cast<std::uint16_t>(key >> 48), port, is_static, age_s});
    });
    return result;
  }

  std::size_t count_of(std::uint32_t port) const {
    const std::lock_guard lock(mutex_);
    const auto known = numbers_.find(port);
    return known == numbers_.end() ? 0 : members_[known->second].entries();
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
  std::size_t nbytes() const noexcept {
    return index_.nbytes() + places_.nbytes() + size() * sizeof(std::uint64_t);
  }
  // Frees what no reader can still see. Returns false if someone writes now: a write would have to wait.
  bool reclaim() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock) epochs_.reclaim();
    return lock.owns_lock() && !forking_.load(std::memory_order_relaxed);
  }
  // As ExactTable's.
  void expect_fork() noexcept { forking_.store(true, std::memory_order_relaxed); }
  void lock_for_fork() { mutex_.lock(); }
  void unlock_after_fork() noexcept {
    forking_.store(false, std::memory_order_relaxed);
    mutex_.unlock();
  }
  void unlock_in_child() noexcept {
    forking_.store(false, std::memory_order_relaxed);
    epochs_.forget_readers();
    mutex_.unlock();
  }

 private:
  static constexpr int kStampBits = 48;
  static constexpr std::uint64_t kStampMask = (std::uint64_t{1} << kStampBits) - 1;
  static constexpr std::uint64_t kStatic = kStampMask;
  static constexpr std::uint32_t kMaxPorts = 1u << 16;
  static constexpr double kTicksPerS = 65536;  // 48 bits of them are 136 years

  struct Member {
    std::uint32_t port = 0;
    std::size_t fixed = 0;               // static entries
    std::vector<std::uint64_t> learned;  // keys of the others; places_ knows where each stands
    std::size_t hand = 0;                // where the search for the next one to go begins
    std::size_t entries() const noexcept { return fixed + learned.size(); }
  };
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

  // Ticks since the start, from 1 on; a clock that runs backwards stands still.
  std::uint64_t ticks(double now_s) const noexcept {
    const double ticks = std::floor((now_s - start_s_) * kTicksPerS);
    if (!(ticks > 0)) return 1;
    return ticks < static_cast<double>(kStatic - 2) ? static_cast<std::uint64_t>(ticks) + 1 : kStatic - 1;
  }
  std::uint64_t stamp(double now_s) noexcept {
    latest_s_.store(now_s, std::memory_order_relaxed);
    return ticks(now_s);
  }
  std::uint64_t oldest_fresh(double now_s) const noexcept {
    const std::uint64_t now = ticks(now_s);
    return now > max_age_ ? now - max_age_ : 0;
  }

  static Place locate(const Index& index, std::uint64_t hash, std::uint64_t key) {
    return index.locate(hash, key, [](std::uint64_t) { return true; });
  }

  // Lists a learned station with its port.
  void list(std::uint32_t number, std::uint64_t hash, std::uint64_t key) {
    std::vector<std::uint64_t>& learned = members_[number].learned;
    learned.push_back(key);
    try {
      places_.add(hash, key, learned.size() - 1);
    } catch (...) {
      learned.pop_back();
      throw;
    }
    if (learned.size() > members_[largest_].learned.size()) largest_ = number;
  }
  void unlist(std::uint32_t number, std::uint64_t hash, std::uint64_t key) noexcept {
    const Place place = locate(places_, hash, key);
    take_from(members_[number].learned, place.line().value(place.slot));
    places_.erase(place);
  }
  void relist(std::uint32_t from, std::uint32_t to, std::uint64_t hash, std::uint64_t key) {
    members_[to].learned.push_back(key);
    const Place place = locate(places_, hash, key);
    take_from(members_[from].learned, place.line().value(place.slot));
    place.line().set_value(place.slot, members_[to].learned.size() - 1);
    if (members_[to].learned.size() > members_[largest_].learned.size()) largest_ = to;
  }
  // The last of a list takes the place of the one that goes.
  void take_from(std::vector<std::uint64_t>& learned, std::uint64_t at) noexcept {
    const std::uint64_t last = learned.back();
    learned.pop_back();
    if (at == learned.size()) return;
    learned[at] = last;
    const Place moved = locate(places_, hash_key(last, seed_), last);
    moved.line().set_value(moved.slot, at);
  }
  // What an entry was for its port, it is no longer.
  void leave(std::uint64_t word, std::uint64_t hash, std::uint64_t key) noexcept {
    const auto number = static_cast<std::uint32_t>(word >> kStampBits);
    if ((word & kStampMask) == kStatic) {
      --members_[number].fixed;
    } else {
      unlist(number, hash, key);
    }
  }
  // Returns the number of the port that had the entry.
  std::uint32_t remove(const Place& place) noexcept {
    const std::uint64_t key = place.line().key(place.slot);
    const std::uint64_t word = place.line().value(place.slot);
    index_.erase(place);
    leave(word, hash_key(key, seed_), key);
    return static_cast<std::uint32_t>(word >> kStampBits);
  }
  template <typename Condition>
  std::size_t remove_if(Condition&& condition) {
    std::size_t removed = 0;
    index_.for_each([&](std::uint64_t, std::uint64_t word, const Place& place) {
      if (!condition(word)) return;
      settle(remove(place));
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
      if (free_numbers_.empty() && members_.size() == kMaxPorts) epochs_.reclaim();
      if (!free_numbers_.empty()) {
        *number = free_numbers_.back();
        free_numbers_.pop_back();
      } else {
        if (members_.size() == kMaxPorts) return false;
        *number = static_cast<std::uint32_t>(members_.size());
        members_.emplace_back();
        free_numbers_.reserve(members_.capacity());  // giving one back allocates nothing there
      }
      members_[*number].port = port;
      try {
        name(*number, port);
        numbers_.emplace(port, *number);
      } catch (...) {
        free_numbers_.push_back(*number);
        throw;
      }
    }
    recent = {port, *number, true};
    return true;
  }
  // Takes the number of a port back if it has no entries. Readers may still turn the number into the port: it
  // is free for another port when they are gone.
  void settle(std::uint64_t number) {
    Member& member = members_[number];
    if (member.entries() != 0) return;
    const auto known = numbers_.find(member.port);
    if (known == numbers_.end() || known->second != number) return;
    epochs_.retire(new FreedNumber{this, known->second}, [](void* object) {
      auto* freed = static_cast<FreedNumber*>(object);
      freed->fdb->free_numbers_.push_back(freed->number);
      delete freed;
    });
    recent_[member.port % kRecent].known = false;
    numbers_.erase(known);
    if (remembers_vacated_) {
      vacated_.push_back(member.port);
      has_vacated_.store(true, std::memory_order_relaxed);
    }
    member = Member{};
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

  // Whether pointers to buckets are still good: an index that grows gets a larger array.
  bool holds(const LearnGroup& group) const noexcept {
    return group.buckets == index_.buckets() && index_.state().old == nullptr;
  }
  void send_for_homes(const std::uint64_t* macs, const std::uint16_t* vlans,
                      LearnGroup& group) const noexcept {
    const Index::Generation& generation = *index_.state().current;
    const Index::Generation* old = index_.state().old;
    group.buckets = generation.count;
    group.visits = 0;
    // Loops of their own, so that the compiler makes vectors of them.
    if (vlans == nullptr) {
      for (std::size_t i = 0; i < group.count; ++i) group.key[i] = key(macs[i], 0);
    } else {
      for (std::size_t i = 0; i < group.count; ++i) group.key[i] = key(macs[i], vlans[i]);
    }
    for (std::size_t i = 0; i < group.count; ++i) {
      group.hash[i] = hash_key(group.key[i], seed_);
      group.line[i] = &generation.lines[generation.home(group.hash[i])];
      fetch_ahead(group.line[i]);
      if (old != nullptr) fetch_ahead(&old->lines[old->home(group.hash[i])]);
    }
  }
  void find_homes(LearnGroup& group) const {
    if (!holds(group)) {
      group.buckets = 0;
      for (std::size_t i = 0; i < group.count; ++i) send_for_place(group.hash[i]);
      return;
    }
    const Index::Generation& generation = *index_.state().current;
    look_at_home_(group);
    std::size_t visits = 0;
    for (std::size_t k = 0; k < group.elsewheres; ++k) {
      const std::size_t i = group.elsewhere[k];
      const std::uint32_t meta = group.line[i]->meta(std::memory_order_relaxed);
      const auto home = static_cast<std::uint64_t>(group.line[i] - generation.lines);
      for (std::size_t which = 0; which < Index::kAlternates; ++which) {
        group.visited[visits] = &generation.lines[generation.alternate(home, which)];
        group.visitor[visits] = static_cast<std::uint8_t>(i);
        visits += meta >> (Index::Line::kAlternateShift + which) & 1;
      }
    }
    for (std::size_t v = 0; v < visits; ++v) fetch_ahead(group.visited[v]);
    group.visits = visits;
  }
  void look_elsewhere(LearnGroup& group) const noexcept {
    if (group.elsewheres == 0 || !holds(group)) return;
    for (std::size_t v = 0; v < group.visits; ++v) {
      const std::size_t i = group.visitor[v];
      const Index::Line& line = *group.visited[v];
      const std::uint32_t found =
          line.match(group.key[i]) & line.meta(std::memory_order_relaxed) & Index::Line::kValidMask;
      group.line[i] = found != 0 ? group.visited[v] : group.line[i];
      group.slot[i] = found != 0 ? static_cast<std::uint8_t>(Index::Line::slot_of(found)) : group.slot[i];
    }
    for (std::size_t k = 0; k < group.elsewheres; ++k) {
      const std::size_t i = group.elsewhere[k];
      if (group.line[i]->key(group.slot[i]) != group.key[i]) send_for_place(group.hash[i]);
    }
  }
  // A new station is listed with its port.
  void send_for_place(std::uint64_t hash) const noexcept {
    const Index::Generation& generation = *places_.state().current;
    fetch_ahead(&generation.lines[generation.home(hash)]);
  }
  std::size_t write(const LearnGroup& group, const std::uint32_t* ports, std::uint64_t now) {
    const std::uint64_t oldest = now > max_age_ ? now - max_age_ : 0;
    std::size_t changed = 0;
    bool good = holds(group);
    const PortNames* names = ports_.load(std::memory_order_relaxed);
    for (std::size_t i = 0; i < group.count; ++i) {
      if (good) {
        Index::Line& line = *group.line[i];
        const std::size_t slot = group.slot[i];
        const std::uint64_t word = line.value(slot);
        const std::uint64_t seen = word & kStampMask;
        const bool known = line.key(slot) == group.key[i] &&
                           (line.meta(std::memory_order_relaxed) & Index::Line::bit(slot)) != 0;
        if (known && names->at(word >> kStampBits) == ports[i] && seen != kStatic) {
          line.set_value(slot, word - seen + now);
          changed += seen < oldest;
          continue;
        }
      }
      changed += learn_locked(group.hash[i], group.key[i], ports[i], now);
      good = holds(group);
      names = ports_.load(std::memory_order_relaxed);
    }
    return changed;
  }

  std::size_t learn_locked(std::uint64_t hash, std::uint64_t wanted, std::uint32_t port, std::uint64_t now) {
    if (!mac_is_station(wanted & kMacMask)) return 0;
    std::uint32_t number = 0;
    if (!number_of(port, &number)) {
      ++counters_.refused;
      return 0;
    }
    const std::uint64_t word = word_of(number, now);
    const auto place = locate(index_, hash, wanted);
    if (place) {
      const std::uint64_t before = place.line().value(place.slot);
      const std::uint64_t seen = before & kStampMask;
      if (before >> kStampBits == number && seen != kStatic) {
        place.line().set_value(place.slot, word);
        return seen + max_age_ < now;
      }
      if (seen == kStatic) {
        settle(number);
        return 0;
      }
      if (!has_room(number) && !evict_of(number, number, now)) return refuse(number);
      counters_.moves += seen + max_age_ >= now;
      relist(static_cast<std::uint32_t>(before >> kStampBits), number, hash, wanted);
      place.line().set_value(place.slot, word);
      settle(before >> kStampBits);
      return 1;
    }
    if (!has_room(number) && !evict_of(number, number, now)) return refuse(number);
    if (index_.size() >= limits_.max_entries && !evict_of_anyone(number, now)) return refuse(number);
    list(number, hash, wanted);
    try {
      index_.add(hash, wanted, word);
    } catch (...) {
      unlist(number, hash, wanted);
      throw;
    }
    return 1;
  }
  bool has_room(std::uint32_t number) const noexcept {
    return members_[number].learned.size() < limits_.max_entries_per_port;
  }
  std::size_t refuse(std::uint32_t number) {
    ++counters_.refused;
    settle(number);
    return 0;
  }

  // Makes room for an entry of `number`. What is too old goes first, as far as the hand meets it; then
  // whoever fills the table pays: the port on which most stations were learned.
  bool evict_of_anyone(std::uint32_t number, std::uint64_t now) {
    if (const Place expired = find_expired(now)) {
      give_up(expired, number);
      return true;
    }
    const auto learned = [this](std::uint32_t which) { return members_[which].learned.size(); };
    if (evict_rounds_++ % (1 + members_.size() / 64) == 0 || learned(largest_) == 0) {
      for (std::uint32_t which = 0; which < members_.size(); ++which) {
        if (learned(which) > learned(largest_)) largest_ = which;
      }
    }
    return evict_of(learned(largest_) > learned(number) + 1 ? largest_ : number, number, now) ||
           evict_of(largest_, number, now);
  }
  // An entry that is too old, if the hand meets one on its next stretch. After a lap without any it rests
  // until the oldest entry of that lap has aged.
  Place find_expired(std::uint64_t now) {
    Place expired;
    if (now < rest_until_) return expired;
    const std::uint64_t oldest = now > max_age_ ? now - max_age_ : 0;
    for (std::size_t stretch = 0; stretch < kStretch && !expired; ++stretch) {
      if (++hand_ >= index_.buckets()) {
        if (!lap_found_) rest_until_ = lap_oldest_ + max_age_;
        hand_ = 0;
        lap_found_ = false;
        lap_oldest_ = now;
      }
      index_.for_some(hand_, 1, [&](std::uint64_t, std::uint64_t word, const Place& place) {
        const std::uint64_t seen = word & kStampMask;
        if (seen < oldest) expired = place;
        lap_oldest_ = std::min(lap_oldest_, seen);
      });
    }
    lap_found_ |= static_cast<bool>(expired);
    return expired;
  }
  // The oldest of a few stations learned on `payer` goes. False: there is none. `number` keeps its number.
  bool evict_of(std::uint32_t payer, std::uint32_t number, std::uint64_t now) {
    Member& member = members_[payer];
    const std::size_t size = member.learned.size();
    const std::size_t candidates = std::min(kCandidates, size);
    if (candidates == 0) return false;
    std::uint64_t hashes[kCandidates];
    for (std::size_t i = 0; i < candidates; ++i) {
      hashes[i] = hash_key(member.learned[(member.hand + i) % size], seed_);
      const auto& generation = *index_.state().current;
      __builtin_prefetch(&generation.lines[generation.home(hashes[i])]);
    }
    Place victim;
    std::uint64_t victim_stamp = kStatic;
    for (std::size_t i = 0; i < candidates; ++i) {
      const Place place = locate(index_, hashes[i], member.learned[(member.hand + i) % size]);
      const std::uint64_t seen = place.line().value(place.slot) & kStampMask;
      if (seen < victim_stamp) {
        victim = place;
        victim_stamp = seen;
      }
    }
    member.hand = (member.hand + candidates) % size;
    counters_.evictions += victim_stamp + max_age_ >= now;
    give_up(victim, number);
    return true;
  }
  void give_up(const Place& victim, std::uint32_t keeping) {
    if (const std::uint32_t gone = remove(victim); gone != keeping) settle(gone);
  }

  static constexpr std::size_t kCandidates = 8;
  static constexpr std::size_t kStretch = 16;

  const Limits limits_;
  const double start_s_;
  const bool monotonic_;
  const std::uint64_t seed_;
  const FindBatch<Index> find_batch_;
  const LookAtHome look_at_home_;
  std::uint64_t max_age_ = 0;
  mutable std::mutex mutex_;
  std::atomic<bool> forking_{false};
  std::vector<std::uint32_t> free_numbers_;  // before epochs_, whose end still gives numbers back
  mutable EpochDomain epochs_;
  mutable Index index_;  // entries() walks it under the lock
  Index places_;         // of each learned station in its port's list; writers only
  std::atomic<PortNames*> ports_{nullptr};
  std::atomic<double> latest_s_{-1e300};
  std::unordered_map<std::uint32_t, std::uint32_t> numbers_;
  std::vector<Member> members_;  // by number
  std::vector<std::uint32_t> vacated_;
  bool remembers_vacated_ = false;
  std::atomic<bool> has_vacated_{false};
  Recent recent_[kRecent];
  std::uint32_t largest_ = 0;
  std::uint64_t evict_rounds_ = 0;
  std::uint64_t hand_ = 0;  // a bucket
  std::uint64_t lap_oldest_ = 0;
  std::uint64_t rest_until_ = 0;
  bool lap_found_ = false;
  Counters counters_;
};

}  // namespace fastpath
