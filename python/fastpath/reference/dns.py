"""Twin of the engine's DNS messages: reads a query and writes the answer, one obvious step after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FORMERR, SERVFAIL, NOTIMP, REFUSED, BADVERS = 1, 2, 4, 5, 16


class _Refused(Exception):
    def __init__(self, rcode: int) -> None:
        self.rcode = rcode


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise _Refused(FORMERR)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        return int.from_bytes(self.take(2))

    def skip_name(self) -> bytes:
        """The name as it stands there; a pointer ends it."""
        start, length = self.at, 1
        while True:
            label = self.take(1)[0]
            if label >= 0xC0:
                self.take(1)
                break
            length += label + 1 if label else 0
            if label > 63 or length > 255:
                raise _Refused(FORMERR)
            if label == 0:
                break
            self.take(label)
        return self.data[start : self.at]


def respond(
    message: bytes, max_size: int, make: Callable[[bytes, int], Any], *, edns_size: int = 1232
) -> bytes:
    """What the engine answers when images are in fixed order; `make` gives the image of (name, type)."""
    if len(message) < 12 or message[2] & 0x80:
        return b""
    question = b""
    payload = None
    try:
        opcode = message[2] >> 3 & 15
        if opcode:
            raise _Refused(NOTIMP)
        counts = [int.from_bytes(message[at : at + 2]) for at in (4, 6, 8, 10)]
        if counts[0] != 1:
            raise _Refused(FORMERR)
        reader = _Reader(message, 12)
        name = reader.skip_name()
        if name[-1] != 0 or any(length > 63 for length in _lengths(name)):
            raise _Refused(FORMERR)
        rdtype, rdclass = reader.number(), reader.number()
        question = message[12 : reader.at]
        version = 0
        for n in range(sum(counts[1:])):
            owner = reader.skip_name()
            kind, size = reader.number(), reader.number()
            ttl = reader.take(4)
            options = _Reader(reader.take(reader.number()), 0)
            if kind == 41:
                if n < counts[1] + counts[2] or owner[:1] != b"\0" or payload is not None:
                    raise _Refused(FORMERR)
                while options.at < len(options.data):
                    options.number()
                    options.take(options.number())
                payload, version = size, ttl[1]
        if reader.at != len(message):
            raise _Refused(FORMERR)
        if version:
            raise _Refused(BADVERS)
        if rdclass != 1:
            raise _Refused(REFUSED)
        if rdtype == 41:
            raise _Refused(FORMERR)
        if 249 <= rdtype <= 254:
            raise _Refused(NOTIMP)
        image = make(name.lower(), rdtype)
        _, rcode, authoritative, _, limit, answers, additional, authority, _ = image
    except _Refused as refused:
        return _message(message, question, payload, edns_size, refused.rcode)

    room = max(max_size, min(payload or 0, edns_size)) - 12 - len(question) - (0 if payload is None else 11)
    answers = sorted(answers, key=lambda answer: answer[2])
    wanted = answers[: limit or None]
    placed: list[bytes] = []
    for answer in wanted:
        if len(answer[0]) > room:
            break
        room -= len(answer[0])
        placed.append(answer[0])
    truncated = len(placed) < len(wanted)
    extra: list[bytes] = []
    if not truncated:
        for index in dict.fromkeys(answer[3] for answer in wanted if answer[3] >= 0):
            if len(additional[index]) > room:
                break
            room -= len(additional[index])
            extra.append(additional[index])
    flags = (4 if authoritative else 0) | (2 if truncated else 0)
    return _message(
        message,
        question,
        payload,
        edns_size,
        rcode,
        flags=flags,
        answers=tuple(placed),
        authority=authority,
        additional=tuple(extra),
    )


def _lengths(name: bytes) -> list[int]:
    lengths, at = [], 0
    while at < len(name):
        lengths.append(name[at])
        at += name[at] + 1
    return lengths


def _message(
    query: bytes,
    question: bytes,
    payload: int | None,
    edns_size: int,
    rcode: int,
    *,
    flags: int = 0,
    answers: tuple[bytes, ...] = (),
    authority: tuple[bytes, ...] = (),
    additional: tuple[bytes, ...] = (),
) -> bytes:
    if payload is not None:
        opt = b"\0" + (41).to_bytes(2) + edns_size.to_bytes(2) + bytes([rcode >> 4, 0, 0, 0]) + bytes(2)
        additional = (*additional, opt)
    counts = (1 if question else 0, len(answers), len(authority), len(additional))
    header = query[:2] + bytes([0x80 | query[2] & 0x79 | flags, rcode & 15])
    header += b"".join(count.to_bytes(2) for count in counts)
    return header + question + b"".join((*answers, *authority, *additional))
