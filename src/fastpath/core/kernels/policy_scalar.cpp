// Policies for the baseline of the platform.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/policy/tree.hpp"
#include "fastpath/wire.hpp"

namespace fastpath {
namespace {
#include "policy_walk.hpp"

// Vectors of the compiler: of two instructions or of many, as the platform has them.
using Halves = std::uint16_t __attribute__((vector_size(16)));
using Words = std::uint32_t __attribute__((vector_size(16)));

struct Steps {
  static Words load(const std::uint32_t* words) noexcept {
    Words loaded;
    std::memcpy(&loaded, words, sizeof loaded);
    return loaded;
  }
  // Where a half, less the low end, is over the width: all ones.
  static Words over(Words row, const std::uint32_t* low, const std::uint32_t* width) noexcept {
    const Halves above = reinterpret_cast<Halves>(row) - reinterpret_cast<Halves>(load(low));
    return reinterpret_cast<Words>(above > reinterpret_cast<Halves>(load(width)));
  }
  static std::uint32_t passing(const std::uint32_t* row, const PolicyLine& line) noexcept {
    const std::uint32_t windows = policy_windows(row, line);
    const Words passes = over(Words{windows, windows, windows, windows}, line.low, line.width) == 0;
    const Words bits = reinterpret_cast<Words>(passes) & Words{1, 2, 4, 8};
    return bits[0] | bits[1] | bits[2] | bits[3];
  }
  template <typename Row>
  static bool hold(const std::uint32_t* row, const std::uint32_t* low) noexcept {
    Words outside{};
    for (std::size_t w = 0; w < Row::kWords; w += 4) {
      Words each = over(load(row + w), low + w, low + Row::kWords + w);
      // But for the upper half of the protocol's word.
      if (w == Row::kProtocol / 4 * 4) each[Row::kProtocol % 4] &= 0xFFFF;
      outside |= each;
    }
    std::uint64_t halves[2];
    std::memcpy(halves, &outside, sizeof halves);
    return (halves[0] | halves[1]) == 0;
  }
  template <typename Address>
  static void rows(Address, const PolicyColumns& packets, std::size_t begin, std::size_t count,
                   std::uint32_t* rows) {
    for (std::size_t i = 0; i < count; ++i) {
      policy_row(packets, begin + i, rows + i * PolicyRow<Address>::kWords, Address());
    }
  }
};
}  // namespace

void policy_walk4_scalar(const PolicyTreeView& tree, const PolicyColumns& packets, std::size_t begin,
                         std::size_t count, std::uint32_t* found) {
  policy_walk<std::uint32_t, Steps>(tree, packets, begin, count, found);
}
void policy_walk6_scalar(const PolicyTreeView& tree, const PolicyColumns& packets, std::size_t begin,
                         std::size_t count, std::uint32_t* found) {
  policy_walk<Address16, Steps>(tree, packets, begin, count, found);
}

}  // namespace fastpath
