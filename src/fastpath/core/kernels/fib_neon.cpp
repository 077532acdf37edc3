// Longest-prefix match for NEON, which is the baseline of AArch64.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "fastpath/fib_view.hpp"

#if defined(__aarch64__)
namespace fastpath::fib {
namespace {
#include "fib_walk.hpp"

#include "fib_steps.hpp"

#include "fib_entry.hpp"
}  // namespace

const Kernels* kernels_neon() noexcept { return &kKernels; }
}  // namespace fastpath::fib
#else
namespace fastpath::fib {
const Kernels* kernels_neon() noexcept { return nullptr; }
}  // namespace fastpath::fib
#endif
