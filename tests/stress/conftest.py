"""How long the stress tests take, and what holds at the end of each."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from kit import TIMEOUT

# All of them together; see tox.ini for the long form.
SECONDS = float(os.environ.get("FAIRPOOL_STRESS_SECONDS") or 20)


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


def run_all(*bodies: Callable[[], object]) -> None:
    """Run each in a thread of its own, all beginning together; raise what one raised."""
    begin = threading.Barrier(len(bodies))
    errors: list[BaseException] = []

    def run(body: Callable[[], object]) -> None:
        try:
            begin.wait(TIMEOUT)
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[body], daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "hangs"
    if errors:
        raise errors[0]
