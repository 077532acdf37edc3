// Many prefixes at once: sorted, then built node by node in address order.
#include "fib_internal.hpp"

#include <functional>
#include <limits>
#include <stdexcept>

namespace fastpath {

namespace {

// Bulk input: what sorting needs, and no more.
struct Item4 {
  std::uint64_t key;  // address, then length in the low 8 bits
  std::uint32_t value;
  static constexpr int family = 4;
  unsigned length() const { return key & 0xFF; }
  unsigned slot(unsigned level) const { return key >> (32 - level) & 0xFF; }
  std::uint32_t short_bits() const { return static_cast<std::uint32_t>(key >> 16) & 0xFFFFFF; }
  bool operator<(const Item4& other) const { return key < other.key; }
  bool same_prefix(const Item4& other) const { return key == other.key; }
};
struct Item6 {
  std::uint64_t high;
  std::uint64_t low;
  std::uint32_t value;
  std::uint32_t bits;
  static constexpr int family = 6;
  unsigned length() const { return bits; }
  unsigned slot(unsigned level) const {
    return (level < 64 ? high >> (56 - level) : low >> (120 - level)) & 0xFF;
  }
  std::uint32_t short_bits() const { return static_cast<std::uint32_t>(high >> 40); }
  bool operator<(const Item6& other) const {
    if (high != other.high) return high < other.high;
    if (low != other.low) return low < other.low;
    return bits < other.bits;
  }
  bool same_prefix(const Item6& other) const {
    return high == other.high && low == other.low && bits == other.bits;
  }
};

// Stable, by the 40 bits of the key; from the least significant digit.
void sort_items(std::vector<Item4>& items) {
  if (std::is_sorted(items.begin(), items.end())) return;
  constexpr unsigned kDigit = 10;
  std::vector<Item4> other(items.size());
  for (unsigned shift = 0; shift < 40; shift += kDigit) {
    std::array<std::size_t, 1u << kDigit> at{};
    for (const Item4& item : items) ++at[item.key >> shift & (at.size() - 1)];
    std::size_t sum = 0;
    for (std::size_t& count : at) sum += std::exchange(count, sum);
    for (const Item4& item : items) other[at[item.key >> shift & (at.size() - 1)]++] = item;
    items.swap(other);
  }
}
void sort_items(std::vector<Item6>& items) {
  if (!std::is_sorted(items.begin(), items.end())) std::stable_sort(items.begin(), items.end());
}

// Of equal prefixes the last stays.
template <typename Item>
void drop_repeated(std::vector<Item>& items) {
  std::size_t kept = 0;
  for (const Item& item : items) {
    if (kept != 0 && items[kept - 1].same_prefix(item)) --kept;
    items[kept++] = item;
  }
  items.resize(kept);
}

}  // namespace

// Bulk input by family: sorted, each prefix once.
struct Fib::Items {
  std::vector<Item4> four;
  std::vector<Item6> six;

  explicit Items(const std::vector<Route>& routes) {
    for (const Route& route : routes) {
      if (route.family == 4) {
        const std::uint32_t address = __builtin_bswap32(read<std::uint32_t>(route.address));
        four.push_back({std::uint64_t{address} << 8 | route.length, route.value});
      } else {
        six.push_back({__builtin_bswap64(read<std::uint64_t>(route.address)),
                       __builtin_bswap64(read<std::uint64_t>(route.address + 8)), route.value, route.length});
      }
    }
    sort_items(four);
    sort_items(six);
    drop_repeated(four);
    drop_repeated(six);
  }
  // At most a chain of single-entry nodes a prefix; reserved addresses cost nothing.
  std::size_t room() const { return four.size() * 256 + six.size() * 2048 + kSlack; }
};

void Fib::insert_many(const std::vector<Route>& added) {
  if (added.size() < kBulk || added.size() * 8 < size4_ + size6_) {
    if (!added.empty()) accept_all(added);
    for (std::size_t i = 0; i < added.size(); ++i) {
      const Route& route = added[i];
      if (i % kTogether == 0) fetch_nodes(&route, std::min(kTogether, added.size() - i));
      insert(route.family, route.address, route.length, route.value);
    }
    return;
  }
  const bool into_empty =
      std::all_of(added.begin(), added.end(), [this](const Route& r) { return size(r.family) == 0; });
  if (!into_empty) {
    std::vector<Route> all = all_routes();
    all.insert(all.end(), added.begin(), added.end());
    rebuild(all, {});
  } else if (size4_ + size6_ == 0) {
    rebuild(added, {});
  } else {
    // The other family stays where it is.
    accept_all(added);
    Items items(added);
    const std::size_t room = items.room();
    if (arena_->reserved() - arena_->top() < room) relocate(arena_->reserved() + room);
    epochs_.expect();
    Fib before{Bare{}};
    before.copy_book(*this);
    before.building_ = std::exchange(building_, clone(*work_));
    work_ = building_.get();
    replaced_.clear();  // of an update that failed
    try {
      fill(items);
    } catch (...) {
      replaced_.clear();
      take_over(before);
      throw;
    }
    publish_built();
  }
}

std::size_t Fib::erase_many(const std::vector<Route>& gone) {
  std::size_t erased = 0;
  for (std::size_t i = 0; i < gone.size(); ++i) {
    if (i % kTogether == 0) fetch_nodes(&gone[i], std::min(kTogether, gone.size() - i));
    erased += erase(gone[i].family, gone[i].address, gone[i].length);
  }
  return erased;
}

// Asks for the nodes on the way to some prefixes, level by level, so that they come side by side.
void Fib::fetch_nodes(const Route* routes, std::size_t count) const {
  constexpr std::size_t kLine = 64;
  constexpr std::size_t kLines = 3;  // the map and what stands behind it in most nodes
  std::array<std::uint32_t, kTogether> refs;
  const auto top = [&](std::size_t i) {
    return std::size_t{routes[i].address[0]} << 8 | routes[i].address[1];
  };
  for (std::size_t i = 0; i < count; ++i) {
    const void* const root = routes[i].family == 4 ? static_cast<const void*>(&work_->root4[top(i)])
                                                   : static_cast<const void*>(&work_->root6[top(i)]);
    __builtin_prefetch(root);
  }
  for (std::size_t i = 0; i < count; ++i) {
    const Route& route = routes[i];
    const std::size_t page = route.family == 4 ? 0 : work_->root6[top(i)];
    refs[i] =
        entry_ref(route.family == 4 ? work_->root4[top(i)] : work_->pages[page << 8 | route.address[2]]);
  }
  for (unsigned depth = 0;; depth += 8) {
    std::size_t more = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (routes[i].length <= short_limit(routes[i].family) + depth) refs[i] = 0;
      if (refs[i] == 0) continue;
      ++more;
      const std::uint8_t* const node = arena_->base() + ref_unit(refs[i]) * kUnit;
      for (std::size_t line = 0; line < kLines; ++line) __builtin_prefetch(node + kLine * line);
    }
    if (more == 0) return;
    for (std::size_t i = 0; i < count; ++i) {
      const unsigned level = short_limit(routes[i].family) + depth;
      const bool below = refs[i] != 0 && routes[i].length > level + 8;
      refs[i] = below ? child_of(routes[i].family, level, refs[i], routes[i].address[level / 8]) : 0;
    }
  }
}

void Fib::clear() { rebuild({}, {}); }

template <typename Item>
std::uint32_t Fib::build(unsigned level, const Item* begin, const Item* end) {
  Slots slots;
  slots.clear(work_->view.none);
  struct Local {
    std::uint8_t slot;
    std::uint8_t code;
    std::uint32_t value;
  };
  std::array<Local, 512> locals;
  std::size_t count = 0;
  for (const Item* item = begin; item != end;) {
    const unsigned slot = item->slot(level);
    if (item->length() > level + 8) {
      // Everything that follows within this slot is longer too.
      const Item* last = item + 1;
      while (last != end && last->slot(level) == slot) ++last;
      slots.add_child(slot, build(level + 8, item, last));
      item = last;
      continue;
    }
    const unsigned code = item->length() - level;
    std::memset(slots.code + slot, static_cast<int>(code), span_of(code));
    std::fill_n(slots.leaf + slot, span_of(code), item->value);
    if (code != 8)
      locals[count++] = {static_cast<std::uint8_t>(slot), static_cast<std::uint8_t>(code), item->value};
    ++item;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const Local& local = locals[i];
    if (!slots.visible(local.slot, local.code)) slots.hide(local.slot, local.code, local.value);
  }
  return encode(Item::family, level, slots);
}

// Puts prefixes into families that have none, in a state that is not published.
void Fib::fill(const Items& items) {
  const auto put_short = [](const auto& item, ShortRib& rib) {
    const std::uint32_t key = 1u << item.length() | item.short_bits() >> (24 - item.length());
    rib.put(key, item.value);
    return key;
  };
  if (!items.four.empty()) own_root(4);
  if (!items.six.empty()) own_root(6);
  const Item4* const end4 = items.four.data() + items.four.size();
  for (const Item4* item = items.four.data(); item != end4;) {
    if (item->length() <= 16) {
      paint4(put_short(*item, short4_), 0, 16, {item->value, static_cast<std::uint8_t>(item->length())});
      ++item;
      continue;
    }
    const std::size_t top = item->key >> 24;
    const Item4* last = item + 1;
    while (last != end4 && last->key >> 24 == top) ++last;
    work_->root4[top] = make_entry(build(16, item, last), entry_leaf(work_->root4[top]));
    item = last;
  }
  const Item6* const end6 = items.six.data() + items.six.size();
  for (const Item6* item = items.six.data(); item != end6;) {
    if (item->length() <= 24) {
      paint6(put_short(*item, short6_), 0, 24, {item->value, static_cast<std::uint8_t>(item->length())});
      ++item;
      continue;
    }
    const Item6* last = item + 1;
    while (last != end6 && last->high >> 40 == item->high >> 40) ++last;
    const std::uint32_t page = own_page(item->high >> 48);
    const std::size_t at = std::size_t{page} << 8 | (item->high >> 40 & 0xFF);
    work_->pages[at] = make_entry(build(24, item, last), entry_leaf(work_->pages[at]));
    item = last;
  }
  if (!items.four.empty()) size4_ = items.four.size();
  if (!items.six.empty()) size6_ = items.six.size();
  // Pages given up on the way were never seen.
  for (const Piece& piece : replaced_) free_pages_.push_back(piece.at);
  replaced_.clear();
}

// Builds everything anew from `routes`, later ones winning, in a form that also takes `values`.
void Fib::rebuild(const std::vector<Route>& routes, std::span<const std::uint32_t> values) {
  std::uint32_t greatest = 0;
  for (const std::uint32_t value : values) greatest = std::max(greatest, value);
  for (const Route& route : routes) greatest = std::max(greatest, route.value);
  unsigned bits = fib::kLeastLeafBits;
  while (bits < 16 && greatest >= none_of(bits)) ++bits;
  if (bits == 16 && greatest >= none_of(bits)) bits = 32;
  std::uint32_t none = none_of(bits);
  std::uint32_t deep = deep_of(bits);
  if (greatest >= none) {
    // Integers that nobody uses, from the top: a block for children, and one more.
    std::vector<std::uint32_t> used(values.begin(), values.end());
    for (const Route& route : routes) used.push_back(route.value);
    std::sort(used.begin(), used.end(), std::greater<>());
    std::size_t i = 0;
    for (deep = deep_of(32);; deep -= kDeepLeaves) {
      while (i < used.size() && used[i] - deep >= kDeepLeaves && used[i] > deep) ++i;
      if (i == used.size() || used[i] < deep) break;
      if (deep == 0) throw std::length_error("the next hops leave no integers for the table's own use");
    }
    none = std::numeric_limits<std::uint32_t>::max();
    for (const std::uint32_t one : used) {
      while (is_deep(none, deep)) --none;
      if (one < none) break;
      if (one == none) --none;
    }
    while (is_deep(none, deep)) --none;
  }
  const Items items(routes);
  // Apart, so that the table is what it was if memory runs out.
  Fib built{Bare{}};
  built.start(empty_state(reserve_ + items.room(), bits, none, deep));
  built.fill(items);
  epochs_.expect();
  take_over(built);
  replaced_.clear();
  retired_.clear();  // they lie in the old arena, which goes with its state
  retired_bytes_ = replaced_bytes_ = 0;
  publish_built();
}

}  // namespace fastpath
