// Longest-prefix match for the baseline of the platform.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/fib_view.hpp"

namespace fastpath::fib {
namespace {
#include "fib_walk.hpp"
}  // namespace

const Kernels* kernels_scalar() noexcept { return &kKernels; }
}  // namespace fastpath::fib
