#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "fastpath/exact_table.hpp"

namespace fastpath {
namespace {

template <typename Key, typename Value>
inline std::uint32_t match(const Bucket<Key, Value>& line, const Key& key) {
  return line.match(key);
}

#include "exact_find.hpp"

}  // namespace

ExactKernels exact_kernels_scalar() { return kernels(); }

}  // namespace fastpath
