"""The wait-for graph, and the `DeadlockError` of a wait that would never end.

A node is whatever waits or is waited for. An edge leads from a task to all that it waits for
without a time-out: in `result()` on its worker, in `concurrent.futures.wait`, or with `await`. The
graph keeps these edges. Other edges are there from birth, and the node itself knows them
(`sources`): a `then` link and a `gather` wait for their sources, and a lock request waits for the
lock's owner.

Guarantee: of the waits that form a cycle, at least one raises; a wait that is in no cycle never
does.
Assumes: mutex order, plain read and fence (`atomicity`). Proof: `docs/protocols/waiting.md`.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

from fairpool._core.errors import DeadlockError
from fairpool._core.foreign import describe
from fairpool._core.room import SHORT_OF_ROOM
from fairpool._core.token import Latch


class Node(Protocol):
    """What waits, or is waited for: a future, or a request at a lock."""

    # has_sources: whether it knows its edges from birth
    # _pool:       what runs it. None for a future without sources that is worked by hand: its class
    #              may be the user's, and have a `__hash__`
    # relation:    the words before it in the name of a cycle

    @property
    def has_sources(self) -> bool: ...

    @property
    def _pool(self) -> object: ...

    @property
    def relation(self) -> str: ...

    def sources(self) -> Nodes:
        """What it waits for, besides the edges in the graph."""

    def waits_at(self, awaited: object) -> str:
        """Where in its code it waits, if it waits for `awaited`, or for anything (None); or ""."""

    def _describe(self) -> str: ...


class WaitingTask(Node, Protocol):
    """A task that waits."""

    def done(self) -> bool: ...


class LockWait(Node, Protocol):
    """A request that is queued at a lock."""

    def give_up(self) -> bool:
        """Wait no more; False if it was granted, or given up before."""


Nodes: TypeAlias = tuple[Node, ...]

# What a task waits for, and its function or coroutine. Compared by identity.
Edge: TypeAlias = tuple[Nodes, object]

# How a search has come to a node: the nodes before it, the last one first.
_Trail: TypeAlias = "tuple[Node, Edge | None, _Trail | None]"

# Item assignment takes the dict's mutex. `get` takes none (plain read): it sees what was written
# before this thread's last item assignment (mutex order), or before its last call on another
# container, as far as a fence goes.
waiting_tasks: dict[Node, Edge] = {}

# Set once there are locks. Before, no coroutine can wait for one, and plain tasks are not asked.
locks = Latch()


def enter_wait(task: WaitingTask, what: object, awaited: Nodes) -> Edge | None:
    """Write down that `task` waits for `awaited`; raise `DeadlockError` if that closes a cycle.

    Of all the waits that form a cycle, the one that is written last sees all the others. Returns
    the task's edge before, for `leave_wait`: a wait in a callback, or in a `__del__`, may come in
    the midst of another.
    """
    outer = waiting_tasks.get(task)
    if not write_wait(task, what, awaited):  # write_edge
        return outer
    try:
        seen: set[Node] | None = None
        pending = [*awaited]
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


def write_wait(task: WaitingTask, what: object, awaited: Nodes) -> bool:
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


def waits() -> list[tuple[Node, Edge]]:
    """All edges at one moment: (task, (awaited nodes, the task's function))."""
    return list(waiting_tasks.copy().items())


def check_lock_wait(task: Node, request: LockWait) -> None:
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


def _find_cycle(task: Node, first: Nodes) -> list[tuple[Node, Edge | None]] | None:
    """The shortest path from `task` over `first` back to itself: each node, and its edge."""
    steps: list[tuple[Node, _Trail | None]] = [(each, None) for each in first]
    seen: set[Node] = set()
    for node, trail in steps:  # grows meanwhile: breadth first
        if node is task:
            path = []
            while trail is not None:
                before, edge, trail = trail
                path.append((before, edge))
            return path[::-1]
        if (not node.has_sources and node._pool is None) or node in seen:
            continue  # as in `enter_wait`
        seen.add(node)
        edge = waiting_tasks.get(node)
        longer = (node, edge, trail)
        further = node.sources() if edge is None else edge[0]
        steps.extend((following, longer) for following in further)
    return None


def _names_of_cycle(task: Node, first: Nodes) -> str | None:
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
