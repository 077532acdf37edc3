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
  for (const std::uint64_t word : marks) sum += static_cast<std::size_t>(std::popcount(word));
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
    before += static_cast<std::uint64_t>(std::popcount(word));
  }
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

  if (tiny) {
    // Each start but the first, less one; 255 is above every slot.
    std::memset(p, 0xFF, 8);
    std::uint8_t* start = p;
    for_each_mark(marks, [&](unsigned s) {
      if (s != 0) *start++ = static_cast<std::uint8_t>(s - 1);
    });
  } else {
    Marks map = marks;
    map[0] &= ~std::uint64_t{1};
    write_map(p, map, bytes);
  }
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

std::uint32_t Fib::put(int family, unsigned level, std::uint32_t ref, const std::uint8_t* address,
                       unsigned length, std::uint32_t value, bool& added) {
  const unsigned slot = address[level / 8];
  if (length > level + 8) {
    const std::uint32_t child = child_of(family, level, ref, slot);
    const std::uint32_t fresh = put(family, level + 8, child, address, length, value, added);
    return fresh == child ? ref : with_child(family, level, ref, slot, fresh);
  }
  if (const std::uint32_t fresh = with_value(family, level, ref, slot, length - level, value)) return fresh;
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
