"""`concurrent.futures.wait` and `as_completed` in a worker: their event, adopted.

The standard library waits for an event of its own. `adopt` puts one in its place that gives up the
worker's slot while it waits, so that the pool does not starve (`docs/protocols/waiting.md`).
"""

from __future__ import annotations

from typing import Protocol

from fairpool._core.here import here
from fairpool._core.threads import Event
from fairpool._tasks.future import AnyFuture, Derived
from fairpool._tasks.settling import claim, settle
from fairpool._tasks.state import FINISHED
from fairpool._tasks.thread_wait import wait_watchfully


class StdWaiter(Protocol):
    """A waiter of `concurrent.futures`."""

    event: Event | AdoptedEvent


class EventWaiter(Protocol):
    """A worker that waits for such an event."""

    def wait_for_futures(self, adopted: AdoptedEvent, timeout: float | None) -> bool: ...


class AdoptedEvent:
    """The event of a `concurrent.futures` waiter on which a worker is about to wait."""

    def __init__(self, event: Event, needs_all: bool) -> None:
        self.needs_all = needs_all
        self.event = event
        self.futures: list[AnyFuture] = []
        self._announced: list[Derived[None]] = []
        self.clear = event.clear
        self.is_set = event.is_set

    def set(self) -> None:
        self.event.set()
        for future in self._announced.copy():  # see `announce`
            if claim(future) is not None:
                settle(future, FINISHED, None)

    def announce(self) -> Derived[None]:
        """A future that is final when the event is set, or was set before."""
        future: Derived[None] = Derived()
        self._announced.append(future)
        # Both this and `set` have called a method of the list in between: one sees the other (mutex
        # order).
        if self.event.is_set() and claim(future) is not None:
            settle(future, FINISHED, None)
        return future

    def wait_watchfully(self, timeout: float | None) -> bool:
        """Wait for the event, on a thread that nobody counts on."""
        return wait_watchfully(self.event.wait, timeout, self.futures[0]._pool)

    def wait(self, timeout: float | None = None) -> bool:
        worker: EventWaiter | None = here.worker
        if worker is None:
            return self.wait_watchfully(timeout)
        return worker.wait_for_futures(self, timeout)


def adopt(waiter: StdWaiter, future: AnyFuture) -> None:
    """The calling thread is about to wait on a `concurrent.futures` waiter, for `future` too."""
    event = waiter.event
    if not isinstance(event, AdoptedEvent):
        # Only `wait(…, ALL_COMPLETED)` needs all of its futures. The others may go on when any of
        # them is done, and could be what another one waits for: none may be run on top of them.
        needs_all = getattr(waiter, "stop_on_exception", True) is False
        event = waiter.event = AdoptedEvent(event, needs_all)
    event.futures.append(future)
