"""`simulate`: a program on a machine of many processors, with the package's own scheduler.

Workers, locks and scheduler are those of the package, subclassed where something takes time, to
spend it. So what is simulated is the code that runs, not a model of it; a model is only what each
thing takes (`Costs`), and that a processor does nothing else meanwhile. See `docs/testing.md`.
"""

from __future__ import annotations

import _threading_local
import gc
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from math import inf, isfinite
from types import ModuleType
from typing import Any, SupportsIndex

import fairpool._api.lock
import fairpool._api.pool
import fairpool._core.here
import fairpool._core.signals
import fairpool._locks.tasks
import fairpool._scheduler.scheduler
import fairpool._scheduler.worker
import fairpool._tasks.future
from fairpool import FairPool
from fairpool._api.lock import ChargedLock, Lock
from fairpool._core.signals import handle_ctrl_c
from fairpool._locks.combiner import Combiner
from fairpool._locks.key import KeyedLock
from fairpool._scheduler.scheduler import Scheduler
from fairpool._scheduler.worker import Worker
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.coroutines import is_coroutine
from fairpool._tasks.future import Future
from fairpool._tasks.gather import Gather
from fairpool._tasks.request import Waiter
from fairpool.testing._carriers import Carriers, best_carriers
from fairpool.testing._costs import DEFAULT_COSTS, Costs
from fairpool.testing._machine import SECOND, Machine
from fairpool.testing._simulation import LockSimulation, Simulation
from fairpool.testing._world import Values, get_ident, monotonic_ns, running, world

__all__ = ["simulate", "work"]

# An idle worker ends after this: beyond the end of all times, see `_run.TIME_MAX`.
NEVER = 1e6

# As many as a pool may have spare workers without asking for more memory than a process gets.
WORKERS_MAX = 10_000

# What the package sets these to on a free-threaded build, which is what is simulated.
FREE_THREADED_VALUES: Values = {
    (fairpool._tasks.thread_wait, "SPIN_LIMIT"): 60,
    (fairpool._scheduler.worker, "LOOKS_WHILE_SEARCHING"): 100,
    (fairpool._locks.tasks, "LOOKS_BEFORE_QUEUEING"): 200,
}


class _Tally:
    """What is counted, and what things cost (ns), while a simulation lasts."""

    def __init__(self, machine: Machine, costs: Costs) -> None:
        self.machine = machine
        self.spend = machine.spend
        self.submit, self.step, self.suspend = map(_ns, (costs.submit, costs.step, costs.suspend))
        self.section, self.enter = map(_ns, (costs.section, costs.enter))
        self.steal, self.migrate = map(_ns, (costs.steal, costs.migrate))
        self.look, self.check = costs.look * SECOND, costs.check * SECOND
        self.away = costs.away
        self.tasks = self.steps = self.steals = self.migrations = self.parks = self.looks = 0
        self.last_work = machine.clock
        self.locks: list[_Timed] = []
        self._places: dict[int, int] = {}

    def place_of(self, queue: Any, workers: list[Any]) -> int:
        """Where the worker with that run queue is in the list."""
        place = self._places.get(id(queue), len(workers))
        if place >= len(workers) or workers[place].queue is not queue:
            self._places = {id(each.queue): i for i, each in enumerate(workers)}
            place = self._places.get(id(queue), 0)
        return place


def _ns(seconds: float) -> int:
    return round(seconds * SECOND)


_tally: _Tally | None = None


def work(seconds: float) -> None:
    """Be busy for so long: the calling worker does nothing else until its clock has gone on by it.

    For programs that `simulate` runs, in tasks (plain functions and coroutines alike) and outside.
    Inside a critical section that runs away from its lock's first worker it takes `Costs.away`
    times as long.
    """
    if not seconds >= 0 or not isfinite(seconds):
        raise ValueError(f"work() takes at least 0 seconds, not {seconds!r}")
    tally = _tally
    if tally is None or not tally.machine.controls():
        raise RuntimeError("work() is for programs that fairpool.testing.simulate() runs")
    worker = tally.machine.here.worker
    if isinstance(worker, _Worker) and worker.section is not None:
        preferred = worker.section.preferred
        if preferred is not None and preferred is not worker:
            seconds *= tally.away
    tally.spend(_ns(seconds), "work")
    tally.last_work = tally.machine.clock


# --- what spends time -----------------------------------------------------------------------------


class _Scheduler(Scheduler):
    """A scheduler that spends what it takes to queue a task, and to look at all queues."""

    __slots__ = ("tally",)

    def __init__(self, *args: Any) -> None:
        assert _tally is not None
        self.tally = _tally
        super().__init__(*args)

    def put(self, task: Any) -> None:
        self.tally.spend(self.tally.submit, "submit")
        super().put(task)

    def has_work(self) -> bool:
        tally, workers = self.tally, self.workers
        found = super().has_work()
        looks = len(workers)
        if self.injector:
            looks = 0
        elif found:
            busy = (i for i, each in enumerate(workers) if each.queue or each.published)
            looks = next(busy, looks)
        tally.looks += looks
        tally.spend(round(tally.check * looks), "check")
        return found


_item, _fn, _task = (getattr(Worker, name) for name in ("item", "fn", "task"))
_owner = vars(KeyedLock)["owner"]


class _Forks(list[Any]):
    """The gathers whose children a worker runs on top of the tasks that wait for them."""

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker

    def pop(self, index: SupportsIndex = -1) -> Any:
        """The children have been started: the worker goes back to who waits for them."""
        fork = super().pop(index)
        self._worker.returns_to = fork.item
        return fork


class _Worker(Worker):
    """A worker that spends what its steps take, and its looks for work.

    Each step begins with a store to `item`, and each task with one to `fn` after it: that is where
    they are counted.
    """

    __slots__ = (
        "_begins",
        "_below",
        "_child",
        "_makes_task",
        "_victim",
        "granted",
        "returns_to",
        "section",
        "tally",
    )

    # granted: whose section begins with the next store to `item`
    # section: the lock whose section runs, if one does
    # returns_to:  to what it goes back, with the next store to `item`, from children of that
    # _makes_task: whether a store only puts a task in the place of what runs already
    # _begins: whether the next store to `fn` begins a task
    # _child:  whether the next store to `item` says whose child is begun: see `Gather._start`
    # _below:  what it runs below the tasks that it runs inline
    # _victim: the run queue from which it has just stolen

    def __init__(self, scheduler: Any, name: str | None) -> None:
        self.tally: _Tally = scheduler.tally
        self.granted: Any = None
        self.section: Any = None
        self.returns_to: Any = None
        self._begins = self._child = self._makes_task = False
        self._below: list[Any] = []
        self._victim: Any = None
        super().__init__(scheduler, name)
        self.forks = _Forks(self)

    @property
    def item(self) -> Any:
        return _item.__get__(self)

    @item.setter
    def item(self, item: Any) -> None:
        _item.__set__(self, item)
        if item is None or self._makes_task:
            return
        child, self._child = self._child, False
        if child:
            self._begins = True
            self.fn = self.fn
            return
        if item is self.returns_to or (self._below and self._below[-1] is item):
            self.returns_to = None
            self._begins = False
            return
        tally = self.tally
        kind = type(item)
        granted, self.granted = self.granted is item, None
        if not granted:
            self.section = None
        if kind is Continuation:
            tally.steps += 1
            if not granted:
                tally.spend(tally.step, "step")
                if isinstance(item.awaited, Future):
                    tally.spend(tally.suspend, "suspend")
                notes = item.task.__dict__
                if notes.get("_ran_on") is not self:
                    if "_ran_on" in notes:
                        tally.migrations += 1
                        tally.spend(tally.migrate, "migrate")
                    notes["_ran_on"] = self
        elif isinstance(item, Combiner):
            tally.spend(tally.step, "step")
        else:
            self._begins = True

    @property
    def fn(self) -> Any:
        return _fn.__get__(self)

    @fn.setter
    def fn(self, fn: Any) -> None:
        _fn.__set__(self, fn)
        if self.item is None:
            self._child = type(fn) is int and not self._makes_task
        elif self._begins and fn is not None and not self._makes_task:
            if type(self.item) is not Gather:  # which begins a child with each
                self._begins = False
                self.item.__dict__["_ran_on"] = self
            tally = self.tally
            tally.tasks += 1
            tally.steps += 1
            if self.section is None:
                tally.spend(tally.step, "step")

    def turn_to(self, item: Any, fn: Any) -> None:
        """As that of `Worker`. What is only gone on with is not begun again."""
        makes, self._makes_task = self._makes_task, True
        super().turn_to(item, fn)
        self._makes_task = makes
        begins = not makes and type(item) is Gather and type(fn) is int
        if begins and not item._coroutines[fn].cr_running:
            self._begins = True
            self.fn = fn

    @property
    def task(self) -> Any:
        self._makes_task = type(self.item) is Gather  # which is stored in place of the gather
        try:
            task = _task.__get__(self)
        finally:
            makes, self._makes_task = self._makes_task, False
        if makes:
            task.__dict__["_ran_on"] = self
        return task

    def run_inline(self, future: Any) -> bool:
        section = self.section
        self._below.append(self.item)
        try:
            return super().run_inline(future)
        finally:
            self._below.pop()
            self.section = section

    def _steal(self) -> Any:
        tally, workers = self.tally, self.scheduler.workers
        self._victim = None
        task = super()._steal()
        looks = len(workers)
        if task is not None:
            start = int(tally.machine.chance * looks)
            looks = (tally.place_of(self._victim or self.queue, workers) - start) % looks + 1
        tally.looks += looks
        tally.spend(round(tally.look * looks), "look")
        if self._victim is not None:
            self._victim = None
            tally.steals += 1
            tally.spend(tally.steal, "steal")
        return task

    def _take_more(self, queue: Any) -> None:
        self._victim = queue
        super()._take_more(queue)

    def _take_published(self) -> Any:
        self._look_at_all()
        return super()._take_published()

    def _take_service(self) -> Any:
        self._look_at_all()
        return super()._take_service()

    def _look_at_all(self) -> None:
        tally, workers = self.tally, len(self.scheduler.workers)
        tally.looks += workers
        tally.spend(round(tally.look * workers), "look")

    def _park(self, until: Any = None, has_slot: bool = True) -> bool:
        self.tally.parks += 1
        return super()._park(until, has_slot)


class _Timed(Lock):
    """A lock that spends what it takes to enter, and writes down who has waited, and for how long.

    `owner` is the one that has entered, and None when the section has ended.
    """

    def __init__(self, scheduler: Any, name: str | None) -> None:
        self._tally: _Tally = scheduler.tally
        self._tally.locks.append(self)
        self._granting: Any = None  # what is let in that does not run on this stack
        self._inside: Any = None  # the task whose section runs, and since when
        self._since = 0
        self._waits: list[int] = []
        self._away = self._busy = self._tasks = self._squares = 0
        super().__init__(scheduler, name)

    @property
    def owner(self) -> Any:
        return _owner.__get__(self)

    @owner.setter
    def owner(self, owner: Any) -> None:
        _owner.__set__(self, owner)
        tally = self._tally
        now = tally.machine.clock
        worker = tally.machine.here.worker
        if not isinstance(worker, _Worker):
            worker = None
        if owner is None:
            if self._inside is not None:
                self._account_for(now - self._since)
            if worker is not None and worker.section is self:
                worker.section = None
            return
        self._inside = owner.task
        asked = now
        if self._granting is not None:
            asked = self._granting.ticket
        elif (ticket := self._granted_ticket(owner)) is not None:
            asked = ticket
            if worker is not None:
                worker.granted = owner
        self._waits.append(now - asked)
        if self._granting is None and worker is not None:
            worker.section = self
            if self.preferred is not None and self.preferred is not worker:
                self._away += 1
        if asked == now:
            tally.spend(tally.enter, "enter")
        else:
            tally.spend(tally.section, "section")
        self._begin_section(tally.machine.clock)

    def _begin_section(self, now: int) -> None:
        """What is between two sections is over."""
        self._since = now

    def _granted_ticket(self, owner: Any) -> int | None:
        """The ticket of who is let in by a pass; None for who enters by itself."""
        if isinstance(owner, Waiter) and owner.is_section:
            return int(owner.ticket)
        request = owner.request if type(owner) is Continuation else None
        lock: object = None if request is None else request.lock
        if request is None or lock is not self:
            return None
        notes = owner.task.__dict__
        if notes.get("_granted") == request.ticket:  # that was let in before
            return None
        notes["_granted"] = request.ticket
        return int(request.ticket)

    def _account_for(self, used: int) -> None:
        times = self._inside.__dict__.setdefault("_inside", {})
        before = times.get(self)
        if before is None:
            before = 0
            self._tasks += 1
        times[self] = before + used
        self._squares += (before + used) ** 2 - before**2
        self._busy += used
        self._inside = None

    def _grant(self, item: Any) -> bool:
        self._granting = item
        try:
            return super()._grant(item)
        finally:
            self._granting = None

    def simulated(self) -> LockSimulation:
        """What happened here."""
        stats = self.stats
        waits = sorted(self._waits)
        last = len(waits) - 1
        median, high, highest = (
            waits[round(last * q)] / SECOND if waits else 0.0 for q in (0.5, 0.99, 0.999)
        )
        return LockSimulation(
            name=self.name,
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


class _TimedCharged(_Timed, ChargedLock):
    """The same, where shares are charged: for their sections, and not for what is between them."""

    def _begin_section(self, now: int) -> None:
        super()._begin_section(now)
        self.queue.since = now


# --- a simulation ---------------------------------------------------------------------------------


def simulate(
    program: Callable[[FairPool], Any],
    workers: int = 1024,
    seed: int = 0,
    *,
    costs: Costs = DEFAULT_COSTS,
) -> Simulation:
    """Run `program(pool)` on a machine with a processor for each of `workers`, in virtual time.

    The pool is a new one, with that many workers. `program` is a plain function, which runs on a
    thread of its own beside them, or a coroutine function, which is then run as a task. Time passes
    where `work(seconds)` says so, where the program waits or sleeps, and as `costs` say for what
    the scheduler does; `time.monotonic`, `time.monotonic_ns` and `time.sleep` are those of the
    virtual clock. `seed` decides what the scheduler leaves to chance.

    Raises what the program raises, TypeError and ValueError for arguments, and
    `fairpool.testing.Deadlock` where nobody can go on. With the package `greenlet` (and the GIL)
    it is several times as fast. Not to be called in a simulation or an explored run, nor while
    other threads use fairpool; the collector is off meanwhile.
    """
    if not callable(program):
        raise TypeError(f"simulate() takes a callable, not {program!r}")
    if not isinstance(workers, int) or isinstance(workers, bool):
        raise TypeError(f"workers must be an int, not {workers!r}")
    if not 1 <= workers <= WORKERS_MAX:
        raise ValueError(f"workers must be from 1 to {WORKERS_MAX}, not {workers!r}")
    if not isinstance(seed, int):
        raise TypeError(f"seed must be an int, not {seed!r}")
    if not isinstance(costs, Costs):
        raise TypeError(f"costs must be Costs, not {costs!r}")
    return run(program, workers, seed, costs, best_carriers())


def run(
    program: Callable[[FairPool], Any],
    workers: int,
    seed: int,
    costs: Costs,
    carriers: Carriers,
) -> Simulation:
    global _tally
    began = time.perf_counter()
    machine = Machine(
        carriers,
        seed,
        lock=_ns(costs.lock),
        pause=max(_ns(costs.pause), 1),  # else it would wait for ever for who is at the same time
        unpark=_ns(costs.unpark),
        wake=_ns(costs.wake),
        start=_ns(costs.start),
    )
    result: Any = None
    ended = 0

    def main() -> None:
        nonlocal result, ended
        pool = FairPool(workers, idle_timeout=NEVER)
        result = program(pool)
        if is_coroutine(result):
            result = pool._scheduler.spawn(result).result()
        ended = machine.clock
        pool.shutdown()

    def interrupted(signum: int, frame: Any) -> None:
        machine.fail(KeyboardInterrupt())

    def in_place() -> None:
        with running(machine), world(lowest, values):
            machine.run(main)

    lowest = [(fairpool._core.here.here, machine.here)]
    values = {
        **VALUES,
        (fairpool._api.lock, "_numbers"): count(),  # locks are named anew in each simulation
        (time, "monotonic_ns"): monotonic_ns,
        **_identity(),
    }
    was_on = gc.isenabled()
    gc.disable()
    try:
        _tally = tally = _Tally(machine, costs)
        start = machine.clock
        handle_ctrl_c(interrupted, in_place)
    finally:
        _tally = None
        if was_on:
            gc.enable()
    return Simulation(
        result=result,
        workers=workers,
        seed=seed,
        costs=costs,
        elapsed=(max(ended, tally.last_work) - start) / SECOND,
        tasks=tally.tasks,
        steps=tally.steps,
        worked=machine.spent["work"] / SECOND,
        steals=tally.steals,
        migrations=tally.migrations,
        parks=tally.parks,
        wake_ups=machine.wakes,
        looks=tally.looks,
        spent={name: time / SECOND for name, time in sorted(machine.spent.items())},
        locks=tuple([lock.simulated() for lock in tally.locks]),
        events=machine.events,
        real_time=time.perf_counter() - began,
        peak_memory=_peak_memory(),
    )


# By what a program tells one thread from another.
_IDENTITY: list[tuple[Any, Any]] = [
    (threading.get_ident, get_ident),
    (getattr(threading, "get_native_id", threading.get_ident), get_ident),
    (threading.local, _threading_local.local),  # it keeps its values with the `Thread`
]


def _identity() -> Values:
    """Whatever names any module has for these."""
    return {
        (module, name): ours
        for module_name, module in list(sys.modules.items())
        if isinstance(module, ModuleType)
        and not module_name.startswith("fairpool.testing.")
        and module is not _threading_local
        for name, value in list(vars(module).items())
        for real, ours in _IDENTITY
        if value is real
    }


VALUES: Values = {
    **FREE_THREADED_VALUES,
    (fairpool._core.signals, "LONGEST_BLIND_WAIT"): inf,
    (fairpool._scheduler.scheduler, "Worker"): _Worker,
    (fairpool._api.pool, "Scheduler"): _Scheduler,
    (fairpool._api.lock, "Lock"): _Timed,
    (fairpool._api.lock, "ChargedLock"): _TimedCharged,
}


def _peak_memory() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
