// Records of a capture file in the classic format (pcap), every length checked.
//
// draft-ietf-opsawg-pcap: a file header of 24 bytes, then records of a header of 16 bytes and the frame, all
// in the byte order of the machine that wrote the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastpath {

inline constexpr std::size_t kPcapFileHeader = 24;
inline constexpr std::size_t kPcapRecordHeader = 16;

struct PcapRecords {
  std::vector<std::uint64_t> offsets;  // where frames start in the file
  std::vector<std::uint64_t> lengths;
  std::vector<std::uint64_t> times_ns;
};

// Reads the records behind the file header. Returns where reading ended: the size of the file, or the start
// of the first record (its header or its frame) that leaves it.
inline std::size_t read_pcap_records(const std::uint8_t* file, std::size_t size, bool big_endian,
                                     std::uint32_t unit_ns, PcapRecords& records) {
  const auto word = [&](std::size_t at) {
    const std::uint8_t* p = file + at;
    return big_endian
               ? std::uint32_t{p[0]} << 24 | std::uint32_t{p[1]} << 16 | std::uint32_t{p[2]} << 8 | p[3]
               : std::uint32_t{p[3]} << 24 | std::uint32_t{p[2]} << 16 | std::uint32_t{p[1]} << 8 | p[0];
  };
  std::size_t at = kPcapFileHeader;
  while (at < size) {
    if (size - at < kPcapRecordHeader) return at;
    const std::size_t length = word(at + 8);
    if (size - at - kPcapRecordHeader < length) return at;
    records.times_ns.push_back(word(at) * std::uint64_t{1'000'000'000} +
                               word(at + 4) * std::uint64_t{unit_ns});
    at += kPcapRecordHeader;
    records.offsets.push_back(at);
    records.lengths.push_back(length);
    at += length;
  }
  return size;
}

}  // namespace fastpath
