"""How long the stress tests take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

# All of them together; see tox.ini for the long form.
SECONDS = float(os.environ.get("FAIRPOOL_STRESS_SECONDS") or 20)
TIMEOUT = 60  # seconds for what takes milliseconds


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Iterator[int]:
    """Numbers, for this test's part of the time; at least three."""
    share = SECONDS * 0.6 / sum("rounds" in item.fixturenames for item in request.session.items)

    def count() -> Iterator[int]:
        end = time.monotonic() + share
        number = 0
        while number < 3 or time.monotonic() < end:
            yield number
            number += 1

    return count()
