// What a longest-prefix-match reader follows, and the kernels that follow it.
//
// Both families are chains of nodes of 8 address bits. A node cuts its 256 slots into intervals and has one
// entry for each. A large node finds a slot's entry in a map of interval starts: five words of 56 bits, each
// with a number in its top byte, so that one load and one population count answer. The number is that of the
// starts before the word, and of the entries that the map's own bytes would hold: entries are counted from
// the node's begin. A tiny node, of at most nine intervals, lists the starts in the bytes of one word
// instead; a mini node, of at most five, in half a word. Nodes never change once they are published, except
// for values and references to child nodes.
//
//   IPv4   root4[bits 0..16) -> large narrow node, bits 16..24 -> (rare) large narrow node, bits 24..32
//   IPv6   root6[bits 0..16) -> page -> entry[bits 16..24) -> wide node 24..32 -> wide node 32..40
//          -> narrow node 40..48 -> (rare) narrow nodes down to bit 128
//
// A narrow node's entry is a leaf. The 256 leaves from `deep` on stand for the node's children: their
// entries, each a leaf and a reference, lie before the node's begin, the first one next to it. A wide node's
// entry is a leaf and a reference to a child. A child that has no answer leaves the one of its parent
// standing, so a short prefix never touches the nodes below it. A reference of 0 is a large node without any
// answer: chains need no test for the end.
//
// Leaves have 32 bits, or 16 where all values allow it, or 9 to 15: then they are packed, bit by bit, no node
// is wide, words count from 0, and the node has no codes (see fib_nodes.cpp) where its intervals tell them.
//
//   see: Zec, Rizzo, Mikuc, "DXR", CCR 2012 (ranges); Asai, Ohara, "Poptrie", SIGCOMM 2015 (rank by popcount)
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "fastpath/cpu.hpp"

namespace fastpath::fib {

constexpr std::size_t kUnit = 8;           // nodes begin at multiples of this in the arena
constexpr std::size_t kWords = 5;          // of a large node's map
constexpr unsigned kWordSlots = 56;        // slots a word
constexpr std::size_t kTinyIntervals = 9;  // of a tiny node, at most
constexpr std::size_t kMiniIntervals = 5;  // of a mini node, at most
constexpr std::uint32_t kDeepLeaves = 256;
constexpr unsigned kLeastLeafBits = 9;
constexpr std::size_t kNoEntry =
    184;  // where the arena has an entry without answer and child, if leaves are packed
constexpr std::size_t kRoots = 65536;
constexpr std::size_t kStripes = 256;  // of a family's root entries, each with a count of changes

// A reference to a node: its unit in the arena, and below what kind of node it is.
constexpr unsigned kKindBits = 3;
constexpr std::uint32_t kTiny = 1;
constexpr std::uint32_t kMini = 2;   // and tiny
constexpr std::uint32_t kPlain = 4;  // packed leaves, and nothing behind them
constexpr std::uint32_t make_ref(std::size_t unit, std::uint32_t kind) noexcept {
  return static_cast<std::uint32_t>(unit << kKindBits | kind);
}
constexpr std::size_t ref_unit(std::uint32_t ref) noexcept { return ref >> kKindBits; }
constexpr std::size_t kMostUnits = std::size_t{1} << (32 - kKindBits);

// An entry of 64 bits: the leaf below, the reference to a child above.
constexpr std::uint64_t make_entry(std::uint32_t ref, std::uint32_t leaf) noexcept {
  return std::uint64_t{ref} << 32 | leaf;
}
constexpr std::uint32_t entry_ref(std::uint64_t entry) noexcept {
  return static_cast<std::uint32_t>(entry >> 32);
}
constexpr std::uint32_t entry_leaf(std::uint64_t entry) noexcept { return static_cast<std::uint32_t>(entry); }
constexpr std::size_t kEntryRef = 4;  // where the reference stands in an entry

struct View {
  const std::uint64_t* root4 = nullptr;        // kRoots entries
  const std::uint8_t* root4_length = nullptr;  // prefix length of each entry's leaf
  const std::uint32_t* root6 = nullptr;        // kRoots page numbers
  const std::uint64_t* pages = nullptr;        // 256 entries a page
  const std::uint8_t* page_length = nullptr;
  const std::uint8_t* arena = nullptr;
  std::uint32_t none = 0;  // the leaf "no answer"
  std::uint32_t deep = 0;  // the leaf "see the first child", a multiple of 256; 255 more follow
  unsigned leaf_bits = 16;
  const std::uint32_t* changes = nullptr;  // of answers: of IPv4 by root4 index >> 8, then of IPv6 by page
  bool packed() const noexcept { return leaf_bits < 16; }
};

// An answer with the length of the prefix that gave it.
struct Match {
  std::uint32_t leaf;
  std::uint8_t length;
};

struct Kernels {
  std::uint32_t (*lookup4)(const View& view, std::uint32_t address);
  std::uint32_t (*lookup6)(const View& view, const std::uint8_t* address);
  Match (*match4)(const View& view, std::uint32_t address);
  Match (*match6)(const View& view, const std::uint8_t* address);
  // What has no answer becomes `missing`.
  void (*lookup_many4)(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                       std::uint32_t missing);
  void (*lookup_many6)(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::size_t n,
                       std::uint32_t missing);
  void (*match_many4)(const View& view, const std::uint32_t* addresses, std::uint32_t* out,
                      std::uint8_t* lengths, std::size_t n, std::uint32_t missing);
  void (*match_many6)(const View& view, const std::uint8_t* addresses, std::uint32_t* out,
                      std::uint8_t* lengths, std::size_t n, std::uint32_t missing);
};

const Kernels* kernels_scalar() noexcept;
const Kernels* kernels_avx2() noexcept;  // nullptr where it was not compiled
const Kernels* kernels_avx512() noexcept;
const Kernels* kernels_avx512_gather() noexcept;
const Kernels* kernels_neon() noexcept;

struct NamedKernels {
  const char* name;
  Isa isa;
  const Kernels* (*kernels)() noexcept;
};
inline constexpr NamedKernels kKernelsByName[] = {
    {"scalar", Isa::scalar, kernels_scalar}, {"avx2", Isa::avx2, kernels_avx2},
    {"avx512", Isa::avx512, kernels_avx512}, {"avx512-gather", Isa::avx512, kernels_avx512_gather},
    {"neon", Isa::neon, kernels_neon},
};

// By one of these names; nullptr where this build or this machine has none.
inline const Kernels* kernels_named(std::string_view name) noexcept {
  for (const NamedKernels& each : kKernelsByName) {
    if (name == each.name) return isa_supported(each.isa) ? each.kernels() : nullptr;
  }
  return nullptr;
}

// The fastest of one instruction set; nullptr where this build or this machine has none.
inline const Kernels* kernels_for(Isa isa) noexcept {
  return kernels_named(isa == Isa::avx512 && gathers_fast() ? "avx512-gather" : isa_name(isa));
}

}  // namespace fastpath::fib
