// Many picks in one call.
#include "fastpath/balance/balancer.hpp"

#include <algorithm>
#include <cstring>

#include "fastpath/hash.hpp"

namespace fastpath::balance {

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

}  // namespace

Id Table::rendezvous_owner(std::uint64_t hash) const noexcept {
  if (node_hash.empty()) return 0;
  return members[kernels().rendezvous(node_hash.data(), inverse_weight.data(), members.size(), hash)];
}

void Balancer::pick_many(Id* ids, std::size_t n, double now) {
  EpochDomain::Guard guard(domain_);
  const Generation* g = generation_.load(std::memory_order_acquire);
  const Tier* tier = g->sole.load(kRelaxed);
  const auto* flags = g->storage->flags.get();
  if (tier != nullptr && tier->table.drawn() && options_.load_bound == 0.0) {
    const std::uint64_t first = position_.fetch_add(n, kRelaxed);
    const Table& table = tier->table;
    kernels().alias(table.alias.empty() ? nullptr : table.alias.data(), table.members.data(),
                    table.members.size(), options_.seed, first, ids, n);
    if (tier->flagged.load(kRelaxed) != 0) {
      for (std::size_t i = 0; i < n; ++i) {
        if ((flags[ids[i]].load(kRelaxed) & tier->mask.load(kRelaxed)) == 0) continue;
        Ask ask;
        ask.position = first + i;
        ask.now = now;
        ids[i] = decide(ask).id;
      }
    }
    return;
  }
  const bool in_order =
      tier != nullptr && (tier->table.kind == TableKind::list || tier->table.kind == TableKind::schedule);
  if (in_order && tier->flagged.load(kRelaxed) == 0) {
    const std::uint64_t first = position_.fetch_add(n, kRelaxed);
    const Table& table = tier->table;
    const bool list = table.kind == TableKind::list;
    const std::size_t period = list ? table.members.size() : table.ids.size();
    std::size_t place = first % period;
    // One period from the table, then copies of it, each twice as long as the one before.
    std::size_t done = 0;
    for (; done < n && done < period; ++done) {
      ids[done] = list ? table.members[place] : table.ids[place];
      if (++place == period) place = 0;
    }
    while (done < n) {
      const std::size_t some = std::min(done / period * period, n - done);
      std::memcpy(ids + done, ids, some * sizeof(Id));
      done += some;
    }
    return;
  }
  constexpr std::size_t kChunk = 1024;
  for (std::size_t done = 0; done < n;) {
    const std::size_t some = std::min(kChunk, n - done);
    std::uint64_t first = position_.load(kRelaxed);
    std::uint64_t next = first;
    do {
      next = look(ids + done, some, first, now);
    } while (!position_.compare_exchange_weak(first, next, kRelaxed));
    done += some;
  }
}

void Balancer::pick_many(const std::uint64_t* hashes, Id* ids, std::size_t n, double now) {
  EpochDomain::Guard guard(domain_);
  const Generation* g = generation_.load(std::memory_order_acquire);
  const Tier* tier = g->sole.load(kRelaxed);
  Ask ask;
  ask.keyed = true;
  ask.now = now;
  const bool quickly = tier != nullptr && options_.load_bound == 0.0;
  const auto* flags = g->storage->flags.get();
  bool owned = false;
  if (quickly) {
    const Table& table = tier->table;
    if (table.kind == TableKind::ring) {
      table.ring.owners(hashes, ids, n);
      owned = true;
    } else if (table.kind == TableKind::jump) {
      kernels().jump(hashes, static_cast<std::uint32_t>(table.ids.size()), ids, n);
      for (std::size_t i = 0; i < n; ++i) ids[i] = table.ids[ids[i]];
      owned = true;
    } else if (table.kind == TableKind::slots && table.ids.narrow() != nullptr) {
      kernels().slots(table.ids.narrow(), static_cast<std::uint32_t>(table.ids.size()), hashes, ids, n);
      owned = true;
    }
    if (owned && tier->flagged.load(kRelaxed) == 0) return;
  }
  for (std::size_t i = 0; i < n; ++i) {
    if (quickly) {
      if (!owned) ids[i] = tier->table.first_owner(hashes[i]);
      if (ids[i] != 0 && (flags[ids[i]].load(kRelaxed) & tier->mask.load(kRelaxed)) == 0) continue;
    }
    ask.hash = hashes[i];
    ids[i] = decide(ask).id;
  }
}

}  // namespace fastpath::balance
