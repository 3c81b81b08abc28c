"""Old against new: `python tests/bench --against OLD.whl [--with NEW.whl] [rows…]`.

Two versions of fairpool are compared by short rows that concern fairpool alone.

- **Each version has a folder of its own**, and its rows run in a process that imports it from
  there. Both processes run the same benchmark code, this checkout's.
- **The two alternate row by row.** A round starts a fresh process for each version. The parent asks
  one of them for a row, and then the other for the same row, so that the two runs of a pair are
  less than a second apart. The order within the pair changes from round to round.
- **The ratio of a pair is a speed**: old cost / new cost, 1.10 is ten per cent faster.
- **The interval is that of the median by signs**: the order statistics between which the median
  of the pairs' ratios lies with a probability of 95 % or more (of 20 pairs the 6th and the 15th).
  It asks nothing of the distribution, and one disturbed pair moves it by one rank at most.
- **A row has lost more than x %** if its whole interval lies below 1 - x.
- `--clock cpu` takes the processor time of all threads of the process for the cost. It hardly
  depends on what else the machine does, and does not see what a change makes a thread wait for.
- The sizes of critical sections are measured once, by the parent, for both.
"""

from __future__ import annotations

import compileall
import json
import math
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bench_locks
import bench_shares
import bench_tasks
from bench_executor import (
    nested,
    noop,
    pending_memory,
    seconds_of_ping_pong,
    seconds_to_map,
    seconds_to_submit,
)
from contend import CLIENTS, Load, State, fair_seconds, iterations, spin, touch
from harness import WORKERS, fair_pool, gil_enabled, require, run_probe, warm

ROW_TIME_LIMIT = 120.0
"""Seconds for one row of one version: it takes less than one where nothing hangs."""

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Sizes:
    """How many iterations make a critical section or a rest, on this machine."""

    touch_15: int
    spin_15: int
    touch_150: int
    spin_150: int

    @classmethod
    def measured(cls) -> Sizes:
        state = State()
        return cls(
            iterations(touch, 15e-6, state),
            iterations(spin, 15e-6),
            iterations(touch, 150e-6, state),
            iterations(spin, 150e-6),
        )


# --- the rows: each takes 0.1 to 0.4 s, and returns seconds (or bytes) for one operation ----------

ShortRow = Callable[[Sizes], float]
ROWS: dict[str, ShortRow] = {}


def row(name: str) -> Callable[[ShortRow], ShortRow]:
    def register(function: ShortRow) -> ShortRow:
        ROWS[name] = function
        return function

    return register


def per_operation(work: Callable[[], object], count: int) -> float:
    """Seconds for each of `count` operations that `work` does."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) / count


def in_pool(body: Callable[..., Any], count: int, *args: Any) -> float:
    """Seconds for each of the operations that a task or coroutine does, on two workers."""
    with warm(fair_pool()) as pool:
        return per_operation(lambda: pool.submit(body, count, *args).result(), count)


@row("submit")
def submit(_: Sizes) -> float:
    with warm(fair_pool()) as pool:
        return seconds_to_submit(pool, 40_000)


@row("ping-pong")
def ping_pong(_: Sizes) -> float:
    with warm(fair_pool()) as pool:
        return seconds_of_ping_pong(pool, 4_000)


@row("map")
def map_(_: Sizes) -> float:
    with warm(fair_pool()) as pool:
        return seconds_to_map(pool, 40_000)


def submit_and_wait(count: int, pool: Any) -> None:
    for _ in range(count):
        pool.submit(noop).result()


@row("nested result")
def nested_result(_: Sizes) -> float:
    """A task waits for tasks that it has submitted, one after the other."""
    with warm(fair_pool()) as pool:
        count = 10_000
        return per_operation(lambda: pool.submit(submit_and_wait, count, pool).result(), count)


@row("nested depth")
def nested_depth(_: Sizes) -> float:
    """A task that waits for a task that waits, 500 deep."""
    return statistics.median(nested("fairpool", 500)["seconds"] for _ in range(3)) / 500


async def yields(count: int) -> None:
    fairpool = bench_tasks.fairpool
    tasks = 8
    await fairpool.gather(*[bench_tasks.fairpool_yields(count // tasks) for _ in range(tasks)])


@row("yield_now")
def yield_now(_: Sizes) -> float:
    return in_pool(yields, 160_000)


async def gathers(count: int) -> None:
    await bench_tasks.fairpool.gather(*[bench_tasks.noop() for _ in range(count)])


@row("gather")
def gather(_: Sizes) -> float:
    return in_pool(gathers, 60_000)


async def group_of(count: int) -> None:
    async with bench_tasks.fairpool.TaskGroup() as group:
        for _ in range(count):
            group.create_task(bench_tasks.noop())


@row("TaskGroup")
def task_group(_: Sizes) -> float:
    return in_pool(group_of, 15_000)


async def plain_fib(n: int) -> int:
    if n < 2:
        return n
    left, right = await bench_tasks.fairpool.gather(plain_fib(n - 1), plain_fib(n - 2))
    return int(left + right)


def fib_row(fib: Callable[[int], Any], n: int) -> float:
    calls = [1, 1]
    while len(calls) <= n:
        calls.append(calls[-1] + calls[-2] + 1)
    with warm(fair_pool()) as pool:
        return per_operation(lambda: pool.submit(fib, n).result(), calls[n])


@row("fib plain")
def fib_plain(_: Sizes) -> float:
    return fib_row(plain_fib, 16)


@row("fib eager")
def fib_eager(_: Sizes) -> float:
    return fib_row(bench_tasks.fairpool_fib, 20)


@row("then")
def then(_: Sizes) -> float:
    return bench_tasks.seconds_of_links(30_000)


@row("tiny section")
def tiny_section(_: Sizes) -> float:
    return bench_locks.increments_on("fairpool", bench_locks.increments, 5_000)


def sections(touches: int, spins: int, turns: int) -> float:
    loads = [Load(touch, touches, spin, spins)] * CLIENTS
    return fair_seconds(loads, turns) / (turns * CLIENTS)


@row("15 µs section")
def section_of_15(sizes: Sizes) -> float:
    return sections(sizes.touch_15, sizes.spin_15, 500)


@row("150 µs section")
def section_of_150(sizes: Sizes) -> float:
    return sections(sizes.touch_150, sizes.spin_150, 80)


@row("lock.submit")
def lock_submit(_: Sizes) -> float:
    return bench_locks.seconds_of_delegation(5_000)


@row("async with, free")
def async_with(_: Sizes) -> float:
    return bench_shares.per_section("no shares", 1, 100_000)


async def enter_guarded(count: int, guard: Any) -> None:
    for _ in range(count):
        async with guard:
            pass


@row("async with guarded, free")
def async_with_guarded(_: Sizes) -> float:
    with warm(fair_pool()) as pool:
        guard = pool.guarded(dict)  # type: ignore[attr-defined]
        count = 50_000
        return per_operation(lambda: pool.submit(enter_guarded, count, guard).result(), count)


def enter_plainly(count: int, lock: Any) -> None:
    for _ in range(count):
        with lock:
            pass


@row("with, in a task")
def with_in_task(_: Sizes) -> float:
    with warm(fair_pool()) as pool:
        lock = pool.lock()  # type: ignore[attr-defined]
        count = 50_000
        return per_operation(lambda: pool.submit(enter_plainly, count, lock).result(), count)


@row("with, in a thread")
def with_in_thread(_: Sizes) -> float:
    with warm(fair_pool()) as pool:
        lock = pool.lock()  # type: ignore[attr-defined]
        return per_operation(lambda: enter_plainly(50_000, lock), 50_000)


@row("usage-ordered lock")
def usage_lock(_: Sizes) -> float:
    return bench_shares.per_section("usage", CLIENTS, 20_000)


@row("usage-ordered lock, free")
def usage_lock_free(_: Sizes) -> float:
    return bench_shares.per_section("usage", 1, 40_000)


async def set_and_wait(count: int) -> None:
    """Two tasks wake each other in turn: half of the wake-ups each."""
    fairpool = bench_tasks.fairpool
    here, there = fairpool.Event(), fairpool.Event()

    async def player(mine: Any, other: Any) -> None:
        for _ in range(count // 2):
            await mine.wait()
            mine.clear()
            other.set()

    here.set()
    await fairpool.gather(player(here, there), player(there, here))


@row("Event")
def event(_: Sizes) -> float:
    return in_pool(set_and_wait, 8_000)


async def share_permit(count: int) -> None:
    fairpool = bench_tasks.fairpool
    semaphore = fairpool.Semaphore(2)

    async def client() -> None:
        for _ in range(count // CLIENTS):
            async with semaphore:
                await fairpool.yield_now()

    await fairpool.gather(*[client() for _ in range(CLIENTS)])


@row("Semaphore")
def semaphore(_: Sizes) -> float:
    return in_pool(share_permit, 12_000)


async def put_and_get(count: int) -> None:
    fairpool = bench_tasks.fairpool
    items = fairpool.Queue(maxsize=16)

    async def producer() -> None:
        for number in range(count // 2):
            await items.put(number)

    async def consumer() -> None:
        for _ in range(count // 2):
            await items.get()

    await fairpool.gather(producer(), producer(), consumer(), consumer())


@row("Queue")
def queue_row(_: Sizes) -> float:
    return in_pool(put_and_get, 12_000)


async def sleeps(count: int) -> None:
    sleep = bench_tasks.fairpool.sleep
    await bench_tasks.fairpool.gather(*[sleep(0.001) for _ in range(count)])


@row("sleep")
def sleep(_: Sizes) -> float:
    return in_pool(sleeps, 8_000)


async def timeouts(count: int) -> None:
    timeout = bench_tasks.fairpool.timeout
    for _ in range(count):
        async with timeout(60):
            pass


@row("timeout")
def timeout(_: Sizes) -> float:
    return in_pool(timeouts, 15_000)


def run_often(count: int, pool: Any) -> None:
    for _ in range(count):
        pool.run(noop)


@row("pool.run")
def pool_run(_: Sizes) -> float:
    """On a pool without threads: the caller's own, and nothing else."""
    with require("fairpool", "FairPool").FairPool(max_workers=0) as pool:
        return per_operation(lambda: run_often(10_000, pool), 10_000)


def make_pools(count: int) -> None:
    for _ in range(count):
        with require("fairpool", "FairPool").FairPool(WORKERS) as pool:
            pool.submit(noop).result()


@row("a pool and its end")
def pool_life(_: Sizes) -> float:
    return per_operation(lambda: make_pools(100), 100)


@row("submit, pool with shares")
def beside_shares(_: Sizes) -> float:
    return bench_shares.per_task("has shares", 30_000)


@row("submit, in a share")
def in_share(_: Sizes) -> float:
    return bench_shares.per_task("in a share", 20_000)


@row("memory of a pending task")
def memory(_: Sizes) -> float:
    return float(run_probe(pending_memory, "fairpool", 50_000, timeout=60)["bytes_each"])


# --- the child ------------------------------------------------------------------------------------


def serve() -> int:
    """Answer each row's name on stdin with one line of JSON: what the child process does."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    order = json.loads(sys.stdin.readline())
    sizes = Sizes(**order["sizes"])
    if order["clock"] == "cpu":  # what all rows call
        time.perf_counter = time.process_time
    bench_tasks.load_fairpool()
    print(json.dumps({"imported": require("fairpool").__file__}), file=answers, flush=True)
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            answer = {"value": ROWS[line.strip()](sizes)}
        except Exception as error:
            traceback.print_exc()
            answer = {"failure": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


# --- the parent -----------------------------------------------------------------------------------


class Gone(Exception):
    """A version's process has ended, or hangs, in the middle of its rows."""


class Contender:
    """The process that runs the rows of one version in one round."""

    def __init__(self, folder: Path, sizes: Sizes, clock: str, pinned: bool) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        if not pinned:
            environment["FAIRPOOL_BENCH_UNPINNED"] = "1"
        else:
            environment.pop("FAIRPOOL_BENCH_UNPINNED", None)
        gil = [] if gil_enabled() else ["-X", "gil=0"]
        self._child = subprocess.Popen(
            [sys.executable, *gil, "-X", "faulthandler", str(_HERE), "--serve-rows"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        order = json.dumps({"sizes": vars(sizes), "clock": clock})
        imported = str(self._ask(order)["imported"])
        if not Path(imported).is_relative_to(folder):
            raise RuntimeError(f"fairpool was imported from {imported}, not from {folder}")

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()
            answer = self._answers.get(timeout=ROW_TIME_LIMIT)
        except (OSError, queue.Empty) as error:
            self._child.kill()
            raise Gone("hangs" if isinstance(error, queue.Empty) else "its process ended") from None
        if not answer:
            raise Gone("its process ended")
        found: dict[str, Any] = json.loads(answer)
        return found

    def run(self, name: str) -> float:
        """The cost that the row has found; Gone if the process cannot go on."""
        answer = self._ask(name)
        if "failure" in answer:
            raise RuntimeError(answer["failure"])
        return float(answer["value"])

    def close(self) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.close()
            self._child.wait(30)
        except (OSError, subprocess.TimeoutExpired):
            self._child.kill()
            self._child.wait()


@contextmanager
def installed(source: Path | None) -> Iterator[Path]:
    """A folder with the `fairpool` of this wheel, or of this interpreter."""
    with tempfile.TemporaryDirectory(prefix="fairpool-bench-") as name:
        folder = Path(name).resolve()
        if source is None:
            package = Path(require("fairpool").__file__).parent
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(package, folder / "fairpool", ignore=ignored)
        else:
            with zipfile.ZipFile(source) as wheel:
                wheel.extractall(folder)
        if not (folder / "fairpool" / "__init__.py").is_file():
            raise SystemExit(f"{source} is no wheel of fairpool: it has no fairpool/__init__.py")
        compileall.compile_dir(folder, quiet=1)
        yield folder


@dataclass
class Pairs:
    """What the rounds have found for one row."""

    old: list[float] = field(default_factory=list)
    new: list[float] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def speeds(self) -> list[float]:
        return [old / new for old, new in zip(self.old, self.new, strict=True)]


def interval(values: list[float]) -> tuple[float, float] | None:
    """Between which values the median lies, at 95 % or more, by signs; None of fewer than six."""
    count = len(values)
    rank, below = 0, 0.0
    while (below := below + math.comb(count, rank) / 2**count) <= 0.025:
        rank += 1
    ordered = sorted(values)
    return (ordered[rank - 1], ordered[count - rank]) if rank else None


def has_lost(bounds: tuple[float, float] | None, loss: float) -> bool:
    """Whether the whole interval lies below 1 - loss."""
    return bounds is not None and bounds[1] < 1 - loss


def one_round(
    folders: dict[str, Path],
    order: list[str],
    names: list[str],
    sizes: Sizes,
    clock: str,
    pinned: bool,
) -> Iterator[tuple[str, str, float | str]]:
    """The row, the version, and its cost or why there is none."""
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        gone: dict[str, str] = {}
        for version in order:
            contender = Contender(folders[version], sizes, clock, pinned)
            stack.callback(contender.close)
            contenders[version] = contender
        for name in names:
            for version in order:
                if version in gone:
                    continue
                try:
                    yield name, version, contenders[version].run(name)
                except Gone as error:
                    gone[version] = str(error)
                    yield name, version, f"{error} in this row"
                except RuntimeError as error:
                    yield name, version, str(error)


def measure(
    folders: dict[str, Path], names: list[str], rounds: int, clock: str, pinned: bool
) -> dict[str, Pairs]:
    sizes = Sizes.measured()
    found = {name: Pairs() for name in names}
    for number in range(rounds):
        if sys.stderr.isatty():
            print(f"\rround {number + 1} of {rounds} ", end="", file=sys.stderr)
        order = ["old", "new"] if number % 2 == 0 else ["new", "old"]
        costs: dict[str, dict[str, float]] = {name: {} for name in names}
        for name, version, cost in one_round(folders, order, names, sizes, clock, pinned):
            if isinstance(cost, str):
                found[name].failures[version] = cost
            else:
                costs[name][version] = cost
        for name, pair in costs.items():
            if len(pair) == 2:
                found[name].old.append(pair["old"])
                found[name].new.append(pair["new"])
    return found


def cost_text(name: str, cost: float) -> str:
    return f"{cost:.0f} B" if name.startswith("memory") else f"{cost * 1e6:.2f} µs"


def speed_text(speeds: list[float], loss: float) -> tuple[str, str, str]:
    """The median ratio, its interval, and the verdict."""
    bounds = interval(speeds)
    between = f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else "too few pairs"
    if has_lost(bounds, loss):
        verdict = f"LOST more than {loss:.0%}"
    elif bounds is not None and bounds[1] < 1:
        verdict = "slower"
    elif bounds is not None and bounds[0] > 1:
        verdict = "faster"
    else:
        verdict = "" if bounds else "?"
    return f"{statistics.median(speeds):.3f}", between, verdict


def report(found: dict[str, Pairs], loss: float) -> list[tuple[str, ...]]:
    """The lines of the table: what, old, new, speed, 95 % interval, verdict."""
    lines: list[tuple[str, ...]] = [("what", "old", "new", "speed", "95 % interval", "")]
    for name, pairs in found.items():
        failures = "; ".join(f"{version}: {why}" for version, why in pairs.failures.items())
        if not pairs.old:
            lines.append((name, "", "", "", "", failures))
            continue
        old, new = (cost_text(name, statistics.median(each)) for each in (pairs.old, pairs.new))
        speed, between, verdict = speed_text(pairs.speeds(), loss)
        lines.append((name, old, new, speed, between, "; ".join(filter(None, (verdict, failures)))))
    whole = [pairs for pairs in found.values() if pairs.old and not pairs.failures]
    if whole:
        means = [
            statistics.geometric_mean(round_)
            for round_ in zip(*(p.speeds() for p in whole), strict=True)
        ]
        what = f"geometric mean of {len(whole)} rows"
        lines.append((what, "", "", *speed_text(means, loss)))
    return lines


def aligned(lines: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines = [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def compare_versions(
    old: Path,
    new: Path | None,
    names: list[str],
    rounds: int,
    loss: float,
    clock: str,
    pinnings: list[bool],
) -> None:
    """Measure and print: a table with pinned workers, one without, or both."""
    with installed(old) as old_folder, installed(new) as new_folder:
        folders = {"old": old_folder, "new": new_folder}
        for pinned in pinnings:
            found = measure(folders, names or list(ROWS), rounds, clock, pinned)
            pins = "pinned" if pinned else "not pinned"
            print(f"\n{rounds} rounds, workers {pins}, {clock} time\n")
            print(aligned(report(found, loss)))
            lost = [
                name for name, pairs in found.items() if has_lost(interval(pairs.speeds()), loss)
            ]
            print(f"\nLost more than {loss:.0%}: {', '.join(lost) or 'none'}.")
    print("Speed: the median of the pairs' ratios, old cost / new cost; above 1 is faster.")
    print(
        "Its interval is that of the median by signs. Lost: the whole interval is below the line."
    )
