/* How one extension module reads a table that another one owns.
 *
 * A Cython face hands out a PyCapsule whose name is the string below; the pointer in it is one of these
 * structs, valid as long as the capsule lives (the capsule keeps the table alive). `version` is the first
 * member of each struct and never moves; a later version only appends members. No C++ type crosses the line.
 *
 * All functions are callable without the GIL, from any thread. Look-ups never wait. Writers of one table
 * queue on its lock. MAC addresses are uint64_t with the first octet of the wire in bits 47..40.
 */
#ifndef FASTPATH_CAPI_H_
#define FASTPATH_CAPI_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Id 0 is "no entry" in every result. */

#define FASTPATH_FORWARDING_CAPSULE "fastpath.forwarding.v1"
typedef struct fastpath_forwarding_v1 {
  uint32_t version; /* 1 */
  void* self;
  /* The exact (source, destination) pair first, then any source. */
  void (*lookup_many)(void* self, const uint64_t* sources, const uint64_t* destinations, uint32_t* egress,
                      size_t n);
  /* Inserts or replaces a learned pair; one that the table's user inserted stays as it is. Returns 0, or -1
   * when memory ran out. */
  int (*insert)(void* self, uint64_t source, uint64_t destination, uint32_t egress);
  /* Erases a learned pair. Returns 1 if it was there, 0 if not, or if the user has inserted it since. */
  int (*erase)(void* self, uint64_t source, uint64_t destination);
} fastpath_forwarding_v1;

#define FASTPATH_FDB_CAPSULE "fastpath.fdb.v1"
typedef struct fastpath_fdb_v1 {
  uint32_t version; /* 1 */
  void* self;
  /* vlans may be NULL: VLAN 0. */
  void (*lookup_many)(void* self, const uint64_t* macs, const uint16_t* vlans, uint32_t* ports, size_t n);
  /* Learns or refreshes; now_s is the table's clock (CLOCK_MONOTONIC in seconds unless the table was made
   * with another one). Returns how many entries are new or have moved to another port. Static entries,
   * group addresses and the zero address are left alone. */
  size_t (*learn_many)(void* self, const uint64_t* macs, const uint16_t* vlans, const uint32_t* ports,
                       size_t n, double now_s);
} fastpath_fdb_v1;

#ifdef __cplusplus
}
#endif

#endif /* FASTPATH_CAPI_H_ */
