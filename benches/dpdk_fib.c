/* DPDK's rte_fib and rte_fib6, the peers of bench_fib.py, with their strongest settings: AVX-512, next hops
 * of 4 bytes in the table (rte_fib answers in 8 bytes whatever it holds). Each twice in one process: in
 * memory of EAL, which is of huge pages where there are some, and in pages of 4 KiB. A shared library of our
 * own, called through ctypes:
 *
 *   cc -O3 -march=native -shared -fPIC -DALLOW_EXPERIMENTAL_API dpdk_fib.c -o dpdk_fib.so \
 *      $(pkg-config --cflags --libs libdpdk)
 */
#define _GNU_SOURCE
#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_malloc.h>
#include <rte_memory.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "dpdk_start.h"

enum { CALL = 4096, PAGE = 4096 };

/* By kind of memory: 0 is EAL's own, 1 has small pages. */
static struct rte_fib* fib4[2];
static struct rte_fib6* fib6[2];
static int socket_of[2] = {SOCKET_ID_ANY, SOCKET_ID_ANY};
static uint64_t answers[CALL];

/* Small pages for tables of kind 1. 0, or an error of DPDK. */
int peer_small_pages(size_t bytes) {
  const size_t pages = bytes / PAGE;
  void* const memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  rte_iova_t* const places = malloc(pages * sizeof *places);
  if (memory == MAP_FAILED || places == NULL) return -1;
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  for (size_t i = 0; i < pages; i++) places[i] = (rte_iova_t)(uintptr_t)memory + i * PAGE;
  int error = rte_malloc_heap_create("small");
  if (error == 0) error = rte_malloc_heap_memory_add("small", memory, bytes, places, pages, PAGE);
  free(places);
  if (error == 0) socket_of[1] = rte_malloc_heap_get_socket("small");
  return error;
}

int peer_load4(int kind, const uint32_t* addresses, const uint8_t* lengths, const uint32_t* next_hops,
               size_t n) {
  struct rte_fib_conf conf = {
      .type = RTE_FIB_DIR24_8, .default_nh = 0, .max_routes = 1 << 20, .rib_ext_sz = 0};
  conf.dir24_8.nh_sz = RTE_FIB_DIR24_8_4B;
  conf.dir24_8.num_tbl8 = 1 << 15;
  if (fib4[kind] != NULL) rte_fib_free(fib4[kind]);
  fib4[kind] = rte_fib_create(kind == 0 ? "fib4" : "fib4small", socket_of[kind], &conf);
  if (fib4[kind] == NULL) return -1;
  for (size_t i = 0; i < n; i++) {
    const int error = rte_fib_add(fib4[kind], addresses[i], lengths[i], next_hops[i]);
    if (error != 0) return error;
  }
  if (rte_fib_select_lookup(fib4[kind], RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512) == 0) return 0;
  return rte_fib_select_lookup(fib4[kind], RTE_FIB_LOOKUP_DEFAULT); /* of a processor without */
}

int peer_load6(int kind, const uint8_t* addresses, const uint8_t* lengths, const uint32_t* next_hops,
               size_t n) {
  struct rte_fib6_conf conf = {
      .type = RTE_FIB6_TRIE, .default_nh = 0, .max_routes = 1 << 20, .rib_ext_sz = 0};
  conf.trie.nh_sz = RTE_FIB6_TRIE_4B;
  conf.trie.num_tbl8 = 1 << 18;
  if (fib6[kind] != NULL) rte_fib6_free(fib6[kind]);
  fib6[kind] = rte_fib6_create(kind == 0 ? "fib6" : "fib6small", socket_of[kind], &conf);
  if (fib6[kind] == NULL) return -1;
  for (size_t i = 0; i < n; i++) {
    const int error = rte_fib6_add(fib6[kind], addresses + 16 * i, lengths[i], next_hops[i]);
    if (error != 0) return error;
  }
  if (rte_fib6_select_lookup(fib6[kind], RTE_FIB6_LOOKUP_TRIE_VECTOR_AVX512) == 0) return 0;
  return rte_fib6_select_lookup(fib6[kind], RTE_FIB6_LOOKUP_DEFAULT); /* of a processor without */
}

/* In calls of 4096 addresses. `out` may be NULL, which is what is timed. */
void peer_lookup4(int kind, const uint32_t* addresses, size_t n, uint32_t* out) {
  for (size_t i = 0; i + CALL <= n; i += CALL) {
    rte_fib_lookup_bulk(fib4[kind], (uint32_t*)(uintptr_t)(addresses + i), answers, CALL);
    for (size_t k = 0; out != NULL && k < CALL; k++) out[i + k] = (uint32_t)answers[k];
  }
}

void peer_lookup6(int kind, const uint8_t* addresses, size_t n, uint32_t* out) {
  for (size_t i = 0; i + CALL <= n; i += CALL) {
    rte_fib6_lookup_bulk(fib6[kind], (uint8_t (*)[16])(uintptr_t)(addresses + 16 * i), answers, CALL);
    for (size_t k = 0; out != NULL && k < CALL; k++) out[i + k] = (uint32_t)answers[k];
  }
}
