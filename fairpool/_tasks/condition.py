"""The adapter to `concurrent.futures.wait` and `as_completed`, and with them to asyncio.

These functions take a future's `_condition`, read its `_state`, and install a waiter in its
`_waiters`. They rely on it that the state does not become final while they hold the condition. A
`ConditionAdapter` gives them what they look for, and is made for a future when they first ask.

Protocol and proof: `docs/protocols/future.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fairpool._core.here import here
from fairpool._core.room import need_stack
from fairpool._core.threads import Condition, RLock
from fairpool._tasks.callbacks import AnyCallbackFuture
from fairpool._tasks.host import Worker
from fairpool._tasks.state import CANCELLED, FAILED, FINISHED

# The method by which a waiter of `concurrent.futures._base` is told how a future has ended.
TELL = {FINISHED: "add_result", FAILED: "add_exception", CANCELLED: "add_cancelled"}


class ConditionAdapter:
    """What `concurrent.futures.wait` and `as_completed` look at: `_condition` and `_waiters`.

    An adapter is a callback of its future. Once it exists, `_state` says that the future is final
    only after the adapter was told so, under its condition.
    """

    __slots__ = ("condition", "heard", "registered", "told", "waiters")

    def __init__(self, future: AnyCallbackFuture) -> None:
        self.condition = Condition(ConditionLock())  # type: ignore[arg-type]
        self.heard: list[object] = []  # the waiters that were told
        self.waiters = StdWaiters(future)
        self.registered = False
        self.told = False

    def __call__(self, future: AnyCallbackFuture) -> None:
        if future._status is CANCELLED and future._pool is None and not future._is_notified():
            return  # the notification is still to come: as in the standard library
        lock: ConditionLock = self.condition._lock  # type: ignore[attr-defined]
        if lock._is_owned():
            # A signal handler cancels the future, in the midst of a `wait` on the same thread.
            lock.on_release = partial(self, future)
            return
        need_stack()
        # Not `with self.condition`, which needs memory to leave. What fails in here is done again.
        lock.acquire()
        try:
            if self.told:
                return
            for waiter in self.waiters:
                if waiter not in self.heard:
                    getattr(waiter, TELL[future._status])(future)  # type: ignore[index]  # it is final
                    self.heard.append(waiter)
            self.told = True
            self.heard.clear()  # no cycle is left behind
            self.waiters.future = None
        finally:
            lock.release()


class ConditionLock:
    """An RLock that makes one call when it has been released for good.

    All else is the RLock's own, whatever the version of Python gives it (`locked` from 3.14 on).
    """

    __slots__ = ("_is_owned", "_lock", "acquire", "on_release")

    def __init__(self) -> None:
        self._lock = RLock()
        self.acquire = self._lock.acquire
        self._is_owned: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]
        self.on_release: Callable[[], object] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._lock, name)

    def release(self) -> None:
        self._lock.release()
        if self.on_release is not None and not self._is_owned():
            self._released()

    def _release_save(self) -> object:
        state: object = self._lock._release_save()  # type: ignore[attr-defined]
        if self.on_release is not None:
            self._released()
        return state

    def _released(self) -> None:
        call, self.on_release = self.on_release, None
        if call is not None:
            call()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.release()


class StdWaiters(list[object]):
    """`Future._waiters`. A worker that installs a waiter is about to wait: it must not starve."""

    __slots__ = ("future",)

    def __init__(self, future: AnyCallbackFuture) -> None:
        self.future: AnyCallbackFuture | None = future

    def append(self, waiter: object) -> None:
        if self.future is not None:
            worker: Worker | None = here.worker
            host = self.future._pool if worker is None else worker
            if host is not None:
                host.adopt(waiter, self.future)
        list.append(self, waiter)


def adapter_of(future: AnyCallbackFuture) -> ConditionAdapter:
    """The adapter of `future`: made when it is first asked for, and the same for all."""
    if type(future._status) is list and future._pool is not None:
        future._pool.check_same_process()
    adapter: ConditionAdapter | None = future.__dict__.get("_adapter")
    if adapter is None:
        adapter = future.__dict__.setdefault("_adapter", ConditionAdapter(future))
    assert adapter is not None
    if not adapter.registered:
        # The thread that made it may have been interrupted before it registered it. So each thread
        # that meets an unregistered one does. To tell an adapter twice is harmless.
        future._register(adapter)
        adapter.registered = True
    return adapter
