"""What becomes of the package on 1 to 1,024 processors: `docs/scaling.md`, its tables and plots.

`python tests/bench/scaling.py [names…]`: `hot`, `many`, `few`, `fork`, `why`, `million` and `real`
(all by default). Each prints a table; with `--plots=FOLDER` the plots are drawn from what was
measured in this run and, as far as they are there, in earlier ones, which `FOLDER/measured.json`
keeps.

`real` runs the same programs on the real pool, with one and two workers, and prints how far off the
simulation is. It is for a free-threaded interpreter; the others are the same on each build.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from contend import iterations, spin
from harness import pin_next_cpu

import fairpool
from fairpool import FairPool
from fairpool.testing import Costs, Simulation, simulate, work

WORKERS = [1 << n for n in range(11)]

# Turns of clients, or leaves of the tree, for one simulation: enough for the quantiles.
TURNS = 12_000

# At least so many turns of each client.
TURNS_EACH_MIN = 6

# Of the clients' time, the part at the beginning that is not counted.
WARM_UP = 0.25

DEFAULTS = Costs()

Busy = Callable[[float], Any]


# --- programs -------------------------------------------------------------------------------------


class Clients:
    """Clients that take turns: a while inside a lock, a while outside. Two for each worker."""

    def __init__(
        self, section: float, rest: float, locks: Callable[[int], int], hot: int, title: str
    ) -> None:
        """`locks(workers)`: how many there are. Half of the turns go to the `hot` first, if any."""
        self.section, self.rest, self.locks, self.hot = section, rest, locks, hot
        self.title = title

    def bound(self, workers: int) -> float:
        """Turns per second that no scheduler can exceed."""
        by_workers = workers / (self.section + self.rest)
        locks = self.locks(workers)
        # The busiest locks: all of them, or those that are hot.
        by_locks = (2 * self.hot if self.hot else locks) / self.section
        return min(by_workers, by_locks)

    def choose(self, rng: Random, locks: list[Any]) -> Any:
        if self.hot and rng.random() < 0.5:
            return locks[rng.randrange(self.hot)]
        return locks[rng.randrange(len(locks))]

    def bare(self, busy: Busy) -> Callable[[], None]:
        """A turn without any lock, with all else that a client does."""
        clock, rng, locks = time.monotonic_ns, Random(0), list(range(16))
        mine: list[tuple[int, int]] = []

        def turn() -> None:
            asked = clock()
            self.choose(rng, locks)
            waited = clock() - asked
            busy(self.section)
            busy(self.rest)
            mine.append((clock(), waited))

        return turn

    def program(self, workers: int, busy: Busy, window: float) -> Callable[[FairPool], Any]:
        def run(pool: FairPool) -> dict[str, Any]:
            clock = time.monotonic_ns  # the virtual one, in a simulation
            locks = [pool.lock() for _ in range(self.locks(workers))]
            turns: list[list[tuple[int, int]]] = []  # of each client: when it was back, its wait
            ends: list[float] = []

            async def client(number: int) -> None:
                rng = Random(number)
                mine: list[tuple[int, int]] = []
                turns.append(mine)
                while (asked := clock()) < ends[0]:
                    async with self.choose(rng, locks):
                        waited = clock() - asked
                        busy(self.section)
                    busy(self.rest)
                    mine.append((clock(), waited))

            gate = all_started(pool, workers)
            clients = [pool.submit(client, number) for number in range(max(2 * workers, 8))]
            begin = clock()
            ends.append(begin + window * 1e9)
            gate.set()
            for each in clients:
                each.result()
            counted = begin + WARM_UP * window * 1e9
            seen = [[wait for at, wait in mine if counted <= at <= ends[0]] for mine in turns]
            waits = sorted(wait for mine in seen for wait in mine)
            numbers = [len(mine) for mine in seen]
            return {
                "rate": len(waits) / (window * (1 - WARM_UP)),
                "waits": [quantile(waits, q) for q in (0.5, 0.99, 0.999)],
                "jain": sum(numbers) ** 2 / (len(numbers) * sum(n * n for n in numbers)),
            }

        return run

    def window(self, workers: int) -> float:
        clients = max(2 * workers, 8)
        turns = max(TURNS, TURNS_EACH_MIN * clients)
        return turns / self.bound(workers)


class ForkJoin:
    """A binary tree of tasks: 2 µs at each fork, 100 µs at each leaf."""

    fork, leaf = 2e-6, 100e-6
    title = "fork-join"

    def bare(self, busy: Busy) -> Callable[[], None]:
        def turn() -> None:
            busy(self.fork)
            busy(self.leaf)

        return turn

    def leaves(self, workers: int) -> int:
        return int(min(max(64 * workers, 1024), 32_768))

    def bound(self, workers: int) -> float:
        return workers / (self.fork + self.leaf)

    def program(self, workers: int, busy: Busy, window: float) -> Callable[[FairPool], Any]:
        depth = self.leaves(workers).bit_length() - 1

        async def node(depth: int) -> int:
            if not depth:
                busy(self.leaf)
                return 1
            busy(self.fork)
            return sum(await fairpool.gather(node(depth - 1), node(depth - 1), eager_start=True))

        def run(pool: FairPool) -> dict[str, Any]:
            gate = all_started(pool, workers)
            begin = time.monotonic_ns()
            root = pool.submit(node, depth)
            gate.set()
            leaves = root.result()
            return {"rate": leaves / (time.monotonic_ns() - begin) * 1e9}

        return run

    def window(self, workers: int) -> float:
        return 0.0


WORKLOADS: dict[str, Any] = {
    "hot": Clients(15e-6, 240e-6, lambda workers: 1, 0, "one hot lock"),
    "many": Clients(15e-6, 60e-6, lambda workers: 8 * workers, 0, "many locks"),
    "few": Clients(15e-6, 60e-6, lambda workers: 8 * workers, 4, "many locks, 4 of them hot"),
    "fork": ForkJoin(),
}


def all_started(pool: FairPool, workers: int) -> threading.Event:
    """Have all workers wait in tasks, until the event that is returned is set."""
    gate = threading.Event()
    meeting = threading.Barrier(workers + 1)

    def hold() -> None:
        meeting.wait()
        gate.wait()

    for _ in range(workers):
        pool.submit(hold)
    meeting.wait()
    return gate


def quantile(ordered: list[int], q: float) -> float:
    return ordered[round((len(ordered) - 1) * q)] * 1e-9 if ordered else 0.0


# --- simulated ------------------------------------------------------------------------------------


def point(workload: Any, workers: int, costs: Costs = DEFAULTS) -> dict[str, Any]:
    """One workload on so many processors."""
    program = workload.program(workers, work, workload.window(workers))
    simulation: Simulation = simulate(program, workers, costs=costs)
    found = dict(simulation.result)
    # Of the whole run, its beginning and its end included.
    sections = sum(lock.sections for lock in simulation.locks)
    turns = sections or simulation.tasks
    spent = simulation.spent
    found |= {
        "workers": workers,
        "share": found["rate"] / workload.bound(workers),
        "hand_offs": sum(lock.hand_offs for lock in simulation.locks) / turns,
        "combined": sum(lock.combined for lock in simulation.locks) / turns if sections else 0.0,
        "steals": simulation.steals / turns,
        "looks": simulation.looks / turns,
        "look_time": (spent.get("look", 0) + spent.get("check", 0)) / turns,
        "wakes": simulation.wake_ups / turns,
        "migrations": simulation.migrations / turns,
        "real_time": simulation.real_time,
        "events": simulation.events,
    }
    return found


def scale(name: str) -> list[dict[str, Any]]:
    """A workload on 1 to 1,024 processors; prints its table."""
    workload = WORKLOADS[name]
    print(f"\n### {workload.title}\n")
    locks = isinstance(workload, Clients)
    head = ["workers", "per second", "of bound"]
    head += ["wait 50 %", "99 %", "99.9 %", "Jain", "hand-offs"] if locks else ["steals"]
    head += ["looks", "looking"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    points = []
    for workers in WORKERS:
        found = point(workload, workers)
        points.append(found)
        cells = [f"{workers:,}", f"{found['rate']:,.0f}", f"{found['share']:.2f}"]
        if locks:
            cells += [microseconds(wait) for wait in found["waits"]]
            cells += [f"{found['jain']:.2f}", f"{found['hand_offs']:.2f}"]
        else:
            cells += [f"{found['steals']:.3f}"]
        cells += [f"{found['looks']:,.1f}", microseconds(found["look_time"])]
        print(f"| {' | '.join(cells)} |", flush=True)
    return points


# The costs that are set to nothing, each in turn, to find the one that keeps from the bound.
FREE_OF: dict[str, dict[str, float]] = {
    "(with all costs)": {},
    "looks": {"look": 0.0, "check": 0.0},
    "wake-ups": {"unpark": 0.0, "wake": 0.0},
    "moving": {"steal": 0.0, "migrate": 0.0, "away": 1.0},
    "sections, steps and suspensions": {
        "submit": 0.0,
        "step": 0.0,
        "suspend": 0.0,
        "section": 0.0,
        "enter": 0.0,
    },
}

WHY_WORKERS = 128


def why() -> None:
    """The share of the bound with this and that for nothing."""
    print(f"\n### The share of the bound on {WHY_WORKERS} processors\n")
    titles = [workload.title for workload in WORKLOADS.values()]
    print(f"| without the cost of | {' | '.join(titles)} |\n|{'---|' * (len(titles) + 1)}")
    for name, free in FREE_OF.items():
        costs = replace(DEFAULTS, **free)
        shares = [point(each, WHY_WORKERS, costs)["share"] for each in WORKLOADS.values()]
        cells = [f"{share:.2f}" for share in shares]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs" if seconds >= 10e-6 else f"{seconds * 1e6:.1f} µs"


def million() -> None:
    """1,000,000 tasks on 1,024 workers: how long that takes, really, and how much memory."""

    def program(pool: FairPool) -> int:
        done = 0
        for future in [pool.submit(work, 2e-3) for _ in range(1_000_000)]:
            future.result()
            done += 1
        return done

    simulation = simulate(program, 1024)
    print(
        f"\n1,024 workers, {simulation.tasks:,} tasks of 2 ms: {simulation.elapsed:.3f} s of the "
        f"virtual clock, workers busy for {simulation.utilization:.1%}; really "
        f"{simulation.real_time:.1f} s, {simulation.events:,} events, "
        f"{simulation.peak_memory / 2**20:.0f} MiB"
    )
    if simulation.result != simulation.tasks or simulation.tasks != 1_000_000:
        raise SystemExit("not every task was run exactly once")


# --- and real -------------------------------------------------------------------------------------

# How long one round lasts, at most (s).
ROUND = 0.4


def bare_threads(workers: int, workload: Any, busy: Busy) -> float:
    """Turns per second of so many threads that have no lock, no pool, and nothing to wait for."""
    cpus = count()
    meeting = threading.Barrier(workers)
    rates: list[float] = []

    def thread() -> None:
        pin_next_cpu(cpus)
        turn = workload.bare(busy)
        meeting.wait()
        begin = time.monotonic()
        turns = 0
        while (spent := time.monotonic() - begin) < ROUND:
            turn()
            turns += 1
        rates.append(turns / spent)

    threads = [threading.Thread(target=thread) for _ in range(workers)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return sum(rates)


def real(rounds: int = 7) -> list[dict[str, Any]]:
    """The same programs on the real pool; prints what is measured, simulated, and the error.

    The bound is measured in the same round, with bare threads: so it has the same neighbours, and
    two processors slow each other down as much. With one or two workers it is nowhere the locks.
    """
    each_second = iterations(spin, 1e-3) * 1e3

    def busy(seconds: float) -> None:
        spin(int(seconds * each_second))

    print("\n### 1 and 2 workers, simulated and measured\n")
    print("| | workers | of the bound: measured (min to max) | simulated | error |")
    print("|---|---|---|---|---|")
    rows = []
    for name, workload in WORKLOADS.items():
        for workers in (1, 2):
            shares = []
            for _ in range(rounds):
                bound = bare_threads(workers, workload, busy)
                with FairPool(workers, initializer=pin_next_cpu, initargs=(count(),)) as pool:
                    rate = workload.program(workers, busy, ROUND)(pool)["rate"]
                bound = (bound + bare_threads(workers, workload, busy)) / 2
                shares.append(rate / bound)
            simulated = point(workload, workers)["share"]
            measured = statistics.median(shares)
            error = simulated / measured - 1
            rows.append({"name": name, "workers": workers, "error": error})
            print(
                f"| {workload.title} | {workers} | {measured:.2f} ({min(shares):.2f} to "
                f"{max(shares):.2f}) | {simulated:.2f} | {error:+.0%} |",
                flush=True,
            )
    return rows


# --- plots ----------------------------------------------------------------------------------------


def draw(measured: dict[str, Any], folder: Path) -> None:
    """The plots of the document."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "fairpool", "font.size": 9, "axes.grid": True}
    )
    from matplotlib import pyplot

    def plot(
        name: str, title: str, unit: str, lines: dict[str, list[float]], log: bool = True
    ) -> None:
        figure, axes = pyplot.subplots(figsize=(5.6, 3.2))
        for label, values in lines.items():
            axes.plot(WORKERS, values, marker="o", markersize=3, label=label)
        axes.set_xscale("log", base=2)
        if log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.05)
        axes.set_xticks(WORKERS, [f"{n:,}" for n in WORKERS])
        axes.minorticks_off()
        axes.set_xlabel("workers")
        axes.set_ylabel(unit)
        axes.set_title(title)
        axes.legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)

    there = {name: measured[name] for name in WORKLOADS if name in measured}

    def column(name: str, key: str) -> list[float]:
        return [found[key] for found in there[name]]

    def every(key: str, names: list[str] | None = None) -> dict[str, list[float]]:
        chosen = [name for name in there if names is None or name in names]
        return {WORKLOADS[name].title: column(name, key) for name in chosen}

    plot("share", "throughput", "share of the bound", every("share"), log=False)
    locks = [name for name in there if isinstance(WORKLOADS[name], Clients)]
    for name in locks:
        waits = {
            label: [found["waits"][i] * 1e6 or float("nan") for found in there[name]]
            for i, label in enumerate(("50 %", "99 %", "99.9 %"))
        }
        plot(f"waits-{name}", f"waits: {WORKLOADS[name].title}", "µs", waits)
    plot("jain", "Jain's index of the clients' turns", "index", every("jain", locks), log=False)
    plot("looks", "workers' queues looked at, per turn", "looks", every("looks"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/bench/scaling.py", description=__doc__)
    others: dict[str, Callable[[], Any]] = {"why": why, "million": million, "real": real}
    everything = [*WORKLOADS, *others]
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(everything)}")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="where to draw the plots")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in everything]:
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(everything)}")
    kept = options.plots / "measured.json" if options.plots else None
    measured = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for name in options.names or everything:
        if name in others:
            others[name]()
        else:
            measured[name] = scale(name)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(measured, indent=1) + "\n")
        draw(measured, kept.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
