"""What the tasks ask of the rooms above them: one `Protocol` for each role.

The host of a task is the pool that runs it (`FutureState._pool`). A pool's methods may be called
from any thread, a worker's by the thread of that worker. The Protocols of a lock are in `request`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from fairpool._core.park import Parking
from fairpool._core.runqueue import RunQueue
from fairpool._core.timer import Timers
from fairpool._core.token import Latch
from fairpool._core.types import AnyCoroutine, AnyGenerator, Runnable
from fairpool._tasks.request import Lock

# A class of this room: it stands on this module, so a signature here cannot name it.
_Own = Any


class Pool(Protocol):
    """What runs tasks, looks after those that wait for them, and keeps account of coroutines."""

    # suspended:   the continuations of all coroutines that were suspended and have not ended
    # cancels_all: whether it asks them to end, and all that come; read after `suspended.add`
    # ending:      whether its workers end when `suspended` is empty
    suspended: set[_Own]
    cancels_all: bool
    ending: Latch
    timers: Timers

    def resume(self, item: Runnable) -> None:
        """Queue a task or a continuation. Raises one of `SHORT_OF_ROOM` only if it did not."""

    def link(
        self,
        source: _Own,
        on_result: Callable[..., object] | None,
        on_error: Callable[[BaseException], object] | None,
        types: tuple[type[BaseException], ...],
        in_any_case: Callable[[], object] | None,
        link: _Own | None = None,
    ) -> _Own:
        """Make a link of `source`, a step of a chain; or make `link` one."""

    def cancels(self, task: _Own) -> bool:
        """Whether it asks this one to end."""

    def suspended_ended(self) -> None:
        """One has left `suspended`, and the pool is ending."""

    def all_locks(self) -> Iterable[Lock]:
        """The locks that its tasks may be inside of."""

    def check_same_process(self) -> None:
        """Raise RuntimeError in the child of a fork, where nobody runs the tasks."""

    def distrust_searchers(self) -> None:
        """A wake-up takes long: see whether the worker that was woken is held up."""

    def adopt(self, waiter: _Own, future: _Own) -> None:
        """Make a waiter of `concurrent.futures.wait` one that does not starve the pool."""


class ForkingPool(Pool, Protocol):
    """A pool whose workers may start the children of a gather in an `await`."""

    injector: RunQueue[Runnable]
    parking: Parking


class Worker(Protocol):
    """The worker that runs a step, or on whose thread a future is waited for."""

    # item: what it runs: a task, a continuation, a gather, or the lock of a pass
    # fn:   the function or coroutine of that, or the number of a gather's child
    item: _Own
    fn: object

    @property
    def scheduler(self) -> ForkingPool: ...

    def requeue(self, item: Runnable) -> None:
        """Queue a task or a continuation, behind all that is queued."""

    def wait_for(self, future: _Own, timeout: float | None) -> bool:
        """Wait without starving the pool; whether the future is final."""

    def adopt(self, waiter: _Own, future: _Own) -> None:
        """As `Pool.adopt`, for a wait on the thread of this worker."""


class ForkingWorker(Worker, Protocol):
    """What a gather asks of the worker that starts its children."""

    # forks:      the tasks on its stack that have started children there
    # forked:     how many children it has started like this since its last scan
    # fork_until: when it stops (ns)
    forks: list[_Own]
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

    def wait_for(self, future: _Own) -> AnyCoroutine:
        """Have the outcome of `future`, which may be another executor's."""

    def pass_through(self, source: _Own, outcome: Awaitable[object]) -> AnyCoroutine:
        """Wait for `outcome`, which may be a coroutine, and then have the outcome of `source`."""

    def close_generators(self, generators: Iterable[AnyGenerator]) -> AnyCoroutine:
        """Close asynchronous generators, one after the other. Raises nothing of theirs."""


# Set once, by the module that defines them, when the package is imported.
coroutines: Coroutines
