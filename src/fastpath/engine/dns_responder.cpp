#include "dns_responder.hpp"

#include <utility>

#include "fastpath/hash.hpp"

namespace fastpath::engine::dns {

namespace {
constexpr std::size_t kMaxPositive = 65536;
constexpr std::size_t kMaxNegative = 8192;
}  // namespace

std::int32_t Source::topic_of(std::string_view service) noexcept {
  return static_cast<std::int32_t>(xxh3_64(service.data(), service.size()) % kTopics);
}

std::size_t Responder::Hash::operator()(std::string_view key) const noexcept {
  return xxh3_64(key.data(), key.size(), seed);
}

Responder::Responder(Source& source, std::uint64_t seed)
    : source_(source),
      positive_(0, Hash{seed}),
      negative_(0, Hash{seed}),
      random_(seed * 0x9E3779B97F4A7C15ull) {}

std::shared_ptr<const Image> Responder::find(std::string_view key) {
  for (Images* images : {&positive_, &negative_}) {
    const auto found = images->find(key);
    if (found != images->end() && source_.current(*found->second)) return found->second;
  }
  return nullptr;
}

void Responder::keep(std::string_view key, std::shared_ptr<const Image> image) {
  // An image that was overtaken while it was made still answers this query, but no later one.
  if (!source_.current(*image)) return;
  const bool positive = image->rcode == Rcode::noerror && !image->answers.empty();
  Images& images = positive ? positive_ : negative_;
  Images& others = positive ? negative_ : positive_;
  if (const auto stale = others.find(key); stale != others.end()) others.erase(stale);
  if (const auto found = images.find(key); found != images.end()) {
    found->second = std::move(image);
    return;
  }
  if (images.size() >= (positive ? kMaxPositive : kMaxNegative)) images.clear();
  images.emplace(std::string(key), std::move(image));
}

std::size_t Responder::respond(const std::uint8_t* message, std::size_t size, std::size_t max_size,
                               std::uint8_t* out) {
  Counters::add(counters_.queries);
  Query query;
  const Verdict verdict = read_query(message, size, query);
  if (verdict.outcome == Outcome::ignore) {
    Counters::add(counters_.ignored);
    return 0;
  }
  Rcode rcode = verdict.rcode;
  if (verdict.outcome == Outcome::ask) {
    char key[kMaxName + 2];
    std::memcpy(key, query.name, query.name_size);
    store_be16(reinterpret_cast<std::uint8_t*>(key) + query.name_size, query.type);
    const std::string_view key_view(key, query.name_size + 2);
    std::shared_ptr<const Image> image;
    {
      const std::lock_guard lock(mutex_);
      image = find(key_view);
    }
    const bool missed = image == nullptr;
    if (missed) {
      Counters::add(counters_.misses);
      image = source_.image(query.name_view(), query.type);
    }
    if (image != nullptr) {
      std::size_t limit = max_size;
      if (query.edns) limit = std::max(limit, std::min<std::size_t>(query.payload, source_.edns_size));
      const std::lock_guard lock(mutex_);
      const Written written = write_answer(query, *image, limit, source_.edns_size, random_, scratch_, out);
      Counters::add(counters_.rcodes[static_cast<std::size_t>(image->rcode)]);
      if (written.truncated) Counters::add(counters_.truncated);
      if (missed) keep(key_view, std::move(image));
      return written.size;
    }
    rcode = Rcode::servfail;
  }
  Counters::add(counters_.rcodes[static_cast<std::size_t>(rcode)]);
  return write_error(query, rcode, source_.edns_size, out);
}

}  // namespace fastpath::engine::dns
