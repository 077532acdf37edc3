// What kernels with vectors share: the loads that fill a vector's lanes. Included behind fib_walk.hpp.

constexpr std::size_t kAhead = 4096;  // bytes between the addresses in use and those that are asked for
constexpr std::size_t kAheadToWrite = 1024;

// Asks for a line of addresses that a later chunk reads; behind the last ones, for nothing that matters.
inline void ask_ahead(const void* addresses) noexcept {
  __builtin_prefetch(static_cast<const char*>(addresses) + kAhead);
}

// The same for a line of answers that a later chunk writes: a store that misses holds up the loads behind it.
inline void ask_ahead_to_write(void* answers) noexcept {
  __builtin_prefetch(static_cast<char*>(answers) + kAheadToWrite, 1);
}

// Loads are done one by one: on most cores that outruns gather instructions of 64-bit words. Eight bytes
// are read whatever a T has, as that takes one instruction into a vector; what comes above a T must not
// matter.
template <typename T>
inline std::uint64_t read_at(const std::uint8_t* base, std::uint64_t place) {
  const std::uint8_t* const p = base + sizeof(T) * place;  // of packed leaves the byte
  if constexpr (kIsPacked<T>) return read_packed(p);
#if defined(__SANITIZE_THREAD__)
  // What the load below is on this machine, in the words that the checker knows: references and leaves are
  // stored alone.
  if constexpr (!kIsPacked<T> && sizeof(T) < 8)
    return __atomic_load_n(reinterpret_cast<const T*>(p), __ATOMIC_RELAXED);
  const auto* const half = reinterpret_cast<const std::uint32_t*>(p);
  return std::uint64_t{__atomic_load_n(half + 1, __ATOMIC_ACQUIRE)} << 32 |
         __atomic_load_n(half, __ATOMIC_ACQUIRE);
#else
  return read<std::uint64_t>(p);
#endif
}

// Numbers of bytes of a lane, in even and in odd lanes: instructions count bytes over pairs of lanes.
struct BytePattern {
  long long even;
  long long odd;
};
constexpr BytePattern byte_pattern(std::uint64_t bytes) {
  const std::uint64_t taken = ~bytes >> 4 & 0x0808'0808'0808'0808;  // bytes that are not to be zero
  return {static_cast<long long>(bytes), static_cast<long long>(bytes | taken)};
}

// The entries that IPv6 addresses find by their first three bytes. The roots are small enough to be found in
// the first cache: no need to go step by step.
template <std::size_t kCount>
inline void roots6_one_by_one(const View& view, const std::uint8_t* addresses, std::uint64_t* at) noexcept {
  const std::uint64_t* const pages = view.pages;
  const std::uint32_t* const root6 = view.root6;
  for (std::size_t k = 0; k < kCount; k += 4) {
    const std::uint8_t* const four = addresses + 16 * k;
    ask_ahead(four);
#pragma GCC unroll 4
    for (std::size_t q = 0; q < 4; ++q) {
      const std::uint8_t* const address = four + 16 * q;
      const std::uint32_t top = __builtin_bswap32(read<std::uint32_t>(address)) >> 16;
      const std::size_t page = __atomic_load_n(root6 + top, __ATOMIC_ACQUIRE);
      at[k + q] = read_entry(pages + (page << 8 | address[2]));
    }
  }
}
