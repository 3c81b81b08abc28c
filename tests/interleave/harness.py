"""Explore the package itself: every access of its code to what threads share is a point."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType, ModuleType

import fairpool
from fairpool.testing._explore import Explorer, Failure
from fairpool.testing._points import Points, code_of, mutable_names, shared_accesses
from fairpool.testing._world import reached

PACKAGE = str(pathlib.Path(fairpool.__file__).parent)
TESTING = str(pathlib.Path(PACKAGE) / "testing")


def modules() -> list[ModuleType]:
    return [module for name, module in sorted(sys.modules.items()) if name.startswith("fairpool._")]


def _is_of_package(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return (name.startswith(PACKAGE) and not name.startswith(TESTING)) or "interleave" in name


# By identity, and kept alive by being here: to look at all of the code takes a third of a second.
_accesses: dict[int, tuple[CodeType, dict[int, str]]] = {}
_mutable: list[frozenset[str]] = []


def _places(names: Iterable[str] = ()) -> dict[CodeType, dict[int, str]]:
    if not _mutable:
        _mutable.append(mutable_names(code_of(modules())))
    codes = code_of([sys.modules[f"fairpool.{name}"] for name in names] or modules())
    for code in codes:
        if id(code) not in _accesses:
            _accesses[id(code)] = code, shared_accesses(code, _mutable[0])
    return {code: _accesses[id(code)][1] for code in codes}


# Where the points are when a small scenario of locks is explored depth first, besides what is
# done to locks. With the points of all modules there is no end to schedules with two preemptions.
LOCK_MODULES = (
    *("_locks.combiner", "_locks.exit", "_locks.key", "_locks.owners"),
    *("_locks.statistics", "_locks.tasks", "_locks.threads", "_locks.waiters"),
    *(
        "_api.all_of",
        "_api.lock",
        "_tasks.request",
        "_tasks.continuation",
        "_tasks.cancel",
        "_tasks.step",
        "_tasks.task",
    ),
)


def explorer(scenario: Callable[[], object], strategy: str = "mixed") -> Explorer:
    """To be made after a bug was put in: the points are those of the code as it is now."""
    points = Points(_places(LOCK_MODULES if strategy == "systematic" else ()), reached)
    return Explorer(scenario, points, _is_of_package)


def search(
    scenario: Callable[[], object], schedules: int, strategy: str
) -> tuple[Explorer, Failure | None]:
    """Look for a failure in that many schedules: the explorer, and what it has found."""
    explored = explorer(scenario, strategy)
    with explored.in_place():
        return explored, explored.search(schedules, 0, strategy)


@dataclass(frozen=True)
class Bug:
    """One text of the package's source that is replaced by another one, with what finds it."""

    name: str
    module: str
    function: str  # its `__qualname__`
    old: str
    new: str
    scenario: Callable[[], object]
    schedules: int  # it is to be found in so many, with seed 0
    strategy: str = "mixed"
    # Which one it breaks, by its number in `guarantees.GUARANTEES`.
    guarantee: int = field(kw_only=True)
    # Where what it takes away is needed: a protocol, or the path of a module.
    proof: str = field(kw_only=True)

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def put_in(self) -> Iterator[None]:
        module = sys.modules[f"fairpool.{self.module}"]
        assert module.__file__ is not None
        source = pathlib.Path(module.__file__).read_text(encoding="utf-8")
        function = _find(module, self.function)
        first = function.__code__.co_firstlineno - 1
        lines = source.splitlines(keepends=True)
        before, text = "".join(lines[:first]), "".join(lines[first:])
        count = text.count(self.old)
        assert count, f"{self.name}: the source has no {self.old!r} after line {first}"
        changed = before + text.replace(self.old, self.new, 1)
        code = _code(compile(changed, module.__file__, "exec"), self.function)
        right = function.__code__
        assert _contents(code) != _contents(right), self.name
        function.__code__ = code
        try:
            yield
        finally:
            function.__code__ = right


def _contents(code: CodeType) -> tuple[object, ...]:
    return code.co_code, code.co_consts, code.co_names


def _find(module: ModuleType, qualname: str) -> FunctionType:
    thing: object = module
    for name in qualname.split("."):
        thing = vars(thing)[name]
    thing = getattr(thing, "fget", thing)
    thing = getattr(thing, "__func__", thing)
    assert isinstance(thing, FunctionType), qualname
    return thing


def _code(code: CodeType, qualname: str) -> CodeType:
    pending = [code]
    while pending:
        inner = pending.pop()
        if inner.co_qualname == qualname:
            return inner
        pending += [const for const in inner.co_consts if isinstance(const, CodeType)]
    raise AssertionError(f"no {qualname} in the changed source")
