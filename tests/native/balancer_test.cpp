// Every kernel beside the scalar one, at the borders of lanes; tables under the address sanitizer.
#include <cstdint>
#include <string>
#include <vector>

#include "check.hpp"
#include "fastpath/balance/balancer.hpp"
#include "fastpath/balance/md5.hpp"

using namespace fastpath::balance;

namespace {

std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> all{&scalar_kernels()};
#if defined(__x86_64__)
  if (fastpath::isa_supported(fastpath::Isa::avx2)) all.push_back(&avx2_kernels());
  if (fastpath::isa_supported(fastpath::Isa::avx512)) all.push_back(&avx512_kernels());
#endif
  return all;
}

void slots_agree() {
  for (const std::uint32_t slots : {2u, 7u, 65537u, 524309u, 1048573u, 1048583u}) {
    std::vector<std::uint16_t> table(slots + 1);
    for (std::uint32_t i = 0; i < slots; ++i) table[i] = static_cast<std::uint16_t>(i * 2654435761u >> 7);
    for (std::size_t n = 0; n < 70; ++n) {
      std::vector<std::uint64_t> hashes(n);
      for (std::size_t i = 0; i < n; ++i) {
        // Borders of the remainder as well as random hashes.
        const std::uint64_t near = (~std::uint64_t{0} / slots - n) * slots + i % 3 - 1;
        hashes[i] = i % 3 == 0 ? draw(n, i) : i % 3 == 1 ? near : ~std::uint64_t{0} - i;
      }
      for (const Kernels* kernels : all_kernels()) {
        std::vector<Id> ids(n + 1, 77);
        kernels->slots(table.data(), slots, hashes.data(), ids.data(), n);
        for (std::size_t i = 0; i < n; ++i) CHECK(ids[i] == table[hashes[i] % slots]);
        CHECK(ids[n] == 77);
      }
    }
  }
}

void jumps_agree() {
  for (const std::uint32_t buckets : {1u, 2u, 3u, 1000u, 1u << 20, (1u << 31) - 1, 1u << 31, 0xFFFFFFFFu}) {
    for (std::uint64_t i = 0; i < 2000; ++i) {
      const std::uint64_t key = i < 3 ? 0 - i : draw(buckets, i);
      for (const Kernels* kernels : all_kernels()) {
        CHECK(kernels->jump_one(key, buckets) == jump_hash(key, buckets));
      }
    }
  }
}

void alias_agrees() {
  for (std::size_t members : {1u, 2u, 3u, 100u}) {
    std::vector<double> weights;
    std::vector<Id> ids;
    for (std::size_t i = 0; i < members; ++i) {
      weights.push_back(1.0 + static_cast<double>(i * i % 17));
      ids.push_back(static_cast<Id>(100000 + i));
    }
    const std::vector<std::uint64_t> table = alias_table(weights);
    for (std::size_t n = 0; n < 40; ++n) {
      for (const std::uint64_t first : {std::uint64_t{0}, ~std::uint64_t{0} - 5}) {
        for (const std::uint64_t* given : {table.data(), static_cast<const std::uint64_t*>(nullptr)}) {
          std::vector<Id> expected(n);
          scalar_kernels().alias(given, ids.data(), members, 42, first, expected.data(), n);
          for (const Kernels* kernels : all_kernels()) {
            std::vector<Id> got(n);
            kernels->alias(given, ids.data(), members, 42, first, got.data(), n);
            CHECK(got == expected);
          }
        }
      }
    }
  }
}

void digest() {
  const auto hex = [](const std::string& text) {
    static const char kDigits[] = "0123456789abcdef";
    std::string out;
    for (const std::uint8_t byte : md5(text.data(), text.size())) {
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
    return out;
  };
  // RFC 1321, appendix A.5.
  CHECK(hex("") == "d41d8cd98f00b204e9800998ecf8427e");
  CHECK(hex("abc") == "900150983cd24fb0d6963f7d28e17f72");
  CHECK(hex("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") ==
        "d174ab98d277d9f5a5611c2c9f419d9f");
  CHECK(hex("12345678901234567890123456789012345678901234567890123456789012345678901234567890") ==
        "57edf4a22be3c955ac49da2e2107b67a");
}

// More ids than two bytes hold.
void wide_ids() {
  for (const Policy policy : {Policy::stable, Policy::weighted_round_robin}) {
    Options options;
    options.table.policy = policy;
    options.table.slots = 131101;
    options.table.repair = policy == Policy::stable;
    Balancer balancer(options);
    for (int i = 0; i < 66000; ++i) balancer.add("b" + std::to_string(i), 1.0, 0, true, 0.0, false);
    balancer.rebuild();
    std::vector<Id> ids(1000);
    std::vector<std::uint64_t> hashes(1000);
    for (std::size_t i = 0; i < hashes.size(); ++i) hashes[i] = draw(1, i);
    balancer.pick_many(hashes.data(), ids.data(), ids.size(), 0.0);
    Id largest = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      CHECK(ids[i] != 0);
      largest = ids[i] > largest ? ids[i] : largest;
      if (is_hash_policy(policy)) CHECK(balancer.pick_hash(hashes[i], 0.0) == ids[i]);
    }
    CHECK(largest > 60000 || policy == Policy::weighted_round_robin);
    balancer.remove(65999);
    balancer.rebuild();
    for (const std::uint64_t hash : hashes) CHECK(balancer.pick_hash(hash, 0.0) != 65999);
  }
}

}  // namespace

int main() {
  slots_agree();
  alias_agrees();
  jumps_agree();
  digest();
  wide_ids();
  return 0;
}
