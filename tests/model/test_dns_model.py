"""The engine's DNS messages against their twin, byte for byte."""

from __future__ import annotations

from typing import Any

import dns.message
from hypothesis import given
from hypothesis import strategies as st

from fastpath._engine import DnsResponder
from fastpath.reference import dns as twin

pieces = st.binary(min_size=1, max_size=60)
names = st.lists(st.binary(min_size=1, max_size=63), max_size=3).map(
    lambda labels: b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
)


@st.composite
def images(draw: st.DrawFn) -> tuple[Any, ...]:
    additional = tuple(draw(st.lists(pieces, max_size=4)))
    answers = draw(
        st.lists(
            st.tuples(
                pieces,
                st.integers(1, 2**32 - 1),
                st.integers(0, 3),
                st.integers(-1, len(additional) - 1),
            ),
            max_size=30,
        )
    )
    authority = () if answers else tuple(draw(st.lists(pieces, max_size=1)))
    return (
        draw(st.integers(0, 5)),
        draw(st.sampled_from([0, 2, 3, 5])),
        draw(st.booleans()),
        0,
        draw(st.integers(0, 20)),
        tuple(answers),
        additional,
        authority,
        "",
    )


records = st.builds(
    lambda owner, kind, size, ttl, data: owner + kind + size + ttl + len(data).to_bytes(2) + data,
    st.one_of(st.just(b"\0"), names, st.just(b"\xc0\x0c")),
    st.one_of(st.just(b"\0\x29"), st.binary(min_size=2, max_size=2)),
    st.binary(min_size=2, max_size=2),
    st.one_of(st.just(bytes(4)), st.binary(min_size=4, max_size=4)),
    st.one_of(st.just(b""), st.just(b"\0\1\0\2ab"), st.binary(max_size=12)),
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    sections = [draw(st.lists(records, max_size=size)) for size in (1, 1, 2)]
    counts = [draw(st.sampled_from([1, 1, 1, 1, 0, 2])), *map(len, sections)]
    flags = draw(st.sampled_from([b"\0\0", b"\1\0", b"\1\x20", b"\x10\0", b"\x80\0"]))
    message = (
        draw(st.binary(min_size=2, max_size=2)) + flags + b"".join(count.to_bytes(2) for count in counts)
    )
    message += draw(names) + draw(
        st.sampled_from([b"\0\1", b"\0\x21", b"\0\x29", b"\0\xfc", b"\0\xff", b"\0\xf8"])
    )
    message += draw(st.sampled_from([b"\0\1", b"\0\1", b"\0\1", b"\0\3"])) + b"".join(map(b"".join, sections))
    end = draw(st.one_of(st.none(), st.integers(0, len(message))))
    return message[:end] + draw(st.sampled_from([b"", b"", b"", b"\0"]))


@given(
    message=st.one_of(messages(), st.binary(max_size=64)),
    image=images(),
    max_size=st.sampled_from([512, 513, 700, 1232, 65535]),
    edns_size=st.sampled_from([512, 1232, 4096]),
)
def test_engine_and_twin_write_the_same_bytes(
    message: bytes, image: tuple[Any, ...], max_size: int, edns_size: int
) -> None:
    asked: list[tuple[bytes, int]] = []

    def make(name: bytes, rdtype: int) -> tuple[Any, ...]:
        asked.append((name, rdtype))
        return image

    expected = twin.respond(message, max_size, make, edns_size=edns_size)
    wanted = list(asked)
    engine = DnsResponder(make, edns_size)
    assert engine.respond(message, max_size) == expected
    assert asked == wanted * 2
    # From the ready image, where the revision allows keeping it.
    assert engine.respond(message, max_size) == expected
    assert asked == wanted * (2 if image[0] == 0 else 3)


def test_twin_is_understood_by_dnspython() -> None:
    piece = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x0a\0\0\1"
    image = (0, 0, True, 0, 0, ((piece, 1, 0, -1),), (), (), "")
    query = dns.message.make_query("web.service.consul", "A", use_edns=0)
    answer = dns.message.from_wire(twin.respond(query.to_wire(), 512, lambda *_: image))
    assert answer.answer[0].to_text() == "web.service.consul. 0 IN A 10.0.0.1"


def test_images_that_are_not_are_servfail() -> None:
    query = dns.message.make_query("web.service.consul", "A").to_wire()
    good = (0, 0, True, 0, 0, ((b"x", 1, 0, -1),), (), (), "")
    seen: list[Any] = []
    for bad in (
        None,
        (),
        good[:5],
        (*good[:5], ((b"x", 0, 0, -1),), (), (), ""),
        (*good[:5], ((b"x", 1, 0, 0),), (), (), ""),
        (*good[:5], ((b"x", -1, 0, -1),), (), (), ""),
        (*good[:5], ((b"x", 1, 70000, -1),), (), (), ""),
        (*good[:5], (("x", 1, 0, -1),), (), (), ""),
        (-1, *good[1:]),
        (*good[:3], 3, *good[4:]),
        (0, 16, *good[2:]),
        ("x", *good[1:]),
    ):
        engine = DnsResponder(lambda *_, bad=bad: bad, 1232)
        with _quiet(seen):
            assert engine.respond(query, 512)[3] & 15 == 2, bad
    assert len(seen) == 12


class _quiet:
    """Collects what would go to `sys.unraisablehook`."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    def __enter__(self) -> None:
        import sys

        self.before = sys.unraisablehook
        sys.unraisablehook = lambda unraisable: self.seen.append(unraisable.exc_type)

    def __exit__(self, *_: object) -> None:
        import sys

        sys.unraisablehook = self.before
