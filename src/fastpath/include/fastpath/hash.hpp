// Hash functions with public specifications, inlined into the tables and the balancers.
//
// XXH3-64 and XXH64: Collet, "xxHash fast digest algorithm" (format specification 0.2.0), little-endian.
// MurmurHash3_x86_32: Appleby, public domain. CRC-32: ISO 3309 (the polynomial of zlib and Ethernet).
// All are seedable where the specification is, and none of them is cryptographic: a table that takes keys
// from strangers draws its seed at random.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastpath {

namespace hash_detail {

inline std::uint32_t load32(const std::uint8_t* p) noexcept {
  std::uint32_t v;
  std::memcpy(&v, p, sizeof v);
  if constexpr (std::endian::native == std::endian::big) v = __builtin_bswap32(v);
  return v;
}

inline std::uint64_t load64(const std::uint8_t* p) noexcept {
  std::uint64_t v;
  std::memcpy(&v, p, sizeof v);
  if constexpr (std::endian::native == std::endian::big) v = __builtin_bswap64(v);
  return v;
}

inline constexpr std::uint32_t kPrime32_1 = 0x9E3779B1u;
inline constexpr std::uint32_t kPrime32_2 = 0x85EBCA77u;
inline constexpr std::uint32_t kPrime32_3 = 0xC2B2AE3Du;
inline constexpr std::uint64_t kPrime64_1 = 0x9E3779B185EBCA87u;
inline constexpr std::uint64_t kPrime64_2 = 0xC2B2AE3D27D4EB4Fu;
inline constexpr std::uint64_t kPrime64_3 = 0x165667B19E3779F9u;
inline constexpr std::uint64_t kPrime64_4 = 0x85EBCA77C2B2AE63u;
inline constexpr std::uint64_t kPrime64_5 = 0x27D4EB2F165667C5u;
inline constexpr std::uint64_t kPrimeMx1 = 0x165667919E3779F9u;
inline constexpr std::uint64_t kPrimeMx2 = 0x9FB21C651E98DF25u;

// The default secret of XXH3.
inline constexpr std::size_t kSecretSize = 192;
alignas(64) inline constexpr std::uint8_t kSecret[] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};
static_assert(sizeof kSecret == kSecretSize);

inline std::uint64_t fold128(std::uint64_t a, std::uint64_t b) noexcept {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

inline std::uint64_t avalanche64(std::uint64_t h) noexcept {
  h ^= h >> 33;
  h *= kPrime64_2;
  h ^= h >> 29;
  h *= kPrime64_3;
  return h ^ (h >> 32);
}

inline std::uint64_t avalanche3(std::uint64_t h) noexcept {
  h ^= h >> 37;
  h *= kPrimeMx1;
  return h ^ (h >> 32);
}

inline std::uint64_t mix16(const std::uint8_t* in, const std::uint8_t* secret, std::uint64_t seed) noexcept {
  return fold128(load64(in) ^ (load64(secret) + seed), load64(in + 8) ^ (load64(secret + 8) - seed));
}

// What the words of keys of 9 to 16 and of 4 to 8 bytes are mixed with.
inline std::uint64_t xxh3_flip_low(std::uint64_t seed) noexcept {
  return (load64(kSecret + 24) ^ load64(kSecret + 32)) + seed;
}
inline std::uint64_t xxh3_flip_high(std::uint64_t seed) noexcept {
  return (load64(kSecret + 40) ^ load64(kSecret + 48)) - seed;
}
inline std::uint64_t xxh3_flip_4to8(std::uint64_t seed) noexcept {
  seed ^= static_cast<std::uint64_t>(__builtin_bswap32(static_cast<std::uint32_t>(seed))) << 32;
  return (load64(kSecret + 8) ^ load64(kSecret + 16)) - seed;
}

inline std::uint64_t xxh3_0to16(const std::uint8_t* in, std::size_t size, std::uint64_t seed) noexcept {
  if (size > 8) {
    const std::uint64_t low = load64(in) ^ xxh3_flip_low(seed);
    const std::uint64_t high = load64(in + size - 8) ^ xxh3_flip_high(seed);
    return avalanche3(size + __builtin_bswap64(low) + high + fold128(low, high));
  }
  if (size >= 4) {
    std::uint64_t h = load32(in + size - 4) + (static_cast<std::uint64_t>(load32(in)) << 32);
    h ^= xxh3_flip_4to8(seed);
    h ^= std::rotl(h, 49) ^ std::rotl(h, 24);
    h *= kPrimeMx2;
    h ^= (h >> 35) + size;
    h *= kPrimeMx2;
    return h ^ (h >> 28);
  }
  if (size > 0) {
    const std::uint32_t combined = (static_cast<std::uint32_t>(in[0]) << 16) |
                                   (static_cast<std::uint32_t>(in[size >> 1]) << 24) | in[size - 1] |
                                   (static_cast<std::uint32_t>(size) << 8);
    return avalanche64(combined ^ ((load32(kSecret) ^ load32(kSecret + 4)) + seed));
  }
  return avalanche64(seed ^ load64(kSecret + 56) ^ load64(kSecret + 64));
}

inline std::uint64_t xxh3_17to32(const std::uint8_t* in, std::size_t size, std::uint64_t seed) noexcept {
  return avalanche3(size * kPrime64_1 + mix16(in, kSecret, seed) + mix16(in + size - 16, kSecret + 16, seed));
}

inline std::uint64_t xxh3_33to64(const std::uint8_t* in, std::size_t size, std::uint64_t seed) noexcept {
  return avalanche3(size * kPrime64_1 + mix16(in, kSecret, seed) + mix16(in + size - 16, kSecret + 16, seed) +
                    mix16(in + 16, kSecret + 32, seed) + mix16(in + size - 32, kSecret + 48, seed));
}

inline std::uint64_t xxh3_17to128(const std::uint8_t* in, std::size_t size, std::uint64_t seed) noexcept {
  std::uint64_t acc = size * kPrime64_1;
  for (std::size_t i = (size - 1) / 32 + 1; i-- > 0;) {
    acc += mix16(in + 16 * i, kSecret + 32 * i, seed);
    acc += mix16(in + size - 16 * (i + 1), kSecret + 32 * i + 16, seed);
  }
  return avalanche3(acc);
}

inline std::uint64_t xxh3_129to240(const std::uint8_t* in, std::size_t size, std::uint64_t seed) noexcept {
  std::uint64_t acc = size * kPrime64_1;
  for (std::size_t i = 0; i < 8; ++i) acc += mix16(in + 16 * i, kSecret + 16 * i, seed);
  acc = avalanche3(acc);
  for (std::size_t i = 8; i < size / 16; ++i) acc += mix16(in + 16 * i, kSecret + 16 * (i - 8) + 3, seed);
  acc += mix16(in + size - 16, kSecret + 136 - 17, seed);
  return avalanche3(acc);
}

inline void xxh3_stripe(std::uint64_t* acc, const std::uint8_t* in, const std::uint8_t* secret) noexcept {
  for (std::size_t i = 0; i < 8; ++i) {
    const std::uint64_t value = load64(in + 8 * i);
    const std::uint64_t keyed = value ^ load64(secret + 8 * i);
    acc[i ^ 1] += value;
    acc[i] += (keyed & 0xFFFFFFFFu) * (keyed >> 32);
  }
}

inline std::uint64_t xxh3_long(const std::uint8_t* in, std::size_t size, std::uint64_t seed) noexcept {
  constexpr std::size_t kStripe = 64;
  constexpr std::size_t kStripesPerBlock = (kSecretSize - kStripe) / 8;
  constexpr std::size_t kBlock = kStripe * kStripesPerBlock;
  std::uint8_t secret[kSecretSize];
  for (std::size_t i = 0; i < kSecretSize; i += 16) {
    std::uint64_t pair[2] = {load64(kSecret + i) + seed, load64(kSecret + i + 8) - seed};
    if constexpr (std::endian::native == std::endian::big) {
      for (std::uint64_t& word : pair) word = __builtin_bswap64(word);
    }
    std::memcpy(secret + i, pair, sizeof pair);
  }
  std::uint64_t acc[8] = {kPrime32_3, kPrime64_1, kPrime64_2, kPrime64_3,
                          kPrime64_4, kPrime32_2, kPrime64_5, kPrime32_1};
  const std::size_t blocks = (size - 1) / kBlock;
  for (std::size_t block = 0; block < blocks; ++block) {
    for (std::size_t i = 0; i < kStripesPerBlock; ++i) {
      xxh3_stripe(acc, in + block * kBlock + i * kStripe, secret + 8 * i);
    }
    for (std::size_t i = 0; i < 8; ++i) {
      acc[i] = (acc[i] ^ (acc[i] >> 47) ^ load64(secret + kSecretSize - kStripe + 8 * i)) * kPrime32_1;
    }
  }
  const std::size_t stripes = (size - 1 - blocks * kBlock) / kStripe;
  for (std::size_t i = 0; i < stripes; ++i) {
    xxh3_stripe(acc, in + blocks * kBlock + i * kStripe, secret + 8 * i);
  }
  xxh3_stripe(acc, in + size - kStripe, secret + kSecretSize - kStripe - 7);
  std::uint64_t merged = size * kPrime64_1;
  for (std::size_t i = 0; i < 4; ++i) {
    merged +=
        fold128(acc[2 * i] ^ load64(secret + 11 + 16 * i), acc[2 * i + 1] ^ load64(secret + 11 + 16 * i + 8));
  }
  return avalanche3(merged);
}

inline constexpr std::array<std::array<std::uint32_t, 256>, 8> kCrc32 = [] {
  std::array<std::array<std::uint32_t, 256>, 8> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0xEDB88320u : 0);
    table[0][i] = c;
  }
  for (std::size_t row = 1; row < 8; ++row) {
    for (std::size_t i = 0; i < 256; ++i) {
      table[row][i] = (table[row - 1][i] >> 8) ^ table[0][table[row - 1][i] & 0xFF];
    }
  }
  return table;
}();

}  // namespace hash_detail

// XXH3, 64 bits. A size known at compile time leaves one branch-free path of it.
inline std::uint64_t xxh3_64(const void* data, std::size_t size, std::uint64_t seed = 0) noexcept {
  const auto* in = static_cast<const std::uint8_t*>(data);
  if (size <= 16) return hash_detail::xxh3_0to16(in, size, seed);
  if (size <= 128) return hash_detail::xxh3_17to128(in, size, seed);
  if (size <= 240) return hash_detail::xxh3_129to240(in, size, seed);
  return hash_detail::xxh3_long(in, size, seed);
}

// XXH64.
inline std::uint64_t xxh64(const void* data, std::size_t size, std::uint64_t seed = 0) noexcept {
  using namespace hash_detail;
  const auto* in = static_cast<const std::uint8_t*>(data);
  const auto round = [](std::uint64_t acc, std::uint64_t value) {
    return std::rotl(acc + value * kPrime64_2, 31) * kPrime64_1;
  };
  std::size_t left = size;
  std::uint64_t h = seed + kPrime64_5;
  if (left >= 32) {
    std::uint64_t lane[4] = {seed + kPrime64_1 + kPrime64_2, seed + kPrime64_2, seed, seed - kPrime64_1};
    for (; left >= 32; left -= 32, in += 32) {
      for (int i = 0; i < 4; ++i) lane[i] = round(lane[i], load64(in + 8 * i));
    }
    h = std::rotl(lane[0], 1) + std::rotl(lane[1], 7) + std::rotl(lane[2], 12) + std::rotl(lane[3], 18);
    for (const std::uint64_t value : lane) h = (h ^ round(0, value)) * kPrime64_1 + kPrime64_4;
  }
  h += size;
  for (; left >= 8; left -= 8, in += 8) {
    h = std::rotl(h ^ round(0, load64(in)), 27) * kPrime64_1 + kPrime64_4;
  }
  if (left >= 4) {
    h = std::rotl(h ^ (load32(in) * kPrime64_1), 23) * kPrime64_2 + kPrime64_3;
    left -= 4;
    in += 4;
  }
  for (; left > 0; --left, ++in) h = std::rotl(h ^ (*in * kPrime64_5), 11) * kPrime64_1;
  return avalanche64(h);
}

// MurmurHash3_x86_32.
inline std::uint32_t murmur3_32(const void* data, std::size_t size, std::uint32_t seed = 0) noexcept {
  const auto* in = static_cast<const std::uint8_t*>(data);
  const auto scramble = [](std::uint32_t k) { return std::rotl(k * 0xCC9E2D51u, 15) * 0x1B873593u; };
  std::uint32_t h = seed;
  std::size_t left = size;
  for (; left >= 4; left -= 4, in += 4) {
    h = std::rotl(h ^ scramble(hash_detail::load32(in)), 13) * 5 + 0xE6546B64u;
  }
  std::uint32_t tail = 0;
  for (std::size_t i = left; i-- > 0;) tail = (tail << 8) | in[i];
  h ^= scramble(tail) ^ static_cast<std::uint32_t>(size);
  h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
  h = (h ^ (h >> 13)) * 0xC2B2AE35u;
  return h ^ (h >> 16);
}

// CRC-32 as zlib computes it; `crc` continues an earlier result.
inline std::uint32_t crc32(const void* data, std::size_t size, std::uint32_t crc = 0) noexcept {
  using hash_detail::kCrc32;
  const auto* in = static_cast<const std::uint8_t*>(data);
  std::uint32_t c = ~crc;
  for (; size >= 8; size -= 8, in += 8) {
    const std::uint64_t word = hash_detail::load64(in) ^ c;
    c = 0;
    for (std::size_t i = 0; i < 8; ++i) c ^= kCrc32[7 - i][(word >> (8 * i)) & 0xFF];
  }
  for (; size > 0; --size, ++in) c = (c >> 8) ^ kCrc32[0][(c ^ *in) & 0xFF];
  return ~c;
}

}  // namespace fastpath
