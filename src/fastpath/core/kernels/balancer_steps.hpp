// Batch picks in vectors of 64-bit lanes. The file that includes this has opened a target region and says in
// `Simd` what differs: the width, and the instructions that the vector extensions of the compiler have no
// sign for.

constexpr std::size_t kLanes = sizeof(Simd::Words) / 8;
using Words = Simd::Words;
using Reals = Simd::Reals;
using Signed = std::int64_t __attribute__((vector_size(sizeof(Words))));

inline Words words(const std::uint64_t* from) noexcept {
  Words value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline Reals reals(const double* from) noexcept {
  Reals value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline Words mix(Words x) noexcept {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// hash mod slots, as h = high * 2^32 + low = high * (2^32 mod slots) + low (mod slots). That is below 2^52,
// the quotient is off by one at most, and the remainder is exact.
inline Simd::Places remainder(Words hash, std::uint64_t fold, double slots, double inverse) noexcept {
  const Reals value = Simd::small_real(Simd::multiply_low(hash >> 32, fold) + (hash & 0xFFFFFFFFu));
  Reals rest = Simd::minus_product(value, Simd::floor(value * inverse), slots);
  rest = rest < 0.0 ? rest + slots : rest;
  rest = rest >= slots ? rest - slots : rest;
  return Simd::places(rest);
}

void slots(const std::uint16_t* table, std::uint32_t slots, const std::uint64_t* hashes, Id* ids,
           std::size_t n) {
  std::size_t i = 0;
  if (slots <= 1u << 20) {
    const std::uint64_t fold = (std::uint64_t{1} << 32) % slots;
    const double inverse = 1.0 / slots;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
      Simd::gather_pairs(table, remainder(words(hashes + i), fold, slots, inverse),
                         remainder(words(hashes + i + kLanes), fold, slots, inverse), ids + i);
    }
  }
  for (; i < n; ++i) ids[i] = table[hashes[i] % slots];
}

void alias(const std::uint64_t* table, const Id* members, std::uint64_t count, std::uint64_t seed,
           std::uint64_t first, Id* ids, std::size_t n) {
  std::uint64_t start[kLanes];
  for (std::uint64_t lane = 0; lane < kLanes; ++lane) start[lane] = seed + (first + lane + 1) * kGolden;
  Words state = words(start);
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes, state += kLanes * kGolden) {
    const Words x = mix(state);
    Words index = Simd::multiply_low(x >> 32, count) >> 32;
    if (table != nullptr) {
      const Words entry = Simd::gather(table, index);
      // Both are below 2^32; a signed comparison is one instruction everywhere.
      const auto keep =
          reinterpret_cast<Signed>(x & 0xFFFFFFFFu) < reinterpret_cast<Signed>(entry & 0xFFFFFFFFu);
      index = keep ? index : entry >> 32;
    }
    Simd::gather_ids(members, index, ids + i);
  }
  if (i < n) scalar_kernels().alias(table, members, count, seed, first + i, ids + i, n - i);
}

// 1 - u <= -ln(u) <= (1 - u) / u: the least upper bound seen so far leaves few whose logarithm is needed.
std::size_t rendezvous(const std::uint64_t* nodes, const double* inverse_weights, std::size_t n,
                       std::uint64_t hash) {
  constexpr std::size_t kBlock = 8 * kLanes;
  double lower[kBlock];
  Reals ceiling = Reals{} + std::numeric_limits<double>::infinity();
  double lowest = std::numeric_limits<double>::infinity();
  std::size_t best = 0;
  std::size_t begin = 0;
  const auto look = [&](std::size_t at) {
    const double score = rendezvous_score(hash, nodes[at], inverse_weights[at]);
    if (score >= lowest) return;
    lowest = score;
    best = at;
  };
  while (begin + kLanes <= n) {
    const std::size_t some = std::min(kBlock, (n - begin) / kLanes * kLanes);
    for (std::size_t i = 0; i < some; i += kLanes) {
      const Words x = mix(words(nodes + begin + i) ^ hash);
      const Reals u = Simd::real((x >> 11) + 1) * 0x1p-53;
      const Reals least = (1.0 - u) * reals(inverse_weights + begin + i);
      std::memcpy(lower + i, &least, sizeof least);
      // A little above, for the roundings of the division and of the logarithm.
      const Reals most = least / u * (1.0 + 0x1p-40);
      ceiling = most < ceiling ? most : ceiling;
    }
    double bound = ceiling[0];
    for (std::size_t lane = 1; lane < kLanes; ++lane) bound = std::min(bound, ceiling[lane]);
    for (std::size_t i = 0; i < some; i += kLanes) {
      for (unsigned may = Simd::mask(reals(lower + i) <= bound); may != 0; may &= may - 1) {
        look(begin + i + static_cast<std::size_t>(__builtin_ctz(may)));
      }
    }
    begin += some;
  }
  for (; begin < n; ++begin) look(begin);
  return best;
}

// As jump_hash(). Several vectors go side by side, because each waits for its product and its cut.
void jump(const std::uint64_t* hashes, std::uint32_t count, std::uint32_t* buckets, std::size_t n) {
  constexpr std::size_t kSide = 4;
  const double end = count;
  std::size_t i = 0;
  for (; i + kSide * kLanes <= n; i += kSide * kLanes) {
    Words key[kSide];
    Reals bucket[kSide];
    Reals next[kSide];
    for (std::size_t k = 0; k < kSide; ++k) {
      key[k] = words(hashes + i + k * kLanes);
      bucket[k] = next[k] = Reals{};
    }
    unsigned going = 1;
    while (going != 0) {
      going = 0;
      for (std::size_t k = 0; k < kSide; ++k) {
        key[k] = key[k] * kJumpMultiplier + 1;
        const Reals part = Simd::small_real((key[k] >> 33) + 1);
        const Reals after = Simd::floor((bucket[k] + 1.0) * (0x1p31 / part));
        // Who has gone past the end stays there.
        next[k] = next[k] < end ? after : next[k];
        bucket[k] = next[k] < end ? next[k] : bucket[k];
        going |= Simd::mask(next[k] < end);
      }
    }
    for (std::size_t k = 0; k < kSide; ++k) Simd::store(Simd::places(bucket[k]), buckets + i + k * kLanes);
  }
  if (i < n) scalar_kernels().jump(hashes + i, count, buckets + i, n - i);
}

// One alone waits for each of its buckets, so the way from one to the next is what counts: a product and a
// cut.
std::uint32_t jump_one(std::uint64_t key, std::uint32_t count) noexcept {
  const double end = count;
  for (double bucket = 0.0;;) {
    key = key * kJumpMultiplier + 1;
    const auto part = static_cast<double>(static_cast<std::int64_t>((key >> 33) + 1));
    const double next = Simd::product_of_next(bucket, 0x1p31 / part);
    if (!(next < end)) return static_cast<std::uint32_t>(static_cast<std::int64_t>(bucket));
    bucket = Simd::floor(next);
  }
}
