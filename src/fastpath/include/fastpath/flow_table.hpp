// A bounded table of flows: keys of one size -> 32-bit values, with last-seen times, timeouts and eviction.
//
// Sets of eight ways. What a look-up needs first (tags, last-seen times, marks) is one cache line a set; key,
// value and counters of a way are a record of fixed address. A flow lives in its home set or, when that was
// full, in its other set; the home set counts those, so a look-up seldom reads a second line of marks. An
// insert that finds both full moves one flow of the sixteen to its own other set, and nothing further: its
// cost has a bound at any load. Expiry reads the lines of marks alone.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <vector>

#include "fastpath/hash.hpp"
#include "fastpath/pages.hpp"

namespace fastpath {

// Look-ups take no lock; writes queue on one. No memory is ever replaced, so readers need no guard. Times are
// in milliseconds since the table was made; they are kept in 32 bits and compared modulo 2**32, so a flow
// must be swept (any write sweeps a little) within 24 days.
class FlowTable {
 public:
  static constexpr std::uint32_t kForever = 0xFFFFFFFF;
  static constexpr std::uint64_t kLongestMs = std::uint64_t{1} << 31;

  struct Options {
    std::size_t key_size;
    std::size_t capacity;
    std::uint32_t idle_ms;      // kForever: none
    std::uint32_t absolute_ms;  // kForever: none
    bool counts;                // packets and bytes of each flow
    std::uint64_t seed;
  };
  struct Flow {
    std::uint32_t value;
    std::uint32_t idle_ms;
    std::uint32_t age_ms;
    std::uint64_t packets;
    std::uint64_t bytes;
  };
  struct Put {
    bool added;
    std::uint32_t previous;  // of a key that was there
  };

  explicit FlowTable(const Options& options)
      : options_(options),
        words_((options.key_size + 7) / 8),
        stride_(words_ * 8 + 16 + (options.counts ? 16 : 0)),
        // At capacity seven ways in eight are taken.
        sets_(std::max<std::uint64_t>(2, options.capacity / (kWays - 1) + 1)),
        set_memory_(sets_ * sizeof(Set)),
        record_memory_(sets_ * kWays * stride_),
        set_(static_cast<Set*>(set_memory_.data())),
        records_(static_cast<std::uint8_t*>(record_memory_.data())) {}
  FlowTable(const FlowTable&) = delete;
  FlowTable& operator=(const FlowTable&) = delete;

  // Finds a live flow and notes that it was seen, with `bytes` more.
  bool find(const std::uint8_t* key, std::uint64_t now_ms, std::uint32_t bytes, std::uint32_t* value) {
    return find_hashed(hash(key), key, static_cast<std::uint32_t>(now_ms), bytes, true, value);
  }
  bool peek(const std::uint8_t* key, std::uint64_t now_ms, std::uint32_t* value) {
    return find_hashed(hash(key), key, static_cast<std::uint32_t>(now_ms), 0, false, value);
  }

  // bytes may be null. Returns the number of hits.
  std::size_t find_many(const std::uint8_t* keys, const std::uint32_t* bytes, std::size_t n,
                        std::uint64_t now_ms, std::uint32_t* values, std::uint32_t missing) {
    const auto now = static_cast<std::uint32_t>(now_ms);
    std::uint64_t hashes[3][kGroup];
    const auto count_of = [n](std::size_t group) { return std::min(kGroup, n - group * kGroup); };
    // Three stages, one group behind the other: send for the marks, send for the record that the tag names,
    // compare.
    const std::size_t groups = (n + kGroup - 1) / kGroup;
    std::size_t hits = 0;
    for (std::size_t step = 0; step < groups + 2; ++step) {
      if (step < groups) {
        std::uint64_t* hashed = hashes[step % 3];
        for (std::size_t i = 0; i < count_of(step); ++i) {
          hashed[i] = hash(keys + (step * kGroup + i) * options_.key_size);
          __builtin_prefetch(&set_[home(hashed[i])]);
        }
      }
      if (step >= 1 && step - 1 < groups) {
        const std::uint64_t* hashed = hashes[(step - 1) % 3];
        for (std::size_t i = 0; i < count_of(step - 1); ++i) {
          const std::uint64_t at = home(hashed[i]);
          const std::uint32_t ways = set_[at].match(tag(hashed[i]));
          // Without a match the flow may be in the other set.
          const std::uint64_t to = ways != 0 ? at : other(at, tag(hashed[i]));
          const std::uint8_t* wanted = ways != 0 ? record(at, std::countr_zero(ways))
                                                 : reinterpret_cast<const std::uint8_t*>(&set_[to]);
          __builtin_prefetch(wanted);
          __builtin_prefetch(wanted + stride_ - 1);
        }
      }
      if (step >= 2) {
        const std::size_t begin = (step - 2) * kGroup;
        const std::uint64_t* hashed = hashes[(step - 2) % 3];
        for (std::size_t i = 0; i < count_of(step - 2); ++i) {
          const std::size_t at = begin + i;
          std::uint32_t value = 0;
          const bool hit = find_hashed(hashed[i], keys + at * options_.key_size, now,
                                       bytes == nullptr ? 0 : bytes[at], true, &value);
          values[at] = hit ? value : missing;
          hits += hit;
        }
      }
    }
    return hits;
  }

  // Inserts or replaces, and notes that the flow was seen. Values of flows that had to go are appended to
  // `gone`, if it is not null. Timeouts of kForever's neighbour `kDefault` are the table's.
  static constexpr std::uint32_t kDefault = 0xFFFFFFFE;
  Put put(const std::uint8_t* key, std::uint32_t value, std::uint64_t now_ms, std::uint32_t idle_ms,
          std::uint32_t absolute_ms, std::vector<std::uint32_t>* gone) {
    const std::lock_guard lock(mutex_);
    sweep_some(kSweep, static_cast<std::uint32_t>(now_ms), gone);
    return put_locked(key, value, static_cast<std::uint32_t>(now_ms), idle_ms, absolute_ms, gone);
  }
  // previous: of each key, may be null; 0 for a new one. Returns how many are new.
  std::size_t put_many(const std::uint8_t* keys, const std::uint32_t* values, std::size_t n,
                       std::uint64_t now_ms, std::uint32_t* previous, std::vector<std::uint32_t>* gone) {
    const std::lock_guard lock(mutex_);
    const auto now = static_cast<std::uint32_t>(now_ms);
    constexpr std::size_t kAhead = 12;
    std::size_t added = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (i + kAhead < n) {
        const std::uint64_t at = home(hash(keys + (i + kAhead) * options_.key_size));
        __builtin_prefetch(&set_[at], 1);
      }
      const Put put = put_locked(keys + i * options_.key_size, values[i], now, kDefault, kDefault, gone);
      added += put.added;
      if (previous != nullptr) previous[i] = put.added ? 0 : put.previous;
    }
    sweep_some(kSweep * n, now, gone);
    return added;
  }
  bool erase(const std::uint8_t* key, std::uint32_t* value) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t hashed = hash(key);
    std::uint64_t at = 0;
    const int way = locate(hashed, key, &at);
    if (way < 0) return false;
    *value = load(value_word(at, way));
    remove(at, way);
    return true;
  }
  // Removes flows that are over, going on where the last call ended; at most one round, and no longer than
  // `budget_us`. Returns how many.
  std::size_t expire(std::uint64_t now_ms, std::uint64_t budget_us, std::vector<std::uint32_t>* gone) {
    const std::lock_guard lock(mutex_);
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(budget_us);
    std::size_t removed = 0;
    for (std::uint64_t walked = 0; walked < sets_; walked += kSlice) {
      removed += sweep_some(std::min<std::uint64_t>(kSlice, sets_ - walked),
                            static_cast<std::uint32_t>(now_ms), gone);
      if (budget_us != ~std::uint64_t{0} && std::chrono::steady_clock::now() >= end) break;
    }
    return removed;
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    for (std::uint64_t at = 0; at < sets_; ++at) {
      for (std::uint32_t ways = set_[at].valid(); ways != 0; ways &= ways - 1)
        remove(at, std::countr_zero(ways));
    }
  }

  // Calls `each(key, Flow)` for every live flow, under the lock.
  template <typename Each>
  void for_each(std::uint64_t now_ms, Each&& each) {
    const std::lock_guard lock(mutex_);
    const auto now = static_cast<std::uint32_t>(now_ms);
    for (std::uint64_t at = 0; at < sets_; ++at) {
      for (std::uint32_t ways = set_[at].valid(); ways != 0; ways &= ways - 1) {
        const int way = std::countr_zero(ways);
        if (over(at, way, now)) continue;
        const std::uint32_t seen = load(set_[at].seen[way]);
        const std::uint32_t created = load(created_word(at, way));
        Flow flow{load(value_word(at, way)), now - seen, now - created, 0, 0};
        if (options_.counts) {
          flow.packets = load(counter(at, way, 0));
          flow.bytes = load(counter(at, way, 1));
        }
        each(record(at, way), flow);
      }
    }
  }
  void export_to(std::uint64_t now_ms, std::vector<std::uint8_t>& keys, std::vector<Flow>& flows) {
    keys.reserve(size() * options_.key_size);
    flows.reserve(size());
    for_each(now_ms, [&](const std::uint8_t* key, const Flow& flow) {
      keys.insert(keys.end(), key, key + options_.key_size);
      flows.push_back(flow);
    });
  }

  const Options& options() const noexcept { return options_; }
  std::size_t size() const noexcept { return size_.load(std::memory_order_relaxed); }
  std::uint64_t evictions() const noexcept { return evictions_.load(std::memory_order_relaxed); }
  std::uint64_t expirations() const noexcept { return expirations_.load(std::memory_order_relaxed); }
  std::size_t nbytes() const noexcept { return set_memory_.bytes() + record_memory_.bytes(); }

 private:
  static constexpr int kWays = 8;
  static constexpr std::size_t kGroup = 32;
  static constexpr std::uint64_t kSweep = 1;     // sets that each write looks through
  static constexpr std::uint64_t kSlice = 1024;  // sets between two looks at the clock

  template <typename Word>
  static Word load(const Word& word, std::memory_order order = std::memory_order_relaxed) noexcept {
    return std::atomic_ref<Word>(const_cast<Word&>(word)).load(order);
  }
  template <typename Word>
  static void store(Word& word, Word value, std::memory_order order = std::memory_order_relaxed) noexcept {
    std::atomic_ref<Word>(word).store(value, order);
  }

  struct alignas(64) Set {
    std::uint32_t seen[kWays];  // last seen
    std::uint64_t tags[2];      // 16 bits a way
    std::uint32_t marks;        // bits 0-7 valid, 8-15 in its other set, 16-23 with timeouts of its own
    std::uint32_t version;      // raised before a way is used again
    std::uint32_t away;         // flows of this home that are in their other set
    std::uint32_t unused;

    std::uint32_t valid() const noexcept { return load(marks) & 0xFF; }
    // Ways that may have this tag: a borrow can name the neighbour of a match too.
    std::uint32_t match(std::uint16_t tag) const noexcept {
      constexpr std::uint64_t kOnes = 0x0001000100010001u;
      std::uint32_t ways = 0;
      for (int half = 0; half < 2; ++half) {
        const std::uint64_t differ = load(tags[half]) ^ (kOnes * tag);
        const std::uint64_t zero = (differ - kOnes) & ~differ & (kOnes << 15);
        ways |= static_cast<std::uint32_t>((zero >> 15) * 0x0001000200040008u >> 48 & 0xF) << (4 * half);
      }
      return ways & valid();
    }
    void set_tag(int way, std::uint16_t tag) noexcept {
      const int shift = 16 * (way % 4);
      const std::uint64_t word = load(tags[way / 4]) & ~(std::uint64_t{0xFFFF} << shift);
      store(tags[way / 4], word | static_cast<std::uint64_t>(tag) << shift);
    }
  };

  // A record: the key in whole words, zero-padded; value; created; idle and absolute timeout; packets and
  // bytes.
  std::uint8_t* record(std::uint64_t at, int way) const noexcept {
    return records_ + (at * kWays + static_cast<std::uint64_t>(way)) * stride_;
  }
  std::uint32_t& word(std::uint64_t at, int way, std::size_t which) const noexcept {
    return reinterpret_cast<std::uint32_t*>(record(at, way) + words_ * 8)[which];
  }
  std::uint32_t& value_word(std::uint64_t at, int way) const noexcept { return word(at, way, 0); }
  std::uint32_t& created_word(std::uint64_t at, int way) const noexcept { return word(at, way, 1); }
  std::uint32_t& idle_word(std::uint64_t at, int way) const noexcept { return word(at, way, 2); }
  std::uint32_t& absolute_word(std::uint64_t at, int way) const noexcept { return word(at, way, 3); }
  std::uint64_t& counter(std::uint64_t at, int way, std::size_t which) const noexcept {
    return reinterpret_cast<std::uint64_t*>(record(at, way) + words_ * 8 + 16)[which];
  }

  std::uint64_t hash(const std::uint8_t* key) const noexcept {
    return xxh3_64(key, options_.key_size, options_.seed);
  }
  static std::uint16_t tag(std::uint64_t hash) noexcept { return static_cast<std::uint16_t>(hash); }
  std::uint64_t home(std::uint64_t hash) const noexcept {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(hash) * sets_) >> 64);
  }
  // The two sets of a tag are each other's other one.
  std::uint64_t other(std::uint64_t at, std::uint16_t tag) const noexcept {
    const std::uint64_t sum = (tag + std::uint64_t{1}) * 0x9E3779B97F4A7C15u >> 20;
    const std::uint64_t turn = sum % sets_;
    return turn >= at ? turn - at : turn + sets_ - at;
  }

  // The last word of a key, from the eight bytes that end it or, of short keys, byte by byte.
  std::uint64_t key_word(const std::uint8_t* key, std::size_t which) const noexcept {
    const std::size_t size = options_.key_size;
    if (8 * which + 8 <= size) return hash_detail::load64(key + 8 * which);
    if (size >= 8) return hash_detail::load64(key + size - 8) >> (8 * (words_ * 8 - size));
    std::uint64_t word = 0;
    for (std::size_t i = size; i-- > 0;) word = word << 8 | key[i];
    return word;
  }
  bool same(std::uint64_t at, int way, const std::uint8_t* key) const noexcept {
    const auto* stored = reinterpret_cast<const std::uint64_t*>(record(at, way));
    std::uint64_t differ = 0;
    for (std::size_t i = 0; i < words_; ++i) differ |= load(stored[i]) ^ key_word(key, i);
    return differ == 0;
  }

  bool over(std::uint64_t at, int way, std::uint32_t now) const noexcept {
    std::uint32_t idle_ms = options_.idle_ms;
    std::uint32_t absolute_ms = options_.absolute_ms;
    if ((load(set_[at].marks) >> (16 + way) & 1) != 0) {
      idle_ms = load(idle_word(at, way));
      absolute_ms = load(absolute_word(at, way));
    }
    const std::uint32_t idle = now - load(set_[at].seen[way]);
    if (idle_ms != kForever && idle > idle_ms && idle < kLongestMs) return true;
    if (absolute_ms == kForever) return false;
    const std::uint32_t age = now - load(created_word(at, way));
    return age > absolute_ms && age < kLongestMs;
  }

  bool find_hashed(std::uint64_t hashed, const std::uint8_t* key, std::uint32_t now, std::uint32_t bytes,
                   bool touch, std::uint32_t* value) {
    const std::uint16_t wanted = tag(hashed);
    const std::uint64_t first = home(hashed);
    for (;;) {
      const std::uint32_t version = load(set_[first].version, std::memory_order_acquire);
      int result = find_in(first, wanted, key, now, bytes, touch, value);
      if (result < 0 && load(set_[first].away, std::memory_order_acquire) != 0) {
        result = find_in(other(first, wanted), wanted, key, now, bytes, touch, value);
      }
      if (result >= 0) return result != 0;
      std::atomic_thread_fence(std::memory_order_acquire);
      if (load(set_[first].version) == version) return false;
    }
  }
  // 1: found, 0: found but over, -1: not here.
  int find_in(std::uint64_t at, std::uint16_t wanted, const std::uint8_t* key, std::uint32_t now,
              std::uint32_t bytes, bool touch, std::uint32_t* value) {
    Set& set = set_[at];
    for (;;) {
      const std::uint32_t version = load(set.version, std::memory_order_acquire);
      const std::uint32_t marks = load(set.marks, std::memory_order_acquire);
      bool again = false;
      for (std::uint32_t ways = set.match(wanted) & marks; ways != 0; ways &= ways - 1) {
        const int way = std::countr_zero(ways);
        const bool equal = same(at, way, key);
        const bool is_over = equal && over(at, way, now);
        *value = load(value_word(at, way));
        std::atomic_thread_fence(std::memory_order_acquire);
        again = load(set.version) != version || (load(set.marks) >> way & 1) == 0;
        if (again) break;
        if (!equal) continue;
        if (is_over) return 0;
        // A way that is given away now is refreshed for its new flow: that one was seen at this moment too.
        if (touch) {
          store(set.seen[way], now);
          if (options_.counts) {
            std::atomic_ref<std::uint64_t>(counter(at, way, 0)).fetch_add(1, std::memory_order_relaxed);
            std::atomic_ref<std::uint64_t>(counter(at, way, 1)).fetch_add(bytes, std::memory_order_relaxed);
          }
        }
        return 1;
      }
      if (!again) return -1;
    }
  }

  int locate(std::uint64_t hashed, const std::uint8_t* key, std::uint64_t* at) const {
    const std::uint16_t wanted = tag(hashed);
    *at = home(hashed);
    for (int turn = 0; turn < 2; ++turn) {
      for (std::uint32_t ways = set_[*at].match(wanted); ways != 0; ways &= ways - 1) {
        const int way = std::countr_zero(ways);
        if (same(*at, way, key)) return way;
      }
      if (load(set_[*at].away) == 0) break;
      *at = other(*at, wanted);
    }
    return -1;
  }

  void remove(std::uint64_t at, int way) {
    Set& set = set_[at];
    const std::uint32_t marks = load(set.marks);
    store(set.marks, marks & ~(0x10101u << way), std::memory_order_release);
    if ((marks >> (8 + way) & 1) != 0) {
      const auto tag = static_cast<std::uint16_t>(load(set.tags[way / 4]) >> (16 * (way % 4)));
      Set& from = set_[other(at, tag)];
      store(from.away, load(from.away) - 1, std::memory_order_release);
    }
    size_.store(size() - 1, std::memory_order_relaxed);
  }
  void remove_noting(std::uint64_t at, int way, std::vector<std::uint32_t>* gone) {
    if (gone != nullptr) gone->push_back(load(value_word(at, way)));
    remove(at, way);
  }

  std::size_t sweep_some(std::uint64_t sets, std::uint32_t now, std::vector<std::uint32_t>* gone) {
    std::size_t removed = 0;
    for (std::uint64_t i = 0; i < std::min(sets, sets_); ++i) {
      hand_ = hand_ + 1 == sets_ ? 0 : hand_ + 1;
      for (std::uint32_t ways = set_[hand_].valid(); ways != 0; ways &= ways - 1) {
        const int way = std::countr_zero(ways);
        if (!over(hand_, way, now)) continue;
        remove_noting(hand_, way, gone);
        ++removed;
      }
    }
    expirations_.store(expirations() + removed, std::memory_order_relaxed);
    return removed;
  }

  // Frees a way of one of the two sets: of a flow that is over, else of the idlest.
  void evict(std::uint64_t first, std::uint64_t second, std::uint32_t now, std::vector<std::uint32_t>* gone) {
    std::uint64_t victim_set = first;
    int victim = -1;
    std::uint32_t longest = 0;
    bool is_over = false;
    for (const std::uint64_t at : {first, second}) {
      for (std::uint32_t ways = set_[at].valid(); ways != 0 && !is_over; ways &= ways - 1) {
        const int way = std::countr_zero(ways);
        const std::uint32_t idle = now - load(set_[at].seen[way]);
        is_over = over(at, way, now);
        if (victim >= 0 && !is_over && idle <= longest) continue;
        victim_set = at;
        victim = way;
        longest = idle;
      }
    }
    if (victim < 0) {  // a small table whose flows are all in other sets
      do {
        hand_ = hand_ + 1 == sets_ ? 0 : hand_ + 1;
      } while (set_[hand_].valid() == 0);
      return evict(hand_, hand_, now, gone);
    }
    auto& counter = is_over ? expirations_ : evictions_;
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    remove_noting(victim_set, victim, gone);
  }

  Put put_locked(const std::uint8_t* key, std::uint32_t value, std::uint32_t now, std::uint32_t idle_ms,
                 std::uint32_t absolute_ms, std::vector<std::uint32_t>* gone) {
    const std::uint64_t hashed = hash(key);
    std::uint64_t at = 0;
    int way = locate(hashed, key, &at);
    if (way >= 0 && !over(at, way, now) && idle_ms == kDefault && absolute_ms == kDefault) {
      const std::uint32_t previous = load(value_word(at, way));
      store(value_word(at, way), value);
      store(set_[at].seen[way], now);
      return {false, previous};
    }
    Put result{true, 0};
    if (way >= 0) {  // written anew: readers see the flow as before or after, or for a moment not at all
      if (over(at, way, now)) {
        remove_noting(at, way, gone);
      } else {
        result = {false, load(value_word(at, way))};
        remove(at, way);
      }
    }
    const std::uint64_t first = home(hashed);
    const std::uint64_t second = other(first, tag(hashed));
    if (size() >= options_.capacity) evict(first, second, now, gone);
    if (full(first) && full(second) && !move_one(first) && !move_one(second)) evict(first, second, now, gone);
    at = full(first) ? second : first;
    way = std::countr_zero(~set_[at].valid());
    fill(at, way, at != first, hashed, key, value, now, idle_ms, absolute_ms);
    return result;
  }

  bool full(std::uint64_t at) const noexcept { return set_[at].valid() == 0xFF; }

  // Moves a flow of a full set to its other set, if one has room there.
  bool move_one(std::uint64_t from) {
    Set& set = set_[from];
    for (int way = 0; way < kWays; ++way) {
      const auto tag = static_cast<std::uint16_t>(load(set.tags[way / 4]) >> (16 * (way % 4)));
      const std::uint64_t to = other(from, tag);
      if (full(to)) continue;
      const int free = std::countr_zero(~set_[to].valid());
      const std::uint32_t marks = load(set.marks);
      const bool was_away = (marks >> (8 + way) & 1) != 0;
      Set& target = set_[to];
      store(target.version, load(target.version) + 1);
      std::atomic_thread_fence(std::memory_order_release);
      auto* source = reinterpret_cast<std::uint64_t*>(record(from, way));
      auto* copy = reinterpret_cast<std::uint64_t*>(record(to, free));
      for (std::size_t i = 0; i < stride_ / 8; ++i) store(copy[i], load(source[i]));
      store(target.seen[free], load(set.seen[way]));
      target.set_tag(free, tag);
      std::uint32_t moved = load(target.marks) | 1u << free | (was_away ? 0u : 0x100u << free);
      moved |= (marks >> (16 + way) & 1) << (16 + free);
      store(target.marks, moved, std::memory_order_release);
      if (!was_away) store(set.away, load(set.away) + 1, std::memory_order_release);
      // A reader that has passed the new place must find the home's version changed when it misses the old
      // one.
      Set& home = was_away ? target : set;
      store(home.version, load(home.version) + 1, std::memory_order_release);
      store(set.marks, marks & ~(0x10101u << way), std::memory_order_release);
      if (was_away) store(target.away, load(target.away) - 1, std::memory_order_release);
      return true;
    }
    return false;
  }

  void fill(std::uint64_t at, int way, bool is_away, std::uint64_t hashed, const std::uint8_t* key,
            std::uint32_t value, std::uint32_t now, std::uint32_t idle_ms, std::uint32_t absolute_ms) {
    Set& set = set_[at];
    store(set.version, load(set.version) + 1);
    std::atomic_thread_fence(std::memory_order_release);
    auto* stored = reinterpret_cast<std::uint64_t*>(record(at, way));
    for (std::size_t i = 0; i < words_; ++i) store(stored[i], key_word(key, i));
    store(value_word(at, way), value);
    store(created_word(at, way), now);
    const bool own = idle_ms != kDefault || absolute_ms != kDefault;
    store(idle_word(at, way), idle_ms == kDefault ? options_.idle_ms : idle_ms);
    store(absolute_word(at, way), absolute_ms == kDefault ? options_.absolute_ms : absolute_ms);
    if (options_.counts) {
      store(counter(at, way, 0), std::uint64_t{0});
      store(counter(at, way, 1), std::uint64_t{0});
    }
    store(set.seen[way], now);
    set.set_tag(way, tag(hashed));
    std::uint32_t marks = load(set.marks) | 1u << way;
    if (is_away) marks |= 0x100u << way;
    if (own) marks |= 0x10000u << way;
    store(set.marks, marks, std::memory_order_release);
    if (is_away) {
      Set& from = set_[home(hashed)];
      store(from.away, load(from.away) + 1, std::memory_order_release);
    }
    size_.store(size() + 1, std::memory_order_relaxed);
  }

  const Options options_;
  const std::size_t words_;
  const std::size_t stride_;
  const std::uint64_t sets_;
  Pages set_memory_;
  Pages record_memory_;
  Set* const set_;
  std::uint8_t* const records_;
  std::mutex mutex_;
  std::uint64_t hand_ = 0;
  std::atomic<std::size_t> size_{0};
  std::atomic<std::uint64_t> evictions_{0};
  std::atomic<std::uint64_t> expirations_{0};
};

}  // namespace fastpath
