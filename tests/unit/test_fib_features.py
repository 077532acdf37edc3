"""Fib beyond look-ups: transactions, snapshots, files, relations between prefixes and between tables."""

from __future__ import annotations

import bz2
import gc
import gzip
import ipaddress
import os
import random
import subprocess
import sys
import threading

import numpy as np
import pytest

from fastpath import Fib
from fastpath.addresses import parse_ipv4
from fastpath.errors import StoreError

NETS = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.1.0/24",
    "10.1.1.128/25",
    "10.2.0.0/16",
    "2001:db8::/32",
]


def network(text: str):
    return ipaddress.ip_network(text)


@pytest.fixture
def fib() -> Fib:
    table = Fib()
    for i, prefix in enumerate(NETS):
        table.insert(prefix, f"hop{i}")
    return table


def names(items) -> list[str]:
    return [str(item[0]) for item in items]


def test_relations(fib) -> None:
    assert names(fib.covering("10.1.1.0/24")) == ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24"]
    assert names(fib.covering("10.1.1.200"))[-1] == "10.1.1.128/25"
    assert names(fib.covered("10.1.0.0/16")) == ["10.1.0.0/16", "10.1.1.0/24", "10.1.1.128/25"]
    assert names(fib.covered("11.0.0.0/8")) == []
    assert fib.parent("10.1.1.0/24") == (network("10.1.0.0/16"), "hop2")
    assert fib.parent("0.0.0.0/0") is None
    assert fib.parent(("10.9.0.0", 16)) == (network("10.0.0.0/8"), "hop1")
    assert fib.parent(network("10.1.1.128/25")) == (network("10.1.1.0/24"), "hop3")
    assert fib.parent(b"\x0a\x01\x01\x80") == (network("10.1.1.128/25"), "hop4")
    assert fib.parent("2001:db8::1") == (network("2001:db8::/32"), "hop6")
    assert names(fib.children("10.0.0.0/8")) == ["10.1.0.0/16", "10.2.0.0/16"]
    assert names(fib.children("0.0.0.0/0")) == ["10.0.0.0/8"]
    assert names(fib.children("10.1.1.128/25")) == []


def test_transaction_shows_all_or_nothing(fib) -> None:
    before = list(fib.items())
    with fib.transaction() as change:
        change.insert("192.0.2.0/24", "new")
        change.delete("10.0.0.0/8")
        assert fib.lookup("192.0.2.1") == "hop0"
        assert list(fib.items()) == before
        assert "192.0.2.0/24" not in fib
        assert len(fib) == len(before)
    assert fib.lookup("192.0.2.1") == "new"
    assert "10.0.0.0/8" not in fib
    now = list(fib.items())
    with pytest.raises(KeyError), fib.transaction():
        fib.insert_many([f"10.{i}.0.0/24" for i in range(200)], list(range(200)))
        fib.clear()
        fib.delete("203.0.113.0/24")
    assert list(fib.items()) == now
    with fib.transaction(), pytest.raises(RuntimeError, match="open already"):
        with fib.transaction():
            pass
    with pytest.raises(RuntimeError, match="no transaction"):
        fib._end(True)


def test_readers_see_a_transaction_as_one_change() -> None:
    fib = Fib(dtype="uint32")
    prefixes = [f"10.{i}.0.0/16" for i in range(64)]
    asked = parse_ipv4([f"10.{i}.1.1" for i in range(64)])
    fib.insert_many(prefixes, [1] * 64)
    stop = threading.Event()
    torn = []

    def read() -> None:
        while not stop.is_set():
            seen = set(fib.lookup_many(asked).tolist())
            if len(seen) != 1:
                torn.append(seen)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version in range(2, 120):
        with fib.transaction():
            for prefix in prefixes:
                fib.insert(prefix, version)
    stop.set()
    for reader in readers:
        reader.join()
    assert not torn
    assert set(fib.lookup_many(asked).tolist()) == {119}


def test_a_changed_next_hop_is_not_seen_in_copies_snapshots_or_before_the_end() -> None:
    for hops in [(1, 2, 3), (70_000, 80_000, 90_000)]:
        fib = Fib(dtype="uint32")
        prefixes = ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/26", "2001:db0::/28", "2001:db8::/48"]
        for prefix in prefixes:
            fib.insert(prefix, hops[0])
        copy, snapshot = fib.copy(), fib.snapshot()
        with fib.transaction():
            for prefix in prefixes:
                fib.insert(prefix, hops[1])
            assert fib.lookup("192.0.2.200") == hops[0]
        assert [fib[prefix] for prefix in prefixes] == [hops[1]] * 5
        assert [copy[prefix] for prefix in prefixes] == [hops[0]] * 5
        assert [snapshot.lookup(prefix.split("/")[0]) for prefix in prefixes] == [hops[0]] * 5
        del copy, snapshot
        for prefix in prefixes:
            fib.insert(prefix, hops[2])
        addresses = ["192.0.2.1", "192.0.2.200", "192.0.2.150", "2001:db8:0:1::", "2001:db8::1"]
        assert [fib.lookup(address) for address in addresses] == [hops[2]] * 5


def test_other_writers_wait_for_a_transaction(fib) -> None:
    done = []
    with fib.transaction():
        fib.insert("198.51.100.0/24", "mine")
        writer = threading.Thread(target=lambda: done.append(fib.insert("203.0.113.0/24", "theirs")))
        writer.start()
        writer.join(0.05)
        assert not done
        assert fib.get("203.0.113.0/24") is None
    writer.join()
    assert fib.get("203.0.113.0/24") == "theirs"
    assert fib.get("198.51.100.0/24") == "mine"


def test_a_transaction_is_entered_once(fib) -> None:
    once = fib.transaction()
    with once as change:
        with pytest.raises(RuntimeError, match="entered before"):
            once.__enter__()
        with pytest.raises(RuntimeError, match="open already"):
            fib.transaction().__enter__()
        change["192.0.2.0/24"] = "first"
    with pytest.raises(RuntimeError, match="entered before"), once:
        pass
    assert fib["192.0.2.0/24"] == "first"

    @fib.transaction()
    def change_both() -> None:
        fib["192.0.2.0/24"] = fib["192.0.2.0/24"] + "!"

    change_both()
    change_both()
    assert fib["192.0.2.0/24"] == "first!!"
    fib.transaction().__enter__()  # nobody is there to end it
    gc.collect()
    fib["192.0.2.0/24"] = "second"
    assert fib["192.0.2.0/24"] == "second"


def test_snapshot_stays(fib) -> None:
    taken = fib.snapshot()
    items = list(fib.items())
    rng = random.Random(1)
    for i in range(3000):
        fib.insert((rng.getrandbits(32) & 0xFFFFFF00, 24), f"hop{i}")
    fib.delete("10.1.1.0/24")
    fib.insert("10.1.1.128/25", "other")
    assert list(taken.items()) == items
    assert taken.lookup("10.1.1.200") == "hop4"
    assert taken.readonly
    for write in (
        lambda: taken.insert("1.0.0.0/8", 1),
        lambda: taken.delete("10.0.0.0/8"),
        lambda: taken.insert_many(["1.0.0.0/8"], [1]),
        lambda: taken.delete_many([]),
        taken.clear,
        lambda: taken.transaction().__enter__(),
    ):
        with pytest.raises(TypeError, match="read-only"):
            write()
    again = taken.copy()
    again.insert("1.0.0.0/8", 1)
    assert taken.snapshot() == taken
    del fib
    assert list(taken.items()) == items


def test_save_and_open(tmp_path, fib) -> None:
    path = tmp_path / "table"
    fib.insert(
        "203.0.113.0/24", ("a", 1, 2.5, True, b"x", ipaddress.ip_address("::1"), network("10.0.0.0/8"))
    )
    fib.save(path)
    opened = Fib.open(path)
    assert opened == fib
    assert opened.values == fib.values
    assert opened.match("10.1.1.200") == fib.match("10.1.1.200")
    assert opened.lookup("2001:db8::1") == "hop6"
    with pytest.raises(TypeError, match="read-only"):
        opened.insert("1.0.0.0/8", 1)
    assert opened.copy() == fib
    assert opened.snapshot() == fib
    plain = Fib(dtype="uint32", strict=False)
    plain.insert_many([f"10.{i}.0.0/16" for i in range(256)], list(range(2**32 - 256, 2**32)))
    plain.save(path)
    os.sync()
    opened = Fib.open(path)
    assert opened == plain
    assert opened.plain
    assert not opened.strict
    Fib().save(path)
    assert len(Fib.open(path)) == 0
    with pytest.raises(TypeError, match="pickle"):
        (lambda f: (f.insert("::/0", object()), f.save(path)))(Fib())


def test_an_open_table_is_shared_between_processes(tmp_path) -> None:
    """Of the kernel's account of the file's pages, nearly all are shared, and none is a copy."""
    path = tmp_path / "table"
    fib = Fib(dtype="uint32")
    fib.insert_many(
        (np.arange(65536, dtype=np.uint32) << 16, np.full(65536, 16, np.uint8)),
        np.arange(65536, dtype=np.uint32),
    )
    fib.save(path)
    opened = Fib.open(path)
    code = (
        "import sys, pathlib; from fastpath import Fib; fib = Fib.open(sys.argv[1])\n"
        "print(fib.lookup('1.2.3.4')); print(pathlib.Path('/proc/self/smaps').read_text())"
    )
    told = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    answer, *lines = told.stdout.splitlines()
    assert int(answer) == opened.lookup("1.2.3.4") == 0x0102
    first = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines[first + 1 : first + 15]}
    shared = kilobytes["Shared_Clean"] + kilobytes["Shared_Dirty"]
    assert shared >= 0.95 * path.stat().st_size / 1024
    assert kilobytes["Private_Clean"] + kilobytes["Private_Dirty"] <= 4


def test_broken_files(tmp_path, fib) -> None:
    path = tmp_path / "table"
    fib.save(path)
    good = path.read_bytes()
    rng = random.Random(2)
    broken = [
        b"",
        b"x",
        b"not a table at all" * 100,
        good[:-1],
        good[: len(good) // 2],
        good + b"\0" * 64,
        good[:100],
    ]
    for _ in range(200):
        altered = bytearray(good)
        for _ in range(rng.choice([1, 1, 3, 50])):
            altered[rng.randrange(len(altered) if rng.random() < 0.5 else 300)] ^= rng.randrange(1, 256)
        broken.append(bytes(altered))
    for content in broken:
        if content == good:
            continue
        path.write_bytes(content)
        with pytest.raises(StoreError):
            Fib.open(path)
    with pytest.raises(StoreError, match="No such file"):
        Fib.open(tmp_path / "absent")
    with pytest.raises(StoreError, match="cannot write"):
        fib.save(tmp_path / "no" / "folder")
    with pytest.raises(StoreError):
        Fib.open(tmp_path)


def test_every_byte_of_a_file_counts(tmp_path) -> None:
    """The header's bytes one by one, and of the others the ends of each part, where the padding is."""
    path = tmp_path / "table"
    fib = Fib()
    fib.insert_many(["2001:db8::/32", "2001:db8:1::/48", "2a00::/12"], ["a", "b", "c"])
    fib.save(path)
    good = path.read_bytes()
    parts = np.frombuffer(good, np.uint64, 20, 64).reshape(10, 2)
    rng = random.Random(3)
    places = {*range(256), *(rng.randrange(len(good)) for _ in range(200)), len(good) - 1}
    for at, size in parts.tolist():
        places |= {place for place in range(at + size - 2, at + size + 64) if place < len(good)}
    with path.open("r+b", buffering=0) as file:
        for place in sorted(places):
            file.seek(place)
            file.write(bytes([good[place] ^ rng.randrange(1, 256)]))
            with pytest.raises(StoreError):
                Fib.open(path)
            file.seek(place)
            file.write(good[place : place + 1])
    assert Fib.open(path) == fib


def test_from_file(tmp_path) -> None:
    path = tmp_path / "routes.txt"
    path.write_text("# routes\n10.0.0.0/8\n\n2001:db8::/32\n")
    fib = Fib.from_file(path)
    assert dict(fib.items()) == {network("10.0.0.0/8"): 1, network("2001:db8::/32"): 2}
    assert Fib.from_file(path, ["a", "b"]).lookup("10.0.0.1") == "a"
    zipped = tmp_path / "routes.gz"
    packed = gzip.compress(b"10.0.0.0/8 7\n11.0.0.0/8 8\n")
    zipped.write_bytes(packed)
    assert Fib.from_file(zipped).lookup("11.0.0.1") == "8"
    assert Fib.from_file(str(zipped), dtype="uint32").lookup("11.0.0.1") == 8
    packed_otherwise = bz2.compress(b"10.0.0.0/8 7\n11.0.0.0/8 8\n")
    zipped.write_bytes(packed_otherwise)
    assert Fib.from_file(zipped).lookup("11.0.0.1") == "8"
    path.write_text("10.0.0.0/8 a\n11.0.0.0/8\n")
    with pytest.raises(ValueError, match="1 of 2"):
        Fib.from_file(path)
    path.write_text("10.0.0.0/8\nnonsense\n")
    with pytest.raises(ValueError, match="line 2"):
        Fib.from_file(path)
    for whole in (packed, packed_otherwise):
        for size in (3, 20, len(whole) // 2, len(whole) - 1):
            zipped.write_bytes(whole[:size])
            with pytest.raises(StoreError, match="ended before"):
                Fib.from_file(zipped)
    with pytest.raises(StoreError, match="No such file"):
        Fib.from_file(tmp_path / "absent")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_from_a_pipe(tmp_path, pack) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines = b"".join(b"10.%d.%d.0/24 %d\n" % (i >> 8, i & 255, i) for i in range(1, 30_000))
    writer = threading.Thread(target=pipe.write_bytes, args=(pack(lines),))
    writer.start()
    fib = Fib.from_file(pipe)
    writer.join()
    assert len(fib) == 29_999
    assert fib.lookup("10.117.0.1") == str(117 << 8)


def test_update_from(fib) -> None:
    assert fib.update_from("# news\n+ 192.0.2.0/24 new hop\n- 10.2.0.0/16\n\n") == (1, 1)
    assert fib.lookup("192.0.2.1") == "new hop"
    assert fib.lookup("10.2.0.1") == "hop1"
    before = list(fib.items())
    for wrong, error in (
        ("+ 192.0.2.0/24 x\n? 1", ValueError),
        ("- 10.0.0.0/8\n- 10.2.0.0/16", KeyError),
        (b"+ 192.0.2.0/24\n", ValueError),
        (b"+ 192.0.2.0/24 \xff", ValueError),
        (None, TypeError),
        (["- 10.0.0.0/8"], TypeError),
        ("+ 1.2.3.4/8 x", ValueError),
    ):
        with pytest.raises(error):
            fib.update_from(wrong)
    assert list(fib.items()) == before
    with pytest.raises(KeyError, match=r"line 2: .*10\.0\.1\.0/24"):
        fib.update_from("- 10.1.0.0/16\n- 10.0.1.0/24")
    with fib.transaction(), pytest.raises(RuntimeError, match="transaction"):
        fib.update_from("- 10.1.0.0/16")


def test_equal_both_ways_or_not_at_all() -> None:
    """Both tables say what `==` of the next hops says."""
    for hop, equal in ((7, True), (7.0, True), (np.int64(7), True), ("7", False), (-7, False), (7.5, False)):
        plain, objects = Fib(dtype="uint32"), Fib()
        plain["10.0.0.0/8"], objects["10.0.0.0/8"] = 7, hop
        assert (plain == objects) is equal
        assert (objects == plain) is equal
        assert plain.diff(objects).changed == ([] if equal else [(network("10.0.0.0/8"), 7, hop)])
        assert objects.diff(plain).changed == ([] if equal else [(network("10.0.0.0/8"), hop, 7)])


def test_two_tables(fib) -> None:
    other = fib.copy()
    assert fib.diff(other) == ([], [], [])
    other.delete("10.2.0.0/16")
    other.insert("10.1.0.0/16", "changed")
    other.insert("2001:db8:1::/48", "added")
    difference = fib.diff(other)
    assert difference.added == [(network("2001:db8:1::/48"), "added")]
    assert difference.removed == [(network("10.2.0.0/16"), "hop5")]
    assert difference.changed == [(network("10.1.0.0/16"), "hop2", "changed")]
    both = fib.union(other)
    assert both.get("10.2.0.0/16") == "hop5"
    assert both.get("10.1.0.0/16") == "changed"
    assert len(both) == len(fib) + 1
    lone = Fib()
    lone.insert("2001:db8:ffff::/48", 1)
    assert lone.overlaps(fib)
    assert fib.overlaps(lone)
    lone.clear()
    lone.insert("2001:db9::/32", 1)
    assert not lone.overlaps(fib)
    assert not Fib().overlaps(fib)
    for wrong in (None, {}, "fib"):
        for call in (fib.overlaps, fib.union, fib.diff, fib.diff_arrays):
            with pytest.raises(TypeError, match="Fib"):
                call(wrong)
    with pytest.raises(TypeError, match="integers"):
        fib.union(Fib(dtype="uint32"))


def listed(fib: Fib, arrays) -> list:
    """Arrays as the iterators give them."""
    again = Fib(dtype="uint32")
    again.insert_many(arrays[:2], arrays[2])
    return [(item, hop if fib.plain else fib.values[hop]) for item, hop in again.items()]


def test_prefixes_as_arrays(fib) -> None:
    assert listed(fib, fib.to_arrays()) + listed(fib, fib.to_arrays(6)) == list(fib.items())
    for prefix in (*NETS, "10.1.1.200", "10.1.1.128/26", "11.0.0.0/8", "::/0", ("2001:db8::", 48)):
        for arrays, items in ((fib.covering_arrays, fib.covering), (fib.covered_arrays, fib.covered)):
            found = arrays(prefix)
            assert listed(fib, found) == list(items(prefix))
            assert [array.dtype for array in found[1:]] == [np.uint8, np.uint32]
    assert fib.covered_arrays("2001:db8::/32")[0].shape == (1, 16)
    assert fib.covered_arrays("11.0.0.0/8")[0].shape == (0,)
    for wrong in (5, None, "4"):
        with pytest.raises(ValueError, match="family"):
            fib.to_arrays(wrong)
    with pytest.raises(ValueError, match="host bits"):
        fib.covered_arrays("10.0.0.1/8")
    with pytest.raises(TypeError, match="float"):
        fib.covering_arrays(1.5)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("other_plain", [False, True])
def test_diff_arrays(plain, other_plain) -> None:
    """Against plain dicts, tables of integers and of objects in any pairing."""
    rng = random.Random(plain * 2 + other_plain)
    for _ in range(30):
        here, there = (
            {
                network(text.format(i)): rng.choice([1, 2, 3])
                for i in range(7)
                for text in ("10.{}.0.0/16", "2001:db8:{}::/48")
                if rng.random() < 0.6
            }
            for _ in range(2)
        )
        mine, theirs = Fib(dtype="uint32" if plain else None), Fib(dtype="uint32" if other_plain else None)
        mine.insert("192.0.2.0/24", 9)
        theirs.insert_many(["192.0.2.0/24", "198.51.100.0/24"], [9, 8])
        mine.update({str(k): v for k, v in here.items()}.items())
        theirs.update({str(k): v for k, v in there.items()}.items())
        there[network("198.51.100.0/24")] = 8
        added = {k: v for k, v in there.items() if k not in here}
        removed = {k: v for k, v in here.items() if k not in there}
        changed = {k: (v, there[k]) for k, v in here.items() if k in there and there[k] != v}
        found = mine.diff(theirs)
        assert dict(found.added) == added
        assert dict(found.removed) == removed
        assert {item: (old, new) for item, old, new in found.changed} == changed
        parts = [mine.diff_arrays(theirs, family) for family in (4, 6)]
        assert [item for part in parts for item in listed(theirs, part.added)] == found.added
        assert [item for part in parts for item in listed(mine, part.removed)] == found.removed
        for part in parts:
            addresses, lengths, old, new = part.changed
            assert len(addresses) == len(lengths) == len(old) == len(new)
            assert {hop for _, hop in listed(mine, (addresses, lengths, old))} <= {1, 2, 3}
        assert sum(len(part.changed[1]) for part in parts) == len(changed)
    with pytest.raises(ValueError, match="family"):
        mine.diff_arrays(theirs, 7)
    with pytest.raises(TypeError, match="Fib"):
        mine.diff_arrays({})


def test_aggregate() -> None:
    fib = Fib()
    fib.insert_many(["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "11.0.0.0/8", "12.0.0.0/8"], list("aaabb"))
    smaller = fib.aggregate()
    assert len(smaller) == 3
    assert [smaller.lookup(f"{i}.200.0.1") for i in range(9, 14)] == [None, "a", "b", "b", None]
    fib.insert("0.0.0.0/0", "b")
    smaller = fib.aggregate()
    assert names(smaller.items()) == ["0.0.0.0/0", "10.0.0.0/8"]
    assert smaller.lookup("10.1.2.3") == "a"
    assert len(Fib().aggregate()) == 0
    whole = Fib(dtype="uint32")
    whole.insert("::/0", 7)
    whole.insert("::1", 7)
    assert list(whole.aggregate().items()) == [(network("::/0"), 7)]


@pytest.mark.parametrize("family", [4, 6])
def test_children_of_many(family) -> None:
    rng = random.Random(family)
    bits = 32 if family == 4 else 128
    of = ipaddress.IPv4Network if family == 4 else ipaddress.IPv6Network
    fib = Fib()
    for _ in range(600):
        length = rng.choice([1, 2, 3, 8, 9, 16, 20, 24, 25, bits - 1, bits])
        address = rng.getrandbits(6) << (bits - 6) | rng.getrandbits(4) << (bits - 28) | rng.getrandbits(2)
        fib[of((address >> (bits - length) << (bits - length), length))] = length
    fib[of((0, 0))] = 0
    networks = list(fib)
    for above in rng.sample(networks, 40) + [of((0, 0)), of((0, 5))]:
        below = [n for n in networks if n.prefixlen > above.prefixlen and n.subnet_of(above)]
        lone = [n for n in below if not any(m != n and n.subnet_of(m) for m in below)]
        assert list(fib.children(above)) == [(n, fib[n]) for n in lone]


def test_stats(fib) -> None:
    stats = fib.stats()
    assert (stats["ipv4"], stats["ipv6"], stats["next_hops"]) == (6, 1, 7)
    assert stats["ipv4_lengths"][16] == 2
    assert stats["nbytes"] == fib.nbytes > 0


def test_copies_and_snapshots_of_a_class_of_its_own() -> None:
    class Named(Fib):
        name: str

    fib = Named()
    fib.name = "edge"
    fib.insert("192.0.2.0/24", "a")
    for other in (fib.copy(), fib.snapshot()):
        assert type(other) is Named
        assert other.name == "edge"
        assert other["192.0.2.0/24"] == "a"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_text_in_any_bytes(kind) -> None:
    fib = Fib(dtype="uint32")
    assert fib.insert_many(kind(b"192.0.2.0/24\n2001:db8::/32\n"), [1, 2]) == 2
    assert fib.delete_many(kind(b"192.0.2.0/24\n")) == 1
