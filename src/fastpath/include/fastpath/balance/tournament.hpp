// The least load of many, and one of those that share it by weight, in O(log n): every node of a tree with
// eight children each knows the least load below it and the weight of all that have it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <limits>
#include <memory>
#include <vector>

namespace fastpath::balance {

// One thread at a time writes. Readers beside it may get a leaf whose load was least a moment ago.
class Tournament {
 public:
  static constexpr std::size_t kNobody = ~std::size_t{0};
  static constexpr double kOut = std::numeric_limits<double>::infinity();

  // A leaf for every weight; all are out. The weights must stay where they are.
  void resize(const std::vector<double>& weights) {
    levels_.clear();
    const double* given = weights.data();
    for (std::size_t n = weights.size(); n > 0; n = n == 1 ? 0 : (n + kFan - 1) / kFan, given = nullptr) {
      levels_.emplace_back(n, given);
    }
  }

  void set(std::size_t leaf, double load) noexcept {
    levels_.front().load[leaf].store(load, kRelaxed);
    for (std::size_t k = 1, i = leaf / kFan; k < levels_.size(); ++k, i /= kFan) {
      const Least least = levels_[k - 1].least(i);
      Level& level = levels_[k];
      if (level.load[i].load(kRelaxed) == least.load && level.weight_of(i) == least.weight) return;
      level.load[i].store(least.load, kRelaxed);
      level.weight[i].store(least.weight, kRelaxed);
    }
  }

  // A leaf for 0 <= u < 1; kNobody when all are out.
  std::size_t pick(double u) const noexcept {
    if (levels_.empty()) return kNobody;
    const Level& top = levels_.back();
    double lowest = top.load[0].load(kRelaxed);
    if (lowest == kOut) return kNobody;
    double left = u * top.weight_of(0);
    std::size_t chosen = 0;
    for (std::size_t k = levels_.size() - 1; k-- > 0;) {
      const Level& level = levels_[k];
      const std::size_t node = chosen;
      // The last of those with the least load whose part does not begin behind `left`. Which one that is no
      // branch can foresee, so there is none.
      chosen = kNobody;
      double passed = 0.0;
      double sum = 0.0;
      for (std::size_t child = node * kFan; child < level.end(node); ++child) {
        const bool least = level.load[child].load(kRelaxed) == lowest;
        const bool reached = least & (sum <= left);
        chosen = reached ? child : chosen;
        passed = reached ? sum : passed;
        sum += least ? level.weight_of(child) : 0.0;
      }
      if (chosen == kNobody) return kNobody;  // a writer came between
      left -= passed;
    }
    return chosen;
  }

  std::size_t nbytes() const noexcept {
    std::size_t bytes = levels_.capacity() * sizeof(Level);
    for (const Level& level : levels_) bytes += level.size * sizeof(double) * (level.weight ? 2 : 1);
    return bytes;
  }

 private:
  static constexpr std::size_t kFan = 8;
  static constexpr auto kRelaxed = std::memory_order_relaxed;

  struct Least {
    double load;
    double weight;
  };
  struct Level {
    Level(std::size_t n, const double* given_weights)
        : size(n), given(given_weights), load(new std::atomic<double>[n]) {
      for (std::size_t i = 0; i < n; ++i) load[i].store(kOut, kRelaxed);
      if (given == nullptr) weight.reset(new std::atomic<double>[n]());
    }
    double weight_of(std::size_t i) const noexcept {
      return given != nullptr ? given[i] : weight[i].load(kRelaxed);
    }
    // The children of a node of the level above: from node * kFan to end(node).
    std::size_t end(std::size_t node) const noexcept { return std::min(size, (node + 1) * kFan); }
    Least least(std::size_t node) const noexcept {
      Least least{kOut, 0.0};
      for (std::size_t child = node * kFan; child < end(node); ++child) {
        const double here = load[child].load(kRelaxed);
        if (here > least.load) continue;
        const double shared = here < least.load ? 0.0 : least.weight;
        least = {here, shared + weight_of(child)};
      }
      return least;
    }
    std::size_t size;
    const double* given;
    std::unique_ptr<std::atomic<double>[]> load;
    std::unique_ptr<std::atomic<double>[]> weight;
  };
  std::vector<Level> levels_;  // the leaves first
};

}  // namespace fastpath::balance
