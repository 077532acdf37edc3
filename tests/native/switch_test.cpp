// The decisions of the switch, frame by frame, without sockets and threads.
#include "check.hpp"
#include "engine/port_memory.hpp"
#include "engine/switch_pipeline.hpp"
#include "switch_frames.hpp"
#include "switch_tables.hpp"

using namespace fastpath::engine;

namespace {

constexpr std::uint64_t kA = 0x02000000000A, kB = 0x02000000000B, kC = 0x02000000000C;
constexpr std::uint64_t kAll = 0xFFFFFFFFFFFF;

struct Bench {
  explicit Bench(std::size_t max_pairs = 64) : pipeline(forwarding.api, fdb.api, 1500, max_pairs, 7) {
    for (std::uint32_t port : {1u, 2u, 3u}) pipeline.add_port(port, 0);
    for (std::uint32_t port : {4u, 5u}) pipeline.add_port(port, 9);
  }
  // The way out of one frame.
  std::uint32_t decide(std::uint32_t ingress, const std::vector<std::uint8_t>& frame,
                       const VnetHeader& header = {}) {
    batch.clear();
    put_frame(batch, ingress, frame, header);
    pipeline.decide(batch, 1.0);
    reason = batch.reason[0];
    return batch.egress[0];
  }
  std::uint32_t send(std::uint32_t ingress, std::uint64_t source, std::uint64_t destination) {
    return decide(ingress, make_frame(destination, source));
  }
  void sweep() {
    while (pipeline.sweep()) {
    }
  }

  StubForwarding forwarding;
  StubFdb fdb;
  Pipeline pipeline;
  Batch batch;
  Drop reason = Drop::none;
};

void learns_floods_and_remembers() {
  Bench t;
  CHECK(t.send(1, kA, kAll) == kFlood);
  CHECK(t.send(1, kA, kB) == kFlood);
  CHECK(t.send(2, kB, kA) == 1);
  CHECK(t.forwarding.at(kB, kA) == 1);
  CHECK(t.send(2, kB, kA) == 1);
  CHECK(t.pipeline.counters().fdb_hits == 1 && t.pipeline.counters().pair_hits == 1);
  CHECK(t.send(1, kA, kB) == 2);
  const Pair* pair = t.pipeline.pairs().find(kB, kA);
  CHECK(pair != nullptr && pair->packets == 2 && pair->bytes == 120 && pair->learned);
  CHECK(t.send(2, kC, kB) == kNoPort && t.reason == Drop::hairpin);
  CHECK(t.forwarding.at(kC, kB) == 0);
}

void follows_a_station_that_moves() {
  Bench t;
  t.send(1, kA, kAll);
  CHECK(t.send(2, kB, kA) == 1);
  CHECK(t.send(3, kC, kA) == 1);
  t.send(3, kA, kAll);
  CHECK(t.forwarding.at(kB, kA) == 0 && t.forwarding.at(kC, kA) == 0);
  CHECK(t.send(2, kB, kA) == 3);
  CHECK(t.forwarding.at(kB, kA) == 3);
  // Both places in one batch: the last one holds.
  t.batch.clear();
  put_frame(t.batch, 1, make_frame(kAll, kA));
  put_frame(t.batch, 2, make_frame(kA, kB));
  put_frame(t.batch, 1, make_frame(kAll, kA));
  t.pipeline.decide(t.batch, 1.0);
  CHECK(t.send(2, kB, kA) == 1);
}

void a_gone_port_makes_no_black_hole() {
  Bench t;
  t.send(1, kA, kAll);
  CHECK(t.send(2, kB, kA) == 1);
  t.forwarding.api.insert(&t.forwarding, kC, kA, 1);  // the user's own
  t.pipeline.remove_port(1);
  CHECK(t.forwarding.at(kB, kA) == 0);
  CHECK(t.forwarding.at(kC, kA) == 1);
  // The Fdb still names port 1: neither that nor the user's entry swallows the frame.
  CHECK(t.send(2, kB, kA) == kFlood);
  CHECK(t.send(3, kC, kA) == kFlood);
  t.pipeline.add_port(6, 0);
  t.send(6, kA, kAll);
  CHECK(t.send(2, kB, kA) == 6 && t.forwarding.at(kB, kA) == 6);
  CHECK(t.send(3, kC, kA) == 6 && t.forwarding.at(kC, kA) == 1);
  t.pipeline.remove_port(1);
  t.pipeline.remove_port(99);
}

void pairs_end_with_the_fdb_entry() {
  Bench t;
  t.send(1, kA, kAll);
  CHECK(t.send(2, kB, kA) == 1);
  t.sweep();
  CHECK(t.forwarding.at(kB, kA) == 1);
  t.fdb.forget(kA, 0);
  t.sweep();
  CHECK(t.forwarding.at(kB, kA) == 0 && t.pipeline.pairs().size() == 0);
  CHECK(t.send(2, kB, kA) == kFlood);
  t.send(1, kA, kAll);
  CHECK(t.send(2, kB, kA) == 1);
  t.fdb.forget(kB, 0);
  t.sweep();
  CHECK(t.forwarding.at(kB, kA) == 0);
}

void the_users_entries_win_and_stay() {
  Bench t;
  t.forwarding.api.insert(&t.forwarding, kB, kA, 3);
  t.send(1, kA, kAll);
  CHECK(t.send(2, kB, kA) == 3);
  t.fdb.forget(kA, 0);
  t.sweep();
  t.send(2, kA, kAll);
  CHECK(t.forwarding.at(kB, kA) == 3);
  // He replaces a learned pair.
  CHECK(t.send(3, kC, kA) == 2);
  t.forwarding.api.insert(&t.forwarding, kC, kA, 1);
  CHECK(t.send(3, kC, kA) == 1);
  t.send(3, kA, kAll);
  CHECK(t.forwarding.at(kC, kA) == 1);
  // He deletes one: it is learned anew.
  t.forwarding.api.erase(&t.forwarding, kC, kA);
  t.sweep();
  CHECK(t.pipeline.pairs().find(kC, kA) == nullptr);
  CHECK(t.send(2, kC, kA) == 3 && t.forwarding.at(kC, kA) == 3);
  // Any source, after a pair was learned: in force from the next sweep on.
  t.forwarding.api.insert(&t.forwarding, StubForwarding::kAny, kA, 1);
  t.sweep();
  CHECK(t.forwarding.at(kC, kA) == 0);
  CHECK(t.send(2, kC, kA) == 1);
  // A group address, which the Fdb never answers for.
  t.forwarding.api.insert(&t.forwarding, StubForwarding::kAny, 0x01005E000001, 3);
  CHECK(t.send(2, kC, 0x01005E000001) == 3);
}

void segments_never_meet() {
  Bench t;
  t.send(1, kA, kAll);
  CHECK(t.send(4, kB, kA) == kFlood);
  t.send(5, kA, kAll);
  CHECK(t.send(4, kB, kA) == 5);
  CHECK(t.send(2, kB, kA) == 1);
  CHECK(t.send(4, kB, kA) == 5);
  CHECK(t.forwarding.at(kB, kA) == 5);
  t.forwarding.api.insert(&t.forwarding, kC, kA, 1);
  CHECK(t.send(4, kC, kA) == 5);
  t.pipeline.remove_port(5);
  CHECK(t.send(4, kB, kA) == kNoPort && t.reason == Drop::no_listener);
}

void refuses_what_is_malformed() {
  Bench t;
  t.send(2, kB, kAll);
  for (std::size_t length = 0; length < kEthernetLength; ++length) {
    CHECK(t.decide(1, std::vector<std::uint8_t>(length, 2)) == kNoPort && t.reason == Drop::short_frame);
  }
  CHECK(t.decide(1, make_frame(kB, kA, 14)) == 2);
  CHECK(t.decide(1, make_frame(kB, kA, 1514 + 4)) == 2);
  CHECK(t.decide(1, make_frame(kB, kA, 1514 + 5)) == kNoPort && t.reason == Drop::long_frame);
  CHECK(t.send(1, 0, kB) == kNoPort && t.reason == Drop::bad_source);
  CHECK(t.send(1, 0x010000000001, kB) == kNoPort && t.reason == Drop::bad_source);
  CHECK(t.send(1, kA, 0x0180C2000000) == kNoPort && t.reason == Drop::reserved);
  CHECK(t.send(1, kA, 0x0180C200000F) == kNoPort && t.reason == Drop::reserved);
  CHECK(t.send(1, kA, 0x0180C2000010) == kFlood);

  const VnetHeader good{kVnetNeedsCsum, kGsoTcp4, 54, 1448, 34, 16};
  CHECK(t.decide(1, make_frame(kB, kA, 60000), good) == 2);
  const auto refused = [&](auto change, std::size_t length = 3000) {
    VnetHeader header = good;
    change(header);
    CHECK(t.decide(1, make_frame(kB, kA, length), header) == kNoPort && t.reason != Drop::none);
  };
  refused([](VnetHeader& h) { h.gso_size = 0; });
  refused([](VnetHeader& h) { h.gso_type = 2; });
  refused([](VnetHeader& h) { h.gso_type = kGsoUdpL4 | kGsoEcn; });
  refused([](VnetHeader& h) { h.gso_type = kGsoEcn; });
  refused([](VnetHeader& h) { h.flags = 0; });
  refused([](VnetHeader& h) { h.hdr_len = 3001; });
  refused([](VnetHeader& h) { h.csum_start = 2; });
  refused([](VnetHeader& h) { h.csum_start = 2999; });
  refused([](VnetHeader& h) { h.csum_start = h.csum_offset = 65535; });
  refused([](VnetHeader& h) { h.gso_size = 9000; });
  refused([](VnetHeader& h) { h.gso_type = kGsoNone; });  // 3000 bytes without GSO
}

void a_full_pair_table_still_forwards() {
  Bench t(4);
  t.send(1, kA, kAll);
  for (std::uint64_t i = 0; i < 20; ++i) CHECK(t.send(2, 0x020000000100 + i, kA) == 1);
  CHECK(t.pipeline.pairs().size() == 4 && t.forwarding.size() == 4);
  t.send(3, kA, kAll);
  CHECK(t.pipeline.pairs().size() == 0 && t.forwarding.size() == 0);
  for (std::uint64_t i = 0; i < 20; ++i) CHECK(t.send(2, 0x020000000100 + i, kA) == 3);
  CHECK(t.pipeline.pairs().size() == 4);
}

void thousands_of_pairs_to_one_destination() {
  constexpr std::uint64_t kStations = 4096;
  PairTable pairs(kStations, 3);
  const auto count = [&](std::uint64_t destination) {
    std::size_t n = 0;
    pairs.for_destination(destination, [&](Pair& pair) { n += pair.destination == destination; });
    return n;
  };
  for (std::uint64_t i = 0; i < kStations; ++i)
    CHECK(pairs.insert(i, i % 8 == 7 ? kB : kA, 0, 1, true) != nullptr);
  CHECK(pairs.insert(kStations, kA, 0, 1, true) == nullptr);
  CHECK(count(kA) == kStations / 8 * 7 && count(kB) == kStations / 8);
  for (std::uint64_t i = 0; i < kStations; i += 2) pairs.erase(*pairs.find(i, kA));
  for (std::uint64_t i = 0; i < kStations; ++i) {
    CHECK((pairs.find(i, i % 8 == 7 ? kB : kA) != nullptr) == (i % 2 == 1));
  }
  CHECK(pairs.size() == kStations / 2 && count(kA) == kStations / 8 * 3 && count(kB) == kStations / 8);
  for (std::uint64_t i = 0; i < kStations; i += 2) CHECK(pairs.insert(i, kC, 0, 1, true) != nullptr);
  CHECK(count(kC) == kStations / 2);
  for (const std::uint64_t destination : {kA, kB, kC}) {
    pairs.for_destination(destination, [&](Pair& pair) { pairs.erase(pair); });
  }
  CHECK(pairs.size() == 0 && count(kA) == 0);
}

void memory_ports_finish_checksums() {
  // IPv4 UDP 10.0.0.1:1 -> 10.0.0.2:2, "hi", with the pseudo-header's sum where the checksum belongs.
  std::vector<std::uint8_t> frame = make_frame(kB, kA, 14 + 20 + 8 + 2);
  const std::uint8_t udp[] = {0, 1, 0, 2, 0, 10, 0x14, 0x1E, 'h', 'i'};
  std::memcpy(frame.data() + 34, udp, sizeof udp);
  Batch batch;
  put_frame(batch, 1, frame, {kVnetNeedsCsum, kGsoNone, 0, 0, 34, 6});
  MemoryPort port(0, false, false);
  CHECK(port.transmit(batch.frame(0)) == Transmit::sent);
  CHECK(std::memcmp(batch.frame(0).data, frame.data(), frame.size()) == 0);
  CHECK(port.pop([&](const std::uint8_t* bytes, std::size_t length) {
    CHECK(length == frame.size());
    std::uint32_t sum = 0x141E;  // pseudo-header
    for (std::size_t i = 34; i < length; i += 2) sum += (bytes[i] << 8) | bytes[i + 1];
    while (sum >> 16) sum = (sum & 0xFFFF) + (sum >> 16);
    CHECK(sum == 0xFFFF);
  }));
  CHECK(!port.pop([](const std::uint8_t*, std::size_t) {}));
}

void rings_keep_order_and_refuse_when_full() {
  RecordRing ring(0);
  std::vector<std::uint8_t> record(65000);
  std::uint32_t pushed = 0, popped = 0;
  for (int round = 0; round < 300; ++round) {
    for (;;) {
      const std::size_t length = pushed % 3 == 0 ? 65000 : pushed % 97;
      std::memcpy(record.data(), &pushed, sizeof pushed);
      if (!ring.push(&pushed, sizeof pushed, record.data(), length)) break;
      ++pushed;
    }
    CHECK(pushed > popped);
    for (int k = 0; k < 5 && popped < pushed; ++k) {
      std::size_t length;
      std::uint32_t value;
      const std::uint8_t* at = ring.front(length);
      CHECK(at != nullptr);
      std::memcpy(&value, at, sizeof value);
      CHECK(value == popped && length == 4 + (popped % 3 == 0 ? 65000 : popped % 97));
      ring.pop();
      ++popped;
    }
  }
}

}  // namespace

int main() {
  learns_floods_and_remembers();
  follows_a_station_that_moves();
  a_gone_port_makes_no_black_hole();
  pairs_end_with_the_fdb_entry();
  the_users_entries_win_and_stay();
  segments_never_meet();
  refuses_what_is_malformed();
  a_full_pair_table_still_forwards();
  thousands_of_pairs_to_one_destination();
  memory_ports_finish_checksums();
  rings_keep_order_and_refuse_when_full();
  return 0;
}
