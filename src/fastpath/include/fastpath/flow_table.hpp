// A bounded table of flows: keys of one size -> 32-bit values, with last-seen times, timeouts and eviction.
//
// Sets of seven ways. A set's head is one word: seven bits of hash a way, and how many flows of this home are
// in their other set. Key, value, times and counters of a way are a record that no cache line cuts (keys up
// to 48 bytes). Heads of millions of flows stay in the last-level cache, so a hit costs one line of memory,
// and a miss none. A flow lives in its home set or, when that was full, in its other set. An insert that
// finds both full moves one or two flows to their own other sets, and nothing further: its cost has a bound
// at any load.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "fastpath/cpu.hpp"
#include "fastpath/flow_index.hpp"
#include "fastpath/hash.hpp"
#include "fastpath/pages.hpp"
#include "fastpath/prefetch.hpp"

namespace fastpath {

// Look-ups take no lock; writes queue on one, which is held for a bounded time (export and clear excepted).
// No memory is ever replaced, so readers need no guard. Times are in milliseconds since the table was made.
// Stamps are 32 bits of them, brought up to date (rebase) before they can be mistaken.
class FlowTable {
 public:
  static constexpr std::uint32_t kForever = 0xFFFFFFFF;
  static constexpr std::uint32_t kDefault = 0xFFFFFFFE;  // the table's timeout
  static constexpr std::uint32_t kLongestMs = 2'000'000'000;

  struct Options {
    std::size_t key_size;
    std::size_t capacity;
    std::uint32_t idle_ms;      // 1..kLongestMs, or kForever: none
    std::uint32_t absolute_ms;  // the same
    bool counts;                // packets and bytes of each flow
    std::uint64_t seed;
  };
  struct Flow {
    std::uint32_t value;
    std::uint32_t idle_ms;  // not seen for
    std::uint32_t age_ms;
    std::uint32_t idle_timeout_ms;
    std::uint32_t absolute_timeout_ms;
    std::uint32_t own;  // whether the timeouts are its own
    std::uint64_t packets;
    std::uint64_t bytes;
  };
  struct Put {
    bool added;
    std::uint32_t previous;  // of a key that was there
  };
  using Gone = std::vector<std::uint32_t>;  // values of flows that had to go

  explicit FlowTable(const Options& options, Isa isa = isa_in_use())
      : options_(options),
        words_((options.key_size + 7) / 8),
        // At capacity six ways in seven are taken.
        sets_(std::max<std::uint64_t>(2, options.capacity / (kWays - 1) + 1)),
        stride_(stride(words_ * 8 + kRecordTail + (options.counts ? 16 : 0))),
        head_memory_(sets_ * 8),
        record_memory_(sets_ * kWays * stride_),
        heads_(static_cast<std::uint64_t*>(head_memory_.data())),
        records_(static_cast<std::uint8_t*>(record_memory_.data())),
        index_{heads_, records_, sets_, stride_, options.seed},
        kernel_(flow_kernel(isa)) {}
  FlowTable(const FlowTable&) = delete;
  FlowTable& operator=(const FlowTable&) = delete;

  // Whether a call with this time has to bring all stamps up to date, which takes the lock: once in days.
  bool stamps_are_old(std::uint64_t now_ms) const noexcept {
    const std::uint64_t base = base_ms_.load(std::memory_order_relaxed);
    return now_ms > base && now_ms - base >= kRebase;
  }
  void renew_stamps(std::uint64_t now_ms) { stamp(now_ms); }

  // Finds a live flow and notes that it was seen, with `bytes` more.
  bool find(const std::uint8_t* key, std::uint64_t now_ms, std::uint32_t bytes, std::uint32_t* value) {
    const std::uint64_t hashed = hash<0>(key);
    return find_at<0>(home(hashed), tag(hashed), key, stamp(now_ms), bytes, true, value);
  }
  bool peek(const std::uint8_t* key, std::uint64_t now_ms, std::uint32_t* value) {
    const std::uint64_t hashed = hash<0>(key);
    return find_at<0>(home(hashed), tag(hashed), key, stamp(now_ms), 0, false, value);
  }
  // bytes may be null. Returns the number of hits.
  std::size_t find_many(const std::uint8_t* keys, const std::uint32_t* bytes, std::size_t n,
                        std::uint64_t now_ms, std::uint32_t* values, std::uint32_t missing) {
    const std::uint32_t now = stamp(now_ms);
    switch (options_.key_size) {  // five-tuples, bare and padded
      case 13:
        return find_many_of<13>(keys, bytes, n, now, values, missing);
      case 16:
        return find_many_of<16>(keys, bytes, n, now, values, missing);
      case 37:
        return find_many_of<37>(keys, bytes, n, now, values, missing);
      case 40:
        return find_many_of<40>(keys, bytes, n, now, values, missing);
      default:
        return find_many_of<0>(keys, bytes, n, now, values, missing);
    }
  }

  // Whether a write would have to wait now, or a thread that forks is going to have the lock.
  bool busy() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    return !lock.owns_lock() || forking_.load(std::memory_order_relaxed);
  }
  // Inserts or replaces, and notes that the flow was seen. Values of flows that had to go are appended to
  // `gone`, if it is not null.
  Put put(const std::uint8_t* key, std::uint32_t value, std::uint64_t now_ms, std::uint32_t idle_ms,
          std::uint32_t absolute_ms, Gone* gone) {
    const std::uint32_t now = stamp(now_ms);
    const Turn turn(*this);
    if (idle_ms != kDefault || absolute_ms != kDefault) make_room_for_own();
    sweep_some(1, now, gone);
    return put_locked(hash<0>(key), key, value, now, idle_ms, absolute_ms, gone);
  }
  // previous: of each key, may be null; 0 for a new one. Returns how many are new. Other writers get their
  // turn in between.
  std::size_t put_many(const std::uint8_t* keys, const std::uint32_t* values, std::size_t n,
                       std::uint64_t now_ms, std::uint32_t* previous, Gone* gone) {
    const std::uint32_t now = stamp(now_ms);
    std::size_t added = 0;
    for (std::size_t begin = 0; begin < n; begin += kTurn) {
      let_others_write();
      const Turn turn(*this);
      const std::size_t count = std::min(kTurn, n - begin);
      added += put_turn(keys + begin * options_.key_size, values + begin, count, now,
                        previous == nullptr ? nullptr : previous + begin, gone);
      sweep_some(count / 4 + 1, now, gone);
    }
    return added;
  }
  // Puts a flow back as export_to gave it; an older one of its key is replaced.
  Put restore(const std::uint8_t* key, const Flow& flow, std::uint64_t now_ms, Gone* gone) {
    const std::uint32_t now = stamp(now_ms);
    const Turn turn(*this);
    if (flow.own != 0) make_room_for_own();
    const std::uint64_t hashed = hash<0>(key);
    const Put put = put_locked(hashed, key, flow.value, now, flow.own != 0 ? flow.idle_timeout_ms : kDefault,
                               flow.own != 0 ? flow.absolute_timeout_ms : kDefault, gone);
    const std::uint64_t slot = locate(home(hashed), tag(hashed), key);
    store(seen_word(slot), now - std::min(flow.idle_ms, kOldest));
    store(created_word(slot), now - std::min(flow.age_ms, kOldest));
    if (options_.counts) {
      store(counter(slot, 0), flow.packets);
      store(counter(slot, 1), flow.bytes);
    }
    return put;
  }
  bool erase(const std::uint8_t* key, std::uint32_t* value) {
    const Turn turn(*this);
    const std::uint64_t hashed = hash<0>(key);
    const std::uint64_t slot = locate(home(hashed), tag(hashed), key);
    if (slot == kNone) return false;
    *value = load(value_word(slot));
    remove(slot);
    return true;
  }
  // Removes flows that are over, going on where the last call ended: at most one round, no longer than about
  // `budget_us`, and not many more than `most`. Returns how many.
  std::size_t expire(std::uint64_t now_ms, std::uint64_t budget_us, std::size_t most, Gone* gone) {
    const std::uint32_t now = stamp(now_ms);
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(budget_us);
    const std::uint64_t slice = std::min<std::uint64_t>(kSlice, most / kWays + 1);
    std::size_t removed = 0;
    for (std::uint64_t walked = 0; walked < sets_; walked += slice) {
      let_others_write();
      const Turn turn(*this);
      removed += sweep_some(std::min(slice, sets_ - walked), now, gone);
      if (removed >= most) break;
      if (budget_us != ~std::uint64_t{0} && std::chrono::steady_clock::now() >= end) break;
    }
    return removed;
  }
  void clear(Gone* gone) {
    const Turn turn(*this);
    for (std::uint64_t set = 0; set < sets_; ++set) {
      for (std::uint64_t ways = taken(load(heads_[set])); ways != 0; ways &= ways - 1)
        remove_noting(slot_of(set, ways), gone);
    }
  }

  // All live flows, at one point in time.
  void export_to(std::uint64_t now_ms, std::vector<std::uint8_t>& keys, std::vector<Flow>& flows) {
    const std::uint32_t now = stamp(now_ms);
    const Turn turn(*this);
    keys.reserve(size() * options_.key_size);
    flows.reserve(size());
    for (std::uint64_t set = 0; set < sets_; ++set) {
      for (std::uint64_t ways = taken(load(heads_[set])); ways != 0; ways &= ways - 1) {
        const std::uint64_t slot = slot_of(set, ways);
        const std::uint32_t state = load(version_word(slot));
        const std::uint32_t seen = load(seen_word(slot));
        if (over(slot, state, seen, now)) continue;
        const auto [idle_ms, absolute_ms] = timeouts(slot, state);
        Flow flow{};
        flow.value = load(value_word(slot));
        flow.idle_ms = std::min(since(now, seen), kOldest);
        flow.age_ms = std::min(since(now, load(created_word(slot))), kOldest);
        flow.idle_timeout_ms = idle_ms;
        flow.absolute_timeout_ms = absolute_ms;
        flow.own = state & kOwn;
        if (options_.counts) {
          flow.packets = load(counter(slot, 0));
          flow.bytes = load(counter(slot, 1));
        }
        keys.insert(keys.end(), record(slot), record(slot) + options_.key_size);
        flows.push_back(flow);
      }
    }
  }

  // By the thread that forks, before and after: meanwhile nobody writes. In the child, where no other thread
  // is, unlock_in_child() takes the place of the latter, and forgets who waited.
  // With the GIL held, before lock_for_fork() waits without it: from here on busy() is true. Who holds the
  // GIL must not wait for the thread that forks, which needs the GIL to go on.
  void expect_fork() noexcept { forking_.store(true, std::memory_order_relaxed); }
  void lock_for_fork() { lock(); }
  void unlock_after_fork() noexcept {
    forking_.store(false, std::memory_order_relaxed);
    mutex_.unlock();
  }
  void unlock_in_child() noexcept {
    forking_.store(false, std::memory_order_relaxed);
    waiting_ = 0;
    mutex_.unlock();
  }

  const Options& options() const noexcept { return options_; }
  std::size_t size() const noexcept { return size_.load(std::memory_order_relaxed); }
  std::uint64_t evictions() const noexcept { return evictions_.load(std::memory_order_relaxed); }
  std::uint64_t expirations() const noexcept { return expirations_.load(std::memory_order_relaxed); }
  std::size_t nbytes() const noexcept {
    return head_memory_.bytes() + record_memory_.bytes() +
           (own_.load(std::memory_order_acquire) == nullptr ? 0 : own_memory_.bytes());
  }

 private:
  static constexpr int kWays = FlowIndex::kWays;
  static constexpr std::size_t kRecordTail = 16;
  static constexpr std::size_t kGroup = FlowGroup::kKeys;
  static constexpr std::size_t kTurn = 1024;    // keys that a batch inserts before others may write
  static constexpr std::uint64_t kSlice = 128;  // sets between two looks at the clock
  static constexpr std::uint64_t kNone = FlowIndex::kNone;

  // A writer's turn. Who wants several in a row lets those who wait go first: a mutex alone is not fair.
  class Turn {
   public:
    explicit Turn(FlowTable& table) : table_(table) { table.lock(); }
    ~Turn() { table_.mutex_.unlock(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    FlowTable& table_;
  };
  void lock() {
    waiting_.fetch_add(1, std::memory_order_relaxed);
    mutex_.lock();
    waiting_.fetch_sub(1, std::memory_order_relaxed);
  }
  void let_others_write() const noexcept {
    while (waiting_.load(std::memory_order_relaxed) != 0) std::this_thread::yield();
  }

  template <typename Word>
  static Word load(const Word& word, std::memory_order order = std::memory_order_relaxed) noexcept {
    return std::atomic_ref<Word>(const_cast<Word&>(word)).load(order);
  }
  template <typename Word>
  static void store(Word& word, Word value, std::memory_order order = std::memory_order_relaxed) noexcept {
    std::atomic_ref<Word>(word).store(value, order);
  }

  // Time. Stamps lie at most kOldest before the last rebase and kRebase after it, so that between two of them
  // no age reaches kAhead; what seems older is a stamp of a moment that the caller's clock has not reached.
  static constexpr std::uint32_t kOldest = std::uint32_t{1} << 31;
  static constexpr std::uint64_t kRebase = std::uint64_t{1} << 30;
  static constexpr std::uint32_t kAhead = 0xF0000000;

  static std::uint32_t since(std::uint32_t now, std::uint32_t then) noexcept {
    const std::uint32_t age = now - then;
    return age < kAhead ? age : 0;
  }
  std::uint32_t stamp(std::uint64_t now_ms) {
    if (stamps_are_old(now_ms)) [[unlikely]]
      rebase(now_ms);
    return static_cast<std::uint32_t>(now_ms);
  }
  __attribute__((noinline, cold)) void rebase(std::uint64_t now_ms) {
    const Turn turn(*this);
    const std::uint64_t base = base_ms_.load(std::memory_order_relaxed);
    if (now_ms <= base || now_ms - base < kRebase) return;
    const auto brought = [&](std::uint32_t& word) {
      const auto from_base = static_cast<std::int32_t>(load(word) - static_cast<std::uint32_t>(base));
      const std::uint64_t age = now_ms - base - static_cast<std::uint64_t>(std::int64_t{from_base});
      store(word, static_cast<std::uint32_t>(now_ms) -
                      static_cast<std::uint32_t>(std::min<std::uint64_t>(age, kOldest)));
    };
    for (std::uint64_t set = 0; set < sets_; ++set) {
      for (std::uint64_t ways = taken(load(heads_[set])); ways != 0; ways &= ways - 1) {
        brought(seen_word(slot_of(set, ways)));
        brought(created_word(slot_of(set, ways)));
      }
    }
    base_ms_.store(now_ms, std::memory_order_relaxed);
  }

  static constexpr std::uint64_t kBytes = FlowIndex::kBytes;
  static constexpr std::uint64_t kAway = FlowIndex::kAway;
  static constexpr std::uint64_t kMany = FlowIndex::kMany;

  // Ways whose byte is this one: bit 7 of each.
  static std::uint64_t match(std::uint64_t head, std::uint64_t byte) noexcept {
    constexpr std::uint64_t kLow = 0x7F * kBytes;
    const std::uint64_t differ = head ^ (byte * kBytes);
    return ~(((differ & kLow) + kLow) | differ | kLow) & (kBytes << 7);
  }
  static std::uint64_t taken(std::uint64_t head) noexcept { return match(head, 0) ^ (kBytes << 7); }
  static std::uint64_t away(std::uint64_t head) noexcept { return head >> 56; }
  static std::uint64_t more_away(std::uint64_t head) noexcept {
    return away(head) == kMany ? head : head + (std::uint64_t{1} << 56);
  }
  static std::uint64_t tag_at(std::uint64_t head, std::uint64_t way) noexcept {
    return head >> (8 * way) & 0xFF;
  }
  static std::uint64_t slot_of(std::uint64_t set, std::uint64_t ways) noexcept {
    return set * kWays + static_cast<std::uint64_t>(std::countr_zero(ways)) / 8;
  }

  // A record: the key in whole words, zero-padded; value; seen; created; version. The version is raised
  // before and after a record is written anew (bit 1 is set in between); its bit 0 says that the timeouts are
  // its own.
  static constexpr std::uint32_t kOwn = 1;
  static constexpr std::uint32_t kWriting = 2;

  static std::size_t stride(std::size_t bytes) noexcept {
    return bytes <= 64 ? std::max<std::size_t>(32, std::bit_ceil(bytes)) : (bytes + 15) / 16 * 16;
  }
  std::uint8_t* record(std::uint64_t slot) const noexcept { return records_ + slot * stride_; }
  std::uint32_t& word(std::uint64_t slot, std::size_t which) const noexcept {
    return reinterpret_cast<std::uint32_t*>(record(slot) + words_ * 8)[which];
  }
  std::uint32_t& value_word(std::uint64_t slot) const noexcept { return word(slot, 0); }
  std::uint32_t& seen_word(std::uint64_t slot) const noexcept { return word(slot, 1); }
  std::uint32_t& created_word(std::uint64_t slot) const noexcept { return word(slot, 2); }
  std::uint32_t& version_word(std::uint64_t slot) const noexcept { return word(slot, 3); }
  std::uint64_t& counter(std::uint64_t slot, std::size_t which) const noexcept {
    return reinterpret_cast<std::uint64_t*>(record(slot) + words_ * 8 + kRecordTail)[which];
  }

  // kSize: the size of a key where it is known when this is compiled, else 0.
  template <std::size_t kSize>
  std::size_t key_size() const noexcept {
    return kSize != 0 ? kSize : options_.key_size;
  }
  template <std::size_t kSize>
  std::uint64_t hash(const std::uint8_t* key) const noexcept {
    return xxh3_64(key, key_size<kSize>(), options_.seed);
  }
  static std::uint64_t tag(std::uint64_t hash) noexcept { return FlowIndex::tag(hash); }
  std::uint64_t home(std::uint64_t hash) const noexcept { return index_.home(hash); }
  std::uint64_t other(std::uint64_t set, std::uint64_t tag) const noexcept { return index_.other(set, tag); }

  // The last word of a key, from the eight bytes that end it or, of short keys, byte by byte.
  template <std::size_t kSize>
  std::uint64_t key_word(const std::uint8_t* key, std::size_t which) const noexcept {
    const std::size_t size = key_size<kSize>();
    if (8 * which + 8 <= size) return hash_detail::load64(key + 8 * which);
    if (size >= 8) return hash_detail::load64(key + size - 8) >> (8 * (8 - size % 8));
    std::uint64_t word = 0;
    for (std::size_t i = size; i-- > 0;) word = word << 8 | key[i];
    return word;
  }
  template <std::size_t kSize>
  bool same(std::uint64_t slot, const std::uint8_t* key) const noexcept {
    const auto* stored = reinterpret_cast<const std::uint64_t*>(record(slot));
    const std::size_t words = kSize != 0 ? (kSize + 7) / 8 : words_;
    std::uint64_t differ = 0;
    for (std::size_t i = 0; i < words; ++i) differ |= load(stored[i]) ^ key_word<kSize>(key, i);
    return differ == 0;
  }

  // Timeouts of their own: a word a slot, of which a table that has none has no memory.
  void make_room_for_own() {
    if (own_.load(std::memory_order_relaxed) != nullptr) return;
    own_memory_ = Pages(sets_ * kWays * 8);
    own_.store(static_cast<std::uint64_t*>(own_memory_.data()), std::memory_order_release);
  }
  struct Timeouts {
    std::uint32_t idle_ms;
    std::uint32_t absolute_ms;
  };
  Timeouts timeouts(std::uint64_t slot, std::uint32_t state) const noexcept {
    if ((state & kOwn) == 0) return {options_.idle_ms, options_.absolute_ms};
    const std::uint64_t both = load(own_.load(std::memory_order_acquire)[slot]);
    return {static_cast<std::uint32_t>(both), static_cast<std::uint32_t>(both >> 32)};
  }
  void set_own(std::uint64_t slot, Timeouts own) const noexcept {
    store(own_.load(std::memory_order_relaxed)[slot], std::uint64_t{own.absolute_ms} << 32 | own.idle_ms);
  }
  Timeouts or_own(std::uint32_t idle_ms, std::uint32_t absolute_ms) const noexcept {
    return {idle_ms == kDefault ? options_.idle_ms : idle_ms,
            absolute_ms == kDefault ? options_.absolute_ms : absolute_ms};
  }
  // A timeout of kForever is longer than any age.
  bool over(std::uint64_t slot, std::uint32_t state, std::uint32_t seen, std::uint32_t now) const noexcept {
    const auto [idle_ms, absolute_ms] = timeouts(slot, state);
    return since(now, seen) > idle_ms ||
           (absolute_ms != kForever && since(now, load(created_word(slot))) > absolute_ms);
  }
  bool over(std::uint64_t slot, std::uint32_t now) const noexcept {
    return over(slot, load(version_word(slot)), load(seen_word(slot)), now);
  }

  enum class Look { kFound, kOver, kOtherKey, kAgain };
  // Reads one record. kAgain: it was written meanwhile, so the head has changed, too.
  template <std::size_t kSize>
  Look look(std::uint64_t slot, const std::uint8_t* key, std::uint32_t now, std::uint32_t bytes, bool touch,
            std::uint32_t* value) {
    const std::uint32_t state = load(version_word(slot), std::memory_order_acquire);
    const bool equal = same<kSize>(slot, key);
    const std::uint32_t seen = load(seen_word(slot));
    const bool is_over = over(slot, state, seen, now);
    *value = load(value_word(slot));
    std::atomic_thread_fence(std::memory_order_acquire);
    if (((load(version_word(slot)) ^ state) & ~kOwn) != 0 || (state & kWriting) != 0) return Look::kAgain;
    if (!equal) return Look::kOtherKey;
    if (is_over) return Look::kOver;
    if (touch) {
      // Should the record be given away now, its new flow was seen at this moment, too.
      if (const std::uint32_t idle = now - seen; idle != 0 && idle < kAhead) store(seen_word(slot), now);
      if (options_.counts) {
        std::atomic_ref<std::uint64_t>(counter(slot, 0)).fetch_add(1, std::memory_order_relaxed);
        std::atomic_ref<std::uint64_t>(counter(slot, 1)).fetch_add(bytes, std::memory_order_relaxed);
      }
    }
    return Look::kFound;
  }
  // The same where nothing is counted and only idleness ends a flow, by what a batch keeps in registers;
  // true: found, false: ask look().
  template <std::size_t kSize>
  bool look_plainly(std::uint8_t* place, const std::uint8_t* key, std::uint32_t now, std::uint32_t idle_ms,
                    std::uint32_t* value) const noexcept {
    constexpr std::size_t kWords = (kSize + 7) / 8;
    auto* tail = reinterpret_cast<std::uint32_t*>(place + kWords * 8);
    const std::uint32_t state = load(tail[3], std::memory_order_acquire);
    std::uint64_t differ = state & (kOwn | kWriting);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kWords; ++i) {
      differ |= load(reinterpret_cast<const std::uint64_t*>(place)[i]) ^ key_word<kSize>(key, i);
    }
    *value = load(tail[0]);
    const std::uint32_t idle = now - load(tail[1]);
    std::atomic_thread_fence(std::memory_order_acquire);
    differ |= load(tail[3]) ^ state;
    if (differ != 0 || idle > idle_ms) return false;
    if (idle != 0) store(tail[1], now);
    return true;
  }
  // The same for a group; what it leaves waits for look(). Returns the number of hits. A function of its own,
  // so that its loop has all the registers.
  template <std::size_t kSize>
  __attribute__((noinline)) std::size_t look_at_group(const std::uint8_t* keys, std::size_t n,
                                                      std::uint32_t now, std::uint32_t missing,
                                                      FlowGroup& group,
                                                      std::uint32_t* values) const noexcept {
    const std::uint32_t idle_ms = std::min(options_.idle_ms, kAhead - 1);
    std::uint8_t* const records = records_;
    const std::size_t stride = stride_;
    std::uint32_t left = 0;
    std::size_t hits = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (group.slot[i] == kNone) {
        values[i] = missing;
      } else if (look_plainly<kSize>(records + group.slot[i] * stride, keys + i * kSize, now, idle_ms,
                                     &values[i])) {
        ++hits;
      } else {
        group.left[left++] = static_cast<std::uint32_t>(i);
      }
    }
    group.lefts = left;
    return hits;
  }
  // Flows move from home to their other set only, where they appear before the one store that takes them from
  // the home's ways and counts them as away: home first, then the other set, never misses one.
  template <std::size_t kSize>
  bool find_at(std::uint64_t set, std::uint64_t tag, const std::uint8_t* key, std::uint32_t now,
               std::uint32_t bytes, bool touch, std::uint32_t* value) {
    for (bool again = true; again;) {
      again = false;
      const std::uint64_t head = load(heads_[set], std::memory_order_acquire);
      std::uint64_t at = set;
      std::uint64_t ways = match(head, tag);
      for (int turn = 0;;) {
        for (; ways != 0 && !again; ways &= ways - 1) {
          const Look seen = look<kSize>(slot_of(at, ways), key, now, bytes, touch, value);
          if (seen == Look::kFound) return true;
          if (seen == Look::kOver) return false;
          again = seen == Look::kAgain;
        }
        if (again || ++turn == 2 || away(head) == 0) break;
        at = other(set, tag);
        ways = match(load(heads_[at], std::memory_order_acquire), tag | kAway);
      }
    }
    return false;
  }

  // The first of these steps for what a group's one guess missed; false: not found yet.
  template <std::size_t kSize>
  bool find_at_home(std::uint64_t set, std::uint64_t tag, const std::uint8_t* key, std::uint32_t now,
                    std::uint32_t bytes, std::uint32_t* value) {
    std::uint64_t ways = match(load(heads_[set], std::memory_order_acquire), tag);
    for (; ways != 0; ways &= ways - 1) {
      if (look<kSize>(slot_of(set, ways), key, now, bytes, true, value) == Look::kFound) return true;
    }
    return false;
  }

  // Four stages, each a group behind the one before: send for the heads; send for the record that the tag
  // names or, without one, for the head of the other set; send for the record that this one names; compare.
  // Branches that wait for memory would stop the processor from sending for more, so there are none before
  // the last.
  template <std::size_t kSize>
  std::size_t find_many_of(const std::uint8_t* keys, const std::uint32_t* bytes, std::size_t n,
                           std::uint32_t now, std::uint32_t* values, std::uint32_t missing) {
    FlowGroup ring[4];
    // Keys whose first match was another flow's: they need what nobody has sent for, so they wait for
    // company.
    struct {
      std::size_t at[2 * kGroup];
      std::uint64_t set[2 * kGroup];
      std::uint64_t tag[2 * kGroup];
      std::size_t count = 0;
    } late;
    std::size_t hits = 0;
    const auto key_at = [&](std::size_t at) { return keys + at * key_size<kSize>(); };
    const auto size_at = [&](std::size_t at) { return bytes == nullptr ? 0 : bytes[at]; };
    const auto catch_up = [&] {
      for (std::size_t i = 0; i < late.count; ++i) fetch_ahead(&heads_[other(late.set[i], late.tag[i])]);
      for (std::size_t i = 0; i < late.count; ++i) {
        const std::uint64_t set = other(late.set[i], late.tag[i]);
        const std::uint64_t ways = match(load(heads_[set]), late.tag[i] | kAway);
        if (ways != 0) send_for_record(record(slot_of(set, ways)));
      }
      for (std::size_t i = 0; i < late.count; ++i) {
        const std::size_t at = late.at[i];
        std::uint32_t value = 0;
        const bool hit = find_at<kSize>(late.set[i], late.tag[i], key_at(at), now, size_at(at), true, &value);
        values[at] = hit ? value : missing;
        hits += hit;
      }
      late.count = 0;
    };

    constexpr std::size_t kKeysAhead = 8;  // in groups
    const bool plain = kSize != 0 && !options_.counts && options_.absolute_ms == kForever;
    const std::size_t groups = (n + kGroup - 1) / kGroup;
    const auto count_of = [n](std::size_t group) { return std::min(kGroup, n - group * kGroup); };
    for (std::size_t step = 0; step < groups + 3; ++step) {
      if (step < groups) {
        const std::uint8_t* from = key_at(step * kGroup);
        // Beside so many random lines the processor does not send for the keys soon enough by itself.
        if (step + kKeysAhead < groups) {
          const std::uint8_t* ahead = key_at((step + kKeysAhead) * kGroup);
          for (std::size_t byte = 0; byte < kGroup * key_size<kSize>(); byte += 64) fetch_ahead(ahead + byte);
        }
        if (kSize == 16 && kernel_.hash16 != nullptr && count_of(step) == kGroup) {
          kernel_.hash16(index_, from, ring[step % 4]);
        } else {
          hash_group<kSize>(from, count_of(step), ring[step % 4]);
        }
      }
      if (step >= 1 && step - 1 < groups) {
        if (kernel_.match != nullptr && count_of(step - 1) == kGroup) {
          kernel_.match(index_, ring[(step - 1) % 4]);
        } else {
          match_group(count_of(step - 1), ring[(step - 1) % 4]);
        }
      }
      if (step >= 2 && step - 2 < groups) {
        FlowGroup& group = ring[(step - 2) % 4];
        for (std::uint32_t k = 0; k < group.elsewheres; ++k) {
          const std::size_t i = group.elsewhere[k];
          const std::uint64_t set = other(group.set[i], group.tag[i]);
          const std::uint64_t ways =
              match(load(heads_[set], std::memory_order_acquire), group.tag[i] | kAway);
          if (ways == 0) continue;
          group.slot[i] = slot_of(set, ways);
          send_for_record(record(group.slot[i]));
        }
      }
      if (step >= 3) {
        FlowGroup& group = ring[(step - 3) % 4];
        const std::size_t begin = (step - 3) * kGroup;
        const std::size_t count = count_of(step - 3);
        if (plain) {
          hits += look_at_group<kSize>(key_at(begin), count, now, missing, group, values + begin);
        } else {
          group.lefts = 0;
          for (std::size_t i = 0; i < count; ++i) {
            values[begin + i] = missing;
            if (group.slot[i] != kNone) group.left[group.lefts++] = static_cast<std::uint32_t>(i);
          }
        }
        for (std::uint32_t k = 0; k < group.lefts; ++k) {
          const std::size_t i = group.left[k];
          const std::size_t at = begin + i;
          std::uint32_t value = 0;
          const Look seen = look<kSize>(group.slot[i], key_at(at), now, size_at(at), true, &value);
          if (seen == Look::kOver) {
            values[at] = missing;
          } else if (seen == Look::kFound ||
                     find_at_home<kSize>(group.set[i], group.tag[i], key_at(at), now, size_at(at), &value)) {
            values[at] = value;
            ++hits;
          } else {
            late.at[late.count] = at;
            late.set[late.count] = group.set[i];
            late.tag[late.count++] = group.tag[i];
          }
        }
        if (late.count > kGroup) catch_up();
      }
    }
    catch_up();
    return hits;
  }
  template <std::size_t kSize>
  void hash_group(const std::uint8_t* keys, std::size_t n, FlowGroup& group) const noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint64_t hashed = hash<kSize>(keys + i * key_size<kSize>());
      group.set[i] = home(hashed);
      group.tag[i] = tag(hashed);
      fetch_ahead(&heads_[group.set[i]]);
    }
  }
  void match_group(std::size_t n, FlowGroup& group) const noexcept {
    std::uint32_t elsewheres = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint64_t head = load(heads_[group.set[i]], std::memory_order_acquire);
      const std::uint64_t ways = match(head, group.tag[i]);
      const std::uint64_t slot = slot_of(group.set[i], ways | std::uint64_t{1} << 63);
      const auto* next = reinterpret_cast<const std::uint8_t*>(&heads_[other(group.set[i], group.tag[i])]);
      group.slot[i] = ways != 0 ? slot : kNone;
      send_for_record(ways != 0 ? record(slot) : next);
      if ((ways & (ways - 1)) != 0) send_for_record(record(slot_of(group.set[i], ways & (ways - 1))));
      group.elsewhere[elsewheres] = static_cast<std::uint32_t>(i);
      elsewheres += static_cast<std::uint32_t>(ways == 0) & static_cast<std::uint32_t>(away(head) != 0);
    }
    group.elsewheres = elsewheres;
  }
  void send_for_record(const std::uint8_t* place) const noexcept {
    fetch_ahead(place);
    if (stride_ > 64) fetch_ahead(place + stride_ - 1);
  }

  std::uint64_t locate(std::uint64_t set, std::uint64_t tag, const std::uint8_t* key) const {
    const std::uint64_t head = load(heads_[set]);
    for (std::uint64_t ways = match(head, tag); ways != 0; ways &= ways - 1) {
      if (same<0>(slot_of(set, ways), key)) return slot_of(set, ways);
    }
    if (away(head) == 0) return kNone;
    const std::uint64_t at = other(set, tag);
    for (std::uint64_t ways = match(load(heads_[at]), tag | kAway); ways != 0; ways &= ways - 1) {
      if (same<0>(slot_of(at, ways), key)) return slot_of(at, ways);
    }
    return kNone;
  }

  void remove(std::uint64_t slot) {
    const std::uint64_t set = slot / kWays;
    const std::uint64_t way = slot % kWays;
    const std::uint64_t head = load(heads_[set]);
    const std::uint64_t byte = tag_at(head, way);
    store(heads_[set], head & ~(std::uint64_t{0xFF} << (8 * way)), std::memory_order_release);
    if ((byte & kAway) != 0) {
      std::uint64_t& from = heads_[other(set, byte & ~kAway)];
      const std::uint64_t counted = load(from);
      if (away(counted) != kMany) {
        store(from, counted - (std::uint64_t{1} << 56), std::memory_order_release);
      }
    }
    size_.store(size() - 1, std::memory_order_relaxed);
  }
  void remove_noting(std::uint64_t slot, Gone* gone) {
    if (gone != nullptr) gone->push_back(load(value_word(slot)));
    remove(slot);
  }

  std::size_t sweep_some(std::uint64_t sets, std::uint32_t now, Gone* gone) {
    constexpr std::uint64_t kLookahead = 16;
    std::size_t removed = 0;
    for (std::uint64_t i = 0; i < std::min(sets, sets_); ++i) {
      // The homes of flows that are away here lie anywhere.
      if (const std::uint64_t soon = hand_ + kLookahead; i + kLookahead < sets && soon < sets_) {
        const std::uint64_t head = load(heads_[soon]);
        for (std::uint64_t ways = head & (kBytes << 7); ways != 0; ways &= ways - 1) {
          const auto way = static_cast<std::uint64_t>(std::countr_zero(ways)) / 8;
          __builtin_prefetch(&heads_[other(soon, tag_at(head, way) & ~kAway)], 1);
        }
      }
      hand_ = hand_ + 1 == sets_ ? 0 : hand_ + 1;
      for (std::uint64_t ways = taken(load(heads_[hand_])); ways != 0; ways &= ways - 1) {
        const std::uint64_t slot = slot_of(hand_, ways);
        if (!over(slot, now)) continue;
        remove_noting(slot, gone);
        ++removed;
      }
    }
    expirations_.store(expirations() + removed, std::memory_order_relaxed);
    return removed;
  }

  // Frees a way of one of the two sets: of a flow that is over, else of the idlest.
  void evict(std::uint64_t first, std::uint64_t second, std::uint32_t now, Gone* gone) {
    std::uint64_t victim = kNone;
    std::uint32_t longest = 0;
    bool is_over = false;
    for (const std::uint64_t set : {first, second}) {
      for (std::uint64_t ways = taken(load(heads_[set])); ways != 0 && !is_over; ways &= ways - 1) {
        const std::uint64_t slot = slot_of(set, ways);
        const std::uint32_t idle = since(now, load(seen_word(slot)));
        is_over = over(slot, now);
        if (victim != kNone && !is_over && idle <= longest) continue;
        victim = slot;
        longest = idle;
      }
    }
    if (victim == kNone) {  // a small table whose flows are all in other sets
      do {
        hand_ = hand_ + 1 == sets_ ? 0 : hand_ + 1;
      } while (taken(load(heads_[hand_])) == 0);
      return evict(hand_, hand_, now, gone);
    }
    auto& counter = is_over ? expirations_ : evictions_;
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    remove_noting(victim, gone);
  }

  std::size_t put_turn(const std::uint8_t* keys, const std::uint32_t* values, std::size_t n,
                       std::uint32_t now, std::uint32_t* previous, Gone* gone) {
    constexpr std::size_t kAheadHead = 24;
    constexpr std::size_t kAheadRecord = 12;
    std::uint64_t hashes[32];
    std::size_t added = 0;
    for (std::size_t i = 0; i < n + kAheadHead; ++i) {
      if (i < n) {
        const std::uint64_t hashed = hash<0>(keys + i * options_.key_size);
        hashes[i % 32] = hashed;
        __builtin_prefetch(&heads_[home(hashed)], 1);
      }
      if (i >= kAheadHead - kAheadRecord && i - (kAheadHead - kAheadRecord) < n) {
        send_for_put(hashes[(i - (kAheadHead - kAheadRecord)) % 32]);
      }
      if (i < kAheadHead) continue;
      const std::size_t at = i - kAheadHead;
      const Put put = put_locked(hashes[at % 32], keys + at * options_.key_size, values[at], now, kDefault,
                                 kDefault, gone);
      added += put.added;
      if (previous != nullptr) previous[at] = put.added ? 0 : put.previous;
    }
    return added;
  }
  // What a put will read and write: the record of the tag or else of a free way; of a full table, the times
  // of the flows among which it must choose.
  void send_for_put(std::uint64_t hashed) const noexcept {
    const std::uint64_t set = home(hashed);
    const std::uint64_t second = other(set, tag(hashed));
    const std::uint64_t head = load(heads_[set]);
    std::uint64_t ways = match(head, tag(hashed));
    if (ways == 0) ways = match(head, 0);
    if (ways != 0) __builtin_prefetch(record(slot_of(set, ways)), 1);
    if (ways == 0 || away(head) != 0) __builtin_prefetch(&heads_[second], 1);
    if (size() < options_.capacity) return;
    for (const std::uint64_t at : {set, second}) {
      for (std::size_t byte = 0; byte < kWays * stride_; byte += 64)
        __builtin_prefetch(record(at * kWays) + byte);
    }
  }

  Put put_locked(std::uint64_t hashed, const std::uint8_t* key, std::uint32_t value, std::uint32_t now,
                 std::uint32_t idle_ms, std::uint32_t absolute_ms, Gone* gone) {
    const std::uint64_t first = home(hashed);
    const std::uint64_t byte = tag(hashed);
    const bool own = idle_ms != kDefault || absolute_ms != kDefault;
    if (const std::uint64_t slot = locate(first, byte, key); slot != kNone) {
      if (!over(slot, now)) {
        const std::uint32_t previous = load(value_word(slot));
        // Fresh before anything else, so that no reader finds it over between two of these stores.
        store(seen_word(slot), now);
        if (own) {
          store(created_word(slot), now);
          set_own(slot, or_own(idle_ms, absolute_ms));
          store(version_word(slot), load(version_word(slot)) | kOwn, std::memory_order_release);
          if (options_.counts) reset_counters(slot);
        }
        store(value_word(slot), value);
        return {false, previous};
      }
      remove_noting(slot, gone);
    }
    const std::uint64_t second = other(first, byte);
    if (size() >= options_.capacity) evict(first, second, now, gone);
    if (full(first) && full(second) && !move_one(first, true) && !move_one(second, true)) {
      evict(first, second, now, gone);
    }
    const bool is_away = full(first);
    const std::uint64_t set = is_away ? second : first;
    fill(slot_of(set, match(load(heads_[set]), 0)), key, value, now, own, or_own(idle_ms, absolute_ms));
    put_tag(set, is_away ? byte | kAway : byte);
    if (is_away) store(heads_[first], more_away(load(heads_[first])), std::memory_order_release);
    size_.store(size() + 1, std::memory_order_relaxed);
    return {true, 0};
  }

  bool full(std::uint64_t set) const noexcept { return match(load(heads_[set]), 0) == 0; }
  // Gives the first free way of a set to the record that was written there.
  void put_tag(std::uint64_t set, std::uint64_t byte) {
    const std::uint64_t head = load(heads_[set]);
    const int way = std::countr_zero(match(head, 0)) / 8;
    store(heads_[set], head | byte << (8 * way), std::memory_order_release);
  }
  // Moves a flow that is at home in a full set to its other set, if one has room there, at need by moving one
  // from there first.
  bool move_one(std::uint64_t from, bool further) {
    for (const bool make_room : {false, true}) {
      if (make_room && !further) return false;
      for (std::uint64_t way = 0; way < kWays; ++way) {
        const std::uint64_t byte = tag_at(load(heads_[from]), way);
        const std::uint64_t to = other(from, byte & ~kAway);
        if ((byte & kAway) != 0 || to == from) continue;
        if (full(to) && !(make_room && move_one(to, false))) continue;
        const std::uint64_t source = from * kWays + way;
        copy(slot_of(to, match(load(heads_[to]), 0)), source);
        put_tag(to, byte | kAway);
        const std::uint64_t head = load(heads_[from]) & ~(std::uint64_t{0xFF} << (8 * way));
        store(heads_[from], more_away(head), std::memory_order_release);
        return true;
      }
    }
    return false;
  }

  void open(std::uint64_t slot) {
    store(version_word(slot), load(version_word(slot)) | kWriting);
    std::atomic_thread_fence(std::memory_order_release);
  }
  void close(std::uint64_t slot, bool own) {
    const std::uint32_t next = (load(version_word(slot)) & ~kOwn) + kWriting;  // carries into the count
    store(version_word(slot), next | (own ? kOwn : 0), std::memory_order_release);
  }
  void copy(std::uint64_t to, std::uint64_t from) {
    const bool own = (load(version_word(from)) & kOwn) != 0;
    open(to);
    const auto* source = reinterpret_cast<const std::uint64_t*>(record(from));
    auto* target = reinterpret_cast<std::uint64_t*>(record(to));
    for (std::size_t i = 0; i < words_; ++i) store(target[i], load(source[i]));
    store(value_word(to), load(value_word(from)));
    store(seen_word(to), load(seen_word(from)));
    store(created_word(to), load(created_word(from)));
    if (own) set_own(to, timeouts(from, kOwn));
    if (options_.counts) {
      for (std::size_t i = 0; i < 2; ++i) store(counter(to, i), load(counter(from, i)));
    }
    close(to, own);
  }
  void fill(std::uint64_t slot, const std::uint8_t* key, std::uint32_t value, std::uint32_t now, bool own,
            Timeouts timeouts) {
    open(slot);
    auto* stored = reinterpret_cast<std::uint64_t*>(record(slot));
    for (std::size_t i = 0; i < words_; ++i) store(stored[i], key_word<0>(key, i));
    store(value_word(slot), value);
    store(seen_word(slot), now);
    store(created_word(slot), now);
    if (own) set_own(slot, timeouts);
    if (options_.counts) reset_counters(slot);
    close(slot, own);
  }
  void reset_counters(std::uint64_t slot) {
    for (std::size_t i = 0; i < 2; ++i) store(counter(slot, i), std::uint64_t{0});
  }

  const Options options_;
  const std::size_t words_;
  const std::uint64_t sets_;
  const std::size_t stride_;
  Pages head_memory_;
  Pages record_memory_;
  Pages own_memory_;
  std::uint64_t* const heads_;
  std::uint8_t* const records_;
  const FlowIndex index_;
  const FlowKernel kernel_;
  std::atomic<std::uint64_t*> own_{nullptr};
  std::atomic<std::uint64_t> base_ms_{0};
  std::mutex mutex_;
  std::atomic<bool> forking_{false};
  std::atomic<std::uint32_t> waiting_{0};
  std::uint64_t hand_ = 0;
  std::atomic<std::size_t> size_{0};
  std::atomic<std::uint64_t> evictions_{0};
  std::atomic<std::uint64_t> expirations_{0};
};

}  // namespace fastpath
