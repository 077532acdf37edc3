// Batch look-ups of the exact tables. Included inside the target region and the anonymous namespace of each
// instruction set, after it has defined
//   template <typename Key, typename Value> std::uint32_t match(const Bucket<Key, Value>&, const Key&)
// which gives the slots that hold the key, valid or not.
//
// Keys are taken in groups: while one group is compared, the lines of the next one are on their way.

constexpr std::size_t kGroup = 64;

// What one look into a bucket says.
template <typename Value>
struct Look {
  Value value;
  std::uint32_t meta;
  std::uint32_t hit;    // 1: the value is right
  std::uint32_t moved;  // not 0: something moved meanwhile, and nothing is known
};

// Whether the word is not zero, as arithmetic: the compiler makes a branch of `word != 0 && ...`, which here
// would be wrong as often as keys are away from home.
inline std::uint32_t nonzero(std::uint32_t word) { return (word | (0u - word)) >> 31; }
template <typename Word>
inline Word select(std::uint32_t condition, Word yes, Word no) {
  return no ^ ((yes ^ no) & (Word{0} - condition));
}

template <typename Key, typename Value>
inline Look<Value> look_once(const Bucket<Key, Value>& line, const Key& key) {
  using Line = Bucket<Key, Value>;
  const std::uint32_t meta = line.meta(std::memory_order_acquire);
  const std::uint32_t found = match(line, key) & meta & Line::kValidMask;
  const std::size_t slot = Line::slot_of(found | Line::bit(Line::kSlots - 1));
  const Value value = line.value(slot);
  std::atomic_thread_fence(std::memory_order_acquire);
  const std::uint32_t changed = meta ^ line.meta(std::memory_order_relaxed);
  const std::uint32_t moved = changed & (Line::kVersionMask | Line::kAlternateMask | found);
  return {value, meta, nonzero(found) & ~nonzero(moved) & 1, moved};
}

// Prefetches the other buckets that the home bucket names.
template <typename Index>
inline void prefetch_alternates(const typename Index::Generation& generation, std::uint64_t home) {
  using Line = typename Index::Line;
  std::uint32_t bits = generation.lines[home].meta(std::memory_order_relaxed) & Line::kAlternateMask;
  for (bits >>= Line::kAlternateShift; bits != 0; bits &= bits - 1) {
    __builtin_prefetch(&generation.lines[generation.alternate(home, std::countr_zero(bits))]);
  }
}

// Runs the three stages of each group, one group behind the other.
template <typename Group, typename Stage, typename Compare, typename Settle>
inline void run_groups(std::size_t n, Stage&& stage, Compare&& compare, Settle&& settle) {
  Group groups[3];
  Group* staged = &groups[0];
  Group* sent = &groups[1];
  Group* compared = &groups[2];
  const std::size_t total = (n + kGroup - 1) / kGroup;
  for (std::size_t step = 0; step < total + 2; ++step) {
    if (step < total) stage(*staged, step * kGroup);
    if (step >= 1 && step - 1 < total) compare(*sent);
    if (step >= 2) settle(*compared);
    Group* const done = compared;
    compared = sent;
    sent = staged;
    staged = done;
  }
}

template <typename Index>
std::size_t find_inline(const Index& index, std::uint64_t seed, const std::uint8_t* keys, std::size_t size,
                        std::size_t n, typename Index::Entry* values, typename Index::Entry missing,
                        std::uint8_t* hit_flags) {
  using Key = typename Index::Wanted;
  using Value = typename Index::Entry;
  using Generation = typename Index::Generation;
  using State = typename Index::State;
  using Line = typename Index::Line;
  struct Lane {
    Key key;
    std::uint64_t home;
    std::uint32_t meta;
  };
  struct Group {
    const State* state;
    std::size_t begin;
    std::size_t count;
    std::size_t pending_count;  // keys that are not in their home bucket, which names others
    std::size_t visit_count;    // those other buckets
    Lane lanes[kGroup];
    std::uint8_t hit[kGroup];
    std::uint8_t pending[kGroup];
    std::uint8_t visitor[kGroup * Index::kAlternates];
    const Line* visited[kGroup * Index::kAlternates];
  };

  const auto stage = [&](Group& group, std::size_t begin) {
    const State& state = index.state();
    group.begin = begin;
    group.count = std::min(kGroup, n - begin);
    group.pending_count = 0;
    group.visit_count = 0;
    group.state = &state;
    const Generation& generation = *state.current;
    for (std::size_t i = 0; i < group.count; ++i) {
      const Key key = load_key<Key>(keys + (begin + i) * size, size);
      const std::uint64_t hash = hash_key(key, seed);
      const std::uint64_t home = generation.home(hash);
      group.lanes[i] = {key, home, 0};
      __builtin_prefetch(&generation.lines[home]);
      if (state.old != nullptr) [[unlikely]]
        __builtin_prefetch(&state.old->lines[state.old->home(hash)]);
    }
  };

  // Looks into the home buckets, and sends for the others that they name.
  const auto compare = [&](Group& group) {
    const Generation& generation = *group.state->current;
    Value* out = values + group.begin;
    if (group.state->old != nullptr) [[unlikely]] {
      for (std::size_t i = 0; i < group.count; ++i) {
        group.hit[i] = index.get(hash_key(group.lanes[i].key, seed), group.lanes[i].key, &out[i]);
        out[i] = group.hit[i] ? out[i] : missing;
      }
      return;
    }
    for (std::size_t i = 0; i < group.count; ++i) {
      Lane& lane = group.lanes[i];
      const auto seen = look_once(generation.lines[lane.home], lane.key);
      lane.meta = seen.meta;
      out[i] = select(seen.hit, seen.value, missing);
      group.hit[i] = static_cast<std::uint8_t>(seen.hit);
      group.pending[group.pending_count] = static_cast<std::uint8_t>(i);
      group.pending_count += ~seen.hit & nonzero((seen.meta & Line::kAlternateMask) | seen.moved);
    }
    for (std::size_t p = 0; p < group.pending_count; ++p) {
      const std::uint8_t i = group.pending[p];
      const Lane& lane = group.lanes[i];
      for (std::size_t which = 0; which < Index::kAlternates; ++which) {
        group.visited[group.visit_count] = &generation.lines[generation.alternate(lane.home, which)];
        group.visitor[group.visit_count] = i;
        group.visit_count += lane.meta >> (Line::kAlternateShift + which) & 1;
      }
    }
    for (std::size_t v = 0; v < group.visit_count; ++v) __builtin_prefetch(group.visited[v]);
  };

  std::size_t hits = 0;
  const auto settle = [&](Group& group) {
    Value* out = values + group.begin;
    std::uint32_t moved = 0;
    for (std::size_t v = 0; v < group.visit_count; ++v) {
      const std::uint8_t i = group.visitor[v];
      const auto seen = look_once(*group.visited[v], group.lanes[i].key);
      out[i] = select(seen.hit, seen.value, out[i]);
      group.hit[i] |= static_cast<std::uint8_t>(seen.hit);
      moved |= seen.moved;
    }
    for (std::size_t p = 0; p < group.pending_count; ++p) {
      const Lane& lane = group.lanes[group.pending[p]];
      const std::uint32_t meta = group.state->current->lines[lane.home].meta(std::memory_order_acquire);
      moved |= (lane.meta ^ meta) & (Line::kVersionMask | Line::kAlternateMask);
    }
    if (moved != 0 || &index.state() != group.state) [[unlikely]] {
      for (std::size_t i = 0; i < group.count; ++i) {
        if (group.hit[i]) continue;
        group.hit[i] = index.get(hash_key(group.lanes[i].key, seed), group.lanes[i].key, &out[i]);
        out[i] = group.hit[i] ? out[i] : missing;
      }
    }
    for (std::size_t i = 0; i < group.count; ++i) hits += group.hit[i];
    if (hit_flags != nullptr) std::memcpy(hit_flags + group.begin, group.hit, group.count);
  };

  run_groups<Group>(n, stage, compare, settle);
  return hits;
}

std::size_t find_wide(const WideTable& table, const std::uint8_t* keys, std::size_t n, std::uint32_t* values,
                      std::uint32_t missing, std::uint8_t* hit_flags) {
  using Index = WideTable::Index;
  struct Lane {
    std::uint64_t hash;
    std::uint64_t home;
    const std::uint8_t* record;
    std::uint32_t meta;
    std::uint32_t found;
  };
  struct Group {
    const Index::State* state;
    std::size_t begin;
    std::size_t count;
    Lane lanes[kGroup];
  };
  const std::size_t size = table.key_size();

  const auto stage = [&](Group& group, std::size_t begin) {
    const auto& state = table.index().state();
    group.begin = begin;
    group.count = std::min(kGroup, n - begin);
    group.state = &state;
    for (std::size_t i = 0; i < group.count; ++i) {
      const std::uint64_t hash = table.hash(keys + (begin + i) * size);
      const std::uint64_t home = state.current->home(hash);
      group.lanes[i].hash = hash;
      group.lanes[i].home = home;
      __builtin_prefetch(&state.current->lines[home]);
      if (state.old != nullptr) [[unlikely]]
        __builtin_prefetch(&state.old->lines[state.old->home(hash)]);
    }
  };
  // Finds the record that the tag points at and sends for it.
  const auto compare = [&](Group& group) {
    using Line = Index::Line;
    for (std::size_t i = 0; i < group.count; ++i) {
      Lane& lane = group.lanes[i];
      const Line& line = group.state->current->lines[lane.home];
      lane.meta = line.meta(std::memory_order_acquire);
      lane.found = match(line, WideTable::tag(lane.hash)) & lane.meta & Line::kValidMask;
      lane.record = nullptr;
      if (lane.found != 0) {
        lane.record = table.record(line.value(Line::slot_of(lane.found)));
        __builtin_prefetch(lane.record);
        __builtin_prefetch(lane.record + 8 * ((size + 7) / 8));
      } else {
        prefetch_alternates<Index>(*group.state->current, lane.home);
      }
    }
  };
  std::size_t hits = 0;
  const auto record = [&](std::size_t i, bool hit) {
    values[i] = hit ? values[i] : missing;
    if (hit_flags != nullptr) hit_flags[i] = hit;
    hits += hit;
  };
  const auto settle = [&](const Group& group) {
    using Line = Index::Line;
    std::atomic_thread_fence(std::memory_order_acquire);
    const bool steady = group.state->old == nullptr && &table.index().state() == group.state;
    for (std::size_t i = 0; i < group.count; ++i) {
      const Lane& lane = group.lanes[i];
      const std::uint8_t* key = keys + (group.begin + i) * size;
      std::uint32_t* out = values + group.begin + i;
      const Line& line = group.state->current->lines[lane.home];
      bool hit = false;
      bool final = lane.found == 0 && (lane.meta & Line::kAlternateMask) == 0;
      if (lane.found != 0) {
        *out = table.value(lane.record);
        hit = final = table.same(lane.record, key);
      }
      std::atomic_thread_fence(std::memory_order_acquire);
      const std::uint32_t first = lane.found & (0u - lane.found);
      const std::uint32_t changed = lane.meta ^ line.meta(std::memory_order_relaxed);
      final = final && steady && (changed & (Line::kVersionMask | Line::kAlternateMask | first)) == 0;
      if (!final) hit = table.find_hashed(lane.hash, key, out);
      record(group.begin + i, hit);
    }
  };

  run_groups<Group>(n, stage, compare, settle);
  return hits;
}
