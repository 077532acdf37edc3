// Prefixes too short for nodes: they are painted into the roots, and their exact values kept in a ShortRib.
#include "fib_internal.hpp"

namespace fastpath {

namespace fib {

Shared<std::uint64_t> filled_root4(std::uint32_t none) {
  auto root = shared_array<std::uint64_t>(kRoots);
  std::fill_n(root.get(), kRoots, make_entry(0, none));
  return root;
}

// Roots of families without a prefix; nobody writes to them.
Shared<std::uint64_t> bare_root4(const View& view) {
  static std::mutex mutex;
  static std::array<Shared<std::uint64_t>, 33> roots;  // by the bits of leaves
  if (view.none != none_of(view.leaf_bits)) return filled_root4(view.none);
  const std::lock_guard lock(mutex);
  Shared<std::uint64_t>& root = roots[view.leaf_bits];
  if (!root) root = filled_root4(view.none);
  return root;
}
const Shared<std::uint8_t>& bare_lengths() {
  static const Shared<std::uint8_t> lengths = shared_array<std::uint8_t>(kRoots);
  return lengths;
}
const Shared<std::uint32_t>& bare_root6() {
  static const Shared<std::uint32_t> root = shared_array<std::uint32_t>(kRoots);
  return root;
}

}  // namespace fib

// Before the first prefix of a family.
void Fib::own_root(int family) {
  if (family == 4 ? work_->owns4 : work_->owns6) return;
  auto next = std::make_unique<State>(*work_);
  if (family == 4) {
    next->owns4 = true;
    next->root4 = fib::filled_root4(next->view.none);
    next->root4_length = shared_array<std::uint8_t>(kRoots);
    next->view.root4 = next->root4.get();
    next->view.root4_length = next->root4_length.get();
  } else {
    next->owns6 = true;
    next->root6 = shared_array<std::uint32_t>(kRoots);
    next->view.root6 = next->root6.get();
  }
  publish(std::move(next));
}

void Fib::set_root4(std::size_t top, std::uint64_t entry) {
  __atomic_store_n(work_->root4.get() + top, entry, __ATOMIC_RELEASE);
}

// An answer and its length, which readers of both take together (settled_length in fib_walk.hpp).
void Fib::set_answer(std::uint32_t* changes, std::uint64_t* entry, std::uint8_t* length, Answer answer) {
  const std::uint32_t count = *changes;
  __atomic_store_n(changes, count + 1, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_RELEASE);
  __atomic_store_n(entry, make_entry(entry_ref(*entry), answer.leaf), __ATOMIC_RELEASE);
  __atomic_store_n(length, answer.length, __ATOMIC_RELAXED);
  __atomic_store_n(changes, count + 2, __ATOMIC_RELEASE);
}

void Fib::set_page_entry(std::size_t at, std::uint64_t entry) {
  __atomic_store_n(work_->pages.get() + at, entry, __ATOMIC_RELEASE);
}

// The longest prefix above `key` that exists, as its key, or 0.
std::uint32_t Fib::short_parent(const ShortRib& rib, std::uint32_t key) {
  for (key >>= 1; key != 0; key >>= 1) {
    if (rib.find(key)) return key;
  }
  return 0;
}

// Gives what lies under `key` and answers with lengths `least` to `most` another answer.
void Fib::paint4(std::uint32_t key, unsigned least, unsigned most, Answer answer) {
  const unsigned length = short_length(key);
  const std::size_t first = std::size_t{key ^ 1u << length} << (16 - length);
  const std::size_t last = first + (std::size_t{1} << (16 - length));
  std::uint8_t* const lengths = work_->root4_length.get();
  for (std::size_t top = first; top < last; ++top) {
    if (lengths[top] < least || lengths[top] > most) continue;
    set_answer(work_->changes.get() + (top >> 8), work_->root4.get() + top, lengths + top, answer);
  }
}

void Fib::paint_page(std::size_t first, std::size_t last, unsigned least, unsigned most, Answer answer) {
  std::uint8_t* const lengths = work_->page_length.get();
  std::uint32_t* const changes = work_->changes.get() + fib::kStripes + (first >> 8) % fib::kStripes;
  for (std::size_t at = first; at < last; ++at) {
    if (lengths[at] < least || lengths[at] > most) continue;
    set_answer(changes, work_->pages.get() + at, lengths + at, answer);
  }
}

void Fib::paint6(std::uint32_t key, unsigned least, unsigned most, Answer answer) {
  const unsigned length = short_length(key);
  const std::uint32_t bits = key ^ 1u << length;
  if (length > 16) {
    const std::size_t page = std::size_t{own_page(bits >> (length - 16))} << 8;
    const std::size_t first = bits << (24 - length) & 0xFF;
    paint_page(page + first, page + first + (std::size_t{1} << (24 - length)), least, most, answer);
    return;
  }
  const std::size_t first = std::size_t{bits} << (16 - length);
  const std::size_t last = first + (std::size_t{1} << (16 - length));
  std::optional<std::uint32_t> shared;
  for (std::size_t top = first; top < last; ++top) {
    const std::uint32_t page = work_->root6[top];
    if (page_book_[page].own) {
      paint_page(std::size_t{page} << 8, (std::size_t{page} + 1) << 8, least, most, answer);
      continue;
    }
    const unsigned stands_for = work_->page_length[std::size_t{page} << 8];
    if (stands_for < least || stands_for > most) continue;
    if (!shared) shared = shared_page(answer);
    point_root6(top, *shared);
  }
}

void Fib::point_root6(std::size_t top, std::uint32_t page) {
  const std::uint32_t old = work_->root6[top];
  if (old == page) return;
  ++page_book_[page].users;
  __atomic_store_n(work_->root6.get() + top, page, __ATOMIC_RELEASE);
  if (--page_book_[old].users == 0 && old != 0) {
    page_book_[old] = {};
    replaced_.push_back({old, 0});
  }
}

// Readers of the state before must not come to see page numbers that only the new one knows.
void Fib::take_root6(State& next) {
  if (!next.owns6) return;
  own(next.root6, kRoots);
  next.view.root6 = next.root6.get();
}

// A page that nobody reads yet. Its entries are whatever they were.
std::uint32_t Fib::new_page() {
  if (!free_pages_.empty()) {
    const std::uint32_t page = free_pages_.back();
    free_pages_.pop_back();
    return page;
  }
  expect_page();
  page_book_.push_back({});
  return static_cast<std::uint32_t>(page_book_.size() - 1);
}

// After this the next new_page() does not fail.
void Fib::expect_page() {
  const std::size_t pages = page_book_.size();
  if (!free_pages_.empty()) return;
  if (pages < page_capacity_) {
    page_book_.reserve(page_capacity_);  // a copy has less
    return;
  }
  auto next = std::make_unique<State>(*work_);
  const std::size_t capacity = page_capacity_ + page_capacity_ / 4 + 4;
  next->pages = shared_array<std::uint64_t>(capacity * 256);
  next->page_length = shared_array<std::uint8_t>(capacity * 256);
  std::copy_n(work_->pages.get(), pages * 256, next->pages.get());
  std::copy_n(work_->page_length.get(), pages * 256, next->page_length.get());
  next->view.pages = next->pages.get();
  next->view.page_length = next->page_length.get();
  take_root6(*next);
  page_book_.reserve(capacity);
  publish(std::move(next));
  page_capacity_ = capacity;
}

// Gives up free pages where they are many. That copies all the others, and a table that needs pages again
// grows again: both must be earned by updates.
void Fib::drop_free_pages() {
  const std::size_t used = page_book_.size() - free_pages_.size();
  const bool all_earned = drops_earned_ == kDropsAtOnce * kDropCost;
  const std::size_t kept = all_earned ? kFreePagesKept + used / 16 : 4 * kFreePagesKept + used / 4;
  if (free_pages_.size() <= kept || drops_earned_ < kDropCost) return;
  drops_earned_ -= kDropCost;
  auto next = std::make_unique<State>(*work_);
  next->pages = shared_array<std::uint64_t>(used * 256);
  next->page_length = shared_array<std::uint8_t>(used * 256);
  std::vector<Page> book;
  book.reserve(used);  // page_capacity_, from then on
  std::vector<std::uint32_t> number(page_book_.size());
  for (std::size_t page = 0; page < page_book_.size(); ++page) {
    // What waits to be freed is read in the arrays before alone.
    if (page != 0 && page_book_[page].users == 0) continue;
    number[page] = static_cast<std::uint32_t>(book.size());
    std::copy_n(work_->pages.get() + (page << 8), 256, next->pages.get() + (book.size() << 8));
    std::copy_n(work_->page_length.get() + (page << 8), 256, next->page_length.get() + (book.size() << 8));
    book.push_back(page_book_[page]);
  }
  next->view.pages = next->pages.get();
  next->view.page_length = next->page_length.get();
  take_root6(*next);
  for (std::size_t top = 0; next->owns6 && top < kRoots; ++top) next->root6[top] = number[next->root6[top]];
  publish(std::move(next));
  page_book_ = std::move(book);
  page_capacity_ = used;
  free_pages_ = {};
  std::erase_if(retired_, [](const Retired& item) { return item.piece.size == 0; });
}

// The page that answers `answer` everywhere.
std::uint32_t Fib::shared_page(Answer answer) {
  for (std::size_t page = 0; page < page_book_.size(); ++page) {
    const Page& entry = page_book_[page];
    if ((page == 0 || entry.users != 0) && !entry.own && work_->page_length[page << 8] == answer.length &&
        entry_leaf(work_->pages[page << 8]) == answer.leaf) {
      return static_cast<std::uint32_t>(page);
    }
  }
  const std::uint32_t page = new_page();
  std::fill_n(work_->pages.get() + (std::size_t{page} << 8), 256, make_entry(0, answer.leaf));
  std::fill_n(work_->page_length.get() + (std::size_t{page} << 8), 256, answer.length);
  return page;
}

// The page of one /16 alone.
std::uint32_t Fib::own_page(std::size_t top) {
  const std::uint32_t old = work_->root6[top];
  if (page_book_[old].own) return old;
  const std::uint32_t page = new_page();
  const std::size_t from = std::size_t{old} << 8;
  const std::size_t to = std::size_t{page} << 8;
  std::copy_n(work_->pages.get() + from, 256, work_->pages.get() + to);
  std::copy_n(work_->page_length.get() + from, 256, work_->page_length.get() + to);
  page_book_[page].own = true;
  point_root6(top, page);
  return page;
}

// Gives up a page of its own where a shared one would do.
void Fib::drop_bare_page(std::size_t top) {
  const std::uint32_t page = work_->root6[top];
  if (!page_book_[page].own) return;
  const std::uint64_t* const entries = work_->pages.get() + (std::size_t{page} << 8);
  const std::uint8_t* const lengths = work_->page_length.get() + (std::size_t{page} << 8);
  for (unsigned i = 0; i < 256; ++i) {
    if (entry_ref(entries[i]) != 0 || lengths[i] > 16) return;
  }
  try {
    point_root6(top, shared_page({entry_leaf(entries[0]), lengths[0]}));
  } catch (const std::bad_alloc&) {  // then it stays
  }
}

}  // namespace fastpath
