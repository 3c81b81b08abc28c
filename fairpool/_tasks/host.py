"""What the tasks ask of the rooms above them: one `Protocol` for each role.

The host of a task is the pool that runs it (`FutureState._pool`). A pool's methods may be called
from any thread, a worker's by the thread of that worker.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sized
from typing import Any, Protocol

__all__ = [
    "CallingWorker",
    "ChainHost",
    "CoroutineHost",
    "Coroutines",
    "ForkingWorker",
    "GatherHost",
    "Lock",
    "Pool",
    "Resumer",
    "Slots",
    "WaitHost",
    "Worker",
    "coroutines",
]


class Resumer(Protocol):
    """Queues what can run."""

    def resume(self, item: Any) -> None:
        """Queue a task or a continuation. Raises one of `SHORT_OF_ROOM` only if it did not."""


class WaitHost(Protocol):
    """Looks after those that wait for its futures."""

    def check_same_process(self) -> None:
        """Raise RuntimeError in the child of a fork, where nobody runs the tasks."""

    def distrust_searchers(self) -> None:
        """A wake-up takes long: see whether the worker that was woken is held up."""

    def adopt(self, waiter: Any, future: Any) -> None:
        """Make a waiter of `concurrent.futures.wait` one that does not starve the pool."""


class ChainHost(Protocol):
    """Runs the steps of chains."""

    def link(
        self,
        source: Any,
        on_result: Callable[[Any], Any] | None,
        on_error: Callable[[BaseException], Any] | None,
        types: tuple[type[BaseException], ...],
        in_any_case: Callable[[], Any] | None,
    ) -> Any:
        """Make a link of `source`."""


class Lock(Protocol):
    """A lock: a task waits for it, or is inside of it."""

    # owner: the task, continuation or thread owner that is inside
    # stats: its counters, `own` and `others` among them
    owner: Any

    @property
    def stats(self) -> Any: ...

    def queue_up(self, request: Any, worker: Any) -> Any:
        """Queue the request of a suspended task. Returns as `Task.run`."""

    def dispatch(self) -> None:
        """Have a worker serve the queue."""

    def holder(self) -> tuple[Any, ...]:
        """The task that is inside, if there is one."""

    def forget(self, waiter: Any) -> None:
        """Take a waiter that was given up out of the queue."""

    def end_section(self) -> None:
        """Leave the critical section of the owner, whose stack goes on."""

    def after_leave(self, continuation: Any, worker: Any) -> Any:
        """Go on after a section that the coroutine has left. Returns as `Task.run`."""

    def _describe(self) -> str: ...


class CoroutineHost(Resumer, Protocol):
    """Keeps account of suspended coroutines."""

    # suspended:   the continuations of all coroutines that were suspended and have not ended
    # cancels_all: whether it asks them to end, and all that come; read after `suspended.add`
    # ending:      whether its workers end when `suspended` is empty
    suspended: set[Any]

    @property
    def cancels_all(self) -> Any: ...

    @property
    def ending(self) -> Any: ...

    def cancels(self, task: Any) -> bool:
        """Whether it asks this one to end."""

    def suspended_ended(self) -> None:
        """One has left `suspended`, and the pool is ending."""

    def all_locks(self) -> Iterable[Lock]:
        """The locks that its tasks may be inside of."""


class Pool(WaitHost, ChainHost, CoroutineHost, Protocol):
    """All of this: what runs tasks."""


class Slots(Protocol):
    """The slots of a pool's workers."""

    @property
    def overcommits(self) -> Sized: ...


class GatherHost(Pool, Protocol):
    """A pool whose workers may start the children of a gather in an `await`."""

    @property
    def injector(self) -> Sized: ...

    @property
    def parking(self) -> Slots: ...


class Worker(Protocol):
    """What a step asks of the worker that runs it."""

    # item: what it runs: a task, a continuation, a gather, or the lock of a pass
    # fn:   the function or coroutine of that, or the number of a gather's child
    item: Any
    fn: Any

    def requeue(self, item: Any) -> None:
        """Queue a task or a continuation, behind all that is queued."""


class CallingWorker(Protocol):
    """What a future asks of the worker on whose thread it is waited for."""

    @property
    def scheduler(self) -> ChainHost: ...

    def wait_for(self, future: Any, timeout: float | None) -> bool:
        """Wait without starving the pool; whether the future is final."""

    def adopt(self, waiter: Any, future: Any) -> None:
        """As `WaitHost.adopt`, for a wait on the thread of this worker."""


class ForkingWorker(Worker, Protocol):
    """What a gather asks of the worker that starts its children."""

    # forks:      the tasks on its stack that have started children there
    # forked:     how many children it has started like this since its last scan
    # fork_until: when it stops (ns)
    forks: list[Any]
    forked: int
    fork_until: int

    @property
    def scheduler(self) -> Any: ...

    def enqueue(self, item: Any) -> None:
        """Put this into its run queue, and notify others."""

    def take_back(self, item: Any) -> None:
        """Take this out of its run queue, if it is the last one there."""

    def scan(self) -> Any:
        """Take what waits outside, if there is something."""

    def turn_to(self, item: Any, fn: Any) -> None:
        """Run this from now on."""

    def may_fork(self, pool: Any) -> bool:
        """Whether it may start children on top of what it runs."""


class Coroutines(Protocol):
    """The coroutine functions that tasks run on the package's own behalf.

    They live above, because a compiled coroutine function makes no `types.CoroutineType`.
    """

    def wait_for(self, future: Any) -> Coroutine[Any, Any, Any]:
        """Have the outcome of `future`, which may be another executor's."""

    def pass_through(self, source: Any, outcome: Any) -> Coroutine[Any, Any, Any]:
        """Wait for `outcome`, which may be a coroutine, and then have the outcome of `source`."""


# Set once, by the module that defines them, when the package is imported.
coroutines: Coroutines
