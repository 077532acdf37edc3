// A table as a file that is read in place: a header, then the arrays of a state and of the writer's book,
// each at a multiple of 64 bytes, as they lie in memory.
#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

#include "fastpath/fib.hpp"

namespace fastpath {

namespace {

constexpr std::uint64_t kMagic = 0x0A34'4249'4650'4689;  // \x89FPFIB4\n
constexpr std::size_t kAlign = 64;
constexpr std::size_t kSections = 10;

struct Section {
  std::uint64_t at;
  std::uint64_t size;
};

struct Header {
  std::uint64_t magic;     // tells the byte order too
  std::uint64_t size;      // of the file
  std::uint64_t checksum;  // of everything behind this member
  std::uint64_t size4;
  std::uint64_t size6;
  std::uint32_t none;
  std::uint32_t deep;
  std::uint32_t leaf_bits;
  std::uint32_t page_capacity;
  std::uint32_t owns4;
  std::uint32_t owns6;
  Section sections[kSections];
};
constexpr std::size_t kChecked = offsetof(Header, size4);

// Four independent lanes, so that it runs at the memory's speed. Against accidents, not against forgery.
class Checksum {
 public:
  void add(const std::uint8_t* p, std::size_t size) {
    for (; size >= 32; p += 32, size -= 32) step(p);
    if (size != 0) {
      std::uint8_t rest[32] = {};
      std::memcpy(rest, p, size);
      step(rest);
    }
  }
  std::uint64_t value() const {
    std::uint64_t sum = 0;
    for (const std::uint64_t lane : lanes_) sum = (sum ^ lane ^ lane >> 29) * 0x9FB21C651E98DF25ull;
    return sum ^ sum >> 32;
  }

 private:
  void step(const std::uint8_t* p) {
    for (std::size_t i = 0; i < 4; ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, p + 8 * i, 8);
      lanes_[i] = (lanes_[i] ^ word) * 0x9E3779B97F4A7C15ull;
      lanes_[i] ^= lanes_[i] >> 32;
    }
  }
  std::array<std::uint64_t, 4> lanes_ = {1, 2, 3, 4};
};

std::size_t padded(std::size_t size) { return (size + kAlign - 1) & ~(kAlign - 1); }

bool is_zero(const std::uint8_t* begin, const std::uint8_t* end) {
  return std::all_of(begin, end, [](std::uint8_t byte) { return byte == 0; });
}

}  // namespace

void Fib::save(const std::function<void(const void*, std::size_t)>& write, const std::string& extra) const {
  const fib::State& state = *work_;
  std::vector<std::uint8_t> own_pages;
  for (const Page& page : page_book_) own_pages.push_back(page.own ? 1 : 0);
  const std::vector<std::uint64_t> shorts[2] = {short4_.raw(), short6_.raw()};
  const std::size_t pages = page_book_.size();
  const std::pair<const void*, std::size_t> parts[kSections] = {
      {state.root4.get(), state.owns4 ? fib::kRoots * 8 : 0},
      {state.root4_length.get(), state.owns4 ? fib::kRoots : 0},
      {state.root6.get(), state.owns6 ? fib::kRoots * 4 : 0},
      {state.pages.get(), pages * 256 * 8},
      {state.page_length.get(), pages * 256},
      {own_pages.data(), pages},
      {arena_->base(), arena_->top() + fib::kUnit},
      {shorts[0].data(), shorts[0].size() * 8},
      {shorts[1].data(), shorts[1].size() * 8},
      {extra.data(), extra.size()},
  };
  Header header{};
  header.magic = kMagic;
  header.size4 = size4_;
  header.size6 = size6_;
  header.none = state.view.none;
  header.deep = state.view.deep;
  header.leaf_bits = state.view.leaf_bits;
  header.page_capacity = static_cast<std::uint32_t>(pages);
  header.owns4 = state.owns4 ? 1 : 0;
  header.owns6 = state.owns6 ? 1 : 0;
  std::size_t at = padded(sizeof header);
  for (std::size_t i = 0; i < kSections; ++i) {
    header.sections[i] = {at, parts[i].second};
    at = padded(at + parts[i].second);
  }
  header.size = at;
  const std::array<std::uint8_t, kAlign> zeros{};
  Checksum checksum;
  checksum.add(reinterpret_cast<const std::uint8_t*>(&header) + kChecked, sizeof header - kChecked);
  for (const auto& [data, size] : parts) checksum.add(static_cast<const std::uint8_t*>(data), size);
  header.checksum = checksum.value();
  write(&header, sizeof header);
  write(zeros.data(), padded(sizeof header) - sizeof header);
  for (const auto& [data, size] : parts) {
    if (size != 0) write(data, size);
    write(zeros.data(), padded(size) - size);
  }
}

std::unique_ptr<Fib> Fib::open(std::uint8_t* contents, std::size_t size, std::shared_ptr<void> keeps,
                               std::string_view& extra) {
  Header header{};
  if (size < sizeof header) throw std::invalid_argument("it is shorter than a header");
  std::memcpy(&header, contents, sizeof header);
  if (header.magic != kMagic)
    throw std::invalid_argument("it does not begin as a saved table of this kind of machine");
  if (header.size != size) throw std::invalid_argument("its length is not the one that was saved");
  Checksum checksum;
  checksum.add(contents + kChecked, sizeof header - kChecked);
  // One part follows the other, with zeros between them: no byte is left unread.
  bool filled = is_zero(contents + sizeof header, contents + std::min(size, padded(sizeof header)));
  std::size_t end = padded(sizeof header);
  for (const Section& section : header.sections) {
    if (section.at != end || section.at > size || section.size > size - section.at) {
      throw std::invalid_argument("a part lies outside of it");
    }
    checksum.add(contents + section.at, section.size);
    const std::size_t last = section.at + section.size;
    end = padded(last);
    filled = filled && is_zero(contents + last, contents + std::min(size, end));
  }
  if (!filled || end != size) throw std::invalid_argument("there is something between its parts");
  if (checksum.value() != header.checksum)
    throw std::invalid_argument("its checksum does not fit its contents");

  const bool known =
      (header.leaf_bits >= fib::kLeastLeafBits && header.leaf_bits <= 16) || header.leaf_bits == 32;
  if (!known) throw std::invalid_argument("its leaves have an unknown width");
  const std::size_t pages = header.page_capacity;
  const std::uint64_t expected[7] = {header.owns4 * fib::kRoots * 8,
                                     header.owns4 * fib::kRoots,
                                     header.owns6 * fib::kRoots * 4,
                                     pages * 256 * 8,
                                     pages * 256,
                                     pages,
                                     header.sections[6].size};
  for (std::size_t i = 0; i < 7; ++i) {
    if (header.sections[i].size != expected[i])
      throw std::invalid_argument("its parts do not fit each other");
  }
  const auto part = [&](std::size_t i) { return contents + header.sections[i].at; };
  const auto array = [&]<typename T>(fib::Shared<T>& out, std::size_t i) {
    if (header.sections[i].size != 0) out = fib::Shared<T>(keeps, reinterpret_cast<T*>(part(i)));
  };
  auto table = std::unique_ptr<Fib>(new Fib(Bare{}));
  auto state = empty_state(0, header.leaf_bits, header.none, header.deep);
  state->owns4 = header.owns4 != 0;
  state->owns6 = header.owns6 != 0;
  array(state->root4, 0);
  array(state->root4_length, 1);
  array(state->root6, 2);
  array(state->pages, 3);
  array(state->page_length, 4);
  state->arena = std::make_shared<fib::Arena>(part(6), header.sections[6].size, keeps);
  state->view = {state->root4.get(),       state->root4_length.get(), state->root6.get(), state->pages.get(),
                 state->page_length.get(), state->arena->base(),      header.none,        header.deep,
                 header.leaf_bits,         state->changes.get()};
  table->arena_ = state->arena;
  table->page_book_.resize(pages);
  for (std::size_t i = 0; i < pages; ++i) table->page_book_[i].own = part(5)[i] != 0;
  table->page_capacity_ = pages;
  if (!table->short4_.restore(part(7), header.sections[7].size) ||
      !table->short6_.restore(part(8), header.sections[8].size)) {
    throw std::invalid_argument("its parts do not fit each other");
  }
  table->size4_ = header.size4;
  table->size6_ = header.size6;
  extra = {reinterpret_cast<const char*>(part(9)), header.sections[9].size};
  table->work_ = state.release();
  table->state_.store(table->work_);
  return table;
}

}  // namespace fastpath
