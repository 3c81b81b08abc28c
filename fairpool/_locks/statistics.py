"""`Counters`: what a lock counts; `LockStatistics`: what users see of that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fairpool._core.runqueue import RunQueue
from fairpool._core.types import AnyWorker
from fairpool._locks.host import PassWorker

NANOSECOND = 1e-9

# How many of the latest waits and responses a lock remembers, and of how many sections one is
# looked at (all whose number has these bits unset).
SAMPLES = 1024
SAMPLE_MASK = 7


class Burden:
    """How long one worker has run passes of a lock (key)."""

    __slots__ = ("time",)

    def __init__(self) -> None:
        self.time = 0


class Counters:
    """What a lock counts (key)."""

    __slots__ = (
        "__weakref__",
        "burden",
        "burdens",
        "busy",
        "busy_reviewed",
        "combined",
        "hand_offs",
        "inline",
        "last_server",
        "longest_pass",
        "mean",
        "others",
        "own",
        "passes",
        "reviewed",
        "waits",
    )

    def __init__(self) -> None:
        self.busy = 0
        self.combined = self.inline = self.passes = self.hand_offs = self.longest_pass = 0
        self.last_server: PassWorker | None = None
        self.burden = Burden()  # that of the last server
        # None: those that have gone.
        self.burdens: dict[PassWorker | None, Burden] = {None: Burden()}
        self.mean = self.reviewed = self.busy_reviewed = 0
        # Run queues, because they can be looked at while others append.
        self.waits: RunQueue[int] = RunQueue(maxlen=SAMPLES)
        # Written by the worker that takes the continuation, not by the key holder.
        self.own: RunQueue[int] = RunQueue(maxlen=SAMPLES)
        self.others: RunQueue[int] = RunQueue(maxlen=SAMPLES)

    def serve_with(self, worker: PassWorker) -> None:
        """Another worker runs the passes from now on (key)."""
        self.last_server = worker
        self.hand_offs += 1
        burdens = self.burdens
        burden = burdens.get(worker)
        if burden is None:
            for other in [*burdens]:
                if other is not None and other.exited:
                    burdens[None].time += burdens.pop(other).time
            burden = burdens[worker] = Burden()
        self.burden = burden

    def burden_by_name(self, workers: list[AnyWorker]) -> dict[str | None, float]:
        """How long (s) each of these workers has run passes; None stands for all others."""
        times: dict[str | None, float] = {worker.thread.name: 0.0 for worker in workers}
        for worker, burden in self.burdens.copy().items():
            name = worker.thread.name if worker is not None and worker in workers else None
            times[name] = times.get(name, 0.0) + burden.time * NANOSECOND
        return times


@dataclass(frozen=True)
class LockStatistics:
    """What has happened at a lock up to a moment. Times are in seconds.

    Reading it disturbs nobody: each number is true of a moment, together they may be of slightly
    different ones.
    """

    name: str
    sections: int
    """Critical sections that have ended: `inline` and `combined`."""
    inline: int
    """Sections that were entered at once, and those of threads (`with lock`)."""
    combined: int
    """Sections that a combiner has taken from the queue and run."""
    passes: int
    """How often a worker has become the lock's combiner."""
    hand_offs: int
    """How often that was another worker than the time before."""
    longest_pass: int
    """The most sections that one pass has served."""
    burden: Mapping[str | None, float]
    """How long each worker has run passes: those that are there, and under None all others."""
    burden_jain: float
    """Jain's index of that, None aside: 1 if it is even, 1/n if one of n workers did it all."""
    busy: float
    """How long the lock was in use: its sections and, within a pass, what is between them."""
    mean_section: float
    """The mean of the last sections (at least 16)."""
    waiting: int
    """Requests in the queue now."""
    home: str | None
    """The worker that sections go home to now; None where they are served where the task is."""
    go_home_above: float
    """A lock goes home when its mean section becomes longer than this, …"""
    stay_below: float
    """… and is served where the task is when it becomes shorter than this."""
    waits: tuple[float, float, float]
    """Median, 99 % and 99.9 % quantile of the latest waits from a request to its section."""
    own_responses: tuple[float, float, float]
    """The same of the time from a request to its continuation, of the combiners' own sections, …"""
    combined_responses: tuple[float, float, float]
    """… and of those that they have run for others."""
    usage: Mapping[str | None, float]
    """How long each share has been inside; None stands for work without a share.

    Counted if the lock was made with `order="usage"`, or when its pool had shares; else empty.
    """
    jain: float
    """Jain's index of that, by weight: 1 if it is even, 1/n if one of n had the lock alone."""
    longest_wait_passes: int
    """In how many passes, of 64 sections each, a share has waited at most, the last one included.

    0 for a lock in ticket order. `docs/protocols/usage.md` has the bound, which is 17.
    """


def quantiles(samples: Iterable[int]) -> tuple[float, float, float]:
    """Median, 99 % and 99.9 % quantile of times (ns), in seconds."""
    ordered = sorted(samples)
    if not ordered:
        return (0.0, 0.0, 0.0)
    last = len(ordered) - 1
    median, high, highest = (ordered[round(last * q)] * NANOSECOND for q in (0.5, 0.99, 0.999))
    return median, high, highest
