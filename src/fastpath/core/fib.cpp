// How the nodes of fib_view.hpp are built, changed and read back.
//
// A node lists, for each of its intervals, how many bits the best prefix has beyond the node's own (its code,
// 0 for "no prefix here"), so the exact prefixes are read back from the look-up structure itself; the few
// that are covered in full by longer ones are listed behind ("hidden"). An update decodes one node into 256
// slots, changes the slots, and encodes a new node.
#include "fastpath/fib.hpp"

#include <sys/mman.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace fastpath {

using fib::Arena;
using fib::entry_leaf;
using fib::entry_ref;
using fib::kEntryRef;
using fib::kRoots;
using fib::kUnit;
using fib::kWords;
using fib::kWordSlots;
using fib::make_entry;
using fib::make_ref;
using fib::ref_tiny;
using fib::ref_unit;
using fib::ShortRib;
using fib::State;

namespace fib {
namespace {
#include "kernels/fib_node.hpp"
}  // namespace
}  // namespace fib

using fib::child_entry;
using fib::code_at;
using fib::kHiddenBytes;
using fib::marks_up_to;
using fib::Node;
using fib::node_at;
using fib::read;
using fib::Tail;
using fib::tail_of;

namespace {

constexpr std::uint32_t kShortNone = 0xFFFF;
constexpr std::uint32_t kShortDeep = 0xFFFE;
constexpr std::uint32_t kLongNone = 0xFFFFFFFF;
constexpr std::uint32_t kLongDeep = 0xFFFFFFFE;
constexpr std::size_t kCommitStep = std::size_t{1} << 16;
constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kSlack = std::size_t{1} << 17;  // more than one update can use
constexpr std::size_t kNoNode = 64;                   // bytes of the node that has no answer
constexpr std::size_t kLeastRest = 6;                 // units; the smallest node

template <typename T>
void write(std::uint8_t* p, T value) noexcept {
  std::memcpy(p, &value, sizeof value);
}

constexpr std::size_t round_up(std::size_t value, std::size_t step) {
  return (value + step - 1) & ~(step - 1);
}
constexpr unsigned span_of(unsigned code) { return 256u >> code; }  // slots under one prefix of this code
constexpr unsigned base_of(unsigned slot, unsigned code) { return slot & ~(span_of(code) - 1); }

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

void write_map(std::uint8_t* map, const Marks& marks) {
  std::uint64_t before = 0;
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

unsigned short_length(std::uint32_t key) { return static_cast<unsigned>(std::bit_width(key)) - 1; }

std::uint32_t short_key(const std::uint8_t* address, unsigned length) {
  const std::uint32_t bits = std::uint32_t{address[0]} << 16 | std::uint32_t{address[1]} << 8 | address[2];
  return 1u << length | bits >> (24 - length);
}

unsigned short_limit(int family) { return family == 4 ? 16 : 24; }

// Bulk input: what sorting needs, and no more.
struct Item4 {
  std::uint64_t key;  // address, then length in the low 8 bits
  std::uint32_t value;
  static constexpr int family = 4;
  unsigned length() const { return key & 0xFF; }
  unsigned slot(unsigned level) const { return key >> (32 - level) & 0xFF; }
  std::uint32_t short_bits() const { return static_cast<std::uint32_t>(key >> 16) & 0xFFFFFF; }
  bool operator<(const Item4& other) const { return key < other.key; }
  bool same_prefix(const Item4& other) const { return key == other.key; }
};
struct Item6 {
  std::uint64_t high;
  std::uint64_t low;
  std::uint32_t value;
  std::uint32_t bits;
  static constexpr int family = 6;
  unsigned length() const { return bits; }
  unsigned slot(unsigned level) const {
    return (level < 64 ? high >> (56 - level) : low >> (120 - level)) & 0xFF;
  }
  std::uint32_t short_bits() const { return static_cast<std::uint32_t>(high >> 40); }
  bool operator<(const Item6& other) const {
    if (high != other.high) return high < other.high;
    if (low != other.low) return low < other.low;
    return bits < other.bits;
  }
  bool same_prefix(const Item6& other) const {
    return high == other.high && low == other.low && bits == other.bits;
  }
};

// Stable, by the 40 bits of the key; from the least significant digit.
void sort_items(std::vector<Item4>& items) {
  if (std::is_sorted(items.begin(), items.end())) return;
  constexpr unsigned kDigit = 10;
  std::vector<Item4> other(items.size());
  for (unsigned shift = 0; shift < 40; shift += kDigit) {
    std::array<std::size_t, 1u << kDigit> at{};
    for (const Item4& item : items) ++at[item.key >> shift & (at.size() - 1)];
    std::size_t sum = 0;
    for (std::size_t& count : at) sum += std::exchange(count, sum);
    for (const Item4& item : items) other[at[item.key >> shift & (at.size() - 1)]++] = item;
    items.swap(other);
  }
}
void sort_items(std::vector<Item6>& items) {
  if (!std::is_sorted(items.begin(), items.end())) std::stable_sort(items.begin(), items.end());
}

// Of equal prefixes the last stays.
template <typename Item>
void drop_repeated(std::vector<Item>& items) {
  std::size_t kept = 0;
  for (const Item& item : items) {
    if (kept != 0 && items[kept - 1].same_prefix(item)) --kept;
    items[kept++] = item;
  }
  items.resize(kept);
}

template <typename T>
fib::Shared<T> shared_array(std::size_t n) {
  return fib::Shared<T>(new T[n]());
}

fib::Shared<std::uint64_t> filled_root4(std::uint32_t none) {
  auto root = shared_array<std::uint64_t>(kRoots);
  std::fill_n(root.get(), kRoots, make_entry(0, none));
  return root;
}

// Roots of families without a prefix; nobody writes to them.
fib::Shared<std::uint64_t> bare_root4(std::uint32_t none) {
  static const fib::Shared<std::uint64_t> of_short = filled_root4(kShortNone);
  if (none == kShortNone) return of_short;
  static const fib::Shared<std::uint64_t> of_long = filled_root4(kLongNone);
  return none == kLongNone ? of_long : filled_root4(none);
}
const fib::Shared<std::uint8_t>& bare_lengths() {
  static const fib::Shared<std::uint8_t> lengths = shared_array<std::uint8_t>(kRoots);
  return lengths;
}
const fib::Shared<std::uint32_t>& bare_root6() {
  static const fib::Shared<std::uint32_t> root = shared_array<std::uint32_t>(kRoots);
  return root;
}

}  // namespace

// --- arena ---

Arena::Arena(std::size_t reserve) : reserved_(round_up(std::max(reserve, kCommitStep), kHugePage)) {
  mapped_ = reserved_ + kHugePage;
  void* const memory = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<std::uint8_t*>(memory);
  // Huge pages begin at multiples of their size.
  base_ = mapping_ + (round_up(reinterpret_cast<std::uintptr_t>(mapping_), kHugePage) -
                      reinterpret_cast<std::uintptr_t>(mapping_));
  commit(kNoNode);
  // Reference 0: a map without marks, and an entry that the table writes.
  top_ = kNoNode;
}

Arena::Arena(std::uint8_t* base, std::size_t size, std::shared_ptr<void> keeps)
    : base_(base), reserved_(size), committed_(size), top_(size), keeps_(std::move(keeps)) {}

Arena::~Arena() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

std::uint32_t Arena::allocate(std::size_t size) {
  const std::size_t units = (size + kUnit - 1) / kUnit;
  if (heads_[units] != 0 && !marked_) return take(units, units);
  // Otherwise the smallest free node that leaves a useful rest, but only where much is free.
  const std::size_t least = units + kLeastRest;
  if (free_bytes_ * 16 > top_ && !marked_) {
    for (std::size_t word = least / 64; word < nonempty_.size(); ++word) {
      std::uint64_t lists = nonempty_[word];
      if (word == least / 64) lists &= ~std::uint64_t{0} << (least % 64);
      if (lists != 0) return take(word * 64 + static_cast<std::size_t>(std::countr_zero(lists)), units);
    }
  }
  const std::size_t end = top_ + units * kUnit;
  if (end > reserved_) return 0;
  // Kernels read leaves of 16 bits as 32.
  if (end + kUnit > committed_) commit(end + kUnit);
  const auto ref = static_cast<std::uint32_t>(top_ / kUnit);
  top_ = end;
  return ref;
}

// The head of one free list, cut to `units`.
std::uint32_t Arena::take(std::size_t list, std::size_t units) {
  const std::uint32_t ref = heads_[list];
  heads_[list] = read<std::uint32_t>(base_ + std::size_t{ref} * kUnit);
  if (heads_[list] == 0) nonempty_[list / 64] &= ~(std::uint64_t{1} << (list % 64));
  free_bytes_ -= list * kUnit;
  if (list != units) release(static_cast<std::uint32_t>(ref + units), (list - units) * kUnit);
  return ref;
}

// Ahead by an eighth, so that a growing table asks seldom; in huge pages once it is large enough.
void Arena::commit(std::size_t end) {
  std::size_t wanted = round_up(end + end / 8, kCommitStep);
  if (wanted > kHugePage) wanted = round_up(wanted, kHugePage);
  wanted = std::min(wanted, reserved_);
  if (mprotect(base_, wanted, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (wanted > kHugePage) madvise(base_, wanted, MADV_HUGEPAGE);
#endif
  committed_ = wanted;
}

void Arena::release(std::uint32_t ref, std::size_t size) {
  const std::size_t units = (size + kUnit - 1) / kUnit;
  write(base_ + std::size_t{ref} * kUnit, heads_[units]);
  heads_[units] = ref;
  nonempty_[units / 64] |= std::uint64_t{1} << (units % 64);
  free_bytes_ += units * kUnit;
}

// --- short prefixes ---

std::size_t ShortRib::slot_of(std::uint32_t key) const noexcept {
  const std::size_t mask = cells_.size() - 1;
  std::size_t slot = (key * 0x9E3779B97F4A7C15ull >> 32) & mask;
  while (cells_[slot].key != 0 && cells_[slot].key != key) slot = (slot + 1) & mask;
  return slot;
}

std::optional<std::uint32_t> ShortRib::find(std::uint32_t key) const noexcept {
  if (cells_.empty()) return std::nullopt;
  const Cell& cell = cells_[slot_of(key)];
  if (cell.key == 0) return std::nullopt;
  return cell.value;
}

bool ShortRib::put(std::uint32_t key, std::uint32_t value) {
  if (size_ * 4 >= cells_.size() * 3) {
    std::vector<Cell> old(std::max<std::size_t>(16, cells_.size() * 2));
    old.swap(cells_);
    for (const Cell& cell : old) {
      if (cell.key != 0) cells_[slot_of(cell.key)] = cell;
    }
  }
  Cell& cell = cells_[slot_of(key)];
  const bool added = cell.key == 0;
  cell = {key, value};
  size_ += added;
  return added;
}

std::vector<std::uint64_t> ShortRib::raw() const {
  std::vector<std::uint64_t> cells(cells_.size());
  if (!cells.empty()) std::memcpy(cells.data(), cells_.data(), cells.size() * sizeof(Cell));
  return cells;
}

bool ShortRib::restore(const std::uint8_t* cells, std::size_t bytes) {
  const std::size_t n = bytes / sizeof(Cell);
  if (bytes % sizeof(Cell) != 0 || (n & (n - 1)) != 0) return false;
  cells_.resize(n);
  if (n != 0) std::memcpy(cells_.data(), cells, bytes);
  size_ = static_cast<std::size_t>(
      std::count_if(cells_.begin(), cells_.end(), [](Cell cell) { return cell.key != 0; }));
  return size_ * 4 <= n * 3;
}

bool ShortRib::erase(std::uint32_t key) noexcept {
  if (cells_.empty()) return false;
  const std::size_t mask = cells_.size() - 1;
  std::size_t hole = slot_of(key);
  if (cells_[hole].key == 0) return false;
  // Whatever follows in the run moves up, so that no look-up stops at the hole.
  for (std::size_t next = (hole + 1) & mask; cells_[next].key != 0; next = (next + 1) & mask) {
    const std::size_t home = (cells_[next].key * 0x9E3779B97F4A7C15ull >> 32) & mask;
    if (((next - home) & mask) >= ((next - hole) & mask)) {
      cells_[hole] = cells_[next];
      hole = next;
    }
  }
  cells_[hole] = {};
  --size_;
  return true;
}

// --- slots of one node ---

struct Fib::Slots {
  struct Hidden {
    std::uint8_t slot;
    std::uint8_t code;
    std::uint32_t value;
  };
  std::uint8_t code[256];   // bits of the best prefix beyond the node's own; 0: none
  std::uint32_t leaf[256];  // its value, or the view's `none`
  std::uint32_t ref[256];   // child, or 0; unset without `refs`
  bool refs = false;        // some slot may have a child
  unsigned hidden_count = 0;
  Hidden hidden[256];

  // A node without anything. Left out where decode() fills the slots from a node.
  void clear(std::uint32_t none) {
    std::memset(code, 0, sizeof code);
    std::fill(leaf, leaf + 256, none);
  }
  void add_child(unsigned slot, std::uint32_t child) {
    if (!refs) std::memset(ref, 0, sizeof ref);
    refs = true;
    ref[slot] = child;
  }

  bool visible(unsigned base, unsigned c) const {
    return std::memchr(code + base, static_cast<int>(c), span_of(c)) != nullptr;
  }
  Hidden* find_hidden(unsigned base, unsigned c) {
    for (unsigned i = 0; i < hidden_count; ++i) {
      if (hidden[i].slot == base && hidden[i].code == c) return hidden + i;
    }
    return nullptr;
  }
  void hide(unsigned base, unsigned c, std::uint32_t value) {
    hidden[hidden_count++] = {static_cast<std::uint8_t>(base), static_cast<std::uint8_t>(c), value};
  }
  void unhide(Hidden* entry) { *entry = hidden[--hidden_count]; }

  // True: the prefix is new.
  bool insert(unsigned base, unsigned c, std::uint32_t value) {
    bool present = false;
    bool painted = false;
    unsigned lost = 0;  // codes of shorter prefixes that lost a slot
    std::uint32_t lost_leaf[9] = {};
    for (unsigned s = base; s < base + span_of(c); ++s) {
      if (code[s] > c) continue;
      if (code[s] == c) {
        present = true;
      } else {
        lost |= 1u << code[s];
        lost_leaf[code[s]] = leaf[s];
        code[s] = static_cast<std::uint8_t>(c);
      }
      leaf[s] = value;
      painted = true;
    }
    if (present) return false;
    if (!painted) {
      if (Hidden* entry = find_hidden(base, c)) {
        entry->value = value;
        return false;
      }
      hide(base, c, value);
      return true;
    }
    for (unsigned shorter = 1; shorter < c; ++shorter) {
      if ((lost >> shorter & 1) != 0 && !visible(base_of(base, shorter), shorter)) {
        hide(base_of(base, shorter), shorter, lost_leaf[shorter]);
      }
    }
    return true;
  }

  // False: there is no such prefix.
  bool erase(unsigned base, unsigned c, std::uint32_t none) {
    if (!visible(base, c)) {
      Hidden* const entry = find_hidden(base, c);
      if (entry == nullptr) return false;
      unhide(entry);
      return true;
    }
    unsigned heir = c - 1;
    std::uint32_t value = none;
    for (; heir > 0; --heir) {
      const unsigned at = base_of(base, heir);
      if (const void* slot = std::memchr(code + at, static_cast<int>(heir), span_of(heir))) {
        value = leaf[static_cast<const std::uint8_t*>(slot) - code];
        break;
      }
      if (Hidden* entry = find_hidden(at, heir)) {
        value = entry->value;
        unhide(entry);
        break;
      }
    }
    for (unsigned s = base; s < base + span_of(c); ++s) {
      if (code[s] != c) continue;
      code[s] = static_cast<std::uint8_t>(heir);
      leaf[s] = value;
    }
    return true;
  }
};

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
    std::memset(slots.code + start, static_cast<int>(code_at(tail.codes, interval)), end - start);
    std::fill(slots.leaf + start, slots.leaf + end, leaf);
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
    write_map(p, map);
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
    write_map(p + children_at, children);
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

// --- nodes and their children ---

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
  }
  replaced_.clear();
}

// Where the reference of a slot's child stands, or nullptr.
std::uint8_t* Fib::child_slot(int family, unsigned level, std::uint32_t ref, unsigned slot) const {
  if (ref == 0) return nullptr;
  const Node node = node_at(arena_->base(), ref);
  const std::uint8_t* entry = nullptr;
  if (is_wide(family, level)) {
    entry = node.entries() + 8 * node.interval_of(slot);
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

// --- roots: prefixes too short for nodes ---

// Before the first prefix of a family.
void Fib::own_root(int family) {
  if (family == 4 ? work_->owns4 : work_->owns6) return;
  auto next = std::make_unique<State>(*work_);
  if (family == 4) {
    next->owns4 = true;
    next->root4 = filled_root4(next->view.none);
    next->root4_length = shared_array<std::uint8_t>(kRoots);
    next->view.root4 = next->root4.get();
    next->view.root4_length = next->root4_length.get();
  } else {
    next->owns6 = true;
    next->root6 = shared_array<std::uint32_t>(kRoots);
    next->view.root6 = next->root6.get();
  }
  publish(std::move(next));
}

void Fib::set_root4(std::size_t top, std::uint64_t entry) {
  __atomic_store_n(work_->root4.get() + top, entry, __ATOMIC_RELEASE);
}

// An answer and its length, which readers of both take together (settled_length in fib_walk.hpp).
void Fib::set_answer(std::uint64_t* entry, std::uint8_t* length, Answer answer) {
  __atomic_store_n(length, fib::kUnsettled, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_RELEASE);
  __atomic_store_n(entry, make_entry(entry_ref(*entry), answer.leaf), __ATOMIC_RELEASE);
  __atomic_store_n(length, answer.length, __ATOMIC_RELEASE);
}

void Fib::set_page_entry(std::size_t at, std::uint64_t entry) {
  __atomic_store_n(work_->pages.get() + at, entry, __ATOMIC_RELEASE);
}

// The longest prefix above `key` that exists, as its key, or 0.
std::uint32_t Fib::short_parent(const ShortRib& rib, std::uint32_t key) {
  for (key >>= 1; key != 0; key >>= 1) {
    if (rib.find(key)) return key;
  }
  return 0;
}

// Gives what lies under `key` and answers with lengths `least` to `most` another answer.
void Fib::paint4(std::uint32_t key, unsigned least, unsigned most, Answer answer) {
  const unsigned length = short_length(key);
  const std::size_t first = std::size_t{key ^ 1u << length} << (16 - length);
  const std::size_t last = first + (std::size_t{1} << (16 - length));
  std::uint8_t* const lengths = work_->root4_length.get();
  for (std::size_t top = first; top < last; ++top) {
    if (lengths[top] < least || lengths[top] > most) continue;
    set_answer(work_->root4.get() + top, lengths + top, answer);
  }
}

void Fib::paint_page(std::size_t first, std::size_t last, unsigned least, unsigned most, Answer answer) {
  std::uint8_t* const lengths = work_->page_length.get();
  for (std::size_t at = first; at < last; ++at) {
    if (lengths[at] < least || lengths[at] > most) continue;
    set_answer(work_->pages.get() + at, lengths + at, answer);
  }
}

void Fib::paint6(std::uint32_t key, unsigned least, unsigned most, Answer answer) {
  const unsigned length = short_length(key);
  const std::uint32_t bits = key ^ 1u << length;
  if (length > 16) {
    const std::size_t page = std::size_t{own_page(bits >> (length - 16))} << 8;
    const std::size_t first = bits << (24 - length) & 0xFF;
    paint_page(page + first, page + first + (std::size_t{1} << (24 - length)), least, most, answer);
    return;
  }
  const std::size_t first = std::size_t{bits} << (16 - length);
  const std::size_t last = first + (std::size_t{1} << (16 - length));
  for (std::size_t top = first; top < last; ++top) {
    const std::uint32_t page = work_->root6[top];
    if (page_book_[page].own) {
      paint_page(std::size_t{page} << 8, (std::size_t{page} + 1) << 8, least, most, answer);
      continue;
    }
    const unsigned stands_for = work_->page_length[std::size_t{page} << 8];
    if (stands_for < least || stands_for > most) continue;
    point_root6(top, shared_page(answer));
  }
}

void Fib::point_root6(std::size_t top, std::uint32_t page) {
  const std::uint32_t old = work_->root6[top];
  if (old == page) return;
  ++page_book_[page].users;
  __atomic_store_n(work_->root6.get() + top, page, __ATOMIC_RELEASE);
  if (--page_book_[old].users == 0 && old != 0) {
    page_book_[old] = {};
    replaced_.push_back({old, 0});
  }
}

// Readers of the state before must not come to see page numbers that only the new one knows.
void Fib::take_root6(State& next) {
  if (!next.owns6) return;
  auto root = shared_array<std::uint32_t>(kRoots);
  std::copy_n(next.root6.get(), kRoots, root.get());
  next.root6 = std::move(root);
  next.view.root6 = next.root6.get();
}

// A page that nobody reads yet. Its entries are whatever they were.
std::uint32_t Fib::new_page() {
  if (!free_pages_.empty()) {
    const std::uint32_t page = free_pages_.back();
    free_pages_.pop_back();
    return page;
  }
  const std::size_t page = page_book_.size();
  if (page == page_capacity_) {
    auto next = std::make_unique<State>(*work_);
    const std::size_t capacity = page_capacity_ + page_capacity_ / 4 + 4;
    next->pages = shared_array<std::uint64_t>(capacity * 256);
    next->page_length = shared_array<std::uint8_t>(capacity * 256);
    std::copy_n(work_->pages.get(), page * 256, next->pages.get());
    std::copy_n(work_->page_length.get(), page * 256, next->page_length.get());
    next->view.pages = next->pages.get();
    next->view.page_length = next->page_length.get();
    take_root6(*next);
    page_capacity_ = capacity;
    publish(std::move(next));
  }
  page_book_.push_back({});
  return static_cast<std::uint32_t>(page);
}

// The page that answers `answer` everywhere.
std::uint32_t Fib::shared_page(Answer answer) {
  for (std::size_t page = 0; page < page_book_.size(); ++page) {
    const Page& entry = page_book_[page];
    if ((page == 0 || entry.users != 0) && !entry.own && work_->page_length[page << 8] == answer.length &&
        entry_leaf(work_->pages[page << 8]) == answer.leaf) {
      return static_cast<std::uint32_t>(page);
    }
  }
  const std::uint32_t page = new_page();
  std::fill_n(work_->pages.get() + (std::size_t{page} << 8), 256, make_entry(0, answer.leaf));
  std::fill_n(work_->page_length.get() + (std::size_t{page} << 8), 256, answer.length);
  return page;
}

// The page of one /16 alone.
std::uint32_t Fib::own_page(std::size_t top) {
  const std::uint32_t old = work_->root6[top];
  if (page_book_[old].own) return old;
  const std::uint32_t page = new_page();
  const std::size_t from = std::size_t{old} << 8;
  const std::size_t to = std::size_t{page} << 8;
  std::copy_n(work_->pages.get() + from, 256, work_->pages.get() + to);
  std::copy_n(work_->page_length.get() + from, 256, work_->page_length.get() + to);
  page_book_[page].own = true;
  point_root6(top, page);
  return page;
}

// Gives up a page of its own where a shared one would do.
void Fib::drop_bare_page(std::size_t top) {
  const std::uint32_t page = work_->root6[top];
  if (!page_book_[page].own) return;
  const std::uint64_t* const entries = work_->pages.get() + (std::size_t{page} << 8);
  const std::uint8_t* const lengths = work_->page_length.get() + (std::size_t{page} << 8);
  for (unsigned i = 0; i < 256; ++i) {
    if (entry_ref(entries[i]) != 0 || lengths[i] > 16) return;
  }
  point_root6(top, shared_page({entry_leaf(entries[0]), lengths[0]}));
}

// --- updates ---

bool Fib::insert(int family, const std::uint8_t* address, unsigned length, std::uint32_t value) {
  make_room();
  accept(value);
  own_root(family);
  bool added = false;
  if (length <= short_limit(family)) {
    const std::uint32_t key = short_key(address, length);
    added = (family == 4 ? short4_ : short6_).put(key, value);
    const Answer answer{value, static_cast<std::uint8_t>(length)};
    if (family == 4) {
      paint4(key, 0, length, answer);
    } else {
      paint6(key, 0, length, answer);
    }
  } else if (family == 4) {
    const std::size_t top = std::size_t{address[0]} << 8 | address[1];
    const std::uint64_t entry = work_->root4[top];
    const std::uint32_t ref = put(4, 16, entry_ref(entry), address, length, value, added);
    if (ref != entry_ref(entry)) set_root4(top, make_entry(ref, entry_leaf(entry)));
  } else {
    const std::uint32_t page = own_page(std::size_t{address[0]} << 8 | address[1]);
    const std::size_t at = std::size_t{page} << 8 | address[2];
    const std::uint64_t entry = work_->pages[at];
    const std::uint32_t ref = put(6, 24, entry_ref(entry), address, length, value, added);
    if (ref != entry_ref(entry)) set_page_entry(at, make_entry(ref, entry_leaf(entry)));
  }
  (family == 4 ? size4_ : size6_) += added;
  retire_replaced();
  return added;
}

bool Fib::erase(int family, const std::uint8_t* address, unsigned length) {
  if (size(family) == 0) return false;
  make_room();
  bool removed = false;
  const std::size_t top = std::size_t{address[0]} << 8 | address[1];
  if (length <= short_limit(family)) {
    const std::uint32_t key = short_key(address, length);
    ShortRib& rib = family == 4 ? short4_ : short6_;
    removed = rib.erase(key);
    if (removed) {
      const std::uint32_t heir = short_parent(rib, key);
      Answer answer{work_->view.none, 0};
      if (heir != 0) answer = {*rib.find(heir), static_cast<std::uint8_t>(short_length(heir))};
      if (family == 4) {
        paint4(key, length, length, answer);
      } else {
        paint6(key, length, length, answer);
        if (length > 16) drop_bare_page(top);
      }
    }
  } else if (family == 4) {
    const std::uint64_t entry = work_->root4[top];
    const std::uint32_t ref = remove(4, 16, entry_ref(entry), address, length, removed);
    if (ref != entry_ref(entry)) set_root4(top, make_entry(ref, entry_leaf(entry)));
  } else {
    const std::size_t at = std::size_t{work_->root6[top]} << 8 | address[2];
    const std::uint64_t entry = work_->pages[at];
    const std::uint32_t ref = remove(6, 24, entry_ref(entry), address, length, removed);
    if (ref != entry_ref(entry)) {
      set_page_entry(at, make_entry(ref, entry_leaf(entry)));
      if (ref == 0) drop_bare_page(top);
    }
  }
  (family == 4 ? size4_ : size6_) -= removed;
  retire_replaced();
  return removed;
}

std::optional<std::uint32_t> Fib::get(int family, const std::uint8_t* address, unsigned length) const {
  if (length <= short_limit(family))
    return (family == 4 ? short4_ : short6_).find(short_key(address, length));
  unsigned level = short_limit(family);
  const std::size_t top = std::size_t{address[0]} << 8 | address[1];
  std::uint32_t ref = entry_ref(family == 4 ? work_->root4[top]
                                            : work_->pages[std::size_t{work_->root6[top]} << 8 | address[2]]);
  for (; length > level + 8 && ref != 0; level += 8) ref = child_of(family, level, ref, address[level / 8]);
  if (ref == 0) return std::nullopt;
  Slots slots;
  decode(family, level, ref, slots);
  const unsigned base = address[level / 8];
  const unsigned code = length - level;
  if (const void* slot = std::memchr(slots.code + base, static_cast<int>(code), span_of(code))) {
    return slots.leaf[static_cast<const std::uint8_t*>(slot) - slots.code];
  }
  if (const Slots::Hidden* entry = slots.find_hidden(base, code)) return entry->value;
  return std::nullopt;
}

// --- reading back ---

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

std::size_t Fib::nbytes() const noexcept {
  return sizeof(Fib) + (work_->owns4 ? kRoots * 9 : 0) + (work_->owns6 ? kRoots * 4 : 0) +
         page_capacity_ * 256 * 9 + page_book_.capacity() * sizeof(Page) + arena_->top() + short4_.nbytes() +
         short6_.nbytes() + retired_.capacity() * sizeof(Retired);
}

// --- states ---

Fib::Fib(std::size_t reserve) : reserve_(reserve) {
  std::unique_ptr<State> first = empty_state(reserve, kShortNone, kShortDeep);
  start(std::move(first));
}

Fib::~Fib() {
  if (snapshot_) --arena_->pins;
  delete state_.load();
}

std::unique_ptr<State> Fib::empty_state(std::size_t reserve, std::uint32_t none, std::uint32_t deep) {
  auto state = std::make_unique<State>();
  state->root4 = bare_root4(none);
  state->root4_length = bare_lengths();
  state->root6 = bare_root6();
  state->pages = shared_array<std::uint64_t>(kFirstPages * 256);
  state->page_length = shared_array<std::uint8_t>(kFirstPages * 256);
  state->arena = std::make_shared<Arena>(reserve);
  std::fill_n(state->pages.get(), 256, make_entry(0, none));
  // The entry of the node without an answer; its first bytes are a narrow leaf of either width too.
  write(state->arena->base() + 8 * kWords, make_entry(0, none));
  state->view = {state->root4.get(),
                 state->root4_length.get(),
                 state->root6.get(),
                 state->pages.get(),
                 state->page_length.get(),
                 state->arena->base(),
                 none,
                 deep,
                 none == kShortNone};
  return state;
}

// Makes an empty state the one that is written. Readers see it once it is published.
void Fib::start(std::unique_ptr<State> next) {
  arena_ = next->arena;
  short4_ = {};
  short6_ = {};
  page_book_.assign(1, {kRoots, false});
  free_pages_.clear();
  page_capacity_ = kFirstPages;
  replaced_.clear();
  retired_.clear();  // they lie in the old arena, which goes with its state
  retired_bytes_ = 0;
  size4_ = size6_ = 0;
  if (state_.load(std::memory_order_relaxed) == nullptr) {
    work_ = next.release();
    state_.store(work_, std::memory_order_release);
  } else {
    building_ = std::move(next);
    work_ = building_.get();
  }
}

void Fib::publish(std::unique_ptr<State> next) {
  if (building_) {
    // Not seen by anyone yet: later parts of the build go on with the new form.
    building_ = std::move(next);
    work_ = building_.get();
    return;
  }
  work_ = next.release();
  epochs_.retire(state_.exchange(work_));
}

void Fib::publish_built() {
  if (before_) return;  // commit() will
  work_ = building_.release();
  epochs_.retire(state_.exchange(work_));
}

// A state with roots of its own over the same nodes.
std::unique_ptr<State> Fib::clone(const State& state) const {
  auto copy = std::make_unique<State>(state);
  const auto own = [](auto& array, std::size_t n) {
    auto fresh = shared_array<std::remove_cvref_t<decltype(array[0])>>(n);
    std::copy_n(array.get(), n, fresh.get());
    array = std::move(fresh);
  };
  if (state.owns4) {
    own(copy->root4, kRoots);
    own(copy->root4_length, kRoots);
  }
  if (state.owns6) own(copy->root6, kRoots);
  own(copy->pages, page_capacity_ * 256);
  own(copy->page_length, page_capacity_ * 256);
  copy->view.root4 = copy->root4.get();
  copy->view.root4_length = copy->root4_length.get();
  copy->view.root6 = copy->root6.get();
  copy->view.pages = copy->pages.get();
  copy->view.page_length = copy->page_length.get();
  return copy;
}

// What only writers and readers of exact prefixes use.
void Fib::copy_book(const Fib& other) {
  arena_ = other.arena_;
  reserve_ = other.reserve_;
  short4_ = other.short4_;
  short6_ = other.short6_;
  page_book_ = other.page_book_;
  free_pages_ = other.free_pages_;
  page_capacity_ = other.page_capacity_;
  size4_ = other.size4_;
  size6_ = other.size6_;
}

std::unique_ptr<Fib> Fib::snapshot() {
  auto copy = std::unique_ptr<Fib>(new Fib(Bare{}));
  copy->copy_book(*this);
  copy->work_ = clone(*work_).release();
  copy->state_.store(copy->work_);
  copy->snapshot_ = true;
  ++arena_->pins;
  return copy;
}

void Fib::begin() {
  before_ = snapshot();
  retired_before_ = retired_;
  building_ = clone(*work_);
  work_ = building_.get();
  arena_->mark();
}

void Fib::commit() {
  before_->arena_->keep();
  const std::unique_ptr<Fib> before = std::move(before_);
  publish_built();
  // These were taken off the new state, which readers see only now.
  const std::uint64_t epoch = epochs_.advance();
  for (Retired& item : retired_) item.epoch = epoch;
  retired_before_.clear();
}

void Fib::rollback() {
  const std::unique_ptr<Fib> before = std::move(before_);
  copy_book(*before);
  arena_->rewind();
  building_.reset();
  work_ = state_.load();
  replaced_.clear();
  retired_ = std::move(retired_before_);
  retired_bytes_ = 0;
  for (const Retired& item : retired_) retired_bytes_ += item.piece.size;
}

void Fib::collect() {
  if (before_ || (retired_.empty() && epochs_.waiting() == 0)) return;
  epochs_.reclaim();
  const std::uint64_t safe = epochs_.oldest();
  const bool pinned = arena_->pins != 0;
  std::size_t kept = 0;
  for (const Retired& item : retired_) {
    if (item.epoch >= safe || (pinned && item.piece.size != 0)) {
      retired_[kept++] = item;
    } else if (item.piece.size == 0) {
      free_pages_.push_back(item.piece.at);
    } else {
      arena_->release(item.piece.at, item.piece.size);
      retired_bytes_ -= item.piece.size;
    }
  }
  retired_.resize(kept);
  // Where much is free, or kept only for snapshots, the nodes move into an arena without it.
  const std::size_t unused = arena_->free_bytes() + (pinned ? retired_bytes_ : 0);
  if (unused > kCommitStep + (arena_->top() - unused) / (pinned ? 2 : 16)) relocate(arena_->reserved());
}

// Moves all nodes, without the free ones between them, into an arena of another size.
void Fib::relocate(std::size_t reserve) {
  auto next = std::make_unique<State>(*work_);
  next->arena = std::make_shared<Arena>(reserve);
  next->view.arena = next->arena->base();
  std::memcpy(next->arena->base(), arena_->base(), kNoNode);
  if (next->owns4) {
    next->root4 = shared_array<std::uint64_t>(kRoots);
    next->view.root4 = next->root4.get();
  }
  next->pages = shared_array<std::uint64_t>(page_capacity_ * 256);
  next->view.pages = next->pages.get();
  take_root6(*next);
  const std::shared_ptr<Arena> from = std::exchange(arena_, next->arena);
  const auto moved = [&](int family, std::uint64_t entry) {
    const unsigned level = short_limit(family);
    return make_entry(copy_tree(family, level, entry_ref(entry), from->base()), entry_leaf(entry));
  };
  for (std::size_t top = 0; next->owns4 && top < kRoots; ++top)
    next->root4[top] = moved(4, work_->root4[top]);
  for (std::size_t at = 0; at < page_book_.size() * 256; ++at) {
    const bool own = page_book_[at >> 8].own;
    next->pages[at] = own ? moved(6, work_->pages[at]) : work_->pages[at];
  }
  // What waited to be freed lies in the old arena; pages do not.
  std::erase_if(retired_, [](const Retired& item) { return item.piece.size != 0; });
  retired_bytes_ = 0;
  publish(std::move(next));
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
    entries = marks_up_to(first, 255);
    first += 8 * kWords;
  }
  for (std::size_t i = 0; first != nullptr && i < entries; ++i) {
    std::uint8_t* const child = p + (first - old.begin) + 8 * i + kEntryRef;
    write(child, copy_tree(family, level + 8, read<std::uint32_t>(child), from));
  }
  return make_ref(unit, old.tiny);
}

// No update may run into the end of the arena.
void Fib::make_room() {
  if (arena_->reserved() - arena_->top() < kSlack) relocate(arena_->reserved() * 4);
}

// The two reserved leaves must differ from every value, and leaves must be wide enough.
void Fib::accept(std::uint32_t value) {
  const fib::View& view = work_->view;
  const bool fits = view.short_leaves ? value < kShortDeep : value != view.none && value != view.deep;
  if (fits) return;
  rebuild(all_routes(), value);
}

std::vector<Fib::Route> Fib::routes(int family, const std::uint8_t* address, unsigned length) const {
  std::vector<Route> found;
  for_each(family, address, length, [&](const Route& route) { found.push_back(route); });
  return found;
}

std::vector<Fib::Route> Fib::all_routes() const {
  std::vector<Route> all;
  all.reserve(size4_ + size6_);
  const std::uint8_t zero[16] = {};
  for (int family : {4, 6}) for_each(family, zero, 0, [&](const Route& route) { all.push_back(route); });
  return all;
}

// Bulk input by family: sorted, each prefix once.
struct Fib::Items {
  std::vector<Item4> four;
  std::vector<Item6> six;

  explicit Items(const std::vector<Route>& routes) {
    for (const Route& route : routes) {
      if (route.family == 4) {
        const std::uint32_t address = __builtin_bswap32(read<std::uint32_t>(route.address));
        four.push_back({std::uint64_t{address} << 8 | route.length, route.value});
      } else {
        six.push_back({__builtin_bswap64(read<std::uint64_t>(route.address)),
                       __builtin_bswap64(read<std::uint64_t>(route.address + 8)), route.value, route.length});
      }
    }
    sort_items(four);
    sort_items(six);
    drop_repeated(four);
    drop_repeated(six);
  }
  // At most a chain of single-entry nodes a prefix; reserved addresses cost nothing.
  std::size_t room() const { return four.size() * 256 + six.size() * 2048 + kSlack; }
};

void Fib::insert_many(const std::vector<Route>& added) {
  if (added.size() < kBulk || added.size() * 8 < size4_ + size6_) {
    for (const Route& route : added) insert(route.family, route.address, route.length, route.value);
    return;
  }
  const bool into_empty =
      std::all_of(added.begin(), added.end(), [this](const Route& r) { return size(r.family) == 0; });
  if (!into_empty) {
    std::vector<Route> all = all_routes();
    all.insert(all.end(), added.begin(), added.end());
    rebuild(all, 0);
  } else if (size4_ + size6_ == 0) {
    rebuild(added, 0);
  } else {
    // The other family stays where it is.
    for (const Route& route : added) accept(route.value);
    Items items(added);
    const std::size_t room = items.room();
    if (arena_->reserved() - arena_->top() < room) relocate(arena_->reserved() + room);
    if (!building_) {
      building_ = clone(*work_);
      work_ = building_.get();
    }
    fill(items);
    publish_built();
  }
}

void Fib::clear() { rebuild({}, 0); }

template <typename Item>
std::uint32_t Fib::build(unsigned level, const Item* begin, const Item* end) {
  Slots slots;
  slots.clear(work_->view.none);
  struct Local {
    std::uint8_t slot;
    std::uint8_t code;
    std::uint32_t value;
  };
  std::array<Local, 512> locals;
  std::size_t count = 0;
  for (const Item* item = begin; item != end;) {
    const unsigned slot = item->slot(level);
    if (item->length() > level + 8) {
      // Everything that follows within this slot is longer too.
      const Item* last = item + 1;
      while (last != end && last->slot(level) == slot) ++last;
      slots.add_child(slot, build(level + 8, item, last));
      item = last;
      continue;
    }
    const unsigned code = item->length() - level;
    std::memset(slots.code + slot, static_cast<int>(code), span_of(code));
    std::fill_n(slots.leaf + slot, span_of(code), item->value);
    if (code != 8)
      locals[count++] = {static_cast<std::uint8_t>(slot), static_cast<std::uint8_t>(code), item->value};
    ++item;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const Local& local = locals[i];
    if (!slots.visible(local.slot, local.code)) slots.hide(local.slot, local.code, local.value);
  }
  return encode(Item::family, level, slots);
}

// Puts prefixes into families that have none, in a state that is not published.
void Fib::fill(const Items& items) {
  const auto put_short = [](const auto& item, ShortRib& rib) {
    const std::uint32_t key = 1u << item.length() | item.short_bits() >> (24 - item.length());
    rib.put(key, item.value);
    return key;
  };
  if (!items.four.empty()) own_root(4);
  if (!items.six.empty()) own_root(6);
  const Item4* const end4 = items.four.data() + items.four.size();
  for (const Item4* item = items.four.data(); item != end4;) {
    if (item->length() <= 16) {
      paint4(put_short(*item, short4_), 0, 16, {item->value, static_cast<std::uint8_t>(item->length())});
      ++item;
      continue;
    }
    const std::size_t top = item->key >> 24;
    const Item4* last = item + 1;
    while (last != end4 && last->key >> 24 == top) ++last;
    work_->root4[top] = make_entry(build(16, item, last), entry_leaf(work_->root4[top]));
    item = last;
  }
  const Item6* const end6 = items.six.data() + items.six.size();
  for (const Item6* item = items.six.data(); item != end6;) {
    if (item->length() <= 24) {
      paint6(put_short(*item, short6_), 0, 24, {item->value, static_cast<std::uint8_t>(item->length())});
      ++item;
      continue;
    }
    const Item6* last = item + 1;
    while (last != end6 && last->high >> 40 == item->high >> 40) ++last;
    const std::uint32_t page = own_page(item->high >> 48);
    const std::size_t at = std::size_t{page} << 8 | (item->high >> 40 & 0xFF);
    work_->pages[at] = make_entry(build(24, item, last), entry_leaf(work_->pages[at]));
    item = last;
  }
  if (!items.four.empty()) size4_ = items.four.size();
  if (!items.six.empty()) size6_ = items.six.size();
  // Pages given up on the way were never seen.
  for (const Piece& piece : replaced_) free_pages_.push_back(piece.at);
  replaced_.clear();
}

// Builds everything anew from `routes`, later ones winning, in a form that also takes `value`.
void Fib::rebuild(const std::vector<Route>& routes, std::uint32_t value) {
  std::uint32_t greatest = value;
  for (const Route& route : routes) greatest = std::max(greatest, route.value);
  std::uint32_t none = kShortNone;
  std::uint32_t deep = kShortDeep;
  if (greatest >= kShortDeep) {
    none = kLongNone;
    deep = kLongDeep;
  }
  if (greatest >= kLongDeep) {
    // Two integers that nobody uses, from the top.
    std::vector<std::uint32_t> used;
    for (const Route& route : routes) used.push_back(route.value);
    used.push_back(value);
    std::sort(used.begin(), used.end(), std::greater<>());
    std::array<std::uint32_t, 2> unused{};
    std::size_t found = 0;
    std::size_t i = 0;
    for (std::uint32_t candidate = kLongNone; found < 2; --candidate) {
      while (i < used.size() && used[i] > candidate) ++i;
      if (i == used.size() || used[i] != candidate) unused[found++] = candidate;
    }
    none = unused[0];
    deep = unused[1];
  }
  const Items items(routes);
  start(empty_state(reserve_ + items.room(), none, deep));
  fill(items);
  publish_built();
}

}  // namespace fastpath
