"""`simulate`: a program on a machine of many processors, with the package's own scheduler.

Workers, locks and scheduler are those of the package. An observer (`Tally`) spends the time that
each event takes. So what is simulated is the code that runs, not a model of it; a model is only
what each thing takes (`Costs`), and that a processor does nothing else meanwhile. See
`docs/testing.md`.
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
from typing import Any

import fairpool._api.lock
import fairpool._core.here
import fairpool._core.signals
import fairpool._locks.tasks
import fairpool._scheduler.worker
import fairpool._tasks.thread_wait
from fairpool import FairPool
from fairpool._core.signals import handle_ctrl_c
from fairpool._inspect.points import attached
from fairpool._tasks.coroutines import is_coroutine
from fairpool.testing._carriers import Carriers, best_carriers
from fairpool.testing._costs import DEFAULT_COSTS, Costs
from fairpool.testing._machine import SECOND, Machine
from fairpool.testing._simulation import Simulation
from fairpool.testing._tally import Tally, nanoseconds
from fairpool.testing._world import Values, get_ident, monotonic_ns, running, world

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


_tally: Tally | None = None


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
    tally.work(seconds)


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
        lock=nanoseconds(costs.lock),
        # At least one tick: else it would wait for ever for a thread that is at the same time.
        pause=max(nanoseconds(costs.pause), 1),
        unpark=nanoseconds(costs.unpark),
        wake=nanoseconds(costs.wake),
        start=nanoseconds(costs.start),
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
        with running(machine), world(lowest, values), attached(tally):
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
        _tally = tally = Tally(machine, costs)
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
        locks=tuple([lock.simulated() for lock in tally.locks.values()]),
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
}


def _peak_memory() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
