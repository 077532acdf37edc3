// How the nodes of fib_view.hpp are built, changed and read back.
//
// A node lists, for each of its intervals, how many bits the best prefix has beyond the node's own (its code,
// 0 for "no prefix here"), so the exact prefixes are read back from the look-up structure itself; the few
// that are covered in full by longer ones are listed behind ("hidden"). With packed leaves the codes are left
// out where each interval with an answer has just the slots of its prefix. An update finds the intervals of
// one node that it changes, and writes a new node: what stands before and behind them is copied as it is.
#include <stdexcept>

#include "fib_parts.hpp"

namespace fastpath {

namespace {

// More bytes than any node has: entries of children; wide entries; codes; hidden prefixes.
constexpr std::size_t kMostChildBytes = 8 * 256;
constexpr std::size_t kMostBytes = kMostChildBytes + 8 * kWords + 256 * 8 + kCountBytes + 128 + 256 * 6 + 8;

// The starts of a node's intervals.
Marks starts_of(Node node) {
  Marks marks;
  if (node.tiny()) {
    for (std::uint64_t rest = node.starts(); rest != ~std::uint64_t{0};
         rest = rest >> 8 | std::uint64_t{255} << 56) {
      marks.add(static_cast<unsigned>(rest & 0xFF) + 1u);
    }
  } else {
    marks.add_map(node.begin);
  }
  marks.add(0);
  return marks;
}

// Writes what tells a slot's interval, from the starts of all intervals.
void write_starts(std::uint8_t* p, std::uint32_t kind, Marks marks, std::size_t map_entries) {
  marks.clear(0, 1);
  if ((kind & kTiny) == 0) {
    marks.write_map(p, map_entries);
    return;
  }
  // Each start but the first, less one; 255 is above every slot.
  std::memset(p, 0xFF, 8);
  marks.for_each([&](unsigned s) { *p++ = static_cast<std::uint8_t>(s - 1); });
}

}  // namespace

std::size_t Fib::entry_bits(int family, unsigned level) const noexcept {
  return is_wide(family, level) ? 64 : work_->view.leaf_bits;
}

Fib::Parts Fib::parts(int family, unsigned level, std::uint32_t ref) const {
  const fib::View& view = work_->view;
  Parts parts;
  parts.ref = ref;
  const Node node = node_at(arena_->base(), ref);
  parts.begin = node.begin;
  parts.wide = is_wide(family, level);
  parts.bits = entry_bits(family, level);
  parts.leaf_bits = std::min<std::size_t>(32, parts.bits);
  parts.deep = view.deep;
  parts.none = view.none;
  parts.hidden_size = hidden_bytes(view.leaf_bits);
  if (ref == 0) {
    // The one that has no answer is no one's: its entry stands apart, and behind it nothing.
    parts.count = 1;
    parts.starts.add(0);
    parts.entries = node.begin + (view.packed() ? 8 * kWords : parts.bits * kNoPlace / 8);
    parts.told[0] = 0;
    parts.hidden = parts.entries;
    parts.child_count = parts.hidden_count = parts.size = 0;
    return parts;
  }
  const Tail tail = tail_of(node, parts.bits, view.leaf_bits);
  parts.count = tail.intervals;
  parts.starts = starts_of(node);
  parts.entries = node.entries();
  parts.child_count = tail.child_count;
  parts.hidden = tail.hidden;
  parts.hidden_count = tail.hidden_count;
  parts.size = static_cast<std::size_t>(tail.end - node.begin) + 8 * tail.child_count;
  parts.listed = tail.codes;
  if (tail.codes == nullptr) parts.tell_codes();
  return parts;
}

// Whether the intervals that follow from a cut tell their codes, as those of `old` do.
bool Fib::is_natural(const Parts& old, const Cut& cut) const {
  if (!work_->view.packed() || old.listed != nullptr) return false;
  for (std::size_t i = 0; i < cut.count; ++i) {
    const Interval& one = cut.middle[i];
    const unsigned next = i + 1 < cut.count ? cut.middle[i + 1].start : cut.end;
    if (one.code != 0 && (one.start % span_of(one.code) != 0 || next - one.start != span_of(one.code)))
      return false;
  }
  return true;
}

// The node that follows from `old`, which is replaced. 0 for one without anything.
std::uint32_t Fib::copied(int family, const Parts& old, const Cut& cut) {
  if (old.ref != 0) {
    replaced_.push_back({static_cast<std::uint32_t>(ref_unit(old.ref) - old.child_count),
                         static_cast<std::uint32_t>(old.size)});
  }
  const bool packed = work_->view.packed();
  const std::size_t behind = old.count - cut.rest;
  const std::size_t rest = cut.head + cut.count;  // where they go
  const std::size_t count = rest + behind;
  const Interval* const middle = cut.middle.data();
  if (count == 1 && middle->code == 0 && middle->ref == 0) return 0;
  std::uint32_t kind = 0;
  if ((family == 6 || packed) && count <= fib::kTinyIntervals) kind = kTiny;
  if (packed && count <= fib::kMiniIntervals) kind = kTiny | kMini;
  // It is made here, from the entries of children on: writes go beyond what they write.
  alignas(8) std::uint8_t made[kMostBytes];
  std::uint8_t* const begin = made + kMostChildBytes;

  Marks starts = old.starts;
  starts.clear(cut.begin, cut.end);
  for (std::size_t i = 0; i < cut.count; ++i) starts.add(middle[i].start);
  write_starts(begin, kind, starts, packed ? 0 : 8 * 8 * kWords / old.bits);

  // Children keep their places; those that come take the ones of those that go first.
  std::size_t child_count = old.child_count;
  std::array<std::uint16_t, 256> free;
  std::size_t free_count = 0;
  for (std::size_t i = cut.head; !old.wide && i < cut.rest; ++i) {
    if (old.has_child(i)) free[free_count++] = static_cast<std::uint16_t>(old.entry_leaf(i) - old.deep);
  }
  std::memcpy(begin - 8 * child_count, old.begin - 8 * old.child_count, 8 * child_count);

  std::uint8_t* const entries = begin + Node{begin, kind}.map_bytes();
  copy_bits(entries, 0, old.entries, 0, old.bits * cut.head);
  for (std::size_t i = 0; i < cut.count; ++i) {
    const Interval& one = middle[i];
    std::uint64_t entry = one.leaf;
    if (old.wide) {
      entry |= std::uint64_t{one.ref} << old.leaf_bits;
    } else if (one.ref != 0) {
      const std::size_t place = free_count != 0 ? free[--free_count] : child_count++;
      write(begin - 8 * (place + 1), make_entry(one.ref, one.leaf));
      entry = old.deep + place;
    }
    set_bits(entries, old.bits * (cut.head + i), entry);
  }
  copy_bits(entries, old.bits * rest, old.entries, old.bits * cut.rest, old.bits * behind);
  std::uint8_t* const behind_entries = entries + (old.bits * count + 7) / 8;
  if (free_count != 0)
    child_count = without_gaps(begin, entries, count, child_count, old, {free.data(), free_count});

  const std::size_t dropped = cut.drop == Cut::kKept ? 0 : 1;
  const std::size_t hidden_count = old.hidden_count - dropped + cut.more_count;
  const bool natural = is_natural(old, cut);
  std::uint8_t* end = behind_entries;
  if (natural && hidden_count == 0 && child_count == 0) {
    kind |= kPlain;
  } else {
    end[0] = static_cast<std::uint8_t>(hidden_count);
    write(end + 1, static_cast<std::uint16_t>(child_count | (natural ? kNatural : 0)));
    end += kCountBytes;
    if (!natural) {
      copy_bits(end, 0, old.codes(), 0, 4 * cut.head);
      for (std::size_t i = 0; i < cut.count; ++i) set_bits(end, 4 * (cut.head + i), middle[i].code);
      copy_bits(end, 4 * rest, old.codes(), 4 * cut.rest, 4 * behind);
      set_bits(end, 4 * count, 0);
      end += (count + 1) / 2;
    }
    const auto hide = [&](const Hidden& one) {
      end[0] = one.slot;
      write(end + 1, std::uint64_t{one.value} << 3 | one.code);
      end += old.hidden_size;
    };
    for (std::size_t i = 0; i < old.hidden_count; ++i) {
      if (i != cut.drop) hide(old.hidden_at(i));
    }
    for (std::size_t i = 0; i < cut.more_count; ++i) hide(cut.more[i]);
  }
  const std::uint8_t* const piece = begin - 8 * child_count;
  const auto size = static_cast<std::size_t>(end - piece);
  const std::uint32_t unit = allocate(size);
  std::memcpy(arena_->base() + std::size_t{unit} * kUnit, piece, size);
  return make_ref(unit + child_count, kind);
}

// Moves the last children of a node into the places that are free. How many children there are.
std::size_t Fib::without_gaps(std::uint8_t* begin, std::uint8_t* entries, std::size_t count,
                              std::size_t child_count, const Parts& like, std::span<std::uint16_t> free) {
  std::sort(free.begin(), free.end());
  for (; !free.empty(); --child_count) {
    if (free.back() == child_count - 1) {
      free = free.first(free.size() - 1);
      continue;
    }
    const std::size_t place = free.front();
    free = free.subspan(1);
    std::memcpy(begin - 8 * (place + 1), begin - 8 * child_count, 8);
    const std::uint32_t last = like.deep + static_cast<std::uint32_t>(child_count - 1);
    std::size_t interval = 0;
    while (interval < count && bits_at(entries, like.bits * interval, like.bits) != last) ++interval;
    replace_bits(entries, like.bits * interval, like.bits, like.deep + static_cast<std::uint32_t>(place));
  }
  return child_count;
}

void Fib::decode(int family, unsigned level, std::uint32_t ref, Slots& slots) const {
  if (ref == 0) {
    slots.clear(work_->view.none);
    return;
  }
  const Parts node = parts(family, level, ref);
  std::size_t interval = 0;
  for (unsigned start = 0; start < 256; ++interval) {
    const unsigned end = node.starts.next_to(start);
    const Interval one = node.at(interval, start);
    if (one.ref != 0) slots.add_child(start, one.ref);
    slots.fill_ascending(start, end, one.code, one.leaf);
    start = end;
  }
  slots.hidden_count = static_cast<unsigned>(node.hidden_count);
  for (unsigned i = 0; i < slots.hidden_count; ++i) slots.hidden[i] = node.hidden_at(i);
}

std::uint32_t Fib::encode(int family, unsigned level, const Slots& slots) {
  // A slot begins an interval where another prefix begins, and before and after a slot with a child.
  Cut cut;
  cut.head = 0;
  cut.rest = 1;
  cut.begin = 0;
  cut.end = 256;
  alignas(8) std::uint8_t starts[256 + 8];
  for (unsigned s = 1; s < 256; ++s) {
    const bool differs = slots.code[s] != slots.code[s - 1];
    starts[s] = static_cast<std::uint8_t>(differs | (slots.code[s] >= kFirstCode[s]));
  }
  starts[0] = 1;
  for (unsigned s = 0; slots.refs && s < 256; ++s) {
    if (slots.ref[s] != 0) starts[s] = starts[s + 1] = 1;
  }
  for (unsigned first = 0; first < 256; first += 8) {
    std::uint64_t eight = 0;  // slots, from the lowest byte on
    for (unsigned i = 0; i < 8; ++i) eight |= std::uint64_t{starts[first + i]} << (8 * i);
    for (; eight != 0; eight &= eight - 1) {
      const unsigned s = first + static_cast<unsigned>(std::countr_zero(eight)) / 8;
      cut.middle[cut.count++] = {slots.leaf[s], slots.refs ? slots.ref[s] : 0, static_cast<std::uint16_t>(s),
                                 slots.code[s]};
    }
  }
  cut.more = slots.hidden;
  cut.more_count = slots.hidden_count;
  return copied(family, parts(family, level, 0), cut);
}

std::uint32_t Fib::allocate(std::size_t size) {
  const std::uint32_t ref = arena_->allocate(size);
  if (ref == 0) throw std::length_error("the table has outgrown its arena");
  return ref;
}

void Fib::retire_replaced() {
  drops_earned_ = std::min(drops_earned_ + 1, kDropsAtOnce * kDropCost);
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
    const std::size_t bits = work_->view.leaf_bits;
    const std::uint32_t leaf = bits_at(node.entries(), bits * node.interval_of(slot), bits);
    if (!is_deep(leaf, work_->view.deep)) return nullptr;
    entry = child_entry(node.begin, work_->view.deep, leaf);
  }
  return arena_->base() + (entry - arena_->base()) + kEntryRef;
}

std::uint32_t Fib::child_of(int family, unsigned level, std::uint32_t ref, unsigned slot) const {
  const std::uint8_t* const at = child_slot(family, level, ref, slot);
  return at == nullptr ? 0 : read<std::uint32_t>(at);
}

std::uint32_t Fib::copy_tree(int family, unsigned level, std::uint32_t ref, const std::uint8_t* from) {
  if (ref == 0) return 0;
  const Node old = node_at(from, ref);
  const bool wide = is_wide(family, level);
  const Tail tail = tail_of(old, entry_bits(family, level), work_->view.leaf_bits);
  const std::uint8_t* const piece = old.begin - 8 * tail.child_count;
  const auto size = static_cast<std::size_t>(tail.end - piece);
  const std::uint32_t unit = allocate(size);
  std::uint8_t* const p = arena_->base() + std::size_t{unit} * kUnit;
  std::memcpy(p, piece, size);
  std::uint8_t* const first = wide ? p + (old.entries() - piece) : p;
  const std::size_t entries = wide ? tail.intervals : tail.child_count;
  for (std::size_t i = 0; i < entries; ++i) {
    if (i + 4 < entries) fetch_node(from, read<std::uint32_t>(first + 8 * (i + 4) + kEntryRef));
    std::uint8_t* const child = first + 8 * i + kEntryRef;
    write(child, copy_tree(family, level + 8, read<std::uint32_t>(child), from));
  }
  return make_ref(unit + tail.child_count, old.kind);
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
    const Hidden& h = slots.hidden[i];
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
