// Tuples of a policy: building them, and sharing what an edit does not touch.
#include <algorithm>
#include <bit>

#include "fastpath/policy/tuple.hpp"

namespace fastpath {

template <typename Address>
PolicyTuple<Address>::PolicyTuple(unsigned source_length, unsigned destination_length, std::uint32_t seed,
                                  const std::vector<Rule>& rules)
    : source_length_(source_length),
      destination_length_(destination_length),
      source_mask_(prefix_mask<Address>(source_length)),
      destination_mask_(prefix_mask<Address>(destination_length)),
      seed_(seed) {
  fill(rules);
}

template <typename Address>
void PolicyTuple<Address>::fill(const std::vector<Rule>& rules) {
  struct Key {
    std::uint32_t hash;
    std::uint32_t index;
    std::uint64_t order;
  };
  std::vector<Key> keys(rules.size());
  for (std::size_t i = 0; i < rules.size(); ++i) {
    keys[i] = {hash(rules[i].source, rules[i].destination), static_cast<std::uint32_t>(i), rules[i].order};
  }
  std::sort(keys.begin(), keys.end(), [](const Key& a, const Key& b) {
    return a.hash != b.hash ? a.hash < b.hash : a.order < b.order;
  });
  parts_.assign(std::bit_ceil(rules.size() / kChunk + 1), Part());
  for (std::size_t i = 0; i < keys.size();) {
    const std::size_t part = index_of(keys[i].hash);
    Chunk chunk;
    for (; i < keys.size() && index_of(keys[i].hash) == part; ++i) {
      chunk.hashes.push_back(keys[i].hash);
      chunk.rules.push_back(rules[keys[i].index]);
    }
    parts_[part] = part_with(std::move(chunk));
  }
  size_ = rules.size();
  first_order_ = ~std::uint64_t{0};
  for (const Rule& rule : rules) first_order_ = std::min(first_order_, rule.order);
}

template <typename Address>
typename PolicyTuple<Address>::Part PolicyTuple<Address>::part_with(Chunk chunk) {
  Part part;
  for (const std::uint32_t hash : chunk.hashes) part.filter |= std::uint64_t{1} << (hash & 63);
  for (const Rule& rule : chunk.rules) part.first_order = std::min(part.first_order, rule.order);
  if (!chunk.rules.empty()) part.chunk = std::make_shared<const Chunk>(std::move(chunk));
  return part;
}

template <typename Address>
std::shared_ptr<const PolicyTuple<Address>> PolicyTuple<Address>::with(const Rule& rule) const {
  auto next = std::make_shared<PolicyTuple>(*this);
  const std::uint32_t wanted = hash(rule.source, rule.destination);
  Part& part = next->parts_[index_of(wanted)];
  Chunk chunk = part.chunk != nullptr ? *part.chunk : Chunk();
  std::size_t at = chunk.begin(wanted);
  while (at < chunk.hashes.size() && chunk.hashes[at] == wanted && chunk.rules[at].order < rule.order) ++at;
  chunk.hashes.insert(chunk.hashes.begin() + static_cast<std::ptrdiff_t>(at), wanted);
  chunk.rules.insert(chunk.rules.begin() + static_cast<std::ptrdiff_t>(at), rule);
  part = part_with(std::move(chunk));
  next->first_order_ = std::min(first_order_, rule.order);
  next->size_ = size_ + 1;
  if (next->size_ > 2 * kChunk * parts_.size()) {
    std::vector<Rule> rules;
    rules.reserve(next->size_);
    next->each([&](const Rule& known) { rules.push_back(known); });
    next->fill(rules);
  }
  return next;
}

template <typename Address>
std::shared_ptr<const PolicyTuple<Address>> PolicyTuple<Address>::without(const Rule& rule) const {
  if (size_ == 1) return nullptr;
  auto next = std::make_shared<PolicyTuple>(*this);
  const std::uint32_t wanted = hash(rule.source, rule.destination);
  Part& part = next->parts_[index_of(wanted)];
  Chunk chunk = *part.chunk;
  std::size_t at = chunk.begin(wanted);
  while (chunk.rules[at].id != rule.id) ++at;
  chunk.hashes.erase(chunk.hashes.begin() + static_cast<std::ptrdiff_t>(at));
  chunk.rules.erase(chunk.rules.begin() + static_cast<std::ptrdiff_t>(at));
  part = part_with(std::move(chunk));
  next->size_ = size_ - 1;
  if (rule.order == first_order_) {
    next->first_order_ = ~std::uint64_t{0};
    for (const Part& each : next->parts_) next->first_order_ = std::min(next->first_order_, each.first_order);
  }
  return next;
}

template <typename Address>
bool PolicyTuple<Address>::contains(const Rule& rule) const noexcept {
  if (!takes(rule)) return false;
  const std::uint32_t wanted = hash(rule.source, rule.destination);
  const Part& part = part_of(wanted);
  if (part.chunk == nullptr) return false;
  const Chunk& chunk = *part.chunk;
  for (std::size_t i = chunk.begin(wanted); i < chunk.hashes.size() && chunk.hashes[i] == wanted; ++i) {
    if (chunk.rules[i].id == rule.id) return true;
  }
  return false;
}

template <typename Address>
std::size_t PolicyTuple<Address>::neighbours(const Rule& rule) const noexcept {
  const std::uint32_t wanted = hash(rule.source, rule.destination);
  const Part& part = part_of(wanted);
  if (part.chunk == nullptr) return 0;
  const auto range = std::equal_range(part.chunk->hashes.begin(), part.chunk->hashes.end(), wanted);
  return static_cast<std::size_t>(range.second - range.first);
}

template <typename Address>
std::size_t PolicyTuple<Address>::nbytes() const noexcept {
  std::size_t bytes = sizeof *this + parts_.capacity() * sizeof(Part);
  for (const Part& part : parts_) {
    if (part.chunk == nullptr) continue;
    bytes += sizeof(Chunk) + part.chunk->hashes.capacity() * sizeof(std::uint32_t) +
             part.chunk->rules.capacity() * sizeof(Rule);
  }
  return bytes;
}

template class PolicyTuple<std::uint32_t>;
template class PolicyTuple<Address16>;

}  // namespace fastpath
