"""Have something happen between two instructions of the package's code.

Between any two bytecode instructions of one thread another thread may do its part, and between some
of them (`interrupts=True`: where the interpreter looks for signals) a signal handler or a `__del__`
may, on the same thread. `moments` goes through them all, one by one:

    for moment in moments():
        future = Future()
        with moment.do(future.cancel):  # at the moment's place inside of what follows
            future.set_result(1)
        ...  # what must hold, whatever the place

So a race is not waited for; each of its orders happens once. What happens in between runs to its
end at once, which is one switch to another thread and back. `interleavings` goes further: the
second party, on a thread of its own, stops at each place in its turn until the first one is done.
"""

from __future__ import annotations

import dis
import functools
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import CodeType, FrameType, FunctionType
from typing import Any

import fairpool

PACKAGE = str(pathlib.Path(fairpool.__file__).parent)

# After these, and at the start of a function, the interpreter looks for signals (and, from 3.12 on,
# whether to collect garbage).
LOOKS_FOR_SIGNALS = ("CALL", "JUMP_BACKWARD")

# What threads can see of each other's doing is read and written by these.
SHARES = ("CALL", "LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "TO_BOOL", "POP_JUMP", "BINARY_SUBSCR")


class Moment:
    """One place among the instructions that a call executes inside the package."""

    def __init__(self, number: int, interrupts: bool = False, shares: bool = False) -> None:
        self.number = number
        self.reached = False
        self.where = "never reached"
        self.result: Any = None  # of the action
        self._interrupts = interrupts
        self._shares = shares
        self._left = number
        self._action: Callable[[], object] = int
        self._last: tuple[FrameType | None, str] = (None, "")

    @contextmanager
    def do(self, action: Callable[[], object]) -> Iterator[None]:
        """In what this encloses, call `action` at this moment; what it raises is raised there."""
        self._action = action
        _active[threading.get_ident()] = self
        if sys.version_info < (3, 12):
            sys.settrace(_trace_call)
        try:
            yield
        finally:
            if sys.version_info < (3, 12):
                sys.settrace(None)
            del _active[threading.get_ident()]
            self._last = (None, "")

    def before(self, frame: FrameType, offset: int) -> None:
        """An instruction is about to be executed."""
        if self.reached:
            return
        name = _names(frame.f_code)[offset]
        last_frame, last = self._last
        self._last = (frame, name)
        looks = offset == _start(frame.f_code) or (
            frame is last_frame and last.startswith(LOOKS_FOR_SIGNALS)
        )
        if (self._interrupts and not looks) or (self._shares and not name.startswith(SHARES)):
            return
        self._left -= 1
        if self._left < 0:
            self.reached = True
            self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno} before {name}"
            self.result = self._action()

    def __repr__(self) -> str:
        return f"<moment {self.number}: {self.where}>"


_active: dict[int, Moment] = {}  # by thread


@functools.cache
def _names(code: CodeType) -> dict[int, str]:
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


@functools.cache
def _start(code: CodeType) -> int:
    """Where the first instruction is that does something."""
    names = _names(code)
    return next(
        o for o, name in names.items() if o > next(o for o in names if names[o] == "RESUME")
    )


def moments(*, interrupts: bool = False, shares: bool = False) -> Iterator[Moment]:
    """All moments of what each one's `do` encloses; at the last one, nothing happens.

    `shares`: only those before something that threads can see of each other's doing.
    """
    with _instructions_reported():
        number = 0
        while True:
            moment = Moment(number, interrupts, shares)
            yield moment
            if not moment.reached:
                break
            number += 1
        assert number > 0, "none of the package's instructions were executed"


class Turns:
    """Two parties, of which each stops at one place while the other one goes on."""

    def __init__(self, number: int, other_number: int) -> None:
        self.moment = Moment(number, shares=True)
        self.other_moment = Moment(other_number, shares=True)
        self._thread: threading.Thread | None = None
        self._arrived, self._go_on = threading.Event(), threading.Event()

    def run(self, first: Callable[[], object], second: Callable[[], object]) -> None:
        """First to its place, second to its place, the rest of first, the rest of second."""
        with self.moment.do(lambda: self.start(second)):
            first()
        self.finish()
        if self._thread is None:
            second()

    def run_around(self, first: Callable[[], object]) -> None:
        """First, which calls `start` by itself; at its place, the rest of second; its rest."""
        with self.moment.do(self.finish):
            first()
        self.finish()

    def start(self, second: Callable[[], object]) -> None:
        """Run the second party, on another thread, to its place."""

        def run_second() -> None:
            try:
                with self.other_moment.do(stop):
                    second()
            finally:
                self._arrived.set()

        def stop() -> None:
            self._arrived.set()
            assert self._go_on.wait(30)

        self._thread = threading.Thread(target=run_second)
        self._thread.start()
        assert self._arrived.wait(30)

    def finish(self) -> None:
        """Run the rest of the second party."""
        self._go_on.set()
        if self._thread is not None:
            self._thread.join()

    def __repr__(self) -> str:
        return f"<first {self.moment}, second {self.other_moment}>"


def interleavings() -> Iterator[Turns]:
    """All pairs of places, for parties that do not wait for each other in between."""
    with _instructions_reported():
        for number in count():
            for other_number in count():
                turns = Turns(number, other_number)
                yield turns
                if not turns.other_moment.reached:
                    break
            if not turns.moment.reached:
                return


if sys.version_info < (3, 12):

    @contextmanager
    def _instructions_reported() -> Iterator[None]:
        yield

    def _trace_call(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return _trace_instruction

    def _trace_instruction(frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            _active[threading.get_ident()].before(frame, frame.f_lasti)
        return _trace_instruction

else:

    @contextmanager
    def _instructions_reported() -> Iterator[None]:
        # Not with sys.settrace: from 3.12 on it misses the instructions of some calls.
        tool, event = 4, sys.monitoring.events.INSTRUCTION
        sys.monitoring.use_tool_id(tool, __name__)
        sys.monitoring.register_callback(tool, event, _report)
        try:
            for code in _code_of_the_package():
                sys.monitoring.set_local_events(tool, code, event)
            yield
        finally:
            for code in _code_of_the_package():
                sys.monitoring.set_local_events(tool, code, 0)
            sys.monitoring.register_callback(tool, event, None)
            sys.monitoring.free_tool_id(tool)

    def _report(code: CodeType, offset: int) -> None:
        moment = _active.get(threading.get_ident())
        if moment is not None:
            moment.before(sys._getframe(1), offset)

    @functools.cache
    def _code_of_the_package() -> list[CodeType]:
        modules = [m for name, m in sys.modules.items() if name.startswith("fairpool._")]
        things = [thing for module in modules for thing in vars(module).values()]
        things = [getattr(thing, "__wrapped__", thing) for thing in things]
        classes = {thing for thing in things if isinstance(thing, type)}
        things += [member for kind in classes for member in vars(kind).values()]
        functions = [getattr(thing, "fget", thing) for thing in things]
        pending = [f.__code__ for f in functions if isinstance(f, FunctionType)]
        found = {code for code in pending if code.co_filename.startswith(PACKAGE)}
        pending = list(found)
        while pending:
            inner = {const for const in pending.pop().co_consts if isinstance(const, CodeType)}
            pending += inner - found
            found |= inner
        return list(found)
