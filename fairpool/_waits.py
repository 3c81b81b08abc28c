"""Who waits for whom, and the `DeadlockError` of a wait that would never end.

A task waits for one or several futures, all of them and without a time-out: in `result()` on its
worker, in `concurrent.futures.wait`, or with `await`. A `then` link and a `gather` wait for their
sources from birth. Protocol and proof: `docs/protocols/waiting.md`.
"""

from __future__ import annotations

from typing import Any

from fairpool._errors import DeadlockError
from fairpool._future import Future, describe, is_final

__all__ = ["enter_wait", "leave_wait", "waits"]

Edge = tuple[tuple[Future[Any], ...], Any]

# Which futures each waiting task waits for, and its function or coroutine. Item assignment and
# `get` take the dict's mutex (A1, A2).
_waits: dict[Future[Any], Edge] = {}


def enter_wait(task: Future[Any], what: object, awaited: tuple[Future[Any], ...]) -> Edge | None:
    """Write down that `task` waits for `awaited`; raise `DeadlockError` if that closes a cycle.

    Of all the waits that form a cycle, the one that is written down last sees all the others.
    Returns what was written down before, for `leave_wait`: a wait in a callback, or in a `__del__`,
    may come in the midst of another.
    """
    outer = _waits.get(task)
    if is_final(task):  # a wait in a callback of the task, which itself waits for nothing any more
        return outer
    _waits[task] = (awaited, what)
    seen: set[Future[Any]] | None = None
    ways = [*awaited]
    while ways:
        future = ways.pop()
        if future is task:
            names = _names_of_cycle(task)
            leave_wait(task, outer)
            raise DeadlockError(
                f"this wait would never end: {names}; do not wait for it in the task"
            )
        edge = _waits.get(future)
        if edge is not None:
            further = edge[0]
        elif future.has_sources:
            further = future.sources()
        else:
            continue
        if seen is None:
            seen = set()
        if future not in seen:
            seen.add(future)
            ways.extend(further)
    return outer


def check_lock_wait(request: Any, owner: Any) -> None:
    """TODO"""


def _names_of_cycle(task: Future[Any]) -> str:
    """The shortest way from `task` back to itself, for people to read."""
    ways: list[tuple[Future[Any], tuple[str, ...]]] = [(task, ())]
    seen = set()
    for future, names in ways:  # grows meanwhile: breadth first
        if future is task and names:
            return " waits for ".join([*names, names[0]])
        if future in seen:
            continue
        seen.add(future)
        further, what = _waits.get(future) or (future.sources(), future._describe() or "a future")
        ways.extend((following, (*names, describe(what))) for following in further)
    return "the task waits for itself"  # a neighbour has just been unwound by its own error


def leave_wait(task: Future[Any], outer: Edge | None = None) -> None:
    """The wait that `enter_wait` wrote down is over."""
    if outer is None:
        _waits.pop(task, None)
    else:
        _waits[task] = outer


def waits() -> list[tuple[Future[Any], Edge]]:
    """Who waits for whom, at one moment: (task, (awaited futures, the task's function))."""
    return list(_waits.copy().items())
