"""`explore` and `schedules`: the users' way in.

Here the package's own steps are no points, but for the beginning of each step of a task, and each
`submit`: a schedule says which task goes on, and, between any two accesses of the users' own code
to what tasks can share, when another one does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from inspect import isasyncgenfunction, isgeneratorfunction, unwrap
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Any

import fairpool._scheduler.scheduler
import fairpool._tasks.continuation
import fairpool._tasks.task
from fairpool import FairPool
from fairpool._tasks.coroutines import is_coroutine
from fairpool.testing._explore import Explorer, Plan, error_of, lines_of
from fairpool.testing._points import Points, code_of, start_of, users_accesses
from fairpool.testing._run import Abandoned, Run, is_failure
from fairpool.testing._strategies import Gaps
from fairpool.testing._world import reached, running

STRATEGIES = ("mixed", "pct", "random", "systematic")

# An idle worker ends after this: beyond the end of all times, see `_run.TIME_MAX`.
NEVER = 1e6

# How far apart the switches of a drawn schedule may be, and how many there may be.
GAP_MAX = 80
SWITCHES_MAX = 8


def _task_level() -> list[CodeType]:
    scheduler, task = fairpool._scheduler.scheduler.Scheduler, fairpool._tasks.task
    return [
        each.__code__
        for each in (
            scheduler.put,
            scheduler.resume,
            task.Task.run,
            fairpool._tasks.continuation.Continuation.run,
        )
    ]


_cached: dict[tuple[int, ...], Points] = {}


def _points(modules: Iterable[ModuleType], codes: Iterable[CodeType]) -> Points:
    modules, codes = list(modules), list(codes)
    key = (*map(id, modules), *map(id, codes))
    points = _cached.get(key)
    if points is None:
        task_level = _task_level()
        places = {code: start_of(code) for code in task_level}
        for code in code_of(modules, codes):
            places[code] = users_accesses(code)
        points = _cached[key] = Points(places, reached, task_level)
    return points


def _module_of(frame: FrameType) -> list[ModuleType]:
    module = sys.modules.get(frame.f_globals.get("__name__", ""))
    return [] if module is None else [module]


def explore(
    scenario: Callable[[FairPool], object],
    schedules: int = 1000,
    seed: int = 0,
    *,
    replay: int | str | None = None,
    workers: int = 3,
    modules: Iterable[ModuleType] = (),
    strategy: str = "mixed",
    preemptions: int = 2,
) -> int:
    """Run `scenario(pool)` under that many schedules, and return how many there were.

    Each time with a new pool of that many `workers`. A plain function, or a coroutine function,
    which is then run as a task. If it raises, or never ends, the schedule is shrunk, and
    `InterleavingError` is raised. `replay`: run only the schedule of that error's `seed`, or its
    `schedule`. The rest of the arguments must be the same then.

    A switch comes at each submission, at each step of a task, at each operation of a lock or the
    like, and wherever the code of the scenario's module, and of the `modules` that are given,
    touches what other threads could see. Locks and threads are to be made in the scenario. Time is
    virtual: it passes when all wait, and at once. Sets of objects that have no `__hash__` of their
    own, and whatever else differs from run to run, are not to decide what the scenario does.

    `strategy`: "pct" (Burckhardt et al. 2010, with depths from 2 to 6), "random", "mixed" (both in
    turns), or "systematic": all schedules with at most that many `preemptions`, those with few of
    them first; if there are fewer than `schedules`, they have all been run.

    Not to be called in a run, nor from two threads at once.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")
    lowest = {"schedules": (schedules, 1), "preemptions": (preemptions, 0), "workers": (workers, 0)}
    for name, (value, least) in lowest.items():
        if not isinstance(value, int):
            raise TypeError(f"{name} must be an int, not {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value!r}")
    if not isinstance(seed, int):
        raise TypeError(f"seed must be an int, not {seed!r}; for a schedule, use replay=")
    if not callable(scenario):
        raise TypeError(f"explore() takes a callable, not {scenario!r}")
    modules = _checked(modules)
    caller = sys._getframe(1)
    function: Any = scenario
    while isinstance(function, partial):
        function = function.func
    function = unwrap(getattr(function, "__func__", function))
    if isgeneratorfunction(function) or isasyncgenfunction(function):
        raise TypeError(f"explore() takes a function that runs, not a generator's: {scenario!r}")
    own = sys.modules.get(getattr(function, "__module__", None) or "")
    codes = [code for code in (getattr(function, "__code__", None), caller.f_code) if code]
    points = _points([*([own] if own else _module_of(caller)), *modules], codes)

    def run() -> None:
        pool = FairPool(workers, idle_timeout=NEVER)
        result: Any = scenario(pool)
        if is_coroutine(result):
            pool._scheduler.spawn(result).result()
        pool.shutdown()

    explorer = Explorer(run, points, points.covers, preemptions)
    with explorer.in_place():
        if replay is not None:
            failure = explorer.replay(replay, strategy)
        else:
            failure = explorer.search(schedules, seed, strategy)
    if failure is not None:
        raise failure.as_error()
    return explorer.schedules


def _checked(modules: Iterable[ModuleType]) -> tuple[ModuleType, ...]:
    if isinstance(modules, ModuleType):
        raise TypeError(f"modules takes several modules, as in modules=[{modules.__name__}]")
    modules = tuple(modules)
    for each in modules:
        if not isinstance(each, ModuleType):
            raise TypeError(f"modules takes modules, not {each!r}")
    return modules


class Schedule:
    """A schedule that hypothesis has drawn: after how many points another thread goes on, and who.

    `history`: the lines that the threads ran in the pool's block, as pairs (thread, line).
    """

    def __init__(self, switches: list[tuple[int, int]]) -> None:
        self._switches = switches
        self.history: list[tuple[str, str]] = []

    def __repr__(self) -> str:
        return f"Schedule({self._switches})"

    def pool(self, workers: int = 3, *, modules: Iterable[ModuleType] = ()) -> _Block:
        """`with schedule.pool() as pool:` a pool whose tasks go on as this schedule says.

        Everything that is said of `explore` is true of the block. It ends with the pool's shutdown,
        and raises InterleavingError if something in it failed, or never ended.
        """
        caller = sys._getframe(1)
        points = _points([*_module_of(caller), *_checked(modules)], [caller.f_code])
        return _Block(self, workers, points)


class _Block:
    """The block of `Schedule.pool`: one run, of which the calling thread is thread 0."""

    def __init__(self, schedule: Schedule, workers: int, points: Points) -> None:
        self._schedule = schedule
        self._workers = workers
        self._explorer = Explorer(lambda: None, points, points.covers)
        self._stack = ExitStack()

    def __enter__(self) -> FairPool:
        explorer = self._explorer
        self._run = run = Run(Gaps(self._schedule._switches), record=True)
        run.trace_thread = explorer.points.trace_thread
        run.interesting = explorer.interesting
        with ExitStack() as stack:
            stack.enter_context(explorer.in_place(collect=False))
            stack.enter_context(running(run))
            self._pool = FairPool(self._workers, idle_timeout=NEVER)
            self._stack = stack.pop_all()
        return self._pool

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        run = self._run
        with self._stack:
            try:
                if error is None:
                    try:
                        self._pool.shutdown()
                        run.join()
                    except Abandoned:
                        pass
                elif not isinstance(error, Abandoned) and is_failure(error):
                    run.fail(error)
            finally:
                run.close()
                self._schedule.history = lines_of(run.history or [])
        if run.errors and (error is None or is_failure(error)):
            how = f"under {self._schedule}"
            plan = str(Plan(0, tuple(run.decisions)))
            raise error_of(run, how, plan, plan) from run.errors[0]


def schedules(max_switches: int = SWITCHES_MAX) -> Any:
    """A hypothesis strategy for `Schedule`s. They shrink to few, and early, switches.

    Draw it, and everything else that is drawn, before the pool's block begins.
    """
    from hypothesis import strategies as st

    switch = st.tuples(st.integers(0, GAP_MAX), st.integers(0, 3))
    return st.builds(Schedule, st.lists(switch, max_size=max_switches))
