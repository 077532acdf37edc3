// Exact match: a hash table of keys of one size, 1 to 64 bytes, to 32-bit values.
//
// Keys up to 16 bytes stand in the bucket itself, padded to 4, 8 or 16 bytes: a hit costs one cache line.
// Longer keys stand in records that never move, each in one cache line; their buckets hold the value, the
// record's number and 32 bits of the hash, so that a miss reads no record and growth none at all.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <vector>

#include "fastpath/bucket_index.hpp"
#include "fastpath/cpu.hpp"
#include "fastpath/epoch.hpp"
#include "fastpath/hash.hpp"
#include "fastpath/pages.hpp"
#include "fastpath/prefault.hpp"

namespace fastpath {

// Look-ups take no lock; writes queue on one, and batches let others have it in between. A look-up from a
// thread that does not hold whatever lock guards reclaim() (the GIL, in Python) must hold a guard of
// epochs().
class ExactTable {
 public:
  static constexpr std::size_t kMaxKeySize = 64;

  static std::unique_ptr<ExactTable> make(std::size_t key_size, std::size_t capacity, std::uint64_t seed,
                                          Isa isa = isa_in_use());
  virtual ~ExactTable() = default;

  virtual bool find(const std::uint8_t* key, std::uint32_t* value) const noexcept = 0;
  // keys: n * key_size bytes. Returns the number of hits; misses are `missing`, and `hits`, if it is not
  // null, has one bit a key, 64 in each word, that says which are which. Holds a guard.
  virtual std::size_t find_many(const std::uint8_t* keys, std::size_t n, std::uint32_t* values,
                                std::uint32_t missing, std::uint64_t* hits = nullptr) const noexcept = 0;
  // The same for keys whose halves stand in two arrays. Of halves that are words, of 4 or 8 bytes, only the
  // bits of `mask` count.
  virtual std::size_t find_halves(const std::uint8_t* first, const std::uint8_t* second, std::uint64_t mask,
                                  std::size_t n, std::uint32_t* values, std::uint32_t missing,
                                  std::uint64_t* hits = nullptr) const noexcept = 0;
  // Returns whether the key is new; if not, `previous` gets the value it had.
  virtual bool put(const std::uint8_t* key, std::uint32_t value, std::uint32_t* previous) = 0;
  // The same for many, later ones winning. `previous` may be null; new keys leave 0 there, and those that an
  // exception kept from being inserted leave it as it was. `whole`: how many there are, if these are a part;
  // settle() is then the caller's. Returns how many are new.
  virtual std::size_t put_many(const std::uint8_t* keys, const std::uint32_t* values, std::size_t n,
                               std::uint32_t* previous, std::size_t whole = 0) = 0;
  virtual bool erase(const std::uint8_t* key, std::uint32_t* previous) = 0;
  // The same for many. `gone`, if it is not null, gets the values of what was removed. Returns how many.
  std::size_t erase_many(const std::uint8_t* keys, std::size_t n, std::vector<std::uint32_t>* gone) {
    if (gone != nullptr) gone->reserve(n);
    std::size_t removed = 0;
    for (std::size_t begin = 0; begin < n; begin += kTurn) {
      let_others_write();
      const Turn turn(*this);
      for (std::size_t i = begin; i < std::min(begin + kTurn, n); ++i) {
        std::uint32_t previous = 0;
        if (!erase_locked(keys + i * key_size_, &previous)) continue;
        ++removed;
        if (gone != nullptr) gone->push_back(previous);
      }
    }
    return removed;
  }
  // Goes on with a growth as n writes would. After a load: look-ups in batches are several times as fast in
  // one array as in two.
  void settle(std::size_t n) {
    for (std::size_t begin = 0; begin < n; begin += kTurn) {
      let_others_write();
      const Turn turn(*this);
      if (!step_on(std::min(kTurn, n - begin))) return;
    }
  }
  // `gone`, if it is not null, gets the values of what was removed.
  virtual void clear(std::vector<std::uint32_t>* gone = nullptr) = 0;
  virtual std::size_t size() const noexcept = 0;
  virtual std::size_t nbytes() const noexcept = 0;
  // All entries, at one point in time.
  virtual void export_to(std::vector<std::uint8_t>& keys, std::vector<std::uint32_t>& values) const = 0;

  std::size_t key_size() const noexcept { return key_size_; }
  std::uint64_t seed() const noexcept { return seed_; }
  EpochDomain& epochs() const noexcept { return epochs_; }
  // Frees what no reader can still see. Only from under the lock that unguarded look-ups hold.
  // Returns false if someone writes now: a write would have to wait.
  bool reclaim() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock) epochs_.reclaim();
    return lock.owns_lock() && !forking_.load(std::memory_order_relaxed);
  }
  // By the thread that forks, before and after: meanwhile nobody writes. In the child, where no other thread
  // is, unlock_in_child() takes the place of the latter, and forgets who read or waited.
  // With the GIL held, before lock_for_fork() waits without it: from here on reclaim() is false. Who holds
  // the GIL must not wait for the thread that forks, which needs the GIL to go on.
  void expect_fork() noexcept { forking_.store(true, std::memory_order_relaxed); }
  void lock_for_fork() { lock(); }
  void unlock_after_fork() noexcept {
    forking_.store(false, std::memory_order_relaxed);
    mutex_.unlock();
  }
  void unlock_in_child() noexcept {
    forking_.store(false, std::memory_order_relaxed);
    waiting_ = 0;
    epochs_.forget_readers();
    mutex_.unlock();
  }

 protected:
  static constexpr std::size_t kTurn = 4096;  // keys that a batch writes before others may

  // A writer's turn. Batches let those who wait go first between two turns: a mutex alone is not fair.
  class Turn {
   public:
    explicit Turn(const ExactTable& table) : table_(table) { table.lock(); }
    ~Turn() { table_.mutex_.unlock(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    const ExactTable& table_;
  };
  void lock() const {
    if (mutex_.try_lock()) return;
    waiting_.fetch_add(1, std::memory_order_relaxed);
    mutex_.lock();
    waiting_.fetch_sub(1, std::memory_order_relaxed);
  }
  void let_others_write() const noexcept {
    while (waiting_.load(std::memory_order_relaxed) != 0) std::this_thread::yield();
  }
  virtual bool erase_locked(const std::uint8_t* key, std::uint32_t* previous) = 0;
  virtual bool step_on(std::size_t n) = 0;
  // find_halves() by way of a copy.
  std::size_t find_joined(const std::uint8_t* first, const std::uint8_t* second, std::size_t n,
                          std::uint32_t* values, std::uint32_t missing, std::uint64_t* hits) const noexcept {
    constexpr std::size_t kBlock = 512;
    std::uint8_t keys[kBlock * kMaxKeySize];
    const std::size_t half = key_size_ / 2;
    std::size_t found = 0;
    for (std::size_t begin = 0; begin < n; begin += kBlock) {
      const std::size_t count = std::min(kBlock, n - begin);
      const auto join = [&](std::size_t bytes) {
        for (std::size_t i = 0; i < count; ++i) {
          std::memcpy(keys + 2 * bytes * i, first + bytes * (begin + i), bytes);
          std::memcpy(keys + 2 * bytes * i + bytes, second + bytes * (begin + i), bytes);
        }
      };
      half == 16 ? join(16) : join(half);  // a copy of known size is no call
      found += find_many(keys, count, values + begin, missing, hits == nullptr ? nullptr : hits + begin / 64);
    }
    return found;
  }

  ExactTable(std::size_t key_size, std::uint64_t seed) : key_size_(key_size), seed_(seed) {}
  const std::size_t key_size_;
  const std::uint64_t seed_;
  std::atomic<bool> forking_{false};
  mutable std::mutex mutex_;
  mutable std::atomic<std::uint32_t> waiting_{0};
  mutable EpochDomain epochs_;
};

// Key bytes as integers, zero-padded: overlapping loads instead of a copy of variable size.
template <typename Key>
inline Key load_key(const std::uint8_t* p, std::size_t size) noexcept {
  using hash_detail::load32;
  using hash_detail::load64;
  if constexpr (sizeof(Key) == 4) {
    if (size == 4) return load32(p);
    return p[0] | static_cast<std::uint32_t>(p[size / 2]) << (8 * (size / 2)) |
           static_cast<std::uint32_t>(p[size - 1]) << (8 * (size - 1));
  } else if constexpr (sizeof(Key) == 8) {
    if (size == 8) return load64(p);
    return load32(p) | static_cast<std::uint64_t>(load32(p + size - 4)) << (8 * (size - 4));
  } else {
    return {load64(p), load64(p + size - 8) >> (8 * (16 - size))};
  }
}

template <typename Key>
inline void store_key(const Key& key, std::uint8_t* p, std::size_t size) noexcept {
  static_assert(std::endian::native == std::endian::little);
  std::memcpy(p, &key, size);
}

template <typename Key>
inline std::uint64_t hash_key(const Key& key, std::uint64_t seed) noexcept {
  static_assert(std::endian::native == std::endian::little);
  return xxh3_64(&key, sizeof(Key), seed);
}

// Half of a key of 8 or of 16 bytes, and the key of two halves.
template <typename Key>
using HalfOf = std::conditional_t<sizeof(Key) == 16, std::uint64_t, std::uint32_t>;
inline std::uint64_t join_halves(std::uint32_t first, std::uint32_t second) noexcept {
  return first | std::uint64_t{second} << 32;
}
inline Key16 join_halves(std::uint64_t first, std::uint64_t second) noexcept { return {first, second}; }

// A batch of look-ups in an index whose entries are hashed by hash_key(): n keys of key_size bytes each, as
// load_key() reads them. Returns the number of hits; misses are `missing`, and `hits`, if it is not null,
// says which are which. The caller holds a guard.
template <typename Index>
using FindBatch = std::size_t (*)(const Index& index, std::uint64_t seed, const std::uint8_t* keys,
                                  std::size_t key_size, std::size_t n, typename Index::Entry* values,
                                  typename Index::Entry missing, std::uint64_t* hits);
// The same for keys in halves.
template <typename Index>
using FindHalves = std::size_t (*)(const Index& index, std::uint64_t seed, const std::uint8_t* first,
                                   const std::uint8_t* second, std::uint64_t mask, std::size_t n,
                                   typename Index::Entry* values, typename Index::Entry missing,
                                   std::uint64_t* hits);

// Keys of up to 16 bytes, in the bucket.
template <typename Key>
class InlineTable final : public ExactTable {
 public:
  using Index = BucketIndex<Key, std::uint32_t, InlineTable>;

  InlineTable(std::size_t key_size, std::size_t capacity, std::uint64_t seed, FindBatch<Index> find_batch,
              FindHalves<Index> find_halves)
      : ExactTable(key_size, seed),
        find_batch_(find_batch),
        find_halves_(find_halves),
        index_(*this, epochs_, capacity) {}

  std::uint64_t hash_of(const Key& key, std::uint32_t) const noexcept { return hash_key(key, seed_); }

  bool find(const std::uint8_t* key, std::uint32_t* value) const noexcept override {
    const Key wanted = load_key<Key>(key, key_size_);
    return index_.get(hash_key(wanted, seed_), wanted, value);
  }
  std::size_t find_many(const std::uint8_t* keys, std::size_t n, std::uint32_t* values, std::uint32_t missing,
                        std::uint64_t* hits) const noexcept override {
    const EpochDomain::Guard guard(epochs_);
    return find_batch_(index_, seed_, keys, key_size_, n, values, missing, hits);
  }
  std::size_t find_halves(const std::uint8_t* first, const std::uint8_t* second, std::uint64_t mask,
                          std::size_t n, std::uint32_t* values, std::uint32_t missing,
                          std::uint64_t* hits) const noexcept override {
    if (find_halves_ == nullptr || key_size_ != sizeof(Key))
      return find_joined(first, second, n, values, missing, hits);
    const EpochDomain::Guard guard(epochs_);
    return find_halves_(index_, seed_, first, second, mask, n, values, missing, hits);
  }
  bool put(const std::uint8_t* key, std::uint32_t value, std::uint32_t* previous) override {
    const Turn turn(*this);
    const Key wanted = load_key<Key>(key, key_size_);
    return put_locked(hash_key(wanted, seed_), wanted, value, previous);
  }
  std::size_t put_many(const std::uint8_t* keys, const std::uint32_t* values, std::size_t n,
                       std::uint32_t* previous, std::size_t whole) override {
    std::size_t added = 0;
    for (std::size_t begin = 0; begin < n; begin += kTurn) {
      let_others_write();
      const Turn turn(*this);
      const typename Index::InBatch in_batch(index_, std::max(n, whole));
      const auto key_at = [&](std::size_t i) {
        return load_key<Key>(keys + (begin + i) * key_size_, key_size_);
      };
      index_.for_each_ahead(
          std::min(kTurn, n - begin), [&](std::size_t i) { return hash_key(key_at(i), seed_); },
          [&](std::size_t i, std::uint64_t hash) {
            std::uint32_t before = 0;
            added += put_locked(hash, key_at(i), values[begin + i], &before);
            if (previous != nullptr) previous[begin + i] = before;
          });
    }
    if (whole == 0) settle(n);
    return added;
  }
  bool erase(const std::uint8_t* key, std::uint32_t* previous) override {
    const Turn turn(*this);
    return erase_locked(key, previous);
  }
  void clear(std::vector<std::uint32_t>* gone) override {
    const Turn turn(*this);
    if (gone != nullptr) {
      gone->reserve(size());
      index_.for_each([gone](const Key&, std::uint32_t value, const auto&) { gone->push_back(value); });
    }
    index_.clear(0);
  }
  std::size_t size() const noexcept override { return index_.size(); }
  std::size_t nbytes() const noexcept override { return index_.nbytes(); }
  void export_to(std::vector<std::uint8_t>& keys, std::vector<std::uint32_t>& values) const override {
    const Turn turn(*this);
    keys.reserve(size() * key_size_);
    values.reserve(size());
    index_.for_each([&](const Key& key, std::uint32_t value, const auto&) {
      keys.resize(keys.size() + key_size_);
      store_key(key, keys.data() + keys.size() - key_size_, key_size_);
      values.push_back(value);
    });
  }

 private:
  bool step_on(std::size_t n) override { return index_.step_on(n); }
  bool erase_locked(const std::uint8_t* key, std::uint32_t* previous) override {
    const Key wanted = load_key<Key>(key, key_size_);
    const auto place = index_.locate(hash_key(wanted, seed_), wanted, [](std::uint32_t) { return true; });
    if (!place) return false;
    *previous = place.line().value(place.slot);
    index_.erase(place);
    return true;
  }
  bool put_locked(std::uint64_t hash, const Key& key, std::uint32_t value, std::uint32_t* previous) {
    if (const auto place = index_.locate(hash, key, [](std::uint32_t) { return true; })) {
      *previous = place.line().value(place.slot);
      place.line().set_value(place.slot, value);
      return false;
    }
    index_.add(hash, key, value);
    return true;
  }

  const FindBatch<Index> find_batch_;
  const FindHalves<Index> find_halves_;
  mutable Index index_;  // export_to() walks it under the lock
};

// Records of one size that keep their address: chunks of doubling size, so a number is found with one count
// of leading zeros and nothing is ever copied.
class RecordStore {
 public:
  explicit RecordStore(std::size_t stride) : stride_(stride) {}

  std::uint8_t* at(std::uint32_t number) const noexcept {
    const int chunk = std::bit_width(number >> kFirstBits);
    const std::uint32_t base = chunk == 0 ? 0 : kFirst << (chunk - 1);
    return chunks_[chunk].load(std::memory_order_acquire) + std::size_t{number - base} * stride_;
  }
  // `ahead`: others will follow, so that the memory for those is made ready.
  std::uint32_t take(bool ahead) {
    if (!free_.empty()) {
      const std::uint32_t number = free_.back();
      free_.pop_back();
      return number;
    }
    const std::uint32_t number = used_;
    const std::size_t chunk = std::bit_width(number >> kFirstBits);
    if (chunk >= chunks_in_use_) {
      need(chunk);
      free_.reserve(std::size_t{kFirst} << chunk);  // nothing is free: giving a number back allocates nothing
      chunks_in_use_ = chunk + 1;
      count_bytes();
    } else if (ahead && chunks_ready_ < chunk + 2 && number >= records_of(chunk) / 8 * 15 &&
               chunk + 1 < std::size(chunks_)) {
      make_ready(chunk + 1);
    }
    ++used_;
    return number;
  }
  void give_back(std::uint32_t number) noexcept { free_.push_back(number); }
  // All numbers are free again and their memory is given back; a reader that still follows one reads zeros.
  void clear() {
    prefault_.reset();
    free_ = {};
    used_ = 0;
    chunks_in_use_ = chunks_ready_ = 0;
    for (Pages& pages : memory_) pages.discard();
    count_bytes();
  }
  std::size_t nbytes() const noexcept { return nbytes_.load(std::memory_order_relaxed); }

 private:
  static constexpr int kFirstBits = 10;
  static constexpr std::uint32_t kFirst = 1u << kFirstBits;

  // All chunks before it hold as many together.
  static std::size_t records_of(std::size_t chunk) noexcept {
    return chunk == 0 ? kFirst : std::size_t{kFirst} << (chunk - 1);
  }
  void need(std::size_t chunk) {
    if (chunk < memory_.size()) return;
    memory_.emplace_back(stride_ * records_of(chunk));
    chunks_[chunk].store(static_cast<std::uint8_t*>(memory_.back().data()), std::memory_order_release);
  }
  void make_ready(std::size_t chunk) noexcept {
    if (stride_ * records_of(chunk) < Prefault::kLeastBytes) return;
    try {
      need(chunk);
      prefault_ = std::make_unique<Prefault>(memory_[chunk]);
      chunks_ready_ = chunk + 1;
    } catch (const std::bad_alloc&) {  // nobody needs it yet
    }
    count_bytes();
  }
  void count_bytes() noexcept {
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      const bool resident = i < std::max(chunks_in_use_, chunks_ready_) || !memory_[i].discardable();
      if (resident) bytes += memory_[i].bytes();
    }
    nbytes_.store(bytes, std::memory_order_relaxed);
  }

  const std::size_t stride_;
  std::atomic<std::uint8_t*> chunks_[33 - kFirstBits] = {};
  std::vector<Pages> memory_;
  std::vector<std::uint32_t> free_;
  std::uint32_t used_ = 0;
  std::size_t chunks_in_use_ = 0;
  std::size_t chunks_ready_ = 0;  // or made ready
  std::unique_ptr<Prefault> prefault_;
  std::atomic<std::size_t> nbytes_{0};
};

// What a bucket says of a wide key.
struct WideEntry {
  std::uint32_t number;  // of its record
  std::uint32_t value;
  friend bool operator==(const WideEntry&, const WideEntry&) = default;
};

namespace bucket_detail {
inline WideEntry load_relaxed(const WideEntry& entry) noexcept {
  return {load_relaxed(entry.number), load_relaxed(entry.value)};
}
inline void store_relaxed(WideEntry& entry, WideEntry value) noexcept {
  store_relaxed(entry.number, value.number);
  store_relaxed(entry.value, value.value);
}
}  // namespace bucket_detail

// Keys of 17 to 64 bytes. A record is the key, zero-padded to 32 or to 64 bytes: half a cache line or one.
//
// The hash has 32 bits here, all of which stand in the bucket. It chooses the home bucket, so what is left of
// it to tell keys of one bucket apart is about 32 bits less the binary logarithm of the number of buckets;
// where that is not enough, a look-up reads a record in vain.
class WideTable final : public ExactTable {
 public:
  using Index = BucketIndex<std::uint32_t, WideEntry, WideTable>;
  using FindMany = std::size_t (*)(const WideTable&, const std::uint8_t*, std::size_t, std::uint32_t*,
                                   std::uint32_t, std::uint64_t*);

  WideTable(std::size_t key_size, std::size_t capacity, std::uint64_t seed, FindMany find_many)
      : ExactTable(key_size, seed),
        words_((key_size + 7) / 8),
        find_many_(find_many),
        records_(key_size <= 32 ? 32 : 64),
        index_(*this, epochs_, capacity) {}

  // For who knows already how large a record is.
  template <std::size_t kRecord>
  std::uint64_t hash(const std::uint8_t* key) const noexcept {
    const std::uint64_t mixed = kRecord == 32 ? hash_detail::xxh3_17to32(key, key_size_, seed_)
                                              : hash_detail::xxh3_33to64(key, key_size_, seed_);
    return hash_of(tag(mixed), {});
  }
  std::uint64_t hash(const std::uint8_t* key) const noexcept {
    return key_size_ <= 32 ? hash<32>(key) : hash<64>(key);
  }
  static std::uint32_t tag(std::uint64_t hash) noexcept { return static_cast<std::uint32_t>(hash >> 32); }
  std::uint64_t hash_of(std::uint32_t tag, WideEntry) const noexcept { return std::uint64_t{tag} << 32; }
  const Index& index() const noexcept { return index_; }
  const std::uint8_t* record(std::uint32_t number) const noexcept { return records_.at(number); }

  // Whether the record holds the key; the last word of the key overlaps the one before it.
  bool same(const std::uint8_t* record, const std::uint8_t* key) const noexcept {
    const auto* stored = reinterpret_cast<const std::uint64_t*>(record);
    std::uint64_t differ = 0;
    for (std::size_t i = 0; i + 1 < words_; ++i) {
      differ |= bucket_detail::load_relaxed(stored[i]) ^ hash_detail::load64(key + 8 * i);
    }
    return (differ | (bucket_detail::load_relaxed(stored[words_ - 1]) ^ last_word(key))) == 0;
  }

  bool find(const std::uint8_t* key, std::uint32_t* result) const noexcept override {
    const std::uint64_t hashed = hash(key);
    return index_.find(hashed, tag(hashed), [&](WideEntry entry) {
      *result = entry.value;
      return same(record(entry.number), key);
    });
  }
  std::size_t find_many(const std::uint8_t* keys, std::size_t n, std::uint32_t* values, std::uint32_t missing,
                        std::uint64_t* hits) const noexcept override {
    const EpochDomain::Guard guard(epochs_);
    return find_many_(*this, keys, n, values, missing, hits);
  }
  std::size_t find_halves(const std::uint8_t* first, const std::uint8_t* second, std::uint64_t, std::size_t n,
                          std::uint32_t* values, std::uint32_t missing,
                          std::uint64_t* hits) const noexcept override {
    return find_joined(first, second, n, values, missing, hits);
  }
  bool put(const std::uint8_t* key, std::uint32_t value, std::uint32_t* previous) override {
    const Turn turn(*this);
    return put_locked(hash(key), key, value, previous);
  }
  std::size_t put_many(const std::uint8_t* keys, const std::uint32_t* values, std::size_t n,
                       std::uint32_t* previous, std::size_t whole) override {
    std::size_t added = 0;
    for (std::size_t begin = 0; begin < n; begin += kTurn) {
      let_others_write();
      const Turn turn(*this);
      const typename Index::InBatch in_batch(index_, std::max(n, whole));
      const auto key_at = [&](std::size_t i) { return keys + (begin + i) * key_size_; };
      index_.for_each_ahead(
          std::min(kTurn, n - begin), [&](std::size_t i) { return hash(key_at(i)); },
          [&](std::size_t i, std::uint64_t hashed) {
            std::uint32_t before = 0;
            added += put_locked(hashed, key_at(i), values[begin + i], &before);
            if (previous != nullptr) previous[begin + i] = before;
          });
    }
    if (whole == 0) settle(n);
    return added;
  }
  bool erase(const std::uint8_t* key, std::uint32_t* previous) override {
    const Turn turn(*this);
    return erase_locked(key, previous);
  }
  void clear(std::vector<std::uint32_t>* gone) override {
    const Turn turn(*this);
    if (gone != nullptr) gone->reserve(size());
    // One by one: a record may be written again only after its bucket says so.
    index_.for_each([&](std::uint32_t, WideEntry entry, const auto& place) {
      if (gone != nullptr) gone->push_back(entry.value);
      index_.erase(place);
    });
    try {
      index_.clear(0);
    } catch (const std::bad_alloc&) {  // empty it is, if not small
    }
    records_.clear();
  }
  std::size_t size() const noexcept override { return index_.size(); }
  std::size_t nbytes() const noexcept override { return index_.nbytes() + records_.nbytes(); }
  void export_to(std::vector<std::uint8_t>& keys, std::vector<std::uint32_t>& values) const override {
    const Turn turn(*this);
    keys.reserve(size() * key_size_);
    values.reserve(size());
    index_.for_each([&](std::uint32_t, WideEntry entry, const auto&) {
      const std::uint8_t* found = record(entry.number);
      keys.insert(keys.end(), found, found + key_size_);
      values.push_back(entry.value);
    });
  }

 private:
  std::uint64_t last_word(const std::uint8_t* key) const noexcept {
    return hash_detail::load64(key + key_size_ - 8) >> (8 * (words_ * 8 - key_size_));
  }
  Index::Place locate(std::uint64_t hashed, const std::uint8_t* key) const {
    return index_.locate(hashed, tag(hashed),
                         [&](WideEntry entry) { return same(record(entry.number), key); });
  }
  bool step_on(std::size_t n) override { return index_.step_on(n); }
  bool erase_locked(const std::uint8_t* key, std::uint32_t* previous) override {
    const auto place = locate(hash(key), key);
    if (!place) return false;
    const WideEntry entry = place.line().value(place.slot);
    *previous = entry.value;
    index_.erase(place);
    records_.give_back(entry.number);
    return true;
  }
  bool put_locked(std::uint64_t hashed, const std::uint8_t* key, std::uint32_t new_value,
                  std::uint32_t* previous) {
    if (const auto place = locate(hashed, key)) {
      const WideEntry entry = place.line().value(place.slot);
      *previous = entry.value;
      place.line().set_value(place.slot, {entry.number, new_value});
      return false;
    }
    const std::uint32_t number = records_.take(!index_.in_large_batch());
    auto* words = reinterpret_cast<std::uint64_t*>(records_.at(number));
    // Whoever reads a word of the new key in a record used before must see that the old key is gone.
    std::atomic_thread_fence(std::memory_order_release);
    for (std::size_t i = 0; i + 1 < words_; ++i) {
      bucket_detail::store_relaxed(words[i], hash_detail::load64(key + 8 * i));
    }
    bucket_detail::store_relaxed(words[words_ - 1], last_word(key));
    try {
      index_.add(hashed, tag(hashed), {number, new_value});
    } catch (...) {
      records_.give_back(number);
      throw;
    }
    return true;
  }

  const std::size_t words_;
  const FindMany find_many_;
  RecordStore records_;
  mutable Index index_;  // export_to() walks it under the lock
};

class Fdb;

// The batch kernels of one instruction set.
struct ExactKernels {
  FindBatch<InlineTable<std::uint32_t>::Index> find4;
  FindBatch<InlineTable<std::uint64_t>::Index> find8;
  FindBatch<InlineTable<Key16>::Index> find16;
  FindBatch<BucketIndex<std::uint64_t, std::uint64_t, Fdb>> find_station;
  WideTable::FindMany find_wide32;  // records of 32 bytes
  WideTable::FindMany find_wide64;
  FindHalves<InlineTable<std::uint64_t>::Index> find_halves8;
  FindHalves<InlineTable<Key16>::Index> find_halves16;
};
ExactKernels exact_kernels(Isa isa);
ExactKernels exact_kernels_scalar();
#if defined(__x86_64__)
ExactKernels exact_kernels_avx2();
ExactKernels exact_kernels_avx512();
#endif

}  // namespace fastpath
