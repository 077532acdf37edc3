// Which rules can never match, because the rules before them, alone or together, take all their packets.
//
// Whether boxes cover another one: boxes that leave free one side alone (slabs) are cut out of the space,
// which closes over them; then the space is cut in two, and so on, after Chan, "Klee's Measure Problem Made
// Easy" (2013). A part that no box touches is an answer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fastpath/policy/rule.hpp"

namespace fastpath {

// Work that is done piece by piece: run() until it says true.
class PolicyShadow {
 public:
  // Rules of one family by order, and which of them are asked about.
  template <typename Address>
  PolicyShadow(const std::vector<PolicyRule<Address>>& rules, std::vector<std::uint8_t> asked);

  // Goes on for about so many steps, of some 10 ns each; whether all is done.
  bool run(std::uint64_t steps);
  // Whether a rule that was asked about can never match.
  bool shadowed(std::size_t rule) const noexcept { return shadowed_[rule]; }

 private:
  static constexpr std::size_t kFields = 5;
  // Half-open ranges; the numbers are ranks of the bounds that occur.
  struct Box {
    std::array<std::int32_t, kFields> low, high;
  };
  // Whether boxes from..to of the arena cover the room.
  struct Question {
    Box room;
    std::size_t from, to;
  };

  // Adds the boxes before a rule that overlap it; whether one of them covers it.
  bool gather(std::size_t rule);
  // Answers a question, or puts smaller ones; false: something is left free.
  bool ask(const Question& question);
  // Cuts slabs out of the room until there are none; whether nothing is left of it.
  bool close(Box& room, std::vector<Box>& boxes);
  // Halves a room whose boxes stand in the arena.
  void split(const Box& room, const std::vector<Box>& boxes, std::size_t from);
  void finish(bool shadowed);

  std::vector<Box> boxes_;  // of the rules
  std::array<std::vector<std::int32_t>, 2 * kFields>
      earlier_;  // low and high ends of rules that are not shadowed
  std::vector<std::int32_t> overlaps_;
  std::vector<std::uint8_t> asked_;
  std::vector<bool> shadowed_;
  std::size_t rule_ = 0;  // that is looked at
  std::uint64_t spent_ = 0;
  std::vector<Question> questions_;
  std::vector<Box> arena_;
};

}  // namespace fastpath
