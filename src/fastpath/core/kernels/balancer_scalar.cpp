// Batch picks, any processor.
#include <limits>

#include "fastpath/balance/balancer.hpp"

namespace fastpath::balance {

namespace {

void slots(const std::uint16_t* table, std::uint32_t slots, const std::uint64_t* hashes, Id* ids,
           std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) ids[i] = table[hashes[i] % slots];
}

void alias(const std::uint64_t* table, const Id* members, std::uint64_t count, std::uint64_t seed,
           std::uint64_t first, Id* ids, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t x = draw(seed, first + i);
    std::uint64_t index = reduce(x, count);
    if (table != nullptr) {
      const std::uint64_t entry = table[index];
      if (static_cast<std::uint32_t>(x) >= static_cast<std::uint32_t>(entry)) index = entry >> 32;
    }
    ids[i] = members[index];
  }
}

// -ln(u) is at least 1 - u, which mostly spares the logarithm.
std::size_t rendezvous(const std::uint64_t* nodes, const double* inverse_weights, std::size_t n,
                       std::uint64_t hash) {
  double lowest = std::numeric_limits<double>::infinity();
  std::size_t best = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double u = unit_above_zero(mix64(hash ^ nodes[i]));
    if ((1.0 - u) * inverse_weights[i] > lowest) continue;
    const double score = rendezvous_score(hash, nodes[i], inverse_weights[i]);
    if (score < lowest) {
      lowest = score;
      best = i;
    }
  }
  return best;
}

void jump(const std::uint64_t* hashes, std::uint32_t count, std::uint32_t* buckets, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) buckets[i] = jump_hash(hashes[i], count);
}

}  // namespace

const Kernels& scalar_kernels() noexcept {
  static constexpr Kernels kernels{slots, alias, rendezvous, jump, jump_hash};
  return kernels;
}

}  // namespace fastpath::balance
