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

Where each moment takes a pool with its threads, `Places` has a place visited once, however often it
is executed. In the long form (`FAIRPOOL_STRESS_SECONDS`, `tox -e stress`) every moment counts.

`moments(allocates=True)` goes only through the places at which memory may be needed: see
`_allocating`, and `Moment.instead_of`.
"""

from __future__ import annotations

import dis
import functools
import gc
import os
import pathlib
import sys
import threading
from _thread import LockType
from collections import deque
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
SHARES: tuple[str, ...] = (
    "CALL",
    "LOAD_ATTR",
    "LOAD_METHOD",
    "STORE_ATTR",
    "DELETE_ATTR",
    "BINARY_SUBSCR",
    "STORE_SUBSCR",
    "DELETE_SUBSCR",
    "CONTAINS_OP",
    "LIST_EXTEND",
    "FOR_ITER",
    "SEND",
    "TO_BOOL",
)
if sys.version_info < (3, 13):  # a jump asks for the truth by itself
    SHARES = (*SHARES, "POP_JUMP")
if sys.version_info >= (3, 14):  # `x[y]` is one of these
    SHARES = (*SHARES, "BINARY_OP")


LONG_FORM = "FAIRPOOL_STRESS_SECONDS" in os.environ


class Places:
    """The places at which something has happened: an instruction, as called from another one.

    Tests that share one of these, such as all that call the same function with different
    arguments, share their moments: what they have in common is visited by the first of them.
    """

    def __init__(self) -> None:
        self._visited: set[tuple[CodeType, int, CodeType | None, int]] = set()

    def is_new(self, frame: FrameType, offset: int) -> bool:
        """Whether this place is visited for the first time; it has been, from now on."""
        caller = frame.f_back
        place = (
            frame.f_code,
            offset,
            caller.f_code if caller is not None else None,
            caller.f_lasti if caller is not None else 0,
        )
        if place in self._visited:
            return LONG_FORM
        self._visited.add(place)
        return True


# These instructions may allocate. (Others may do so at some times: `STORE_ATTR` where it is the
# first one in a dict, say. What the package writes to is made of slots.)
ALLOCATES = (
    "BINARY_OP",
    "BUILD_",
    "CALL",
    "COPY_FREE_VARS",
    "DICT_",
    "FORMAT_",
    "GET_ITER",
    "LIST_",
    "MAKE_",
    "RETURN_GENERATOR",
    "SET_",
    "UNARY_NEGATIVE",
    "UNPACK_EX",
    "YIELD_FROM",
)

# Calls in C that allocate nothing, unless they raise: those that take no argument, or one, and
# give back what is there already. (`acquire` is none of these: CPython makes a tuple for it.)
ALLOCATES_NOTHING = {
    "_lock",  # a weak reference
    "__len__",
    "clear",
    "discard",
    "get",
    "get_type",
    "isinstance",
    "issubclass",
    "len",
    "locked",
    "pop",
    "popleft",
    "release",
    "release_key",
    "remove",
    "reverse",
    "rotate",
    "type",
    "unpark",
}

# To load one of these makes a bound method, where it is not called at once, nor loaded from a type.
LOADS_NEW = {"__len__", "acquire", "append", "popleft", "release"}
TYPES = {"RunQueue", "WaitQueue", "deque", "list"}


class Moment:
    """One place among the instructions that a call executes inside the package."""

    def __init__(
        self,
        number: int,
        interrupts: bool = False,
        shares: bool = False,
        places: Places | None = None,
        allocates: bool = False,
    ) -> None:
        self.number = number
        self.reached = False
        self.where = "never reached"
        self.result: Any = None  # of the action
        self._interrupts = interrupts
        self._shares = shares
        self._left = number if places is None or LONG_FORM else 0
        self._places = places
        self._allocates = allocates
        self._action: Callable[[], object] = int
        self._last: tuple[FrameType | None, str] = (None, "")

    @contextmanager
    def do(self, action: Callable[[], object]) -> Iterator[None]:
        """In what this encloses, call `action` at this moment; what it raises is raised there.

        The collector rests meanwhile: what is raised in a callback of its, or in a finalizer, is
        lost.
        """
        traced, collects = sys.gettrace(), gc.isenabled()
        gc.disable()
        if sys.version_info < (3, 12):
            sys.settrace(_trace_call)
        try:
            with self.do_in(threading.get_ident(), action=action):
                yield
        finally:
            if sys.version_info < (3, 12):
                sys.settrace(traced)
            if collects:
                gc.enable()

    @contextmanager
    def do_in(self, *threads: int, action: Callable[[], object]) -> Iterator[None]:
        """As `do`, in what those threads do meanwhile, which were started in `threads_reported`.

        Of two that come to the moment at once, both may do it.
        """
        self._action = action
        for thread in threads:
            _active[thread] = self
        try:
            yield
        finally:
            for thread in threads:
                _active.pop(thread, None)
            self._last = (None, "")

    def before(self, frame: FrameType, offset: int) -> None:
        """An instruction is about to be executed."""
        if self.reached or (self._allocates and offset not in _allocating(frame.f_code)):
            return
        name = _names(frame.f_code)[offset]
        last_frame, last = self._last
        self._last = (frame, name)
        looks = offset == _start(frame.f_code) or (
            frame is last_frame and last.startswith(LOOKS_FOR_SIGNALS)
        )
        if (self._interrupts and not looks) or (self._shares and not name.startswith(SHARES)):
            return
        if self._places is not None and not self._places.is_new(frame, offset):
            return
        self._arrive(frame, f"before {name}")

    def instead_of(self, frame: FrameType, error: BaseException) -> None:
        """A call in C has raised: there may have been no memory for what it raised."""
        trace = error.__traceback__
        if (
            self._allocates
            and not self.reached
            and isinstance(error, (LookupError, ValueError))
            and (trace is None or trace.tb_next is None)  # in this frame
        ):
            self._arrive(frame, f"instead of {type(error).__name__}")

    def _arrive(self, frame: FrameType, what: str) -> None:
        self._left -= 1
        if self._left < 0:
            self.reached = True
            self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno} {what}"
            self.result = self._action()

    def __repr__(self) -> str:
        return f"<moment {self.number}: {self.where}>"


_active: dict[int, Moment] = {}  # by thread


@functools.cache
def _names(code: CodeType) -> dict[int, str]:
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


@functools.cache
def _allocating(code: CodeType) -> frozenset[int]:
    """The offsets of the instructions that may allocate."""
    instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    found = set()
    for index, instruction in enumerate(instructions):
        name = instruction.opname
        if name in ("CALL", "CALL_KW"):
            callee = _callee(instructions, index)
            if (
                callee not in ALLOCATES_NOTHING
                and callee not in _own_functions()
                and not _ends_with(instructions, index)
            ):
                found.add(instruction.offset)
        elif name == "LOAD_ATTR":
            if (
                instruction.argval in LOADS_NEW
                and "NULL|self" not in instruction.argrepr
                and instructions[index - 1].argval not in TYPES
            ):
                found.add(instruction.offset)
        elif (
            name.startswith(ALLOCATES)
            and name != "CALL_INTRINSIC_1"
            # With a mask: it is small. `x[y]` is one of these from 3.14 on.
            and (name != "BINARY_OP" or instruction.argrepr not in ("&", "[]"))
        ):
            found.add(instruction.offset)
    return frozenset(found)


LOADS_CONSTANT = ("LOAD_CONST", "LOAD_COMMON_CONSTANT")  # the second for None from 3.15 on


@functools.cache
def _own_functions() -> set[str]:
    """The names of the package's functions, but for those that a container or a lock has, too.

    A call of one of them takes a frame, out of what the thread has for its stack: that is the
    matter of `test_depths`. What it allocates, it does itself.
    """
    others = {name for kind in (list, dict, set, deque, LockType) for name in dir(kind)}
    return {
        code.co_name
        for code in _code_of_the_package()
        if code.co_name.startswith("__") or code.co_name not in others
    }


def _ends_with(instructions: list[dis.Instruction], index: int) -> bool:
    """Whether a CALL is that of an `__exit__`, one of the package's own, at the end of a `with`."""
    before = [i for i in instructions[max(index - 4, 0) : index] if i.opname != "PRECALL"]
    return [i.argrepr for i in before[-3:] if i.opname in LOADS_CONSTANT] == ["None"] * 3


def _callee(instructions: list[dis.Instruction], index: int) -> object:
    """The name of what a CALL calls: what was loaded just before its first argument."""
    wanted = instructions[index].arg or 0
    if instructions[index].opname == "CALL_KW":
        wanted += 1
    while wanted > 0 and index > 0:  # (a conditional argument is not counted rightly)
        index -= 1
        each = instructions[index]
        if each.opname != "PRECALL":
            wanted -= dis.stack_effect(each.opcode, each.arg, jump=False)
    while True:
        index = max(index - 1, 0)
        each = instructions[index]
        if each.opname not in ("PRECALL", "KW_NAMES", "PUSH_NULL"):
            return str(each.argval)


@functools.cache
def _start(code: CodeType) -> int:
    """Where the first instruction is that does something."""
    names = _names(code)
    return next(
        o for o, name in names.items() if o > next(o for o in names if names[o] == "RESUME")
    )


def moments(
    *,
    interrupts: bool = False,
    shares: bool = False,
    places: Places | None = None,
    allocates: bool = False,
) -> Iterator[Moment]:
    """All moments of what each one's `do` encloses; at the last one, nothing happens.

    `shares`: only those before something that threads can see of each other's doing.
    `places`: in the short form, only those at places that are not among them yet.
    `allocates`: only those at which memory may be needed.
    """
    with _instructions_reported():
        for number in count():
            moment = Moment(number, interrupts, shares, places, allocates)
            yield moment
            if not moment.reached:
                break
        assert number > 0 or places is not None or allocates, (
            "none of the package's instructions were executed"
        )


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


def nothing_follows() -> None:
    """The calling thread sleeps from here on: what a fake raises to end it is no moment of it."""
    moment = _active.get(threading.get_ident())
    if moment is not None:
        moment._left = sys.maxsize


class Turns:
    """Two parties, of which each stops at one place while the other one goes on."""

    def __init__(self, number: int, other_number: int, thread: SecondThread) -> None:
        self.moment = Moment(number, shares=True)
        self.other_moment = Moment(other_number, shares=True)
        self._thread = thread
        self._started = False

    def run(self, first: Callable[[], object], second: Callable[[], object]) -> None:
        """First to its place, second to its place, the rest of first, the rest of second."""
        with self.moment.do(lambda: self.start(second)):
            first()
        self.finish()
        if not self._started:
            second()

    def run_around(self, first: Callable[[], object]) -> None:
        """First, which calls `start` by itself; at its place, the rest of second; its rest."""
        with self.moment.do(self.finish):
            first()
        self.finish()

    def start(self, second: Callable[[], object]) -> None:
        """Run the second party, on another thread, to its place."""

        def run_second() -> None:
            with self.other_moment.do(self._thread.stop):
                second()

        self._started = True
        self._thread.start(run_second)

    def finish(self) -> None:
        """Run the rest of the second party."""
        if self._started:
            self._thread.finish()

    def __repr__(self) -> str:
        return f"<first {self.moment}, second {self.other_moment}>"


class SecondThread:
    """The thread of all second parties: a thread made for each of them takes more than the rest.

    It and the first thread hand the turn to each other, so only one of them runs at a time.
    """

    def __init__(self) -> None:
        self._mine, self._others = threading.Lock(), threading.Lock()
        self._mine.acquire()
        self._others.acquire()
        self._body: Callable[[], object] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def start(self, body: Callable[[], object]) -> None:
        """Run it up to the first `stop`, or to its end."""
        self._body = body
        self._hand_over()

    def finish(self) -> None:
        """Run the rest of it, if something is left."""
        if self._body is not None:
            self._hand_over()
        assert self._body is None, "it has stopped twice"

    def end(self) -> None:
        self._mine.release()
        self._thread.join(30)

    def _hand_over(self) -> None:
        self._mine.release()
        assert self._others.acquire(timeout=30), "the second party hangs"
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """Called by the body: let the first party go on, until `finish`."""
        self._others.release()
        self._mine.acquire()

    def _run(self) -> None:
        while True:
            self._mine.acquire()
            if self._body is None:
                break
            try:
                self._body()
            except BaseException as error:
                self._error = error
            self._body = None
            self._others.release()


def interleavings() -> Iterator[Turns]:
    """All pairs of places, for parties that do not wait for each other in between."""
    second_thread = SecondThread()
    try:
        with _instructions_reported():
            for number in count():
                for other_number in count():
                    turns = Turns(number, other_number, second_thread)
                    yield turns
                    if not turns.other_moment.reached:
                        break
                if not turns.moment.reached:
                    return
    finally:
        second_thread.end()


if sys.version_info < (3, 12):

    @contextmanager
    def _instructions_reported() -> Iterator[None]:
        yield

    @contextmanager
    def threads_reported() -> Iterator[None]:
        """The threads that are started in this can be those of `Moment.do_in`."""
        threading.settrace(_trace_call)
        try:
            yield
        finally:
            threading.settrace(None)  # type: ignore[arg-type]

    def _trace_call(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return _trace_instruction

    def _trace_instruction(frame: FrameType, event: str, arg: object) -> Any:
        moment = _active.get(threading.get_ident())
        if moment is not None:
            if event == "opcode":
                moment.before(frame, frame.f_lasti)
            elif event == "exception":
                moment.instead_of(frame, arg[1])
        return _trace_instruction

else:

    @contextmanager
    def _instructions_reported() -> Iterator[None]:
        # Not with sys.settrace: from 3.12 on it misses the instructions of some calls.
        tool, event, raised = 4, sys.monitoring.events.INSTRUCTION, sys.monitoring.events.RAISE
        sys.monitoring.use_tool_id(tool, __name__)
        sys.monitoring.register_callback(tool, event, _report)
        sys.monitoring.register_callback(tool, raised, _report_error)
        try:
            sys.monitoring.set_events(tool, raised)  # there are no local ones
            for code in _code_of_the_package():
                sys.monitoring.set_local_events(tool, code, event)
            yield
        finally:
            for code in _code_of_the_package():
                sys.monitoring.set_local_events(tool, code, 0)
            sys.monitoring.set_events(tool, 0)
            sys.monitoring.register_callback(tool, event, None)
            sys.monitoring.register_callback(tool, raised, None)
            sys.monitoring.free_tool_id(tool)

    @contextmanager
    def threads_reported() -> Iterator[None]:
        """The threads that are started in this can be those of `Moment.do_in`."""
        yield

    def _report(code: CodeType, offset: int) -> None:
        moment = _active.get(threading.get_ident())
        if moment is not None:
            moment.before(sys._getframe(1), offset)

    def _report_error(code: CodeType, offset: int, error: BaseException) -> None:
        moment = _active.get(threading.get_ident())
        if moment is not None and code.co_filename.startswith(PACKAGE):
            moment.instead_of(sys._getframe(1), error)
