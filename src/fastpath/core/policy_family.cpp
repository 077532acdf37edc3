// Edits of a policy's rules, and compiling them.
#include "fastpath/policy/family.hpp"

#include <algorithm>
#include <array>

namespace fastpath {
namespace {

// Lengths of a new tuple for a rule: shorter than its own, so that others may join, unless that tuple is
// there already (and its bucket full).
template <typename Rule, typename Exists>
std::array<unsigned, 2> relaxed(const Rule& rule, Exists&& exists) {
  const unsigned s = rule.source_length, d = rule.destination_length;
  for (unsigned cut : {4u, 2u, 1u}) {
    const unsigned shorter_s = s - std::min(s, s % cut == 0 ? cut : s % cut);
    const unsigned shorter_d = d - std::min(d, d % cut == 0 ? cut : d % cut);
    if (!exists(shorter_s, shorter_d)) return {shorter_s, shorter_d};
  }
  return {s, d};
}

// A tuple that is being filled with many rules.
template <typename Address>
struct Plan {
  using Rule = PolicyRule<Address>;
  Plan(unsigned s, unsigned d) : source_length(s), destination_length(d), counts(1024) {}
  unsigned length() const noexcept { return source_length + destination_length; }
  std::size_t index(const Rule& rule) const noexcept {
    const Address pair[2] = {rule.source & prefix_mask<Address>(source_length),
                             rule.destination & prefix_mask<Address>(destination_length)};
    return static_cast<std::size_t>(xxh3_64(pair, sizeof pair, 0)) & (counts.size() - 1);
  }
  std::size_t bucket(const Rule& rule) const noexcept { return counts[index(rule)]; }
  void add(const Rule& rule) {
    rules.push_back(rule);
    if (rules.size() * 4 > counts.size()) {
      counts.assign(counts.size() * 4, 0);
      for (const Rule& known : rules) ++counts[index(known)];
    } else {
      ++counts[index(rule)];
    }
  }
  unsigned source_length;
  unsigned destination_length;
  std::vector<Rule> rules;
  std::vector<std::uint32_t> counts;  // an upper bound of each bucket's size
};

}  // namespace

template <typename Address>
void PolicyFamily<Address>::sort(Tuples& tuples) {
  std::sort(tuples.begin(), tuples.end(),
            [](const auto& a, const auto& b) { return a->first_order() < b->first_order(); });
}

template <typename Address>
void PolicyFamily<Address>::insert(Tuples& tuples, const Rule& rule) const {
  // The most specific tuple that takes the rule and has room in its bucket.
  const auto length = [](const auto& tuple) { return tuple->source_length() + tuple->destination_length(); };
  auto best = tuples.end();
  for (auto tuple = tuples.begin(); tuple != tuples.end(); ++tuple) {
    if (!(*tuple)->takes(rule) || (*tuple)->neighbours(rule) >= kCollisions) continue;
    if (best == tuples.end() || length(*tuple) > length(*best)) best = tuple;
  }
  if (best == tuples.end()) {
    const auto of_lengths = [&](unsigned s, unsigned d) {
      return std::find_if(tuples.begin(), tuples.end(), [&](const auto& tuple) {
        return tuple->source_length() == s && tuple->destination_length() == d;
      });
    };
    const auto [s, d] =
        relaxed(rule, [&](unsigned s, unsigned d) { return of_lengths(s, d) != tuples.end(); });
    best = of_lengths(s, d);
    if (best == tuples.end()) {
      tuples.push_back(std::make_shared<const Tuple>(s, d, seed_of(s, d), std::vector<Rule>{rule}));
      sort(tuples);
      return;
    }
    // The rule's very own lengths are taken, by a bucket that cannot be split any further.
  }
  *best = (*best)->with(rule);
  sort(tuples);
}

template <typename Address>
bool PolicyFamily<Address>::remove(Tuples& tuples, const Rule& rule) {
  const auto tuple =
      std::find_if(tuples.begin(), tuples.end(), [&](const auto& each) { return each->contains(rule); });
  if (tuple == tuples.end()) return false;
  if (auto rest = (*tuple)->without(rule)) {
    *tuple = std::move(rest);
    sort(tuples);
  } else {
    tuples.erase(tuple);
  }
  return true;
}

template <typename Address>
std::unique_ptr<typename PolicyFamily<Address>::State> PolicyFamily<Address>::with(const Rule& rule) const {
  auto next = std::make_unique<State>(state());
  insert(next->tuples, rule);
  if (next->tree != nullptr) insert(next->added, rule);
  ++next->rules;
  return next;
}

template <typename Address>
std::unique_ptr<typename PolicyFamily<Address>::State> PolicyFamily<Address>::without(
    const Rule& rule) const {
  auto next = std::make_unique<State>(state());
  if (!remove(next->tuples, rule)) return nullptr;
  // Readers of the state before may see the mark: they then ask the tuples of that state.
  if (next->tree != nullptr && !remove(next->added, rule)) next->tree->mark_erased(rule);
  --next->rules;
  return next;
}

template <typename Address>
std::unique_ptr<typename PolicyFamily<Address>::State> PolicyFamily<Address>::moved(
    const std::vector<Rule>& from, const std::vector<Rule>& to) const {
  auto next = std::make_unique<State>(state());
  // Marks come last: until then nothing has happened.
  std::vector<const Rule*> known;
  for (const Rule& rule : from) {
    remove(next->tuples, rule);
    if (next->tree != nullptr && !remove(next->added, rule)) known.push_back(&rule);
  }
  for (const Rule& rule : to) {
    insert(next->tuples, rule);
    if (next->tree != nullptr) insert(next->added, rule);
  }
  for (const Rule* rule : known) next->tree->mark_erased(*rule);
  return next;
}

template <typename Address>
std::unique_ptr<typename PolicyFamily<Address>::State> PolicyFamily<Address>::of(
    std::vector<Rule> rules) const {
  std::vector<Plan<Address>> plans;
  // Long prefixes first: they make the specific tuples that short ones cannot join.
  std::stable_sort(rules.begin(), rules.end(), [](const Rule& a, const Rule& b) {
    return a.source_length + a.destination_length > b.source_length + b.destination_length;
  });
  for (const Rule& rule : rules) {
    Plan<Address>* best = nullptr;
    for (Plan<Address>& plan : plans) {
      if (plan.source_length > rule.source_length || plan.destination_length > rule.destination_length)
        continue;
      if (best != nullptr && plan.length() <= best->length()) continue;
      if (plan.bucket(rule) < kCollisions) best = &plan;
    }
    if (best == nullptr) {
      const auto of_lengths = [&](unsigned s, unsigned d) {
        return std::find_if(plans.begin(), plans.end(), [&](const Plan<Address>& plan) {
          return plan.source_length == s && plan.destination_length == d;
        });
      };
      const auto [s, d] =
          relaxed(rule, [&](unsigned s, unsigned d) { return of_lengths(s, d) != plans.end(); });
      auto plan = of_lengths(s, d);
      if (plan == plans.end()) plan = plans.insert(plans.end(), Plan<Address>(s, d));
      best = &*plan;
    }
    best->add(rule);
  }
  auto next = std::make_unique<State>();
  next->rules = rules.size();
  for (const Plan<Address>& plan : plans) {
    const unsigned s = plan.source_length, d = plan.destination_length;
    next->tuples.push_back(std::make_shared<const Tuple>(s, d, seed_of(s, d), plan.rules));
  }
  sort(next->tuples);
  return next;
}

template <typename Address>
void PolicyFamily<Address>::compile(std::mutex& mutex, EpochDomain& epochs, bool bounded) {
  Tuples tuples;
  std::uint64_t generation;
  {
    const std::lock_guard lock(mutex);
    tuples = state().tuples;
    generation = generation_;
    edits_.clear();
    compiling_ = true;
  }
  std::shared_ptr<const Tree> tree;
  std::vector<Rule> rules;
  bool too_long = false;
  const auto finish = [&] {
    const std::lock_guard lock(mutex);
    compiling_ = false;
    if (generation != generation_) return;
    if (too_long) rest_.store(rules.size() / 2 + 1, std::memory_order_relaxed);
    if (tree == nullptr) return;
    auto next = std::make_unique<State>(state());
    next->tree = tree;
    next->added.clear();
    for (const Edit& edit : edits_) {
      if (edit.added) {
        insert(next->added, edit.rule);
      } else if (!remove(next->added, edit.rule)) {
        tree->mark_erased(edit.rule);
      }
    }
    slow_.store(0, std::memory_order_relaxed);
    publish(std::move(next), epochs);
  };
  try {
    for (const auto& tuple : tuples) tuple->each([&](const Rule& rule) { rules.push_back(rule); });
    std::sort(rules.begin(), rules.end(), [](const Rule& a, const Rule& b) { return a.order < b.order; });
    try {
      const std::uint64_t steps = bounded ? kSteps + kStepsPerRule * rules.size() : ~std::uint64_t{0};
      tree = std::make_shared<const Tree>(rules, isa_, steps);
    } catch (const typename Tree::TooLong&) {
      too_long = true;
    }
    finish();
  } catch (...) {
    tree = nullptr;
    finish();
    throw;
  }
}

template <typename Address>
std::size_t PolicyFamily<Address>::nbytes() const noexcept {
  const State& now = state();
  std::size_t bytes = now.tree != nullptr ? now.tree->nbytes() : 0;
  for (const auto* tuples : {&now.tuples, &now.added}) {
    for (const auto& tuple : *tuples) bytes += tuple->nbytes();
  }
  return bytes;
}

template class PolicyFamily<std::uint32_t>;
template class PolicyFamily<Address16>;

}  // namespace fastpath
