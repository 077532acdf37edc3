// Sending for memory that a batch of look-ups will read.
#pragma once

namespace fastpath {

// Into the second-level cache, which keeps several times as many lines on their way as the first one: of
// random lines of main memory twice as many a second arrive (Zen 4: 4.6 ns each instead of 10.2).
inline void fetch_ahead(const void* place) noexcept { __builtin_prefetch(place, 0, 2); }

}  // namespace fastpath
