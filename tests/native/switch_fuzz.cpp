// Random bursts through the pipeline: the bytes choose ports, virtio-net headers and frames. Whatever comes,
// each frame has one way out within its segment or one reason to be dropped, and no learned pair points
// elsewhere than the Fdb.
#include <algorithm>
#include <memory>

#include "check.hpp"
#include "engine/port_memory.hpp"
#include "engine/switch_pipeline.hpp"
#include "switch_frames.hpp"
#include "switch_tables.hpp"

using namespace fastpath::engine;

namespace {
constexpr std::uint32_t kPorts = 6;
constexpr std::uint16_t segment_of(std::uint32_t port) { return port % 2; }

struct State {
  State() : pipeline(forwarding.api, fdb.api, 1500, 32, 1), sink(0, false, false) {
    for (std::uint32_t port = 1; port <= kPorts; ++port) pipeline.add_port(port, segment_of(port));
  }
  StubForwarding forwarding;
  StubFdb fdb;
  Pipeline pipeline;
  Batch batch;
  MemoryPort sink;
};
}  // namespace

std::vector<std::vector<std::uint8_t>> fuzz_seeds() {
  std::vector<std::vector<std::uint8_t>> seeds;
  for (std::uint8_t from = 1; from <= kPorts; ++from) {
    std::vector<std::uint8_t> seed;
    for (std::uint8_t to = 1; to <= kPorts; ++to) {
      const VnetHeader header =
          to % 2 == 0 ? VnetHeader{kVnetNeedsCsum, kGsoTcp4, 54, 1448, 34, 16} : VnetHeader{};
      const std::vector<std::uint8_t> frame =
          make_frame(to == from ? 0xFFFFFFFFFFFF : 0x020000000000u + to, 0x020000000000u + from);
      seed.push_back(from);
      seed.push_back(static_cast<std::uint8_t>(frame.size()));
      seed.insert(seed.end(), reinterpret_cast<const std::uint8_t*>(&header),
                  reinterpret_cast<const std::uint8_t*>(&header) + sizeof header);
      seed.insert(seed.end(), frame.begin(), frame.end());
    }
    seeds.push_back(seed);
  }
  return seeds;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static auto state = std::make_unique<State>();
  static int runs = 0;
  if (++runs % 500 == 0) state = std::make_unique<State>();
  Batch& batch = state->batch;
  batch.clear();
  while (size >= 2 + kVnetLength && batch.has_room()) {
    const std::uint32_t ingress = data[0] % kPorts + 1;
    const std::size_t length =
        std::min<std::size_t>(data[1] * (data[0] >= 0xF0 ? 40u : 1u), size - 2 - kVnetLength);
    std::memcpy(batch.next(), data + 2, kVnetLength + length);
    batch.push(ingress, length);
    data += 2 + kVnetLength + length;
    size -= 2 + kVnetLength + length;
  }
  state->pipeline.decide(batch, static_cast<double>(runs));
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (batch.egress[i] == kNoPort) {
      CHECK(batch.reason[i] != Drop::none);
      continue;
    }
    CHECK(batch.reason[i] == Drop::none);
    CHECK(batch.egress[i] != batch.ingress(i));
    CHECK(batch.egress[i] == kFlood || segment_of(batch.egress[i]) == segment_of(batch.ingress(i)));
    // Ports without a virtio-net header finish the sum wherever the header said it lies.
    CHECK(state->sink.transmit(batch.frame(i)) == Transmit::sent);
    while (state->sink.pop([](const std::uint8_t*, std::size_t) {})) {
    }
  }
  if (runs % 16 == 0) {
    while (state->pipeline.sweep()) {
    }
    PairTable& pairs = state->pipeline.pairs();
    for (std::size_t i = 0; i < pairs.high_water(); ++i) {
      const Pair& pair = pairs.at(i);
      if (!pair.live || !pair.learned) continue;
      std::uint32_t port = 0;
      state->fdb.api.lookup_many(&state->fdb, &pair.destination, &pair.segment, &port, 1);
      CHECK(port == pair.port && state->forwarding.at(pair.source, pair.destination) == port);
    }
  }
  return 0;
}
