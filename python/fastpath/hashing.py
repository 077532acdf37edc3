"""Hashes with public specifications: named, seedable, the same on every machine.

``hash64`` (XXH3-64) is what the tables and the balancers use; ``xxh64`` and ``murmur3_32`` are there for
what must agree with other programs. CRC-32 and MD5 come from :mod:`zlib` and :mod:`hashlib`.
"""

from __future__ import annotations

from fastpath._hash import hash64, hash64_many, murmur3_32, xxh64

__all__ = ["hash64", "hash64_many", "murmur3_32", "xxh64"]
