// Memory for nodes, and the few exact prefixes that are not kept in nodes.
#include <sys/mman.h>

#include <new>

#include "fib_internal.hpp"

namespace fastpath {

namespace {

constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kLeastRest = 6;  // units; the smallest node

}  // namespace

Arena::Arena(std::size_t reserve) : reserved_(round_up(std::max(reserve, kCommitStep), kHugePage)) {
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
  if (heads_[units] != 0 && !marked_) return take(units, units);
  // Otherwise the smallest free node that leaves a useful rest, but only where much is free.
  const std::size_t least = units + kLeastRest;
  if (free_bytes_ * 16 > top_ && !marked_) {
    for (std::size_t word = least / 64; word < nonempty_.size(); ++word) {
      std::uint64_t lists = nonempty_[word];
      if (word == least / 64) lists &= ~std::uint64_t{0} << (least % 64);
      if (lists != 0) return take(word * 64 + static_cast<std::size_t>(std::countr_zero(lists)), units);
    }
  }
  const std::size_t end = top_ + units * kUnit;
  if (end > reserved_) return 0;
  // Kernels read leaves of 16 bits as 32.
  if (end + kUnit > committed_) commit(end + kUnit);
  const auto ref = static_cast<std::uint32_t>(top_ / kUnit);
  top_ = end;
  return ref;
}

// The head of one free list, cut to `units`.
std::uint32_t Arena::take(std::size_t list, std::size_t units) {
  const std::uint32_t ref = heads_[list];
  heads_[list] = read<std::uint32_t>(base_ + std::size_t{ref} * kUnit);
  if (heads_[list] == 0) nonempty_[list / 64] &= ~(std::uint64_t{1} << (list % 64));
  free_bytes_ -= list * kUnit;
  if (list != units) release(static_cast<std::uint32_t>(ref + units), (list - units) * kUnit);
  return ref;
}

// Ahead by an eighth, so that a growing table asks seldom; in huge pages once it is large enough.
void Arena::commit(std::size_t end) {
  std::size_t wanted = round_up(end + end / 8, kCommitStep);
  if (wanted > kHugePage) wanted = round_up(wanted, kHugePage);
  wanted = std::min(wanted, reserved_);
  if (mprotect(base_, wanted, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (wanted > kHugePage) madvise(base_, wanted, MADV_HUGEPAGE);
#endif
  committed_ = wanted;
}

void Arena::release(std::uint32_t ref, std::size_t size) {
  const std::size_t units = (size + kUnit - 1) / kUnit;
  write(base_ + std::size_t{ref} * kUnit, heads_[units]);
  heads_[units] = ref;
  nonempty_[units / 64] |= std::uint64_t{1} << (units % 64);
  free_bytes_ += units * kUnit;
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

bool ShortRib::put(std::uint32_t key, std::uint32_t value) {
  if (size_ * 4 >= cells_.size() * 3) {
    std::vector<Cell> old(std::max<std::size_t>(16, cells_.size() * 2));
    old.swap(cells_);
    for (const Cell& cell : old) {
      if (cell.key != 0) cells_[slot_of(cell.key)] = cell;
    }
  }
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
  return true;
}

}  // namespace fastpath
