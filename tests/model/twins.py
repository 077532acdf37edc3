"""A compiled noun held to its twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def both(compiled: Callable[[], Any], twin: Callable[[], Any]) -> Any:
    """What both give, errors included."""
    try:
        expected = twin()
    except (TypeError, ValueError, KeyError) as error:
        with pytest.raises(type(error)):
            compiled()
        return None
    assert compiled() == expected
    return expected
