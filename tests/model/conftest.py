"""Assertions in the shared module tell their values, as those in tests do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("twins")
