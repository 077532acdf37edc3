// Rows of many packets at once, included by the kernels for AVX2 and better inside their target region.

struct PolicyRows {
  static __m256i load8(const void* from) noexcept {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  static __m256i ports8(const std::uint16_t* from) noexcept {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }

  // Eight packets are four vectors of columns, and eight rows once they are transposed.
  static void rows(std::uint32_t, const PolicyColumns& packets, std::size_t begin, std::size_t count,
                   std::uint32_t* rows) {
    const auto store = [&](std::size_t i, __m256i two) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(rows + 4 * i), two);
    };
    std::size_t i = 0;
    for (; i + 8 <= count; i += 8) {
      const std::size_t at = begin + i;
      const __m256i sources = load8(static_cast<const std::uint32_t*>(packets.sources) + at);
      const __m256i destinations = load8(static_cast<const std::uint32_t*>(packets.destinations) + at);
      const __m256i ports = _mm256_or_si256(_mm256_slli_epi32(ports8(packets.source_ports + at), 16),
                                            ports8(packets.destination_ports + at));
      const __m256i protocols =
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(packets.protocols + at)));
      const __m256i a = _mm256_unpacklo_epi32(sources, destinations);
      const __m256i b = _mm256_unpackhi_epi32(sources, destinations);
      const __m256i c = _mm256_unpacklo_epi32(ports, protocols);
      const __m256i d = _mm256_unpackhi_epi32(ports, protocols);
      const __m256i row04 = _mm256_unpacklo_epi64(a, c), row15 = _mm256_unpackhi_epi64(a, c);
      const __m256i row26 = _mm256_unpacklo_epi64(b, d), row37 = _mm256_unpackhi_epi64(b, d);
      store(i, _mm256_permute2x128_si256(row04, row15, 0x20));
      store(i + 2, _mm256_permute2x128_si256(row26, row37, 0x20));
      store(i + 4, _mm256_permute2x128_si256(row04, row15, 0x31));
      store(i + 6, _mm256_permute2x128_si256(row26, row37, 0x31));
    }
    for (; i < count; ++i) policy_row(packets, begin + i, rows + 4 * i, std::uint32_t());
  }
  static void rows(const Address16&, const PolicyColumns& packets, std::size_t begin, std::size_t count,
                   std::uint32_t* rows) {
    const __m128i swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t at = begin + i;
      auto* row = reinterpret_cast<__m128i*>(rows + 16 * i);
      const auto address = [&](const void* column) {
        return _mm_shuffle_epi8(_mm_loadu_si128(static_cast<const __m128i*>(column) + at), swap);
      };
      const std::uint32_t ports =
          std::uint32_t{packets.source_ports[at]} << 16 | packets.destination_ports[at];
      _mm_store_si128(row, address(packets.sources));
      _mm_store_si128(row + 1, address(packets.destinations));
      _mm_store_si128(
          row + 2,
          _mm_cvtsi64_si128(static_cast<long long>(std::uint64_t{packets.protocols[at]} << 32 | ports)));
      _mm_store_si128(row + 3, _mm_setzero_si128());
    }
  }
};
