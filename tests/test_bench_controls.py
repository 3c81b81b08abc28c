"""The controls of `tests/bench`: every kind of lock does every load right, simulated and for real.

A load checks itself when its last request has been answered: nothing was lost, nothing was done
twice, no two sections ran at once, and results were sorted where they are to be.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent / "bench"))
import controls
import kinds
import lock_loads

from fairpool import FairPool
from fairpool._locks.combiner import PASS_SECTIONS
from fairpool.testing import simulate, work

# A simulation has the whole process to itself.
pytestmark = pytest.mark.thread_unsafe

LIGHT = 2e-6
SHORT = 2e-4


@pytest.mark.parametrize("kind", kinds.KINDS)
@pytest.mark.parametrize("load", lock_loads.LOADS)
def test_each_kind_serves_each_load(load: str, kind: str) -> None:
    cell = controls.simulated(load, kind, 4, LIGHT, SHORT)
    assert cell.rate > 0
    assert 0 < cell.busy <= 1
    assert cell.median <= cell.p99 <= cell.longest


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_each_kind_serves_for_real(kind: str) -> None:
    for load in ("sustained 1:8", "map E", "log"):
        assert controls.really(load, kind, LIGHT, 0.02).rate > 0


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_a_simulated_cell_repeats(kind: str) -> None:
    first, second = (controls.simulated("map E", kind, 4, LIGHT, SHORT) for _ in range(2))
    assert repr(replace(first, real_time=0)) == repr(replace(second, real_time=0))  # nan, too


def test_a_pass_without_bound_is_longer_than_any_with_it() -> None:
    """What `unbounded` switches off."""
    longest = {}
    for kind in (kinds.Ticket, kinds.Unbounded):

        def program(pool: FairPool, kind: type[kinds.Ticket] = kind) -> int:
            made, world = kind(pool), lock_loads.World(work, bytes)
            load = lock_loads.LOADS["sustained 1:8"](world, 15e-6)
            controls.Run(made, load, 4)(0.03)
            return made.lock.statistics().longest_pass

        with kinds.switched(kind):
            longest[kind] = simulate(program, 4).result
    assert longest[kinds.Ticket] <= PASS_SECTIONS < longest[kinds.Unbounded]


class Twice(kinds.Ticket):
    """A lock that runs a section twice, once."""

    def __init__(self, pool: FairPool) -> None:
        super().__init__(pool)
        self.calls = count()

    async def call(self, section: Callable[[], Any]) -> Any:
        async with self.lock:
            if next(self.calls) == 10:
                section()
            return section()


class Careless(kinds.Ticket):
    """A lock that lets everybody in."""

    async def call(self, section: Callable[[], Any]) -> Any:
        return section()


@pytest.mark.parametrize("kind", [Twice, Careless])
@pytest.mark.parametrize("load", lock_loads.LOADS)
def test_each_load_sees_a_lock_that_is_none(
    load: str, kind: type[kinds.PoolKind], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kinds.KINDS, "none", kind)
    with pytest.raises(AssertionError):
        controls.simulated(load, "none", 4, LIGHT, SHORT)
