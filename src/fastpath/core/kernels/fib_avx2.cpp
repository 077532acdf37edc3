// Longest-prefix match for AVX2 with BMI and POPCNT.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/fib_view.hpp"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,lzcnt,movbe")

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

const Kernels* kernels_avx2() noexcept { return &kKernels; }
}  // namespace fastpath::fib

#pragma GCC pop_options
#else
namespace fastpath::fib {
const Kernels* kernels_avx2() noexcept { return nullptr; }
}  // namespace fastpath::fib
#endif
