"""The house keeps its shape: imports point down the rooms, and never in a circle.

The imports are read with `ast`, so that one inside a function or under ``TYPE_CHECKING`` counts as
well: it is a dependency all the same.
"""

from __future__ import annotations

import ast
import pathlib

import pytest

import fairpool

PACKAGE = "fairpool"

# Lowest first. `front` is `fairpool/__init__.py`, through which users come in.
ROOMS = ("_core", "_tasks", "_locks", "_scheduler", "_inspect", "_api", "front", "testing")

# The only door to these, so that a test can put a lying clock or lock behind it.
DOOR = "_core.threads"
BEHIND_THE_DOOR = {"threading", "_thread", "time"}

# What puts something else behind the door.
OUTSIDE = "testing"


def room_of(module: str) -> str:
    """Return the room of *module*, which is named from the package on: ``_core.threads``."""
    return module.partition(".")[0] or "front"


def is_room(module: str) -> bool:
    return room_of(module) in ROOMS


def imports_of(module: str, source: str, modules: set[str]) -> set[str]:
    """Return what *module* imports: names from the package on with a leading dot, else the top."""
    found = set()
    for node in ast.walk(ast.parse(source, filename=f"{module}.py")):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = ["." * node.level]  # relative: we write none
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, inner = name.partition(".")
            if name.startswith("."):
                found.add("..")
            elif top != PACKAGE:
                found.add(top)
            else:
                # `from fairpool._core.threads import Lock` names the module, not what is in it.
                while inner and inner not in modules and "." in inner:
                    inner = inner.rpartition(".")[0]
                is_module = inner in modules or inner.startswith("_")
                found.add(f".{inner if is_module else ''}")
    return found


def cycle_in(imports: dict[str, set[str]]) -> list[str]:
    """Return modules that import one another in a circle; empty when there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for target in sorted(imports.get(module, ())):
                if cycle := walk(target, [*path, module]):
                    return cycle
            done.add(module)
        return []

    for module in sorted(imports):
        if cycle := walk(module, []):
            return cycle
    return []


def violations(sources: dict[str, str], modules: set[str] | None = None) -> list[str]:
    """Return one sentence for each broken rule in *sources*, module names with their source."""
    broken = []
    known = modules or set(sources)
    imports: dict[str, set[str]] = {}
    for module, source in sorted(sources.items()):
        if not is_room(module):
            broken.append(f"{module}: lies in no room")
            continue
        imports[module] = set()
        rank = ROOMS.index(room_of(module))
        for name in sorted(imports_of(module, source, known)):
            if name in BEHIND_THE_DOOR and module != DOOR and room_of(module) != OUTSIDE:
                broken.append(f"{module}: imports {name}, which is behind {DOOR}")
            if name == "..":
                broken.append(f"{module}: has a relative import")
                continue
            if not name.startswith("."):
                continue
            target = name.removeprefix(".")
            if not is_room(target):
                broken.append(f"{module}: imports {target}, which lies in no room")
            elif ROOMS.index(room_of(target)) > rank:
                broken.append(f"{module}: imports {target or 'the front'}, from a room above")
            else:
                imports[module].add(target)
    if cycle := cycle_in(imports):
        broken.append(f"a circle: {' -> '.join(cycle)}")
    return broken


def package_sources() -> dict[str, str]:
    """Return the sources of the package; its front has the name "", a room that of its folder."""
    folder = pathlib.Path(fairpool.__file__).parent
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts)
        .removesuffix("__init__")
        .removesuffix("."): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


def test_imports_point_down_the_rooms() -> None:
    sources = package_sources()
    assert {"", "_core.threads", "_api", "testing"} <= sources.keys()
    assert violations(sources) == []


def test_each_room_says_its_rank_and_what_lives_there() -> None:
    sources = package_sources()
    for rank, room in enumerate(ROOMS[: ROOMS.index("front")]):
        docstring = ast.get_docstring(ast.parse(sources[room])) or ""
        assert docstring.startswith(f"Rank {rank}, "), room


# --- what is compiled makes no coroutines ---------------------------------------------------------

# Rooms whose modules can be compiled: a compiled coroutine function makes no `types.CoroutineType`.
COMPILED = ROOMS[: ROOMS.index("_inspect") + 1]


def coroutine_functions_in(module: str, source: str) -> set[str]:
    """Return the names of all that makes coroutines: `async def`, or `types.coroutine`."""
    found = set()
    for node in ast.walk(ast.parse(source, filename=f"{module}.py")):
        if isinstance(node, ast.AsyncFunctionDef):
            found.add(f"{module}.{node.name}")
        elif isinstance(node, ast.ImportFrom) and node.module == "types":
            found |= {f"{module}.coroutine" for alias in node.names if alias.name == "coroutine"}
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "types.coroutine":
            found.add(f"{module}.coroutine")
    return found


def test_no_coroutine_function_is_defined_below_the_api() -> None:
    found = set()
    for module, source in package_sources().items():
        if room_of(module) in COMPILED:
            found |= coroutine_functions_in(module, source)
    assert not found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("async def f(): pass", {"_core.a.f"}),
        ("class C:\n  async def f(self): pass", {"_core.a.f"}),
        ("def f():\n  async def g(): pass", {"_core.a.g"}),
        ("from types import coroutine\n@coroutine\ndef f(): yield", {"_core.a.coroutine"}),
        ("import types\n@types.coroutine\ndef f(): yield", {"_core.a.coroutine"}),
        ("from types import CoroutineType\ndef f(): yield self.coroutine", set()),
    ],
)
def test_a_coroutine_function_is_told(source: str, found: set[str]) -> None:
    assert coroutine_functions_in("_core.a", source) == found


# --- the checker itself can say no ----------------------------------------------------------------

MODULES = {
    *("_core", "_core.threads", "_core.park", "_core.runqueue", "_tasks.task", "_tasks.future"),
    *("_locks.combiner", "_scheduler.worker", "_api.pool", "_api.lock", "", "testing.run"),
}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("_tasks.task", "from fairpool._locks.combiner import x", "_locks.combiner, from a room"),
        ("_tasks.task", "import fairpool._locks.combiner as w", "_locks.combiner, from a room"),
        ("_tasks.task", "from fairpool._locks import combiner", "_locks.combiner, from a room"),
        ("_tasks.task", "def f():\n  from fairpool._locks.combiner import x", "from a room above"),
        ("_api.pool", "from fairpool import FairPool", "imports the front, from a room above"),
        ("_api.pool", "import fairpool", "imports the front, from a room above"),
        ("_api.pool", "import fairpool.testing.run", "imports testing.run, from a room above"),
        ("_api.pool", "from .lock import Lock", "_api.pool: has a relative import"),
        ("_api.pool", "from . import lock", "_api.pool: has a relative import"),
        ("_api.pool", "from fairpool._sauna import steam", "_sauna, which lies in no room"),
        ("_core.park", "import threading", "imports threading, which is behind _core.threads"),
        ("_core.park", "from time import sleep", "imports time, which is behind _core.threads"),
        ("_core.park", "import os, _thread", "imports _thread, which is behind _core.threads"),
        (
            "_core.threads",
            "from fairpool._core.threads import f",
            "circle: _core.threads -> _core.threads",
        ),
        ("_sauna", "", "_sauna: lies in no room"),
    ],
)
def test_a_broken_rule_is_told(module: str, source: str, complaint: str) -> None:
    (told,) = violations({module: source}, MODULES)
    assert told.startswith((module, "a circle"))
    assert complaint in told


def test_a_circle_is_told() -> None:
    sources = {
        "_core.a": "from fairpool._core.b import x",
        "_core.b": "from fairpool._core.c import x",
        "_core.c": "from fairpool._core import a",
        "_tasks.d": "from fairpool._core import a",
    }
    assert violations(sources) == ["a circle: _core.a -> _core.b -> _core.c -> _core.a"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_core.threads", "import threading, time, _thread"),
        (
            "_scheduler.worker",
            "from fairpool._core import threads\nimport fairpool._tasks.task",
        ),
        ("_tasks.task", "from fairpool._tasks.future import Future"),
        ("", "from fairpool._api.pool import FairPool"),
        ("testing.run", "from fairpool import FairPool\nimport random, threading"),
        ("_api.pool", "import concurrent.futures\nfrom os import path"),
    ],
)
def test_a_rule_that_is_kept_is_not_told(module: str, source: str) -> None:
    assert violations({module: source}, MODULES) == []
