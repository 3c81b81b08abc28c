"""The wait-for graph, and the `DeadlockError` of a wait that would never end.

A node is whatever waits or is waited for. An edge leads from a task to all that it waits for
without a time-out: in `result()` on its worker, in `concurrent.futures.wait`, or with `await`. The
graph keeps these edges. Other edges are there from birth, and the node itself knows them
(`sources`): a `then` link and a `gather` wait for their sources, and a lock request waits for the
lock's owner.

Guarantee: of the waits that form a cycle, one raises; a wait that is in no cycle never does.
Assumes: mutex order, plain read and fence (`atomicity`). Proof: `docs/protocols/waiting.md`.
"""

from __future__ import annotations

from typing import Any, Protocol

from fairpool._core.errors import DeadlockError
from fairpool._core.foreign import describe
from fairpool._core.room import SHORT_OF_ROOM
from fairpool._core.token import Latch

__all__ = [
    "Node",
    "check_lock_wait",
    "enter_wait",
    "leave_wait",
    "locks",
    "waiting_tasks",
    "waits",
    "write_wait",
]


class Node(Protocol):
    """What waits, or is waited for: a future, or a request at a lock."""

    # has_sources: whether it knows its edges from birth
    # _pool:       what runs it. None for a future that is worked by hand: its class may be the
    #              user's, and have a `__hash__`
    # relation:    the words before it in the name of a cycle

    @property
    def has_sources(self) -> bool: ...

    @property
    def _pool(self) -> Any: ...

    @property
    def relation(self) -> str: ...

    def done(self) -> bool: ...

    def sources(self) -> tuple[Any, ...]:
        """What it waits for, besides the edges in the graph."""

    def waits_at(self, awaited: object) -> str:
        """Where in its code it waits, if it waits for `awaited`, or for anything (None); or ""."""

    def _describe(self) -> str: ...


# What a task waits for, and its function or coroutine. Compared by identity.
Edge = tuple[tuple[Any, ...], Any]

# Item assignment takes the dict's mutex. `get` takes none (plain read): it sees what was written
# before this thread's last item assignment (mutex order), or before its last call on another
# container, as far as a fence goes.
waiting_tasks: dict[Any, Edge] = {}

# Set once there are locks. Before, no coroutine can wait for one, and plain tasks are not asked.
locks = Latch()


def enter_wait(task: Node, what: object, awaited: tuple[Any, ...]) -> Edge | None:
    """Write down that `task` waits for `awaited`; raise `DeadlockError` if that closes a cycle.

    Of all the waits that form a cycle, the one that is written last sees all the others. Returns
    the task's edge before, for `leave_wait`: a wait in a callback, or in a `__del__`, may come in
    the midst of another.
    """
    outer = waiting_tasks.get(task)
    if not write_wait(task, what, awaited):  # write_edge
        return outer
    try:
        seen: set[Any] | None = None
        pending: list[Any] = [*awaited]
        while pending:  # follow_edges
            node = pending.pop()
            if node is task:
                names = _names_of_cycle(task, awaited)
                if names is None:
                    break
                leave_wait(task, outer)
                raise DeadlockError(f"this wait would never end: {names}; do not wait for it there")
            if not node.has_sources and node._pool is None:
                continue  # worked by hand: not to be hashed
            edge = waiting_tasks.get(node)
            if edge is not None:
                further = edge[0]
            elif not (node.has_sources or locks) or not (further := node.sources()):
                continue
            if seen is None:
                seen = set()
            if node not in seen:
                seen.add(node)
                pending.extend(further)
    except SHORT_OF_ROOM:  # it does not wait
        leave_wait(task, outer)
        raise
    return outer


def write_wait(task: Node, what: object, awaited: tuple[Any, ...]) -> bool:
    """Write down that `task` waits for `awaited`, and follow no edge; False if it has ended.

    A callback of the task may wait, for one: the task itself waits for nothing any more.
    """
    if task.done():
        return False
    waiting_tasks[task] = (awaited, what)
    return True


def leave_wait(task: Node, outer: Edge | None = None) -> None:
    """The wait that `enter_wait` wrote down is over."""
    if outer is None:
        waiting_tasks.pop(task, None)
    else:
        waiting_tasks[task] = outer


def waits() -> list[tuple[Any, Edge]]:
    """All edges at one moment: (task, (awaited nodes, the task's function))."""
    return list(waiting_tasks.copy().items())


def check_lock_wait(task: Node, request: Any) -> None:
    """Raise `DeadlockError` if `task`, whose request is queued at a lock, would wait for ever.

    The caller has seen that the lock's owner waits for something, or did so last. A coroutine that
    waits for a lock writes no edge, because its continuation says what it waits for; so only the
    search is left to do. The owner wrote its edge before it followed the others', and this task has
    queued its request by now. Each made an atomic call in between (fence), so one sees the other.
    """
    names = _names_of_cycle(task, (request,))
    if names is not None and request.give_up():
        raise DeadlockError(f"this wait would never end: {names}")


# --- naming a cycle -------------------------------------------------------------------------------


def _edges(node: Any) -> tuple[tuple[Any, ...], Edge | None]:
    """All that `node` waits for, and its edge in the graph."""
    edge = waiting_tasks.get(node)
    return (node.sources(), None) if edge is None else (edge[0], edge)


def _find_cycle(task: Node, first: tuple[Any, ...]) -> list[tuple[Any, Edge | None]] | None:
    """The shortest path from `task` over `first` back to itself: each node, and its edge."""
    steps: list[tuple[Any, Any, Any]] = [(each, None, None) for each in first]
    seen = set()
    for step in steps:  # grows meanwhile: breadth first
        node = step[0]
        if node is task:
            path = []
            at: Any = step[2]
            while at is not None:
                path.append((at[0], at[1]))
                at = at[2]
            return path[::-1]
        if (not node.has_sources and node._pool is None) or node in seen:
            continue  # as in `enter_wait`
        seen.add(node)
        further, edge = _edges(node)
        before = (node, edge, step[2])
        steps.extend((following, None, before) for following in further)
    return None


def _names_of_cycle(task: Node, first: tuple[Any, ...]) -> str | None:
    """The cycle that waiting for `first` closes, in words; None if there is none."""
    path = _find_cycle(task, first)
    if path is None:
        return None
    # Locks change hands during a search. If a second search finds the same path, each wait in it
    # lasted from the end of the first search to the start of the second.
    again = _find_cycle(task, first)
    if again is None or len(again) != len(path):
        return None
    if any(a[0] is not b[0] or a[1] is not b[1] for a, b in zip(path, again, strict=True)):
        return None
    texts = [_name(node, edge) for node, edge in [(task, waiting_tasks.get(task)), *path]]
    links = [" waits for ", *[node.relation for node, _ in path]]
    return "".join(map("".join, zip(texts, links, strict=True))) + texts[0]


def _name(node: Node, edge: Edge | None) -> str:
    if edge is None:
        return describe(node._describe() or "a future") + node.waits_at(None)
    return describe(edge[1]) + node.waits_at(edge[0][0])
