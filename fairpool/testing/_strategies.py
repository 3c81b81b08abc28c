"""Strategies: which thread goes on.

Each of them asks for a word at some step, and at every step at which a thread blocks. What they
decide is written down as a list of (step, thread), for the steps at which another thread goes on
than the usual one: the one that runs, or, where that blocks, the oldest that can. `Replay` takes
such a list.
"""

from __future__ import annotations

from math import inf
from random import Random

from fairpool.testing._run import Controlled, Run

Decisions = list[tuple[int, int]]


class Replay:
    """The decisions of another run; a decision for a thread that cannot go on is passed over."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = sorted(decisions, reverse=True)
        self.stop: float = self._decisions[-1][0] if decisions else inf

    def choose(self, run: Run, runnable: list[Controlled]) -> Controlled:
        chosen = run.usual(runnable)
        decisions = self._decisions
        while decisions and decisions[-1][0] <= run.step:
            step, number = decisions.pop()
            if step == run.step:
                chosen = next((each for each in runnable if each.number == number), chosen)
        self.stop = decisions[-1][0] if decisions else inf
        return chosen

    def woken(self, run: Run, thread: Controlled) -> None:
        pass

    def yielded(self, run: Run, thread: Controlled) -> None:
        pass


class Gaps:
    """Switches at given distances: after `gap` steps, to the `choice`-th of the other threads."""

    def __init__(self, gaps: list[tuple[int, int]]) -> None:
        self._gaps = gaps[::-1]
        self.stop: float = gaps[0][0] if gaps else inf

    def choose(self, run: Run, runnable: list[Controlled]) -> Controlled:
        usual = run.usual(runnable)
        if run.step < self.stop:
            return usual
        _, choice = self._gaps.pop()
        self.stop = run.step + 1 + self._gaps[-1][0] if self._gaps else inf
        others = [each for each in runnable if each is not usual]
        return others[choice % len(others)] if others else usual

    def woken(self, run: Run, thread: Controlled) -> None:
        pass

    def yielded(self, run: Run, thread: Controlled) -> None:
        pass


class RandomWalk:
    """Any thread that can go on, after a random number of steps."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        # Long stretches find other bugs than short ones, so each walk has its own mean.
        self._mean = rng.choice((2, 8, 32, 128))
        self.stop = self._stretch()

    def _stretch(self) -> float:
        return 1 + int(self._rng.expovariate(1 / self._mean))

    def choose(self, run: Run, runnable: list[Controlled]) -> Controlled:
        if run.step < self.stop:  # a thread has blocked
            return self._rng.choice(runnable)
        self.stop = run.step + self._stretch()
        return self._rng.choice(runnable)

    def woken(self, run: Run, thread: Controlled) -> None:
        pass

    def yielded(self, run: Run, thread: Controlled) -> None:
        pass


class PCT:
    """Probabilistic concurrency testing (Burckhardt, Kothari, Musuvathi, Nagarakatte, ASPLOS 2010).

    Each thread has a random priority, and of those that can go on, the highest runs. At depth - 1
    random steps the running one falls below all others. A run of n threads and k steps finds a bug
    that needs `depth` ordering constraints with a probability of at least 1 / (n · k^(depth-1)).
    """

    def __init__(self, rng: Random, depth: int, steps: int) -> None:
        self._rng = rng
        count = min(depth - 1, steps)
        self._changes = sorted(rng.sample(range(1, steps + 1), count), reverse=True)
        self._priorities: dict[int, float] = {}
        self._lowest = 0.0
        self.stop: float = 1

    def _priority(self, thread: Controlled) -> float:
        priority = self._priorities.get(thread.number)
        if priority is None:
            priority = self._priorities[thread.number] = self._rng.random()
        return priority

    def _demote(self, thread: Controlled) -> None:
        self._lowest -= 1.0
        self._priorities[thread.number] = self._lowest

    def choose(self, run: Run, runnable: list[Controlled]) -> Controlled:
        changes = self._changes
        while changes and changes[-1] <= run.step:
            changes.pop()
            self._demote(run.current)
        self.stop = changes[-1] if changes else inf
        return max(runnable, key=self._priority)

    def woken(self, run: Run, thread: Controlled) -> None:
        self.stop = run.step + 1  # it may be higher than the one that runs

    def yielded(self, run: Run, thread: Controlled) -> None:
        self._demote(thread)


class Systematic:
    """A prefix of decisions, and notes of what else could have been decided after it."""

    def __init__(self, prefix: Decisions) -> None:
        self._prefix = dict(prefix)
        self._last = prefix[-1][0] if prefix else 0
        self.stop: float = 1
        # (step, thread, whether that is a preemption) for each other way to go on
        self.others: list[tuple[int, int, bool]] = []

    def choose(self, run: Run, runnable: list[Controlled]) -> Controlled:
        step = run.step
        self.stop = step + 1
        chosen = run.usual(runnable)
        number = self._prefix.get(step)
        if number is not None:
            return next((each for each in runnable if each.number == number), chosen)
        # Where a thread lets others go first it is another's turn: a loop that waits would else
        # give no end of choices.
        if step > self._last and not run.yields:
            preempts = chosen is run.current
            self.others += [
                (step, each.number, preempts) for each in runnable if each is not chosen
            ]
        return chosen

    def woken(self, run: Run, thread: Controlled) -> None:
        pass

    def yielded(self, run: Run, thread: Controlled) -> None:
        pass
