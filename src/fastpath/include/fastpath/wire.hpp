// Integers in network byte order, at any alignment.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastpath {

// Compilers make one load and one byte swap of each.
inline std::uint16_t load_be16(const std::uint8_t* p) noexcept {
  return static_cast<std::uint16_t>(p[0] << 8 | p[1]);
}
inline std::uint32_t load_be32(const std::uint8_t* p) noexcept {
  return std::uint32_t{p[0]} << 24 | std::uint32_t{p[1]} << 16 | std::uint32_t{p[2]} << 8 | p[3];
}
inline std::uint64_t load_be64(const std::uint8_t* p) noexcept {
  return std::uint64_t{load_be32(p)} << 32 | load_be32(p + 4);
}
inline std::uint64_t load_be48(const std::uint8_t* p) noexcept {
  return std::uint64_t{load_be32(p)} << 16 | load_be16(p + 4);
}
inline void store_be16(std::uint8_t* p, std::size_t value) noexcept {
  p[0] = static_cast<std::uint8_t>(value >> 8);
  p[1] = static_cast<std::uint8_t>(value);
}

}  // namespace fastpath
