// Random numbers that are a pure function of (seed, position), so that any sequence of picks can be replayed.
//
// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
#pragma once

#include <cstdint>

namespace fastpath::balance {

inline constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15u;

inline std::uint64_t mix64(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// The draw that belongs to a position; next_draw() gives the further ones of the same position.
inline std::uint64_t draw(std::uint64_t seed, std::uint64_t position) noexcept {
  return mix64(seed + (position + 1) * kGolden);
}
inline std::uint64_t next_draw(std::uint64_t x) noexcept { return mix64(x + kGolden); }

// 0 <= reduce(x, n) < n, from the high 32 bits.
inline std::uint64_t reduce(std::uint64_t x, std::uint64_t n) noexcept { return ((x >> 32) * n) >> 32; }

// [0, 1) and (0, 1], with 53 bits.
inline double unit(std::uint64_t x) noexcept { return static_cast<double>(x >> 11) * 0x1p-53; }
inline double unit_above_zero(std::uint64_t x) noexcept {
  return static_cast<double>((x >> 11) + 1) * 0x1p-53;
}

}  // namespace fastpath::balance
