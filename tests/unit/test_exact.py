"""ExactTable: batches at every key size and instruction set, growth, seeds, ids, threads, misuse."""

from __future__ import annotations

import copy
import gc
import ipaddress
import os
import pickle
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from fastpath import CapacityError, ExactTable, ForwardingTable, build_info

SIZES = range(1, 65)


def rows_of(numbers: np.ndarray, size: int) -> np.ndarray:
    """Distinct keys of any size of at least 2 for numbers below 2**16."""
    rows = np.zeros((len(numbers), size), np.uint8)
    rows[:, 0] = numbers & 0xFF
    rows[:, -1] = (numbers >> 8) & 0xFF
    if size > 2:
        rows[:, 1:-1] = (numbers % 255)[:, None]
    return rows


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 200, 20000])
def test_batches(size: int, n: int) -> None:
    table = ExactTable(size, dtype="uint32")
    numbers = np.random.default_rng(size).permutation(65536)[:n]
    assert table.insert_many(rows_of(numbers, size), numbers.astype(np.uint32)) == n
    assert table.insert_many(rows_of(numbers, size), numbers) == 0
    assert len(table) == n
    probes = np.arange(0, 65536, 3)
    expected = np.where(np.isin(probes, numbers), probes, 2**32 - 1)
    out = np.zeros(len(probes), np.uint32)
    assert table.lookup_many(rows_of(probes, size), out=out, default=2**32 - 1) is out
    assert np.array_equal(out, expected)
    gone = numbers[::2]
    assert table.delete_many(rows_of(gone, size)) == len(gone)
    assert table.delete_many(rows_of(gone, size)) == 0
    expected[np.isin(probes, gone)] = 2**32 - 1
    assert np.array_equal(table.lookup_many(rows_of(probes, size), default=2**32 - 1), expected)
    keys, values = table.to_arrays()
    assert sorted(values.tolist()) == sorted(numbers[1::2].tolist())
    assert np.array_equal(table.lookup_many(keys), values)


@pytest.mark.parametrize("isa", build_info()["isa_supported"])
def test_every_instruction_set_answers_the_same(isa: str) -> None:
    program = """
import numpy as np, zlib, fastpath
assert fastpath.build_info()["isa_in_use"] == {isa!r}
crc = 0
for size in range(1, 65):
    table = fastpath.ExactTable(size, dtype="uint32", seed=1)
    keys = np.random.default_rng(size).integers(0, 256, (9000, size), dtype=np.uint8)
    table.insert_many(keys[:6000], np.arange(1, 6001))
    crc = zlib.crc32(table.lookup_many(keys).tobytes(), crc)
print(crc)
"""
    answers = [
        subprocess.run(
            [sys.executable, "-c", program.format(isa=name)],
            env={**os.environ, "FASTPATH_ISA": name},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in ("scalar", isa)
    ]
    assert answers[0] == answers[1]


def test_growth_keeps_everything() -> None:
    table = ExactTable(8, dtype="uint32")
    for start in range(0, 60000, 1000):
        numbers = np.arange(start, start + 1000)
        table.insert_many(numbers.astype("<u8").view(np.uint8).reshape(-1, 8), numbers)
        seen = np.arange(start + 2000).astype("<u8").view(np.uint8).reshape(-1, 8)
        expected = np.where(np.arange(start + 2000) < start + 1000, np.arange(start + 2000), 2**32 - 1)
        assert np.array_equal(table.lookup_many(seen, default=2**32 - 1), expected)
    assert table.nbytes < 60000 * 12 * 6


def test_a_table_at_ninety_percent() -> None:
    table = ExactTable(16, dtype="uint32", capacity=10000, seed=5)
    before = table.nbytes
    slots = before // 64 * 3
    keys = np.random.default_rng(1).integers(0, 256, (int(slots * 0.9), 16), dtype=np.uint8)
    table.insert_many(keys, np.arange(len(keys)))
    assert table.nbytes == before
    assert np.array_equal(table.lookup_many(keys), np.arange(len(keys)))


def test_seed() -> None:
    assert ExactTable(4).seed != ExactTable(4).seed
    assert ExactTable(4, seed=2**64 - 1).seed == 2**64 - 1
    one, two = ExactTable(4, seed=9), ExactTable(4, seed=9)
    for table in (one, two):
        table.insert_many([bytes([i, 0, 0, 0]) for i in range(200)], range(1, 201))
    assert one.items() == two.items()
    assert pickle.loads(pickle.dumps(one)).seed != 9


@pytest.mark.parametrize("size", [8, 16, 40])
def test_chosen_keys_make_no_chains(size: int) -> None:
    """Keys of one bucket under a seed that is known: too many for that seed, and any keys for another one."""
    keys = np.random.default_rng(size).integers(0, 256, (400_000, size), dtype=np.uint8)
    known = ExactTable(size, dtype="uint32", seed=7)
    known.insert_many(keys, np.arange(len(keys)))
    chosen = known.to_arrays()[0][:200]  # a table is listed by buckets
    with pytest.raises(CapacityError, match="too many keys with one hash"):
        ExactTable(size, dtype="uint32", seed=7).insert_many(chosen, np.arange(200))
    attacked, usual = ExactTable(size, dtype="uint32"), ExactTable(size, dtype="uint32")
    attacked.insert_many(chosen, np.arange(200))
    usual.insert_many(keys[:200], np.arange(200))
    assert attacked.nbytes <= 2 * usual.nbytes
    assert np.array_equal(attacked.lookup_many(chosen), np.arange(200))


@pytest.mark.parametrize("dtype", [None, "uint32"])
@pytest.mark.parametrize("size", [4, 16, 40])
def test_pickle_and_copy(size: int, dtype: str | None) -> None:
    table = ExactTable(size, dtype=dtype)
    table.insert_many([bytes([i]) * size for i in range(50)], [i % 7 for i in range(50)])
    for other in (pickle.loads(pickle.dumps(table)), copy.copy(table), copy.deepcopy(table), table.copy()):
        assert dict(other.items()) == dict(table.items())
        assert (other.key_size, other.dtype) == (size, dtype)
        del other[bytes(size)]
        assert len(table) == 50
    assert "50 keys" in repr(table)


def test_ids_follow_their_objects() -> None:
    table = ExactTable(1)
    table[b"a"], table[b"b"], table[b"c"] = "x", "x", "y"
    assert table.values is not None
    assert (len(table.values), table.values[0], table.values[1]) == (3, None, "x")
    assert "x" in table.values
    assert [] not in table.values
    assert table.lookup_many([b"a", b"b", b"c", b"d"]).tolist() == [1, 1, 2, 0]
    table[b"a"] = "y"
    del table[b"b"]
    assert "x" not in table.values
    assert table.values[1] is None
    table[b"d"] = "z"
    assert table.values[table.lookup_many([b"d", b"e"])] == ["z", None]
    for bad in (-1, 3, 2**70):
        with pytest.raises(IndexError):
            table.values[bad]
    with pytest.raises(TypeError):
        table.values["x"]
    table.clear()
    assert list(table.values) == [None]


def test_threads() -> None:
    table = ExactTable(16, dtype="uint32")
    numbers = np.arange(20000)
    keys = rows_of(numbers, 16)
    table.insert_many(keys[:1000], numbers[:1000])
    stop = threading.Event()
    failures: list[str] = []

    def read() -> None:
        while not stop.is_set():
            found = table.lookup_many(keys, default=2**32 - 1)
            if not np.array_equal(found[:1000], numbers[:1000]):
                failures.append("a key that stays was missed")
            moving = found[1000:]
            if not np.all((moving == numbers[1000:]) | (moving == 2**32 - 1)):
                failures.append("a value of another key")
            if table.lookup(keys[5].tobytes()) != 5:
                failures.append("scalar")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(15):
        table.insert_many(keys[1000:], numbers[1000:])
        table.delete_many(keys[1000:])
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((0,), {}, ValueError),
        ((65,), {}, ValueError),
        ((-1,), {}, ValueError),
        ((2**70,), {}, ValueError),
        (("16",), {}, TypeError),
        ((16.0,), {}, TypeError),
        ((), {}, TypeError),
        ((16,), {"dtype": "int64"}, ValueError),
        ((16,), {"capacity": -1}, ValueError),
        ((16,), {"capacity": 2**60}, ValueError),
        ((16,), {"capacity": 1.5}, TypeError),
        ((16,), {"seed": 2**64}, ValueError),
        ((16,), {"seed": b"x"}, TypeError),
    ],
)
def test_bad_construction(arguments: Any, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        ExactTable(*arguments, **options)


def test_a_table_is_made_once() -> None:
    table = ExactTable(4)
    table[b"abcd"] = 1
    with pytest.raises(TypeError):
        table.__init__(8)  # type: ignore[misc]
    assert table[b"abcd"] == 1


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (b"", ValueError),
        (b"abc", ValueError),
        (b"abcde", ValueError),
        ("abcd", TypeError),
        (1, TypeError),
        (None, TypeError),
    ],
)
def test_bad_keys(key: Any, error: type[Exception]) -> None:
    table = ExactTable(4)
    for call in (
        lambda: table.lookup(key),
        lambda: table.get(key),
        lambda: table[key],
        lambda: key in table,
        lambda: table.insert(key, 1),
        lambda: table.delete(key),
        lambda: table.insert_many([key], [1]),
        lambda: table.lookup_many([b"good", key]),
    ):
        with pytest.raises(error):
            call()
    assert len(table) == 0
    assert table.lookup(bytearray(b"good")) is None
    assert table.lookup(memoryview(b"good")) is None


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (np.zeros((2, 4), np.int8), TypeError),
        (np.zeros((2, 4), np.uint32), TypeError),
        (np.zeros((2, 5), np.uint8), ValueError),
        (np.zeros(4, np.uint8), ValueError),
        (np.zeros((1, 2, 4), np.uint8), ValueError),
        (b"abcd", TypeError),
        ("abcd", TypeError),
        (7, TypeError),
        (None, TypeError),
    ],
)
def test_bad_batches(keys: Any, error: type[Exception]) -> None:
    table = ExactTable(4)
    for call in (
        lambda: table.lookup_many(keys),
        lambda: table.insert_many(keys, [1, 2]),
        lambda: table.delete_many(keys),
    ):
        with pytest.raises(error):
            call()


@pytest.mark.parametrize(
    ("dtype", "values", "error"),
    [
        (None, ["x"], ValueError),
        (None, ["x", None], ValueError),
        (None, ["x", []], TypeError),
        (None, "xy", TypeError),
        (None, 5, TypeError),
        ("uint32", [1], ValueError),
        ("uint32", [1, -1], ValueError),
        ("uint32", [1, 2**32], ValueError),
        ("uint32", [1, "2"], TypeError),
        ("uint32", np.array([1.0, 2.0]), TypeError),
        ("uint32", np.array([1, -1]), ValueError),
        ("uint32", np.zeros((2, 1), np.uint32), ValueError),
        ("uint32", b"xy", TypeError),
        ("uint32", 5, TypeError),
    ],
)
def test_bad_values(dtype: Any, values: Any, error: type[Exception]) -> None:
    table = ExactTable(4, dtype=dtype)
    with pytest.raises(error):
        table.insert_many([b"abcd", b"efgh"], values)
    assert len(table) == 0
    if dtype is None:
        assert table.values is not None
        assert len([v for v in table.values if v is not None]) == 0


def test_bytes_need_not_be_aligned_or_contiguous() -> None:
    table = ExactTable(8, dtype="uint32")
    block = np.random.default_rng(2).integers(0, 256, 8 * 1000 + 3, dtype=np.uint8)
    rows = block[3:].reshape(1000, 8)
    table.insert_many(rows, np.arange(1000))
    assert np.array_equal(table.lookup_many(rows), np.arange(1000))
    assert np.array_equal(table.lookup_many(np.asfortranarray(rows)), np.arange(1000))
    assert np.array_equal(table.lookup_many(rows[::-1]), np.arange(1000)[::-1])


def live(table: ExactTable) -> set[Any]:
    assert table.values is not None
    return {value for value in table.values if value is not None}


def colliding_keys(n: int, seed: int) -> list[bytes]:
    """Keys of 4 bytes whose hash has the same upper bits, so that one bucket is everybody's home."""
    from fastpath.reference.hashing import xxh3_64

    found = []
    number = 0
    while len(found) < n:
        key = number.to_bytes(4, "little")
        if xxh3_64(key, seed) >> 52 == 7:
            found.append(key)
        number += 1
    return found


def test_a_batch_that_does_not_fit_leaves_no_ids_behind() -> None:
    # As many as five buckets hold, in a table that may not double for so few keys.
    keys = colliding_keys(80, seed=3)
    table = ExactTable(4, seed=3)
    table.insert(keys[0], "old")
    with pytest.raises(CapacityError):
        table.insert_many(keys, [f"value {i}" for i in range(len(keys))])
    assert live(table) == {value for _, value in table.items()}
    assert 0 < len(table) < 80
    assert table.lookup(keys[0]) == "value 0"
    table.clear()
    assert live(table) == set()
    assert len(table) == 0


class Shrinking:
    """A value whose hash shortens the list it stands in."""

    def __init__(self, owner: list[Any]) -> None:
        self.owner = owner

    def __hash__(self) -> int:
        self.owner.clear()
        return 1


def test_values_that_change_their_list_while_they_are_hashed() -> None:
    table = ExactTable(4)
    values: list[Any] = []
    values.extend([Shrinking(values), *range(1, 100)])
    assert table.insert_many([i.to_bytes(4, "big") for i in range(100)], values) == 100
    assert table.lookup((99).to_bytes(4, "big")) == 99
    assert values == []


@pytest.mark.parametrize("size", [8, 40])
def test_contents_hold_their_objects_while_others_write(size: int) -> None:
    # Each value names its key; ids are given back and used again all the time.
    table = ExactTable(size)
    keys = [i.to_bytes(size, "big") for i in range(700)]
    stop = threading.Event()
    failures: list[Any] = []

    def write(turn: int) -> None:
        while not stop.is_set():
            turn += 2
            table.insert_many(keys, [(i, turn) for i in range(700)])
            table.delete_many(keys[::2])
            if turn % 8 == 0:
                table.clear()

    writers = [threading.Thread(target=write, args=(turn,)) for turn in range(2)]
    for writer in writers:
        writer.start()
    for _ in range(60):
        for other in (table, pickle.loads(pickle.dumps(table)), table.copy()):
            failures += [item for item in other.items() if item[1][0] != int.from_bytes(item[0], "big")]
    stop.set()
    for writer in writers:
        writer.join()
    assert not failures
    assert live(table) == {value for _, value in table.items()}
    table.clear()
    assert live(table) == set()


@pytest.mark.parametrize(
    "kind", ["ExactTable(8)", "ForwardingTable('ipv4')", "FlowTable(8, capacity=10_000)"]
)
def test_contents_while_others_list_them_and_values_come_back(kind: str) -> None:
    """In a process of its own: a wrong id ends it, or leaves it without an end."""
    program = f"""if True:
        import threading
        from fastpath import ExactTable, FlowTable, ForwardingTable
        table = {kind}
        keys = [i.to_bytes(8, "big") for i in range(1000)]
        columns = (None, list(range(1000))) if isinstance(table, ForwardingTable) else (keys,)
        stop = threading.Event()
        done = []

        def write():
            for turn in range(200):
                table.insert_many(*columns, [(i, turn % 3) for i in range(1000)])
            stop.set()

        def read():
            while not stop.is_set():
                numbers = [number for _, (number, _) in table.items()]
                assert not numbers or sorted(numbers) == list(range(1000)), numbers
            done.append(True)

        table.insert_many(*columns, [(i, 0) for i in range(1000)])
        threads = [threading.Thread(target=target) for target in (write, read, read, read, read)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 4
    """
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.parametrize("size", [16, 24, 64])
def test_clear_in_the_middle_of_growth(size: int) -> None:
    rng = np.random.default_rng(size)
    table = ExactTable(size, dtype="uint32")
    for round_ in range(30):
        n = 0
        before = table.nbytes
        while table.nbytes <= before or n < 20 * round_:
            table.insert(n.to_bytes(size, "little"), n)
            n += 1
        for i in rng.integers(0, n, 30).tolist():
            table.insert(i.to_bytes(size, "little"), n + i)
            table.delete(i.to_bytes(size, "little"))
        keys, values = table.to_arrays()
        assert len(table) == len(values) == len({bytes(key) for key in keys})
        table.clear()
        assert (len(table), table.items()) == (0, [])
    assert table.nbytes < 200_000


class Session:
    """A value whose end, hash or comparison comes back to the table."""

    def __init__(self, table: ExactTable, number: int) -> None:
        self.table, self.number, self.hashed = table, number, 0

    def __hash__(self) -> int:
        self.hashed += 1
        return 7

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Session) and self.number == other.number


def test_values_whose_end_clears_the_table() -> None:
    class Ending(Session):
        def __del__(self) -> None:
            self.table.clear()

    table = ExactTable(4)
    for number in range(40):
        table.insert(number.to_bytes(4, "big"), Ending(table, number))
    table.delete((39).to_bytes(4, "big"))
    gc.collect()
    assert (len(table), len(table.values)) == (0, 1)
    table.insert(b"aaaa", "x")
    table.insert(b"bbbb", "y")
    assert sorted(table.items()) == [(b"aaaa", "x"), (b"bbbb", "y")]


def test_values_whose_hash_or_comparison_changes_the_table() -> None:
    class Hashed(Session):
        def __hash__(self) -> int:
            if self.number == 1:
                self.table.clear()
            return 7

    class Compared(Session):
        def __eq__(self, other: object) -> bool:
            if self.hashed == 0:
                self.hashed = 1
                self.table.insert(b"cccc", "late")
            return super().__eq__(other)

        __hash__ = Session.__hash__

    class Restless(Session):
        def __eq__(self, other: object) -> bool:
            self.number += 1
            self.table.insert(b"dddd", f"x{self.number}")
            return False

        __hash__ = Session.__hash__

    table = ExactTable(4)
    table.insert(b"aaaa", Hashed(table, 0))
    table.insert(b"bbbb", Hashed(table, 1))  # clears, then enters
    assert [key for key, _ in table.items()] == [b"bbbb"]
    assert table.lookup(b"bbbb").number == 1

    table = ExactTable(4)
    first = Compared(table, 0)
    table.insert(b"aaaa", first)
    first.hashed = 0
    table.insert(b"bbbb", Compared(table, 0))
    assert table.lookup(b"bbbb") is first
    assert (len(table), table.lookup(b"cccc")) == (3, "late")

    table = ExactTable(4)
    table.insert(b"aaaa", Restless(table, 0))
    with pytest.raises(RuntimeError, match="changes the table each time"):
        table.insert(b"bbbb", Restless(table, 0))
    assert b"bbbb" not in table


def test_errors_of_a_values_comparison_are_its_own() -> None:
    class Bad(Session):
        def __eq__(self, other: object) -> bool:
            raise TypeError("no such comparison")

        __hash__ = Session.__hash__

    table = ExactTable(4)
    table.insert(b"aaaa", Bad(table, 0))
    with pytest.raises(TypeError, match="no such comparison"):
        table.insert(b"bbbb", Bad(table, 1))
    table.delete(b"aaaa")  # no comparison is needed
    assert (len(table), b"bbbb" in table) == (0, False)
    with pytest.raises(TypeError, match="hashable, got list"):
        table.insert(b"bbbb", [])


@pytest.mark.parametrize("kind", ["exact", "forwarding"])
def test_writers_with_values_that_run_python_code(kind: str) -> None:
    """Two writers own a key each; equal addresses come and go under both."""
    table: Any = ExactTable(4) if kind == "exact" else ForwardingTable("ipv4")
    wrong: list[object] = []

    def write(own: int) -> None:
        key: Any = (own.to_bytes(4, "big"),) if kind == "exact" else (own + 1, own + 9)
        for n in range(4000):
            value = ipaddress.IPv4Address(n % 3)
            table.insert(*key, value)
            if table.lookup(*key) != value:
                wrong.append((own, n))
            table.delete(*key)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=write, args=(own,)) for own in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert (wrong, len(table), not any(thread.is_alive() for thread in threads)) == ([], 0, True)
    assert list(table.values)[1:] == [None] * (len(table.values) - 1)


def test_a_loaded_table_has_stopped_growing() -> None:
    """Two arrays hold 68 bytes a key and more; one holds 47 at the least load, a few more after bad luck."""
    rows = np.arange(54_000, dtype=np.uint64).repeat(2).view(np.uint8).reshape(-1, 16)
    for n in range(20_000, 54_000, 1000):
        table = ExactTable(16, dtype="uint32", capacity=10_000)
        table.insert_many(rows[:n], np.arange(n, dtype=np.uint32))
        assert table.nbytes / n < 60
        assert len(table) == n


@pytest.mark.parametrize("size", [4, 16, 40])
def test_a_batch_ends_the_growth_that_it_began(size: int) -> None:
    """Wherever it begins: then there is one array, as in a table that was made with twice the room."""
    for n in (60_000, 90_000, 90_500, 90_700, 91_000, 91_500, 92_000, 94_000):
        rows = np.zeros((n, size), np.uint8)
        rows[:, :4] = np.arange(n, dtype=np.uint32).view(np.uint8).reshape(n, 4)
        values = np.arange(n, dtype=np.uint32)
        table = ExactTable(size, dtype="uint32", capacity=66_666)  # three slots for two
        twice = ExactTable(size, dtype="uint32", capacity=133_332)
        for each in (table, twice):
            each.insert_many(rows, values)
        assert table.nbytes <= twice.nbytes * 1.05
        assert table.lookup_many(rows).tolist() == values.tolist()


def test_memory_is_ready_before_single_inserts_need_it() -> None:
    """Both arrays are held before the first key moves; a batch has no use for that."""
    rows = np.arange(60_000, dtype=np.uint64).repeat(2).view(np.uint8).reshape(-1, 16)
    alone, batch = (ExactTable(16, dtype="uint32", seed=1) for _ in range(2))
    batch.insert_many(rows[:44_000], np.arange(44_000, dtype=np.uint32))
    for number, row in enumerate(rows[:44_000]):
        alone.insert(row.tobytes(), number)
    assert batch.nbytes == 1 << 20
    assert alone.nbytes == 3 << 20
    alone.insert_many(rows, np.arange(60_000, dtype=np.uint32))
    assert alone.nbytes == 2 << 20
    assert alone.lookup_many(rows).tolist() == list(range(60_000))
    # Of keys in records, the records too; and a batch is one, however it is cut.
    wide = np.zeros((31_000, 40), np.uint8)
    wide[:, :16] = rows[:31_000]
    alone, batch = (ExactTable(40, dtype="uint32", seed=1) for _ in range(2))
    batch.insert_many(wide, np.arange(31_000, dtype=np.uint32))
    for number, row in enumerate(wide):
        alone.insert(row.tobytes(), number)
    assert alone.nbytes == batch.nbytes + (2 << 20)
    assert len(batch.copy()) == len(alone) == 31_000
    assert batch.copy().nbytes < batch.nbytes + (1 << 20)
    pairs = ForwardingTable(dtype="uint32")
    numbers = np.arange(1, 44_034, dtype=np.uint64)
    pairs.insert_many(numbers, numbers, np.ones(len(numbers), np.uint32))
    assert pairs.nbytes < 3 << 20


def run(code: str) -> str:
    """What a program of its own prints: it would take this one with it if it crashed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["ExactTable", "ForwardingTable", "Fdb"])
def test_a_table_whose_init_never_ran_is_empty(name: str) -> None:
    calls = ["len(t)", "repr(t)", "t.items()", "t.nbytes", "t.clear()", "t.__copy__()", "t.lookup(b'')"]
    code = f"from fastpath import {name} as base\nclass Sub(base):\n  def __init__(self): pass\n"
    code += f"for make in (Sub, lambda: base.__new__(base)):\n  for call in {calls}:\n    t = make()\n"
    code += "    try: eval(call)\n    except (AttributeError, TypeError, ValueError): pass\n"
    code += "    assert len(t) == 0\n"
    code += "print('ok')"
    assert run(code) == "ok"


class Named(ExactTable):
    def __init__(self, name: str) -> None:
        super().__init__(4)
        self.name = name


def test_a_subclass_keeps_its_attributes() -> None:
    table = Named("mine")
    table[b"aaaa"] = 1
    for other in (copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert isinstance(other, Named)
        assert other.name == "mine"
        assert other.items() == table.items()
    with pytest.raises(TypeError, match="once"):
        ExactTable.__init__(table, 4)


class Thing:
    pass


def test_a_deep_copy_has_values_of_its_own() -> None:
    thing, table = Thing(), ExactTable(4)
    table[b"aaaa"] = thing
    table[b"self"] = table
    other_thing, other = copy.deepcopy((thing, table))
    assert other_thing is not thing
    assert other[b"aaaa"] is other_thing
    assert other[b"self"] is other
    assert copy.copy(table)[b"aaaa"] is thing


@pytest.mark.parametrize("size", [4, 16, 40])
def test_a_result_may_overlap_the_keys(size: int) -> None:
    n = 3000
    keys = np.random.default_rng(size).integers(0, 256, (n, size), dtype=np.uint8)
    table = ExactTable(size, dtype="uint32")
    table.insert_many(keys, np.arange(1, n + 1, dtype=np.uint32))
    wanted = table.lookup_many(keys)
    for start in (0, (size - 4) * n // 8 * 4, (size - 4) * n):
        probes = keys.copy()
        out = probes.reshape(-1)[start : start + 4 * n].view(np.uint32)
        np.testing.assert_array_equal(table.lookup_many(probes, out=out), wanted)


def test_arrays_that_are_not_aligned() -> None:
    table = ExactTable(16, dtype="uint32")
    keys = np.random.default_rng(0).integers(0, 256, (3000, 16), dtype=np.uint8)
    values = np.zeros(4 * 3000 + 1, np.uint8)[1:].view(np.uint32)
    values[:] = np.arange(3000)
    table.insert_many(keys, values)
    np.testing.assert_array_equal(table.lookup_many(keys), values)
    with pytest.raises(ValueError, match="aligned"):
        table.lookup_many(keys, out=values)


def test_a_dtype_that_numpy_cannot_parse() -> None:
    with pytest.raises(ValueError, match="dtype"):
        ExactTable(4, dtype="i4,,")  # type: ignore[arg-type]


def test_delete_many_with_objects_gives_every_id_back() -> None:
    table = ExactTable(4)
    numbers = np.arange(20000, dtype=np.uint32)
    keys = numbers.view(np.uint8).reshape(-1, 4)
    table.insert_many(keys, numbers.tolist())
    assert table.delete_many(np.concatenate([keys[:15000], keys[:10]])) == 15000
    assert len(table) == 5000
    assert 3 not in table.values
    assert 15000 in table.values


def test_writers_beside_long_writes_do_not_stop_readers() -> None:
    table = ExactTable(16)
    keys = np.random.default_rng(1).integers(0, 256, (60000, 16), dtype=np.uint8)
    table.insert(b"k" * 16, "stays")
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            if table.lookup(b"k" * 16) != "stays":
                wrong.append("miss")

    def write(name: str) -> None:
        for i in range(300):
            table.insert(name.encode().ljust(16, b"."), i)
            table.delete(name.encode().ljust(16, b"."))
            table.insert_many(keys[i : i + 3], [name] * 3)

    def write_much() -> None:
        for _ in range(2):
            table.insert_many(keys, range(len(keys)))
            table.delete_many(keys)

    threads = [threading.Thread(target=read), *(threading.Thread(target=write, args=(n,)) for n in "ab")]
    much = threading.Thread(target=write_much)
    for thread in [*threads, much]:
        thread.start()
    for thread in [*threads[1:], much]:
        thread.join()
    stop.set()
    threads[0].join()
    assert not wrong
    table.delete_many(keys)
    assert dict(table.items()) == {b"k" * 16: "stays"}
    assert [value for value in table.values if value is not None] == ["stays"]
