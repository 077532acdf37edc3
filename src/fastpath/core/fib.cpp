// Updates of the table, and the states that readers see: published, cloned for snapshots and transactions,
// moved.
#include <type_traits>

#include "fib_parts.hpp"

namespace fastpath {

bool Fib::insert(int family, const std::uint8_t* address, unsigned length, std::uint32_t value) {
  make_room();
  accept(value);
  own_root(family);
  bool added = false;
  if (length <= short_limit(family)) {
    const std::uint32_t key = short_key(address, length);
    if (family == 6) expect_page();
    added = (family == 4 ? short4_ : short6_).put(key, value);
    const Answer answer{value, static_cast<std::uint8_t>(length)};
    if (family == 4) {
      paint4(key, 0, length, answer);
    } else {
      paint6(key, 0, length, answer);
    }
  } else if (family == 4) {
    const std::size_t top = std::size_t{address[0]} << 8 | address[1];
    const std::uint64_t entry = work_->root4[top];
    const std::uint32_t ref = put(4, 16, entry_ref(entry), address, length, value, added);
    if (ref != entry_ref(entry)) set_root4(top, make_entry(ref, entry_leaf(entry)));
  } else {
    const std::uint32_t page = own_page(std::size_t{address[0]} << 8 | address[1]);
    const std::size_t at = std::size_t{page} << 8 | address[2];
    const std::uint64_t entry = work_->pages[at];
    const std::uint32_t ref = put(6, 24, entry_ref(entry), address, length, value, added);
    if (ref != entry_ref(entry)) set_page_entry(at, make_entry(ref, entry_leaf(entry)));
  }
  (family == 4 ? size4_ : size6_) += added;
  retire_replaced();
  return added;
}

bool Fib::erase(int family, const std::uint8_t* address, unsigned length) {
  if (size(family) == 0) return false;
  make_room();
  bool removed = false;
  const std::size_t top = std::size_t{address[0]} << 8 | address[1];
  if (length <= short_limit(family)) {
    const std::uint32_t key = short_key(address, length);
    if (family == 6) expect_page();
    ShortRib& rib = family == 4 ? short4_ : short6_;
    removed = rib.erase(key);
    if (removed) {
      const std::uint32_t heir = short_parent(rib, key);
      Answer answer{work_->view.none, 0};
      if (heir != 0) answer = {*rib.find(heir), static_cast<std::uint8_t>(short_length(heir))};
      if (family == 4) {
        paint4(key, length, length, answer);
      } else {
        paint6(key, length, length, answer);
        if (length > 16) drop_bare_page(top);
      }
    }
  } else if (family == 4) {
    const std::uint64_t entry = work_->root4[top];
    const std::uint32_t ref = remove(4, 16, entry_ref(entry), address, length, removed);
    if (ref != entry_ref(entry)) set_root4(top, make_entry(ref, entry_leaf(entry)));
  } else {
    const std::size_t at = std::size_t{work_->root6[top]} << 8 | address[2];
    const std::uint64_t entry = work_->pages[at];
    const std::uint32_t ref = remove(6, 24, entry_ref(entry), address, length, removed);
    if (ref != entry_ref(entry)) {
      set_page_entry(at, make_entry(ref, entry_leaf(entry)));
      if (ref == 0) drop_bare_page(top);
    }
  }
  (family == 4 ? size4_ : size6_) -= removed;
  retire_replaced();
  return removed;
}

std::optional<std::uint32_t> Fib::get(int family, const std::uint8_t* address, unsigned length) const {
  if (length <= short_limit(family))
    return (family == 4 ? short4_ : short6_).find(short_key(address, length));
  unsigned level = short_limit(family);
  const std::size_t top = std::size_t{address[0]} << 8 | address[1];
  std::uint32_t ref = entry_ref(family == 4 ? work_->root4[top]
                                            : work_->pages[std::size_t{work_->root6[top]} << 8 | address[2]]);
  for (; length > level + 8 && ref != 0; level += 8) ref = child_of(family, level, ref, address[level / 8]);
  if (ref == 0) return std::nullopt;
  const Parts node = parts(family, level, ref);
  const unsigned base = address[level / 8];
  const unsigned code = length - level;
  if (const auto seen = node.seen(base, code)) return seen;
  const std::size_t at = node.find_hidden(base, code);
  if (at == node.hidden_count) return std::nullopt;
  return node.hidden_at(at).value;
}

Fib::Fib(std::size_t reserve) : reserve_(reserve) {
  start(empty_state(reserve, 16, none_of(16), deep_of(16)));
  state_.store(building_.release(), std::memory_order_release);
}

Fib::~Fib() {
  if (snapshot_) --arena_->pins;
  delete state_.load();
}

std::unique_ptr<State> Fib::empty_state(std::size_t reserve, unsigned leaf_bits, std::uint32_t none,
                                        std::uint32_t deep) {
  auto state = std::make_unique<State>();
  state->view.none = none;
  state->view.deep = deep;
  state->view.leaf_bits = leaf_bits;
  state->root4 = fib::bare_root4(state->view);
  state->root4_length = fib::bare_lengths();
  state->root6 = fib::bare_root6();
  state->pages = shared_array<std::uint64_t>(kFirstPages * 256);
  state->page_length = shared_array<std::uint8_t>(kFirstPages * 256);
  state->changes = shared_array<std::uint32_t>(2 * fib::kStripes);
  state->arena = std::make_shared<Arena>(reserve);
  std::fill_n(state->pages.get(), 256, make_entry(0, none));
  // The node without an answer is one for entries of any width: their places are behind the map and apart.
  std::uint8_t* const bare = state->arena->base();
  if (leaf_bits < 16) {
    write(bare + 8 * kWords, none);
    write(bare + kNoEntry, make_entry(0, none));
  } else {
    for (std::size_t word = 0; word < kWords; ++word) write(bare + 8 * word, kNoPlace << 56);
    for (const std::size_t bytes : {2, 4, 8}) write(bare + bytes * kNoPlace, make_entry(0, none));
  }
  state->view = {state->root4.get(),
                 state->root4_length.get(),
                 state->root6.get(),
                 state->pages.get(),
                 state->page_length.get(),
                 state->arena->base(),
                 none,
                 deep,
                 leaf_bits,
                 state->changes.get()};
  return state;
}

// Makes an empty state the one that a table begins to write. Nobody reads it yet.
void Fib::start(std::unique_ptr<State> next) {
  arena_ = next->arena;
  page_book_.assign(1, {kRoots, false});
  page_capacity_ = kFirstPages;
  building_ = std::move(next);
  work_ = building_.get();
}

// Makes what another table has built, if anything, the state that is written. Readers see it once it is
// published.
void Fib::take_over(Fib& other) noexcept {
  arena_ = std::move(other.arena_);
  short4_ = std::move(other.short4_);
  short6_ = std::move(other.short6_);
  page_book_ = std::move(other.page_book_);
  free_pages_ = std::move(other.free_pages_);
  page_capacity_ = other.page_capacity_;
  size4_ = other.size4_;
  size6_ = other.size6_;
  building_ = std::move(other.building_);
  work_ = building_ ? building_.get() : state_.load();
}

void Fib::publish(std::unique_ptr<State> next) {
  if (building_) {
    // Not seen by anyone yet: later parts of the build go on with the new form.
    building_ = std::move(next);
    work_ = building_.get();
    return;
  }
  epochs_.expect();
  work_ = next.release();
  epochs_.retire(state_.exchange(work_));
}

void Fib::publish_built() {
  if (before_) return;  // commit() will
  work_ = building_.release();
  epochs_.retire(state_.exchange(work_));
}

// Gives a state lengths of its own: a reader of the state before pairs them with the answers there.
void Fib::take_lengths(State& next) const {
  if (next.owns4) own(next.root4_length, kRoots);
  own(next.page_length, page_capacity_ * 256);
  next.view.root4_length = next.root4_length.get();
  next.view.page_length = next.page_length.get();
}

// A state with roots of its own over the same nodes.
std::unique_ptr<State> Fib::clone(const State& state) const {
  auto copy = std::make_unique<State>(state);
  if (state.owns4) own(copy->root4, kRoots);
  if (state.owns6) own(copy->root6, kRoots);
  own(copy->pages, page_capacity_ * 256);
  copy->view.root4 = copy->root4.get();
  copy->view.root6 = copy->root6.get();
  copy->view.pages = copy->pages.get();
  take_lengths(*copy);
  return copy;
}

// What only writers and readers of exact prefixes use.
void Fib::copy_book(const Fib& other) {
  arena_ = other.arena_;
  reserve_ = other.reserve_;
  short4_ = other.short4_;
  short6_ = other.short6_;
  page_book_ = other.page_book_;
  free_pages_ = other.free_pages_;
  page_capacity_ = other.page_capacity_;
  size4_ = other.size4_;
  size6_ = other.size6_;
}

std::unique_ptr<Fib> Fib::snapshot() {
  auto copy = std::unique_ptr<Fib>(new Fib(Bare{}));
  copy->copy_book(*this);
  copy->work_ = clone(*work_).release();
  copy->state_.store(copy->work_);
  copy->snapshot_ = true;
  ++arena_->pins;
  return copy;
}

void Fib::begin() {
  std::unique_ptr<Fib> before = snapshot();
  std::vector<Retired> retired = retired_;
  std::unique_ptr<State> building = clone(*work_);
  epochs_.expect();  // for commit()
  before_ = std::move(before);
  retired_before_ = std::move(retired);
  building_ = std::move(building);
  work_ = building_.get();
  arena_->mark();
}

void Fib::commit() {
  before_->arena_->keep();
  const std::unique_ptr<Fib> before = std::move(before_);
  publish_built();
  // These were taken off the new state, which readers see only now.
  const std::uint64_t epoch = epochs_.advance();
  for (Retired& item : retired_) item.epoch = epoch;
  retired_before_.clear();
}

void Fib::rollback() {
  const std::unique_ptr<Fib> before = std::move(before_);
  const std::shared_ptr<Arena> arena = before->arena_;
  take_over(*before);
  before->arena_ = arena;  // it gives up its hold of that
  arena_->rewind();
  replaced_.clear();
  retired_ = std::move(retired_before_);
  retired_bytes_ = 0;
  for (const Retired& item : retired_) retired_bytes_ += item.piece.size;
}

void Fib::collect() {
  if (before_ || (retired_.empty() && epochs_.waiting() == 0)) return;
  epochs_.reclaim();
  const std::uint64_t safe = epochs_.oldest();
  const bool pinned = arena_->pins != 0;
  const auto is_page = [](const Retired& item) { return item.piece.size == 0; };
  const auto pages = static_cast<std::size_t>(std::count_if(retired_.begin(), retired_.end(), is_page));
  try {
    if (free_pages_.capacity() - free_pages_.size() < pages)
      free_pages_.reserve(std::max(2 * free_pages_.size(), free_pages_.size() + pages));
  } catch (const std::bad_alloc&) {
    return;  // all waits for another time
  }
  std::size_t kept = 0;
  for (const Retired& item : retired_) {
    if (item.epoch >= safe || (pinned && item.piece.size != 0)) {
      retired_[kept++] = item;
    } else if (item.piece.size == 0) {
      free_pages_.push_back(item.piece.at);
    } else {
      arena_->release(item.piece.at, item.piece.size);
      retired_bytes_ -= item.piece.size;
    }
  }
  retired_.resize(kept);
  try {
    drop_free_pages();
    // Where much is free, or kept only for snapshots, the nodes move into an arena without it. A reader that
    // sleeps while it holds a guard makes much free at once, time and again: moves must be earned by updates,
    // by the fewer the more there is to gain.
    const std::size_t unused = arena_->free_bytes() + (pinned ? retired_bytes_ : 0);
    const std::size_t used = arena_->top() - unused;
    const bool much = unused > kCommitStep + used / (pinned ? 2 : 16);
    const bool earned = replaced_bytes_ > used / (unused > used / 8 ? 4 : 1);
    if (much && (pinned || earned)) relocate(arena_->reserved());
  } catch (const std::bad_alloc&) {  // the update is made, and the table as good as before
  }
  if (retired_.capacity() > kRetiredKept && retired_.size() < retired_.capacity() / 4)
    retired_.shrink_to_fit();
}

// Moves all nodes, without the free ones between them, into an arena of another size.
void Fib::relocate(std::size_t reserve) {
  auto next = std::make_unique<State>(*work_);
  next->arena = std::make_shared<Arena>(reserve);
  next->view.arena = next->arena->base();
  std::memcpy(next->arena->base(), arena_->base(), kNoNode);
  if (next->owns4) {
    next->root4 = shared_array<std::uint64_t>(kRoots);
    next->view.root4 = next->root4.get();
  }
  next->pages = shared_array<std::uint64_t>(page_capacity_ * 256);
  next->view.pages = next->pages.get();
  take_root6(*next);
  take_lengths(*next);
  const std::shared_ptr<Arena> from = std::exchange(arena_, next->arena);
  const auto moved = [&](int family, std::uint64_t entry) {
    const unsigned level = short_limit(family);
    return make_entry(copy_tree(family, level, entry_ref(entry), from->base()), entry_leaf(entry));
  };
  constexpr std::size_t kAhead = 8;
  try {
    for (std::size_t top = 0; next->owns4 && top < kRoots; ++top) {
      if (top + kAhead < kRoots) fetch_node(from->base(), entry_ref(work_->root4[top + kAhead]));
      next->root4[top] = moved(4, work_->root4[top]);
    }
    for (std::size_t at = 0; at < page_book_.size() * 256; ++at) {
      const bool own = page_book_[at >> 8].own;
      next->pages[at] = own ? moved(6, work_->pages[at]) : work_->pages[at];
    }
    epochs_.expect();
  } catch (...) {
    arena_ = from;
    throw;
  }
  // What waited to be freed lies in the old arena; pages do not.
  std::erase_if(retired_, [](const Retired& item) { return item.piece.size != 0; });
  retired_bytes_ = 0;
  replaced_bytes_ = 0;
  publish(std::move(next));
}

// No update may run into the end of the arena.
void Fib::make_room() {
  // What an update that failed had noted is still in use; and once one is published, its end must not fail.
  replaced_.clear();
  replaced_.reserve(kNoted);
  if (retired_.capacity() - retired_.size() < kNoted) {
    retired_.reserve(std::max(2 * retired_.capacity(), retired_.size() + kNoted));
  }
  if (arena_->reserved() - arena_->top() >= kSlack) return;
  // The largest arena is not moved for the little that is free in it: then what does not fit is refused.
  const bool largest = arena_->reserved() == fib::kMostUnits * kUnit;
  if (!largest || arena_->free_bytes() > arena_->reserved() / 8) relocate(arena_->reserved() * 4);
}

// The reserved leaves must differ from every value, and leaves must be wide enough.
bool Fib::accepts(std::uint32_t value) const noexcept {
  const fib::View& view = work_->view;
  return view.leaf_bits == 32 ? value != view.none && !is_deep(value, view.deep) : value < view.none;
}

void Fib::accept(std::uint32_t value) {
  if (!accepts(value)) rebuild(all_routes(), {&value, 1});
}

// At once: leaves would be widened step by step, and what is reserved for one value might be another one.
void Fib::accept_all(const std::vector<Route>& routes) {
  if (std::all_of(routes.begin(), routes.end(), [this](const Route& route) { return accepts(route.value); }))
    return;
  std::vector<std::uint32_t> values;
  values.reserve(routes.size());
  for (const Route& route : routes) values.push_back(route.value);
  rebuild(all_routes(), values);
}

std::vector<Fib::Route> Fib::routes(int family, const std::uint8_t* address, unsigned length) const {
  std::vector<Route> found;
  for_each(family, address, length, [&](const Route& route) { found.push_back(route); });
  return found;
}

std::vector<Fib::Route> Fib::all_routes() const {
  std::vector<Route> all;
  all.reserve(size4_ + size6_);
  const std::uint8_t zero[16] = {};
  for (int family : {4, 6}) for_each(family, zero, 0, [&](const Route& route) { all.push_back(route); });
  return all;
}

std::size_t Fib::nbytes() const noexcept {
  return sizeof(Fib) + 2 * fib::kStripes * 4 + (work_->owns4 ? kRoots * 9 : 0) +
         (work_->owns6 ? kRoots * 4 : 0) + page_capacity_ * 256 * 9 + page_book_.capacity() * sizeof(Page) +
         arena_->top() + arena_->book_bytes() + short4_.nbytes() + short6_.nbytes() +
         retired_.capacity() * sizeof(Retired);
}

}  // namespace fastpath
