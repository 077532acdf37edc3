#include "fastpath/exact_table.hpp"

#include <stdexcept>

namespace fastpath {

ExactKernels exact_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx2) return exact_kernels_avx2();
  if (isa == Isa::avx512) return exact_kernels_avx512();
#else
  static_cast<void>(isa);
#endif
  return exact_kernels_scalar();
}

std::unique_ptr<ExactTable> ExactTable::make(std::size_t key_size, std::size_t capacity, std::uint64_t seed,
                                             Isa isa) {
  const ExactKernels kernels = exact_kernels(isa);
  if (key_size == 0 || key_size > kMaxKeySize) throw std::invalid_argument("key size must be 1..64 bytes");
  if (key_size <= 4)
    return std::make_unique<InlineTable<std::uint32_t>>(key_size, capacity, seed, kernels.find4, nullptr);
  if (key_size <= 8)
    return std::make_unique<InlineTable<std::uint64_t>>(key_size, capacity, seed, kernels.find8,
                                                        kernels.find_halves8);
  if (key_size <= 16)
    return std::make_unique<InlineTable<Key16>>(key_size, capacity, seed, kernels.find16,
                                                kernels.find_halves16);
  return std::make_unique<WideTable>(key_size, capacity, seed,
                                     key_size <= 32 ? kernels.find_wide32 : kernels.find_wide64);
}

}  // namespace fastpath
