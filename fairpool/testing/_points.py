"""`Points`: between which instructions a run may switch to another thread.

A thread's own variables are nobody else's business, so a switch is worth trying only before an
instruction that reads or writes what others can see: an attribute, an item, the truth value or the
length of a container, an atomic call (`_core.atomicity`). All other instructions are reported
once, and switched off (`sys.monitoring.DISABLE`); Python 3.11, which has no `sys.monitoring`, is
traced, and reports them all.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

# The atomic calls, and what else one instruction does with a container.
ATOMIC = frozenset(
    {"append", "appendleft", "pop", "popleft", "remove", "clear", "rotate", "insert", "reverse"}
    | {"copy", "add", "discard", "setdefault", "get", "extend", "items", "keys", "values"}
    | {"update", "sort", "index", "count", "len", "bool", "next", "any", "all", "list", "tuple"}
    | {"set", "sorted", "sum", "min", "max"}
)

# Written once, by the thread that made the object, before others could see it.
WRITTEN_ONCE = frozenset({"_pool", "worker", "spin_limit"})

# In functions of these names an object is nobody else's yet.
BEFORE_OTHERS_SEE = frozenset({"__init__", "_reset"})

# Runs when the last reference goes, which on a free-threaded build no schedule decides.
UNSCHEDULED = frozenset({"__del__"})


def code_of(modules: Iterable[ModuleType], codes: Iterable[CodeType] = ()) -> list[CodeType]:
    """The code of all functions and methods that are written in these modules, and in `codes`."""
    pending: list[Any] = list(codes)
    files = {code.co_filename for code in pending}
    for module in modules:
        files.add(getattr(module, "__file__", None))
        things = list(vars(module).values())
        for thing in things:
            # A public class names its package, not its module.
            package = module.__name__.partition(".")[0]
            if isinstance(thing, type) and thing.__module__ in (module.__name__, package):
                things += vars(thing).values()
            for name in ("fget", "fset", "fdel", "func", "__func__", "__wrapped__"):
                if isinstance(inner := getattr(thing, name, None), FunctionType):
                    things.append(inner)
        pending += [thing.__code__ for thing in things if isinstance(thing, FunctionType)]
    found: dict[int, CodeType] = {}
    while pending:
        code = pending.pop()
        if id(code) not in found and code.co_filename in files:
            found[id(code)] = code
            pending += [const for const in code.co_consts if isinstance(const, CodeType)]
    return [code for code in found.values() if code.co_name not in UNSCHEDULED]


def mutable_names(codes: Iterable[CodeType]) -> frozenset[str]:
    """The attributes that are written anywhere but where the object is made."""
    names = {
        instruction.argval
        for code in codes
        if code.co_name not in BEFORE_OTHERS_SEE
        for instruction in dis.get_instructions(code)
        if instruction.opname == "STORE_ATTR"
    }
    return frozenset(names) - WRITTEN_ONCE


def _callees(instructions: list[dis.Instruction]) -> dict[int, str]:
    """What each call calls, by the call's offset, as far as it has a name."""
    found: dict[int, str] = {}
    for i, load in enumerate(instructions):
        if load.opname not in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_GLOBAL"):
            continue
        depth = 0
        for following in instructions[i + 1 :]:
            if following.opname in ("CALL", "CALL_KW") and following.arg is not None:
                names = following.opname == "CALL_KW"
                if depth - following.arg - names == 0:
                    found.setdefault(following.offset, load.argval)
                    break
            if following.opname in ("PUSH_NULL", "PRECALL", "KW_NAMES", "CACHE"):
                continue
            arg = following.arg if following.opcode >= dis.HAVE_ARGUMENT else None
            try:
                depth += dis.stack_effect(following.opcode, arg, jump=False)
            except ValueError:
                break
            if depth < 0:
                break
    return found


def shared_accesses(code: CodeType, mutable: frozenset[str]) -> dict[int, str]:
    """The instructions of the package's code that touch what other threads can see, by offset."""
    instructions = list(dis.get_instructions(code))
    callees = _callees(instructions)
    found = {}
    before = ""
    for instruction in instructions:
        name = instruction.opname
        if name in ("CALL", "CALL_KW"):
            touches = callees.get(instruction.offset, "append") in ATOMIC
        elif name in ("LOAD_ATTR", "STORE_ATTR"):
            touches = instruction.argval in mutable
        elif name == "TO_BOOL" or (
            name.startswith("POP_JUMP") and name.endswith(("TRUE", "FALSE"))
        ):
            touches = before.startswith(("LOAD_FAST", "LOAD_ATTR", "COPY"))
        else:
            touches = name in ("BINARY_SUBSCR", "STORE_SUBSCR", "DELETE_SUBSCR", "CONTAINS_OP")
            touches = touches or (name == "BINARY_OP" and instruction.argrepr == "[]")
        if touches:
            found[instruction.offset] = name
        if name not in ("CACHE", "NOP"):
            before = name
    return found


SHARED_IN_USERS_CODE = frozenset(
    {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR"}
    | {"DELETE_ATTR", "BINARY_SUBSCR", "STORE_SUBSCR", "DELETE_SUBSCR", "CONTAINS_OP"}
    | {"BINARY_SLICE", "STORE_SLICE"}
    | {"STORE_GLOBAL", "LOAD_DEREF", "STORE_DEREF", "FOR_ITER"}
)


def users_accesses(code: CodeType) -> dict[int, str]:
    """The same for code of which nothing is known."""
    globals_written = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname == "STORE_GLOBAL"
    }
    found = {}
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if (
            name in SHARED_IN_USERS_CODE
            or (name == "BINARY_OP" and instruction.argrepr.endswith(("=", "[]")))
            or (name == "LOAD_GLOBAL" and instruction.argval in globals_written)
        ):
            found[instruction.offset] = name
    return found


def start_of(code: CodeType) -> dict[int, str]:
    """The first instruction that does something."""
    instructions = iter(dis.get_instructions(code))
    for instruction in instructions:
        if instruction.opname == "RESUME":
            break
    return {next(instructions).offset: "START"}


class Points:
    """Calls `reached()` before each of the given instructions, in whatever thread runs them."""

    def __init__(
        self,
        places: dict[CodeType, dict[int, str]],
        reached: Callable[[], None],
        hidden: Iterable[CodeType] = (),
    ) -> None:
        # By identity: a code object is hashed by all of its contents.
        self._codes = {id(code): code for code in places if places[code]}
        self._offsets = {id(code): frozenset(offsets) for code, offsets in places.items()}
        self._shown = self._codes.keys() - {id(code) for code in hidden}
        self._reached = reached

    def covers(self, frame: FrameType) -> bool:
        """Whether this frame's code is one to be shown in a history."""
        return id(frame.f_code) in self._shown

    if sys.version_info >= (3, 12):

        @contextmanager
        def reported(self) -> Iterator[None]:
            """Report, in all threads, until the block is left."""
            monitoring = sys.monitoring
            tool = next((n for n in (3, 4) if monitoring.get_tool(n) is None), None)
            if tool is None:
                raise RuntimeError("fairpool.testing needs one of sys.monitoring's tools 3 and 4")
            event = monitoring.events.INSTRUCTION
            disable = monitoring.DISABLE
            offsets, reached = self._offsets, self._reached

            def instruction(code: CodeType, offset: int) -> Any:
                if offset in offsets[id(code)]:
                    reached()
                    return None
                return disable

            monitoring.use_tool_id(tool, "fairpool.testing")
            monitoring.register_callback(tool, event, instruction)
            try:
                for code in self._codes.values():
                    monitoring.set_local_events(tool, code, event)
                monitoring.restart_events()
                yield
            finally:
                for code in self._codes.values():
                    monitoring.set_local_events(tool, code, 0)
                monitoring.register_callback(tool, event, None)
                monitoring.free_tool_id(tool)

        def trace_thread(self) -> None:
            """To be called by each new thread."""

    else:

        @contextmanager
        def reported(self) -> Iterator[None]:
            """Report, in this thread and in those that call `trace_thread`."""
            before = sys.gettrace()
            self.trace_thread()
            try:
                yield
            finally:
                sys.settrace(before)

        def trace_thread(self) -> None:
            """To be called by each new thread."""
            sys.settrace(self._trace_call)

        def _trace_call(self, frame: FrameType, event: str, arg: object) -> Any:
            offsets = self._offsets.get(id(frame.f_code))
            if not offsets:
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            reached = self._reached

            def trace(frame: FrameType, event: str, arg: object) -> Any:
                if event == "opcode" and frame.f_lasti in offsets:
                    reached()
                return trace

            return trace
