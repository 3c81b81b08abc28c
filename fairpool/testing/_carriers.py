"""What the threads of a simulated machine run on: one of them at a time, until it lets another on.

`Greenlets`, where the package `greenlet` is there: a switch takes 0.4 µs. `Threads`, a thread of
the system for each, anywhere else: 9 to 25 µs. Which it is makes no difference to what happens.
"""

from __future__ import annotations

from _thread import get_ident, start_new_thread
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol

from fairpool._sync import FREE_THREADED
from fairpool.testing._run import take_baton

__all__ = ["Carried", "Carriers", "Greenlets", "Threads", "best_carriers"]


class Carried:
    """Something that is carried. `carrier` is the carriers' own affair."""

    __slots__ = ("carrier", "ended")

    carrier: Any

    def __init__(self) -> None:
        self.ended = False


class Carriers(Protocol):
    """Makes carriers, and switches from one to another."""

    def run(self, main: Carried, body: Callable[[], None]) -> None:
        """Run the body of `main`, and return when that has ended. It raises nothing."""

    def launch(
        self, thread: Carried, body: Callable[[], None], live: Callable[[Any], None]
    ) -> None:
        """A carrier for one more, which calls the body when it is switched to."""

    def begin(self, thread: Carried) -> None:
        """The first call of its body."""

    def switch(self, here: Carried, to: Carried) -> None:
        """Go on with another. Returns when `here` is gone on with."""

    def leave(self, to: Carried) -> None:
        """Go on with another when the calling one's body has returned, which it is about to."""

    def holds(self) -> bool:
        """Whether the calling thread of the system is the one that runs."""


class Threads:
    """A thread of the system for each, which waits for its baton."""

    def run(self, main: Carried, body: Callable[[], None]) -> None:
        self._ident = get_ident()
        main.carrier = [SimpleQueue(), self._ident]
        body()

    def launch(
        self, thread: Carried, body: Callable[[], None], live: Callable[[Any], None]
    ) -> None:
        begun: SimpleQueue[None] = SimpleQueue()
        thread.carrier = [SimpleQueue(), 0]
        thread.carrier[1] = start_new_thread(live, (begun,))
        take_baton(begun)

    def begin(self, thread: Carried) -> None:
        take_baton(thread.carrier[0])

    def switch(self, here: Carried, to: Carried) -> None:
        self.leave(to)
        take_baton(here.carrier[0])

    def leave(self, to: Carried) -> None:
        baton, self._ident = to.carrier
        baton.put(None)

    def holds(self) -> bool:
        return get_ident() == self._ident


class Greenlets:
    """A greenlet for each. All are started, and switched to, by one more that does nothing else.

    One that was started by another would count that one's stack as part of its own.
    """

    def __init__(self) -> None:
        from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]

        self._make = greenlet
        self._hub = getcurrent()
        self._ident = get_ident()
        self._next: Any = None

    def run(self, main: Carried, body: Callable[[], None]) -> None:
        main.carrier = self._next = self._make(body, self._hub)
        main.carrier.gr_context = self._hub.gr_context
        while not main.ended:
            self._next.switch()

    def launch(
        self, thread: Carried, body: Callable[[], None], live: Callable[[Any], None]
    ) -> None:
        thread.carrier = self._make(body, self._hub)

    def begin(self, thread: Carried) -> None:
        pass

    def switch(self, here: Carried, to: Carried) -> None:
        self._next = to.carrier
        self._hub.switch()

    def leave(self, to: Carried) -> None:
        self._next = to.carrier  # the body returns to the hub

    def holds(self) -> bool:
        return get_ident() == self._ident


def best_carriers() -> Carriers:
    """The quickest that there are."""
    # Importing greenlet may switch the GIL on in a free-threaded interpreter.
    if not FREE_THREADED:
        try:
            return Greenlets()
        except ImportError:
            pass
    return Threads()
