// What one random read costs: 4 bytes at random places of a memory as large as a table, gathered 16 at a time
// with AVX-512 and one by one elsewhere. Called by bench_fib.py through ctypes:
//
//   c++ -O3 -march=native -std=c++20 -shared -fPIC roofline.cpp -o roofline.so
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {
constexpr std::size_t kHugePage = std::size_t{1} << 21;
}

// As the table's own memory: in huge pages where the kernel gives some. Never freed.
extern "C" std::uint32_t* roofline_memory(std::size_t bytes) {
  const std::size_t size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  auto* const memory = static_cast<std::uint32_t*>(std::aligned_alloc(kHugePage, size));
  if (memory == nullptr) return nullptr;
  madvise(memory, size, MADV_HUGEPAGE);
  for (std::size_t i = 0; i < size / 4; ++i) memory[i] = static_cast<std::uint32_t>(i);
  return memory;
}

// `n` is a multiple of 64.
extern "C" void roofline_gather(const std::uint32_t* memory, const std::uint32_t* places, std::uint32_t* out,
                                std::size_t n) {
#if defined(__AVX512F__)
  for (std::size_t i = 0; i < n; i += 64) {
    for (std::size_t k = i; k < i + 64; k += 16) {
      _mm512_storeu_si512(out + k, _mm512_i32gather_epi32(_mm512_loadu_si512(places + k), memory, 4));
    }
  }
#else
  for (std::size_t i = 0; i < n; ++i) out[i] = memory[places[i]];
#endif
}
