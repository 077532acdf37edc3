// UDP and TCP clients ask while the records change: every answer is whole and no older than what was there
// when it was asked for.

// sources: engine/dns_responder.cpp engine/dns_server.cpp
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <vector>

#include "check.hpp"
#include "engine/dns_server.hpp"

namespace dns = fastpath::engine::dns;

namespace {

// One record that carries the revision.
class CountingSource final : public dns::Source {
 public:
  CountingSource() : Source(1232) {}
  std::shared_ptr<const dns::Image> image(std::string_view, std::uint16_t) override {
    auto image = std::make_shared<dns::Image>();
    image->topic = topic_of("web");
    image->revision = revision();
    image->bytes = {0xC0, 0x0C, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0};
    fastpath::store_be16(image->bytes.data() + 12, image->revision >> 16);
    fastpath::store_be16(image->bytes.data() + 14, image->revision & 0xFFFF);
    image->answers.push_back({{0, 16}, 1, 0, -1});
    return image;
  }
};

const std::uint8_t kQuery[] = {0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'w', 'e', 'b', 0, 0, 1, 0, 1};

void check_answer(const std::uint8_t* answer, std::size_t size, std::uint64_t at_least) {
  CHECK(size == sizeof kQuery + 16);
  CHECK(std::memcmp(answer + 12, kQuery + 12, sizeof kQuery - 12) == 0);
  const std::uint64_t seen =
      std::uint64_t{fastpath::load_be16(answer + size - 4)} << 16 | fastpath::load_be16(answer + size - 2);
  CHECK(seen >= at_least);
}

int connected(int type, const dns::Server& server) {
  const int fd = ::socket(AF_INET, type, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(server.port());
  CHECK(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  const timeval patience{10, 0};
  CHECK(::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
  return fd;
}

void read_whole(int fd, std::uint8_t* out, std::size_t size) {
  for (std::size_t at = 0; at < size;) {
    const ssize_t n = ::recv(fd, out + at, size - at, 0);
    CHECK(n > 0);
    at += static_cast<std::size_t>(n);
  }
}

}  // namespace

int main() {
  CountingSource source;
  dns::ServerOptions options;
  auto& address = reinterpret_cast<sockaddr_in&>(options.address);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  options.address_size = sizeof address;
  dns::Server server(source, options, 1);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      const int fd = connected(SOCK_DGRAM, server);
      std::uint8_t answer[600];
      for (int i = 0; i < 2000; ++i) {
        const std::uint64_t before = source.revision();
        CHECK(::send(fd, kQuery, sizeof kQuery, 0) == static_cast<ssize_t>(sizeof kQuery));
        const ssize_t size = ::recv(fd, answer, sizeof answer, 0);
        CHECK(size > 0);
        check_answer(answer, static_cast<std::size_t>(size), before);
      }
      ::close(fd);
    });
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        const int fd = connected(SOCK_STREAM, server);
        std::vector<std::uint8_t> pipeline;
        for (int i = 0; i < 50; ++i) {
          pipeline.push_back(0);
          pipeline.push_back(sizeof kQuery);
          pipeline.insert(pipeline.end(), kQuery, kQuery + sizeof kQuery);
        }
        const std::uint64_t before = source.revision();
        CHECK(::send(fd, pipeline.data(), pipeline.size(), 0) == static_cast<ssize_t>(pipeline.size()));
        for (int i = 0; i < 50; ++i) {
          std::uint8_t prefix[2], answer[600];
          read_whole(fd, prefix, 2);
          const std::size_t size = fastpath::load_be16(prefix);
          CHECK(size <= sizeof answer);
          read_whole(fd, answer, size);
          check_answer(answer, size, before);
        }
        ::close(fd);
      }
    });
  }
  std::thread writer([&] {
    while (!stop.load()) {
      source.changed(source.revision() + 1, "web");
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  });
  for (auto& thread : threads) thread.join();
  stop = true;
  writer.join();
  CHECK(server.counters().udp_queries.load() == 4000);
  CHECK(server.counters().tcp_queries.load() == 2000);
  server.stop();
  server.stop();
  return 0;
}
