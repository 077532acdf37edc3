"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes is no matter of right or wrong: sanitizers and loaded machines are slow.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
