// Which instruction sets this machine may run, and which one the kernels use.
#pragma once

#include <cstdlib>
#include <cstring>
#include <initializer_list>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fastpath {

// Each step contains the ones before it on its architecture.
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2, neon = 3 };

inline const char* isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::neon:
      return "neon";
    default:
      return "scalar";
  }
}

// "avx2" here means AVX2 with BMI1, BMI2 and POPCNT (x86-64-v3); "avx512" means F, BW, DQ, VL, CD, VBMI,
// VBMI2 and VPOPCNTDQ (Ice Lake and Zen 4 onwards).
inline bool isa_supported(Isa isa) noexcept {
  switch (isa) {
    case Isa::scalar:
      return true;
#if defined(__x86_64__)
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
             __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
    case Isa::avx512:
      return isa_supported(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
             __builtin_cpu_supports("avx512vpopcntdq");
#elif defined(__aarch64__)
    case Isa::neon:
      return true;
#endif
    default:
      return false;
  }
}

// Whether gather instructions outrun loads one by one. They do on Intel's server cores from Sapphire Rapids
// on (measured on Granite Rapids), the first ones that a cure for leaking gathers (Gather Data Sampling) has
// not slowed down, and with FP16 in AVX-512; they do not on Zen 3, 4 and 5 (measured).
inline bool gathers_fast() noexcept {
#if defined(__x86_64__)
  constexpr unsigned kFp16 = 1u << 23;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __builtin_cpu_is("intel") && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kFp16) != 0;
#else
  return false;
#endif
}

inline Isa best_isa() noexcept {
#if defined(__x86_64__)
  if (isa_supported(Isa::avx512)) return Isa::avx512;
  if (isa_supported(Isa::avx2)) return Isa::avx2;
#elif defined(__aarch64__)
  return Isa::neon;
#endif
  return Isa::scalar;
}

// The instruction set in use: the best one, unless FASTPATH_ISA names another that this machine supports.
// Read once: kernels are bound when a table is made.
inline Isa isa_in_use() noexcept {
  static const Isa chosen = [] {
    const char* wanted = std::getenv("FASTPATH_ISA");
    if (wanted != nullptr) {
      for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon}) {
        if (std::strcmp(wanted, isa_name(isa)) == 0 && isa_supported(isa)) return isa;
      }
    }
    return best_isa();
  }();
  return chosen;
}

}  // namespace fastpath
