"""What the tasks ask of the rooms above them: one `Protocol` for each role.

The host of a task is the pool that runs it (`FutureState._pool`). A pool's methods may be called
from any thread, a worker's by the thread of that worker. The Protocols of a lock are in `request`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sized
from typing import Any, Protocol

from fairpool._core.park import Parking
from fairpool._core.timer import Timers
from fairpool._core.types import AnyCoroutine, AnyGenerator, Runnable
from fairpool._tasks.request import Lock

__all__ = ["Coroutines", "ForkingPool", "ForkingWorker", "Pool", "Worker", "coroutines"]

# The futures of this room stand on this module: a signature here cannot name their classes.
_Future = Any


class Pool(Protocol):
    """What runs tasks, looks after those that wait for them, and keeps account of coroutines."""

    # suspended:   the continuations of all coroutines that were suspended and have not ended
    # cancels_all: whether it asks them to end, and all that come; read after `suspended.add`
    # ending:      whether its workers end when `suspended` is empty
    suspended: set[Any]

    @property
    def cancels_all(self) -> object: ...

    @property
    def ending(self) -> object: ...

    @property
    def timers(self) -> Timers: ...

    def resume(self, item: Runnable) -> None:
        """Queue a task or a continuation. Raises one of `SHORT_OF_ROOM` only if it did not."""

    def link(
        self,
        source: _Future,
        on_result: Callable[..., object] | None,
        on_error: Callable[[BaseException], object] | None,
        types: tuple[type[BaseException], ...],
        in_any_case: Callable[[], object] | None,
        link: _Future | None = None,
    ) -> _Future:
        """Make a link of `source`, a step of a chain; or make `link` one."""

    def cancels(self, task: _Future) -> bool:
        """Whether it asks this one to end."""

    def suspended_ended(self) -> None:
        """One has left `suspended`, and the pool is ending."""

    def all_locks(self) -> Iterable[Lock]:
        """The locks that its tasks may be inside of."""

    def check_same_process(self) -> None:
        """Raise RuntimeError in the child of a fork, where nobody runs the tasks."""

    def distrust_searchers(self) -> None:
        """A wake-up takes long: see whether the worker that was woken is held up."""

    def adopt(self, waiter: _Future, future: _Future) -> None:
        """Make a waiter of `concurrent.futures.wait` one that does not starve the pool."""


class ForkingPool(Pool, Protocol):
    """A pool whose workers may start the children of a gather in an `await`."""

    @property
    def injector(self) -> Sized: ...

    @property
    def parking(self) -> Parking: ...


class Worker(Protocol):
    """The worker that runs a step, or on whose thread a future is waited for."""

    # item: what it runs: a task, a continuation, a gather, or the lock of a pass
    # fn:   the function or coroutine of that, or the number of a gather's child
    item: Any
    fn: object

    @property
    def scheduler(self) -> ForkingPool: ...

    def requeue(self, item: Runnable) -> None:
        """Queue a task or a continuation, behind all that is queued."""

    def wait_for(self, future: _Future, timeout: float | None) -> bool:
        """Wait without starving the pool; whether the future is final."""

    def adopt(self, waiter: _Future, future: _Future) -> None:
        """As `Pool.adopt`, for a wait on the thread of this worker."""


class ForkingWorker(Worker, Protocol):
    """What a gather asks of the worker that starts its children."""

    # forks:      the tasks on its stack that have started children there
    # forked:     how many children it has started like this since its last scan
    # fork_until: when it stops (ns)
    forks: list[Any]
    forked: int
    fork_until: int

    def enqueue(self, item: Runnable) -> None:
        """Put this into its run queue, and notify others."""

    def take_back(self, item: Runnable) -> None:
        """Take this out of its run queue, if it is the last one there."""

    def scan(self) -> Runnable | None:
        """Take what waits outside, if there is something."""

    def turn_to(self, item: object, fn: object) -> None:
        """Run this from now on."""

    def may_fork(self, pool: Pool) -> bool:
        """Whether it may start children on top of what it runs."""


class Coroutines(Protocol):
    """The coroutine functions that tasks run on the package's own behalf.

    They live above, because a compiled coroutine function makes no `types.CoroutineType`.
    """

    def wait_for(self, future: _Future) -> AnyCoroutine:
        """Have the outcome of `future`, which may be another executor's."""

    def pass_through(self, source: _Future, outcome: Awaitable[object]) -> AnyCoroutine:
        """Wait for `outcome`, which may be a coroutine, and then have the outcome of `source`."""

    def close_generators(self, generators: Iterable[AnyGenerator]) -> AnyCoroutine:
        """Close asynchronous generators, one after the other. Raises nothing of theirs."""


# Set once, by the module that defines them, when the package is imported.
coroutines: Coroutines
