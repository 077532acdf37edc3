// The rules whose prefixes are at least so long, hashed on so much of their addresses. Immutable: a changed
// tuple shares all but one of its chunks with the one before.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "fastpath/hash.hpp"
#include "fastpath/policy/rule.hpp"

namespace fastpath {

template <typename Address>
class PolicyTuple {
 public:
  using Rule = PolicyRule<Address>;

  PolicyTuple(unsigned source_length, unsigned destination_length, std::uint32_t seed,
              const std::vector<Rule>& rules);

  std::shared_ptr<const PolicyTuple> with(const Rule& rule) const;
  // Null: the last rule is gone.
  std::shared_ptr<const PolicyTuple> without(const Rule& rule) const;

  // The first rule that matches and comes before `order`, or null.
  const Rule* find(const PolicyPacket<Address>& packet, std::uint64_t order) const noexcept {
    const std::uint32_t wanted = hash(packet.source, packet.destination);
    const Part& part = part_of(wanted);
    if ((part.filter >> (wanted & 63) & 1) == 0 || part.first_order >= order) return nullptr;
    const Chunk& chunk = *part.chunk;
    for (std::size_t i = chunk.begin(wanted); i < chunk.hashes.size() && chunk.hashes[i] == wanted; ++i) {
      if (chunk.rules[i].order >= order) return nullptr;
      if (matches(chunk.rules[i], packet)) return &chunk.rules[i];
    }
    return nullptr;
  }
  bool takes(const Rule& rule) const noexcept {
    return source_length_ <= rule.source_length && destination_length_ <= rule.destination_length;
  }
  bool contains(const Rule& rule) const noexcept;
  // How many rules share the bucket that this rule falls into.
  std::size_t neighbours(const Rule& rule) const noexcept;
  template <typename Visit>
  void each(Visit&& visit) const {
    for (const Part& part : parts_) {
      if (part.chunk == nullptr) continue;
      for (const Rule& rule : part.chunk->rules) visit(rule);
    }
  }

  unsigned source_length() const noexcept { return source_length_; }
  unsigned destination_length() const noexcept { return destination_length_; }
  std::uint32_t seed() const noexcept { return seed_; }
  std::uint64_t first_order() const noexcept { return first_order_; }
  std::size_t size() const noexcept { return size_; }
  std::size_t nbytes() const noexcept;

 private:
  static constexpr std::size_t kChunk = 32;  // rules of a chunk, on average

  struct Chunk {
    std::vector<std::uint32_t> hashes;  // ascending
    std::vector<Rule> rules;            // in the same places; of one hash, in order
    std::size_t begin(std::uint32_t hash) const noexcept {
      return static_cast<std::size_t>(std::lower_bound(hashes.begin(), hashes.end(), hash) - hashes.begin());
    }
  };
  struct Part {  // the rules whose hashes share their upper bits
    std::shared_ptr<const Chunk> chunk;
    std::uint64_t filter = 0;  // a bit for the lower six bits of each hash
    std::uint64_t first_order = ~std::uint64_t{0};
  };

  std::uint32_t hash(const Address& source, const Address& destination) const noexcept {
    if constexpr (sizeof(Address) == 4) {
      std::uint32_t h = ((source & source_mask_) ^ seed_) * 0x9E3779B1u;
      h = (h ^ h >> 15) + (destination & destination_mask_);
      h *= 0x85EBCA77u;
      h = (h ^ h >> 13) * 0xC2B2AE3Du;
      return h ^ h >> 16;
    } else {
      const Address pair[2] = {source & source_mask_, destination & destination_mask_};
      return static_cast<std::uint32_t>(xxh3_64(pair, sizeof pair, seed_) >> 32);
    }
  }
  std::size_t index_of(std::uint32_t hash) const noexcept {
    return static_cast<std::size_t>(std::uint64_t{hash} * parts_.size() >> 32);
  }
  const Part& part_of(std::uint32_t hash) const noexcept { return parts_[index_of(hash)]; }
  static Part part_with(Chunk chunk);
  void fill(const std::vector<Rule>& rules);

  unsigned source_length_;
  unsigned destination_length_;
  Address source_mask_;
  Address destination_mask_;
  std::uint32_t seed_;
  std::uint64_t first_order_ = ~std::uint64_t{0};
  std::size_t size_ = 0;
  std::vector<Part> parts_;
};

}  // namespace fastpath
