"""`Tally`: what is counted in a simulation, and what is spent, by the events of an observer.

Guarantees: each event is counted on the virtual thread that it happens on, and its cost is spent
there, at that moment. Only what the simulated machine runs is counted.
Assumes: the observer's events come where `fairpool._inspect.points` has them. The package's classes
stay as they are: nothing is subclassed, and no attribute is watched.
"""

from __future__ import annotations

from typing import Any

from fairpool._core.observer import Observer
from fairpool._locks.charging import Charging
from fairpool._locks.waiters import Section
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.future import Future
from fairpool._tasks.gather import Gather
from fairpool._tasks.settling import claim
from fairpool._tasks.task import Task
from fairpool.testing._costs import Costs
from fairpool.testing._machine import SECOND, Machine
from fairpool.testing._simulation import LockSimulation


def nanoseconds(seconds: float) -> int:
    return round(seconds * SECOND)


def _is_away(lock: Any, worker: Any) -> bool:
    """Whether this is another worker than the lock's first one."""
    return lock.preferred is not None and lock.preferred is not worker


class LockTally:
    """What happened at one lock: the waits, and the time inside."""

    # _waits:   of all sections (ns)
    # _away:    how many sections ran on another worker than the lock's first one
    # _since:   when the section that runs began (ns)
    # _tasks, _squares: how many tasks were inside, and the sum of the squares of their times (ns²)

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self._waits: list[int] = []
        self._away = self._since = self._busy = self._tasks = self._squares = 0

    def note_wait(self, waited: int, is_away: bool) -> None:
        """A section begins."""
        self._waits.append(waited)
        self._away += is_away

    def begin(self, now: int) -> None:
        """Its owner is inside. What is between two sections is over, and charged to no share."""
        self._since = now
        if isinstance(self.lock, Charging):
            self.lock.queue.since = now

    def end(self, now: int) -> None:
        """The section ends, and the lock still has its owner."""
        used = now - self._since
        times = self.lock.owner.task.__dict__.setdefault("_inside", {})
        before = times.get(self)
        if before is None:
            before = 0
            self._tasks += 1
        times[self] = before + used
        self._squares += (before + used) ** 2 - before**2
        self._busy += used

    def simulated(self) -> LockSimulation:
        """The report."""
        stats = self.lock.stats
        waits = sorted(self._waits)
        last = len(waits) - 1
        median, high, highest = (
            waits[round(last * q)] / SECOND if waits else 0.0 for q in (0.5, 0.99, 0.999)
        )
        return LockSimulation(
            name=self.lock.name,
            sections=len(waits),
            combined=stats.combined,
            passes=stats.passes,
            hand_offs=stats.hand_offs,
            longest_pass=stats.longest_pass,
            away=self._away,
            busy=self._busy / SECOND,
            waits=(median, high, highest),
            longest_wait=waits[-1] / SECOND if waits else 0.0,
            jain=self._busy**2 / (self._tasks * self._squares) if self._squares else 1.0,
        )


class Tally(Observer):
    """What is counted, and what things cost (ns). Attached for the time of one simulation.

    Unlike other observers it lets time pass: other virtual threads run before a method returns.
    """

    # _sections: the lock whose section a worker runs
    # _granting: the workers whose pass has begun a section, the step of which follows
    # _ran_on:   in the `__dict__` of a task: the worker of its last step

    def __init__(self, machine: Machine, costs: Costs) -> None:
        self.machine = machine
        self.spend = machine.spend
        self._here = machine.here
        self._submit, self._step = nanoseconds(costs.submit), nanoseconds(costs.step)
        self._suspend, self._migrate = nanoseconds(costs.suspend), nanoseconds(costs.migrate)
        self._section, self._enter = nanoseconds(costs.section), nanoseconds(costs.enter)
        self._steal = nanoseconds(costs.steal)
        self._look, self._check = costs.look * SECOND, costs.check * SECOND
        self.tasks = self.steps = self.steals = self.migrations = self.parks = self.looks = 0
        self.last_work = machine.clock
        self.locks: dict[Any, LockTally] = {}
        self._away = costs.away
        self._sections: dict[Any, Any] = {}
        self._granting: set[Any] = set()
        self._places: dict[int, int] = {}

    def work(self, seconds: float) -> None:
        """The calling thread is busy for so long; longer in a section away from its lock's home."""
        worker = self._here.worker
        lock = self._sections.get(worker)
        if lock is not None and _is_away(lock, worker):
            seconds *= self._away
        self.spend(nanoseconds(seconds), "work")
        self.last_work = self.machine.clock

    # --- tasks ------------------------------------------------------------------------------------

    def submitted(self, scheduler: Any, task: Any) -> None:
        if type(task) is not Section and self.machine.controls():  # that is paid for at its lock
            self.spend(self._submit, "submit")

    def step_began(self, worker: Any, item: Any) -> None:
        if worker is not self._here.worker:
            return
        kind = type(item)
        if worker in self._granting:  # paid for as a section
            self._granting.discard(worker)
            self.steps += 1
            if kind is not Continuation:
                self.tasks += 1
                item.__dict__["_ran_on"] = worker
            return
        self._sections.pop(worker, None)
        if kind is Continuation:
            self.steps += 1
            self._resumed(worker, item)
        elif kind is Gather:
            self.tasks += 1
            self.steps += 1
            self.spend(self._step, "step")
        elif (call := claim(item)) is not None:
            # It is claimed while time passes: else another thread would run it meanwhile.
            item.__dict__["_ran_on"] = worker
            self.tasks += 1
            self.steps += 1
            self.spend(self._step, "step")
            item._status.insert(0, call)

    def step_ended(self, worker: Any, item: Any) -> None:
        if type(item) is Task:  # else a child's would be unknown
            item.__dict__.setdefault("_ran_on", worker)

    def _resumed(self, worker: Any, continuation: Any) -> None:
        self.spend(self._step, "step")
        if isinstance(continuation.awaited, Future):
            self.spend(self._suspend, "suspend")
        notes = continuation.task.__dict__
        before = notes.get("_ran_on")
        if before is not worker:
            notes["_ran_on"] = worker
            if before is not None:
                self.migrations += 1
                self.spend(self._migrate, "migrate")

    # --- locks ------------------------------------------------------------------------------------

    def lock_made(self, lock: Any) -> None:
        if self.machine.controls():
            self.locks[lock] = LockTally(lock)

    def pass_began(self, lock: Any, worker: Any) -> None:
        if worker is self._here.worker:
            self._sections.pop(worker, None)
            self.spend(self._step, "step")

    def section_began(self, lock: Any, ticket: int, waited: int) -> None:
        tally = self.locks.get(lock)
        if tally is None:
            return
        worker = self._here.worker
        is_away = False
        if worker is not None:
            item = worker.item
            if item is lock:  # in a pass
                self._granting.add(worker)
            if item is lock or item is lock.owner:  # else it lets in what runs elsewhere
                self._sections[worker] = lock
                is_away = _is_away(lock, worker)
        tally.note_wait(waited, is_away)
        if waited:
            self.spend(self._section, "section")
        else:
            self.spend(self._enter, "enter")
        tally.begin(self.machine.clock)

    def section_ended(self, lock: Any) -> None:
        tally = self.locks.get(lock)
        if tally is None:
            return
        tally.end(self.machine.clock)
        worker = self._here.worker
        if self._sections.get(worker) is lock:
            del self._sections[worker]

    # --- workers ----------------------------------------------------------------------------------

    def queues_scanned(self, worker: Any, queue: Any) -> None:
        if worker is not self._here.worker:
            return
        workers = worker.scheduler.workers
        looks = len(workers)
        if queue is not None:
            start = int(self.machine.chance * looks)
            looks = (self._place_of(queue, workers) - start) % looks + 1
        self.looks += looks
        self.spend(round(self._look * looks), "look")

    def stolen(self, thief: Any, item: Any) -> None:
        if thief is self._here.worker:
            self.steals += 1
            self.spend(self._steal, "steal")

    def locks_scanned(self, worker: Any) -> None:
        if worker is self._here.worker:
            looks = len(worker.scheduler.workers)
            self.looks += looks
            self.spend(round(self._look * looks), "look")

    def work_checked(self, scheduler: Any, found: bool) -> None:
        if not self.machine.controls():
            return
        workers = scheduler.workers
        looks = len(workers)
        if scheduler.injector:
            looks = 0
        elif found:
            busy = (i for i, each in enumerate(workers) if each.queue or each.published)
            looks = next(busy, looks)
        self.looks += looks
        self.spend(round(self._check * looks), "check")

    def parked(self, worker: Any) -> None:
        if worker is self._here.worker:
            self.parks += 1

    def _place_of(self, queue: Any, workers: list[Any]) -> int:
        """Where the worker with that run queue is in the list."""
        place = self._places.get(id(queue), len(workers))
        if place >= len(workers) or workers[place].queue is not queue:
            self._places = {id(each.queue): i for i, each in enumerate(workers)}
            place = self._places.get(id(queue), 0)
        return place
