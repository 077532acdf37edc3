"""Domain names as tuples of labels, lower case, without the root label."""

from __future__ import annotations

import functools
import re
from typing import TypeAlias

Labels: TypeAlias = tuple[bytes, ...]

MAX_LABEL = 63
MAX_NAME = 255
# What is not printable or has a meaning in zone files.
_SPECIAL = re.compile(rb'[^!-~]|[."\\;()@$]')


def labels_of(text: object, what: str = "name") -> Labels:
    """Labels of a name in text form; one dot at the end is allowed, escapes are not."""
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__}: {text!r}")
    return _labels_of(text, what)


# Names come back: those of targets with every image of a service.
@functools.lru_cache(maxsize=4096)
def _labels_of(text: str, what: str) -> Labels:
    if not text.isascii() or not text.isprintable() or "\\" in text or " " in text:
        raise ValueError(f"{what} must be printable ASCII without spaces and backslashes, not {text!r}")
    labels = tuple(label.encode() for label in text.lower().removesuffix(".").split("."))
    if not legal(labels):
        raise ValueError(
            f"{what} must be 1 to {MAX_LABEL} characters between dots, {MAX_NAME} in all: {text!r}"
        )
    return labels


def legal(labels: Labels) -> bool:
    """Whether labels make a name that fits on the wire and is not the root."""
    return (
        bool(labels)
        and all(1 <= len(label) <= MAX_LABEL for label in labels)
        and sum(len(label) + 1 for label in labels) + 1 <= MAX_NAME
    )


@functools.lru_cache(maxsize=4096)
def text_of(labels: Labels) -> str:
    """Text form with the dot at the end; bytes that text cannot hold are escaped as in zone files."""
    plain = [_SPECIAL.sub(lambda found: b"\\%03d" % found[0][0], label) for label in labels]
    return b".".join((*plain, b"")).decode() or "."


@functools.lru_cache(maxsize=4096)
def wire_of(labels: Labels) -> bytes:
    """Wire form without compression."""
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def labels_of_wire(wire: bytes) -> Labels:
    """Labels of an uncompressed wire form that has been checked."""
    labels = []
    at = 0
    while wire[at]:
        labels.append(wire[at + 1 : at + 1 + wire[at]])
        at += 1 + wire[at]
    return tuple(labels)
