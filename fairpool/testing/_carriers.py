"""What the threads of a simulated machine run on: one of them at a time, until it lets another on.

`Greenlets`, where the package `greenlet` is there: a switch takes 0.4 µs. `Threads`, a thread of
the system for each, anywhere else: 9 to 25 µs. Which it is makes no difference to what happens.
"""

from __future__ import annotations

import asyncio.tasks
import gc
import sys
from _thread import get_ident, start_new_thread
from asyncio import _get_running_loop, _set_running_loop
from collections.abc import Callable
from queue import SimpleQueue
from sys import get_asyncgen_hooks, set_asyncgen_hooks
from threading import local as _local
from typing import Any, Protocol

from fairpool._core.threads import FREE_THREADED
from fairpool.testing._run import take_baton


class Carried:
    """Something that is carried. `carrier` is the carriers' own affair."""

    __slots__ = ("carrier", "ended")

    carrier: Any

    def __init__(self) -> None:
        self.ended = False


class Carriers(Protocol):
    """Makes carriers, and switches from one to another."""

    # Of the thread of the system that runs.
    ident: int

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


class Threads:
    """A thread of the system for each, which waits for its baton."""

    def __init__(self) -> None:
        self.ident = get_ident()  # before `run`: other threads look at the clock already

    def run(self, main: Carried, body: Callable[[], None]) -> None:
        main.carrier = [SimpleQueue(), self.ident]
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
        baton, self.ident = to.carrier
        baton.put(None)


class ThreadState:
    """What the interpreter keeps for each thread of the system, and greenlets would share.

    That is the values of each `threading.local` that is there when the simulation begins (what is
    made in it is of another kind, see `_simulate`), the event loop that runs, and the hooks for
    asynchronous generators. A switch puts away those of one greenlet, and puts those of the next in
    their place. (Contexts are greenlet's own affair. `gc.freeze` hides a `threading.local`.)
    """

    __slots__ = ("_locals", "_saved", "_values")

    def __init__(self) -> None:
        locals_ = [each for each in gc.get_objects() if issubclass(type(each), _local)]
        # The same dictionaries for as long as the calling thread lives.
        self._values: list[dict[str, Any]] = [each.__dict__ for each in locals_]
        # Those in which a thread finds values at once: only a thread can make them.
        self._locals = [
            (number, each)
            for number, each in enumerate(locals_)
            if type(each).__init__ is not object.__init__
        ]
        self._saved: dict[Any, tuple[Any, Any, Any, Any]] = {}

    def switch(self, here: Any, to: Any) -> None:
        values, loop, hooks, task = self._values, _get_running_loop(), get_asyncgen_hooks(), None
        if loop is not None:
            task = _swap_task(loop, None)
        if any(values):
            if not here.dead:
                saved = [each.copy() for each in values]
                self._saved[here] = saved, loop, hooks, task
            for each in values:
                each.clear()
        elif not here.dead:
            self._saved[here] = None, loop, hooks, task
        new_values, new_loop, new_hooks, new_task = self._saved.pop(to, _NEW)
        if new_values is not None:
            for each, new in zip(values, new_values, strict=True):
                each.update(new)
        elif self._locals:
            self._begin()
        if new_loop is not loop:
            _set_running_loop(new_loop)
        if new_task is not None:
            _swap_task(new_loop, new_task)
        if new_hooks != hooks:
            set_asyncgen_hooks(*new_hooks)

    def _begin(self) -> None:
        """Put in place what a new thread finds in the locals that are made with an `__init__`."""
        done: SimpleQueue[None] = SimpleQueue()

        def look() -> None:
            try:
                for number, each in self._locals:
                    self._values[number].update(each.__dict__)
            finally:
                done.put(None)

        start_new_thread(look, ())
        done.get()


def _swap_task(loop: Any, task: Any) -> Any:
    """Put another task in the place of that which runs in the loop, where a thread keeps it."""
    if sys.version_info >= (3, 14):
        return asyncio.tasks._swap_current_task(loop, task)
    return None


# Of a greenlet that has not run yet.
_NEW: tuple[Any, Any, Any, Any] = None, None, (None, None), None


class Greenlets:
    """A greenlet for each. All are started by one more, the hub, that does nothing else.

    One that was started by another would count that one's stack as part of its own. When a body
    has returned, the hub goes on with the next.
    """

    def __init__(self) -> None:
        from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]

        self._state = ThreadState()
        self._make = greenlet
        self._hub = getcurrent()
        self.ident = get_ident()
        self._current: Any = None
        self._next: Any = None

    def run(self, main: Carried, body: Callable[[], None]) -> None:
        main.carrier = self._next = self._current = self._make(body, self._hub)
        main.carrier.gr_context = self._hub.gr_context
        while not main.ended:
            self._make_current(self._next)
            self._next.switch()
        self._make_current(main.carrier)

    def _make_current(self, carrier: Any) -> None:
        if self._current is not carrier:
            self._state.switch(self._current, carrier)
            self._current = carrier

    def launch(
        self, thread: Carried, body: Callable[[], None], live: Callable[[Any], None]
    ) -> None:
        thread.carrier = self._make(body, self._hub)

    def begin(self, thread: Carried) -> None:
        pass

    def switch(self, here: Carried, to: Carried) -> None:
        self._next = carrier = to.carrier
        if carrier:  # it has been started
            self._make_current(carrier)
            carrier.switch()
        else:
            self._hub.switch()

    def leave(self, to: Carried) -> None:
        self._next = to.carrier  # the body returns to the hub


def best_carriers() -> Carriers:
    """The quickest that there are."""
    # Importing greenlet may switch the GIL on in a free-threaded interpreter.
    if not FREE_THREADED:
        try:
            return Greenlets()
        except ImportError:
            pass
    return Threads()
