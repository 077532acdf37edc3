/* DPDK's rte_hash and rte_acl, the peers of bench_exact.py, bench_flow.py and bench_policy.py, with their
 * strongest settings: bulk look-ups of 64 keys (its largest), lock-free off, AVX-512 classification. A shared
 * library of our own, called through ctypes:
 *
 *   cc -O3 -march=native -shared -fPIC dpdk_hash.c -o dpdk_hash.so $(pkg-config --cflags --libs libdpdk)
 */
#include <errno.h>
#include <rte_acl.h>
#include <rte_byteorder.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "dpdk_start.h"

enum { CALL = 64 };

static struct rte_hash* table;

int peer_hash_new(uint32_t key_size, uint32_t entries) {
  static unsigned number;
  char name[32];
  snprintf(name, sizeof name, "peer%u", number++);
  if (table != NULL) rte_hash_free(table);
  struct rte_hash_parameters parameters = {
      .name = name, .entries = entries, .key_len = key_size, .hash_func = rte_hash_crc, .socket_id = 0};
  table = rte_hash_create(&parameters);
  return table == NULL ? -1 : 0;
}

size_t peer_hash_add(const uint8_t* keys, uint32_t key_size, const uint32_t* values, size_t n) {
  size_t added = 0;
  for (size_t i = 0; i < n; i++) {
    added += rte_hash_add_key_data(table, keys + i * key_size, (void*)(uintptr_t)values[i]) == 0;
  }
  return added;
}

size_t peer_hash_lookup(const uint8_t* keys, uint32_t key_size, size_t n, uint32_t* out) {
  const void* key[CALL];
  void* data[CALL];
  uint64_t mask;
  size_t hits = 0;
  for (size_t i = 0; i + CALL <= n; i += CALL) {
    for (size_t k = 0; k < CALL; k++) key[k] = keys + (i + k) * key_size;
    hits += (size_t)rte_hash_lookup_bulk_data(table, key, CALL, &mask, data);
    for (size_t k = 0; k < CALL; k++) out[i + k] = mask >> k & 1 ? (uint32_t)(uintptr_t)data[k] : 0;
  }
  return hits;
}

/* The limit of any table that reads one cache line a look-up: lines in random order, sent for one batch ahead
 * of the reads (into the second level of the cache, which waits for more of them at once than the first), as
 * many answers written as keys are read. */
void peer_read_lines(const uint8_t* memory, uint64_t lines, const uint8_t* keys, uint32_t key_size, size_t n,
                     uint32_t* out) {
  const uint8_t* line[2][CALL];
  for (size_t i = 0; i < n + CALL; i++) {
    const size_t slot = i % CALL, batch = i / CALL % 2;
    if (i >= CALL) out[i - CALL] = *(const uint32_t*)line[batch ^ 1][slot];
    if (i >= n) continue;
    uint32_t word;
    memcpy(&word, keys + i * key_size, sizeof word);
    line[batch][slot] = memory + 64 * (((word * 2654435761u & 0xFFFFFFFFu) * lines) >> 32);
    __builtin_prefetch(line[batch][slot], 0, 2);
  }
}

/* Bytes that DPDK has handed out. */
static size_t used(void) {
  struct rte_malloc_socket_stats stats;
  return rte_malloc_get_socket_stats(0, &stats) == 0 ? stats.heap_allocsz_bytes : 0;
}

/* A packet as rte_acl reads it, in network order: protocol, three bytes so that what follows starts groups of
 * four bytes, source, destination (one word each for IPv4, four for IPv6), ports. */
enum { ADDRESSES = 4 };
static uint32_t packet_size(uint32_t words) { return ADDRESSES + 8 * words + 4; }

/* One rule, in host order; protocol 256 is any. */
struct rule {
  uint32_t source[4], destination[4];
  uint16_t source_ports[2], destination_ports[2], protocol;
  uint8_t source_length, destination_length;
};

enum { MOST_FIELDS = 11 };
RTE_ACL_RULE_DEF(acl_rule, MOST_FIELDS);
static struct rte_acl_ctx* acl;

static void put_prefix(struct rte_acl_field* fields, const uint32_t* address, uint32_t length,
                       uint32_t words) {
  for (uint32_t w = 0; w < words; w++) {
    fields[w].value.u32 = address[w];
    fields[w].mask_range.u32 = length > 32 * w ? (length - 32 * w > 32 ? 32 : length - 32 * w) : 0;
  }
}

static void define(struct rte_acl_config* config, uint8_t type, uint8_t size, uint8_t input,
                   uint32_t offset) {
  const uint32_t n = config->num_fields++;
  const struct rte_acl_field_def def = {
      .type = type, .size = size, .field_index = (uint8_t)n, .input_index = input, .offset = offset};
  config->defs[n] = def;
}

/* `words`: 1 for IPv4, 4 for IPv6. Returns how many bytes it takes, 0 if it cannot be built. */
size_t peer_acl_build(const struct rule* rules, uint32_t n, uint32_t words) {
  if (acl != NULL) rte_acl_free(acl);
  const uint32_t fields = 2 * words + 3;
  struct rte_acl_param parameters = {
      .name = "peer", .socket_id = -1, .rule_size = RTE_ACL_RULE_SZ(fields), .max_rule_num = n};
  acl = rte_acl_create(&parameters);
  if (acl == NULL) return 0;
  for (uint32_t i = 0; i < n; i++) {
    struct acl_rule rule = {.data = {.category_mask = 1, .priority = (int32_t)(n - i), .userdata = i + 1}};
    rule.field[0].value.u8 = rules[i].protocol == 256 ? 0 : (uint8_t)rules[i].protocol;
    rule.field[0].mask_range.u8 = rules[i].protocol == 256 ? 0 : 0xFF;
    put_prefix(rule.field + 1, rules[i].source, rules[i].source_length, words);
    put_prefix(rule.field + 1 + words, rules[i].destination, rules[i].destination_length, words);
    struct rte_acl_field* ports = rule.field + 1 + 2 * words;
    ports[0].value.u16 = rules[i].source_ports[0];
    ports[0].mask_range.u16 = rules[i].source_ports[1];
    ports[1].value.u16 = rules[i].destination_ports[0];
    ports[1].mask_range.u16 = rules[i].destination_ports[1];
    if (rte_acl_add_rules(acl, (struct rte_acl_rule*)&rule, 1) != 0) return 0;
  }
  struct rte_acl_config config = {.num_categories = 1};
  define(&config, RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0);
  for (uint32_t w = 0; w < 2 * words; w++) {
    define(&config, RTE_ACL_FIELD_TYPE_MASK, 4, (uint8_t)(1 + w), ADDRESSES + 4 * w);
  }
  for (uint32_t side = 0; side < 2; side++) {
    const uint32_t offset = ADDRESSES + 8 * words + 2 * side;
    define(&config, RTE_ACL_FIELD_TYPE_RANGE, 2, (uint8_t)(1 + 2 * words), offset);
  }
  const size_t before = used();
  if (rte_acl_build(acl, &config) != 0) return 0;
  /* The widest that the processor has; what rte_acl would choose by itself may be less. */
  if (rte_acl_set_ctx_classify(acl, RTE_ACL_CLASSIFY_AVX512X32) != 0 &&
      rte_acl_set_ctx_classify(acl, RTE_ACL_CLASSIFY_AVX2) != 0 &&
      rte_acl_set_ctx_classify(acl, RTE_ACL_CLASSIFY_DEFAULT) != 0) {
    return 0;
  }
  return used() - before;
}

/* In calls of 256. */
void peer_acl_classify(const uint8_t* packets, size_t n, uint32_t words, uint32_t* out) {
  enum { BURST = 256 };
  const uint8_t* data[BURST];
  for (size_t i = 0; i < n; i += BURST) {
    const size_t count = n - i < BURST ? n - i : BURST;
    for (size_t k = 0; k < count; k++) data[k] = packets + (i + k) * packet_size(words);
    rte_acl_classify(acl, data, out + i, (uint32_t)count, 1);
  }
}
