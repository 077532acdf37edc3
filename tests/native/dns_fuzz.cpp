// Any bytes as a message: the responder must stay within its buffers and answer by the rules.
// sources: engine/dns_responder.cpp
#include <cstring>
#include <vector>

#include "check.hpp"
#include "engine/dns_responder.hpp"

namespace dns = fastpath::engine::dns;

namespace {

// As many records, in as many sizes, as the name says.
class FuzzSource final : public dns::Source {
 public:
  FuzzSource() : Source(1232) {}
  std::shared_ptr<const dns::Image> image(std::string_view name, std::uint16_t type) override {
    CHECK(!name.empty() && name.size() <= dns::kMaxName && name.back() == '\0');
    if (type == 13) return nullptr;
    auto image = std::make_shared<dns::Image>();
    image->revision = type % 2;
    image->rcode = static_cast<dns::Rcode>(type % 6);
    image->order = static_cast<dns::Order>(type % 3);
    image->limit = type % 7;
    image->bytes.resize(300, 0xEE);
    image->additional.push_back({0, 40});
    image->additional.push_back({7, 250});
    const std::size_t count = name.size() * (type % 5);
    for (std::uint32_t n = 0; n < count; ++n) {
      image->answers.push_back({{n % 100, n % 200},
                                n + 1,
                                static_cast<std::uint16_t>(n % 3),
                                static_cast<std::int32_t>(n % 3) - 1});
    }
    if (count == 0) image->authority = {0, static_cast<std::uint32_t>(type % 300)};
    return image;
  }
};

std::vector<std::uint8_t> query(const char* name, std::uint16_t type, bool edns) {
  std::vector<std::uint8_t> wire = {0x12, 0x34, 1, 0, 0, 1,
                                    0,    0,    0, 0, 0, static_cast<std::uint8_t>(edns ? 1 : 0)};
  for (const char* label = name; *label != '\0';) {
    const std::size_t size = std::strcspn(label, ".");
    wire.push_back(static_cast<std::uint8_t>(size));
    wire.insert(wire.end(), label, label + size);
    label += size + (label[size] == '.' ? 1 : 0);
  }
  for (const int byte : {0, type >> 8, type & 255, 0, 1}) wire.push_back(static_cast<std::uint8_t>(byte));
  if (edns) {
    for (const int byte : {0, 0, 41, 0x04, 0xD0, 0, 0, 0, 0, 0, 8, 0, 10, 0, 4, 1, 2, 3, 4}) {
      wire.push_back(static_cast<std::uint8_t>(byte));
    }
  }
  return wire;
}

}  // namespace

std::vector<std::vector<std::uint8_t>> fuzz_seeds() {
  return {query("web.service.consul", 1, false),
          query("WEB.service.consul", 28, true),
          query("_web._tcp.service.consul", 33, true),
          query("1.0.0.10.in-addr.arpa", 12, false),
          query("", 6, true),
          query("web.service.consul", 255, false)};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static FuzzSource source;
  static dns::Responder responder(source, 1);
  for (const std::size_t max_size : {std::size_t{512}, std::size_t{1000}, dns::kMaxMessage}) {
    // A copy of exact size, so that a read past its end is seen.
    const std::vector<std::uint8_t> message(data, data + size);
    std::vector<std::uint8_t> out(std::max(max_size, source.edns_size), 0xAA);
    const std::size_t answer = responder.respond(message.data(), message.size(), max_size, out.data());
    CHECK(answer <= out.size());
    if (answer == 0) {
      CHECK(size < dns::kHeaderSize || (data[2] & 0x80) != 0);
      continue;
    }
    CHECK(answer >= dns::kHeaderSize);
    CHECK(out[0] == data[0] && out[1] == data[1] && (out[2] & 0x80) != 0);
    CHECK((out[2] & 0x79) == (data[2] & 0x79) && (out[3] & 0xF0) == 0);
    const std::size_t questions = fastpath::load_be16(out.data() + 4);
    CHECK(questions <= 1);
    if (questions == 1) {
      CHECK(size > dns::kHeaderSize);
      std::size_t end = dns::kHeaderSize;
      while (data[end] != 0) end += data[end] + 1u;
      CHECK(std::memcmp(out.data() + dns::kHeaderSize, data + dns::kHeaderSize, end + 5 - dns::kHeaderSize) ==
            0);
    }
  }
  return 0;
}
