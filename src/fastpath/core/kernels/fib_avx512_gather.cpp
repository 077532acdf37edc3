// Longest-prefix match for AVX-512 on processors that gather words faster than they load them one by one
// (gathers_fast() of cpu.hpp). Leaves are loaded one by one there too: a core waits for fewer lines of
// distant memory at once when it gathers them (Granite Rapids: 276 against 234 M look-ups a second).
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

#if defined(__SANITIZE_THREAD__)
// The checker knows no gathers: what they do on this machine, in words that it knows.
inline Vector words_at(const void* from, const std::uint64_t* at) { return fetch<std::uint64_t>(from, at); }
inline Vector halves_at(const std::uint32_t* from, Vector at) {
  alignas(8 * kLanes) std::uint64_t places[kLanes];
  store(places, at);
  for (std::uint64_t& place : places) place = __atomic_load_n(from + place, __ATOMIC_ACQUIRE);
  return load(places);
}
#else
inline Vector words_at(const void* from, const std::uint64_t* at) {
  return _mm512_i64gather_epi64(load(at), from, sizeof(std::uint64_t));
}
inline Vector halves_at(const std::uint32_t* from, Vector at) {
  return _mm512_cvtepu32_epi64(_mm512_i64gather_epi32(at, from, sizeof(std::uint32_t)));
}
#endif

// The entries of page and byte 2, by the page that bytes 0 and 1 tell.
template <std::size_t kCount>
inline void roots6_at(const View& view, const std::uint8_t* addresses, std::uint64_t* at) {
  for (std::size_t k = 0; k < kCount; k += kLanes) {
    ask_ahead(addresses + 16 * k);
    ask_ahead(addresses + 16 * k + 64);
    const Vector head = heads6(addresses + 16 * k);
    const Vector top = bytes_of(head, byte_pattern(0x8080'8080'8080'0001));
    const Vector page = halves_at(view.root6, top);
    store(at + k, either(shift_up<8>(page), bytes_of(head, byte_pattern(0x8080'8080'8080'8002))));
  }
  for (std::size_t k = 0; k < kCount; k += kLanes) store(at + k, words_at(view.pages, at + k));
}

#include "fib_vectors.hpp"

#include "fib_entry.hpp"
}  // namespace

const Kernels* kernels_avx512_gather() noexcept { return &kKernels; }
}  // namespace fastpath::fib

#pragma GCC pop_options
#else
namespace fastpath::fib {
const Kernels* kernels_avx512_gather() noexcept { return nullptr; }
}  // namespace fastpath::fib
#endif
