"""`Counters`: what a lock counts."""

from __future__ import annotations

from typing import Any

from fairpool._core.runqueue import RunQueue

__all__ = ["SAMPLES", "SAMPLE_MASK", "Counters"]

# How many of the latest waits and responses a lock remembers, and of how many sections one is
# looked at (all whose number has these bits unset).
SAMPLES = 1024
SAMPLE_MASK = 7


class Counters:
    """What a lock counts (key)."""

    __slots__ = (
        "__weakref__",
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
        self.last_server: Any = None
        self.mean = self.reviewed = self.busy_reviewed = 0
        # Run queues, because they can be looked at while others append.
        self.waits = RunQueue(maxlen=SAMPLES)
        # Not by who holds the key, but by who takes the continuations.
        self.own = RunQueue(maxlen=SAMPLES)
        self.others = RunQueue(maxlen=SAMPLES)
