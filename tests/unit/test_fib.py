"""Fib: what every call takes, answers and refuses."""

from __future__ import annotations

import ipaddress
import threading

import numpy as np
import pytest

from fastpath import Fib
from fastpath.addresses import parse_ipv4, parse_ipv6


def test_longest_match_in_both_families() -> None:
    fib = Fib()
    fib.insert("0.0.0.0/0", "default")
    fib.insert("10.0.0.0/8", "ten")
    fib.insert("10.1.2.0/24", "lan")
    fib.insert("10.1.2.3", "host")
    fib.insert("::/0", "six")
    fib.insert("2001:db8::/32", "doc")
    fib.insert("2001:db8::1/128", "host6")
    assert fib.lookup("10.1.2.3") == "host"
    assert fib.lookup(0x0A010204) == "lan"
    assert fib.lookup(bytes([10, 2, 0, 0])) == "ten"
    assert fib.lookup(ipaddress.ip_address("11.0.0.0")) == "default"
    assert fib.lookup("2001:db8::1") == "host6"
    assert fib.lookup(ipaddress.ip_address("2001:db8::2").packed) == "doc"
    assert fib.lookup(ipaddress.ip_address("2001:db9::")) == "six"
    assert fib.match("10.1.2.99") == (ipaddress.ip_network("10.1.2.0/24"), "lan")
    assert len(fib) == 7


def test_families_never_match_each_other() -> None:
    fib = Fib()
    fib.insert("0.0.0.0/0", "four")
    assert fib.lookup("::ffff:1.2.3.4") is None
    assert fib.lookup("::") is None
    fib.clear()
    fib.insert("::/0", "six")
    assert fib.lookup("1.2.3.4") is None
    assert fib.lookup("::ffff:1.2.3.4") == "six"


def test_mapping() -> None:
    fib = Fib()
    fib["10.0.0.0/8"] = 1
    fib[ipaddress.ip_network("10.1.0.0/16")] = 2
    fib[("10.1.1.0", 24)] = 3
    assert fib["10.0.0.0/8"] == 1
    assert fib["10.1.1.7"] == 3
    assert "10.1.0.0/16" in fib
    assert "10.2.0.0/16" not in fib
    assert "10.2.0.0" in fib
    assert "11.2.0.0" not in fib
    assert [str(network) for network in fib] == ["10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24"]
    assert dict(fib.items())[ipaddress.ip_network("10.1.1.0/24")] == 3
    assert list(fib.keys()) == list(fib)
    del fib["10.1.0.0/16"]
    for absent in ("10.1.0.0/16", "11.0.0.1"):
        with pytest.raises(KeyError):
            fib[absent]
    with pytest.raises(KeyError):
        del fib["10.1.0.0/16"]
    other = Fib()
    other.update(fib.items())
    assert other == fib
    for source in (fib, dict(fib.items()), {"10.0.0.0/8": 1, "10.1.1.0/24": 3}):
        same = Fib()
        same.update(source)
        assert same == fib
    assert Fib() == Fib(dtype="uint32")
    numbers = Fib(dtype="uint32")
    numbers.update(fib)
    assert numbers == fib
    assert fib == numbers
    numbers["10.0.0.0/8"] = 2
    assert numbers != fib
    other["10.0.0.0/8"] = "1"
    assert other != fib
    assert numbers != other
    del other["10.0.0.0/8"]
    assert other != fib
    assert fib != "fib"
    with pytest.raises(TypeError):
        hash(fib)
    assert "2 IPv4 and 0 IPv6" in repr(fib)


def test_array_calls() -> None:
    fib = Fib()
    fib.insert_many(["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"], ["a", "b", "a"])
    addresses = parse_ipv4(["10.0.0.1", "10.1.0.1", "11.0.0.1"])
    ids = fib.lookup_many(addresses)
    assert ids.dtype == np.uint32
    assert [fib.values[i] for i in ids] == ["a", "b", None]
    out = np.empty(3, np.uint32)
    assert fib.lookup_many(addresses, out=out, default=99) is out
    assert out.tolist() == [ids[0], ids[1], 99]
    six = parse_ipv6(["2001:db8::1", "::1"])
    assert [fib.values[i] for i in fib.lookup_many(six)] == ["a", None]
    found, lengths = fib.match_many(six)
    assert (found.tolist(), lengths.tolist()) == ([1, 0], [32, 0])
    # views, either byte order, empty
    assert fib.lookup_many(np.repeat(addresses, 2)[::2]).tolist() == ids.tolist()
    assert fib.lookup_many(addresses.astype(">u4")).tolist() == ids.tolist()
    assert fib.lookup_many(addresses[:0]).shape == (0,)
    assert fib.lookup_many(six[:0]).shape == (0,)


def test_plain_integers() -> None:
    fib = Fib(dtype="uint32")
    everything = [0, 1, 0xFFFD, 0xFFFE, 0xFFFF, 2**32 - 3, 2**32 - 2, 2**32 - 1]
    for i, value in enumerate(everything):
        fib.insert(f"10.0.{i}.0/24", value)
        assert [fib.lookup(f"10.0.{j}.1") for j in range(i + 1)] == everything[: i + 1]
        assert fib.lookup("10.1.0.0") is None
    answers = fib.lookup_many(parse_ipv4([f"10.0.{i}.9" for i in range(9)]), default=7)
    assert answers.tolist() == [*everything, 7]
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match="next hop"):
            fib.insert("10.0.0.0/8", wrong)
    for wrong in ("1", 1.0, None):
        with pytest.raises(TypeError, match="next hop"):
            fib.insert("10.0.0.0/8", wrong)
    arrays = (np.array([1 << 24, 2 << 24], np.uint32), np.array([8, 8], np.uint8))
    assert fib.insert_many(arrays, np.array([5, 6], np.uint32)) == 2
    assert fib.lookup("2.0.0.1") == 6
    with pytest.raises(TypeError, match="int64"):
        fib.insert_many(arrays, np.array([5, 6]))


def test_insert_many_from_text_and_arrays() -> None:
    fib = Fib()
    text = b"# a comment\n10.0.0.0/8\n\n 2001:db8::/32 \r\n10.0.0.0/8\n1.2.3.4"
    assert fib.insert_many(text, ["a", "b", "c", "d"]) == 4
    assert [fib.get(p) for p in ("10.0.0.0/8", "2001:db8::/32", "1.2.3.4/32")] == ["c", "b", "d"]
    other = Fib()
    other.insert_many((parse_ipv6(["2001:db8::"]), np.array([32], np.uint8)), ["b"])
    assert other.get("2001:db8::/32") == "b"
    assert other.insert_many([], []) == 0
    assert other.insert_many(b"", []) == 0
    assert other.insert_many(iter(["9.0.0.0/8"]), iter(["x"])) == 1


@pytest.mark.parametrize(
    ("prefixes", "hops", "error", "message"),
    [
        (b"10.0.0.0/8\nten\n", [1, 2], ValueError, "line 2.*'ten'"),
        (b"10.0.0.0/8\n\n10.0.0.1/8\n", [1, 2], ValueError, "line 3.*host bits"),
        (b"\xff\xfe\n", [1], ValueError, "line 1"),
        (b"10.0.0.0/33", [1], ValueError, "line 1"),
        (b"10.0.0.0/8 via 1.2.3.4", [1], ValueError, "line 1"),
        (["10.0.0.0/8", "x"], [1, 2], ValueError, "row 1.*'x'"),
        (["10.0.0.0/8", 1.5], [1, 2], TypeError, "row 1.*float"),
        (["10.0.0.0/8"], [1, 2], ValueError, "1 prefixes with 2 next hops"),
        (["10.0.0.0/8", "11.0.0.0/8"], [1, None], ValueError, "row 1.*None"),
        (["10.0.0.0/8", "11.0.0.0/8"], [1, []], TypeError, "row 1.*unhashable"),
        (["10.0.0.0/8"], "1", TypeError, "next hops"),
        (["10.0.0.0/8"], None, TypeError, "next hops.*NoneType"),
        (["10.0.0.0/8"], np.zeros((1, 1), np.uint32), ValueError, "next hops"),
        ("10.0.0.0/8", [1], TypeError, "one str"),
        (None, [], TypeError, "iterable of prefixes.*NoneType"),
        (np.zeros(1, np.uint32), [1], TypeError, "pair of arrays"),
        ((np.zeros(1, np.uint32), [8]), [1], TypeError, "prefix lengths"),
        ((np.zeros(1, np.uint32), np.zeros(1, np.int8)), [1], TypeError, "uint8"),
        ((np.zeros(1, np.int64), np.zeros(1, np.uint8)), [1], TypeError, "int64"),
        ((np.zeros((1, 4), np.uint8), np.zeros(1, np.uint8)), [1], TypeError, r"uint8\[1,4\]"),
        ((np.zeros(2, np.uint32), np.zeros(1, np.uint8)), [1], ValueError, "2 addresses with 1"),
        ((np.zeros(1, np.uint32), np.full(1, 33, np.uint8)), [1], ValueError, "row 0.*33"),
        ((np.ones(1, np.uint32), np.full(1, 24, np.uint8)), [1], ValueError, "row 0.*host bits"),
    ],
)
def test_insert_many_refuses_and_changes_nothing(prefixes, hops, error, message) -> None:
    fib = Fib()
    fib.insert("192.0.2.0/24", "there")
    with pytest.raises(error, match=message):
        fib.insert_many(prefixes, hops)
    assert [str(network) for network in fib] == ["192.0.2.0/24"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (5, "pairs.*int"),
        ("10.0.0.0/8", "pairs.*str"),
        (["10.0.0.0/8"], "row 0.*'10.0.0.0/8'"),
        ([("10.0.0.0/8", 1), ("11.0.0.0/8",)], "row 1"),
        ([("10.0.0.0/8", 1), 7], "row 1.*7"),
    ],
)
def test_update_refuses_and_changes_nothing(entries, message) -> None:
    fib = Fib()
    with pytest.raises(TypeError, match=message):
        fib.update(entries)
    assert len(fib) == 0
    with pytest.raises(TypeError, match=r"iterable of prefixes.*int"):
        fib.delete_many(5)


@pytest.mark.parametrize(
    ("prefix", "error"),
    [
        ("", ValueError),
        ("10.0.0.1/8", ValueError),
        ("10.0.0.0/33", ValueError),
        ("10.0.0.0/-1", ValueError),
        ("10.0.0.0/", ValueError),
        ("::/129", ValueError),
        ("::1/64", ValueError),
        ("fe80::%eth0/64", ValueError),
        ("10.0.0.0/8/8", ValueError),
        ("x" * 10000, ValueError),
        ("\ud800", ValueError),
        (("10.0.0.0", 33), ValueError),
        (("10.0.0.1", 8), ValueError),
        (("10.0.0.0",), ValueError),
        (("10.0.0.0", "8"), TypeError),
        ((None, 8), TypeError),
        (b"10.0.0.0/8", ValueError),
        (-1, ValueError),
        (2**32, ValueError),
        (1.5, TypeError),
        (None, TypeError),
        ([], TypeError),
    ],
)
def test_bad_prefixes(prefix, error) -> None:
    fib = Fib()
    for call in (lambda: fib.insert(prefix, 1), lambda: fib.delete(prefix), lambda: fib.get(prefix)):
        with pytest.raises(error):
            call()
    with pytest.raises(error):
        list(fib.covered(prefix))
    with pytest.raises(error):
        list(fib.covering(prefix))
    assert len(fib) == 0


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("", ValueError),
        ("10.0.0", ValueError),
        ("10.0.0.0/8", ValueError),
        ("fe80::1%eth0", ValueError),
        (ipaddress.IPv6Address("fe80::1%eth0"), ValueError),
        (b"", ValueError),
        (b"12345", ValueError),
        (-1, ValueError),
        (2**32, ValueError),
        (2**200, ValueError),
        (1.5, TypeError),
        (None, TypeError),
        (bytearray(4), TypeError),
    ],
)
def test_bad_addresses(address, error) -> None:
    fib = Fib()
    fib.insert("0.0.0.0/0", 1)
    with pytest.raises(error):
        fib.lookup(address)
    with pytest.raises(error):
        fib.match(address)


def test_bad_arrays() -> None:
    fib = Fib()
    for wrong in ([1, 2], None, "1.2.3.4", np.zeros(2), np.zeros(2, np.int64), np.zeros((2, 16), np.int8)):
        for call in (fib.lookup_many, fib.match_many):
            with pytest.raises(TypeError, match=r"uint32\[n\]"):
                call(wrong)
    for wrong in (np.zeros((2, 2), np.uint32), np.zeros((2, 15), np.uint8), np.zeros(16, np.uint8)):
        with pytest.raises(ValueError, match=r"uint32\[n\]"):
            fib.lookup_many(wrong)
    asked = np.zeros(3, np.uint32)
    frozen = np.zeros(3, np.uint32)
    frozen.flags.writeable = False
    for wrong, error in (
        ([0, 0, 0], TypeError),
        (np.zeros(3), TypeError),
        (np.zeros(2, np.uint32), ValueError),
        (np.zeros((3, 1), np.uint32), ValueError),
        (np.zeros(6, np.uint32)[::2], ValueError),
        (frozen, ValueError),
    ):
        with pytest.raises(error, match="out"):
            fib.lookup_many(asked, out=wrong)
    for wrong, error in ((None, TypeError), ("0", TypeError), (-1, ValueError), (2**32, ValueError)):
        with pytest.raises(error, match="default"):
            fib.lookup_many(asked, default=wrong)


def test_out_in_the_memory_of_the_addresses() -> None:
    """Answers may be written over the addresses, wherever they begin."""
    fib = Fib(dtype="uint32")
    n = 3000
    rng = np.random.default_rng(1)
    fib.insert_many([f"{i}.0.0.0/8" for i in range(256)], list(range(1, 257)))
    fib.insert_many([f"{i:02x}00::/8" for i in range(256)], list(range(1001, 1257)))
    for at in (0, 1, 7, 16, 63, 64, 500):
        memory = rng.integers(0, 2**32, n + at, dtype=np.uint32)
        for asked, out in ((memory[:n], memory[at:]), (memory[at:], memory[:n])):
            expected = fib.lookup_many(asked.copy())
            assert np.array_equal(fib.lookup_many(asked, out=out), expected)
        memory = rng.integers(0, 2**32, 4 * n, dtype=np.uint32)
        asked = memory.view(np.uint8).reshape(n, 16)
        for out in (memory[at : n + at], memory[3 * n - at : 4 * n - at]):
            expected = fib.lookup_many(asked.copy())
            assert np.array_equal(fib.lookup_many(asked, out=out), expected)


def test_huge_integers_are_named_by_their_size() -> None:
    fib, plain = Fib(), Fib(dtype="uint32")
    huge = 10**5000
    for call in (
        lambda: fib.lookup(huge),
        lambda: fib.insert(huge, 1),
        lambda: fib.insert_many([1, huge], [1, 2]),
        lambda: fib.insert_many([("10.0.0.0", huge)], [1]),
        lambda: fib.delete_many([-huge]),
        lambda: fib.get((huge, 8)),
        lambda: plain.insert("10.0.0.0/8", huge),
        lambda: plain.insert_many(["10.0.0.0/8"], [huge]),
        lambda: plain.lookup_many(np.zeros(1, np.uint32), default=huge),
    ):
        with pytest.raises(ValueError, match=r"an int of 166[0-9][0-9] bits"):
            call()
    for wrong in ((huge, 8, 1), (huge,)):
        with pytest.raises(ValueError, match="a tuple is not a prefix"):
            fib.insert(wrong, 1)
    assert len(fib) == len(plain) == 0


def test_a_pickle_made_by_hand_brings_in_no_missing_next_hop() -> None:
    rebuild, (strict, plain, *_), _ = Fib().__reduce__()
    prefixes = np.array([10 << 24], np.uint32), np.array([8], np.uint8)
    nothing = np.empty((0, 16), np.uint8), np.empty(0, np.uint8), np.empty(0, np.uint32)

    def made(number, values):
        return rebuild(strict, plain, ((*prefixes, np.array([number], np.uint32)), nothing), values)

    assert made(1, (None, "a")).lookup("10.1.2.3") == "a"
    for number, values in ((0, (None, "a")), (2, (None, "a")), (1, (None, None)), (1, ("x", "a")), (0, ())):
        with pytest.raises(ValueError, match="id"):
            made(number, values)


def test_options() -> None:
    loose = Fib(strict=False)
    loose.insert("10.1.2.3/8", "a")
    loose.insert(("2001:db8::1", 32), "b")
    loose.insert_many((np.array([0x0B010203], np.uint32), np.array([8], np.uint8)), ["c"])
    loose.insert_many(b"12.1.1.1/8", ["d"])
    assert [str(n) for n in loose] == ["10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8", "2001:db8::/32"]
    for wrong in ("int32", "uint64", "nonsense", 7):
        with pytest.raises(ValueError, match="dtype"):
            Fib(dtype=wrong)
    with pytest.raises(TypeError):
        Fib(True)
    with pytest.raises(TypeError):
        Fib(size=7)


def test_next_hops() -> None:
    fib = Fib()
    fib.insert("10.0.0.0/8", (1, 2))
    fib.insert("11.0.0.0/8", (1, 2))
    assert fib.values == (None, (1, 2))
    with pytest.raises(TypeError, match="unhashable"):
        fib.insert("12.0.0.0/8", [])
    with pytest.raises(ValueError, match="None"):
        fib.insert("12.0.0.0/8", None)
    assert len(fib) == 2
    for i in range(70_000):
        fib.insert((i << 8, 24), i)
    assert fib.lookup(66_000 << 8) == 66_000
    assert fib.lookup("11.0.0.1") == (1, 2)


def test_readers_beside_a_writer() -> None:
    """A reader sees each answer as before or as after a write."""
    fib = Fib(dtype="uint32")
    fib.insert_many([f"10.{i}.0.0/16" for i in range(256)], list(range(1, 257)))
    asked = (np.arange(65536, dtype=np.uint32) << 8) + (10 << 24)
    before = fib.lookup_many(asked)
    stop = threading.Event()
    wrong = []

    def read() -> None:
        while not stop.is_set():
            answers = fib.lookup_many(asked)
            if not ((answers == before) | (answers == 1000 + asked % 4096)).all():
                wrong.append(answers)
            if fib.lookup("10.7.8.9") not in (8, 1000 + ((10 << 24) + (7 << 16) + (8 << 8)) % 4096):
                wrong.append("scalar")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    order = np.random.default_rng(1).permutation(65536)[:6000]
    for i in order.tolist():
        fib.insert((int(asked[i]), 24), 1000 + int(asked[i]) % 4096)
    fib.insert_many((asked, np.full(65536, 24, np.uint8)), 1000 + asked % 4096)
    fib.delete_many((asked, np.full(65536, 24, np.uint8)))
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert (fib.lookup_many(asked) == before).all()
