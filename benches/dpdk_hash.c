/* DPDK's rte_hash and rte_acl, the peers of bench_exact.py, bench_flow.py and bench_policy.py, with their
 * strongest settings: bulk look-ups of 64 keys (its largest), lock-free off, AVX-512 classification. A shared
 * library of our own, called through ctypes:
 *
 *   cc -O3 -march=native -shared -fPIC dpdk_hash.c -o dpdk_hash.so $(pkg-config --cflags --libs libdpdk)
 */
#include <errno.h>
#include <rte_acl.h>
#include <rte_byteorder.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_vect.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { CALL = 64 };

int peer_start(int argc, char** argv) {
  rte_vect_set_max_simd_bitwidth(RTE_VECT_SIMD_512);
  /* Another suite of the same run may have started it. */
  return rte_eal_init(argc, argv) >= 0 || rte_errno == EALREADY ? 0 : -1;
}

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

/* One packet as rte_acl reads it, in network order; padded so that ports start a group of four bytes. */
struct packet {
  uint8_t protocol;
  uint8_t padding[3];
  uint32_t source, destination;
  uint16_t source_port, destination_port;
};

/* One rule; protocol 256 is any. */
struct rule {
  uint32_t source, destination;
  uint16_t source_ports[2], destination_ports[2], protocol;
  uint8_t source_length, destination_length;
};

enum { FIELDS = 5 };
RTE_ACL_RULE_DEF(acl_rule, FIELDS);
static struct rte_acl_ctx* acl;

static struct rte_acl_field_def field(uint8_t type, uint8_t size, uint8_t index, uint8_t input,
                                      uint32_t offset) {
  struct rte_acl_field_def def = {
      .type = type, .size = size, .field_index = index, .input_index = input, .offset = offset};
  return def;
}

int peer_acl_build(const struct rule* rules, uint32_t n) {
  if (acl != NULL) rte_acl_free(acl);
  struct rte_acl_param parameters = {
      .name = "peer", .socket_id = -1, .rule_size = RTE_ACL_RULE_SZ(FIELDS), .max_rule_num = n};
  acl = rte_acl_create(&parameters);
  if (acl == NULL) return -1;
  for (uint32_t i = 0; i < n; i++) {
    struct acl_rule rule = {.data = {.category_mask = 1, .priority = (int32_t)(n - i), .userdata = i + 1}};
    rule.field[0].value.u8 = rules[i].protocol == 256 ? 0 : (uint8_t)rules[i].protocol;
    rule.field[0].mask_range.u8 = rules[i].protocol == 256 ? 0 : 0xFF;
    rule.field[1].value.u32 = rules[i].source;
    rule.field[1].mask_range.u32 = rules[i].source_length;
    rule.field[2].value.u32 = rules[i].destination;
    rule.field[2].mask_range.u32 = rules[i].destination_length;
    rule.field[3].value.u16 = rules[i].source_ports[0];
    rule.field[3].mask_range.u16 = rules[i].source_ports[1];
    rule.field[4].value.u16 = rules[i].destination_ports[0];
    rule.field[4].mask_range.u16 = rules[i].destination_ports[1];
    if (rte_acl_add_rules(acl, (struct rte_acl_rule*)&rule, 1) != 0) return -1;
  }
  struct rte_acl_config config = {.num_categories = 1, .num_fields = FIELDS};
  config.defs[0] = field(RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0, offsetof(struct packet, protocol));
  config.defs[1] = field(RTE_ACL_FIELD_TYPE_MASK, 4, 1, 1, offsetof(struct packet, source));
  config.defs[2] = field(RTE_ACL_FIELD_TYPE_MASK, 4, 2, 2, offsetof(struct packet, destination));
  config.defs[3] = field(RTE_ACL_FIELD_TYPE_RANGE, 2, 3, 3, offsetof(struct packet, source_port));
  config.defs[4] = field(RTE_ACL_FIELD_TYPE_RANGE, 2, 4, 3, offsetof(struct packet, destination_port));
  if (rte_acl_build(acl, &config) != 0) return -1;
  return rte_acl_set_ctx_classify(acl, RTE_ACL_CLASSIFY_AVX512X32) == 0 ? 1 : 0;
}

/* packets in network order; in calls of 256. */
void peer_acl_classify(const struct packet* packets, size_t n, uint32_t* out) {
  enum { BURST = 256 };
  const uint8_t* data[BURST];
  for (size_t i = 0; i < n; i += BURST) {
    const size_t count = n - i < BURST ? n - i : BURST;
    for (size_t k = 0; k < count; k++) data[k] = (const uint8_t*)(packets + i + k);
    rte_acl_classify(acl, data, out + i, (uint32_t)count, 1);
  }
}
