"""The hashes of the core, written for reading: the oracle of the compiled ones."""

from __future__ import annotations

_MASK32 = 2**32 - 1
_MASK64 = 2**64 - 1
_PRIME32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_PRIME64 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_PRIME_MX1 = 0x165667919E3779F9
_PRIME_MX2 = 0x9FB21C651E98DF25
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def _load32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _load64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _rotl64(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & _MASK64


def _rotl32(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & _MASK32


def _swap32(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "little"), "big")


def _swap64(value: int) -> int:
    return int.from_bytes(value.to_bytes(8, "little"), "big")


def _fold128(a: int, b: int) -> int:
    product = a * b
    return (product & _MASK64) ^ (product >> 64)


def _avalanche64(h: int) -> int:
    h ^= h >> 33
    h = h * _PRIME64[1] & _MASK64
    h ^= h >> 29
    h = h * _PRIME64[2] & _MASK64
    return h ^ h >> 32


def _avalanche3(h: int) -> int:
    h &= _MASK64
    h ^= h >> 37
    h = h * _PRIME_MX1 & _MASK64
    return h ^ h >> 32


def _mix16(data: bytes, at: int, secret: int, seed: int) -> int:
    low = _load64(data, at) ^ ((_load64(_SECRET, secret) + seed) & _MASK64)
    high = _load64(data, at + 8) ^ ((_load64(_SECRET, secret + 8) - seed) & _MASK64)
    return _fold128(low, high)


def xxh3_64(data: bytes, seed: int = 0) -> int:
    """XXH3-64 of ``data``."""
    size = len(data)
    if size == 0:
        return _avalanche64(seed ^ _load64(_SECRET, 56) ^ _load64(_SECRET, 64))
    if size <= 3:
        combined = data[0] << 16 | data[size >> 1] << 24 | data[size - 1] | size << 8
        flip = ((_load32(_SECRET, 0) ^ _load32(_SECRET, 4)) + seed) & _MASK64
        return _avalanche64(combined ^ flip)
    if size <= 8:
        seed ^= _swap32(seed & _MASK32) << 32
        flip = ((_load64(_SECRET, 8) ^ _load64(_SECRET, 16)) - seed) & _MASK64
        h = (_load32(data, size - 4) + (_load32(data, 0) << 32)) ^ flip
        h ^= _rotl64(h, 49) ^ _rotl64(h, 24)
        h = h * _PRIME_MX2 & _MASK64
        h ^= (h >> 35) + size
        h = h * _PRIME_MX2 & _MASK64
        return h ^ h >> 28
    if size <= 16:
        flip_low = ((_load64(_SECRET, 24) ^ _load64(_SECRET, 32)) + seed) & _MASK64
        flip_high = ((_load64(_SECRET, 40) ^ _load64(_SECRET, 48)) - seed) & _MASK64
        low = _load64(data, 0) ^ flip_low
        high = _load64(data, size - 8) ^ flip_high
        return _avalanche3(size + _swap64(low) + high + _fold128(low, high))
    acc = size * _PRIME64[0]
    if size <= 128:
        for i in range((size - 1) // 32 + 1):
            acc += _mix16(data, 16 * i, 32 * i, seed)
            acc += _mix16(data, size - 16 * (i + 1), 32 * i + 16, seed)
        return _avalanche3(acc)
    if size <= 240:
        acc = _avalanche3(acc + sum(_mix16(data, 16 * i, 16 * i, seed) for i in range(8)))
        acc += sum(_mix16(data, 16 * i, 16 * (i - 8) + 3, seed) for i in range(8, size // 16))
        return _avalanche3(acc + _mix16(data, size - 16, 136 - 17, seed))
    return _xxh3_long(data, seed)


def _xxh3_long(data: bytes, seed: int) -> int:
    size = len(data)
    secret = b"".join(
        ((_load64(_SECRET, i) + (seed if i % 16 == 0 else -seed)) & _MASK64).to_bytes(8, "little")
        for i in range(0, 192, 8)
    )
    acc = [_PRIME32[2], *_PRIME64[:4], _PRIME32[1], _PRIME64[4], _PRIME32[0]]

    def stripe(at: int, secret_at: int) -> None:
        for i in range(8):
            value = _load64(data, at + 8 * i)
            keyed = value ^ _load64(secret, secret_at + 8 * i)
            acc[i ^ 1] = (acc[i ^ 1] + value) & _MASK64
            acc[i] = (acc[i] + (keyed & _MASK32) * (keyed >> 32)) & _MASK64

    for number in range((size - 1) // 64):
        stripe(64 * number, 8 * (number % 16))
        if number % 16 == 15:
            for i in range(8):
                mixed = acc[i] ^ acc[i] >> 47 ^ _load64(secret, 128 + 8 * i)
                acc[i] = mixed * _PRIME32[0] & _MASK64
    stripe(size - 64, 121)
    merged = size * _PRIME64[0]
    for i in range(0, 8, 2):
        merged += _fold128(acc[i] ^ _load64(secret, 11 + 8 * i), acc[i + 1] ^ _load64(secret, 19 + 8 * i))
    return _avalanche3(merged)


def xxh64(data: bytes, seed: int = 0) -> int:
    """XXH64 of ``data``."""

    def step(acc: int, value: int) -> int:
        return _rotl64((acc + value * _PRIME64[1]) & _MASK64, 31) * _PRIME64[0] & _MASK64

    at, size = 0, len(data)
    h = seed + _PRIME64[4]
    if size >= 32:
        lanes = [seed + _PRIME64[0] + _PRIME64[1], seed + _PRIME64[1], seed, seed - _PRIME64[0]]
        while size - at >= 32:
            lanes = [step(lane, _load64(data, at + 8 * i)) for i, lane in enumerate(lanes)]
            at += 32
        h = sum(_rotl64(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK64
        for lane in lanes:
            h = ((h ^ step(0, lane)) * _PRIME64[0] + _PRIME64[3]) & _MASK64
    h = (h + size) & _MASK64
    while size - at >= 8:
        h = (_rotl64(h ^ step(0, _load64(data, at)), 27) * _PRIME64[0] + _PRIME64[3]) & _MASK64
        at += 8
    if size - at >= 4:
        word = _load32(data, at) * _PRIME64[0] & _MASK64
        h = (_rotl64(h ^ word, 23) * _PRIME64[1] + _PRIME64[2]) & _MASK64
        at += 4
    for byte in data[at:]:
        h = _rotl64(h ^ (byte * _PRIME64[4] & _MASK64), 11) * _PRIME64[0] & _MASK64
    return _avalanche64(h)


def murmur3_32(data: bytes, seed: int = 0) -> int:
    """MurmurHash3_x86_32 of ``data``."""

    def scramble(k: int) -> int:
        return _rotl32(k * 0xCC9E2D51 & _MASK32, 15) * 0x1B873593 & _MASK32

    h = seed
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        h = (_rotl32(h ^ scramble(_load32(data, at)), 13) * 5 + 0xE6546B64) & _MASK32
    h ^= scramble(int.from_bytes(data[whole:], "little")) ^ len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & _MASK32
    h = (h ^ h >> 13) * 0xC2B2AE35 & _MASK32
    return h ^ h >> 16
