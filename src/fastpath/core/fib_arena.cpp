// Memory for nodes, and the few exact prefixes that are not kept in nodes.
#include <sys/mman.h>

#include <new>

#include "fib_internal.hpp"

namespace fastpath {

namespace {

constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kReach = fib::kMostUnits * kUnit;  // beyond, no reference reaches

}  // namespace

Arena::Arena(std::size_t reserve) : reserved_(round_up(std::clamp(reserve, kCommitStep, kReach), kHugePage)) {
  mapped_ = reserved_ + kHugePage;
  void* const memory = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<std::uint8_t*>(memory);
  // Huge pages begin at multiples of their size.
  base_ = mapping_ + (round_up(reinterpret_cast<std::uintptr_t>(mapping_), kHugePage) -
                      reinterpret_cast<std::uintptr_t>(mapping_));
  commit(kNoNode);
  // Reference 0: a node that the table writes.
  top_ = kNoNode;
}

Arena::Arena(std::uint8_t* base, std::size_t size, std::shared_ptr<void> keeps)
    : base_(base), reserved_(size), committed_(size), top_(size), keeps_(std::move(keeps)) {}

Arena::~Arena() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

std::uint32_t Arena::allocate(std::size_t size) {
  const std::size_t units = (size + kUnit - 1) / kUnit;
  for (std::size_t word = units / 64; word < nonempty_.size() && !marked_; ++word) {
    std::uint64_t lists = nonempty_[word];
    if (word == units / 64) lists &= ~std::uint64_t{0} << (units % 64);
    if (lists == 0) continue;
    const std::size_t unit = heads_[word * 64 + static_cast<std::size_t>(std::countr_zero(lists))];
    const std::size_t held = size_at(unit);
    unlink(unit, held);
    mark_units(unit, units, false);
    if (held != units) link(unit + units, held - units);
    free_bytes_ -= units * kUnit;
    return static_cast<std::uint32_t>(unit);
  }
  const std::size_t end = top_ + units * kUnit;
  if (end > reserved_) return 0;
  // Kernels read leaves of any width as 64 bits.
  if (end + kUnit > committed_) commit(end + kUnit);
  const auto ref = static_cast<std::uint32_t>(top_ / kUnit);
  top_ = end;
  return ref;
}

void Arena::mark_units(std::size_t unit, std::size_t units, bool free) noexcept {
  for (const std::size_t end = unit + units; unit < end;) {
    const std::size_t some = std::min(64 - unit % 64, end - unit);
    const std::uint64_t bits = (~std::uint64_t{0} >> (64 - some)) << (unit % 64);
    std::uint64_t& word = free_units_[unit / 64];
    word = free ? word | bits : word & ~bits;
    unit += some;
  }
}

// How many units a free piece has that begins here; and one that ends before `unit`.
std::size_t Arena::size_at(std::size_t unit) const noexcept {
  return is_free(unit + 1) ? read<std::uint32_t>(base_ + (unit + 1) * kUnit) : 1;
}
std::size_t Arena::size_before(std::size_t unit) const noexcept {
  return is_free(unit - 2) ? read<std::uint32_t>(base_ + unit * kUnit - 4) : 1;
}

// Lists a free piece whose units are marked.
void Arena::link(std::size_t unit, std::size_t units) noexcept {
  if (units == 1) return;
  const std::size_t list = std::min(units, kClasses - 1);
  const std::uint32_t next = heads_[list];
  write(base_ + unit * kUnit, Links{next, 0});
  write(base_ + (unit + 1) * kUnit, static_cast<std::uint32_t>(units));
  write(base_ + (unit + units) * kUnit - 4, static_cast<std::uint32_t>(units));
  if (next != 0) write(base_ + std::size_t{next} * kUnit + 4, static_cast<std::uint32_t>(unit));
  heads_[list] = static_cast<std::uint32_t>(unit);
  nonempty_[list / 64] |= std::uint64_t{1} << (list % 64);
}

void Arena::unlink(std::size_t unit, std::size_t units) noexcept {
  if (units == 1) return;
  const std::size_t list = std::min(units, kClasses - 1);
  const auto links = read<Links>(base_ + unit * kUnit);
  if (links.next != 0) write(base_ + std::size_t{links.next} * kUnit + 4, links.previous);
  if (links.previous != 0) {
    write(base_ + std::size_t{links.previous} * kUnit, links.next);
    return;
  }
  heads_[list] = links.next;
  if (links.next == 0) nonempty_[list / 64] &= ~(std::uint64_t{1} << (list % 64));
}

// Ahead by an eighth, so that a growing table asks seldom; in huge pages once it is large enough.
void Arena::commit(std::size_t end) {
  std::size_t wanted = round_up(end + end / 8, kCommitStep);
  if (wanted > kHugePage) wanted = round_up(wanted, kHugePage);
  wanted = std::min(wanted, reserved_);
  // Here and not in release(), which must not fail.
  free_units_.reserve(wanted / kUnit / 64);  // no more than that
  free_units_.resize(wanted / kUnit / 64);
  if (mprotect(base_, wanted, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (wanted > kHugePage) madvise(base_, wanted, MADV_HUGEPAGE);
#endif
  committed_ = wanted;
}

void Arena::release(std::uint32_t ref, std::size_t size) noexcept {
  std::size_t unit = ref;
  std::size_t units = (size + kUnit - 1) / kUnit;
  free_bytes_ += units * kUnit;
  mark_units(unit, units, true);
  if (is_free(unit + units)) {
    const std::size_t next = size_at(unit + units);
    unlink(unit + units, next);
    units += next;
  }
  if (is_free(unit - 1)) {
    const std::size_t previous = size_before(unit);
    unit -= previous;
    unlink(unit, previous);
    units += previous;
  }
  link(unit, units);
}

std::size_t ShortRib::slot_of(std::uint32_t key) const noexcept {
  const std::size_t mask = cells_.size() - 1;
  std::size_t slot = (key * 0x9E3779B97F4A7C15ull >> 32) & mask;
  while (cells_[slot].key != 0 && cells_[slot].key != key) slot = (slot + 1) & mask;
  return slot;
}

std::optional<std::uint32_t> ShortRib::find(std::uint32_t key) const noexcept {
  if (cells_.empty()) return std::nullopt;
  const Cell& cell = cells_[slot_of(key)];
  if (cell.key == 0) return std::nullopt;
  return cell.value;
}

void ShortRib::resize(std::size_t cells) {
  std::vector<Cell> old(cells);
  old.swap(cells_);
  for (const Cell& cell : old) {
    if (cell.key != 0) cells_[slot_of(cell.key)] = cell;
  }
}

bool ShortRib::put(std::uint32_t key, std::uint32_t value) {
  if (size_ * 4 >= cells_.size() * 3) resize(std::max(kLeastCells, cells_.size() * 2));
  Cell& cell = cells_[slot_of(key)];
  const bool added = cell.key == 0;
  cell = {key, value};
  size_ += added;
  return added;
}

std::vector<std::uint64_t> ShortRib::raw() const {
  std::vector<std::uint64_t> cells(cells_.size());
  if (!cells.empty()) std::memcpy(cells.data(), cells_.data(), cells.size() * sizeof(Cell));
  return cells;
}

bool ShortRib::restore(const std::uint8_t* cells, std::size_t bytes) {
  const std::size_t n = bytes / sizeof(Cell);
  if (bytes % sizeof(Cell) != 0 || (n & (n - 1)) != 0) return false;
  cells_.resize(n);
  if (n != 0) std::memcpy(cells_.data(), cells, bytes);
  size_ = static_cast<std::size_t>(
      std::count_if(cells_.begin(), cells_.end(), [](Cell cell) { return cell.key != 0; }));
  return size_ * 4 <= n * 3;
}

bool ShortRib::erase(std::uint32_t key) noexcept {
  if (cells_.empty()) return false;
  const std::size_t mask = cells_.size() - 1;
  std::size_t hole = slot_of(key);
  if (cells_[hole].key == 0) return false;
  // Whatever follows in the run moves up, so that no look-up stops at the hole.
  for (std::size_t next = (hole + 1) & mask; cells_[next].key != 0; next = (next + 1) & mask) {
    const std::size_t home = (cells_[next].key * 0x9E3779B97F4A7C15ull >> 32) & mask;
    if (((next - home) & mask) >= ((next - hole) & mask)) {
      cells_[hole] = cells_[next];
      hole = next;
    }
  }
  cells_[hole] = {};
  --size_;
  if (cells_.size() > kLeastCells && size_ * 3 < cells_.size()) {
    try {
      resize(cells_.size() / 2);
    } catch (const std::bad_alloc&) {  // then it stays as large as it is
    }
  }
  return true;
}

}  // namespace fastpath
