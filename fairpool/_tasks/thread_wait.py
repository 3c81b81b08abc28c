"""How a thread waits for a future: it spins for a while, and then parks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fairpool._core.here import here
from fairpool._core.signals import acquire
from fairpool._core.threads import FREE_THREADED, Lock, monotonic_ns, yield_cpu
from fairpool._tasks.callbacks import AnyCallbackFuture
from fairpool._tasks.host import Pool
from fairpool._tasks.state import Final

# How often a thread looks at a future before it parks on it. A look with its `yield_cpu` is about
# 0.5 µs and a wake-up 30 to 100 µs, so this spends at most about one wake-up to save
# one. With the GIL, a thread that looks keeps the one it waits for from running.
SPIN_LIMIT = 60 if FREE_THREADED else 0

# Nanoseconds. A parked thread that is woken before this has waited for little more than its own
# wake-up, and would have seen the end while it looked.
SHORT_WAIT = 100_000

# Seconds. After so long, far more than a wake-up takes, a thread that waits looks once whether the
# worker that was woken is held up: see "Foreign code" in docs/protocols/parking.md.
TRUST = 0.002


class ThreadCallback:
    """A callback that wakes one thread. Made, and waited on, by the thread that will park."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()

    def __call__(self, future: object) -> None:
        self._lock.release()

    def park(self, timeout: float | None, pool: Pool | None) -> bool:
        """Park until called (True) or until `timeout` seconds have passed (False)."""
        began = monotonic_ns()
        woken = wait_watchfully(partial(acquire, self._lock), timeout, pool)
        # The next wait is likely to be as long as this one was.
        short = monotonic_ns() - began < SHORT_WAIT
        here.spin_limit = SPIN_LIMIT if short else here.spin_limit >> 1
        return woken


def spin_wait(future: AnyCallbackFuture) -> bool:
    """Look at a future for a while, before parking on it; return whether it is final.

    A thread whose last waits were long spins for a shorter while (`ThreadCallback.park`): where
    tasks are long, it would only take the processor from their workers.
    """
    for _ in range(min(here.spin_limit, SPIN_LIMIT)):
        if type(future._status) is Final:
            return True
        yield_cpu()
    return False


def wait_watchfully(
    wait: Callable[[float | None], bool], timeout: float | None, pool: Pool | None
) -> bool:
    """`wait(timeout)`, with a look in between whether a worker of `pool` is held up."""
    if pool is None or (timeout is not None and timeout <= TRUST):
        return wait(timeout)
    if wait(TRUST):
        return True
    pool.distrust_searchers()
    return wait(None if timeout is None else timeout - TRUST)


def wait(future: AnyCallbackFuture, timeout: float | None) -> bool:
    """Wait on a thread that is no worker; return whether the future is final."""
    if timeout is None or timeout > 0:
        if spin_wait(future):
            return True
    elif type(future._status) is list:
        return False
    if future._pool is not None:
        future._pool.check_same_process()
    waiter = ThreadCallback()
    future.register_for_now(waiter)
    try:
        return waiter.park(timeout, future._pool) or type(future._status) is Final
    finally:
        future._unregister(waiter)
