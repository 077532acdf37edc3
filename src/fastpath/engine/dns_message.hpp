// DNS messages on the wire: reading a query strictly, and putting an answer together from ready pieces.
// RFC 1035 section 4, RFC 6891 (EDNS), RFC 9619 (one question).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "fastpath/wire.hpp"

namespace fastpath::engine::dns {

inline constexpr std::size_t kHeaderSize = 12;
inline constexpr std::size_t kMaxName = 255;
inline constexpr std::size_t kOptSize = 11;
inline constexpr std::size_t kMinUdpSize = 512;
inline constexpr std::size_t kMaxMessage = 65535;
inline constexpr std::uint16_t kTypeOpt = 41;
inline constexpr std::uint16_t kClassIn = 1;

enum class Rcode : std::uint16_t {
  noerror = 0,
  formerr = 1,
  servfail = 2,
  nxdomain = 3,
  notimp = 4,
  refused = 5,
  badvers = 16,
};

// What a query asks. `question` points into the message and keeps the case that the client chose.
struct Query {
  std::uint16_t id = 0;
  std::uint8_t opcode = 0;
  bool recursion_desired = false;
  const std::uint8_t* question = nullptr;  // name, type, class; null: not to be echoed
  std::size_t question_size = 0;
  std::size_t name_size = 0;
  std::uint16_t type = 0;
  std::uint16_t klass = 0;
  bool edns = false;
  std::uint16_t payload = 0;
  std::uint8_t name[kMaxName];  // wire form in lower case

  std::string_view name_view() const noexcept { return {reinterpret_cast<const char*>(name), name_size}; }
};

enum class Outcome {
  ignore,  // too short, or itself an answer: saying nothing is right
  refuse,  // answer with the rcode and nothing else
  ask,     // a question for the records
};

struct Verdict {
  Outcome outcome;
  Rcode rcode = Rcode::noerror;
};

namespace detail {

// Offset behind the name at `at`, or 0 when it is malformed. A pointer ends a name; where it leads is not
// followed, since nothing here needs the names of other records.
inline std::size_t skip_name(const std::uint8_t* data, std::size_t size, std::size_t at) noexcept {
  std::size_t length = 0;
  while (at < size) {
    const std::uint8_t label = data[at];
    if (label == 0) return at + 1;
    if (label >= 0xC0) return at + 2 <= size ? at + 2 : 0;
    if (label > 63) return 0;
    length += label + 1u;
    if (length + 1 > kMaxName) return 0;
    at += label + 1u;
  }
  return 0;
}

// Options of an OPT record are (code, length, data) without a rest.
inline bool options_fit(const std::uint8_t* data, std::size_t size) noexcept {
  std::size_t at = 0;
  while (at < size) {
    if (size - at < 4) return false;
    const std::size_t length = load_be16(data + at + 2);
    if (size - at - 4 < length) return false;
    at += 4 + length;
  }
  return true;
}

}  // namespace detail

// Reads a message. Anything that breaks a rule of the format is FORMERR, including bytes behind its end.
inline Verdict read_query(const std::uint8_t* data, std::size_t size, Query& query) noexcept {
  if (size < kHeaderSize || (data[2] & 0x80) != 0) return {Outcome::ignore};
  query.id = load_be16(data);
  query.opcode = (data[2] >> 3) & 15;
  query.recursion_desired = (data[2] & 1) != 0;
  if (query.opcode != 0) return {Outcome::refuse, Rcode::notimp};
  if (load_be16(data + 4) != 1) return {Outcome::refuse, Rcode::formerr};

  std::size_t at = kHeaderSize;
  for (;;) {
    if (at >= size || data[at] > 63) return {Outcome::refuse, Rcode::formerr};
    const std::size_t label = data[at] + 1u;
    if (label > size - at || query.name_size + label > kMaxName) return {Outcome::refuse, Rcode::formerr};
    query.name[query.name_size] = data[at];
    for (std::size_t i = 1; i < label; ++i) {
      const std::uint8_t c = data[at + i];
      query.name[query.name_size + i] = c >= 'A' && c <= 'Z' ? static_cast<std::uint8_t>(c | 0x20) : c;
    }
    query.name_size += label;
    at += label;
    if (label == 1) break;
  }
  if (size - at < 4) return {Outcome::refuse, Rcode::formerr};
  query.type = load_be16(data + at);
  query.klass = load_be16(data + at + 2);
  at += 4;
  query.question = data + kHeaderSize;
  query.question_size = at - kHeaderSize;

  const std::size_t before_additional = std::size_t{load_be16(data + 6)} + load_be16(data + 8);
  const std::size_t records = before_additional + load_be16(data + 10);
  std::uint8_t version = 0;
  for (std::size_t n = 0; n < records; ++n) {
    const std::size_t owner = at;
    at = detail::skip_name(data, size, at);
    if (at == 0 || size - at < 10) return {Outcome::refuse, Rcode::formerr};
    const std::uint8_t* fixed = data + at;
    const std::size_t length = load_be16(fixed + 8);
    at += 10;
    if (size - at < length) return {Outcome::refuse, Rcode::formerr};
    if (load_be16(fixed) == kTypeOpt) {
      const bool in_place = n >= before_additional && data[owner] == 0 && !query.edns;
      if (!in_place || !detail::options_fit(data + at, length)) return {Outcome::refuse, Rcode::formerr};
      query.edns = true;
      query.payload = load_be16(fixed + 2);
      version = fixed[5];
    }
    at += length;
  }
  if (at != size) return {Outcome::refuse, Rcode::formerr};
  if (query.edns && version != 0) return {Outcome::refuse, Rcode::badvers};
  if (query.klass != kClassIn) return {Outcome::refuse, Rcode::refused};
  if (query.type == kTypeOpt) return {Outcome::refuse, Rcode::formerr};
  // 249 to 254 ask for transfers and other transactions; 255 (ANY) is an ordinary question here.
  if (query.type >= 249 && query.type <= 254) return {Outcome::refuse, Rcode::notimp};
  return {Outcome::ask};
}

enum class Order : std::uint8_t { fixed = 0, random = 1, weighted = 2 };

// The answer to one (name, type), cut into records whose bytes hold wherever they stand: owner names are
// pointers into the question, which always starts at the same offset.
struct Image {
  struct Piece {
    std::uint32_t offset;
    std::uint32_t size;
  };
  struct Answer {
    Piece piece;
    std::uint32_t weight;     // above 0
    std::uint16_t priority;   // lower first
    std::int32_t additional;  // index, or -1
  };
  std::uint64_t revision = 0;
  std::int32_t topic = -1;  // slot of the one service that it depends on; -1: any change may change it
  Rcode rcode = Rcode::noerror;
  bool authoritative = true;
  Order order = Order::fixed;
  std::uint32_t limit = 0;  // most answers in one message; 0: all
  std::vector<Answer> answers;
  std::vector<Piece> additional;
  Piece authority{0, 0};  // one record, or nothing
  std::vector<std::uint8_t> bytes;
};

// xorshift64*: spreads answers, keeps no secrets.
class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept : state_(seed | 1) {}
  std::uint64_t next() noexcept {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1Dull;
  }
  // In (0, 1].
  float unit() noexcept { return static_cast<float>((next() >> 40) + 1) * 0x1p-24f; }

 private:
  std::uint64_t state_;
};

// Working memory of one writer, so that answers of a thousand records allocate once.
struct Scratch {
  std::vector<std::pair<std::uint64_t, std::uint32_t>> order;
  std::vector<std::uint8_t> written;
};

struct Written {
  std::size_t size;
  bool truncated;
};

// Header, echoed question and OPT. `limit` is what the client can take; `out` holds that much.
inline std::size_t write_error(const Query& query, Rcode rcode, std::size_t edns_size,
                               std::uint8_t* out) noexcept {
  const auto code = static_cast<std::uint16_t>(rcode);
  std::memset(out, 0, kHeaderSize);
  store_be16(out, query.id);
  out[2] = static_cast<std::uint8_t>(0x80 | query.opcode << 3 | (query.recursion_desired ? 1 : 0));
  out[3] = static_cast<std::uint8_t>(code & 15);
  std::size_t at = kHeaderSize;
  if (query.question != nullptr) {
    out[5] = 1;
    std::memcpy(out + at, query.question, query.question_size);
    at += query.question_size;
  }
  if (query.edns) {
    out[11] = 1;
    std::memset(out + at, 0, kOptSize);
    out[at + 2] = kTypeOpt;
    store_be16(out + at + 3, edns_size);
    out[at + 5] = static_cast<std::uint8_t>(code >> 4);
    at += kOptSize;
  }
  return at;
}

// The order of this one answer. Weighted: a permutation drawn without replacement in proportion to the
// weights, by sorting -ln(u)/w (Efraimidis and Spirakis, 2006).
inline void draw_order(const Image& image, Random& random, Scratch& scratch) {
  const std::size_t count = image.answers.size();
  scratch.order.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Image::Answer& answer = image.answers[i];
    std::uint64_t key = std::uint64_t{answer.priority} << 32;
    if (image.order == Order::weighted) {
      // Positive floats order as their bits do.
      key |=
          std::bit_cast<std::uint32_t>(-std::log(random.unit()) / static_cast<float>(answer.weight) + 0.0f);
    } else if (image.order == Order::random) {
      key |= static_cast<std::uint32_t>(random.next() >> 32);
    }
    scratch.order[i] = {key, static_cast<std::uint32_t>(i)};
  }
  std::sort(scratch.order.begin(), scratch.order.end());
}

// Writes an answer of at most `limit` bytes (512 or more). Records that do not fit set TC; records of the
// additional section that do not fit are left out.
inline Written write_answer(const Query& query, const Image& image, std::size_t limit, std::size_t edns_size,
                            Random& random, Scratch& scratch, std::uint8_t* out) {
  std::size_t at = write_error(query, image.rcode, edns_size, out);
  std::uint8_t opt[kOptSize];
  if (query.edns) {
    at -= kOptSize;
    limit -= kOptSize;
    std::memcpy(opt, out + at, kOptSize);
  }
  const std::uint8_t* bytes = image.bytes.data();
  const auto put = [&](Image::Piece piece) {
    if (piece.size > limit - at) return false;
    std::memcpy(out + at, bytes + piece.offset, piece.size);
    at += piece.size;
    return true;
  };

  bool truncated = false;
  std::size_t answers = 0;
  std::size_t additional = query.edns ? 1 : 0;
  draw_order(image, random, scratch);
  for (const auto& [key, index] : scratch.order) {
    if (image.limit != 0 && answers == image.limit) break;
    if (!put(image.answers[index].piece)) {
      truncated = true;
      break;
    }
    ++answers;
  }
  if (image.authority.size != 0) {
    if (put(image.authority)) {
      out[9] = 1;
    } else {
      truncated = true;
    }
  }
  if (!image.additional.empty() && !truncated) {
    scratch.written.assign(image.additional.size(), 0);
    for (std::size_t n = 0; n < answers; ++n) {
      const std::int32_t wanted = image.answers[scratch.order[n].second].additional;
      if (wanted < 0 || scratch.written[static_cast<std::size_t>(wanted)] != 0) continue;
      if (!put(image.additional[static_cast<std::size_t>(wanted)])) break;
      scratch.written[static_cast<std::size_t>(wanted)] = 1;
      ++additional;
    }
  }
  if (query.edns) {
    std::memcpy(out + at, opt, kOptSize);
    at += kOptSize;
  }
  out[2] = static_cast<std::uint8_t>(out[2] | (image.authoritative ? 4 : 0) | (truncated ? 2 : 0));
  store_be16(out + 6, answers);
  store_be16(out + 10, additional);
  return {at, truncated};
}

}  // namespace fastpath::engine::dns
