"""The state of a future: one attribute, and the questions that it answers.

| `_status` | state | `_value` |
|---|---|---|
| a list whose first item is a tuple, the *call* | pending | unset |
| a list without a call | running | unset |
| `FINISHED` | finished | the result |
| `FAILED` | failed | a `Failure` |
| `CANCELLED` | cancelled | None |

The call is what a worker makes to get the result. The other items of the list are *callbacks*. Only
`claim` takes the call out, and only `settle` replaces the list (both in `settling`). The
attribute is not named `_state`, because the standard library reads a word of its own there.

A plain list, and not a subclass with methods: to make one costs 20 ns, to make one of a subclass
170 ns more (3.13t), and every submit makes one.

Protocol and proof: `docs/protocols/future.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future as _StdFuture
from typing import Any

from fairpool._core.types import T
from fairpool._core.waitgraph import Node
from fairpool._tasks.host import Pool

# What a worker needs to get the result. Its first items are (context, function, arguments).
Call = tuple[Any, ...]

# A state that is not final: the call, until it is claimed, and the callbacks.
Status = list[Any]

Callback = Callable[..., object]

# A final state, with the result or the `Failure`.
Outcome = tuple["Final", Any]


class Final:
    """A final state; compares by identity."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


FINISHED = Final("FINISHED")
FAILED = Final("FAILED")
CANCELLED = Final("CANCELLED")

# The call of a future that no pool runs: the program calls `set_running_or_notify_cancel` and
# `set_result` by hand.
BY_HAND = ()


class FutureState(_StdFuture[T]):
    """What the functions of this room know of a future."""

    __slots__ = ("_pool", "_status", "_value")

    # _status: see the module. Replaced once, after `_value`, by the thread that has claimed the
    #          future.
    # _value:  the result or the Failure. A reader sees the final state first, and CPython stores
    #          attributes with release order.
    # _pool:   what runs the call, or None. Written before the future is published.

    _status: Status | Final
    _pool: Pool | None
    _value: Any

    # has_sources: whether this is a kind of future that cannot be final before others are, its
    #              `sources()`.
    # holds_lock: whether its users' callbacks would be called with a lock in the hands of the
    #             calling worker, and are to be passed to another one instead.
    has_sources = False
    holds_lock = False

    def sources(self) -> tuple[Node, ...]:
        """The futures that all have to be final before this one can be, as far as is known."""
        return ()

    def hand_on(self, callbacks: list[Callback]) -> None:
        """Have these called by a worker that holds no lock."""
        raise NotImplementedError

    # As a node of the wait-for graph (`_core.waitgraph`).

    @property
    def relation(self) -> str:
        return " waits for "

    def waits_at(self, awaited: object) -> str:
        """Where in its code it waits for `awaited`: a coroutine knows."""
        return ""

    def _describe(self) -> str:
        return ""

    def put_back(self, callback: Callback) -> None:
        """Called when a claim has taken out `callback` and put it back."""

    def _is_notified(self) -> bool:
        """Whether a cancelled future that is worked by hand has seen its notification."""
        return "_notified" in self.__dict__


# Where the type of the result does not matter.
AnyState = FutureState[Any]


def is_final(future: AnyState) -> bool:
    """`future.done()` without a method call."""
    return type(future._status) is Final


def is_claimed(future: AnyState) -> bool:
    """Whether the future was claimed, or is final."""
    status = future._status
    return type(status) is not list or not is_unclaimed(status)


def call_of(future: AnyState) -> Call | None:
    """The call of a future that nobody has claimed, else None. Claims nothing."""
    status: Status = future._status  # type: ignore[assignment]
    try:
        call = status[0]
    except (IndexError, TypeError):  # claimed, or final
        return None
    return call if type(call) is tuple else None


def is_unclaimed(status: Status) -> bool:
    try:
        return type(status[0]) is tuple
    except IndexError:
        return False
