// Slow, obvious tables behind the C interface, for tests of the switch without Python.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

#include "fastpath/capi.h"

class StubForwarding {
 public:
  static constexpr std::uint64_t kAny = ~std::uint64_t{0};

  StubForwarding() : api{1, this, lookup_many, insert, erase} {}
  std::uint32_t at(std::uint64_t source, std::uint64_t destination) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find({source, destination});
    return found == entries_.end() ? 0 : found->second;
  }
  std::size_t size() {
    const std::lock_guard lock(mutex_);
    return entries_.size();
  }

  const fastpath_forwarding_v1 api;

 private:
  static void lookup_many(void* self, const std::uint64_t* sources, const std::uint64_t* destinations,
                          std::uint32_t* egress, std::size_t n) {
    auto& table = *static_cast<StubForwarding*>(self);
    for (std::size_t i = 0; i < n; ++i) {
      egress[i] = table.at(sources[i], destinations[i]);
      if (egress[i] == 0) egress[i] = table.at(kAny, destinations[i]);
    }
  }
  static int insert(void* self, std::uint64_t source, std::uint64_t destination, std::uint32_t egress) {
    auto& table = *static_cast<StubForwarding*>(self);
    const std::lock_guard lock(table.mutex_);
    table.entries_[{source, destination}] = egress;
    return 0;
  }
  static int erase(void* self, std::uint64_t source, std::uint64_t destination) {
    auto& table = *static_cast<StubForwarding*>(self);
    const std::lock_guard lock(table.mutex_);
    return static_cast<int>(table.entries_.erase({source, destination}));
  }

  std::mutex mutex_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint32_t> entries_;
};

class StubFdb {
 public:
  StubFdb() : api{1, this, lookup_many, learn_many} {}
  void forget(std::uint64_t mac, std::uint16_t vlan) {
    const std::lock_guard lock(mutex_);
    entries_.erase({vlan, mac});
  }

  void purge(std::uint32_t port) {
    const std::lock_guard lock(mutex_);
    std::erase_if(entries_, [&](const auto& entry) { return entry.second == port; });
  }

  const fastpath_fdb_v1 api;

 private:
  static void lookup_many(void* self, const std::uint64_t* macs, const std::uint16_t* vlans,
                          std::uint32_t* ports, std::size_t n) {
    auto& table = *static_cast<StubFdb*>(self);
    const std::lock_guard lock(table.mutex_);
    for (std::size_t i = 0; i < n; ++i) {
      const auto found = table.entries_.find({vlans == nullptr ? std::uint16_t{0} : vlans[i], macs[i]});
      ports[i] = found == table.entries_.end() ? 0 : found->second;
    }
  }
  static std::size_t learn_many(void* self, const std::uint64_t* macs, const std::uint16_t* vlans,
                                const std::uint32_t* ports, std::size_t n, double) {
    auto& table = *static_cast<StubFdb*>(self);
    const std::lock_guard lock(table.mutex_);
    std::size_t changed = 0;
    for (std::size_t i = 0; i < n; ++i) {
      std::uint32_t& port = table.entries_[{vlans == nullptr ? std::uint16_t{0} : vlans[i], macs[i]}];
      changed += port != ports[i];
      port = ports[i];
    }
    return changed;
  }

  std::mutex mutex_;
  std::map<std::pair<std::uint16_t, std::uint64_t>, std::uint32_t> entries_;
};
