"""Locks against their controls: throughput, fairness, and what bystanders pay.

`python tests/bench/controls.py [names…]`: `sustained`, `bursty`, `programs` and `real` (all but
`real` by default). Each prints a table. With `--plots=FOLDER`, `FOLDER/controls.json` keeps what
was measured, and the plot is drawn from it.

The first three are simulated, and repeat exactly; together they take five to eight minutes. `real`
runs on two pinned workers, and is for a free-threaded interpreter.

Each cell is one load (`lock_loads`) on one kind of lock (`kinds`). Beside the clients each worker
has a *bystander*, as in the field: it works as long as a light section, then lets others go first.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from itertools import count
from math import isfinite
from pathlib import Path
from threading import get_ident
from typing import Any

from bench_tasks import RUNTIMES
from contend import iterations, jain, quantile, spin
from harness import NotThereYet, pin_next_cpu
from kinds import KINDS, Kind, Tonio, switched
from lock_loads import LOADS, Load, Section, World
from scaling import all_started

from fairpool import FairPool
from fairpool.testing import simulate, work

WORKERS = (4, 8, 16)
LIGHTS = (2e-6, 15e-6, 100e-6)

# A simulated cell lasts as long as so many turns of each client take, with nothing else to do.
TURNS_EACH = 60

# The simulated time of an fsync.
SYNC = 100e-6

# A worker's bystanders have a quantile if they have given way so often there.
SAMPLES_MIN = 50


@dataclass(frozen=True)
class Cell:
    """What one run has shown. Times are in seconds."""

    load: str
    kind: str
    workers: int
    light: float
    rate: float
    """Sections per second."""
    busy: float
    """The part of the time in which somebody was inside."""
    service: float
    """Jain's index of the clients' times inside."""
    burden: float
    """Jain's index of the workers' times inside."""
    median: float
    """Of the responses: from asking until the client goes on. And …"""
    p99: float
    longest: float
    bystander: float
    """The 99 % quantile of a bystander's `yield_now`, on the worker where it is the worst. And …"""
    trapped: float
    """… the longest of all."""
    steps: float
    """Steps of the bystander that had the fewest, as a part of those of the one with the most."""
    real_time: float = 0.0


class Run:
    """A load on a kind of lock, with bystanders; what each has seen."""

    def __init__(self, kind: Kind, load: Load, workers: int) -> None:
        self.kind, self.load, self.workers = kind, load, workers
        # Of each client, each turn: asked, entered, left, back, the worker inside.
        self.logs: list[list[tuple[float, float, float, float, int]]] = []
        # Of each bystander, each step: the worker on which it lay, and for how long.
        self.steps: list[list[tuple[int, float]]] = []

    async def client(self, number: int) -> None:
        clock, call = time.monotonic, self.kind.call
        log: list[tuple[float, float, float, float, int]] = []
        self.logs.append(log)
        requests = self.load.requests(number)
        result = None
        while True:
            try:
                section = requests.send(result)
            except StopIteration:
                return
            asked = clock()
            result, entered, left, worker = await call(partial(timed, section))
            log.append((asked, entered, left, clock(), worker))

    async def bystander(self) -> None:
        clock, world, light = time.monotonic, self.load.world, self.load.light
        steps: list[tuple[int, float]] = []
        self.steps.append(steps)
        while world.is_open():
            world.busy(light)
            worker, began = get_ident(), clock()
            await self.kind.yield_now()
            steps.append((worker, clock() - began))

    def __call__(self, seconds: float) -> dict[str, float]:
        """Run it for so long; return what a `Cell` has."""
        load = self.load
        load.world.open_for(seconds)
        self.kind.run(
            [partial(self.client, number) for number in range(load.clients)],
            [self.bystander] * self.workers,
        )
        load.check()
        turns = [turn for log in self.logs for turn in log]
        burden: defaultdict[int, float] = defaultdict(float)
        for _, entered, left, _, worker in turns:
            burden[worker] += left - entered
        idle = [0.0] * (self.workers - len(burden))
        delays: defaultdict[int, list[float]] = defaultdict(list)
        for worker, delay in (step for steps in self.steps for step in steps):
            delays[worker].append(delay)
        tails = [quantile(each, 0.99) for each in delays.values() if len(each) >= SAMPLES_MIN]
        responses = [back - asked for asked, _, _, back, _ in turns]
        steps = [len(each) for each in self.steps]
        # Clients end after their last turn: the rate is of the time up to there.
        lasted = max(left for *_, left, _, _ in turns) - load.world.end + seconds
        return {
            "rate": len(turns) / lasted,
            "busy": sum(burden.values()) / lasted,
            "service": jain(
                [sum(left - entered for _, entered, left, *_ in log) for log in self.logs]
            ),
            "burden": jain([*burden.values(), *idle]),
            "median": quantile(responses, 0.5),
            "p99": quantile(responses, 0.99),
            "longest": max(responses),
            "bystander": max(tails, default=float("nan")),
            "trapped": max((delay for each in delays.values() for delay in each), default=0.0),
            "steps": min(steps) / max(max(steps), 1),
        }


def timed(section: Section) -> tuple[Any, float, float, int]:
    """Run a section; its result, when it began and ended, and its worker."""
    entered = time.monotonic()
    result = section()
    return result, entered, time.monotonic(), get_ident()


def seconds_of(load: Load, workers: int) -> float:
    """How long a simulated cell lasts: by the bound of the lock or of the workers."""
    turn = max(load.mean, (load.mean + load.rest) / workers) * load.clients
    return TURNS_EACH * turn * load.light


def simulated(name: str, kind: str, workers: int, light: float, seconds: float = 0.0) -> Cell:
    """A cell on a simulated machine; `seconds` of its time, or as `TURNS_EACH` says."""
    load = LOADS[name](World(work, lambda data: work(SYNC)), light)

    def program(pool: FairPool) -> dict[str, float]:
        all_started(pool, workers).set()
        return Run(KINDS[kind](pool), load, workers)(seconds or seconds_of(load, workers))

    with switched(KINDS[kind]):
        simulation = simulate(program, workers)
    return Cell(name, kind, workers, light, **simulation.result, real_time=simulation.real_time)


# --- and real -------------------------------------------------------------------------------------

REAL_WORKERS = 2
REAL_SECONDS = 1.0
REAL_KINDS = (*KINDS, "tonio")


@cache
def spins_each_second() -> float:
    return iterations(spin, 1e-3) * 1e3


def really(name: str, kind: str, light: float, seconds: float = REAL_SECONDS) -> Cell:
    """A cell on two pinned workers. Raises NotThereYet where the kind's runtime is missing."""
    each_second = spins_each_second()

    def busy(seconds: float) -> None:
        spin(int(seconds * each_second))

    began = time.perf_counter()
    with tempfile.TemporaryFile() as file:

        def sync(data: bytes) -> None:
            os.write(file.fileno(), data)
            os.fsync(file.fileno())

        load = LOADS[name](World(busy, sync), light)
        gc.collect()
        if kind == "tonio":
            found = Run(Tonio(RUNTIMES["tonio"]().run), load, REAL_WORKERS)(seconds)
        else:
            with (
                switched(KINDS[kind]),
                FairPool(REAL_WORKERS, initializer=pin_next_cpu, initargs=(count(),)) as pool,
            ):
                all_started(pool, REAL_WORKERS).set()
                found = Run(KINDS[kind](pool), load, REAL_WORKERS)(seconds)
    return Cell(name, kind, REAL_WORKERS, light, **found, real_time=time.perf_counter() - began)


def middle(cells: list[Cell]) -> Cell:
    """Each number's median over the rounds of one cell."""
    numbers = {
        each.name: statistics.median(getattr(cell, each.name) for cell in cells)
        for each in fields(Cell)
        if each.name not in ("load", "kind", "workers", "light")
    }
    return replace(cells[0], **numbers)


# --- tables ---------------------------------------------------------------------------------------

HEAD = ["load", "workers", "section", "lock", "per second", "busy", "service", "burden"]
HEAD += ["response 50 %", "99 %", "longest", "bystander 99 %", "longest", "steps"]


def show(cell: Cell) -> Cell:
    """Print a row."""
    times = (cell.median, cell.p99, cell.longest, cell.bystander, cell.trapped)
    row = [cell.load, str(cell.workers), microseconds(cell.light), cell.kind, f"{cell.rate:,.0f}"]
    row += [f"{each:.2f}" for each in (cell.busy, cell.service, cell.burden)]
    row += [*map(microseconds, times), f"{cell.steps:.2f}"]
    print(f"| {' | '.join(row)} |", flush=True)
    return cell


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs" if isfinite(seconds) else "–"


def turns(name: str) -> list[Cell]:
    """A shape of `Turns`, simulated, with both mixes, each number of workers and each section."""
    return [
        show(simulated(load, kind, workers, light))
        for load in LOADS
        if load.startswith(name)
        for light in LIGHTS
        for workers in WORKERS
        for kind in KINDS
    ]


PROGRAMS = [name for name in LOADS if not name.startswith(("sustained", "bursty"))]
PROGRAM_WORKERS, PROGRAM_LIGHT = 8, 2e-6


def programs() -> list[Cell]:
    """The map, the queue and the log, simulated."""
    return [
        show(simulated(load, kind, PROGRAM_WORKERS, PROGRAM_LIGHT))
        for load in PROGRAMS
        for kind in KINDS
    ]


def real(rounds: int = 3) -> list[Cell]:
    """Every load on two real workers; the kinds alternate, and a row is the rounds' median."""
    cells = []
    for load in LOADS:
        for light in (PROGRAM_LIGHT,) if load in PROGRAMS else LIGHTS:
            found: defaultdict[str, list[Cell]] = defaultdict(list)
            for _ in range(rounds):
                for kind in REAL_KINDS:
                    try:
                        found[kind].append(really(load, kind, light))
                    except NotThereYet:
                        continue
            cells += [show(middle(each)) for each in found.values()]
    return cells


GROUPS: dict[str, Callable[[], list[Cell]]] = {
    "sustained": partial(turns, "sustained"),
    "bursty": partial(turns, "bursty"),
    "programs": programs,
    "real": real,
}


# --- the plot -------------------------------------------------------------------------------------


def draw(measured: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """Throughput against Jain's index of service, sections of 1:8."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "fairpool", "font.size": 9, "axes.grid": True}
    )
    from matplotlib import pyplot

    groups = [name for name in ("sustained", "bursty") if name in measured]
    figure, rows = pyplot.subplots(len(groups), 2, figsize=(8, 3.2 * len(groups)), squeeze=False)
    for name, (rates, uses) in zip(groups, rows, strict=True):
        cells = [cell for cell in measured[name] if cell["load"].endswith("1:8")]
        ticket = {
            (cell["workers"], cell["light"]): cell["rate"]
            for cell in cells
            if cell["kind"] == "ticket"
        }
        for kind in KINDS:
            mine = [cell for cell in cells if cell["kind"] == kind]
            service = [cell["service"] for cell in mine]
            relative = [cell["rate"] / ticket[cell["workers"], cell["light"]] for cell in mine]
            rates.scatter(service, relative, s=14, label=kind)
            uses.scatter(service, [cell["busy"] for cell in mine], s=14, label=kind)
        rates.set_ylabel("sections per second, of ticket's")
        uses.set_ylabel("part of the time in sections")
        uses.set_ylim(0, 1.05)
        rates.set_ylim(bottom=0)
        for axes in (rates, uses):
            axes.set_title(f"{name}, sections of 1:8")
            axes.set_xlabel("Jain's index of the clients' times inside")
    rows[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "controls.svg", metadata={"Date": None})
    pyplot.close(figure)


def as_json(cell: Cell) -> dict[str, Any]:
    """A cell for the file: four digits, and nothing that differs from run to run."""
    values = asdict(cell)
    del values["real_time"]
    return {
        key: (float(f"{value:.4g}") if isfinite(value) else None)
        if isinstance(value, float)
        else value
        for key, value in values.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/bench/controls.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="where to draw the plot")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in GROUPS]:
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    kept = options.plots / "controls.json" if options.plots else None
    measured = json.loads(kept.read_text()) if kept and kept.exists() else {}
    began = time.perf_counter()
    for name in options.names or ("sustained", "bursty", "programs"):
        print(f"\n### {name}\n")
        print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
        measured[name] = [as_json(cell) for cell in GROUPS[name]()]
    print(f"\nIt has taken {(time.perf_counter() - began) / 60:.1f} minutes.")
    if kept:
        lines = {name: ",\n".join(map(json.dumps, cells)) for name, cells in measured.items()}
        groups = [f'"{name}": [\n{cells}\n]' for name, cells in lines.items()]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("{\n" + ",\n".join(groups) + "\n}\n")
        draw(measured, kept.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
