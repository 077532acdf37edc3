// Longest-prefix match over IPv4 and IPv6 prefixes with 32-bit values; routing and forwarding table in one.
//
// One writer at a time (the caller's lock, see `gate`); any number of readers that never wait. A reader
// takes a Guard of `epochs`, reads `view()` and hands it to the kernels; or it runs where collect() cannot
// run beside it (Python's scalar calls: both need the GIL). How nodes look is told in fib_view.hpp.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fastpath/epoch.hpp"
#include "fastpath/fib_view.hpp"

namespace fastpath {

namespace fib {

// An array that several states may share. Zeroed.
template <typename T>
using Shared = std::shared_ptr<T[]>;

// Where nodes live: a reserved range of addresses, of which only the used part costs memory. What is freed
// grows together with free neighbours and is listed by size; the smallest piece that is large enough is taken
// first. A free piece has its size in its second unit and, again, at its end, so that its neighbours find it;
// which units are free is kept apart. A single free unit only waits for a neighbour.
class Arena {
 public:
  // At most what references reach.
  explicit Arena(std::size_t reserve);
  // Nodes that lie in memory of someone else, who `keeps` it: nothing can be allocated.
  Arena(std::uint8_t* base, std::size_t size, std::shared_ptr<void> keeps);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // The first unit of `size` bytes, or 0 when the reserved range is used up.
  std::uint32_t allocate(std::size_t size);
  void release(std::uint32_t unit, std::size_t size) noexcept;

  std::uint8_t* base() const noexcept { return base_; }
  std::size_t top() const noexcept { return top_; }
  std::size_t reserved() const noexcept { return reserved_; }
  std::size_t free_bytes() const noexcept { return free_bytes_; }
  std::size_t book_bytes() const noexcept { return free_units_.capacity() * 8; }

  // Tables besides the writer's that read these nodes. While there are any, nodes must stay as they are.
  std::atomic<int> pins{0};
  // Between mark() and either rewind() or keep(), allocation only appends.
  void mark() noexcept {
    marked_ = true;
    mark_ = top_;
  }
  void rewind() noexcept {
    marked_ = false;
    top_ = mark_;
  }
  void keep() noexcept { marked_ = false; }

 private:
  static constexpr std::size_t kClasses = 1024;  // sizes in units; the last one, of all that are larger too

  struct Links {
    std::uint32_t next;
    std::uint32_t previous;
  };
  bool is_free(std::size_t unit) const noexcept {
    return unit / 64 < free_units_.size() && (free_units_[unit / 64] >> (unit % 64) & 1) != 0;
  }
  void mark_units(std::size_t unit, std::size_t units, bool free) noexcept;
  std::size_t size_at(std::size_t unit) const noexcept;
  std::size_t size_before(std::size_t unit) const noexcept;
  void link(std::size_t unit, std::size_t units) noexcept;
  void unlink(std::size_t unit, std::size_t units) noexcept;
  void commit(std::size_t end);

  std::uint8_t* mapping_ = nullptr;
  std::size_t mapped_ = 0;
  std::uint8_t* base_ = nullptr;
  std::size_t reserved_ = 0;
  std::size_t committed_ = 0;
  std::size_t top_ = 0;
  std::size_t free_bytes_ = 0;
  std::size_t mark_ = 0;
  bool marked_ = false;
  std::shared_ptr<void> keeps_;
  std::array<std::uint32_t, kClasses> heads_{};
  std::array<std::uint64_t, kClasses / 64> nonempty_{};
  std::vector<std::uint64_t> free_units_;  // a bit each; as far as units were freed
};

// Exact values of the few prefixes that are not kept in nodes. A key is the prefix's bits after a leading 1.
class ShortRib {
 public:
  std::optional<std::uint32_t> find(std::uint32_t key) const noexcept;
  bool put(std::uint32_t key, std::uint32_t value);  // true: new
  bool erase(std::uint32_t key) noexcept;
  std::size_t size() const noexcept { return size_; }
  std::size_t nbytes() const noexcept { return cells_.capacity() * sizeof(Cell); }
  // All cells as they lie in memory, and back; false where they cannot be a table's.
  std::vector<std::uint64_t> raw() const;
  bool restore(const std::uint8_t* cells, std::size_t bytes);
  template <typename F>
  void for_each(F&& f) const {
    for (const Cell& cell : cells_) {
      if (cell.key != 0) f(cell.key, cell.value);
    }
  }

 private:
  struct Cell {
    std::uint32_t key = 0;
    std::uint32_t value = 0;
  };
  static constexpr std::size_t kLeastCells = 16;
  std::size_t slot_of(std::uint32_t key) const noexcept;
  void resize(std::size_t cells);
  std::vector<Cell> cells_;
  std::size_t size_ = 0;
};

// One published form of the table. What readers follow is in `view`; the rest keeps it alive.
struct State {
  View view;
  Shared<std::uint64_t> root4;
  Shared<std::uint8_t> root4_length;
  Shared<std::uint32_t> root6;
  Shared<std::uint64_t> pages;
  Shared<std::uint8_t> page_length;
  Shared<std::uint32_t> changes;  // states of one table have the same
  std::shared_ptr<Arena> arena;
  // Before a family has its first prefix, its root is one that all tables share.
  bool owns4 = false;
  bool owns6 = false;
};

// The lock of writers. Any thread may give it back: a transaction need not end in the thread that began it.
class Gate {
 public:
  void lock() {
    if (try_lock()) return;
    std::unique_lock inside(mutex_);
    ++waiting_;
    opened_.wait(inside, [&] { return try_lock(); });
    --waiting_;
  }
  bool try_lock() noexcept { return !closed_.exchange(true); }
  void unlock() {
    // Whoever counts itself as waiting looks at the gate after that, and so does this after opening it.
    closed_ = false;
    if (waiting_ == 0) return;
    const std::lock_guard inside(mutex_);
    opened_.notify_one();
  }
  // In the child of a fork, where no other thread is: open, whoever closed it or waited. What they had hold
  // of cannot be given back, so it is not destroyed but made anew.
  void renew() noexcept { new (this) Gate; }

 private:
  std::atomic<bool> closed_{false};
  std::atomic<unsigned> waiting_{0};
  std::mutex mutex_;
  std::condition_variable opened_;
};

struct Route {
  std::uint8_t address[16];  // an IPv4 address in the first four
  std::uint32_t value;
  std::uint8_t length;
  std::uint8_t family;  // 4 or 6

  // Whether a prefix of the same family lies within this one.
  bool contains(const Route& other) const noexcept {
    if (other.length < length || std::memcmp(address, other.address, length / 8) != 0) return false;
    return length % 8 == 0 || (address[length / 8] ^ other.address[length / 8]) >> (8 - length % 8) == 0;
  }
};

}  // namespace fib

class Fib {
 public:
  using Route = fib::Route;

  explicit Fib(std::size_t reserve = std::size_t{1} << 26);
  ~Fib();
  Fib(const Fib&) = delete;
  Fib& operator=(const Fib&) = delete;

  // --- readers ---
  const fib::View& view() const noexcept { return state_.load(std::memory_order_acquire)->view; }
  EpochDomain& epochs() const noexcept { return epochs_; }
  // Batches, guarded.
  void lookup_many4(const fib::Kernels& kernels, const std::uint32_t* addresses, std::uint32_t* out,
                    std::size_t n, std::uint32_t missing) const {
    EpochDomain::Guard guard(epochs_);
    kernels.lookup_many4(view(), addresses, out, n, missing);
  }
  void lookup_many6(const fib::Kernels& kernels, const std::uint8_t* addresses, std::uint32_t* out,
                    std::size_t n, std::uint32_t missing) const {
    EpochDomain::Guard guard(epochs_);
    kernels.lookup_many6(view(), addresses, out, n, missing);
  }
  void match_many4(const fib::Kernels& kernels, const std::uint32_t* addresses, std::uint32_t* out,
                   std::uint8_t* lengths, std::size_t n, std::uint32_t missing) const {
    EpochDomain::Guard guard(epochs_);
    kernels.match_many4(view(), addresses, out, lengths, n, missing);
  }
  void match_many6(const fib::Kernels& kernels, const std::uint8_t* addresses, std::uint32_t* out,
                   std::uint8_t* lengths, std::size_t n, std::uint32_t missing) const {
    EpochDomain::Guard guard(epochs_);
    kernels.match_many6(view(), addresses, out, lengths, n, missing);
  }

  // --- writers, and readers of the exact prefixes: under `gate` ---
  fib::Gate& gate() noexcept { return gate_; }
  // In the child of a fork: the other threads are gone, and with them what they held.
  void forget_threads() noexcept {
    gate_.renew();
    epochs_.forget_readers();
  }

  // Addresses have no bits beyond `length`. True: the prefix is new.
  bool insert(int family, const std::uint8_t* address, unsigned length, std::uint32_t value);
  bool erase(int family, const std::uint8_t* address, unsigned length);
  std::optional<std::uint32_t> get(int family, const std::uint8_t* address, unsigned length) const;
  // All of them, later ones winning.
  void insert_many(const std::vector<Route>& routes);
  // Those that are there; how many there were.
  std::size_t erase_many(const std::vector<Route>& routes);
  void clear();

  // A table of its own with what this one holds now. It shares the nodes, and must not be written to.
  std::unique_ptr<Fib> snapshot();
  // From begin() on, readers see the table as it was (as `before()` does too, exact prefixes included), until
  // commit() shows all changes at once or rollback() forgets them. Under `gate` from begin() to the end.
  void begin();
  void commit();
  void rollback();
  Fib* before() const noexcept { return before_.get(); }

  // The table as a file's contents, which `open` reads in place. `extra` comes back as it was, in place too.
  void save(const std::function<void(const void*, std::size_t)>& write, const std::string& extra) const;
  std::string saved(const std::string& extra) const {
    std::string contents;
    save([&](const void* data, std::size_t size) { contents.append(static_cast<const char*>(data), size); },
         extra);
    return contents;
  }
  static std::unique_ptr<Fib> open(std::uint8_t* contents, std::size_t size, std::shared_ptr<void> keeps,
                                   std::string_view& extra);

  std::vector<Route> routes(int family, const std::uint8_t* address, unsigned length) const;
  // The fewest prefixes that give every address the same value, by address.
  std::vector<Route> aggregated(int family) const;

  std::size_t size(int family) const noexcept { return family == 4 ? size4_ : size6_; }
  // Calls `f` for every prefix within `address`/`length`, by address, shorter ones first.
  void for_each(int family, const std::uint8_t* address, unsigned length,
                const std::function<void(const Route&)>& f) const;
  // Bytes held: roots, nodes (free ones too) and short prefixes.
  std::size_t nbytes() const noexcept;

  // Frees what no reader can still see. Not beside readers without a guard.
  void collect();

 private:
  struct Bare {};  // makes a table without a state
  explicit Fib(Bare) : reserve_(0) {}

  struct Slots;
  struct Parts;
  struct Cut;
  struct Items;
  struct Answer {
    std::uint32_t leaf;
    std::uint8_t length;
  };
  // A page of IPv6 entries belongs to one /16, or stands for every /16 whose answer is the same everywhere.
  struct Page {
    std::uint32_t users = 0;  // /16s that point to it
    bool own = false;
  };
  // A node, or a page where `size` is 0.
  struct Piece {
    std::uint32_t at;  // unit or page
    std::uint32_t size;
  };
  struct Retired {
    std::uint64_t epoch;
    Piece piece;
  };

  static constexpr std::size_t kFirstPages = 1;
  static constexpr std::size_t kFreePagesKept = 16;
  static constexpr std::size_t kDropCost = 8192;   // in updates: a drop, and the growths that may follow it
  static constexpr std::size_t kDropsAtOnce = 24;  // a table that is emptied needs so many
  static constexpr std::size_t kBulk = 64;         // from here on a rebuild may pay

  bool is_wide(int family, unsigned level) const noexcept {
    return family == 6 && level < 40 && !work_->view.packed();
  }
  static std::uint32_t short_parent(const fib::ShortRib& rib, std::uint32_t key);
  static std::unique_ptr<fib::State> empty_state(std::size_t reserve, unsigned leaf_bits, std::uint32_t none,
                                                 std::uint32_t deep);

  void start(std::unique_ptr<fib::State> next);
  void take_over(Fib& other) noexcept;
  void publish(std::unique_ptr<fib::State> next);
  void publish_built();
  std::unique_ptr<fib::State> clone(const fib::State& state) const;
  void copy_book(const Fib& other);
  void relocate(std::size_t reserve);
  std::uint32_t copy_tree(int family, unsigned level, std::uint32_t ref, const std::uint8_t* from);
  void make_room();
  void fetch_nodes(const Route* routes, std::size_t count) const;
  bool accepts(std::uint32_t value) const noexcept;
  void accept(std::uint32_t value);
  void accept_all(const std::vector<Route>& routes);
  std::vector<Route> all_routes() const;
  void rebuild(const std::vector<Route>& routes, std::span<const std::uint32_t> values);
  void fill(const Items& items);
  template <typename Item>
  std::uint32_t build(unsigned level, const Item* begin, const Item* end);

  std::size_t entry_bits(int family, unsigned level) const noexcept;
  std::uint32_t allocate(std::size_t size);
  void retire_replaced();
  Parts parts(int family, unsigned level, std::uint32_t ref) const;
  std::uint32_t copied(int family, const Parts& old, const Cut& cut);
  bool is_natural(const Parts& old, const Cut& cut) const;
  static std::size_t without_gaps(std::uint8_t* begin, std::uint8_t* entries, std::size_t count,
                                  std::size_t child_count, const Parts& like, std::span<std::uint16_t> free);
  void decode(int family, unsigned level, std::uint32_t ref, Slots& slots) const;
  std::uint32_t encode(int family, unsigned level, const Slots& slots);
  std::uint8_t* child_slot(int family, unsigned level, std::uint32_t ref, unsigned slot) const;
  std::uint32_t child_of(int family, unsigned level, std::uint32_t ref, unsigned slot) const;
  std::uint32_t with_child(int family, unsigned level, std::uint32_t ref, unsigned slot, std::uint32_t child);
  std::uint32_t put(int family, unsigned level, std::uint32_t ref, const std::uint8_t* address,
                    unsigned length, std::uint32_t value, bool& added);
  void change(const Parts& old, const Cut& cut, unsigned code, std::uint32_t value);
  std::uint32_t remove(int family, unsigned level, std::uint32_t ref, const std::uint8_t* address,
                       unsigned length, bool& removed);
  void walk(int family, unsigned level, std::uint32_t ref, std::uint8_t* address, unsigned first,
            unsigned last, unsigned least, const std::function<void(const Route&)>& f) const;

  void own_root(int family);
  void set_root4(std::size_t top, std::uint64_t entry);
  static void set_answer(std::uint32_t* changes, std::uint64_t* entry, std::uint8_t* length, Answer answer);
  void set_page_entry(std::size_t at, std::uint64_t entry);
  void paint4(std::uint32_t key, unsigned least, unsigned most, Answer answer);
  void paint_page(std::size_t first, std::size_t last, unsigned least, unsigned most, Answer answer);
  void paint6(std::uint32_t key, unsigned least, unsigned most, Answer answer);
  void point_root6(std::size_t top, std::uint32_t page);
  static void take_root6(fib::State& next);
  void take_lengths(fib::State& next) const;
  std::uint32_t new_page();
  void expect_page();
  void drop_free_pages();
  std::uint32_t shared_page(Answer answer);
  std::uint32_t own_page(std::size_t top);
  void drop_bare_page(std::size_t top);

  fib::Gate gate_;
  mutable EpochDomain epochs_;
  std::atomic<fib::State*> state_{nullptr};  // what readers follow
  fib::State* work_ = nullptr;               // what is written: the same, or `building_`
  std::unique_ptr<fib::State> building_;
  std::shared_ptr<fib::Arena> arena_;  // the one of `work_`
  std::size_t reserve_;
  std::vector<Piece> replaced_;  // by the update under way
  std::vector<Retired> retired_;
  std::size_t retired_bytes_ = 0;
  std::size_t replaced_bytes_ = 0;  // since the nodes moved last
  fib::ShortRib short4_;            // lengths 0 to 16
  fib::ShortRib short6_;            // lengths 0 to 24
  std::vector<Page> page_book_;
  std::vector<std::uint32_t> free_pages_;
  std::size_t page_capacity_ = 0;
  std::size_t drops_earned_ = kDropsAtOnce * kDropCost;
  bool snapshot_ = false;
  std::unique_ptr<Fib> before_;  // while a transaction is open
  std::vector<Retired> retired_before_;
  std::size_t size4_ = 0;
  std::size_t size6_ = 0;
};

}  // namespace fastpath
