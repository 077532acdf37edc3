// What the files of the table's cold code share.
#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "fastpath/fib.hpp"

namespace fastpath {

using fib::Arena;
using fib::entry_leaf;
using fib::entry_ref;
using fib::kDeepLeaves;
using fib::kEntryRef;
using fib::kKindBits;
using fib::kMini;
using fib::kNoEntry;
using fib::kPlain;
using fib::kRoots;
using fib::kTiny;
using fib::kUnit;
using fib::kWords;
using fib::kWordSlots;
using fib::make_entry;
using fib::make_ref;
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
using fib::hidden_bytes;
using fib::is_deep;
using fib::kCountBytes;
using fib::kNatural;
using fib::marks_up_to;
using fib::natural_code;
using fib::Node;
using fib::node_at;
using fib::ones;
using fib::read;
using fib::Tail;
using fib::tail_of;

// The leaves "see the first child" and "no answer" among leaves of some bits. Values are below both, but for
// tables that have more than that.
constexpr std::uint32_t deep_of(unsigned leaf_bits) {
  return static_cast<std::uint32_t>((std::uint64_t{1} << leaf_bits) - kDeepLeaves);
}
constexpr std::uint32_t none_of(unsigned leaf_bits) { return deep_of(leaf_bits) - 1; }
inline constexpr std::size_t kCommitStep = std::size_t{1} << 16;

// Asks for a node, its children and what stands behind its map in most nodes.
inline void fetch_node(const std::uint8_t* arena, std::uint32_t ref) noexcept {
  const std::uint8_t* const node = arena + ref_unit(ref) * kUnit;
  for (int line = -1; line < 3; ++line) __builtin_prefetch(node + 64 * line);
}
inline constexpr std::size_t kSlack = std::size_t{1} << 17;  // more than one update can use
inline constexpr std::size_t kNoted =
    64;  // nodes that one update replaces at most, but for a short IPv6 prefix
inline constexpr std::size_t kRetiredKept = 4096;  // of what waits to be freed, places that stay
inline constexpr std::size_t kTogether = 16;       // updates whose nodes are fetched together
inline constexpr std::size_t kNoNode = 192;        // bytes of the node that has no answer
inline constexpr std::uint64_t kNoPlace = 20;      // of its entry, counted in entries

static_assert(kNoEntry + 8 <= kNoNode);

template <typename T>
void write(std::uint8_t* p, T value) noexcept {
  std::memcpy(p, &value, sizeof value);
}

constexpr std::size_t round_up(std::size_t value, std::size_t step) {
  return (value + step - 1) & ~(step - 1);
}
constexpr unsigned span_of(unsigned code) { return 256u >> code; }  // slots under one prefix of this code
constexpr unsigned base_of(unsigned slot, unsigned code) { return slot & ~(span_of(code) - 1); }

inline unsigned short_length(std::uint32_t key) { return static_cast<unsigned>(std::bit_width(key)) - 1; }

inline std::uint32_t short_key(const std::uint8_t* address, unsigned length) {
  const std::uint32_t bits = std::uint32_t{address[0]} << 16 | std::uint32_t{address[1]} << 8 | address[2];
  return 1u << length | bits >> (24 - length);
}

inline unsigned short_limit(int family) { return family == 4 ? 16 : 24; }

template <typename T>
fib::Shared<T> shared_array(std::size_t n) {
  return fib::Shared<T>(new T[n]());
}

// A copy in the place of an array that others share.
template <typename T>
void own(fib::Shared<T>& array, std::size_t n) {
  fib::Shared<T> fresh = shared_array<T>(n);
  std::copy_n(array.get(), n, fresh.get());
  array = std::move(fresh);
}

namespace fib {
// Roots of families without a prefix, which all tables share.
Shared<std::uint64_t> filled_root4(std::uint32_t none);
Shared<std::uint64_t> bare_root4(const View& view);
const Shared<std::uint8_t>& bare_lengths();
const Shared<std::uint32_t>& bare_root6();
}  // namespace fib

// A prefix that is covered in full by longer ones.
struct Hidden {
  std::uint8_t slot;
  std::uint8_t code;
  std::uint32_t value;
};

// One node, slot by slot.
struct Fib::Slots {
  static constexpr unsigned kRun = 8;

  std::uint8_t code[256 + kRun];   // bits of the best prefix beyond the node's own; 0: none
  std::uint32_t leaf[256 + kRun];  // its value, or the view's `none`
  std::uint32_t ref[256];          // child, or 0; unset without `refs`
  bool refs = false;               // some slot may have a child
  unsigned hidden_count = 0;
  Hidden hidden[256];

  // A node without anything. Left out where decode() fills the slots from a node.
  void clear(std::uint32_t none) {
    std::memset(code, 0, sizeof code);
    std::fill(leaf, leaf + 256, none);
  }
  // From the first slot to the last: a run is short as a rule, so a few slots too many are written at once.
  void fill_ascending(unsigned start, unsigned end, unsigned c, std::uint32_t value) {
    std::memset(code + start, static_cast<int>(c), kRun);
    for (unsigned k = 0; k < kRun; ++k) leaf[start + k] = value;
    if (end - start <= kRun) return;
    std::memset(code + start + kRun, static_cast<int>(c), end - start - kRun);
    std::fill(leaf + start + kRun, leaf + end, value);
  }
  void add_child(unsigned slot, std::uint32_t child) {
    if (!refs) std::memset(ref, 0, sizeof ref);
    refs = true;
    ref[slot] = child;
  }

  bool visible(unsigned base, unsigned c) const {
    return std::memchr(code + base, static_cast<int>(c), span_of(c)) != nullptr;
  }
  const Hidden* find_hidden(unsigned base, unsigned c) const {
    for (unsigned i = 0; i < hidden_count; ++i) {
      if (hidden[i].slot == base && hidden[i].code == c) return hidden + i;
    }
    return nullptr;
  }
  void hide(unsigned base, unsigned c, std::uint32_t value) {
    hidden[hidden_count++] = {static_cast<std::uint8_t>(base), static_cast<std::uint8_t>(c), value};
  }
};

}  // namespace fastpath
