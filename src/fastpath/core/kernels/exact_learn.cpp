#include <cstddef>
#include <cstdint>

#include "fastpath/fdb.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastpath {
namespace {

// match(line, key): the slots that hold the key, valid or not.
template <typename Match>
[[gnu::always_inline]] inline void look_at_home(Fdb::LearnGroup& group, Match&& match) {
  using Line = Fdb::Index::Line;
  std::size_t elsewheres = 0;
  for (std::size_t i = 0; i < group.count; ++i) {
    const Line& line = *group.line[i];
    const std::uint32_t meta = line.meta(std::memory_order_relaxed);
    const std::uint32_t found = match(line, group.key[i]) & meta & Line::kValidMask;
    group.slot[i] = static_cast<std::uint8_t>(Line::slot_of(found | Line::bit(Line::kSlots - 1)));
    group.elsewhere[elsewheres] = static_cast<std::uint8_t>(i);
    elsewheres += static_cast<std::size_t>(found == 0);
  }
  group.elsewheres = elsewheres;
}

void look_plainly(Fdb::LearnGroup& group) {
  look_at_home(group, [](const auto& line, std::uint64_t key) { return line.match(key); });
}

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,bmi")

// The keys of a bucket are three of the first four words.
void look_avx2(Fdb::LearnGroup& group) {
  look_at_home(group, [](const auto& line, std::uint64_t key) {
    const __m256i words = _mm256_load_si256(reinterpret_cast<const __m256i*>(&line));
    const __m256i equal = _mm256_cmpeq_epi64(words, _mm256_set1_epi64x(static_cast<long long>(key)));
    return static_cast<std::uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(equal)));
  });
}

#pragma GCC pop_options
#endif

}  // namespace

Fdb::LookAtHome Fdb::look_at_home([[maybe_unused]] Isa isa) noexcept {
#if defined(__x86_64__)
  if (isa == Isa::avx2 || isa == Isa::avx512) return look_avx2;
#endif
  return look_plainly;
}

}  // namespace fastpath
