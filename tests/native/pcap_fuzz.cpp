// Any bytes are a capture file: every frame lies inside it, and they lie in order.
#include <cstdint>
#include <vector>

#include "check.hpp"
#include "fastpath/packets.hpp"
#include "fastpath/pcap.hpp"

std::vector<std::vector<std::uint8_t>> fuzz_seeds() {
  std::vector<std::vector<std::uint8_t>> seeds;
  for (const bool big_endian : {false, true}) {
    std::vector<std::uint8_t> file(fastpath::kPcapFileHeader, 0);
    for (const std::uint8_t length : {0, 14, 60}) {
      std::vector<std::uint8_t> record(fastpath::kPcapRecordHeader + length, 7);
      for (std::size_t i = 8; i < 16; ++i) record[i] = 0;
      record[big_endian ? 11 : 8] = length;
      file.insert(file.end(), record.begin(), record.end());
    }
    seeds.push_back(file);
  }
  return seeds;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::uint8_t> file(data, data + size);
  for (const bool big_endian : {false, true}) {
    fastpath::PcapRecords records;
    const std::size_t end = fastpath::read_pcap_records(file.data(), size, big_endian, 1, records);
    const std::size_t n = records.offsets.size();
    CHECK(records.lengths.size() == n && records.times_ns.size() == n);
    std::uint64_t at = fastpath::kPcapFileHeader;
    for (std::size_t i = 0; i < n; ++i) {
      CHECK(records.offsets[i] == at + fastpath::kPcapRecordHeader);
      at = records.offsets[i] + records.lengths[i];
      CHECK(at <= size);
    }
    CHECK(size < fastpath::kPcapFileHeader || end == at || end == at + fastpath::kPcapRecordHeader);
    std::vector<fastpath::PacketFields> out(n);
    CHECK(fastpath::parse_packets(file.data(), size, records.offsets.data(), records.lengths.data(), n,
                                  out.data()) == n);
  }
  return 0;
}
