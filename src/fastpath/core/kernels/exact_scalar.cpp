#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/exact_table.hpp"
#include "fastpath/fdb.hpp"
#include "fastpath/prefetch.hpp"

namespace fastpath {
namespace {

template <typename Key, typename Value>
inline std::uint32_t match(const Bucket<Key, Value>& line, const Key& key) {
  return line.match(key);
}

#include "exact_steps.hpp"

#include "exact_find.hpp"

}  // namespace

ExactKernels exact_kernels_scalar() {
  return {find_inline<InlineTable<std::uint32_t>::Index>, find_inline<InlineTable<std::uint64_t>::Index>,
          find_inline<InlineTable<Key16>::Index>, find_inline<Fdb::Index>, find_wide};
}

}  // namespace fastpath
