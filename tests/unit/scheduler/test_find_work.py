"""The policy, `find_work`, and the copy of it that is written out in the loop, choose the same."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from fairpool._core.here import here
from fairpool._core.runqueue import RunQueue
from fairpool._scheduler.find_work import STEPS_BETWEEN_SCANS
from fairpool._scheduler.queues import no_lock
from fairpool._scheduler.scheduler import Scheduler
from fairpool._scheduler.worker import Worker

SOURCES = ("own", "outside", "displaced", "stolen", "published", "published elsewhere")


class Item:
    """What a worker runs: it has a name, and notes that it was run."""

    ticket = 1
    task = lock_in_hand = None

    def __init__(self, name: str, ran: list[str]) -> None:
        self.name = name
        self.ran = ran

    def run(self, worker: Worker) -> None:
        self.ran.append(self.name)

    def sample(self, now: int) -> None:
        """As a continuation's."""


def worker_with(sources: tuple[str, ...], locks: bool, ran: list[str]) -> Worker:
    """Return a worker of which nothing runs by itself, with an item in each of these places."""
    scheduler = Scheduler(2, "bench", None, (), None, 0.0, lend=False)
    scheduler.parking.free_slots.clear()  # so nobody is notified
    workers = [Worker(scheduler, name) for name in ("one", "other")]
    for worker in workers:
        worker.queue = RunQueue()
        scheduler.workers.append(worker)
    worker, other = workers
    if locks:
        scheduler.locks.add(no_lock)
    places: dict[str, Any] = {
        "own": worker.queue,
        "outside": scheduler.injector,
        "displaced": scheduler.displaced,
        "stolen": other.queue,
        "published": worker.published,
        "published elsewhere": other.published,
    }
    for name in sources:
        places[name].append(Item(name, ran))
    return worker


def chosen_by_loop(worker: Worker, step: int, ran: list[str]) -> str:
    """Return what `Worker.work` runs after its `step`-th step."""
    worker.steps = step - 1
    here.worker = worker
    try:
        worker.work(Item("first", ran), lambda: len(ran) > 1)
    finally:
        here.worker = None
    assert ran[0] == "first"
    return ran[1]


@pytest.mark.parametrize("step", [2, 16, STEPS_BETWEEN_SCANS, 2 * STEPS_BETWEEN_SCANS])
@pytest.mark.parametrize("locks", [False, True])
@pytest.mark.parametrize("waits_for_its_turn", [False, True])
def test_the_loop_chooses_what_the_policy_chooses(
    waits_for_its_turn: bool, locks: bool, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairpool._scheduler.find_work.random", lambda: 0.0)
    for there in product([False, True], repeat=len(SOURCES)):
        sources = tuple(name for name, is_there in zip(SOURCES, there, strict=True) if is_there)
        if not locks:
            sources = tuple(name for name in sources if "published" not in name)
        if not sources:
            continue
        chosen = []
        for choose in (chosen_by_loop, None):
            ran: list[str] = []
            worker = worker_with(sources, locks, ran)
            worker._critical = worker._turn = worker._scans_locks = waits_for_its_turn
            worker._displaced_turn = waits_for_its_turn
            chosen.append(choose(worker, step, ran) if choose else worker.find_work(step).name)
        assert chosen[0] == chosen[1], sources
