// A bounded driver for LLVMFuzzerTestOneInput where libFuzzer is not at hand: random inputs and mutations of
// seed inputs, from a fixed seed. Usage: fuzz ROUNDS [SEED_FILE...]
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

// A fuzz target may define seeds of its own.
__attribute__((weak)) std::vector<std::vector<std::uint8_t>> fuzz_seeds() { return {}; }

int main(int argc, char** argv) {
  const long rounds = argc > 1 ? std::atol(argv[1]) : 100000;
  std::vector<std::vector<std::uint8_t>> seeds = fuzz_seeds();
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  for (const auto& seed : seeds) LLVMFuzzerTestOneInput(seed.data(), seed.size());
  std::mt19937_64 random(20260101);
  std::vector<std::uint8_t> input;
  for (long round = 0; round < rounds; ++round) {
    if (seeds.empty() || random() % 4 == 0) {
      input.resize(random() % (random() % 8 == 0 ? 2048 : 96));
      for (auto& byte : input) byte = static_cast<std::uint8_t>(random());
    } else {
      input = seeds[random() % seeds.size()];
      for (std::uint64_t n = random() % 8; n > 0 && !input.empty(); --n) {
        switch (random() % 5) {
          case 0:
            input[random() % input.size()] ^= static_cast<std::uint8_t>(1u << (random() % 8));
            break;
          case 1:
            input[random() % input.size()] = static_cast<std::uint8_t>(random());
            break;
          case 2:
            input.resize(random() % (input.size() + 1));
            break;
          case 3:
            input.insert(input.begin() + static_cast<long>(random() % (input.size() + 1)),
                         static_cast<std::uint8_t>(random()));
            break;
          default:
            input.insert(input.end(), input.begin(),
                         input.begin() + static_cast<long>(random() % (input.size() + 1)));
            if (input.size() > 65535) input.resize(65535);
        }
      }
    }
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%ld inputs\n", rounds);
  return 0;
}
