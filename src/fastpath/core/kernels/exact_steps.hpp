// The steps of exact_find.hpp in plain C++. Included, like that, inside the target region and the anonymous
// namespace of an instruction set.

template <typename Key>
struct Hasher {
  void operator()(const Key* keys, std::uint64_t* hashes) const {
    for (std::size_t i = 0; i < 8; ++i) hashes[i] = hash_key(keys[i], seed);
  }
  std::uint64_t seed;
};

inline void aim(const std::uint64_t* hashes, std::uint64_t buckets, std::uint64_t from, std::uint64_t lines,
                std::uint64_t nothing, std::uint64_t* addresses) {
  for (std::size_t i = 0; i < 8; ++i) {
    const auto home = static_cast<std::uint64_t>((static_cast<unsigned __int128>(hashes[i]) * buckets) >> 64);
    addresses[i] = home >= from ? lines + 64 * home : nothing;
  }
}

inline std::uint64_t nonzero_bytes(const std::uint8_t* bytes) {
  std::uint64_t mask = 0;
  for (std::size_t i = 0; i < 64; i += 8) {
    const std::uint64_t word = hash_detail::load64(bytes + i);
    // The upper bit of each byte that is not zero, then those eight bits side by side.
    const std::uint64_t upper =
        (((word & 0x7F7F7F7F7F7F7F7F) + 0x7F7F7F7F7F7F7F7F) | word) & 0x8080808080808080;
    mask |= (upper >> 7) * 0x0102040810204080 >> 56 << i;
  }
  return mask;
}

inline std::uint64_t any_bits(const std::uint32_t* words, std::uint32_t bits) {
  std::uint8_t some[64];
  for (std::size_t i = 0; i < 64; ++i) some[i] = (words[i] & bits) != 0;
  return nonzero_bytes(some);
}

template <typename Value>
inline void deliver(Value* out, const Value* values, std::uint64_t hit, std::size_t count, Value missing) {
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = missing ^ ((values[i] ^ missing) & (Value{0} - (hit >> i & 1)));
  }
}

template <typename Key>
inline void join_row(const std::uint8_t* first, const std::uint8_t* second, HalfOf<Key> mask, Key* keys) {
  constexpr std::size_t kHalf = sizeof(HalfOf<Key>);
  for (std::size_t i = 0; i < 8; ++i) {
    keys[i] = join_halves(load_key<HalfOf<Key>>(first + i * kHalf, kHalf) & mask,
                          load_key<HalfOf<Key>>(second + i * kHalf, kHalf) & mask);
  }
}
