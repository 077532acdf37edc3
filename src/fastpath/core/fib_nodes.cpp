// How the nodes of fib_view.hpp are built, changed and read back.
//
// A node lists, for each of its intervals, how many bits the best prefix has beyond the node's own (its code,
// 0 for "no prefix here"), so the exact prefixes are read back from the look-up structure itself; the few
// that are covered in full by longer ones are listed behind ("hidden"). An update decodes one node into 256
// slots, changes the slots, and encodes a new node.
#include "fib_internal.hpp"

#include <stdexcept>

namespace fastpath {

namespace {

// A slot begins a prefix of code c if c is at least this.
constexpr std::array<std::uint8_t, 256> first_codes() {
  std::array<std::uint8_t, 256> codes{};
  for (unsigned s = 1; s < 256; ++s) codes[s] = static_cast<std::uint8_t>(8 - std::countr_zero(s));
  return codes;
}
constexpr std::array<std::uint8_t, 256> kFirstCode = first_codes();

using Marks = std::array<std::uint64_t, 4>;  // one bit a slot

std::size_t count(const Marks& marks) {
  std::size_t sum = 0;
  for (const std::uint64_t word : marks) sum += ones(word);
  return sum;
}

// Calls f(slot) for each mark.
template <typename F>
void for_each_mark(const Marks& marks, F&& f) {
  for (unsigned w = 0; w < 4; ++w) {
    for (std::uint64_t word = marks[w]; word != 0; word &= word - 1) {
      f(64 * w + static_cast<unsigned>(std::countr_zero(word)));
    }
  }
}

// A map of entries of `bytes`. Each word counts the marks before it and the entries that the map's own bytes
// would hold.
void write_map(std::uint8_t* map, const Marks& marks, std::size_t bytes) {
  std::uint64_t before = 8 * kWords / bytes;
  for (unsigned w = 0; w < kWords; ++w) {
    const unsigned first = kWordSlots * w;
    std::uint64_t word = marks[first / 64] >> (first % 64);
    if (first % 64 != 0 && first / 64 != 3) word |= marks[first / 64 + 1] << (64 - first % 64);
    word &= (std::uint64_t{1} << kWordSlots) - 1;
    write(map + 8 * w, before << 56 | word);
    before += ones(word);
  }
}

// Writes what tells a slot's interval, from the starts of all intervals.
void write_starts(std::uint8_t* p, bool tiny, Marks marks, std::size_t bytes) {
  marks[0] &= ~std::uint64_t{1};
  if (!tiny) {
    write_map(p, marks, bytes);
    return;
  }
  // Each start but the first, less one; 255 is above every slot.
  std::memset(p, 0xFF, 8);
  for_each_mark(marks, [&](unsigned s) { *p++ = static_cast<std::uint8_t>(s - 1); });
}

// The starts of a node's intervals.
Marks starts_of(Node node) {
  Marks marks{1};
  if (node.tiny) {
    for (std::size_t i = 0; i < 8 && node.begin[i] != 255; ++i) {
      const unsigned start = node.begin[i] + 1u;
      marks[start / 64] |= std::uint64_t{1} << (start % 64);
    }
    return marks;
  }
  for (unsigned w = 0; w < kWords; ++w) {
    const unsigned first = kWordSlots * w;
    const std::uint64_t word = read<std::uint64_t>(node.begin + 8 * w) << 8 >> 8;
    marks[first / 64] |= word << (first % 64);
    if (first % 64 != 0 && first / 64 != 3) marks[first / 64 + 1] |= word >> (64 - first % 64);
  }
  return marks;
}

// Calls f(interval, first slot, slot behind the last).
template <typename F>
void for_each_interval(Node node, F&& f) {
  std::size_t interval = 0;
  unsigned start = 0;
  if (node.tiny) {
    const std::size_t more = node.intervals() - 1;
    for (; interval < more; ++interval) {
      const unsigned next = node.begin[interval] + 1u;
      f(interval, start, next);
      start = next;
    }
  } else {
    for (unsigned w = 0; w < kWords; ++w) {
      for (auto word = read<std::uint64_t>(node.begin + 8 * w) << 8 >> 8; word != 0; word &= word - 1) {
        const unsigned next = kWordSlots * w + static_cast<unsigned>(std::countr_zero(word));
        f(interval++, start, next);
        start = next;
      }
    }
  }
  f(interval, start, 256u);
}

}  // namespace

std::size_t Fib::entry_bytes(int family, unsigned level) const noexcept {
  if (is_wide(family, level)) return 8;
  return work_->view.short_leaves ? 2 : 4;
}

void Fib::decode(int family, unsigned level, std::uint32_t ref, Slots& slots) const {
  const fib::View& view = work_->view;
  if (ref == 0) {
    slots.clear(view.none);
    return;
  }
  const Node node = node_at(arena_->base(), ref);
  const std::size_t bytes = entry_bytes(family, level);
  const Tail tail = tail_of(node, bytes);
  for_each_interval(node, [&](std::size_t interval, unsigned start, unsigned end) {
    const std::uint8_t* entry = node.entries() + bytes * interval;
    std::uint32_t leaf = bytes == 2 ? read<std::uint16_t>(entry) : read<std::uint32_t>(entry);
    const bool child = bytes == 8 || leaf == view.deep;
    if (bytes != 8 && child) {
      entry = child_entry(tail.children, start);
      leaf = read<std::uint32_t>(entry);
    }
    if (child) {
      if (const auto ref_below = read<std::uint32_t>(entry + kEntryRef)) slots.add_child(start, ref_below);
    }
    slots.fill_ascending(start, end, code_at(tail.codes, interval), leaf);
  });
  slots.hidden_count = tail.hidden_count;
  for (unsigned i = 0; i < tail.hidden_count; ++i) {
    const std::uint8_t* const h = tail.hidden + kHiddenBytes * i;
    slots.hidden[i] = {h[0], h[1], read<std::uint32_t>(h + 2)};
  }
}

std::uint32_t Fib::encode(int family, unsigned level, const Slots& slots) {
  // A slot begins an interval where another prefix begins, and before and after a slot with a child.
  alignas(64) std::uint8_t starts[256];
  starts[0] = 1;
  for (unsigned s = 1; s < 256; ++s) {
    starts[s] =
        static_cast<std::uint8_t>((slots.code[s] != slots.code[s - 1]) | (slots.code[s] >= kFirstCode[s]));
  }
  Marks children{};
  if (slots.refs) {
    for (unsigned s = 0; s < 256; ++s) {
      if (slots.ref[s] == 0) continue;
      starts[s] = 1;
      if (s != 255) starts[s + 1] = 1;
      children[s / 64] |= std::uint64_t{1} << (s % 64);
    }
  }
  Marks marks{};
  for (unsigned byte = 0; byte < 32; ++byte) {
    // Eight 0/1 bytes become eight bits.
    const auto eight = read<std::uint64_t>(starts + 8 * byte);
    marks[byte / 8] |= (eight * 0x0102040810204080ull >> 56) << (byte % 8 * 8);
  }
  const std::size_t intervals = count(marks);
  const std::size_t child_count = count(children);
  if (intervals == 1 && slots.code[0] == 0 && child_count == 0) return 0;

  const fib::View& view = work_->view;
  const std::size_t bytes = entry_bytes(family, level);
  const bool tiny = family == 6 && intervals <= fib::kTinyIntervals;
  const bool lists_children = bytes != 8 && child_count != 0;
  const std::size_t code_bytes = (intervals + 1) / 2;
  const std::size_t codes_at = (tiny ? 8 : 8 * kWords) + bytes * intervals;
  const std::size_t counts_at = codes_at + code_bytes;
  const std::size_t children_at = round_up(counts_at + 2, 8);
  const std::size_t hidden_at = lists_children ? children_at + 8 * kWords + 8 * child_count : counts_at + 2;
  const std::uint32_t unit = allocate(hidden_at + kHiddenBytes * slots.hidden_count);
  std::uint8_t* const p = arena_->base() + std::size_t{unit} * kUnit;

  write_starts(p, tiny, marks, bytes);
  std::uint8_t* entry = p + (tiny ? 8 : 8 * kWords);
  std::uint8_t* const codes = p + codes_at;
  std::memset(codes, 0, code_bytes);
  std::size_t interval = 0;
  for_each_mark(marks, [&](unsigned s) {
    codes[interval / 2] =
        static_cast<std::uint8_t>(codes[interval / 2] | slots.code[s] << (interval % 2 * 4));
    ++interval;
    const std::uint32_t child = slots.refs ? slots.ref[s] : 0;
    const std::uint32_t leaf = child != 0 && bytes != 8 ? view.deep : slots.leaf[s];
    if (bytes == 8) {
      write(entry, make_entry(child, leaf));
    } else if (bytes == 4) {
      write(entry, leaf);
    } else {
      write(entry, static_cast<std::uint16_t>(leaf));
    }
    entry += bytes;
  });
  p[counts_at] = static_cast<std::uint8_t>(slots.hidden_count);
  p[counts_at + 1] = lists_children ? 1 : 0;
  if (lists_children) {
    write_map(p + children_at, children, 8);
    std::uint8_t* child = p + children_at + 8 * kWords;
    for_each_mark(children, [&](unsigned s) {
      write(child, make_entry(slots.ref[s], slots.leaf[s]));
      child += 8;
    });
  }
  for (unsigned i = 0; i < slots.hidden_count; ++i) {
    std::uint8_t* const h = p + hidden_at + kHiddenBytes * i;
    h[0] = slots.hidden[i].slot;
    h[1] = slots.hidden[i].code;
    write(h + 2, slots.hidden[i].value);
  }
  return make_ref(unit, tiny);
}

std::uint32_t Fib::allocate(std::size_t size) {
  const std::uint32_t ref = arena_->allocate(size);
  if (ref == 0) throw std::length_error("the table has outgrown its arena");
  return ref;
}

// Notes a node that the update under way replaces; it is retired once the update is published.
void Fib::replace(int family, unsigned level, std::uint32_t ref) {
  if (ref == 0) return;
  const Node node = node_at(arena_->base(), ref);
  const std::uint8_t* const end = tail_of(node, entry_bytes(family, level)).end;
  replaced_.push_back(
      {static_cast<std::uint32_t>(ref_unit(ref)), static_cast<std::uint32_t>(end - node.begin)});
}

void Fib::retire_replaced() {
  if (replaced_.empty()) return;
  if (retired_.capacity() - retired_.size() < replaced_.size()) {
    retired_.reserve(std::max(2 * retired_.capacity(), retired_.size() + replaced_.size()));
  }
  const std::uint64_t epoch = epochs_.advance();
  for (const Piece& piece : replaced_) {
    retired_.push_back({epoch, piece});
    retired_bytes_ += piece.size;
    replaced_bytes_ += piece.size;
  }
  replaced_.clear();
}

// Where the reference of a slot's child stands, or nullptr.
std::uint8_t* Fib::child_slot(int family, unsigned level, std::uint32_t ref, unsigned slot) const {
  if (ref == 0) return nullptr;
  const Node node = node_at(arena_->base(), ref);
  const std::uint8_t* entry = nullptr;
  if (is_wide(family, level)) {
    entry = node.entry_of(slot, 8);
  } else {
    const Tail tail = tail_of(node, entry_bytes(family, level));
    const unsigned word = slot / kWordSlots;
    const bool child = tail.children != nullptr &&
                       (read<std::uint64_t>(tail.children + 8 * word) >> (slot - kWordSlots * word) & 1) != 0;
    if (!child) return nullptr;
    entry = child_entry(tail.children, slot);
  }
  return arena_->base() + (entry - arena_->base()) + kEntryRef;
}

std::uint32_t Fib::child_of(int family, unsigned level, std::uint32_t ref, unsigned slot) const {
  const std::uint8_t* const at = child_slot(family, level, ref, slot);
  return at == nullptr ? 0 : read<std::uint32_t>(at);
}

std::uint32_t Fib::with_child(int family, unsigned level, std::uint32_t ref, unsigned slot,
                              std::uint32_t child) {
  if (child != 0) {
    std::uint8_t* const at = arena_->pins == 0 ? child_slot(family, level, ref, slot) : nullptr;
    if (at != nullptr && read<std::uint32_t>(at) != 0) {
      __atomic_store_n(reinterpret_cast<std::uint32_t*>(at), child, __ATOMIC_RELEASE);
      return ref;
    }
  }
  Slots slots;
  decode(family, level, ref, slots);
  slots.add_child(slot, child);
  replace(family, level, ref);
  return encode(family, level, slots);
}

// A copy of a node with one prefix more (`value`) or less (nullptr): as Slots would make it, but interval by
// interval. 0 where that is not enough: in nodes that list children, for prefixes that are not or would not
// be visible, for the last one of a node.
std::uint32_t Fib::splice(int family, unsigned level, std::uint32_t ref, unsigned base, unsigned code,
                          const std::uint32_t* value) {
  if (ref == 0) return 0;
  const Node old = node_at(arena_->base(), ref);
  const std::size_t bytes = entry_bytes(family, level);
  const Tail tail = tail_of(old, bytes);
  if (tail.children != nullptr) return 0;
  const std::size_t n = tail.intervals;
  std::uint8_t codes[260];
  for (std::size_t i = 0; i < (n + 1) / 2; ++i) {
    codes[2 * i] = tail.codes[i] & 0xF;
    codes[2 * i + 1] = tail.codes[i] >> 4;
  }
  const auto leaf_at = [&](std::size_t interval) -> std::uint32_t {
    const std::uint8_t* const entry = old.entries() + bytes * interval;
    return bytes == 2 ? read<std::uint16_t>(entry) : read<std::uint32_t>(entry);
  };
  const auto has_child = [&](std::size_t interval) {
    return bytes == 8 && read<std::uint32_t>(old.entries() + 8 * interval + kEntryRef) != 0;
  };
  // The first interval of a prefix that is seen with its own code, or n.
  const auto seen = [&](unsigned first, unsigned c) {
    std::size_t at = old.interval_of(base_of(first, c));
    const std::size_t last = old.interval_of(base_of(first, c) + span_of(c) - 1);
    while (at <= last && codes[at] != c) ++at;
    return at <= last ? at : n;
  };
  const unsigned end = base + span_of(code);
  const std::size_t first = old.interval_of(base);
  const std::size_t last = old.interval_of(end - 1);
  Marks marks = starts_of(old);
  const auto mark_of = [&](unsigned slot) -> bool { return (marks[slot / 64] >> (slot % 64) & 1) != 0; };
  const auto flip = [&](unsigned slot) { marks[slot / 64] ^= std::uint64_t{1} << (slot % 64); };

  // What is taken from the old node: intervals up to `head`, those of the prefix from `from` on, and those
  // from `rest` on. Of the prefix, the ones with code `was` change to `is` and `leaf`.
  unsigned was = code;
  unsigned is = code;
  std::uint32_t leaf = 0;
  std::size_t head = first;
  std::size_t from = first;
  std::size_t rest = last + 1;
  std::size_t hide = 0;           // one more is hidden
  std::size_t unhide = SIZE_MAX;  // one less, which
  std::uint32_t hidden_leaf = 0;
  if (value != nullptr) {
    std::size_t gap = first;
    while (gap <= last && codes[gap] >= code) ++gap;
    if (gap > last) return 0;
    was = codes[gap];
    leaf = *value;
    hidden_leaf = leaf_at(gap);
    if (!mark_of(base)) {
      head = first + 1;
      flip(base);
    }
    if (end < 256 && !mark_of(end)) {
      rest = last;
      flip(end);
    }
    if (was != 0) {
      // Does the prefix that gave way stay visible before or behind?
      const unsigned other = base_of(base, was);
      std::size_t at = old.interval_of(other);
      const std::size_t stop = old.interval_of(other + span_of(was) - 1);
      bool visible = false;
      for (; at <= stop && !visible; ++at) visible = codes[at] == was && (at < head || at >= rest);
      hide = visible ? 0 : 1;
    }
    if (tail.hidden_count + hide > 255) return 0;
  } else {
    if (seen(base, code) == n) return 0;
    is = code - 1;
    leaf = work_->view.none;
    for (; is > 0; --is) {
      const std::size_t at = seen(base, is);
      if (at != n) {
        leaf = leaf_at(at);
        break;
      }
      for (std::size_t i = 0; i < tail.hidden_count && unhide == SIZE_MAX; ++i) {
        const std::uint8_t* const h = tail.hidden + kHiddenBytes * i;
        if (h[0] == base_of(base, is) && h[1] == is) unhide = i;
      }
      if (unhide != SIZE_MAX) {
        leaf = read<std::uint32_t>(tail.hidden + kHiddenBytes * unhide + 2);
        break;
      }
    }
    // What has become the same as its neighbour joins it, unless a prefix begins there or one has a child.
    const auto same = [&](std::size_t inside, std::size_t outside) {
      return codes[inside] == code && codes[outside] == is && !has_child(inside) && !has_child(outside);
    };
    if (base != 0 && is < kFirstCode[base] && same(first, first - 1)) {
      from = first + 1;
      flip(base);
    }
    if (end != 256 && is < kFirstCode[end] && same(last, last + 1)) {
      rest = last + 2;
      flip(end);
    }
  }

  const std::size_t intervals = head + (last + 1 - from) + (n - rest);
  if (intervals == 1 && value == nullptr) return 0;
  const bool tiny = family == 6 && intervals <= fib::kTinyIntervals;
  const std::size_t code_bytes = (intervals + 1) / 2;
  const std::size_t codes_at = (tiny ? 8 : 8 * kWords) + bytes * intervals;
  const std::size_t hidden_at = codes_at + code_bytes + 2;
  const std::size_t hidden_count = tail.hidden_count + hide - (unhide != SIZE_MAX ? 1 : 0);
  replace(family, level, ref);
  const std::uint32_t unit = allocate(hidden_at + kHiddenBytes * hidden_count);
  std::uint8_t* const p = arena_->base() + std::size_t{unit} * kUnit;
  write_starts(p, tiny, marks, bytes);
  std::uint8_t* const entries = p + (tiny ? 8 : 8 * kWords);
  std::uint8_t made[260] = {};
  const auto take = [&](std::size_t to, std::size_t begin, std::size_t count) {
    std::memcpy(entries + bytes * to, old.entries() + bytes * begin, bytes * count);
    std::memcpy(made + to, codes + begin, count);
  };
  take(0, 0, head);
  take(head, from, last + 1 - from);
  take(head + (last + 1 - from), rest, n - rest);
  for (std::size_t i = head; i < head + (last + 1 - from); ++i) {
    if (made[i] != was) continue;
    made[i] = static_cast<std::uint8_t>(is);
    if (bytes == 2) {
      write(entries + 2 * i, static_cast<std::uint16_t>(leaf));
    } else {
      write(entries + bytes * i, leaf);
    }
  }
  std::uint8_t* const packed = p + codes_at;
  for (std::size_t i = 0; i < code_bytes; ++i) {
    packed[i] = static_cast<std::uint8_t>(made[2 * i] | made[2 * i + 1] << 4);
  }
  packed[code_bytes] = static_cast<std::uint8_t>(hidden_count);
  packed[code_bytes + 1] = 0;
  std::memcpy(p + hidden_at, tail.hidden,
              kHiddenBytes * std::min<std::size_t>(tail.hidden_count, hidden_count));
  if (unhide < hidden_count) {  // the last one takes its place
    std::memcpy(p + hidden_at + kHiddenBytes * unhide, tail.hidden + kHiddenBytes * hidden_count,
                kHiddenBytes);
  }
  if (hide != 0) {
    std::uint8_t* const h = p + hidden_at + kHiddenBytes * tail.hidden_count;
    h[0] = static_cast<std::uint8_t>(base_of(base, was));
    h[1] = static_cast<std::uint8_t>(was);
    write(h + 2, hidden_leaf);
  }
  return make_ref(unit, tiny);
}

std::uint32_t Fib::put(int family, unsigned level, std::uint32_t ref, const std::uint8_t* address,
                       unsigned length, std::uint32_t value, bool& added) {
  const unsigned slot = address[level / 8];
  if (length > level + 8) {
    const std::uint32_t child = child_of(family, level, ref, slot);
    const std::uint32_t fresh = put(family, level + 8, child, address, length, value, added);
    return fresh == child ? ref : with_child(family, level, ref, slot, fresh);
  }
  if (const std::uint32_t fresh = with_value(family, level, ref, slot, length - level, value)) return fresh;
  if (const std::uint32_t fresh = splice(family, level, ref, slot, length - level, &value)) {
    added = true;
    return fresh;
  }
  Slots slots;
  decode(family, level, ref, slots);
  added = slots.insert(slot, length - level, value);
  replace(family, level, ref);
  return encode(family, level, slots);
}

// A copy of a node in which a visible prefix has another value, or 0 where it is not visible.
std::uint32_t Fib::with_value(int family, unsigned level, std::uint32_t ref, unsigned base, unsigned code,
                              std::uint32_t value) {
  if (ref == 0) return 0;
  const Node old = node_at(arena_->base(), ref);
  const std::size_t bytes = entry_bytes(family, level);
  const Tail tail = tail_of(old, bytes);
  const std::size_t first = old.interval_of(base);
  const std::size_t last = old.interval_of(base + span_of(code) - 1);
  std::size_t interval = first;
  while (interval <= last && code_at(tail.codes, interval) != code) ++interval;
  if (interval > last || (tail.children != nullptr && bytes != 8)) return 0;
  replace(family, level, ref);
  const std::uint32_t unit = allocate(static_cast<std::size_t>(tail.end - old.begin));
  std::uint8_t* const p = arena_->base() + std::size_t{unit} * kUnit;
  std::memcpy(p, old.begin, static_cast<std::size_t>(tail.end - old.begin));
  std::uint8_t* const entries = p + (old.entries() - old.begin);
  for (; interval <= last; ++interval) {
    if (code_at(tail.codes, interval) != code) continue;
    if (bytes == 2) {
      write(entries + 2 * interval, static_cast<std::uint16_t>(value));
    } else {
      write(entries + bytes * interval, value);
    }
  }
  return make_ref(unit, old.tiny);
}

std::uint32_t Fib::remove(int family, unsigned level, std::uint32_t ref, const std::uint8_t* address,
                          unsigned length, bool& removed) {
  if (ref == 0) return 0;
  const unsigned slot = address[level / 8];
  if (length > level + 8) {
    const std::uint32_t child = child_of(family, level, ref, slot);
    const std::uint32_t fresh = remove(family, level + 8, child, address, length, removed);
    return fresh == child ? ref : with_child(family, level, ref, slot, fresh);
  }
  if (const std::uint32_t fresh = splice(family, level, ref, slot, length - level, nullptr)) {
    removed = true;
    return fresh;
  }
  Slots slots;
  decode(family, level, ref, slots);
  removed = slots.erase(slot, length - level, work_->view.none);
  if (!removed) return ref;
  replace(family, level, ref);
  return encode(family, level, slots);
}

std::uint32_t Fib::copy_tree(int family, unsigned level, std::uint32_t ref, const std::uint8_t* from) {
  if (ref == 0) return 0;
  const Node old = node_at(from, ref);
  const std::size_t bytes = entry_bytes(family, level);
  const Tail tail = tail_of(old, bytes);
  const auto size = static_cast<std::size_t>(tail.end - old.begin);
  const std::uint32_t unit = allocate(size);
  std::uint8_t* const p = arena_->base() + std::size_t{unit} * kUnit;
  std::memcpy(p, old.begin, size);
  const std::uint8_t* first = bytes == 8 ? old.entries() : tail.children;
  std::size_t entries = tail.intervals;
  if (bytes != 8 && first != nullptr) {
    entries = marks_up_to(first, 255) - fib::map_entries(first);
    first += 8 * kWords;
  }
  for (std::size_t i = 0; first != nullptr && i < entries; ++i) {
    std::uint8_t* const child = p + (first - old.begin) + 8 * i + kEntryRef;
    write(child, copy_tree(family, level + 8, read<std::uint32_t>(child), from));
  }
  return make_ref(unit, old.tiny);
}

// Every prefix of a node whose first slots are first..last and whose code is at least `least`, and everything
// below these slots. `address` holds the bits above the node.
void Fib::walk(int family, unsigned level, std::uint32_t ref, std::uint8_t* address, unsigned first,
               unsigned last, unsigned least, const std::function<void(const Route&)>& f) const {
  if (ref == 0) return;
  Slots slots;
  decode(family, level, ref, slots);
  // Prefixes by first slot, then by code.
  std::array<std::uint16_t, 512> order;
  std::size_t count = 0;
  for (unsigned s = 0; s < 256; ++s) {
    const unsigned code = slots.code[s];
    if (code == 0) continue;
    const unsigned base = base_of(s, code);
    if (std::memchr(slots.code + base, static_cast<int>(code), s - base) != nullptr) continue;
    if (base >= first && base <= last && code >= least)
      order[count++] = static_cast<std::uint16_t>(base << 4 | code);
  }
  for (unsigned i = 0; i < slots.hidden_count; ++i) {
    const Slots::Hidden& h = slots.hidden[i];
    if (h.slot >= first && h.slot <= last && h.code >= least) {
      order[count++] = static_cast<std::uint16_t>(h.slot << 4 | h.code);
    }
  }
  std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count));
  Route route{};
  route.family = static_cast<std::uint8_t>(family);
  std::size_t next = 0;
  for (unsigned s = first; s <= last; ++s) {
    for (; next < count && order[next] >> 4 == s; ++next) {
      const unsigned code = order[next] & 0xF;
      std::memcpy(route.address, address, 16);
      route.address[level / 8] = static_cast<std::uint8_t>(s);
      route.length = static_cast<std::uint8_t>(level + code);
      const void* const seen = std::memchr(slots.code + s, static_cast<int>(code), span_of(code));
      route.value = seen != nullptr ? slots.leaf[static_cast<const std::uint8_t*>(seen) - slots.code]
                                    : slots.find_hidden(s, code)->value;
      f(route);
    }
    if (slots.refs && slots.ref[s] != 0) {
      address[level / 8] = static_cast<std::uint8_t>(s);
      walk(family, level + 8, slots.ref[s], address, 0, 255, 1, f);
      address[level / 8] = 0;
    }
  }
}

void Fib::for_each(int family, const std::uint8_t* within, unsigned length,
                   const std::function<void(const Route&)>& f) const {
  const unsigned limit = short_limit(family);
  std::uint8_t address[16] = {};
  if (length > limit) {
    std::memcpy(address, within, family == 4 ? 4 : 16);
    const std::size_t top = std::size_t{address[0]} << 8 | address[1];
    std::uint32_t ref = entry_ref(
        family == 4 ? work_->root4[top] : work_->pages[std::size_t{work_->root6[top]} << 8 | address[2]]);
    unsigned level = limit;
    for (; length > level + 8 && ref != 0; level += 8) ref = child_of(family, level, ref, address[level / 8]);
    if (ref == 0) return;  // perhaps levels above the one that was asked for
    const unsigned first = address[level / 8];
    address[level / 8] = 0;
    walk(family, level, ref, address, first, first + span_of(length - level) - 1, length - level, f);
    return;
  }
  // Short prefixes, left-aligned in 24 bits, then their length.
  struct Short {
    std::uint32_t bits;
    std::uint32_t length;
    std::uint32_t value;
  };
  std::vector<Short> shorts;
  const std::uint32_t low = std::uint32_t{within[0]} << 16 | std::uint32_t{within[1]} << 8 | within[2];
  const std::uint32_t high = low + (1u << (24 - length)) - 1;
  (family == 4 ? short4_ : short6_).for_each([&](std::uint32_t key, std::uint32_t value) {
    const unsigned own = short_length(key);
    const std::uint32_t bits = (key ^ 1u << own) << (24 - own);
    if (own >= length && bits >= low && bits <= high) shorts.push_back({bits, own, value});
  });
  std::sort(shorts.begin(), shorts.end(), [](const Short& a, const Short& b) {
    return a.bits != b.bits ? a.bits < b.bits : a.length < b.length;
  });
  std::size_t next = 0;
  const auto shorts_up_to = [&](std::uint32_t bits) {
    for (; next < shorts.size() && shorts[next].bits <= bits; ++next) {
      Route route{};
      route.family = static_cast<std::uint8_t>(family);
      for (int i = 0; i < 3; ++i)
        route.address[i] = static_cast<std::uint8_t>(shorts[next].bits >> (16 - 8 * i));
      route.length = static_cast<std::uint8_t>(shorts[next].length);
      route.value = shorts[next].value;
      f(route);
    }
  };
  const auto node_of = [&](std::uint32_t bits, std::uint32_t ref) {
    if (ref == 0) return;
    shorts_up_to(bits);
    for (int i = 0; i < 3; ++i) address[i] = static_cast<std::uint8_t>(bits >> (16 - 8 * i));
    walk(family, limit, ref, address, 0, 255, 1, f);
  };
  for (std::uint32_t top = low >> 8; top <= high >> 8; ++top) {
    if (family == 4) {
      node_of(top << 8, entry_ref(work_->root4[top]));
      continue;
    }
    const std::uint32_t page = work_->root6[top];
    if (!page_book_[page].own) continue;
    const std::uint32_t begin = std::max(low, top << 8);
    const std::uint32_t end = std::min(high, top << 8 | 0xFF);
    for (std::uint32_t bits = begin; bits <= end; ++bits) {
      node_of(bits, entry_ref(work_->pages[std::size_t{page} << 8 | (bits & 0xFF)]));
    }
  }
  shorts_up_to(high);
}

}  // namespace fastpath
