"""`Explorer`: many runs of one scenario, each under another schedule; and the story of a failure.

A *plan* is what decides a run: the list of decisions (see `_strategies`), and the seed of the
choices that the package itself leaves to luck. It is written as a text, such as `3/40:2,61:0`: luck
3; at step 40 thread 2 goes on, at step 61 thread 0.
"""

from __future__ import annotations

import gc
import linecache
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import FrameType

from fairpool.testing._points import Points
from fairpool.testing._run import (
    Abandoned,
    Deadlock,
    Livelock,
    Moment,
    Run,
    Strategy,
    Stuck,
    is_failure,
)
from fairpool.testing._strategies import PCT, Decisions, RandomWalk, Replay, Systematic
from fairpool.testing._world import running, world

# The collector is off during a run, because it would call a `__del__` at no step of the schedule.
RUNS_BETWEEN_COLLECTIONS = 500

# How many runs a failing schedule is shrunk with, at most.
SHRINKING_RUNS = 400

# PCT is tried with these depths in turn.
DEPTHS = (2, 3, 4, 6)

# How many lines of one thread are shown at the start of a stretch, and at its end.
SHOWN = 4


@dataclass(frozen=True)
class Plan:
    """What decides a run."""

    luck: int
    decisions: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return f"{self.luck}/" + ",".join(f"{step}:{thread}" for step, thread in self.decisions)

    @classmethod
    def parse(cls, text: str) -> Plan:
        try:
            luck, _, rest = text.partition("/")
            pairs = (each.split(":") for each in rest.split(",") if each)
            return cls(int(luck), tuple((int(step), int(thread)) for step, thread in pairs))
        except ValueError:
            raise ValueError(f"not a schedule: {text!r}; it looks like '3/40:2,61:0'") from None


class InterleavingError(AssertionError):
    """A scenario failed under some interleaving; its `__cause__` is how.

    `seed`: what `explore(scenario, replay=seed)` takes to do it again. `schedule`: the same, shrunk
    to the fewest switches, as a text that `replay` takes as well. `history`: the lines that the
    threads ran under the shrunk schedule, in order, as pairs (thread, line).
    """

    def __init__(
        self, message: str, seed: int | str, schedule: str, history: list[tuple[str, str]]
    ) -> None:
        super().__init__(message)
        self.seed = seed
        self.schedule = schedule
        self.history = history


@dataclass
class Failure:
    """A run that failed, shrunk."""

    plan: Plan
    error: BaseException
    run: Run
    found_after: int  # schedules, this one included
    seed: int | str
    switches_before: int

    def as_error(self) -> InterleavingError:
        switches = f"{len(self.plan.decisions)} switches of {self.switches_before}"
        how = (
            f"after {self.found_after} schedules; again with replay={self.seed!r}, or "
            f"replay={str(self.plan)!r} ({switches})"
        )
        return error_of(self.run, how, self.seed, str(self.plan))


def error_of(run: Run, how: str, seed: int | str, schedule: str) -> InterleavingError:
    """The error of a run that failed, and was recorded."""
    cause = run.errors[0]
    history = lines_of(run.history or [])
    try:
        text = str(cause)
    except Exception:  # it is the user's
        text = object.__repr__(cause)
    message = [f"{type(cause).__name__}{': ' if text else ''}{text}", how, *shown(history)]
    if isinstance(cause, (Deadlock, Livelock)):
        message += ["where the threads are:", run.states]
    error = InterleavingError("\n".join(message), seed, schedule, history)
    error.__cause__ = cause
    return error


def lines_of(moments: list[Moment]) -> list[tuple[str, str]]:
    """A history as pairs (thread, line), without repetitions."""
    lines = []
    before = None
    for moment in moments:
        if moment.place != before and moment.line:
            source = linecache.getline(moment.filename, moment.line).strip()
            where = f"{os.path.basename(moment.filename)}:{moment.line}"
            lines.append((moment.thread, f"{where:<20} {moment.function:<28} {source}"))
        before = moment.place
    return lines


def shown(history: list[tuple[str, str]]) -> Iterator[str]:
    """The history for people to read: of long stretches, only the two ends."""
    width = max((len(thread) for thread, _ in history), default=0)
    start = 0
    while start < len(history):
        end = start
        while end < len(history) and history[end][0] == history[start][0]:
            end += 1
        for i in range(start, end):
            if i == start + SHOWN and end - start > 2 * SHOWN + 1:
                yield f"  {'':<{width}} | ... {end - start - 2 * SHOWN} lines"
            if not start + SHOWN <= i < end - SHOWN or end - start <= 2 * SHOWN + 1:
                thread = history[i][0] if i == start else ""
                yield f"  {thread:<{width}} | {history[i][1]}"
        start = end


class Explorer:
    """Runs a scenario under schedules of its choice."""

    def __init__(
        self,
        scenario: Callable[[], object],
        points: Points,
        interesting: Callable[[FrameType], bool],
        preemptions: int = 2,
    ) -> None:
        self._scenario = scenario
        self.points = points
        self.interesting = interesting
        self._preemptions = preemptions
        self._runs = 0
        self.steps = 0  # of the usual run
        self.schedules = 0
        self.complete = False  # whether a systematic search has come to its end

    @contextmanager
    def in_place(self, collect: bool = True) -> Iterator[None]:
        """The world of a run, for as many runs as wanted."""
        was_on = gc.isenabled()
        hook = sys.unraisablehook
        if collect:
            gc.collect()
        gc.disable()
        sys.unraisablehook = lambda args: (
            None if args.exc_type is Abandoned else hook(args)  # a finalizer was unwound
        )
        try:
            with world(), self.points.reported(), warnings.catch_warnings():
                # An unwound thread leaves coroutines that have not begun.
                warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
                yield
        finally:
            sys.unraisablehook = hook
            if was_on:
                gc.enable()

    def execute(self, strategy: Strategy, luck: int, record: bool = False) -> Run:
        """One run."""
        self._runs += 1
        if self._runs % RUNS_BETWEEN_COLLECTIONS == 0:
            gc.collect()
        run = Run(strategy, luck, record, self.points.trace_thread)
        run.interesting = self.interesting
        with running(run):
            try:
                try:
                    self.points.trace_thread()  # again: an unwound thread is not traced any more
                    self._scenario()
                    run.join()
                except Abandoned:
                    pass
                except BaseException as error:
                    if not is_failure(error):
                        raise
                    run.fail(error)
            finally:
                run.close()
        return run

    def search(self, schedules: int, seed: int, strategy: str) -> Failure | None:
        """Look for a failure in that many schedules."""
        usual = self.execute(Replay([]), 0)
        self.steps = usual.step
        self.schedules = 1
        if usual.errors:
            return self._failure(usual, 0, "0/")
        if strategy == "systematic":
            return self._search_systematically(schedules, Random(seed))
        while self.schedules < schedules:
            number = seed + self.schedules
            self.schedules += 1
            run = self.execute(self._strategy(number, strategy), number)
            if run.errors:
                return self._failure(run, number, number)
        return None

    def replay(self, seed: int | str, strategy: str) -> Failure | None:
        """Run one schedule again."""
        self.schedules = 1
        if isinstance(seed, str):
            plan = Plan.parse(seed)
            run = self.execute(Replay(list(plan.decisions)), plan.luck)
            return self._failure(run, plan.luck, seed, shrink=False) if run.errors else None
        self.steps = self.execute(Replay([]), 0).step
        run = self.execute(self._strategy(seed, strategy), seed)
        return self._failure(run, seed, seed) if run.errors else None

    def _strategy(self, number: int, strategy: str) -> Strategy:
        rng = Random(number)
        if strategy == "random" or (strategy == "mixed" and number % 2):
            return RandomWalk(rng)
        return PCT(rng, rng.choice(DEPTHS), max(self.steps, 1))

    def _search_systematically(self, schedules: int, rng: Random) -> Failure | None:
        # By the number of preemptions: what needs few of them is found first. Those with the same
        # number in no order, so that the first of them, if not all are run, are a sample of all.
        levels: list[list[Decisions]] = [[] for _ in range(self._preemptions + 1)]
        levels[0].append([])
        for preempted, level in enumerate(levels):
            while level:
                if self.schedules >= schedules:
                    return None
                drawn = rng.randrange(len(level))
                level[drawn], level[-1] = level[-1], level[drawn]
                prefix = level.pop()
                strategy = Systematic(prefix)
                self.schedules += 1
                run = self.execute(strategy, 0)
                if run.errors:
                    return self._failure(run, 0, str(Plan(0, tuple(run.decisions))))
                for step, thread, preempts in strategy.others:
                    if preempted + preempts <= self._preemptions:
                        levels[preempted + preempts].append([*prefix, (step, thread)])
        self.complete = True
        return None

    # --- shrinking -------------------------------------------------------------------------------

    def _failure(self, run: Run, luck: int, seed: int | str, shrink: bool = True) -> Failure:
        before = len(run.decisions)
        # A stuck thread is waited for, each time.
        shrink = shrink and not isinstance(run.errors[0], Stuck)
        decisions = self._shrink(run, luck) if shrink else run.decisions
        last = self.execute(Replay(decisions), luck, record=True)
        if not last.errors:
            raise RuntimeError(
                f"the scenario failed with {run.errors[0]!r}, and did not fail again under the "
                "same schedule: it depends on something that is not under the explorer's control"
            ) from run.errors[0]
        plan = Plan(luck, tuple(decisions))
        if isinstance(seed, str):
            seed = str(plan)
        return Failure(plan, last.errors[0], last, self.schedules, seed, before)

    def _shrink(self, run: Run, luck: int) -> Decisions:
        """Leave out decisions as long as it fails in the same way."""
        kind = type(run.errors[0])

        def fails(decisions: Decisions) -> Decisions | None:
            again = self.execute(Replay(decisions), luck)
            same = again.errors and type(again.errors[0]) is kind
            return list(again.decisions) if same else None

        decisions = list(run.decisions)
        left = SHRINKING_RUNS
        size = max(len(decisions) // 2, 1)
        while size and left:
            start = 0
            smaller = False
            while start < len(decisions) and left:
                left -= 1
                shorter = fails(decisions[:start] + decisions[start + size :])
                if shorter is not None:
                    decisions = shorter
                    smaller = True
                else:
                    start += size
            if not smaller or size > 1:
                size //= 2
        if len(decisions) > 1:  # perhaps a single one will do, which is none of these
            usual = Systematic([])
            self.execute(usual, luck)
            if len(usual.others) <= SHRINKING_RUNS:
                for step, thread, _ in usual.others:
                    if (single := fails([(step, thread)])) is not None:
                        return single
        return decisions
