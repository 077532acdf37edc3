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

#include "fib_steps.hpp"

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
