// Frames for tests of the switch.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/switch_frame.hpp"

inline void put_mac(std::uint8_t* at, std::uint64_t mac) {
  for (int i = 0; i < 6; ++i) at[i] = static_cast<std::uint8_t>(mac >> (40 - 8 * i));
}

inline std::vector<std::uint8_t> make_frame(std::uint64_t destination, std::uint64_t source,
                                            std::size_t length = 60) {
  std::vector<std::uint8_t> frame(length, 0);
  put_mac(frame.data(), destination);
  put_mac(frame.data() + 6, source);
  return frame;
}

inline void put_frame(fastpath::engine::Batch& batch, std::uint32_t ingress,
                      const std::vector<std::uint8_t>& frame,
                      const fastpath::engine::VnetHeader& header = {}) {
  std::memcpy(batch.next(), &header, sizeof header);
  if (!frame.empty()) std::memcpy(batch.next() + sizeof header, frame.data(), frame.size());
  batch.push(ingress, frame.size());
}
