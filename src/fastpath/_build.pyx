# distutils: language = c++
"""What was compiled: compiler, language level, instruction sets."""

cdef extern from *:
    """
    #include "fastpath/cpu.hpp"
    #ifdef NDEBUG
    #define FASTPATH_ASSERTIONS 0
    #else
    #define FASTPATH_ASSERTIONS 1
    #endif
    #if defined(__clang__)
    #define FASTPATH_COMPILER "clang " __clang_version__
    #else
    #define FASTPATH_COMPILER "gcc " __VERSION__
    #endif
    #if defined(__x86_64__)
    #define FASTPATH_ARCH "x86_64"
    #elif defined(__aarch64__)
    #define FASTPATH_ARCH "aarch64"
    #else
    #define FASTPATH_ARCH "other"
    #endif
    """
    const char* FASTPATH_COMPILER
    const char* FASTPATH_ARCH
    const int FASTPATH_ASSERTIONS
    const long FASTPATH_CPLUSPLUS "__cplusplus"

cdef extern from "fastpath/cpu.hpp" namespace "fastpath" nogil:
    cpdef enum class Isa(int):
        scalar
        avx2
        avx512
        neon
    const char* isa_name(Isa isa) noexcept
    bint isa_supported(Isa isa) noexcept
    Isa isa_in_use() noexcept


def facts():
    """Facts of this build as a dict of plain values."""
    compiled = {
        b"x86_64": [Isa.scalar, Isa.avx2, Isa.avx512],
        b"aarch64": [Isa.scalar, Isa.neon],
    }.get(FASTPATH_ARCH, [Isa.scalar])
    return {
        "compiler": FASTPATH_COMPILER.decode(),
        "cplusplus": FASTPATH_CPLUSPLUS,
        "architecture": FASTPATH_ARCH.decode(),
        "assertions": bool(FASTPATH_ASSERTIONS),
        "isa_compiled": tuple(isa_name(isa).decode() for isa in compiled),
        "isa_supported": tuple(isa_name(isa).decode() for isa in compiled if isa_supported(isa)),
        "isa_in_use": isa_name(isa_in_use()).decode(),
    }
