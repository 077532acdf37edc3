/* Look-ups in DPDK's rte_fib and rte_fib6, the peers of bench_fib.py, with their strongest settings: AVX-512,
 * 4-byte next hops (rte_fib answers in 8 bytes whatever its table holds).
 *
 *   dpdk_fib FAMILY PREFIXES QUERIES ROUNDS [EAL options]
 *
 * PREFIXES: records of 16 bytes of address (IPv4 in the first four, network order), 1 byte of length, 3 of padding
 * and a uint32 next hop. QUERIES: addresses of 4 bytes (host order) or 16 bytes (network order). Prints one JSON
 * object: build seconds, a checksum of the answers, and for each round the CPU seconds of one pass in calls of 4096.
 */
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_lcore.h>
#include <rte_memory.h>
#include <rte_vect.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct record {
  uint8_t address[16];
  uint8_t length;
  uint8_t padding[3];
  uint32_t next_hop;
};

enum { CALL = 4096 };

static void fail(const char* what) {
  fprintf(stderr, "dpdk_fib: %s (%s)\n", what, rte_strerror(rte_errno));
  exit(1);
}

static void* contents(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) fail(path);
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  void* data = malloc(*size + 64);
  if (data == NULL || fread(data, 1, *size, file) != *size) fail(path);
  fclose(file);
  return data;
}

static double seconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int main(int argc, char** argv) {
  if (argc < 5) fail("FAMILY PREFIXES QUERIES ROUNDS [EAL options]");
  const int family = atoi(argv[1]);
  const char* const prefixes_path = argv[2];
  const char* const queries_path = argv[3];
  const int rounds = atoi(argv[4]);
  argv[4] = argv[0];
  if (rte_eal_init(argc - 4, argv + 4) < 0) fail("no EAL");
  rte_vect_set_max_simd_bitwidth(RTE_VECT_SIMD_512);

  size_t size = 0;
  const struct record* const records = contents(prefixes_path, &size);
  const size_t n = size / sizeof *records;
  const uint8_t* const queries = contents(queries_path, &size);
  const size_t m = size / (family == 4 ? 4 : 16) / CALL * CALL;

  struct rte_fib* fib4 = NULL;
  struct rte_fib6* fib6 = NULL;
  const double start = seconds(CLOCK_PROCESS_CPUTIME_ID);
  if (family == 4) {
    struct rte_fib_conf conf = {
        .type = RTE_FIB_DIR24_8, .default_nh = 0, .max_routes = 1 << 21, .rib_ext_sz = 0};
    conf.dir24_8.nh_sz = RTE_FIB_DIR24_8_4B;
    conf.dir24_8.num_tbl8 = 1 << 15;
    fib4 = rte_fib_create("fib", SOCKET_ID_ANY, &conf);
    if (fib4 == NULL) fail("rte_fib_create");
    for (size_t i = 0; i < n; i++) {
      const uint8_t* const a = records[i].address;
      const uint32_t ip = (uint32_t)a[0] << 24 | (uint32_t)a[1] << 16 | (uint32_t)a[2] << 8 | a[3];
      const int error = rte_fib_add(fib4, ip, records[i].length, records[i].next_hop);
      rte_errno = -error;
      if (error != 0) fail("rte_fib_add");
    }
    if (rte_fib_select_lookup(fib4, RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512) != 0) fail("no AVX-512 look-up");
  } else {
    struct rte_fib6_conf conf = {.type = RTE_FIB6_TRIE, .default_nh = 0, .max_routes = 1 << 20, .rib_ext_sz = 0};
    conf.trie.nh_sz = RTE_FIB6_TRIE_4B;
    conf.trie.num_tbl8 = 1 << 18;
    fib6 = rte_fib6_create("fib6", SOCKET_ID_ANY, &conf);
    if (fib6 == NULL) fail("rte_fib6_create");
    for (size_t i = 0; i < n; i++) {
      const int error = rte_fib6_add(fib6, records[i].address, records[i].length, records[i].next_hop);
      rte_errno = -error;
      if (error != 0) fail("rte_fib6_add");
    }
    if (rte_fib6_select_lookup(fib6, RTE_FIB6_LOOKUP_TRIE_VECTOR_AVX512) != 0) fail("no AVX-512 look-up");
  }
  printf("{\"build_s\": %.6f, ", seconds(CLOCK_PROCESS_CPUTIME_ID) - start);

  uint64_t* const answers = malloc(CALL * sizeof *answers);
  uint64_t checksum = 0;
  for (int round = -1; round < rounds; round++) {
    const double begin = seconds(CLOCK_THREAD_CPUTIME_ID);
    for (size_t i = 0; i < m; i += CALL) {
      if (family == 4) {
        rte_fib_lookup_bulk(fib4, (uint32_t*)(uintptr_t)queries + i, answers, CALL);
      } else {
        rte_fib6_lookup_bulk(fib6, (uint8_t(*)[16])(uintptr_t)(queries + 16 * i), answers, CALL);
      }
      if (round < 0) {
        for (size_t k = 0; k < CALL; k++) checksum += answers[k] * (uint64_t)(i + k + 1);
      }
    }
    const double took = seconds(CLOCK_THREAD_CPUTIME_ID) - begin;
    if (round == 0) printf("\"queries\": %zu, \"checksum\": %llu, \"round_s\": [", m, (unsigned long long)checksum);
    if (round >= 0) printf("%s%.6f", round == 0 ? "" : ", ", took);
  }
  printf("]}\n");
  return 0;
}
