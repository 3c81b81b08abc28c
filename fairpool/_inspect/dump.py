"""`dump`: what a pool is doing, as text, for a person who examines one that hangs.

It reads single attributes (*plain read*) and takes copies (*atomic call*). It takes no lock that a
stuck worker could hold.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol, TextIO

from fairpool._core.foreign import describe, is_a
from fairpool._core.waitgraph import waits
from fairpool._locks.combiner import Combiner
from fairpool._scheduler.scheduler import Scheduler
from fairpool._scheduler.worker import Worker
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.future import Future
from fairpool._tasks.state import is_final

# The most suspended coroutines that are listed: there may be a million.
SUSPENDED_MAX = 20


def dump(scheduler: Scheduler, file: TextIO) -> None:
    """Print a pool's workers, its backlog, the tasks that wait, and the locks in use."""
    parking = scheduler.parking
    workers = scheduler.workers.copy()
    lines = [str(scheduler)]
    parked = set(parking.parked.copy())
    searching = parking.searching.copy()
    for worker in workers:
        state = "starting" if worker.thread.ident is None else _state(worker, parked, searching)
        queued = len(worker.queue)
        backlog = f", {queued} in its run queue" if queued else ""
        lines.append(f"  {worker.thread.name} (thread {worker.thread.ident}): {state}{backlog}")
    edges = [(task, *edge) for task, edge in waits()]
    if edges:
        lines.append("  waits:")
        for task, futures, fn in edges:
            awaited = ", ".join(_short(future) for future in futures)
            lines.append(f"    {describe(fn)} {_short(task)} waits for {awaited}")
    lines.extend(_suspended(scheduler, workers))
    taken = [lock for lock in scheduler.all_locks() if lock.locked() or lock.queue]
    if taken:
        lines.append("  locks:")
        lines.extend(f"    {lock!r}" for lock in taken)
    print("\n".join(lines), file=file, flush=True)


def _suspended(scheduler: Scheduler, workers: list[Worker]) -> list[str]:
    """Return a line for each coroutine that was suspended, and that no worker runs."""
    running = {id(worker.item) for worker in workers}
    waiting = [each for each in scheduler.suspended.copy() if id(each) not in running]
    lines = ["  suspended, or about to go on:"] if waiting else []
    for continuation in waiting[:SUSPENDED_MAX]:
        # Not the place in its code: the frame of a coroutine that may go on must not be read.
        awaited = continuation.awaited
        what = "" if awaited is None else f" waits for {_short(awaited)}"
        lines.append(f"    {_short(continuation.task)}{what}")
    if len(waiting) > SUSPENDED_MAX:
        lines.append(f"    and {len(waiting) - SUSPENDED_MAX:,} more")
    return lines


def _state(worker: Worker, parked: Container[object], searching: Container[object]) -> str:
    if worker in parked:
        return "parked"
    if worker in searching:
        return "searching"
    reason, item, fn = worker.wait, worker.item, worker.doing
    if item is None:
        return "in the initializer" if worker.initializes else "between tasks"
    if isinstance(item, Combiner):  # between two sections of a pass
        return f"serves {_short(item)}"
    task = item.task if isinstance(item, Continuation) else item
    running = f"{describe(fn)} {_short(task)}"
    if reason is None:
        return (
            f"runs {running}"
            if not is_final(task)
            else f"has ended {running}: its callbacks, perhaps"
        )
    thing = reason.thing
    what = _short(thing) if is_a(thing, Future) else thing
    return f"blocked in {running}, waiting for {what}"


class _Described(Protocol):
    def _describe(self) -> str: ...


def _short(awaited: _Described) -> str:
    if is_a(awaited, Future):
        name = awaited._describe()
        return f"<{name + ' ' if name else ''}{id(awaited):#x} {awaited._state.lower()}>"
    return str(awaited._describe())  # a lock, or the request for one
