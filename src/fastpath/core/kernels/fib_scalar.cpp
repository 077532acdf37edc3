// Longest-prefix match for the baseline of the platform.
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "fastpath/fib_view.hpp"

namespace fastpath::fib {
namespace {
#include "fib_walk.hpp"

#include "fib_steps.hpp"

#include "fib_entry.hpp"
}  // namespace

const Kernels* kernels_scalar() noexcept { return &kKernels; }
}  // namespace fastpath::fib
