"""A small harness for comparing executors and task runtimes on one machine.

What it takes care of, and why:

- **Contenders alternate** (A B A B …) within one process. A machine's speed drifts by more than
  the differences we look for; two runs next to each other see the same machine, so the *ratio of
  each pair* is steadier than either number. The table shows the median of those ratios, and their
  range.
- **Worker threads are pinned**, worker *i* to CPU *i* modulo the number of CPUs. Unpinned, the
  kernel may leave two workers on one core for a second, which is longer than most runs here. The
  main thread and the threads that submit from outside are left unpinned, for every contender: they
  take whatever core has room.
- **A collection before every run**, so that no contender pays for another's garbage.
- **One interpreter per benchmark** (see `__main__`), so that no benchmark inherits the threads, the
  heap or the hang of another.

Nothing here asserts anything about time: a table is printed, and a reader judges it.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WORKERS = 2
"""Workers of every contender: the "Must show" tables are stated for two."""

_HERE = Path(__file__).parent
_CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
_PINS = bool(_CPUS) and not os.environ.get("FAIRPOOL_BENCH_UNPINNED")


class NotThereYet(Exception):
    """The contender, or the part of it that a benchmark needs, does not exist (yet)."""


# Sizes, goals, rows


@dataclass(frozen=True)
class Size:
    """How much work a benchmark does: full, or `--quick` for a look while developing."""

    quick: bool = False

    def __call__(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @property
    def rounds(self) -> int:
        """Rounds of each contender. Odd, so that the median is a round that happened."""
        return 3 if self.quick else 7


@dataclass(frozen=True)
class Goal:
    """What a row is required to reach.

    `at least` speaks of rates (reference's cost / ours), `at most` of costs (ours / reference's);
    an absolute goal bounds our cost itself, in its unit.
    """

    sense: str
    bound: float
    absolute: str = ""

    def ratio(self, ours: float, reference: float) -> float:
        return reference / ours if self.sense == "at least" else ours / reference

    def met(self, ratio: float, ours: float) -> bool:
        value = ours if self.absolute else ratio
        return value >= self.bound if self.sense == "at least" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sense} {self.absolute or f'{self.bound:g} ×'}"


@dataclass(frozen=True)
class Row:
    """One line of the table, all text: rows travel between processes as JSON."""

    what: str
    ours: str
    reference: str
    ratio: str = ""
    required: str = ""
    met: str = ""


Measure = Callable[[], float]
"""One run of one contender; returns its cost: seconds per operation, or bytes."""

Benchmark = Callable[[Size], list[Row]]
BENCHMARKS: dict[str, Benchmark] = {}
PROBES: dict[str, Callable[..., dict[str, Any]]] = {}


def benchmark(name: str) -> Callable[[Benchmark], Benchmark]:
    """Register a benchmark under the name that the command line uses."""

    def register(function: Benchmark) -> Benchmark:
        BENCHMARKS[name] = function
        return function

    return register


# Pinning


def pin_next_cpu(turn: Iterator[int]) -> None:
    """Pin the calling thread to the next CPU in turn: the `initializer` of a pool's workers."""
    if _PINS:
        os.sched_setaffinity(threading.get_native_id(), {_CPUS[next(turn) % len(_CPUS)]})


class FirstWave:
    """Pins the workers of a runtime that has no initializer: its first tasks call `arrive`.

    Each thread is pinned once, at its first arrival; `complete` tells when as many threads as there
    are workers have been seen.
    """

    def __init__(self, workers: int = WORKERS) -> None:
        self._workers = workers
        self._seen: set[int] = set()
        self._turn = itertools.count()
        self._lock = threading.Lock()

    def arrive(self) -> None:
        with self._lock:
            thread = threading.get_native_id()
            if thread not in self._seen:
                self._seen.add(thread)
                pin_next_cpu(self._turn)

    @property
    def complete(self) -> bool:
        with self._lock:
            return len(self._seen) >= self._workers


# Contenders


def thread_pool() -> Executor:
    """The reference: the standard library's pool, with pinned workers."""
    return ThreadPoolExecutor(WORKERS, initializer=pin_next_cpu, initargs=(itertools.count(),))


def fair_pool() -> Executor:
    """Our pool, with workers pinned in the same way."""
    module = require("fairpool", "FairPool")
    pool: Executor = module.FairPool(
        WORKERS, initializer=pin_next_cpu, initargs=(itertools.count(),)
    )
    return pool


POOLS: Mapping[str, Callable[[], Executor]] = {
    "fairpool": fair_pool,
    "ThreadPoolExecutor": thread_pool,
}


def warm(pool: Executor) -> Executor:
    """Start all workers, by tasks that wait for one another: thread start is not what we measure.

    Both pools start threads only as they are needed; without this, one of them might run the whole
    benchmark on fewer workers than the other.
    """
    meeting = threading.Barrier(WORKERS)
    for future in [pool.submit(meeting.wait, 30) for _ in range(WORKERS)]:
        future.result()
    return pool


def require(module: str, *names: str) -> Any:
    """Import `module` and check that it has `names`, else raise NotThereYet."""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NotThereYet(f"{error.name} is not installed") from None
    for name in names:
        if not hasattr(found, name):
            raise NotThereYet(f"no {module}.{name} yet")
    return found


# Measuring


@dataclass
class Series:
    """What one contender's rounds gave, or why they gave nothing."""

    name: str
    values: list[float]
    failure: str = ""

    def text(self, unit: Callable[[float], str]) -> str:
        if self.failure:
            return f"{self.name}: {self.failure}"
        return f"{self.name} {unit(statistics.median(self.values))}"


def alternate(rounds: int, contenders: Mapping[str, Measure]) -> dict[str, Series]:
    """Run the contenders in turn, `rounds` times; one that fails drops out, the others go on.

    The very first round is thrown away: it pays for imports, and for the memory that the process
    has to fetch from the system once.
    """
    series = {name: Series(name, []) for name in contenders}
    for round_number in range(rounds + 1):
        for name, measure in contenders.items():
            one = series[name]
            if one.failure:
                continue
            gc.collect()
            try:
                value = measure()
            except NotThereYet as missing:
                one.failure = f"not there yet ({missing})"
            except Exception as error:
                one.failure = f"failed: {type(error).__name__}: {error}"
            else:
                if round_number:
                    one.values.append(value)
    return series


def compare(
    what: str,
    ours: Series,
    reference: Series,
    goal: Goal | None = None,
    unit: Callable[[float], str] | None = None,
) -> Row:
    """A row from two series of the same rounds. Without a goal, it is there for information."""
    unit = unit or microseconds
    required = str(goal) if goal else ""
    if ours.failure or reference.failure:
        met = "not there yet" if "not there yet" in ours.failure else "no" if ours.failure else "?"
        met = met if goal else ""
        return Row(what, ours.text(unit), reference.text(unit), "", required, met)
    of = goal or Goal("at least", 0)
    ratios = [of.ratio(a, b) for a, b in zip(ours.values, reference.values, strict=True)]
    middle = statistics.median(ratios)
    ratio = f"{middle:.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
    reached = goal.met(middle, statistics.median(ours.values)) if goal else False
    met = ("yes" if reached else "no") if goal else ""
    return Row(what, ours.text(unit), reference.text(unit), ratio, required, met)


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.2f} µs"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def bytes_each(size: float) -> str:
    return f"{size:.0f} B"


# Probes: measurements that need an interpreter of their own


def probe(function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Register a function that `run_probe` calls in a fresh interpreter.

    For what a process can tell only once (how much its memory grew), or may not survive (a hang).
    """
    PROBES[function.__name__] = function
    return function


class TimedOut(Exception):
    """A probe did not end within its time."""


def run_probe(function: Callable[..., dict[str, Any]], *args: Any, timeout: float) -> Any:
    """Call a probe in a fresh interpreter and return what it returned."""
    return run_child("--probe", function.__name__, json.dumps(args), timeout=timeout)


def run_child(*arguments: str, timeout: float, own_group: bool = False) -> Any:
    """Run this program with `arguments`; its answer is the last line it prints, as JSON.

    With `own_group`, a time-out ends the child's own children with it: a hung probe of theirs would
    otherwise keep a core busy for ever.
    """
    command = [sys.executable, "-X", "faulthandler", str(_HERE), *arguments]
    pipe = subprocess.PIPE
    group = 0 if own_group else None
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, process_group=group
    ) as child:
        try:
            out, err = child.communicate(timeout=timeout)
        except BaseException as error:
            if own_group:
                os.killpg(child.pid, signal.SIGKILL)
            child.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimedOut(f"hangs (stopped after {timeout:g} s)") from None
            raise
    lines = out.splitlines()
    if child.returncode or not lines:
        said = err.strip().splitlines() or [""]
        raise RuntimeError(f"exit status {child.returncode}: {said[-1]}")
    answer = json.loads(lines[-1])
    if "missing" in answer:
        raise NotThereYet(answer["missing"])
    return answer


def resident_bytes() -> int:
    """This process's resident memory now."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        raise NotThereYet("no /proc/self/statm on this system") from None
    return pages * os.sysconf("SC_PAGE_SIZE")


# The table


def gil_enabled() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def heading() -> str:
    """What the numbers depend on: say it above them."""
    gil = "with" if gil_enabled() else "without"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return (
        f"{platform.python_implementation()} {platform.python_version()} {gil} the GIL, "
        f"{len(_CPUS) or os.cpu_count()} CPUs, {WORKERS} workers, load {load:.1f} before the start"
    )


def table(rows: list[Row]) -> str:
    """A markdown table that is aligned for a terminal."""
    head = Row("what", "measured", "reference", "ratio", "required", "met?")
    lines = [list(asdict(row).values()) for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        (cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)
