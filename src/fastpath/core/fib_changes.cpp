// Single prefixes put into nodes and taken out of them.
#include "fib_parts.hpp"

namespace fastpath {

std::uint32_t Fib::put(int family, unsigned level, std::uint32_t ref, const std::uint8_t* address,
                       unsigned length, std::uint32_t value, bool& added) {
  const unsigned slot = address[level / 8];
  if (length > level + 8) {
    const std::uint32_t child = child_of(family, level, ref, slot);
    const std::uint32_t fresh = put(family, level + 8, child, address, length, value, added);
    return fresh == child ? ref : with_child(family, level, ref, slot, fresh);
  }
  const unsigned code = length - level;
  const Parts old = parts(family, level, ref);
  Cut cut;
  cut.take(old, slot, slot + span_of(code));
  bool present = false;
  Interval was{0, 0, 0, 0};  // the prefix that gives way: all shorter ones here are the same
  bool painted = false;
  for (std::size_t i = cut.first; i < cut.last; ++i) {
    Interval& one = cut.middle[i];
    if (one.code > code) continue;
    if (one.code == code) {
      present = true;
    } else {
      was = one;
      painted = true;
    }
    one.code = static_cast<std::uint8_t>(code);
    one.leaf = value;
  }
  added = !present;
  if (present && !painted && arena_->pins == 0 && !work_->view.packed()) {
    change(old, cut, code, value);
    return ref;
  }
  Hidden hidden{static_cast<std::uint8_t>(slot), static_cast<std::uint8_t>(code), value};
  if (!present && !painted) {
    const std::size_t at = old.find_hidden(slot, code);
    if (at != old.hidden_count) {
      added = false;
      cut.drop = at;
    }
    cut.hide(hidden);
  } else if (was.code != 0 && cut.count == cut.last - cut.first) {
    // Nothing of it is left beside the new one. Is there before or behind?
    const unsigned base = base_of(slot, was.code);
    const std::size_t stop = old.interval_of(base + span_of(was.code) - 1) + 1;
    if (old.find(old.interval_of(base), cut.head, was.code) == cut.head &&
        old.find(cut.rest, stop, was.code) >= stop) {
      hidden = {static_cast<std::uint8_t>(base), was.code, was.leaf};
      cut.hide(hidden);
    }
  }
  return copied(family, old, cut);
}

// Another value of a prefix that is seen, in the node that readers look at.
void Fib::change(const Parts& old, const Cut& cut, unsigned code, std::uint32_t value) {
  for (std::size_t i = cut.first; i < cut.last; ++i) {
    if (cut.middle[i].code != code) continue;
    const std::size_t interval = cut.head + i - cut.first;
    std::uint8_t* const at = arena_->base() + (old.leaf_at(interval) - arena_->base());
    const bool short_leaf = old.bits == 16 && !old.has_child(interval);
    if (short_leaf) {
      __atomic_store_n(reinterpret_cast<std::uint16_t*>(at), static_cast<std::uint16_t>(value),
                       __ATOMIC_RELEASE);
    } else {
      __atomic_store_n(reinterpret_cast<std::uint32_t*>(at), value, __ATOMIC_RELEASE);
    }
  }
}

std::uint32_t Fib::remove(int family, unsigned level, std::uint32_t ref, const std::uint8_t* address,
                          unsigned length, bool& removed) {
  removed = false;
  if (ref == 0) return 0;
  const unsigned slot = address[level / 8];
  if (length > level + 8) {
    const std::uint32_t child = child_of(family, level, ref, slot);
    const std::uint32_t fresh = remove(family, level + 8, child, address, length, removed);
    return fresh == child ? ref : with_child(family, level, ref, slot, fresh);
  }
  const unsigned code = length - level;
  const Parts old = parts(family, level, ref);
  Cut cut;
  cut.take(old, slot, slot + span_of(code));
  if (old.find(cut.head, cut.rest, code) == cut.rest) {
    const std::size_t at = old.find_hidden(slot, code);
    if (at == old.hidden_count) return ref;
    removed = true;
    cut.drop = at;
    return copied(family, old, cut);
  }
  removed = true;
  // The longest prefix that is shorter takes its place.
  std::uint32_t leaf = work_->view.none;
  unsigned heir = code - 1;
  const unsigned there = old.hidden_count != 0 ? ~0u : old.codes_there();
  for (; heir > 0; --heir) {
    if ((there >> heir & 1) == 0) continue;
    const unsigned base = base_of(slot, heir);
    if (const auto seen = old.seen(base, heir)) {
      leaf = *seen;
      break;
    }
    const std::size_t at = old.find_hidden(base, heir);
    if (at != old.hidden_count) {
      leaf = old.hidden_at(at).value;
      cut.drop = at;
      break;
    }
  }
  for (std::size_t i = 0; i < cut.count; ++i) {
    Interval& one = cut.middle[i];
    if (one.code != code) continue;
    one.code = static_cast<std::uint8_t>(heir);
    one.leaf = leaf;
  }
  cut.join(old);
  return copied(family, old, cut);
}

// A node with another child, or none (0).
std::uint32_t Fib::with_child(int family, unsigned level, std::uint32_t ref, unsigned slot,
                              std::uint32_t child) {
  if (child != 0) {
    std::uint8_t* const at = arena_->pins == 0 ? child_slot(family, level, ref, slot) : nullptr;
    if (at != nullptr && read<std::uint32_t>(at) != 0) {
      __atomic_store_n(reinterpret_cast<std::uint32_t*>(at), child, __ATOMIC_RELEASE);
      return ref;
    }
  }
  const Parts old = parts(family, level, ref);
  Cut cut;
  cut.take(old, slot, slot + 1);
  cut.middle[cut.first].ref = child;
  if (child == 0) cut.join(old);
  return copied(family, old, cut);
}

}  // namespace fastpath
