// A UDP load for DNS servers: keeps WINDOW queries in flight until COUNT are answered, prints the seconds
// taken. Usage: dns_load ADDRESS PORT COUNT WINDOW QUERY_HEX
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const long count = std::atol(argv[3]);
  const unsigned window = static_cast<unsigned>(std::atoi(argv[4]));
  const std::string hex = argv[5];
  std::vector<std::uint8_t> query;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    query.push_back(static_cast<std::uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  const int fd = ::socket(AF_INET, SOCK_DGRAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(std::atoi(argv[2])));
  ::inet_pton(AF_INET, argv[1], &address.sin_addr);
  const timeval patience{0, 200000};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return 1;

  std::vector<std::vector<std::uint8_t>> in(window, std::vector<std::uint8_t>(4096));
  std::vector<iovec> out_vectors(window, iovec{query.data(), query.size()}), in_vectors(window);
  std::vector<mmsghdr> out(window), received(window);
  for (unsigned i = 0; i < window; ++i) {
    in_vectors[i] = {in[i].data(), in[i].size()};
    out[i].msg_hdr.msg_iov = &out_vectors[i];
    received[i].msg_hdr.msg_iov = &in_vectors[i];
    out[i].msg_hdr.msg_iovlen = received[i].msg_hdr.msg_iovlen = 1;
  }
  const auto start = std::chrono::steady_clock::now();
  unsigned free = window;
  long answered = 0;
  int silent = 0;
  while (answered < count) {
    if (free > 0) {
      const int sent = ::sendmmsg(fd, out.data(), free, 0);
      if (sent > 0) free -= static_cast<unsigned>(sent);
    }
    const int got = ::recvmmsg(fd, received.data(), window, MSG_WAITFORONE, nullptr);
    if (got <= 0) {
      // What was lost is sent anew; a server that stays silent is an error.
      if (++silent == 25) return 1;
      free = window;
      continue;
    }
    silent = 0;
    answered += got;
    free += static_cast<unsigned>(got);
    if (free > window) free = window;
  }
  std::printf("%.9f\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return 0;
}
