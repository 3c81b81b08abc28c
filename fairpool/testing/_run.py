"""`Run`: one execution in which a strategy says which thread goes on, and when.

Each thread is a real one, with a *baton* of its own. It runs while it has been given its
baton, and nobody else is: so one thread runs at a time, and what each does between two *points* is
undivided. At a point the strategy may pass the baton to another thread. Locks, time and waiting are
the run's (`_world` puts them in place): a thread that would block is one that the strategy may not
choose, and when no thread can go on, the clock goes to the next deadline at once.

Guarantees:

- The same program under the same decisions does the same again, step for step.
- A run ends: where no thread can go on and no deadline is left (`Deadlock`), and where there is no
  end to be seen after `STEPS_MAX` points (`Livelock`), all threads are unwound.
"""

from __future__ import annotations

import sys
import threading
import traceback
from _thread import get_ident, start_new_thread
from collections.abc import Callable
from logging import CRITICAL, LogRecord
from math import inf
from queue import Empty, SimpleQueue
from random import Random
from types import FrameType
from typing import Any, Protocol

# A run of this many points has no end. The longest of the package's own scenarios has some 2,000.
STEPS_MAX = 200_000

# How long a step takes (ns), to whom counts nanoseconds. A critical section of a few lines is then
# one of some ten µs, which is where the package decides one way or the other.
STEP_TIME = 1_000

# In seconds of the run's clock: a wait that ends only after that is one without end.
TIME_MAX = 100_000.0

# A thread that has swallowed this many `Abandoned` is left where it is.
UNWINDINGS_MAX = 1_000

# In real seconds: a thread that has not come to a point for so long is blocked in something that
# the run does not see.
PATIENCE = 30.0


# In real seconds. On a virtual machine whose processors were all busy, a thread that had been given
# its baton was seen to run only when its own time-out of 30 s had passed. Why is not known; so it
# waits with short ones.
LOOK_UP = 0.05

# The one critical message that is no fault of the package's.
INITIALIZER_FAILED = "Exception in initializer:"


class Deadlock(Exception):
    """No thread can go on, and no deadline is left."""


class Livelock(Exception):
    """The threads go on without an end."""


class Stuck(Exception):
    """A thread is blocked in something that the explorer does not see."""


class Abandoned(BaseException):
    """Unwinds the threads of a run that has failed."""


WAYS_OUT = (
    ("builtins", "KeyboardInterrupt"),
    ("unittest.case", "SkipTest"),
    ("_pytest.outcomes", "Skipped"),
    ("_pytest.outcomes", "Exit"),
    ("hypothesis.errors", "UnsatisfiedAssumption"),
    ("hypothesis.errors", "StopTest"),
)


def is_failure(error: BaseException) -> bool:
    """Whether a scenario that raises this has failed.

    All but Ctrl-C, and the ways in which pytest and hypothesis leave a test that has not failed.
    """
    for module, name in WAYS_OUT:  # not imported here: the code that raises them has done so
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return False
    return True


class Moment:
    """A thread at a point: an entry of the history."""

    __slots__ = ("filename", "function", "line", "step", "thread")

    def __init__(self, step: int, thread: str, frame: FrameType | None) -> None:
        self.step = step
        self.thread = thread
        self.filename = "" if frame is None else frame.f_code.co_filename
        self.function = "" if frame is None else frame.f_code.co_qualname
        self.line = 0 if frame is None else frame.f_lineno

    @property
    def place(self) -> tuple[str, str, int]:
        return self.thread, self.filename, self.line


def take_baton(baton: SimpleQueue[None], timeout: float = inf) -> bool:
    """Wait for a baton; False if it has not come after `timeout` real seconds."""
    looks = 0
    while looks * LOOK_UP < timeout:
        try:
            baton.get(timeout=LOOK_UP)
        except Empty:
            looks += 1
        else:
            return True
    return False


class Controlled:
    """What a run knows of one of its threads."""

    __slots__ = (
        "baton",
        "daemon",
        "deadline",
        "ended",
        "ident",
        "name",
        "number",
        "unwindings",
        "waits_for",
    )

    def __init__(self, number: int, name: str, daemon: bool) -> None:
        self.number = number
        self.name = name
        self.daemon = daemon
        self.ident: int | None = None
        # Not a lock: on a free-threaded build a lock that is held is looked at again and again,
        # with `sched_yield` in between, before its thread sleeps. Where other programs run as well,
        # that costs 340 to 4,800 µs for one way and back, against 9 to 93 with this.
        self.baton: SimpleQueue[None] = SimpleQueue()
        self.ended = False
        self.waits_for: object = None  # None: it can go on
        self.deadline = inf
        self.unwindings = 0

    def __repr__(self) -> str:
        return f"<thread {self.number}: {self.name}>"


class Strategy(Protocol):
    """Decides which thread goes on. It is asked at step `stop`, and whenever a thread blocks."""

    stop: float

    def choose(self, run: Run, runnable: list[Controlled]) -> Controlled:
        """One of `runnable`, and `stop` for the next time."""

    def woken(self, run: Run, thread: Controlled) -> None:
        """`thread` can go on from here on."""

    def yielded(self, run: Run, thread: Controlled) -> None:
        """`thread` lets others go first."""


class Run:
    """One execution. Made by the thread that becomes thread 0 in it, and is to `close` it."""

    def __init__(
        self,
        strategy: Strategy,
        luck: int = 0,
        record: bool = False,
        trace_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self.strategy = strategy
        self.random = Random(luck).random
        self.trace_thread = trace_thread
        self.step = 0
        self.now = 1000.0
        # Where others than the strategy stood, as (step, thread): a `Replay` of these is the same
        # run again.
        self.decisions: list[tuple[int, int]] = []
        self.history: list[Moment] | None = [] if record else None
        self.interesting: Callable[[FrameType], bool] = lambda frame: True
        self.errors: list[BaseException] = []
        self.log: list[str] = []
        self.states = ""  # of all threads, when none could go on, or all did for ever
        self.silent = False  # while True, locks and threads are real, and no point is one
        self.failed = False
        self.main = self.current = Controlled(0, "main", False)
        self.main.ident = self.ident = get_ident()
        self.threads = [self.main]
        self._next_stop: float = 0 if record else 1
        self.yields = False  # the calling thread lets others go first
        self._numbers: dict[int, tuple[int, object]] = {}

    @property
    def clock(self) -> int:
        """The time in ns, to whom counts nanoseconds: it goes on with each step."""
        return int(self.now * 1e9) + self.step * STEP_TIME

    def controls(self) -> bool:
        """Whether the calling thread is one of the run's."""
        return get_ident() == self.ident and not self.silent

    def number_of(self, thing: object) -> int:
        """A number for each object that is asked about, in the order of asking."""
        # It is kept alive, so that no other gets its `id`.
        return self._numbers.setdefault(id(thing), (len(self._numbers), thing))[0]

    # --- points ----------------------------------------------------------------------------------

    def reached(self) -> None:
        """`point`, on any thread."""
        if get_ident() == self.ident and not self.silent:
            self.point()

    def point(self) -> None:
        """The calling thread is about to do something that others can see."""
        self.step = step = self.step + 1
        if step >= self._next_stop:
            self._stop()

    def pause(self) -> None:
        """The calling thread lets others go first."""
        self.strategy.yielded(self, self.current)
        self.yields = True
        self._next_stop = 0
        self.point()

    def usual(self, runnable: list[Controlled]) -> Controlled:
        """Return the thread to go on if nothing else is decided: the running one, or the oldest."""
        if self.current in runnable and not (self.yields and len(runnable) > 1):
            return self.current
        return next(each for each in runnable if each is not self.current)

    def _stop(self) -> None:
        if self.failed:
            self._unwind()
        me = self.current
        if self.history is not None:
            self._note(me)
        if self.step > STEPS_MAX:
            self.fail(Livelock(f"no end after {STEPS_MAX} points"))
            self._unwind()
        chosen = self._choose(self.runnable())
        if chosen is not me:
            self._pass_baton(me, chosen)

    def runnable(self) -> list[Controlled]:
        return [each for each in self.threads if each.waits_for is None and not each.ended]

    def _choose(self, runnable: list[Controlled]) -> Controlled:
        chosen = self.strategy.choose(self, runnable)
        self._next_stop = 0 if self.history is not None else min(self.strategy.stop, STEPS_MAX + 1)
        usual = self.usual(runnable)
        self.yields = False
        if chosen is not usual:
            self.decisions.append((self.step, chosen.number))
        return chosen

    def _pass_baton(self, me: Controlled, chosen: Controlled) -> None:
        self.current = chosen
        assert chosen.ident is not None
        self.ident = chosen.ident
        chosen.baton.put(None)
        if not me.ended:
            self._await_baton(me)
            if self.failed:
                self._unwind()

    def _await_baton(self, me: Controlled) -> None:
        if me is not self.main:
            take_baton(me.baton)
            return
        # This thread looks up now and then: whether Ctrl-C was pressed, and whether all is stuck.
        step = -1
        while not take_baton(me.baton, PATIENCE):
            if step == self.step:
                where = "".join(self._stack_of(self.current))
                self.failed = True
                self.errors.append(
                    Stuck(
                        f"{self.current} has come to no point for {PATIENCE} s; it may be blocked "
                        f"in something that is not under the explorer's control:\n{where}"
                    )
                )
                self.current = self.main
                self.ident = self.main.ident or 0
                raise Abandoned
            step = self.step

    def _note(self, me: Controlled) -> None:
        assert self.history is not None
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not self.interesting(frame):
            frame = frame.f_back
        self.history.append(Moment(self.step, me.name, frame))

    # --- waiting ---------------------------------------------------------------------------------

    def wait(self, what: object, deadline: float = inf) -> None:
        """Block the calling thread until `wake(what)`, or until the clock is at `deadline`."""
        me = self.current
        me.waits_for = what
        me.deadline = deadline
        self.step += 1
        if self.failed:
            me.waits_for = None
            self._unwind()
        if self.history is not None:
            self._note(me)
        try:
            chosen = self._choose(self._runnable_at_last())
        except Deadlock as deadlock:
            self.fail(deadlock)
            me.waits_for = None
            self._unwind()
        if chosen is not me:
            self._pass_baton(me, chosen)

    def _runnable_at_last(self) -> list[Controlled]:
        """The threads that can go on, when the clock has gone as far as it must."""
        runnable = self.runnable()
        if not runnable:
            waiting = [each for each in self.threads if not each.ended]
            self.now = max(self.now, min((each.deadline for each in waiting), default=inf))
            if self.now > TIME_MAX:
                raise Deadlock("no thread can go on")
            for each in waiting:
                if each.deadline <= self.now:
                    self._wake_one(each)
            runnable = self.runnable()
        return runnable

    def wake(self, what: object) -> None:
        """Let those go on that wait for `what`."""
        for each in self.threads:
            if each.waits_for is what:
                self._wake_one(each)

    def _wake_one(self, thread: Controlled) -> None:
        thread.waits_for = None
        thread.deadline = inf
        self.strategy.woken(self, thread)
        if not self.failed:
            self._next_stop = min(self._next_stop, self.strategy.stop)

    # --- threads ---------------------------------------------------------------------------------

    def new_thread(self, name: str, daemon: bool) -> Controlled:
        """One more thread, which can go on as soon as the caller makes it one of `threads`."""
        return Controlled(len(self.threads), name, daemon)

    def launch(
        self, thread: Controlled, body: Callable[[], None], live: Callable[[Any], None]
    ) -> None:
        """Start a thread that calls `live`, which runs the body."""
        begun: SimpleQueue[None] = SimpleQueue()
        start_new_thread(live, (begun,))
        take_baton(begun)

    def started(self, thread: Controlled) -> None:
        """A thread that the calling one has started can go on."""
        self.threads.append(thread)
        self._wake_one(thread)
        self.point()

    def untrace_thread(self) -> None:
        """The calling thread is about to end."""
        sys.settrace(None)

    def thread_failed(self, error: BaseException) -> None:
        """The calling thread ends with an error."""
        if not isinstance(error, Abandoned):
            self.fail(error)

    def logged(self, record: LogRecord) -> None:
        """The package has logged something: what is critical to it is a failure here."""
        self.log.append(record.getMessage())
        if record.levelno >= CRITICAL and record.msg != INITIALIZER_FAILED:
            error = record.exc_info[1] if record.exc_info else None
            self.fail(error or RuntimeError(record.getMessage()))

    def begin(self, me: Controlled) -> None:
        """A new thread's first call: waits until it is chosen."""
        take_baton(me.baton)
        if self.failed:
            self._unwind()

    def end(self, me: Controlled) -> None:
        """A thread's last call, when it is the current one."""
        me.ended = True
        self.step += 1
        if not self.failed:
            self.wake(me)
            if not self._live(daemons=False):
                self.wake(self)
            try:
                chosen = self._choose(self._runnable_at_last())
            except Deadlock as deadlock:
                self.fail(deadlock)
        if self.failed:
            chosen = self.main  # which unwinds, and then the others, one by one
        self._pass_baton(me, chosen)

    def _live(self, daemons: bool) -> list[Controlled]:
        return [
            each
            for each in self.threads
            if not each.ended and each is not self.main and (daemons or not each.daemon)
        ]

    def join(self) -> None:
        """Called by thread 0: wait until the other threads have ended."""
        while self._live(daemons=False):
            self.wait(self)

    # --- the end ---------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """The run has failed; what its threads do from here on is of no interest."""
        if not self.failed:
            self.errors.append(error)
            if isinstance(error, (Deadlock, Livelock)):
                self.states = "\n".join(
                    f"{each.name} {'waits' if each.waits_for is not None else 'goes on'}:\n"
                    + "".join(self._stack_of(each))
                    for each in self.threads
                    if not each.ended
                )
            self.failed = True
        self._next_stop = 0

    def _stack_of(self, thread: Controlled) -> list[str]:
        frame = sys._current_frames().get(thread.ident or 0)
        while frame is not None and frame.f_globals.get("__name__", "").startswith(
            "fairpool.testing"
        ):
            frame = frame.f_back
        lines = traceback.format_stack(frame)[-6:] if frame is not None else []
        del frame
        return lines

    def _unwind(self) -> None:
        me = self.current
        me.waits_for = None
        me.unwindings += 1
        if me.unwindings > UNWINDINGS_MAX and me is not self.main:
            me.ended = True
            # Started below `threading`, so the interpreter does not wait for it. Nor is anybody to
            # wait for it who asks `threading` for the threads that run.
            threading._active.pop(me.ident, None)  # type: ignore[attr-defined]
            self._pass_baton(me, self.main)
            threading.Event().wait()  # for ever
        raise Abandoned

    def close(self) -> None:
        """Called by thread 0, when it has done its part, or unwound: no thread is left after it."""
        left = self._live(daemons=True)
        if left:
            self.failed = True  # daemons are left when all is done
            self._next_stop = 0
            for each in left:
                if not each.ended:
                    self._pass_baton_and_wait(each)
        self.ident = 0

    def _pass_baton_and_wait(self, thread: Controlled) -> None:
        self.current = thread
        assert thread.ident is not None
        self.ident = thread.ident
        thread.baton.put(None)
        take_baton(self.main.baton, PATIENCE)
        self.current = self.main
        self.ident = self.main.ident or 0
