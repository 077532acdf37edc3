// A node as its parts, and what a node that follows from another has in place of some of them.
#pragma once

#include "fib_internal.hpp"

namespace fastpath {

// A slot begins a prefix of code c if c is at least this.
constexpr std::array<std::uint8_t, 256> first_codes() {
  std::array<std::uint8_t, 256> codes{};
  for (unsigned s = 1; s < 256; ++s) codes[s] = static_cast<std::uint8_t>(8 - std::countr_zero(s));
  return codes;
}
inline constexpr std::array<std::uint8_t, 256> kFirstCode = first_codes();

// One bit a slot.
class Marks {
 public:
  void add(unsigned slot) { words_[slot / 64] |= std::uint64_t{1} << (slot % 64); }
  // The last one at or before `slot`; there must be one.
  unsigned last_to(unsigned slot) const {
    unsigned w = slot / 64;
    std::uint64_t word = words_[w] << (63 - slot % 64) >> (63 - slot % 64);
    while (word == 0) word = words_[--w];
    return 64 * w + 63 - static_cast<unsigned>(std::countl_zero(word));
  }
  // The first one behind `slot`, or 256.
  unsigned next_to(unsigned slot) const {
    unsigned w = slot / 64;
    std::uint64_t word = words_[w] & (~std::uint64_t{1} << (slot % 64));
    while (word == 0) {
      if (++w == 4) return 256;
      word = words_[w];
    }
    return 64 * w + static_cast<unsigned>(std::countr_zero(word));
  }
  void clear(unsigned begin, unsigned end) {
    for (unsigned w = begin / 64; 64 * w < end; ++w) {
      std::uint64_t kept = 0;
      if (begin > 64 * w) kept |= ~(~std::uint64_t{0} << (begin - 64 * w));
      if (end < 64 * w + 64) kept |= ~std::uint64_t{0} << (end - 64 * w);
      words_[w] &= kept;
    }
  }
  std::size_t count_below(unsigned slot) const {
    std::size_t sum = 0;
    for (unsigned w = 0; w < slot / 64; ++w) sum += ones(words_[w]);
    return slot % 64 == 0 ? sum : sum + ones(words_[slot / 64] << (64 - slot % 64));
  }
  // Calls f(slot) for each mark.
  template <typename F>
  void for_each(F&& f) const {
    for (unsigned w = 0; w < 4; ++w) {
      for (std::uint64_t word = words_[w]; word != 0; word &= word - 1) {
        f(64 * w + static_cast<unsigned>(std::countr_zero(word)));
      }
    }
  }
  // A map of kWords words, without the numbers in their top bytes.
  void add_map(const std::uint8_t* map) {
    for (unsigned w = 0; w < kWords; ++w) {
      const unsigned first = kWordSlots * w;
      const std::uint64_t word = read<std::uint64_t>(map + 8 * w) << 8 >> 8;
      words_[first / 64] |= word << (first % 64);
      if (first % 64 != 0 && first / 64 != 3) words_[first / 64 + 1] |= word >> (64 - first % 64);
    }
  }
  // Each word of the map counts the marks before it, and `before` more.
  void write_map(std::uint8_t* map, std::size_t before) const {
    for (unsigned w = 0; w < kWords; ++w) {
      const unsigned first = kWordSlots * w;
      std::uint64_t word = words_[first / 64] >> (first % 64);
      if (first % 64 != 0 && first / 64 != 3) word |= words_[first / 64 + 1] << (64 - first % 64);
      word &= (std::uint64_t{1} << kWordSlots) - 1;
      write(map + 8 * w, std::uint64_t{before} << 56 | word);
      before += ones(word);
    }
  }

 private:
  std::array<std::uint64_t, 4> words_{};
};

// Fields of any width one behind the other, from the lowest bit of the first byte on. Eight bytes are read or
// written at a time, in ascending order: what stands behind a field is not kept, unless it is replaced.
inline std::uint64_t low_bits(std::size_t count) { return ~(~std::uint64_t{0} << count); }  // below 64

inline std::uint32_t bits_at(const std::uint8_t* from, std::size_t bit, std::size_t count) {
  return static_cast<std::uint32_t>(read<std::uint64_t>(from + bit / 8) >> (bit % 8) & low_bits(count));
}
// Up to 57 bits, or 64 at the begin of a byte. No bit of `value` is above them.
inline void set_bits(std::uint8_t* to, std::size_t bit, std::uint64_t value) {
  to += bit / 8;
  write(to, value << (bit % 8) | (*to & low_bits(bit % 8)));
}
// Keeps what stands around the field.
inline void replace_bits(std::uint8_t* to, std::size_t bit, std::size_t count, std::uint32_t value) {
  to += bit / 8;
  const std::uint64_t field = low_bits(count) << (bit % 8);
  write(to, (read<std::uint64_t>(to) & ~field) | std::uint64_t{value} << (bit % 8));
}
inline void copy_bits(std::uint8_t* to, std::size_t to_bit, const std::uint8_t* from, std::size_t from_bit,
                      std::size_t count) {
  if (((to_bit | from_bit) & 7) == 0) {
    std::memcpy(to + to_bit / 8, from + from_bit / 8, (count + 7) / 8);
    return;
  }
  constexpr std::size_t kStep = 56;
  for (; count > kStep; to_bit += kStep, from_bit += kStep, count -= kStep) {
    set_bits(to, to_bit, read<std::uint64_t>(from + from_bit / 8) >> (from_bit % 8) & low_bits(kStep));
  }
  set_bits(to, to_bit, read<std::uint64_t>(from + from_bit / 8) >> (from_bit % 8) & low_bits(count));
}

// Slots from `start` on that have the same best prefix, and a child if `ref` is not 0.
struct Interval {
  std::uint32_t leaf;  // the best prefix's value, or the view's `none`
  std::uint32_t ref;
  std::uint16_t start;
  std::uint8_t code;  // bits of the best prefix beyond the node's own; 0: none
};

// What is asked of a node that is to be changed. Valid as long as the node is; its values may change
// meanwhile.
struct Fib::Parts {
  std::uint32_t ref;
  const std::uint8_t* begin;
  bool wide;
  std::size_t bits;       // of an entry
  std::size_t leaf_bits;  // of it
  std::uint32_t deep;
  std::uint32_t none;
  std::size_t count;  // of intervals
  Marks starts;
  const std::uint8_t* entries;
  std::size_t child_count;  // of a narrow node
  const std::uint8_t* hidden;
  std::size_t hidden_count;
  std::size_t hidden_size;                 // bytes of one
  std::size_t size;                        // bytes, with the entries of children
  const std::uint8_t* listed = nullptr;    // codes, or nullptr: the intervals tell them
  std::array<std::uint8_t, 128 + 8> told;  // as copy_bits() reads: eight bytes from any

  std::uint32_t entry_leaf(std::size_t interval) const {
    return bits_at(entries, bits * interval, leaf_bits);
  }
  std::uint32_t wide_ref(std::size_t interval) const {
    return bits_at(entries, bits * interval + leaf_bits, bits - leaf_bits);
  }
  bool has_child(std::size_t interval) const {
    return wide ? wide_ref(interval) != 0 : is_deep(entry_leaf(interval), deep);
  }
  const std::uint8_t* codes() const { return listed != nullptr ? listed : told.data(); }
  unsigned code(std::size_t interval) const { return code_at(codes(), interval); }
  Interval at(std::size_t interval, unsigned start) const {
    Interval found{entry_leaf(interval), 0, static_cast<std::uint16_t>(start),
                   static_cast<std::uint8_t>(code(interval))};
    if (wide) {
      found.ref = wide_ref(interval);
    } else if (is_deep(found.leaf, deep)) {
      const std::uint8_t* const entry = child_entry(begin, deep, found.leaf);
      found.leaf = read<std::uint32_t>(entry);
      found.ref = read<std::uint32_t>(entry + kEntryRef);
    }
    return found;
  }
  // Where the interval's value stands: 4 bytes in entries with a reference, else as wide as leaves are.
  const std::uint8_t* leaf_at(std::size_t interval) const {
    const std::uint32_t leaf = entry_leaf(interval);
    return !wide && is_deep(leaf, deep) ? child_entry(begin, deep, leaf) : entries + bits / 8 * interval;
  }
  // Codes of a node that does not list them.
  void tell_codes() {
    std::size_t interval = 0;
    for (unsigned start = 0; start < 256; ++interval) {
      const unsigned end = starts.next_to(start);
      std::uint32_t leaf = entry_leaf(interval);
      if (is_deep(leaf, deep)) leaf = read<std::uint32_t>(child_entry(begin, deep, leaf));
      const unsigned code = leaf == none ? 0 : natural_code(start, end);
      std::uint8_t& both = told[interval / 2];
      both = static_cast<std::uint8_t>(interval % 2 == 0 ? code : both | code << 4);
      start = end;
    }
  }
  std::size_t interval_of(unsigned slot) const { return starts.count_below(slot + 1) - 1; }
  // The first interval from `interval` to before `end` that has the code, or `end`.
  std::size_t find(std::size_t interval, std::size_t end, unsigned wanted) const {
    while (interval < end && code(interval) != wanted) ++interval;
    return interval;
  }
  // The value of a prefix that is seen somewhere.
  std::optional<std::uint32_t> seen(unsigned base, unsigned wanted) const {
    std::size_t interval = interval_of(base);
    for (unsigned s = starts.last_to(base); s < base + span_of(wanted); s = starts.next_to(s), ++interval) {
      if (code(interval) == wanted) return at(interval, s).leaf;
    }
    return std::nullopt;
  }
  Hidden hidden_at(std::size_t i) const {
    const std::uint8_t* const h = hidden + hidden_size * i;
    const std::uint64_t rest = read<std::uint64_t>(h + 1) & low_bits(8 * (hidden_size - 1));
    return {h[0], static_cast<std::uint8_t>(rest & 7), static_cast<std::uint32_t>(rest >> 3)};
  }
  // Which of the hidden ones it is, or how many there are.
  std::size_t find_hidden(unsigned base, unsigned wanted) const {
    std::size_t i = 0;
    while (i < hidden_count && (hidden_at(i).slot != base || hidden_at(i).code != wanted)) ++i;
    return i;
  }
  // A bit for each code that an interval has; others may be set as well.
  unsigned codes_there() const {
    unsigned there = 0;
    for (std::size_t i = 0; i < count; ++i) there |= 1u << code(i);
    return there;
  }
};

// A node like another one but for some intervals in a row and hidden prefixes.
struct Fib::Cut {
  static constexpr std::size_t kKept = SIZE_MAX;

  std::size_t head;  // so many intervals before
  std::size_t rest;  // and those behind from this one on stay
  unsigned begin;    // the slots of the others
  unsigned end;
  std::size_t count = 0;
  std::size_t first = 0;  // of these, the ones within the slots that were asked for
  std::size_t last = 0;
  std::array<Interval, 258> middle;
  std::size_t drop = kKept;  // a hidden one that goes
  const Hidden* more = nullptr;
  std::size_t more_count = 0;

  // The intervals that meet some slots, with a start at either end of these.
  void take(const Parts& old, unsigned from, unsigned to) {
    begin = old.starts.last_to(from);
    head = old.interval_of(from);
    rest = head;
    if (begin < from) middle[count++] = old.at(head, begin);
    first = count;
    for (end = begin; end < to; ++rest) {
      middle[count++] = old.at(rest, end);
      end = old.starts.next_to(end);
    }
    middle[first].start = static_cast<std::uint16_t>(from);
    last = count;
    if (end > to) {
      middle[count] = middle[count - 1];
      middle[count++].start = static_cast<std::uint16_t>(to);
    }
  }
  // What has become the same as its neighbour joins it, unless a prefix begins there or one has a child.
  void join(const Parts& old) {
    const auto same = [&](const Interval& inside, std::size_t outside, unsigned start) {
      return inside.ref == 0 && inside.code < kFirstCode[start] && old.code(outside) == inside.code &&
             !old.has_child(outside);
    };
    if (begin != 0 && same(middle[0], head - 1, begin)) {
      begin = old.starts.last_to(begin - 1);
      middle[0].start = static_cast<std::uint16_t>(begin);
      --head;
    }
    if (end != 256 && same(middle[count - 1], rest, end)) {
      end = old.starts.next_to(end);
      ++rest;
    }
  }
  void hide(const Hidden& one) {
    more = &one;
    more_count = 1;
  }
};

}  // namespace fastpath
