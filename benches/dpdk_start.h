/* Starts DPDK with its widest vectors: 0, or a negative number. */
#pragma once

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_vect.h>

int peer_start(int argc, char** argv) {
  /* Another suite of the same run may have started it. */
  if (rte_eal_init(argc, argv) < 0 && rte_errno != EALREADY) return -1;
  /* Starting sets it back to what DPDK thinks good for all, which rules AVX-512 out. */
  return rte_vect_set_max_simd_bitwidth(RTE_VECT_SIMD_512) == 0 ? 0 : -1;
}
