// Policies for the baseline of the platform.
#include <cstddef>
#include <cstdint>

#include "fastpath/policy/tree.hpp"

namespace fastpath {
namespace {
#include "policy_walk.hpp"

template <std::size_t Words>
struct Bounds {
  static constexpr std::size_t kWords = Words;
  static bool hold(const std::uint32_t* row, const std::uint32_t* bounds) noexcept {
    std::uint32_t outside = 0;
    for (std::size_t w = 0; w < Words; ++w) outside |= row[w] - bounds[w] > bounds[Words + w];
    return outside == 0;
  }
};
}  // namespace

void policy_walk4_scalar(const PolicyTreeView& tree, const std::uint32_t* rows, std::size_t count,
                         std::uint32_t* found) {
  policy_walk<Bounds<PolicyRow<std::uint32_t>::kWords>>(tree, rows, count, found);
}
void policy_walk6_scalar(const PolicyTreeView& tree, const std::uint32_t* rows, std::size_t count,
                         std::uint32_t* found) {
  policy_walk<Bounds<PolicyRow<Address16>::kWords>>(tree, rows, count, found);
}

}  // namespace fastpath
