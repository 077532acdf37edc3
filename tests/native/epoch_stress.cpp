// Readers follow a published pointer while a writer replaces and reclaims it: no reader may see a freed or
// torn object, and everything retired is freed in the end.
#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fastpath/epoch.hpp"

namespace {
std::atomic<long> alive{0};
struct Object {
  explicit Object(long v) {
    value.fill(v);
    ++alive;
  }
  ~Object() {
    value.fill(-1);
    --alive;
  }
  std::array<long, 16> value{};
};
}  // namespace

int main() {
  {
    fastpath::EpochDomain domain;
    std::atomic<Object*> current{new Object(0)};
    std::atomic<bool> stop{false};
    std::vector<std::thread> readers;
    // More readers than slots in one domain, so that the shared counter is walked too.
    for (int t = 0; t < 70; ++t) {
      readers.emplace_back([&] {
        while (!stop.load(std::memory_order_relaxed)) {
          fastpath::EpochDomain::Guard guard(domain);
          const Object* object = current.load();
          const long first = object->value[0];
          CHECK(first >= 0);
          for (long v : object->value) CHECK(v == first);
          // Far more readers than cores: the writer needs its turns.
          std::this_thread::yield();
        }
      });
    }
    for (long i = 1; i <= 500; ++i) {
      domain.retire(current.exchange(new Object(i)));
      domain.reclaim();
    }
    stop = true;
    for (auto& reader : readers) reader.join();
    CHECK(domain.reclaim() == 0);
    delete current.load();
  }
  CHECK(alive == 0);
  return 0;
}
