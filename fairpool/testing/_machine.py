"""`Machine`: one execution in which each thread has a processor of its own, and time is virtual.

A thread runs while no other one is behind it in time: what it does between two calls of `spend`
takes no time, and is undivided. `spend` lets those go on first that have something to do before
that time is up. So each thread sees what the others did up to its own time, and nothing else.

It is to `_world` what a `Run` is: locks, time and waiting are the machine's. Nothing is chosen: the
same program does the same again, step for step.
"""

from __future__ import annotations

from _thread import get_ident
from collections import defaultdict
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from logging import CRITICAL, LogRecord
from math import inf
from random import Random
from typing import Any

from fairpool._core.here import here as _real_here
from fairpool.testing._carriers import Carried, Carriers
from fairpool.testing._run import TIME_MAX, UNWINDINGS_MAX, Abandoned, Deadlock

SECOND = 1_000_000_000

# What a machine's clock shows at first (ns).
START = 1_000 * SECOND


class Here:
    """What `_core.here.here` is: the attributes of the thread that runs."""

    worker: Any


for _name, _value in vars(type(_real_here)).items():
    if not _name.startswith("__"):
        setattr(Here, _name, _value)


class Virtual(Carried):
    """What a machine knows of one of its threads."""

    __slots__ = (
        "daemon",
        "entry",
        "here",
        "ident",
        "name",
        "number",
        "owes",
        "unwindings",
        "waits_for",
    )

    # entry:     the number of its entry in the heap that counts; -1 for none
    # here:      its attributes of `Here`
    # ident:     what `threading.get_ident` gives in it; of thread 0, what it gave before
    # owes:      what it has still to spend (ns)
    # waits_for: what it waits for, if it does

    def __init__(self, number: int, ident: int, name: str, daemon: bool) -> None:
        super().__init__()
        self.number = number
        self.name = name
        self.daemon = daemon
        self.entry = -1
        self.here: dict[str, Any] = {}
        self.ident = ident
        self.owes = 0
        self.waits_for: object = None
        self.unwindings = 0


class Machine:
    """One execution, of the program that `run` is given."""

    def __init__(
        self,
        carriers: Carriers,
        seed: int,
        *,
        lock: int,
        pause: int,
        unpark: int,
        wake: int,
        start: int,
    ) -> None:
        """What things take is in ns.

        `lock`: any operation of a lock; `pause`: to let others go first, and look again; `unpark`:
        to wake a thread, for its waker; `wake`: the same, until that one runs; `start`: to start
        a thread, likewise.
        """
        self._carriers = carriers
        self.rng = Random(seed)
        self._lock, self._pause, self._unpark, self._wake, self._start = (
            lock,
            pause,
            unpark,
            wake,
            start,
        )
        self.clock = START
        self.here = Here()
        self.main = self.current = Virtual(0, get_ident(), "main", False)
        self.here.__dict__ = self.main.here
        self.threads = [self.main]
        self.errors: list[BaseException] = []
        self.failed = False
        self.silent = False  # while True, locks and threads are real
        self.strategy = None
        self.events = 0  # how often another thread went on
        self.wakes = 0
        self.spent: defaultdict[str, int] = defaultdict(int)
        self.chance = 0.0  # what `random` has given last
        self._heap: list[tuple[int, int, Virtual]] = []
        self._numbers = count()
        self._idents = count(1)
        self._waiting: dict[int, list[Virtual]] = {}
        self._known: dict[int, tuple[int, object]] = {}

    @property
    def now(self) -> float:
        return self.clock / SECOND

    def controls(self) -> bool:
        """Whether the calling thread is one of the machine's."""
        return not self.silent and get_ident() == self._carriers.ident

    def random(self) -> float:
        self.chance = chance = self.rng.random()
        return chance

    def number_of(self, thing: object) -> int:
        """A number for each object that is asked about, in the order of asking."""
        return self._known.setdefault(id(thing), (len(self._known), thing))[0]

    # --- time ------------------------------------------------------------------------------------

    def spend(self, time: int, what: str) -> None:
        """The calling thread is busy for so long (ns)."""
        me = self.current
        self.spent[what] += time
        end = self.clock + time + me.owes
        me.owes = 0
        heap = self._heap
        if self.failed or (heap and heap[0][0] < end):
            self._go_on_at(me, end)
            self._switch(me)
        else:
            self.clock = end

    def reached(self) -> None:
        """No instruction of its own takes time."""

    def point(self) -> None:
        """An operation of a lock. It is short: what it takes is spent together with the next."""
        self.current.owes += self._lock
        self.spent["locks"] += self._lock

    def pause(self) -> None:
        """The calling thread lets others go first."""
        self.spend(self._pause, "search")

    def _go_on_at(self, thread: Virtual, time: int) -> None:
        thread.entry = number = next(self._numbers)
        heappush(self._heap, (time, number, thread))

    # --- waiting ---------------------------------------------------------------------------------

    def wait(self, what: object, deadline: float) -> None:
        """Block the calling thread until `wake(what)`, or until the clock is at `deadline`."""
        me = self.current
        me.waits_for = what
        self._waiting.setdefault(id(what), []).append(me)
        if deadline < self.now + TIME_MAX:
            # At least one tick, so that it is over, then, however it was rounded.
            self._go_on_at(me, max(int(deadline * SECOND), self.clock) + 1)
        self._switch(me)

    def wake(self, what: object) -> None:
        """Let those go on that wait for `what`."""
        for each in self._waiting.pop(id(what), ()):
            each.waits_for = None
            self.wakes += 1
            self.spent["wake"] += self._wake
            self._go_on_at(each, self.clock + self._wake)
            self.current.owes += self._unpark
            self.spent["unpark"] += self._unpark

    def _switch(self, me: Virtual) -> None:
        """Go on with the thread that is behind all others; return when that is the calling one."""
        if not self.failed:
            try:
                chosen = self._next()
            except Deadlock as deadlock:
                self.fail(deadlock)
            else:
                if chosen is not me:
                    self._go_on_with(me, chosen)
        if self.failed:
            self._unwind(me)

    def _next(self) -> Virtual:
        heap = self._heap
        while heap:
            time, number, thread = heappop(heap)
            if thread.entry == number:
                thread.entry = -1
                if time > self.clock:
                    self.clock = time
                if thread.waits_for is not None:  # its time is up
                    self._waiting[id(thread.waits_for)].remove(thread)
                    thread.waits_for = None
                return thread
        waiting = ", ".join(each.name for each in self.threads if not each.ended)
        raise Deadlock(f"no thread can go on: {waiting}")

    def _make_current(self, chosen: Virtual) -> None:
        self.events += 1
        self.current = chosen
        self.here.__dict__ = chosen.here

    def _go_on_with(self, me: Virtual, chosen: Virtual) -> None:
        """Go on with another thread; return when the calling one is gone on with."""
        self._make_current(chosen)
        self._carriers.switch(me, chosen)

    # --- threads ---------------------------------------------------------------------------------

    def run(self, program: Callable[[], None]) -> None:
        """Run a program, on thread 0. Returns when it, and all threads that it started, have ended.

        Raises what it raises, and what has stopped it.
        """

        def body() -> None:
            try:
                program()
                while left := [each for each in self._live() if not each.daemon]:
                    self.wait(left[0], inf)
            except Abandoned:
                pass
            except BaseException as error:
                self.fail(error)
            self._unwind_others()
            self.main.ended = True

        self._carriers.run(self.main, body)
        if self.errors:
            try:
                raise self.errors[0]
            finally:
                self.errors.clear()  # no cycle

    def new_thread(self, name: str, daemon: bool) -> Virtual:
        return Virtual(len(self.threads), next(self._idents), name, daemon)

    def launch(
        self, thread: Virtual, body: Callable[[], None], live: Callable[[Any], None]
    ) -> None:
        self._carriers.launch(thread, body, live)

    def started(self, thread: Virtual) -> None:
        """A thread that the calling one has started."""
        self.threads.append(thread)
        self._go_on_at(thread, self.clock + self._start)
        self.spend(self._start, "start")

    def begin(self, me: Virtual) -> None:
        """A thread's first call."""
        self._carriers.begin(me)
        if self.failed:
            self._unwind(me)

    def trace_thread(self) -> None:
        """Nothing is traced."""

    def untrace_thread(self) -> None:
        """Nothing was traced."""

    def end(self, me: Virtual) -> None:
        """A thread's last call."""
        me.ended = True
        chosen = self.main
        if not self.failed:
            self.threads.remove(me)
            self.wake(me)
            try:
                chosen = self._next()
            except Deadlock as deadlock:
                self.fail(deadlock)
        self._make_current(chosen)
        self._carriers.leave(chosen)

    def thread_failed(self, error: BaseException) -> None:
        """The calling thread ends with an error."""
        if not isinstance(error, Abandoned):
            self.fail(error)

    def logged(self, record: LogRecord) -> None:
        """The package has logged something: what is critical to it is a failure here."""
        if record.levelno >= CRITICAL:
            error = record.exc_info[1] if record.exc_info else None
            self.fail(error or RuntimeError(record.getMessage()))

    # --- the end ---------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """All threads are unwound: each is when it would wait, or spend time."""
        if not self.failed:
            self.failed = True
            self.errors.append(error)

    def _live(self) -> list[Virtual]:
        return [each for each in self.threads if not each.ended and each is not self.main]

    def _unwind(self, me: Virtual) -> None:
        me.unwindings += 1
        if me.unwindings > UNWINDINGS_MAX and me is not self.main:
            me.ended = True
            self._go_on_with(me, self.main)  # it is left where it is: this never returns
        raise Abandoned

    def _unwind_others(self) -> None:
        """Called by thread 0, at its end: no thread is left after it."""
        for each in self._live():
            self.failed = True
            if not each.ended:
                self._go_on_with(self.main, each)
        self.threads.clear()
        self._heap.clear()
        self._waiting.clear()
