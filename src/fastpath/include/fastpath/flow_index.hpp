// Where the flows of a FlowTable are: what its look-ups share with the kernels that do the first steps of
// many look-ups at a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "fastpath/cpu.hpp"

namespace fastpath {

struct FlowIndex {
  static constexpr int kWays = 7;

  // A head is a byte a way, 0 for a free one, else a tag of 1 to 127, with kAway if the set is not the flow's
  // home; the top byte counts flows of this home that are away (kMany: or more).
  static constexpr std::uint64_t kBytes = 0x0001010101010101;
  static constexpr std::uint64_t kAway = 0x80;
  static constexpr std::uint64_t kMany = 0xFF;
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};
  static constexpr std::uint32_t kTurn = 0x9E3779B1;

  std::uint64_t* heads;
  std::uint8_t* records;
  std::uint64_t sets;    // less than 2**32
  std::uint64_t stride;  // bytes of a record
  std::uint64_t seed;

  static std::uint64_t tag(std::uint64_t hash) noexcept { return std::max<std::uint64_t>(hash & 0x7F, 1); }
  std::uint64_t home(std::uint64_t hash) const noexcept { return (hash >> 32) * sets >> 32; }
  // The two sets of a tag are each other's other one.
  std::uint64_t other(std::uint64_t set, std::uint64_t tag) const noexcept {
    const std::uint64_t turn = (tag * kTurn & 0xFFFFFFFF) * sets >> 32;
    return turn >= set ? turn - set : turn + sets - set;
  }
};

// A part of a batch of look-ups on its way.
struct FlowGroup {
  static constexpr std::size_t kKeys = 32;
  alignas(64) std::uint64_t set[kKeys];  // its home
  alignas(64) std::uint64_t tag[kKeys];
  alignas(64) std::uint64_t slot[kKeys];  // where it may be, or kNone
  std::uint32_t elsewhere[kKeys + 8];     // keys that are not at home: they may be in their other set
  std::uint32_t elsewheres;
  std::uint32_t left[kKeys];  // keys whose slot needs a closer look
  std::uint32_t lefts;
};

// Steps of a look-up for all keys of a group; null where an instruction set has nothing better than plain
// code.
struct FlowKernel {
  // Hashes keys of 16 bytes (XXH3-64) and sends for their heads.
  void (*hash16)(const FlowIndex& index, const std::uint8_t* keys, FlowGroup& group) = nullptr;
  // Reads the heads, and sends for the records that the tags name, or else for the heads of the other sets.
  void (*match)(const FlowIndex& index, FlowGroup& group) = nullptr;
};
FlowKernel flow_kernel(Isa isa) noexcept;

}  // namespace fastpath
