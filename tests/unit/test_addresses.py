"""Text <-> arrays of addresses, held against `ipaddress`."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.addresses import format_ipv4, format_ipv6, parse_ipv4, parse_ipv6

ODD = [
    *[
        "",
        ".",
        "1.2.3",
        "1.2.3.4.5",
        "01.2.3.4",
        "1.2.3.256",
        "1.2.3.-4",
        "1.2.3.4 ",
        " 1.2.3.4",
        "1.2.3.4/32",
    ],
    *[
        "1.2.3.999999999999",
        "1..2.3",
        "1.2.3.",
        "\u0661.2.3.4",
        "1.2.3.4\0",
        "0x1.2.3.4",
        "00.0.0.0",
        "0.0.0.0",
    ],
    *[
        "::",
        ":",
        ":::",
        "::1",
        "1::",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7::",
        "::2:3:4:5:6:7:8",
        "1::8:",
        ":1::8",
    ],
    *[
        "1:2:3:4:5:6:7:8:9",
        "1:2:3:4::5:6:7:8",
        "1::2::3",
        "12345::",
        "g::",
        "::1.2.3.4",
        "::1.2.3",
        "1.2.3.4::",
    ],
    *[
        "1:2:3:4:5:6:1.2.3.4",
        "1:2:3:4:5:6:7:1.2.3.4",
        "::ffff:1.2.3.04",
        "fe80::1%eth0",
        "FE80::ABCD",
        "1:::2",
    ],
    *[
        "::0001",
        "::00001",
        "[::1]",
        "::1/128",
        "1:2:3:4:5:6::1.2.3.4",
        "::1.2.3.4:5",
        "1:2:3:4:5:6:7",
        "::1 ",
    ],
]


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize(
    ("kind", "parse"), [(ipaddress.IPv4Address, parse_ipv4), (ipaddress.IPv6Address, parse_ipv6)]
)
def test_as_strict_as_ipaddress(text, kind, parse) -> None:
    try:
        expected = kind(text)
    except ValueError:
        expected = None
    if expected is None or "%" in text:
        with pytest.raises(ValueError, match="row 0"):
            parse([text])
    else:
        assert parse([text]).tobytes() == (
            np.uint32(int(expected)).tobytes() if expected.version == 4 else expected.packed
        )


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_ipv4_round_trip(numbers) -> None:
    array = np.array(numbers, dtype=np.uint32)
    text = format_ipv4(array)
    assert text == [str(ipaddress.IPv4Address(number)) for number in numbers]
    assert (parse_ipv4(text) == array).all()
    assert (parse_ipv4("\n".join(text).encode()) == array).all()


@given(st.lists(st.lists(st.sampled_from([0, 0, 0, 1, 0xABCD, 0xFFFF]), min_size=8, max_size=8)))
def test_ipv6_round_trip(rows) -> None:
    array = np.array(rows, dtype=">u2").reshape(-1, 8).view(np.uint8)
    text = format_ipv6(array)
    for line, row in zip(text, array, strict=True):
        address = ipaddress.IPv6Address(row.tobytes())
        assert ipaddress.IPv6Address(line) == address
        if address.ipv4_mapped is None:  # newer Pythons write these with a dotted quad
            assert line == str(address)
    assert (parse_ipv6(text) == array).all()
    assert (parse_ipv6("\n".join(text).encode()) == array).all()


@given(st.text(alphabet="0123456789abcdefABCDEF:./% \n", max_size=45))
def test_random_text_agrees_with_ipaddress(text) -> None:
    for kind, parse in ((ipaddress.IPv4Address, parse_ipv4), (ipaddress.IPv6Address, parse_ipv6)):
        try:
            expected = None if "%" in text else kind(text)
        except ValueError:
            expected = None
        try:
            found = parse([text])
        except ValueError:
            found = None
        assert (found is None) == (expected is None)


def test_lines() -> None:
    assert parse_ipv4(b" 1.2.3.4 \r\n\n\t5.6.7.8").tolist() == [0x01020304, 0x05060708]
    assert parse_ipv4(b"").shape == (0,)
    assert parse_ipv6(b"\n\n").shape == (0, 16)
    assert parse_ipv6([]).shape == (0, 16)
    with pytest.raises(ValueError, match=r"line 3.*'::x'"):
        parse_ipv6(b"::1\n\n::x\n")
    with pytest.raises(ValueError, match="line 1"):
        parse_ipv4(b"\xff\xfe")


def test_wrong_kinds() -> None:
    with pytest.raises(TypeError, match="one str"):
        parse_ipv4("1.2.3.4")
    with pytest.raises(TypeError, match=r"row 1.*int"):
        parse_ipv4(["1.2.3.4", 5])
    with pytest.raises(TypeError):
        parse_ipv6(None)
    for wrong in (None, [1], np.zeros(3), np.zeros((2, 2), np.uint32)):
        with pytest.raises(TypeError, match=r"uint32\[n\]"):
            format_ipv4(wrong)
    with pytest.raises(TypeError, match=r"uint8\[n,16\]"):
        format_ipv6(np.zeros(16, np.uint8))
    with pytest.raises(ValueError, match=r"uint8\[n,16\]"):
        format_ipv6(np.zeros((2, 4), np.uint8))
    assert format_ipv4(np.arange(6, dtype=np.uint32)[::2]) == ["0.0.0.0", "0.0.0.2", "0.0.0.4"]
