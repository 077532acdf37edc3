// Longest-prefix match for AVX-512, loads one by one.
#if defined(__GNUC__) && !defined(__clang__)
// Some intrinsics of GCC 12 leave don't-care lanes unset on purpose.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "fastpath/fib_view.hpp"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target( \
    "avx2,bmi,bmi2,popcnt,lzcnt,movbe,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vbmi,avx512vbmi2,avx512vpopcntdq")

namespace fastpath::fib {
namespace {
#include "fib_walk.hpp"

#include "fib_lanes.hpp"

#include "fib_avx512_lanes.hpp"

inline Vector words_at(const void* from, const std::uint64_t* at) { return fetch<std::uint64_t>(from, at); }
template <std::size_t kCount>
inline void roots6_at(const View& view, const std::uint8_t* addresses, std::uint64_t* at) {
  roots6_one_by_one<kCount>(view, addresses, at);
}

#include "fib_vectors.hpp"

#include "fib_entry.hpp"
}  // namespace

const Kernels* kernels_avx512() noexcept { return &kKernels; }
}  // namespace fastpath::fib

#pragma GCC pop_options
#else
namespace fastpath::fib {
const Kernels* kernels_avx512() noexcept { return nullptr; }
}  // namespace fastpath::fib
#endif
