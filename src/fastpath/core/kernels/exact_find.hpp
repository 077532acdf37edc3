// Batch look-ups of the exact tables. Included inside the target region and the anonymous namespace of each
// instruction set, after it has defined
// - match(line, key): the slots of a Bucket that hold the key, valid or not;
// - Hasher<Key>, made of a seed, called with keys and hashes: hash_key() of kRow keys; both are aligned to 64
//   bytes;
// - aim(hashes, buckets, from, lines, nothing, addresses): of kRow hashes the addresses of the home buckets,
//   `nothing` for homes below `from`;
// - nonzero_bytes(bytes) and any_bits(words, bits): one bit for each of kGroup;
// - deliver(out, values, hit, count, missing): values where `hit` says so, else `missing`;
// - same_record<kRecord>(table, record, key): of records of 32 or of 64 bytes;
// - join_row(first, second, mask, keys): kRow keys of KeysInHalves.
//
// A pipeline: while one key is looked for in its line, the lines of the next ones are on their way, and
// sending for a line and looking at one take turns, so that neither memory nor the processor waits for the
// other.

constexpr std::size_t kRow = 8;     // keys that are hashed together
constexpr std::size_t kGroup = 64;  // keys whose other buckets are visited together
// Keys between hashing one, sending for its line and looking at it. A row is hashed one row before its lines
// are sent for: otherwise those who look wait for the hash, as instructions leave the processor in order.
constexpr std::size_t kStaged = 64;
constexpr std::size_t kAhead = kStaged - kRow;

// A line without entries, for those who need not look.
alignas(64) constexpr std::uint8_t kNothing[64] = {};

template <typename Index>
struct alignas(64) Group {
  using Line = typename Index::Line;
  typename Index::Wanted key[kGroup];
  const Line* line[kGroup];
  typename Index::Entry value[kGroup];
  std::uint32_t meta[kGroup];
  std::uint8_t found[kGroup];
  std::uint64_t hit;
  std::uint64_t pending;  // keys that are not in their home bucket, which names others
  std::uint32_t changed;  // what a writer changed meanwhile
  std::size_t begin;
  std::size_t count;
  // Those other buckets, and by whom they are visited.
  std::size_t visits;
  std::uint8_t visitor[kGroup * Index::kAlternates];
  const Line* visited[kGroup * Index::kAlternates];
};

// One look into a line. The value is the one of the last slot where nothing is found.
template <typename Key, typename Value>
inline std::uint32_t look(const Bucket<Key, Value>& line, const Key& key, Value* value, std::uint32_t* meta,
                          std::uint32_t* changed) {
  using Line = Bucket<Key, Value>;
  const std::uint32_t seen = line.meta(std::memory_order_acquire);
  const std::uint32_t found = match(line, key) & seen & Line::kValidMask;
  const auto bit = static_cast<std::size_t>(std::countr_zero(found | Line::bit(Line::kSlots - 1)));
  constexpr std::size_t kStep = sizeof(Value) / Line::kBitStep;
  *value = bucket_detail::load_relaxed(
      *reinterpret_cast<const Value*>(reinterpret_cast<const std::uint8_t*>(line.values) + bit * kStep));
  std::atomic_thread_fence(std::memory_order_acquire);
  *changed |= seen ^ line.meta(std::memory_order_relaxed);
  *meta = seen;
  return found;
}

// Whether a line has a key.
template <typename Key, typename Value>
inline bool has(const Bucket<Key, Value>& line, const Key& key) {
  using Line = Bucket<Key, Value>;
  const std::uint32_t seen = line.meta(std::memory_order_acquire);
  return (match(line, key) & seen & Line::kValidMask) != 0;
}

// Looks for n keys in one array: those whose homes are below `from` are not in it. A Batch says what is
// asked:
// - stage(begin, count, keys, hashes): gives up to kRow keys of the index, zero after those, and kRow hashes;
// - send(group): a group has been looked for. Its `hit` and `value` are right if its `changed` has none of
//   kMeaning, else nothing is known;
// - answer(group): the same, when the next group has been looked for too.
template <typename Batch>
__attribute__((noinline)) void find_in(Batch& batch, const typename Batch::Index::Generation& generation,
                                       std::uint64_t from, std::size_t n) {
  using Index = typename Batch::Index;
  using Line = typename Index::Line;
  constexpr std::size_t kRing = kStaged / kGroup + 3;  // one looked at, two that are being settled
  Group<Index> groups[kRing];

  const auto stage = [&](std::size_t begin) {
    Group<Index>& group = groups[begin / kGroup % kRing];
    const std::size_t at = begin % kGroup;
    alignas(64) std::uint64_t hashes[kRow];
    batch.stage(begin, std::min(kRow, n - begin), group.key + at, hashes);
    static_assert(sizeof(const Line*) == sizeof(std::uint64_t));
    aim(hashes, generation.count, from, reinterpret_cast<std::uintptr_t>(generation.lines),
        reinterpret_cast<std::uintptr_t>(kNothing), reinterpret_cast<std::uint64_t*>(group.line + at));
  };

  // Sends for the other buckets that the home buckets name.
  const auto expand = [&](Group<Index>& group) {
    const std::uint64_t all = ~std::uint64_t{0} >> (kGroup - group.count);
    group.hit = nonzero_bytes(group.found) & all;
    group.pending = any_bits(group.meta, Line::kAlternateMask) & ~group.hit & all;
    const Line* end = generation.lines + generation.count;
    const auto other = [&](std::size_t i, std::uint32_t bits) {
      const Line* line = group.line[i] + generation.distance[std::countr_zero(bits)];
      return line >= end ? line - generation.count : line;
    };
    // Most have one other bucket: no branch asks for more until all of those are on their way.
    std::uint8_t further[kGroup];
    std::size_t furthers = 0;
    std::size_t visits = 0;
    for (std::uint64_t left = group.pending; left != 0; left &= left - 1) {
      const auto i = static_cast<std::size_t>(std::countr_zero(left));
      const std::uint32_t bits = (group.meta[i] & Line::kAlternateMask) >> Line::kAlternateShift;
      const Line* line = other(i, bits);
      fetch_ahead(line);
      group.visited[visits] = line;
      group.visitor[visits++] = static_cast<std::uint8_t>(i);
      further[furthers] = static_cast<std::uint8_t>(i);
      furthers += (bits & (bits - 1)) != 0;
    }
    for (std::size_t f = 0; f < furthers; ++f) {
      const std::size_t i = further[f];
      std::uint32_t bits = (group.meta[i] & Line::kAlternateMask) >> Line::kAlternateShift;
      while ((bits &= bits - 1) != 0) {
        const Line* line = other(i, bits);
        fetch_ahead(line);
        group.visited[visits] = line;
        group.visitor[visits++] = static_cast<std::uint8_t>(i);
      }
    }
    group.visits = visits;
  };

  const auto visit = [&](Group<Index>& group) {
    constexpr std::uint32_t kPlaces = Line::kVersionMask | Line::kAlternateMask;
    std::uint32_t changed = group.changed;
    for (std::size_t begin = 0; begin < group.visits; begin += kGroup) {
      const std::size_t end = std::min(begin + kGroup, group.visits);
      // Where a key stands is a matter of chance: no branch asks, and only lines that have it are read on.
      std::uint64_t found = 0;
      for (std::size_t v = begin; v < end; ++v) {
        const std::size_t i = group.visitor[v];
        found |= std::uint64_t{has(*group.visited[v], group.key[i])} << (v - begin);
        // After its other bucket: what the home bucket said must still be so.
        std::atomic_thread_fence(std::memory_order_acquire);
        changed |= (group.meta[i] ^ group.line[i]->meta(std::memory_order_acquire)) & kPlaces;
      }
      for (; found != 0; found &= found - 1) {
        const std::size_t v = begin + static_cast<std::size_t>(std::countr_zero(found));
        const std::size_t i = group.visitor[v];
        const Line& line = *group.visited[v];
        const bool still = look(line, group.key[i], &group.value[i], &group.meta[i], &changed) != 0;
        group.line[i] = &line;
        group.hit |= std::uint64_t{1} << i;
        changed |= still ? 0 : Line::kVersionMask;
      }
    }
    group.changed = changed;
  };

  for (std::size_t begin = 0; begin < std::min(n, kStaged); begin += kRow) {
    stage(begin);
    const Line* const* line = groups[0].line + begin;
    for (std::size_t i = 0; begin < kAhead && i < kRow; ++i) fetch_ahead(line[i]);
  }
  const std::size_t total = (n + kGroup - 1) / kGroup;
  for (std::size_t number = 0; number < total + 2; ++number) {
    if (number < total) {
      Group<Index>& group = groups[number % kRing];
      group.begin = number * kGroup;
      group.count = std::min(kGroup, n - group.begin);
      std::uint32_t changed = 0;
      for (std::size_t at = 0; at < group.count; at += kRow) {
        if (group.begin + at + kStaged < n) stage(group.begin + at + kStaged);
        const std::size_t ahead = group.begin + at + kAhead;
        const Line* const* line = groups[ahead / kGroup % kRing].line + ahead % kGroup;
        if (ahead >= n) line = group.line + at;  // has come already
#pragma GCC unroll 8
        for (std::size_t i = at; i < at + kRow; ++i) {
          fetch_ahead(line[i - at]);
          group.found[i] = static_cast<std::uint8_t>(
              look(*group.line[i], group.key[i], &group.value[i], &group.meta[i], &changed));
        }
      }
      group.changed = changed;
    }
    if (number >= 2) batch.answer(groups[(number - 2) % kRing]);
    if (number >= 1 && number <= total) {
      Group<Index>& before = groups[(number - 1) % kRing];
      visit(before);
      batch.send(before);
    }
    if (number < total) expand(groups[number % kRing]);
  }
}

// What differs in a line when an answer from it cannot be trusted.
template <typename Line>
constexpr std::uint32_t kMeaning = Line::kVersionMask | Line::kAlternateMask | Line::kValidMask;

constexpr std::size_t kBlock = 4096;  // keys between two looks at which arrays are in use

// Where the keys of a batch are: key(i), and row(i, keys) for kRow of them.

// One after the other, `size` bytes each.
template <typename Key_>
struct KeysInOneArray {
  using Key = Key_;
  const std::uint8_t* keys;
  std::size_t size;
  Key key(std::size_t i) const { return load_key<Key>(keys + i * size, size); }
  void row(std::size_t i, Key* out) const {
    if (size == sizeof(Key)) {
      std::memcpy(static_cast<void*>(out), keys + i * sizeof(Key), kRow * sizeof(Key));
    } else {
      for (std::size_t j = 0; j < kRow; ++j) out[j] = key(i + j);
    }
  }
};

// The halves of each in an array of their own, as words of which only the bits of `mask` count.
template <typename Key_>
struct KeysInHalves {
  using Key = Key_;
  using Half = HalfOf<Key>;
  const std::uint8_t* first;
  const std::uint8_t* second;
  Half mask;
  Key key(std::size_t i) const {
    return join_halves(load_key<Half>(first + i * sizeof(Half), sizeof(Half)) & mask,
                       load_key<Half>(second + i * sizeof(Half), sizeof(Half)) & mask);
  }
  void row(std::size_t i, Key* out) const {
    join_row(first + i * sizeof(Half), second + i * sizeof(Half), mask, out);
  }
};

// Keys that stand in their lines.
template <typename Index_, typename Keys>
struct InlineBatch {
  using Index = Index_;
  using Key = typename Index::Wanted;
  using Value = typename Index::Entry;

  const Index& index;
  const std::uint64_t seed;
  const Value missing;
  const Keys all;
  const Hasher<Key> hasher{seed};
  std::size_t first = 0;                  // of the keys that are asked for; or, if it is not null,
  const std::uint16_t* chosen = nullptr;  // which ones from there
  Value* values = nullptr;
  std::uint64_t* hits = nullptr;  // one bit a key

  Key key(std::size_t i) const { return all.key(first + (chosen == nullptr ? i : chosen[i])); }
  bool find(std::size_t i, Value* value) const {
    const Key wanted = key(i);
    return index.get(hash_key(wanted, seed), wanted, value);
  }
  void stage(std::size_t begin, std::size_t count, Key* keys, std::uint64_t* hashes) const {
    if (count < kRow || chosen != nullptr) [[unlikely]] {
      std::memset(static_cast<void*>(keys), 0, kRow * sizeof(Key));
      for (std::size_t i = 0; i < count; ++i) keys[i] = key(begin + i);
    } else {
      all.row(first + begin, keys);
    }
    hasher(keys, hashes);
  }
  void send(const Group<Index>&) const {}
  void answer(Group<Index>& group) {
    if ((group.changed & kMeaning<typename Index::Line>) != 0) [[unlikely]] {
      group.hit = 0;
      for (std::size_t i = 0; i < group.count; ++i) {
        group.hit |= std::uint64_t{find(group.begin + i, &group.value[i])} << i;
      }
    }
    hits[group.begin / kGroup] = group.hit;
    deliver(values + group.begin, group.value, group.hit, group.count, missing);
  }

  // Up to kRow keys: nothing is gained by a pipeline. Returns which are hits.
  std::uint64_t find_few(std::size_t n) {
    alignas(64) Key keys[kRow];
    alignas(64) std::uint64_t hashes[kRow];
    if (n <= kScalar) {
      for (std::size_t i = 0; i < n; ++i) {
        keys[i] = key(i);
        hashes[i] = hash_key(keys[i], seed);
      }
    } else {
      stage(0, n, keys, hashes);
      const auto& now = *index.state().current;
      for (std::size_t i = 0; i < n; ++i) __builtin_prefetch(&now.lines[now.home(hashes[i])]);
    }
    std::uint64_t found = 0;
    for (std::size_t i = 0; i < n; ++i) {
      Value value;
      const bool hit = index.get(hashes[i], keys[i], &value);
      values[i] = hit ? value : missing;
      found |= std::uint64_t{hit} << i;
    }
    return found;
  }
  static constexpr std::size_t kFew = kRow;
  static constexpr std::size_t kScalar = 3;  // so many are hashed as fast one by one
};

// Keys that stand in records: their lines hold tags, and a record is read for each tag that is found.
template <std::size_t kRecord>
struct WideBatch {
  using Index = WideTable::Index;
  using Key = Index::Wanted;
  using Value = std::uint32_t;

  const WideTable& table;
  const Index& index;
  const std::size_t size;
  const Value missing;
  const std::uint8_t* const all;
  std::size_t first = 0;  // as in InlineBatch
  const std::uint16_t* chosen = nullptr;
  Value* values = nullptr;
  std::uint64_t* hits = nullptr;           // one bit a key
  const std::uint8_t** records = nullptr;  // of the group whose records are on their way

  const std::uint8_t* key(std::size_t i) const {
    return all + (first + (chosen == nullptr ? i : chosen[i])) * size;
  }
  bool find(std::size_t i, Value* value) const { return table.find(key(i), value); }
  void stage(std::size_t begin, std::size_t count, Key* keys, std::uint64_t* hashes) const {
    const std::uint8_t* const from = all + (first + begin) * size;
    if (kRecord == 32 && count == kRow && chosen == nullptr) {
      // In one loop: for longer keys two are faster (measured).
      const std::size_t width = size;
      for (std::size_t i = 0; i < kRow; ++i) {
        hashes[i] = table.hash<kRecord>(from + i * width);
        keys[i] = WideTable::tag(hashes[i]);
      }
      return;
    }
    if (chosen == nullptr) [[likely]] {
      for (std::size_t i = 0; i < count; ++i) hashes[i] = table.hash<kRecord>(from + i * size);
    } else {
      for (std::size_t i = 0; i < count; ++i) hashes[i] = table.hash<kRecord>(key(begin + i));
    }
    for (std::size_t i = 0; i < count; ++i) keys[i] = WideTable::tag(hashes[i]);
    for (std::size_t i = count; i < kRow; ++i) hashes[i] = keys[i] = 0;
  }
  void send(const Group<Index>& group) {
    for (std::uint64_t left = group.hit; left != 0; left &= left - 1) {
      const auto i = static_cast<std::size_t>(std::countr_zero(left));
      records[i] = table.record(group.value[i].number);
      fetch_ahead(records[i]);
    }
  }
  void answer(const Group<Index>& group) {
    using Line = Index::Line;
    const std::uint16_t* const which = chosen == nullptr ? nullptr : chosen + group.begin;
    const std::uint8_t* const from = all + (which == nullptr ? first + group.begin : first) * size;
    const std::size_t width = size;
    Value* out = values + group.begin;
    std::uint64_t differ = 0;
    std::uint32_t changed = group.changed & kMeaning<Line>;
    Value value[kGroup];
    for (std::uint64_t left = group.hit; left != 0; left &= left - 1) {
      const auto i = static_cast<std::size_t>(std::countr_zero(left));
      value[i] = group.value[i].value;
      differ |= std::uint64_t{!same_record<kRecord>(table, records[i],
                                                    from + (which == nullptr ? i : which[i]) * width)}
                << i;
      std::atomic_thread_fence(std::memory_order_acquire);
      const std::uint32_t now = group.line[i]->meta(std::memory_order_relaxed);
      changed |= (group.meta[i] ^ now) & (Line::kVersionMask | Line::kValidMask);
    }
    std::uint64_t hit = group.hit;
    // Two keys have one tag, or a writer was there.
    if ((differ | changed) != 0) [[unlikely]] {
      const std::uint64_t all = ~std::uint64_t{0} >> (kGroup - group.count);
      for (std::uint64_t left = changed != 0 ? all : differ; left != 0; left &= left - 1) {
        const auto i = static_cast<std::size_t>(std::countr_zero(left));
        hit = (hit & ~(std::uint64_t{1} << i)) | std::uint64_t{find(group.begin + i, &value[i])} << i;
      }
    }
    hits[group.begin / kGroup] = hit;
    deliver(out, value, hit, group.count, missing);
  }

  std::uint64_t find_few(std::size_t n) {
    std::uint64_t found = 0;
    for (std::size_t i = 0; i < n; ++i) {
      Value value;
      const bool hit = find(i, &value);
      values[i] = hit ? value : missing;
      found |= std::uint64_t{hit} << i;
    }
    return found;
  }
  static constexpr std::size_t kFew = 3;
};

// Looks for up to kBlock keys, from batch.first on, in the arrays that are in use.
template <typename Batch>
void find_block(Batch& batch, std::size_t n) {
  using Value = typename Batch::Value;
  const auto& state = batch.index.state();
  Value* const values = batch.values;
  std::uint64_t* const hits = batch.hits;
  if (state.old == nullptr) [[likely]] {
    find_in(batch, *state.current, 0, n);
  } else {
    // The old array first: an entry leaves it only when the new one has it.
    find_in(batch, *state.old, state.moved.load(std::memory_order_acquire), n);
    constexpr std::size_t kPart = 512;
    Value found[kPart];
    std::uint16_t left[kPart];
    std::uint64_t part_hits[kPart / kGroup];
    batch.hits = part_hits;
    batch.values = found;
    batch.chosen = left;
    for (std::size_t begin = 0; begin < n; begin += kPart) {
      std::size_t count = 0;
      for (std::size_t i = begin; i < std::min(begin + kPart, n); ++i) {
        left[count] = static_cast<std::uint16_t>(i);
        count += ~hits[i / kGroup] >> i % kGroup & 1;
      }
      find_in(batch, *state.current, 0, count);
      for (std::size_t i = 0; i < count; ++i) {
        values[left[i]] = found[i];
        hits[left[i] / kGroup] |= (part_hits[i / kGroup] >> i % kGroup & 1) << left[i] % kGroup;
      }
    }
    batch.hits = hits;
    batch.values = values;
    batch.chosen = nullptr;
  }
  std::atomic_thread_fence(std::memory_order_acquire);
  if (&batch.index.state() == &state) [[likely]]
    return;
  // Other arrays are in use by now: what was missed may be there.
  for (std::size_t i = 0; i < n; ++i) {
    std::uint64_t& word = hits[i / kGroup];
    const std::uint64_t bit = std::uint64_t{1} << i % kGroup;
    if ((word & bit) != 0) continue;
    if (batch.find(i, &values[i])) {
      word |= bit;
    } else {
      values[i] = batch.missing;
    }
  }
}

template <typename Batch>
std::size_t find_blocks(Batch& batch, std::size_t n, typename Batch::Value* values, std::uint64_t* all_hits) {
  if (n <= Batch::kFew) {
    batch.values = values;
    const std::uint64_t found = batch.find_few(n);
    if (all_hits != nullptr && n != 0) *all_hits = found;
    return static_cast<std::size_t>(std::popcount(found));
  }
  std::uint64_t block_hits[kBlock / kGroup];
  std::size_t hits = 0;
  for (std::size_t begin = 0; begin < n; begin += kBlock) {
    const std::size_t count = std::min(kBlock, n - begin);
    batch.first = begin;
    batch.values = values + begin;
    batch.hits = all_hits == nullptr ? block_hits : all_hits + begin / kGroup;
    find_block(batch, count);
    for (std::size_t i = 0; i < count; i += kGroup) {
      hits += static_cast<std::size_t>(std::popcount(batch.hits[i / kGroup]));
    }
  }
  return hits;
}

template <typename Index>
std::size_t find_inline(const Index& index, std::uint64_t seed, const std::uint8_t* keys, std::size_t size,
                        std::size_t n, typename Index::Entry* values, typename Index::Entry missing,
                        std::uint64_t* hits) {
  using Keys = KeysInOneArray<typename Index::Wanted>;
  InlineBatch<Index, Keys> batch{.index = index, .seed = seed, .missing = missing, .all = {keys, size}};
  return find_blocks(batch, n, values, hits);
}

template <typename Index>
std::size_t find_halves(const Index& index, std::uint64_t seed, const std::uint8_t* first,
                        const std::uint8_t* second, std::uint64_t mask, std::size_t n,
                        typename Index::Entry* values, typename Index::Entry missing, std::uint64_t* hits) {
  using Keys = KeysInHalves<typename Index::Wanted>;
  const auto half_mask = static_cast<typename Keys::Half>(mask);
  InlineBatch<Index, Keys> batch{
      .index = index, .seed = seed, .missing = missing, .all = {first, second, half_mask}};
  return find_blocks(batch, n, values, hits);
}

template <std::size_t kRecord>
std::size_t find_wide(const WideTable& table, const std::uint8_t* keys, std::size_t n, std::uint32_t* values,
                      std::uint32_t missing, std::uint64_t* hits) {
  const std::uint8_t* records[kGroup];
  WideBatch<kRecord> batch{
      .table = table, .index = table.index(), .size = table.key_size(), .missing = missing, .all = keys};
  batch.records = records;
  return find_blocks(batch, n, values, hits);
}

// The entry points of the kernel file that includes this.
inline ExactKernels kernels_here() {
  return {find_inline<InlineTable<std::uint32_t>::Index>,
          find_inline<InlineTable<std::uint64_t>::Index>,
          find_inline<InlineTable<Key16>::Index>,
          find_inline<Fdb::Index>,
          find_wide<32>,
          find_wide<64>,
          find_halves<InlineTable<std::uint64_t>::Index>,
          find_halves<InlineTable<Key16>::Index>};
}
