"""Fib beside Python code that runs within its calls, threads that end what others began, and odd values."""

from __future__ import annotations

import copy
import ipaddress
import json
import os
import pickle
import threading
from collections import Counter
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest

from fastpath import Fib, NextHopGroup
from fastpath.errors import StoreError

MANY = np.arange(20000, dtype=np.uint32) << 12, np.full(20000, 24, np.uint8)


class Upsetting:
    """An address whose conversion empties the table, fills it anew, and writes over what was freed."""

    def __init__(self, fib: Fib) -> None:
        self.fib = fib

    def __index__(self) -> int:
        for _ in range(3):
            self.fib.clear()
            self.fib.insert_many((MANY[0][:1000], MANY[1][:1000]), ["new"] * 1000)
        junk = [np.full(size, 0xFF, np.uint8) for size in (1 << 16, 1 << 19) for _ in range(50)]
        return (1 << 12) + len(junk[0][:0])


@pytest.mark.parametrize("call", ["lookup", "match", "get", "covering", "covered"])
def test_an_address_that_changes_the_table(call) -> None:
    fib = Fib()
    fib.insert_many(MANY, ["old"] * len(MANY[0]))
    address = Upsetting(fib)
    found = getattr(fib, call)(address if call in ("lookup", "match") else (address, 24))
    if call in ("covering", "covered"):
        found = next(found)
    assert "new" in (found if isinstance(found, tuple) else (found,))


def test_readers_of_objects_beside_a_writer() -> None:
    """Addresses whose conversion runs Python code, in threads that switch at every chance."""
    prefixes = [(ipaddress.IPv6Address(0x2001 << 112 | i << 88), 40) for i in range(50)]
    fib = Fib()
    fib.insert_many(prefixes, ["x"] * 50)
    wrong, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            for address, _ in prefixes:
                if (hop := fib.lookup(address)) not in ("x", "y"):
                    wrong.append(hop)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(60):
        fib.insert_many(prefixes, ["xy"[i % 2]] * 50)
        junk = np.full(1 << 18, 0xFF, np.uint8)
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert junk.any()


class Hop:
    """A next hop that does something when it is hashed."""

    def __init__(self, action) -> None:
        self.action = action

    def __hash__(self) -> int:
        self.action()
        return 1


def test_next_hops_that_change_their_list() -> None:
    for action in (lambda hops: hops.extend("x" * 300000), lambda hops: hops.clear()):
        fib, hops = Fib(), ["b", "c"]
        hops.insert(0, Hop(partial(action, hops)))
        assert fib.insert_many(["10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8"], hops) == 3
        assert [hop for _, hop in fib.items()][1:] == ["b", "c"]
        assert pickle.loads(pickle.dumps(fib.snapshot().aggregate().diff_arrays(Fib())))


def test_next_hops_that_come_back_to_the_table() -> None:
    fib = Fib()
    fib["10.0.0.0/8"] = "a"
    depth = []

    def again() -> None:
        if len(depth) < 3:
            depth.append(1)
            fib.insert("11.0.0.0/8", "inner")
            fib.clear()
            fib.insert("12.0.0.0/8", "b")

    hop = Hop(again)
    fib.insert("13.0.0.0/8", hop)
    assert dict(fib.items()) == {
        ipaddress.ip_network("12.0.0.0/8"): "b",
        ipaddress.ip_network("13.0.0.0/8"): hop,
    }
    with pytest.raises(ZeroDivisionError):
        fib.insert("14.0.0.0/8", Hop(lambda: 1 // 0))
    fib.insert("14.0.0.0/8", "c")
    assert [fib.values[i] for i in fib.to_arrays()[2]] == ["b", hop, "c"]


def test_files_written_beside_a_writer_are_whole(tmp_path) -> None:
    fib, stop = Fib(), threading.Event()

    def write() -> None:
        for i in range(20000):
            if stop.is_set():
                return
            fib.insert((i << 8, 24), ("hop", i))

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(8):
        fib.save(tmp_path / "table")
        for taken in (Fib.open(tmp_path / "table"), pickle.loads(pickle.dumps(fib)), fib.copy()):
            assert [hop for _, hop in taken.items()] == [("hop", i) for i in range(len(taken))]
    stop.set()
    writer.join()


def test_both_families_are_read_as_of_one_moment() -> None:
    fib = Fib(dtype="uint32")
    fib.insert_many((MANY[0][:2000], MANY[1][:2000]), np.full(2000, 7, np.uint32))
    fib.update([("192.0.2.0/24", 0), ("2001::/32", 0)])
    stop, lengths = threading.Event(), set()

    def write() -> None:
        version = 0
        while not stop.is_set():
            version += 1
            with fib.transaction():
                fib.insert("192.0.2.0/24", version)
                fib.insert("2001::/32", version)
            fib.insert_many((MANY[0][:2000], MANY[1][:2000]), np.full(2000, 7, np.uint32))

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(25):
        lengths.add(len(fib))
        for taken in (dict(fib.items()), fib.copy(), fib.aggregate(), Fib(dtype="uint32").union(fib)):
            if isinstance(taken, dict):
                taken = {str(network): hop for network, hop in taken.items()}
            assert taken["192.0.2.0/24"] == taken["2001::/32"]
    stop.set()
    writer.join()
    assert lengths == {2002}


def test_groups_that_change_beside_look_ups() -> None:
    fib = Fib()
    fib["0.0.0.0/0"] = NextHopGroup(["a", "b"], buckets=8)
    addresses, hashes = np.full(1500, 10 << 24, np.uint32), np.arange(1500, dtype=np.uint64)
    errors, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                ids = fib.lookup_many(addresses, hashes)
                values = fib.values
                assert all(isinstance(values[i], str) for i in np.unique(ids).tolist())
            except (IndexError, AssertionError) as error:
                errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(300):
        fib["0.0.0.0/0"] = NextHopGroup([f"m{i}", f"n{i}"], buckets=8)
    stop.set()
    for reader in readers:
        reader.join()
    assert not errors


def test_bad_hashes_leave_out_as_it_was() -> None:
    fib = Fib()
    fib["10.0.0.0/8"] = NextHopGroup(["a", "b"], buckets=2)
    addresses, out = np.full(4, 10 << 24, np.uint32), np.zeros(4, np.uint32)
    for wrong in (np.zeros(3, np.uint64), np.zeros(4, np.int64), "hash"):
        with pytest.raises((TypeError, ValueError), match="hashes"):
            fib.lookup_many(addresses, wrong, out=out)
        assert not out.any()
    hashes = np.arange(4, dtype=np.uint64)
    expected = fib.lookup_many(addresses, hashes)
    assert (fib.lookup_many(addresses, hashes.astype(">u8")) == expected).all()


def test_clear_and_copies_forget_next_hops(tmp_path) -> None:
    fib = Fib()
    for i in range(1000):
        fib["10.0.0.0/8"] = f"hop{i}"
    fib["11.0.0.0/8"] = "other"
    taken = fib.snapshot()
    fib.save(tmp_path / "table")
    for smaller in (
        fib.copy(),
        pickle.loads(pickle.dumps(fib)),
        Fib.open(tmp_path / "table"),
    ):
        assert smaller.values == (None, "hop999", "other")
        assert [hop for _, hop in smaller.items()] == ["hop999", "other"]
    with fib.transaction():
        fib.clear()
        assert fib.lookup("10.0.0.1") == "hop999"
    assert fib.values[1000] == "hop999"
    fib.clear()
    assert fib.values == (None,)
    fib["10.0.0.0/8"] = "new"
    assert fib.values == (None, "new")
    assert [hop for _, hop in taken.items()] == ["hop999", "other"]
    with pytest.raises(TypeError, match="read-only"):
        taken.insert("12.0.0.0/8", "leak")
    with pytest.raises(TypeError, match="read-only"):
        taken.insert_many(["12.0.0.0/8"], ["leak"])
    assert "leak" not in (*taken.values, *fib.values)


def test_a_transaction_that_ends_in_another_thread() -> None:
    fib = Fib()

    def steps():
        with fib.transaction():
            fib["10.0.0.0/8"] = 1
            yield

    open_one = steps()
    next(open_one)
    for work in (open_one.close, lambda: fib.insert("11.0.0.0/8", 2)):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    fib.insert("12.0.0.0/8", 3)
    assert [hop for _, hop in fib.items()] == [2, 3]


def test_iteration_is_as_of_the_call() -> None:
    fib = Fib()
    fib["10.0.0.0/8"] = 1
    iterators = fib.keys(), iter(fib), fib.items(), fib.children("0.0.0.0/0")
    fib["11.0.0.0/8"] = 2
    assert [len(list(iterator)) for iterator in iterators] == [1, 1, 1, 1]


def test_shares_follow_the_weights() -> None:
    for weights, buckets in (
        ({"big": 90} | {f"s{i}": 1 for i in range(10)}, 100),
        ({"big": 98, "s": 1, "t": 1}, 100),
        ({"a": 5, "b": 3, "c": 1}, 128),
        ({i: i * i for i in range(1, 12)}, 1000),
    ):
        counts = Counter(NextHopGroup(weights, buckets=buckets).buckets)
        total = sum(weights.values())
        for member, weight in weights.items():
            assert abs(counts[member] - weight * buckets / total) < 1
    crowded = Counter(NextHopGroup({"big": 1000, **dict.fromkeys(range(100), 1)}, buckets=128).buckets)
    assert crowded["big"] == 28
    assert crowded.total() == 128
    group = NextHopGroup(["a", "b", "c"])
    assert group.with_members(["c", "b", "a"]) == (group, 0.0)


def test_groups_are_what_they_were_made_as() -> None:
    group = NextHopGroup({"a": 3, ("b", "c"): 1}, buckets=8)
    assert Counter(group.buckets) == {"a": 6, ("b", "c"): 2}
    with pytest.raises(TypeError):
        group.weights["a"] = 5  # type: ignore[index]
    assert pickle.loads(pickle.dumps(group)) == group
    rebuild, _ = group.__reduce__()
    for wrong in (
        ({"a": 1}, ()),
        ({"a": 1}, ("a", "z")),
        ({"a": 1, "b": 1}, ("a",)),
        ({"a": 0}, ("a",)),
        ({}, ()),
        (None, ("a",)),
        ({"a": 1}, ["a"]),
    ):
        with pytest.raises(ValueError):
            rebuild(*wrong)


class Named(Fib):
    """A table with a name."""


def test_copies_keep_their_class() -> None:
    table = Named()
    table.name = "edge"
    table["10.0.0.0/8"] = "x"
    for same in (table.copy(), copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert type(same) is Named
        assert same.name == "edge"
        assert same == table


def test_pickles_made_by_hand() -> None:
    rebuild, (strict, plain, (four, six), *_), _ = Fib().__reduce__()
    rows = np.array([10 << 24, 11 << 24], np.uint32), np.array([8, 8], np.uint8)

    def made(ids, values):
        return rebuild(strict, plain, ((*rows, ids), six), values)

    assert [hop for _, hop in made(np.array([1, 2], np.uint32), [None, "a", "b"]).items()] == ["a", "b"]
    for ids, values, error in (
        (np.array([1, 2], np.uint32), [None, "a", "a"], ValueError),
        (np.array([1, 9], np.uint32), [None, "a"], ValueError),
        (np.array([0, 1], np.uint32), [None, "a"], ValueError),
        (np.array([[1, 1], [1, 1]], np.uint32), [None, "a"], ValueError),
        (np.array([1.0, 1.0]), [None, "a"], TypeError),
        (5, [None, "a"], TypeError),
    ):
        with pytest.raises(error):
            made(ids, values)
    assert len(four[0]) == 0


def test_opened_next_hops_are_read_when_asked_for(tmp_path) -> None:
    path = tmp_path / "table"
    hops = [
        "x",
        "",
        "\ud800",
        b"\0\xff",
        (1, (True, "y")),
        -2.5,
        10**30,
        ipaddress.ip_address("fe80::1%eth0"),
        (),
    ]
    fib = Fib()
    fib.insert_many([f"10.{i}.0.0/16" for i in range(len(hops))], hops)
    fib.save(path)
    opened = Fib.open(path)
    assert [opened.lookup(f"10.{i}.0.1") for i in reversed(range(len(hops)))] == hops[::-1]
    assert opened.match("10.1.0.1")[1] == ""
    assert opened.snapshot().get("10.3.0.0/16") == b"\0\xff"
    assert Fib.open(path).values == (None, *hops)
    assert opened.copy() == opened == fib
    opened.save(path)
    assert Fib.open(path) == fib


def test_files_whose_next_hops_do_not_fit(tmp_path) -> None:
    path = tmp_path / "table"
    fib = Fib()
    fib.insert_many(["10.0.0.0/8", "11.0.0.0/8"], ["a", "b"])

    def wrong(count, ends, written, highest=2) -> None:
        header = json.dumps({"strict": True, "plain": False, "values": count, "highest": highest}).encode()
        header += b" " * (-len(header) % 8)
        extra = len(header).to_bytes(8, "little") + header + np.array(ends, np.uint64).tobytes() + written
        path.write_bytes(fib._saved(extra))

    wrong(3, [0, 2, 4], b"sasb")
    assert Fib.open(path) == fib
    for parts in (
        (2, [0, 2], b"sa"),
        (3, [0, 2, 5], b"sasb"),
        (0, [], b""),
        (3, [0], b""),
        (2**60, [0], b""),
        (-1, [0], b""),
    ):
        wrong(*parts)
        with pytest.raises(StoreError):
            Fib.open(path)
    wrong(3, [0, 2, 4], b"sa??")
    opened = Fib.open(path)
    assert opened.lookup("10.0.0.1") == "a"
    with pytest.raises(StoreError, match="next hop 2"):
        opened.lookup("11.0.0.1")
    deep = "d"
    for _ in range(5000):
        deep = (deep,)
    fib["12.0.0.0/8"] = deep
    with pytest.raises(ValueError, match="tuple"):
        fib.save(path)


class Gateway(NamedTuple):
    name: str


class Text(str):
    __slots__ = ()


class IPv4Address(ipaddress.IPv4Address):
    """Has the name of a type that is kept, and is another."""


@pytest.mark.parametrize("hop", [Gateway("a"), Text("a"), IPv4Address("10.0.0.1"), 1j, frozenset()])
def test_what_would_come_back_as_another_type_is_not_saved(tmp_path, hop) -> None:
    fib = Fib()
    fib["10.0.0.0/8"] = "kept"
    fib.save(tmp_path / "table")
    before = (tmp_path / "table").read_bytes()
    fib["11.0.0.0/8"] = hop
    with pytest.raises(TypeError, match="pickle"):
        fib.save(tmp_path / "table")
    assert (tmp_path / "table").read_bytes() == before


def test_paths_and_permissions(tmp_path) -> None:
    fib = Fib()
    fib["10.0.0.0/8"] = "a"
    for call in (fib.save, Fib.open, Fib.from_file):
        with pytest.raises(StoreError, match="null"):
            call(tmp_path / "a\0b")
    (tmp_path / "empty").touch()
    with pytest.raises(StoreError, match="empty"):
        Fib.open(tmp_path / "empty")
    before = os.umask(0o027)
    try:
        fib.save(tmp_path / "table")
    finally:
        os.umask(before)
    assert (tmp_path / "table").stat().st_mode & 0o777 == 0o640
    assert len(Fib.open(os.fsencode(tmp_path / "table"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "table"]


def test_a_table_takes_the_place_of_the_file_that_is_meant(tmp_path) -> None:
    fib, folder = Fib(), tmp_path / "folder"
    fib["10.0.0.0/8"] = "a"
    folder.mkdir()
    real, link = folder / "real", tmp_path / "link"
    link.symlink_to("folder/real")
    (tmp_path / "second").symlink_to("link")
    for path in (link, tmp_path / "second", os.fsencode(link)):
        fib.save(path)  # at first there is nothing where the links lead
        assert link.is_symlink()
        assert not real.is_symlink()
        assert Fib.open(real) == Fib.open(link) == fib
        fib[f"{len(fib)}.0.0.0/8"] = "b"
    for mode in (0o600, 0o644, 0o444, 0o750):
        real.chmod(mode)
        fib.save(link)
        assert real.stat().st_mode & 0o7777 == mode
    pipe, round_about = tmp_path / "pipe", tmp_path / "round"
    os.mkfifo(pipe)
    (tmp_path / "to pipe").symlink_to("pipe")
    round_about.symlink_to("round")
    opened = len(os.listdir("/proc/self/fd"))
    for path in (pipe, tmp_path / "to pipe", folder):
        for call in (fib.save, Fib.open):
            with pytest.raises(StoreError, match=r"no regular file|Is a directory"):
                call(path)
    assert len(os.listdir("/proc/self/fd")) == opened
    for call in (fib.save, Fib.open):
        with pytest.raises(StoreError, match="symbolic links"):
            call(round_about)
    assert pipe.is_fifo()
    assert round_about.is_symlink()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "folder",
        "link",
        "pipe",
        "real",
        "round",
        "second",
        "to pipe",
    ]


def test_errors_of_texts_name_file_and_line(tmp_path) -> None:
    path = tmp_path / "routes"
    for written, options, error in (
        (b"10.0.0.0/8 a\xff\n", {}, r"line 1: b'a\\xff' is not UTF-8"),
        (b"10.0.0.0/8 a\n\n11.0.0.0/8 \xfe\n", {}, r"line 3: b'\\xfe' is not UTF-8"),
        (b"10.0.0.0/8 \xff\n", {"dtype": "uint32"}, "line 1: .* is not UTF-8"),
        (b"10.0.0.0/8\nfoo\n", {}, "line 2: 'foo' is not"),
        (b"10.0.0.1/8\n", {}, "line 1: 10.0.0.1/8 has host bits"),
        (b"10.0.0.0/8 a\n", {"dtype": "uint32"}, "line 1: 'a' is not"),
        (b"10.0.0.0/8 a\n11.0.0.0/8\n", {}, "1 of 2"),
        (b"10.0.0.0/8 a\n", {"next_hops": ["b"]}, "of its own"),
        (b"10.0.0.0/8\n", {"next_hops": ["b", "c"]}, "1 prefixes with 2"),
        (b"10.0.0.0/8\n", {"next_hops": [None]}, "row 0: next hop None"),
        (b"10.0.0.0/8\n", {"peer": "192.0.2.1"}, "no MRT"),
        (b"\0" * 5000, {}, "line 1: '.* is not"),
        (b"\0" * 11, {}, "line 1: '.* is not"),
        (b"\x7fELF\x02" + b"\0" * 900, {}, "line 1: '.* is not"),
        (b"10.0.0.0/8 " + b"\1" * 900, {"dtype": "uint32"}, "line 1: '.* is not"),
    ):
        path.write_bytes(written)
        with pytest.raises(ValueError, match=error) as caught:
            Fib.from_file(path, **options)
        assert repr(str(path)) in str(caught.value)
        assert len(str(caught.value)) < 180 + len(str(path))
    fib = Fib()
    with pytest.raises(ValueError, match=r"line 2: b'\+ 11.0.0.0/8 \\xff' is not UTF-8"):
        fib.update_from(b"+ 10.0.0.0/8 a\n+ 11.0.0.0/8 \xff\n")
    with pytest.raises(ValueError, match="line 1: ") as caught:
        fib.update_from("\1" * 900)
    assert len(str(caught.value)) < 180
    assert len(fib) == 0


def test_interfaces_are_prefixes() -> None:
    """As ipaddress.ip_network takes them."""
    for text, net in (("10.0.0.1/8", "10.0.0.0/8"), ("2001:db8::1/32", "2001:db8::/32")):
        given, network = ipaddress.ip_interface(text), ipaddress.ip_network(net)
        fib, loose = Fib(), Fib(strict=False)
        fib[network] = loose[given] = "x"
        assert list(loose) == [network]
        for call in (
            lambda fib, given: fib.insert(given, 1),
            lambda fib, given: fib.insert_many([given], [1]),
            lambda fib, given: fib.get(given),
            lambda fib, given: fib[given],
            lambda fib, given: given in fib,
            lambda fib, given: list(fib.covered(given)),
            lambda fib, given: list(fib.covering(given)),
            lambda fib, given: list(fib.children(given)),
            lambda fib, given: fib.parent(given),
            lambda fib, given: fib.covered_arrays(given),
            lambda fib, given: fib.delete_many([given]),
            lambda fib, given: fib.delete(given),
        ):
            with pytest.raises(ValueError, match="host bits"):
                call(fib, given)
            loose[network] = "x"
            expected = call(fib, network)
            fib[network] = "x"
            found = call(loose, given)
            assert repr(found) == repr(expected)
        whole = ipaddress.ip_interface(given.ip)
        fib[whole] = "host"
        assert fib[ipaddress.ip_network(given.ip)] == "host"
        assert fib.lookup(given) == "host"
        assert fib.parent(whole) == (network, "x")
    scoped = ipaddress.ip_interface("fe80::%eth0/64")
    with pytest.raises(ValueError, match="scope id"):
        Fib().insert(scoped, 1)


def test_host_bits_are_shown_as_they_came() -> None:
    for addresses, lengths, told in (
        (np.array([10 << 24, (10 << 24) + 1], np.uint32), [8, 8], "row 1: 10.0.0.1/8 has host bits"),
        (np.eye(1, 16, 15, np.uint8), [64], "row 0: ::1/64 has host bits"),
    ):
        with pytest.raises(ValueError, match=told):
            Fib().insert_many((addresses, np.array(lengths, np.uint8)), ["a"] * len(lengths))


def test_texts_are_read_in_one_way(tmp_path) -> None:
    path = tmp_path / "text"

    def read(text: str, *arguments, **options) -> Fib:
        path.write_bytes(text.encode())
        return Fib.from_file(path, *arguments, **options)

    for error, text, arguments, options in (
        ("line 4: 'bogus'", "# head\n\n10.0.0.0/8 a\nbogus b\n", (), {}),
        ("line 4: 'x'", "# head\n\n10.0.0.0/8 1\n11.0.0.0/8 x\n", (), {"dtype": "uint32"}),
        ("line 1: '-5'", "10.0.0.0/8 -5\n", (), {"dtype": "uint32"}),
        ("line 1: '1_0'", "10.0.0.0/8 1_0\n", (), {"dtype": "uint32"}),
        ("line 1: '٣'", "10.0.0.0/8 ٣\n", (), {"dtype": "uint32"}),
        ("line 1: '4294967296'", "10.0.0.0/8 4294967296\n", (), {"dtype": "uint32"}),
        ("is not an IPv4", "10.0.0.0/8\r11.0.0.0/8\r", (), {}),
        ("of its own", "10.0.0.0/8 a\n", (["b"],), {}),
    ):
        with pytest.raises(ValueError, match=error):
            read(text, *arguments, **options)
    assert list(read("10.0.0.0/8 a \t\r\n11.0.0.0/8\tb\n").values) == [None, "a", "b"]
    fib = Fib()
    fib.update_from("+ 10.0.0.0/8 a \r\n+ 11.0.0.0/8 a\n+ 12.0.0.0/8 a\x85b\n+ 13.0.0.0/8 a\x0c+ c\n")
    assert fib.values == (None, "a", "a\x85b", "a\x0c+ c")
    plain = Fib(dtype="uint32")
    for hop in ("1_0", "٣", "-1", "4294967296"):
        with pytest.raises(ValueError, match="line 2: "):
            plain.update_from(f"+ 10.0.0.0/8 1\n+ 11.0.0.0/8 {hop}")
    assert len(plain) == 0


def test_arrays_with_gaps_and_in_the_other_byte_order() -> None:
    fib = Fib()
    addresses = np.array([10 << 24, 11 << 24], ">u4")
    lengths = np.array([8, 8], np.uint8)
    fib.insert_many((addresses, lengths), ["a", "b"])
    assert fib.lookup("11.0.0.1") == "b"
    assert fib.lookup_many(addresses).tolist() == [1, 2]
    plain = Fib(dtype="uint32")
    plain.insert_many((addresses, lengths), np.array([7, 8], ">u4"))
    assert plain.lookup("11.0.0.1") == 8
    masked = np.ma.array(addresses.astype(np.uint32), mask=[False, True])
    for call in (
        lambda: fib.lookup_many(masked),
        lambda: fib.match_many(masked),
        lambda: fib.insert_many((masked, lengths), ["a", "b"]),
        lambda: plain.insert_many((addresses, lengths), masked),
    ):
        with pytest.raises(ValueError, match="1 of 2 rows are null"):
            call()
    assert fib.lookup_many(np.ma.array(addresses.astype(np.uint32))).tolist() == [1, 2]


class Awkward(ValueError):
    """An error that takes more than a message."""

    def __init__(self, code, text) -> None:
        super().__init__(code, text)


def test_errors_of_rows_keep_their_cause() -> None:
    class Prefix:
        def __index__(self) -> int:
            raise Awkward(5, "no")

    with pytest.raises(ValueError, match="row 1: ") as caught:
        Fib().insert_many(["10.0.0.0/8", Prefix()], ["a", "b"])
    assert isinstance(caught.value.__cause__, Awkward)
