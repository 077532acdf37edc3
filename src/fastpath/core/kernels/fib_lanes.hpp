// What kernels with vectors share: the loads that fill a vector's lanes. Included behind fib_walk.hpp.

constexpr std::size_t kAhead = 4096;  // bytes between the addresses in use and those that are asked for

// Asks for a line of addresses that a later chunk reads; behind the last ones, for nothing that matters.
inline void ask_ahead(const void* addresses) noexcept {
  __builtin_prefetch(static_cast<const char*>(addresses) + kAhead);
}

// Loads are done one by one: on current cores that outruns gather instructions of 64-bit words.
template <typename T>
inline long long read_at(const std::uint8_t* base, std::uint64_t at) {
#if defined(__SANITIZE_THREAD__)
  // What the load below is on this machine, in the words that the checker knows: references are stored alone.
  if constexpr (sizeof(T) == 8) {
    const auto* const half = reinterpret_cast<const std::uint32_t*>(base + at);
    return static_cast<long long>(std::uint64_t{__atomic_load_n(half + 1, __ATOMIC_ACQUIRE)} << 32 |
                                  __atomic_load_n(half, __ATOMIC_ACQUIRE));
  }
  if constexpr (sizeof(T) == 4)
    return __atomic_load_n(reinterpret_cast<const T*>(base + at), __ATOMIC_ACQUIRE);
#endif
  return static_cast<long long>(std::uint64_t{read<T>(base + at)});
}
