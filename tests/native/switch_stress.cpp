// sources: engine/switch_worker.cpp engine/port_link.cpp
// One worker, threads that send and receive on memory ports, and a control side that attaches, detaches,
// stops, starts and asks meanwhile.
#include <atomic>
#include <chrono>
#include <thread>

#include "check.hpp"
#include "engine/port_memory.hpp"
#include "engine/switch_worker.hpp"
#include "switch_frames.hpp"
#include "switch_tables.hpp"

using namespace fastpath::engine;

namespace {

struct Station {
  Station(SwitchWorker& worker, std::uint64_t address, std::uint16_t segment = 0)
      : mac(address),
        memory(std::make_shared<MemoryPort>(0, false, false)),
        port(worker.add_port(memory, segment)) {}
  std::uint64_t mac;
  std::shared_ptr<MemoryPort> memory;
  std::shared_ptr<SwitchPort> port;
};

bool send(SwitchWorker& worker, Station& from, std::uint64_t to) {
  const auto frame = make_frame(to, from.mac);
  const std::lock_guard lock(from.memory->push_mutex());
  const bool sent = from.memory->push(frame.data(), frame.size());
  worker.wake_if_asleep();
  return sent;
}

std::size_t drain(Station& station) {
  std::size_t n = 0;
  const std::lock_guard lock(station.memory->pop_mutex());
  while (station.memory->pop([&](const std::uint8_t* bytes, std::size_t length) {
    CHECK(length == 60 && fastpath::mac_from_bytes(bytes + 6) != station.mac);
  })) {
    ++n;
  }
  return n;
}

}  // namespace

int main() {
  StubForwarding forwarding;
  StubFdb fdb;
  SwitchWorker worker({}, forwarding.api, fdb.api);
  Station a(worker, 0x020000000001), b(worker, 0x020000000002), c(worker, 0x020000000003);
  worker.start();
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  std::atomic<std::uint64_t> received{0};
  for (Station* from : {&a, &b, &c}) {
    threads.emplace_back([&, from] {
      std::uint64_t i = 0;
      while (!stop) {
        send(worker, *from, i % 7 == 0 ? 0xFFFFFFFFFFFF : 0x020000000001 + i % 5);
        received += drain(*from);
        ++i;
      }
    });
  }
  threads.emplace_back([&] {
    std::uint64_t sum = 0;
    while (!stop) {
      sum +=
          a.port->counters.rx_packets.get() + worker.counters().frames.get() + worker.counters().pairs.get();
      sum += worker.pairs().size();
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    CHECK(sum > 0);
  });
  std::uint32_t last = 0;
  for (int i = 0; i < 24; ++i) {
    Station guest(worker, 0x020000000005);
    CHECK(guest.port->number > last);
    last = guest.port->number;
    send(worker, guest, a.mac);
    send(worker, guest, b.mac);
    worker.settle();
    CHECK(worker.remove_port(guest.port->number));
    CHECK(!worker.remove_port(guest.port->number));
    if (i % 8 == 0) {
      worker.stop();
      CHECK(!worker.running());
      worker.start();
      worker.start();
    }
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  worker.settle();
  for (Station* station : {&a, &b, &c}) received += drain(*station);
  CHECK(received > 0);
  worker.stop();
  worker.stop();
  // Every frame that was received is accounted for.
  std::uint64_t in = 0;
  for (Station* station : {&a, &b, &c}) in += station->port->counters.rx_packets.get();
  CHECK(in > 0 && in <= worker.counters().frames.get());
  return 0;
}
