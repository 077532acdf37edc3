"""Real data that the demo, the tests and the benchmarks share."""

from __future__ import annotations

from pathlib import Path


def bgp_prefixes_path() -> Path:
    """Path of a full Internet routing table: one prefix a line, gzip.

    901,899 IPv4 and 160,147 IPv6 prefixes of February 2023, without next hops. From gaissmai/bart,
    MIT licence (LICENSE.bart beside the file).
    """
    return Path(__file__).with_name("prefixes.txt.gz")
