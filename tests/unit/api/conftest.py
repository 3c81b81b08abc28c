"""Fixtures of the tests of `_api`: one worker, for a known order of steps, and several."""

from __future__ import annotations

import pytest
from kit import WORKERS


@pytest.fixture(params=[1, WORKERS])
def workers(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number
