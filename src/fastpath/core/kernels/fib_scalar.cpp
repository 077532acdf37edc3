// Longest-prefix match for the baseline of the platform.
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/fib_view.hpp"

namespace fastpath::fib {
namespace {
#include "fib_walk.hpp"

template <typename Leaf>
inline void many4(const View& view, const std::uint32_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  loop4<Leaf>(view, addresses, out, n, missing);
}
template <typename Leaf>
inline void many6(const View& view, const std::uint8_t* addresses, std::uint32_t* out, std::size_t n,
                  std::uint32_t missing) noexcept {
  loop6<Leaf>(view, addresses, out, n, missing);
}

#include "fib_entry.hpp"
}  // namespace

const Kernels* kernels_scalar() noexcept { return &kKernels; }
}  // namespace fastpath::fib
