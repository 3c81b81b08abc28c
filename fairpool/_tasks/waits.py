"""Who waits for whom, and the `DeadlockError` of a wait that would never end.

A task waits for one or several futures, all of them and without a time-out: in `result()` on its
worker, in `concurrent.futures.wait`, or with `await`. A `then` link and a `gather` wait for their
sources from birth. Protocol and proof: `docs/protocols/waiting.md`.
"""

from __future__ import annotations

from types import CoroutineType
from typing import Any

from fairpool._core.errors import DeadlockError
from fairpool._core.foreign import describe
from fairpool._core.room import SHORT_OF_ROOM
from fairpool._tasks.future import Future, is_final

__all__ = [
    "check_lock_wait",
    "enter_wait",
    "leave_wait",
    "locks",
    "waiting_tasks",
    "waits",
    "write_wait",
]

# A future, or a wish to enter a lock.
Node = Any

Edge = tuple[tuple[Node, ...], Any]

# Which futures each waiting task waits for, and its function or coroutine. Item assignment takes
# the dict's mutex (A1). `get` takes none (A3): it sees what was written before this thread's last
# item assignment (A2), or before its last call on another container, as far as A7 goes.
waiting_tasks: dict[Future[Any], Edge] = {}

# Not empty once there are locks: before, no coroutine can wait for one.
locks: list[None] = []


def enter_wait(task: Future[Any], what: object, awaited: tuple[Node, ...]) -> Edge | None:
    """Write down that `task` waits for `awaited`; raise `DeadlockError` if that closes a cycle.

    Of all the waits that form a cycle, the one that is written down last sees all the others.
    Returns what was written down before, for `leave_wait`: a wait in a callback, or in a `__del__`,
    may come in the midst of another.
    """
    outer = waiting_tasks.get(task)
    if not write_wait(task, what, awaited):
        return outer
    try:
        seen: set[Any] | None = None
        ways: list[Any] = [*awaited]
        while ways:
            node = ways.pop()
            if node is task:
                names = _names_of_cycle(task, awaited)
                if names is None:
                    break
                leave_wait(task, outer)
                raise DeadlockError(f"this wait would never end: {names}; do not wait for it there")
            if not node.has_sources and node._pool is None:
                continue  # worked by hand; its class may be the user's, and have a `__hash__`
            edge = waiting_tasks.get(node)
            if edge is not None:
                further = edge[0]
            elif node.has_sources:
                further = node.sources()
            elif not locks or not (further := _lock_request(node)):
                continue
            if seen is None:
                seen = set()
            if node not in seen:
                seen.add(node)
                ways.extend(further)
    except SHORT_OF_ROOM:  # it does not wait
        leave_wait(task, outer)
        raise
    return outer


def write_wait(task: Future[Any], what: object, awaited: tuple[Node, ...]) -> bool:
    """Write down that `task` waits for `awaited`, and look for nothing; False if it has ended.

    In a callback of the task, say: it waits for nothing any more.
    """
    if is_final(task):
        return False
    waiting_tasks[task] = (awaited, what)
    return True


def check_lock_wait(task: Future[Any], request: Any) -> None:
    """Raise `DeadlockError` if `task`, whose request is queued at a lock, would wait for ever.

    To be called where the owner of the lock waits for something, or did so last. A coroutine that
    waits for a lock writes down nothing: its continuation says what it waits for. So only the walk
    is left to do. The owner has said that it waits before it looked for cycles itself, and this
    task has said so by now: each has called a container in between (A7), so one of the two sees the
    other.
    """
    names = _names_of_cycle(task, (request,))
    if names is not None and request.give_up():
        raise DeadlockError(f"this wait would never end: {names}")


def _lock_request(future: Any) -> tuple[Any, ...]:
    """The request with which a suspended coroutine waits for a lock."""
    machine = getattr(future, "_machine", None)
    request = getattr(machine, "awaited", None)
    return (request,) if getattr(request, "holds_continuation", False) and request else ()


def _ways(node: Node) -> tuple[tuple[Node, ...], Any]:
    """What `node` waits for, all of it, and who says so (compared by identity)."""
    edge = waiting_tasks.get(node)
    if edge is not None:
        return edge[0], edge
    ways = node.sources() if node.has_sources else _lock_request(node)
    return ways, None


def _find_cycle(task: Future[Any], first: tuple[Node, ...]) -> list[tuple[Node, Any]] | None:
    """The shortest way from `task` over `first` back to itself: each node, and who said so."""
    steps: list[tuple[Node, Any, Any]] = [(each, None, None) for each in first]
    seen = set()
    for step in steps:  # grows meanwhile: breadth first
        node = step[0]
        if node is task:
            way = []
            at: Any = step[2]
            while at is not None:
                way.append((at[0], at[1]))
                at = at[2]
            return way[::-1]
        if (not node.has_sources and node._pool is None) or node in seen:
            continue  # as in `enter_wait`
        seen.add(node)
        ways, edge = _ways(node)
        before = (node, edge, step[2])
        steps.extend((following, None, before) for following in ways)
    return None


def _names_of_cycle(task: Future[Any], first: tuple[Node, ...]) -> str | None:
    """The cycle that waiting for `first` closes, for people to read; None if there is none."""
    way = _find_cycle(task, first)
    if way is None:
        return None
    # Locks change hands while one looks. What is found again, each wait the same as before, was
    # there all the while between the two looks.
    again = _find_cycle(task, first)
    if again is None or len(again) != len(way):
        return None
    if any(a[0] is not b[0] or a[1] is not b[1] for a, b in zip(way, again, strict=True)):
        return None
    texts = [_name(node, edge) for node, edge in [(task, waiting_tasks.get(task)), *way]]
    links = [" waits for ", *[getattr(node, "relation", " waits for ") for node, _ in way]]
    return "".join(map("".join, zip(texts, links, strict=True))) + texts[0]


def _name(node: Node, edge: Any) -> str:
    name = describe(node._describe() or "a future") if edge is None else describe(edge[1])
    machine = getattr(node, "_machine", None)
    awaited = getattr(machine, "awaited", None)
    if awaited is None or (edge is not None and edge[0][0] is not awaited):
        return name
    # It is suspended there, and in a cycle stays so: its frames may be looked at.
    return name + _place(machine.coroutine)  # type: ignore[union-attr]


def _place(coroutine: Any) -> str:
    """Where a suspended coroutine has got to."""
    frame = None
    while type(coroutine) is CoroutineType:  # what it awaits at last may be anything
        frame = coroutine.cr_frame or frame
        coroutine = coroutine.cr_await
    if frame is None:
        return ""
    return f" ({frame.f_code.co_filename}:{frame.f_lineno})"


def leave_wait(task: Future[Any], outer: Edge | None = None) -> None:
    """The wait that `enter_wait` wrote down is over."""
    if outer is None:
        waiting_tasks.pop(task, None)
    else:
        waiting_tasks[task] = outer


def waits() -> list[tuple[Future[Any], Edge]]:
    """Who waits for whom, at one moment: (task, (awaited futures, the task's function))."""
    return list(waiting_tasks.copy().items())
