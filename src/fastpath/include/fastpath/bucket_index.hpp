// A hash index whose buckets are single cache lines: keys, values and everything a look-up needs to know.
//
// A key lives in its home bucket or, when that was full, in one of four alternates at fixed distances; the
// home bucket says which alternates hold keys of it. A look-up therefore reads one line, seldom two, and a
// miss ends in its home bucket unless that bucket overflowed. (Lines per bucket after Askitis; the marks of
// the home bucket after the hop information of Herlihy, Shavit and Tzafrir, "Hopscotch hashing", 2008.)
//
// One writer (the owner's lock), any number of readers that never wait: a bucket's meta word carries a
// version that the writer raises before it reuses a slot or moves a key, and a reader that sees it change
// looks again. The version has 20 bits: it would take a million reuses of one line between two loads of one
// reader to fool it.
//
// Growth makes an array of twice the size, has its memory made ready before it is needed, and then moves a
// few buckets with each write: an entry is written into the new array, then taken out of the old one, so that
// each stands in one array for the writer, and a reader that looks into the old one first finds it in one of
// them. A reader that misses in arrays which are no longer the ones in use looks again.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <type_traits>

#include "fastpath/epoch.hpp"
#include "fastpath/hash.hpp"
#include "fastpath/pages.hpp"
#include "fastpath/prefault.hpp"

namespace fastpath {

struct Key16 {
  std::uint64_t low;
  std::uint64_t high;
  friend bool operator==(const Key16&, const Key16&) = default;
};

namespace bucket_detail {

template <typename Word>
inline Word load_relaxed(const Word& word) noexcept {
  return std::atomic_ref<Word>(const_cast<Word&>(word)).load(std::memory_order_relaxed);
}
template <typename Word>
inline void store_relaxed(Word& word, Word value) noexcept {
  std::atomic_ref<Word>(word).store(value, std::memory_order_relaxed);
}
inline Key16 load_relaxed(const Key16& key) noexcept {
  return {load_relaxed(key.low), load_relaxed(key.high)};
}
inline void store_relaxed(Key16& key, Key16 value) noexcept {
  store_relaxed(key.low, value.low);
  store_relaxed(key.high, value.high);
}

}  // namespace bucket_detail

template <typename Key, typename Value>
struct alignas(64) Bucket {
  static constexpr std::size_t kSlots = (64 - sizeof(std::uint32_t)) / (sizeof(Key) + sizeof(Value));
  static constexpr std::size_t kWords = (64 - kSlots * (sizeof(Key) + sizeof(Value))) / sizeof(std::uint32_t);

  // The bit of a slot stands where a vector compare of the line with a key, 64 bits at a time above 4 bytes,
  // leaves it.
  static constexpr int kBitStep = sizeof(Key) > 8 ? sizeof(Key) / 8 : 1;
  static constexpr std::uint32_t bit(std::size_t slot) noexcept { return 1u << (slot * kBitStep); }
  static constexpr std::size_t slot_of(std::uint32_t bits) noexcept {
    return static_cast<std::size_t>(std::countr_zero(bits)) / kBitStep;
  }
  // Bits that are set among the lowest eight; std::popcount() is a call on the oldest processors.
  static constexpr std::uint32_t count(std::uint32_t bits) noexcept {
    bits -= bits >> 1 & 0x55;
    bits = (bits & 0x33) + (bits >> 2 & 0x33);
    return (bits + (bits >> 4)) & 0x0F;
  }
  static constexpr std::uint32_t kValidMask = [] {
    std::uint32_t mask = 0;
    for (std::size_t slot = 0; slot < kSlots; ++slot) mask |= bit(slot);
    return mask;
  }();
  static constexpr int kAlternateShift = 8;
  static constexpr std::uint32_t kAlternateMask = 0xFu << kAlternateShift;
  static constexpr std::uint32_t kVersionOne = 1u << 12;
  static constexpr std::uint32_t kVersionMask = ~(kVersionOne - 1);

  Key keys[kSlots];
  Value values[kSlots];
  std::uint32_t words[kWords];  // the last one is the meta word: valid bits, alternates, version

  std::uint32_t meta(std::memory_order order) const noexcept {
    return std::atomic_ref<std::uint32_t>(const_cast<std::uint32_t&>(words[kWords - 1])).load(order);
  }
  void set_meta(std::uint32_t value, std::memory_order order) noexcept {
    std::atomic_ref<std::uint32_t>(words[kWords - 1]).store(value, order);
  }
  Key key(std::size_t slot) const noexcept { return bucket_detail::load_relaxed(keys[slot]); }
  Value value(std::size_t slot) const noexcept { return bucket_detail::load_relaxed(values[slot]); }
  void set_value(std::size_t slot, Value value) noexcept {
    bucket_detail::store_relaxed(values[slot], value);
  }

  // Bits of the slots that hold `wanted`, valid or not.
  std::uint32_t match(const Key& wanted) const noexcept {
    std::uint32_t mask = 0;
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      mask |= static_cast<std::uint32_t>(key(slot) == wanted) << (slot * kBitStep);
    }
    return mask;
  }

  // Writer only. Fills a free slot: the version first, the contents, then the valid bit.
  void write(std::size_t slot, const Key& key, Value value) noexcept {
    const std::uint32_t raised = meta(std::memory_order_relaxed) + kVersionOne;
    set_meta(raised, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    bucket_detail::store_relaxed(keys[slot], key);
    bucket_detail::store_relaxed(values[slot], value);
    set_meta(raised | bit(slot), std::memory_order_release);
  }
};

// Value is trivially copyable, 4 or 8 bytes. Owner is asked for the hash of an entry when it has to move:
// `std::uint64_t hash_of(const Key&, Value) const`.
template <typename Key, typename Value, typename Owner>
class BucketIndex {
 public:
  using Line = Bucket<Key, Value>;
  using Wanted = Key;
  using Entry = Value;
  static constexpr std::size_t kAlternates = 4;
  static constexpr std::size_t kLarge = 1024;  // keys of a large batch
  static constexpr std::size_t kSlots = Line::kSlots;

  // One array of buckets.
  struct Generation {
    explicit Generation(std::uint64_t buckets)
        : count(buckets), memory(buckets * sizeof(Line)), lines(static_cast<Line*>(memory.data())) {
      constexpr std::uint64_t kDistance[kAlternates] = {1, 11, 137, 1621};
      for (std::size_t i = 0; i < kAlternates; ++i) {
        distance[i] = kDistance[i] % buckets;
        while (distance[i] == 0 || std::find(distance, distance + i, distance[i]) != distance + i) {
          distance[i] = (distance[i] + 1) % buckets;
        }
      }
    }
    std::uint64_t home(std::uint64_t hash) const noexcept {
      return static_cast<std::uint64_t>((static_cast<unsigned __int128>(hash) * count) >> 64);
    }
    std::uint64_t alternate(std::uint64_t home, std::size_t which) const noexcept {
      const std::uint64_t at = home + distance[which];
      return at >= count ? at - count : at;
    }
    std::uint64_t count;
    std::uint64_t distance[kAlternates];
    std::uint64_t given_back = 0;  // buckets from the front whose memory may be gone
    Pages memory;
    Line* lines;
    std::unique_ptr<Prefault> prefault;  // if the memory was made ready
  };

  // What readers follow. `moved` counts the homes of `old` whose keys are all in `current`.
  struct State {
    Generation* current;
    Generation* old;
    std::atomic<std::uint64_t> moved{0};
  };

  struct Place {
    Generation* generation = nullptr;
    std::uint64_t home = 0;
    std::uint64_t bucket = 0;
    std::size_t slot = 0;
    explicit operator bool() const noexcept { return generation != nullptr; }
    Line& line() const noexcept { return generation->lines[bucket]; }
  };

  // `most`: so many entries are never exceeded.
  BucketIndex(const Owner& owner, EpochDomain& epochs, std::size_t capacity,
              std::size_t most = ~std::size_t{0})
      : owner_(owner), epochs_(epochs), most_(most) {
    auto generation = std::make_unique<Generation>(buckets_for(capacity));
    nbytes_ = generation->memory.bytes();
    room_ = almost(*generation);
    state_.store(new State{generation.get(), nullptr});
    generation.release();
  }
  BucketIndex(const BucketIndex&) = delete;
  BucketIndex& operator=(const BucketIndex&) = delete;
  ~BucketIndex() {
    State* state = state_.load();
    delete state->current;
    delete state->old;
    delete state;
  }

  std::size_t size() const noexcept { return size_.load(std::memory_order_relaxed); }
  std::size_t nbytes() const noexcept { return nbytes_.load(std::memory_order_relaxed); }
  const State& state() const noexcept { return *state_.load(std::memory_order_acquire); }

  // Finds an entry of this hash and key that `accept(value)` agrees to. `accept` runs before it is known that
  // the value belongs to the key; only its last call counts.
  template <typename Accept>
  bool find(std::uint64_t hash, const Key& key, Accept&& accept) const {
    for (const State* seen = &state();;) {
      if (seen->old != nullptr) [[unlikely]] {
        const std::uint64_t home = seen->old->home(hash);
        if (home >= seen->moved.load(std::memory_order_acquire) && probe(*seen->old, home, key, accept))
          return true;
      }
      if (probe(*seen->current, seen->current->home(hash), key, accept)) return true;
      const State* now = &state();
      if (now == seen) return false;
      seen = now;
    }
  }

  // The value of a key.
  bool get(std::uint64_t hash, const Key& key, Value* value) const noexcept {
    return find(hash, key, [value](Value found) {
      *value = found;
      return true;
    });
  }

  // The same as find() in one array.
  template <typename Accept>
  static bool probe(const Generation& generation, std::uint64_t home, const Key& key, Accept&& accept) {
    const Line& first = generation.lines[home];
    for (;;) {
      const std::uint32_t meta = first.meta(std::memory_order_acquire);
      Outcome outcome = look(first, meta, key, accept);
      for (std::uint32_t bits = (meta & Line::kAlternateMask) >> Line::kAlternateShift;
           outcome == Outcome::absent && bits != 0; bits &= bits - 1) {
        const Line& line = generation.lines[generation.alternate(home, std::countr_zero(bits))];
        outcome = look(line, line.meta(std::memory_order_acquire), key, accept);
      }
      if (outcome == Outcome::found) return true;
      if (outcome == Outcome::absent) {
        std::atomic_thread_fence(std::memory_order_acquire);
        const std::uint32_t changed = meta ^ first.meta(std::memory_order_relaxed);
        if ((changed & (Line::kVersionMask | Line::kAlternateMask)) == 0) return false;
      }
    }
  }

  // Everything below: writer only.

  template <typename Accept>
  Place locate(std::uint64_t hash, const Key& key, Accept&& accept) const {
    const State& seen = state();
    if (seen.old != nullptr) {
      const std::uint64_t home = seen.old->home(hash);
      if (home >= seen.moved.load(std::memory_order_relaxed)) {
        if (Place place = locate_in(*seen.old, home, key, accept)) return place;
      }
    }
    return locate_in(*seen.current, seen.current->home(hash), key, accept);
  }

  // Writes meanwhile belong to a batch. In a large one no memory is made ready ahead: a pause more is nothing
  // there, and nobody may ever need it.
  class InBatch {
   public:
    InBatch(BucketIndex& index, std::size_t n) noexcept : index_(index) { index.in_batch_ = n >= kLarge; }
    ~InBatch() { index_.in_batch_ = false; }
    InBatch(const InBatch&) = delete;
    InBatch& operator=(const InBatch&) = delete;

   private:
    BucketIndex& index_;
  };
  bool in_large_batch() const noexcept { return in_batch_; }

  // Calls `write(i, hash_of(i))` for each i below n, in order, with the lines that it will touch on their
  // way.
  template <typename HashOf, typename Write>
  void for_each_ahead(std::size_t n, HashOf&& hash_of, Write&& write) {
    constexpr std::size_t kHome = 24;   // sent for so many writes before
    constexpr std::size_t kOthers = 8;  // where the home bucket is full, its alternates
    constexpr std::size_t kRing = 32;
    std::uint64_t hashes[kRing];
    for (std::size_t i = 0; i < n + kHome; ++i) {
      if (i < n) {
        const std::uint64_t hash = hashes[i % kRing] = hash_of(i);
        const State& seen = *state_.load(std::memory_order_relaxed);
        __builtin_prefetch(&seen.current->lines[seen.current->home(hash)], 1);
        if (seen.old != nullptr) __builtin_prefetch(&seen.old->lines[seen.old->home(hash)]);
      }
      if (i >= kHome - kOthers && i < n + kHome - kOthers) {
        const Generation& generation = *state_.load(std::memory_order_relaxed)->current;
        const std::uint64_t home = generation.home(hashes[(i - kHome + kOthers) % kRing]);
        if (free_slot(generation.lines[home]) < 0) {
          for (std::size_t which = 0; which < kAlternates; ++which) {
            __builtin_prefetch(&generation.lines[generation.alternate(home, which)], 1);
          }
        }
      }
      if (i >= kHome) write(i - kHome, hashes[(i - kHome) % kRing]);
    }
  }

  // Moves as much of a table that grows as n writes do. False if there is nothing left to move.
  bool step_on(std::size_t n) {
    for (std::size_t i = 0; i < n && state_.load(std::memory_order_relaxed)->old != nullptr; ++i) step();
    return state_.load(std::memory_order_relaxed)->old != nullptr;
  }

  // Adds an entry that is known to be absent. Throws std::bad_alloc, or std::length_error when keys collide
  // so badly that no table would hold them.
  void add(std::uint64_t hash, const Key& key, Value value) {
    step();
    State* seen = state_.load(std::memory_order_relaxed);
    if (seen->old == nullptr && size() >= room_) [[unlikely]]
      seen = outgrow(seen);
    while (!place(*seen->current, hash, key, value)) {
      if (size() * 16 < seen->current->count * kSlots) throw std::length_error("too many keys with one hash");
      finish_growth();
      seen = start_growth();
    }
    size_.store(size() + 1, std::memory_order_release);
  }

  void erase(const Place& place) noexcept {
    clear_slot(*place.generation, place.home, place.bucket, place.slot);
    size_.store(size() - 1, std::memory_order_release);
  }

  // Moves a few buckets of a table that grows. Called by each write.
  void step() {
    State* seen = state_.load(std::memory_order_relaxed);
    if (seen->old == nullptr) return;
    std::uint64_t home = seen->moved.load(std::memory_order_relaxed);
    const std::uint64_t end = std::min<std::uint64_t>(home + kStep, seen->old->count);
    for (; home < end; ++home) {
      // The lines that a later step reads and writes: entries of neighbours stay neighbours.
      __builtin_prefetch(&seen->old->lines[std::min(home + 4 * kStep, seen->old->count - 1)]);
      __builtin_prefetch(&seen->current->lines[std::min(2 * (home + 4 * kStep), seen->current->count - 2)],
                         1);
      __builtin_prefetch(
          &seen->current->lines[std::min(2 * (home + 4 * kStep), seen->current->count - 2) + 1], 1);
      move_home(*seen->old, home, *seen->current);
      seen->moved.store(home + 1, std::memory_order_release);
    }
    if (home == seen->old->count) {
      publish(std::unique_ptr<State>(new State{seen->current, nullptr}), seen->old);
      count_bytes();
    } else if (home % kGiveBack < kStep) {
      give_back(*seen->old, home);
    }
  }

  void finish_growth() {
    while (state_.load(std::memory_order_relaxed)->old != nullptr) step();
  }

  // Buckets of the current array.
  std::uint64_t buckets() const noexcept { return state().current->count; }

  void clear(std::size_t capacity) {
    auto generation = std::make_unique<Generation>(buckets_for(capacity));
    const State* seen = state_.load(std::memory_order_relaxed);
    publish(std::unique_ptr<State>(new State{generation.get(), nullptr}), seen->old, seen->current);
    next_.reset();
    room_ = almost(*generation.release());
    count_bytes();
    size_.store(0, std::memory_order_release);
  }

  // Calls `each(key, value, place)` for every entry; it may erase the entry at `place`.
  template <typename Each>
  void for_each(Each&& each) {
    const State& seen = state();
    if (seen.old != nullptr) walk(*seen.old, 0, seen.old->count, each);
    walk(*seen.current, 0, seen.current->count, each);
  }

  // The entries of `count` buckets of the current array from `start` on (modulo its size): a clock hand.
  template <typename Each>
  void for_some(std::uint64_t start, std::uint64_t count, Each&& each) {
    Generation& generation = *state().current;
    start %= generation.count;
    const std::uint64_t end = std::min(start + count, generation.count);
    walk(generation, start, end, each);
  }

 private:
  enum class Outcome { found, absent, again };
  static constexpr std::uint64_t kStep = 4;
  static constexpr std::uint64_t kGiveBack = (std::uint64_t{4} << 20) / sizeof(Line);
  static constexpr std::uint64_t kLeastBuckets = 16;
  static constexpr std::size_t kPatience = 1024;  // entries until it is asked again whether memory is ready
  static constexpr int kDepth = 2;

  static std::uint64_t buckets_for(std::size_t capacity) {
    // A table made for `capacity` keys is two thirds full with them: nine keys in ten stand in their home
    // bucket.
    return std::max<std::uint64_t>(kLeastBuckets, (capacity + capacity / 2) / kSlots + 1);
  }
  static std::size_t limit_of(const Generation& generation) noexcept {
    // From 85 % on (seen once in 80 growths of large arrays) a key may find no room, and growth begins then.
    return generation.count * kSlots / 32 * 29;
  }
  // When the next array is to be made ready.
  std::size_t almost(const Generation& generation) const noexcept {
    const std::size_t limit = limit_of(generation);
    const bool worth_it = 2 * generation.memory.bytes() >= Prefault::kLeastBytes && limit < most_;
    return worth_it ? generation.count * kSlots / 32 * 26 : limit;
  }

  template <typename Accept>
  static Outcome look(const Line& line, std::uint32_t meta, const Key& key, Accept&& accept) {
    for (std::uint32_t mask = line.match(key) & meta & Line::kValidMask; mask != 0; mask &= mask - 1) {
      const std::size_t slot = Line::slot_of(mask);
      const bool accepted = accept(line.value(slot));
      std::atomic_thread_fence(std::memory_order_acquire);
      const std::uint32_t changed = meta ^ line.meta(std::memory_order_relaxed);
      if ((changed & (Line::kVersionMask | Line::bit(slot))) != 0) return Outcome::again;
      if (accepted) return Outcome::found;
    }
    return Outcome::absent;
  }

  template <typename Accept>
  Place locate_in(Generation& generation, std::uint64_t home, const Key& key, Accept&& accept) const {
    const auto in_bucket = [&](std::uint64_t bucket) -> Place {
      const Line& line = generation.lines[bucket];
      const std::uint32_t valid = line.meta(std::memory_order_relaxed) & Line::kValidMask;
      for (std::uint32_t mask = line.match(key) & valid; mask != 0; mask &= mask - 1) {
        const std::size_t slot = Line::slot_of(mask);
        if (accept(line.value(slot))) return {&generation, home, bucket, slot};
      }
      return {};
    };
    if (Place place = in_bucket(home)) return place;
    std::uint32_t bits = generation.lines[home].meta(std::memory_order_relaxed) & Line::kAlternateMask;
    for (bits >>= Line::kAlternateShift; bits != 0; bits &= bits - 1) {
      if (Place place = in_bucket(generation.alternate(home, std::countr_zero(bits)))) return place;
    }
    return {};
  }

  std::uint64_t home_of(const Generation& generation, const Line& line, std::size_t slot) const {
    return generation.home(owner_.hash_of(line.key(slot), line.value(slot)));
  }

  static int free_slot(const Line& line) noexcept {
    const std::uint32_t free = ~line.meta(std::memory_order_relaxed) & Line::kValidMask;
    return free == 0 ? -1 : static_cast<int>(Line::slot_of(free));
  }

  // Writes into the home bucket; or into the emptiest alternate that it names already, since look-ups visit
  // all of those; or into the emptiest one. If all are full, makes room by moving entries.
  bool place(Generation& generation, std::uint64_t hash, const Key& key, Value value) {
    const std::uint64_t home = generation.home(hash);
    if (put_at(generation, home, key, value)) return true;
    for (int depth = 0; depth <= kDepth; ++depth) {
      if (make_room(generation, home, depth)) return put_at(generation, home, key, value);
    }
    return false;
  }

  bool put_at(Generation& generation, std::uint64_t home, const Key& key, Value value) {
    Line& first = generation.lines[home];
    if (const int slot = free_slot(first); slot >= 0) {
      first.write(slot, key, value);
      return true;
    }
    std::size_t most_free = 0;
    std::size_t best = 0;
    const std::uint32_t named = first.meta(std::memory_order_relaxed) >> Line::kAlternateShift;
    for (std::size_t i = 0; i < kAlternates; ++i) {
      const Line& line = generation.lines[generation.alternate(home, i)];
      std::size_t free = Line::count(~line.meta(std::memory_order_relaxed) & Line::kValidMask);
      if (free > 0 && (named >> i & 1) != 0) free += kSlots;
      if (free > most_free) {
        most_free = free;
        best = i;
      }
    }
    if (most_free == 0) return false;
    Line& line = generation.lines[generation.alternate(home, best)];
    line.write(free_slot(line), key, value);
    const std::uint32_t meta = first.meta(std::memory_order_relaxed);
    first.set_meta(meta | 1u << (Line::kAlternateShift + best), std::memory_order_release);
    return true;
  }

  // Moves an entry out of one of the buckets that `home` may use.
  bool make_room(Generation& generation, std::uint64_t home, int depth) {
    for (std::size_t i = 0; i <= kAlternates; ++i) {
      if (make_room_in(generation, i == 0 ? home : generation.alternate(home, i - 1), depth)) return true;
    }
    return false;
  }
  bool make_room_in(Generation& generation, std::uint64_t bucket, int depth) {
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      if (move_entry(generation, bucket, slot, depth)) return true;
    }
    return false;
  }

  // Moves an entry to another bucket that it may use, after making room there if need be (`depth` times at
  // most).
  bool move_entry(Generation& generation, std::uint64_t from, std::size_t slot, int depth) {
    Line& line = generation.lines[from];
    const Key key = line.key(slot);
    const Value value = line.value(slot);
    const std::uint64_t home = generation.home(owner_.hash_of(key, value));
    Line& first = generation.lines[home];
    for (std::size_t i = 0; i <= kAlternates; ++i) {
      const std::uint64_t to = i == 0 ? home : generation.alternate(home, i - 1);
      if (to == from) continue;
      int free = free_slot(generation.lines[to]);
      if (free < 0) {
        if (depth == 0 || !make_room_in(generation, to, depth - 1)) continue;
        // That may have moved this very entry.
        if (free_slot(line) >= 0) return true;
        if (!(line.key(slot) == key) || line.value(slot) != value) continue;
        free = free_slot(generation.lines[to]);
        if (free < 0) continue;
      }
      generation.lines[to].write(free, key, value);
      // A reader that has passed the new place must find the home's version changed when it misses the old
      // one.
      std::uint32_t meta = first.meta(std::memory_order_relaxed) + Line::kVersionOne;
      if (i > 0) meta |= 1u << (Line::kAlternateShift + i - 1);
      first.set_meta(meta, std::memory_order_release);
      clear_slot(generation, home, from, slot);
      return true;
    }
    return false;
  }

  void clear_slot(Generation& generation, std::uint64_t home, std::uint64_t bucket,
                  std::size_t slot) noexcept {
    Line& line = generation.lines[bucket];
    line.set_meta(line.meta(std::memory_order_relaxed) & ~Line::bit(slot), std::memory_order_release);
    if (bucket == home) return;
    const std::uint32_t valid = line.meta(std::memory_order_relaxed) & Line::kValidMask;
    for (std::uint32_t mask = valid; mask != 0; mask &= mask - 1) {
      if (home_of(generation, line, Line::slot_of(mask)) == home) return;
    }
    Line& first = generation.lines[home];
    std::uint32_t meta = first.meta(std::memory_order_relaxed);
    for (std::size_t i = 0; i < kAlternates; ++i) {
      if (generation.alternate(home, i) == bucket) meta &= ~(1u << (Line::kAlternateShift + i));
    }
    first.set_meta(meta, std::memory_order_release);
  }

  // Gives back memory of an array whose homes below `moved` have been moved, so that its end is not one long
  // call. The first buckets may still hold keys of the last homes. A reader of what has gone reads empty
  // buckets, and finds that the arrays in use are others or that the key has moved.
  void give_back(Generation& old, std::uint64_t moved) {
    const std::uint64_t begin = std::max(old.given_back, old.distance[kAlternates - 1]);
    if (moved <= begin) return;
    const std::size_t bytes = old.memory.discard(begin * sizeof(Line), (moved - begin) * sizeof(Line));
    if (bytes == 0) return;
    old.given_back = moved / kGiveBack * kGiveBack;
    nbytes_.store(nbytes() - bytes, std::memory_order_relaxed);
  }

  // The current array has `room_` entries or more.
  State* outgrow(State* seen) {
    const std::size_t limit = limit_of(*seen->current);
    if (size() < limit && in_batch_) return seen;
    if (size() < limit && next_ == nullptr) {
      room_ = limit;
      try {
        next_ = std::make_unique<Generation>(seen->current->count * 2);
        next_->prefault = std::make_unique<Prefault>(next_->memory);
      } catch (const std::bad_alloc&) {  // there still is room in the old one
      }
      count_bytes();
      return seen;
    }
    if (!in_batch_ && next_ != nullptr && next_->prefault != nullptr && !next_->prefault->done() &&
        size() < limit + limit / 64) {
      room_ = size() + kPatience;
      return seen;
    }
    return start_growth();
  }

  State* start_growth() {
    State* seen = state_.load(std::memory_order_relaxed);
    if (next_ == nullptr) next_ = std::make_unique<Generation>(seen->current->count * 2);
    publish(std::unique_ptr<State>(new State{next_.get(), seen->current}));
    room_ = almost(*next_.release());
    count_bytes();
    return state_.load(std::memory_order_relaxed);
  }

  // All or nothing: the arrays of `next` stay the caller's if this throws.
  void publish(std::unique_ptr<State> next, Generation* dead = nullptr, Generation* dead_too = nullptr) {
    epochs_.expect(3);
    State* before = state_.exchange(next.release());
    for (Generation* generation : {dead, dead_too}) {
      if (generation != nullptr) epochs_.retire(generation);
    }
    epochs_.retire(before);
  }

  void count_bytes() noexcept {
    const State& state = *state_.load(std::memory_order_relaxed);
    std::size_t bytes = state.current->memory.bytes();
    if (state.old != nullptr) bytes += state.old->memory.bytes();
    if (next_ != nullptr) bytes += next_->memory.bytes();
    nbytes_.store(bytes, std::memory_order_relaxed);
  }

  void move_home(Generation& old, std::uint64_t home, Generation& current) {
    const auto move_from = [&](std::uint64_t bucket) {
      Line& line = old.lines[bucket];
      const std::uint32_t valid = line.meta(std::memory_order_relaxed) & Line::kValidMask;
      for (std::uint32_t mask = valid; mask != 0; mask &= mask - 1) {
        const std::size_t slot = Line::slot_of(mask);
        const Key key = line.key(slot);
        const Value value = line.value(slot);
        const std::uint64_t hash = owner_.hash_of(key, value);
        if (old.home(hash) != home) continue;
        if (!place(current, hash, key, value)) throw std::length_error("too many keys with one hash");
        line.set_meta(line.meta(std::memory_order_relaxed) & ~Line::bit(slot), std::memory_order_release);
      }
    };
    move_from(home);
    std::uint32_t bits = old.lines[home].meta(std::memory_order_relaxed) & Line::kAlternateMask;
    for (bits >>= Line::kAlternateShift; bits != 0; bits &= bits - 1) {
      const std::uint64_t bucket = old.alternate(home, std::countr_zero(bits));
      if (bucket != home) move_from(bucket);
    }
  }

  template <typename Each>
  void walk(Generation& generation, std::uint64_t begin, std::uint64_t end, Each&& each) {
    for (std::uint64_t bucket = begin; bucket < end; ++bucket) {
      Line& line = generation.lines[bucket];
      const std::uint32_t valid = line.meta(std::memory_order_relaxed) & Line::kValidMask;
      for (std::uint32_t mask = valid; mask != 0; mask &= mask - 1) {
        const std::size_t slot = Line::slot_of(mask);
        each(line.key(slot), line.value(slot),
             Place{&generation, home_of(generation, line, slot), bucket, slot});
      }
    }
  }

  const Owner& owner_;
  EpochDomain& epochs_;
  const std::size_t most_;
  std::atomic<State*> state_{nullptr};
  std::atomic<std::size_t> size_{0};
  std::atomic<std::size_t> nbytes_{0};
  bool in_batch_ = false;             // a large one
  std::size_t room_ = 0;              // so many entries, and outgrow() is asked
  std::unique_ptr<Generation> next_;  // made ready
};

}  // namespace fastpath
