// Edits and batches of a policy.
#include "fastpath/policy.hpp"

#include <algorithm>

#include "fastpath/wire.hpp"

namespace fastpath {
namespace {

void address_at(const void* column, std::size_t i, std::uint32_t& address) noexcept {
  address = static_cast<const std::uint32_t*>(column)[i];
}
void address_at(const void* column, std::size_t i, Address16& address) noexcept {
  const auto* bytes = static_cast<const std::uint8_t*>(column) + 16 * i;
  address = {load_be64(bytes), load_be64(bytes + 8)};
}

template <typename Address>
PolicyPacket<Address> packet_at(const PolicyColumns& packets, std::size_t i) noexcept {
  PolicyPacket<Address> packet;
  address_at(packets.sources, i, packet.source);
  address_at(packets.destinations, i, packet.destination);
  packet.source_port = packets.source_ports[i];
  packet.destination_port = packets.destination_ports[i];
  packet.protocol = packets.protocols[i];
  return packet;
}

}  // namespace

void Policy::add(const Rule4* four, const Rule6* six) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t id = four != nullptr ? four->id : six->id;
  hits_.reserve(std::size_t{id} + 1, epochs_);
  hits_.restart(id);
  auto next_four = four != nullptr ? four_.with(*four) : nullptr;
  auto next_six = six != nullptr ? six_.with(*six) : nullptr;
  if (next_four != nullptr) four_.log_added(*four);
  if (next_six != nullptr) six_.log_added(*six);
  if (next_four != nullptr) four_.publish(std::move(next_four), epochs_);
  if (next_six != nullptr) six_.publish(std::move(next_six), epochs_);
}

void Policy::erase(const Rule4* four, const Rule6* six) {
  const std::lock_guard lock(mutex_);
  auto next_four = four != nullptr ? four_.without(*four) : nullptr;
  auto next_six = six != nullptr ? six_.without(*six) : nullptr;
  if (next_four != nullptr) four_.log_erased(*four);
  if (next_six != nullptr) six_.log_erased(*six);
  if (next_four != nullptr) four_.publish(std::move(next_four), epochs_);
  if (next_six != nullptr) six_.publish(std::move(next_six), epochs_);
}

void Policy::replace(const std::vector<Rule4>& four, const std::vector<Rule6>& six) {
  auto next_four = four_.of(four);
  auto next_six = six_.of(six);
  const std::lock_guard lock(mutex_);
  const auto prepare = [&](const auto& rules) {
    for (const auto& rule : rules) {
      hits_.reserve(std::size_t{rule.id} + 1, epochs_);
      hits_.restart(rule.id);
    }
  };
  prepare(four);
  prepare(six);
  four_.log_replaced();
  six_.log_replaced();
  four_.publish(std::move(next_four), epochs_);
  six_.publish(std::move(next_six), epochs_);
}

void Policy::move(const std::vector<Rule4>& four, const std::vector<std::uint64_t>& four_orders,
                  const std::vector<Rule6>& six, const std::vector<std::uint64_t>& six_orders) {
  const std::lock_guard lock(mutex_);
  const auto move = [&](auto& family, const auto& rules, const auto& orders) {
    if (rules.empty()) return;
    auto moved = rules;
    for (std::size_t i = 0; i < moved.size(); ++i) moved[i].order = orders[i];
    auto next = family.moved(rules, moved);
    for (const auto& rule : rules) family.log_erased(rule);
    for (const auto& rule : moved) family.log_added(rule);
    family.publish(std::move(next), epochs_);
  };
  move(four_, four, four_orders);
  move(six_, six, six_orders);
}

void Policy::compile() {
  const std::lock_guard one(compiling_);
  four_.compile(mutex_, epochs_, false);
  six_.compile(mutex_, epochs_, false);
}

std::size_t Policy::nbytes() const {
  const std::lock_guard lock(mutex_);
  return sizeof *this + four_.nbytes() + six_.nbytes() + hits_.nbytes();
}

template <typename Address>
void Policy::decide_many(PolicyFamily<Address>& family, const PolicyColumns& packets, std::size_t n,
                         std::uint32_t* ids) {
  using Family = PolicyFamily<Address>;
  bool compile = false;
  {
    const EpochDomain::Guard guard(epochs_);
    const typename Family::State& state = family.state();
    const PolicyTree<Address>* tree = state.tree.get();
    const PolicyHits::Lane lane(hits_);
    std::uint32_t found[kPolicyBlock];
    std::size_t slow = 0;
    const auto ask = [&](std::size_t i) {
      ++slow;
      const auto* rule = Family::find(state.tuples, packet_at<Address>(packets, i));
      return rule == nullptr ? 0 : rule->id;
    };
    for (std::size_t begin = 0; begin < n; begin += kPolicyBlock) {
      const std::size_t count = std::min(kPolicyBlock, n - begin);
      if (state.tuples.empty()) {
        std::fill_n(ids + begin, count, 0u);
        continue;
      }
      if (tree == nullptr) {
        for (std::size_t i = begin; i < begin + count; ++i) ids[i] = ask(i);
        lane.add(ids + begin, count);
        continue;
      }
      tree->find(packets, begin, count, found);
      const bool edited = tree->any_erased() || !state.added.empty();
      if (!edited && !tree->partial()) {
        for (std::size_t i = 0; i < count; ++i) ids[begin + i] = tree->id(found[i]);
        lane.add(ids + begin, count);
        continue;
      }
      for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t& id = ids[begin + i];
        if (found[i] == tree->unknown() || tree->erased(found[i])) {
          id = ask(begin + i);
          continue;
        }
        id = tree->id(found[i]);
        if (!state.added.empty()) {
          ++slow;
          const auto packet = packet_at<Address>(packets, begin + i);
          if (const auto* rule = Family::find(state.added, packet, tree->order(found[i]))) id = rule->id;
        }
      }
      lane.add(ids + begin, count);
    }
    compile = slow != 0 && family.note_slow(state, slow);
  }
  if (!compile) return;
  const std::unique_lock one(compiling_, std::try_to_lock);
  if (one) family.compile(mutex_, epochs_, true);
}

void Policy::decide4_many(const PolicyColumns& packets, std::size_t n, std::uint32_t* ids) {
  decide_many(four_, packets, n, ids);
}
void Policy::decide6_many(const PolicyColumns& packets, std::size_t n, std::uint32_t* ids) {
  decide_many(six_, packets, n, ids);
}

}  // namespace fastpath
