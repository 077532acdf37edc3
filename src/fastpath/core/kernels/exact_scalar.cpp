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

template <std::size_t kRecord>
inline bool same_record(const WideTable& table, const std::uint8_t* record, const std::uint8_t* key) {
  return table.same(record, key);
}

#include "exact_find.hpp"

}  // namespace

ExactKernels exact_kernels_scalar() { return kernels_here(); }

}  // namespace fastpath
