// Longest-prefix match for AVX-512.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fastpath/fib_view.hpp"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target( \
    "avx2,bmi,bmi2,popcnt,lzcnt,movbe,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vbmi,avx512vbmi2,avx512vpopcntdq")

namespace fastpath::fib {
namespace {
#include "fib_walk.hpp"
}  // namespace

const Kernels* kernels_avx512() noexcept { return &kKernels; }
}  // namespace fastpath::fib

#pragma GCC pop_options
#else
namespace fastpath::fib {
const Kernels* kernels_avx512() noexcept { return nullptr; }
}  // namespace fastpath::fib
#endif
