"""The house keeps its shape: a module imports only from ranks below its own.

The ranks are those of the package's docstring. The imports are read with `ast`, so that one inside
a function or under ``TYPE_CHECKING`` counts as well: it is a dependency all the same.
"""

from __future__ import annotations

import ast
import pathlib

import pytest

import fairpool

PACKAGE = "fairpool"

RANKS = {
    "_sync": 0,
    "_errors": 0,
    "_foreign": 0,
    "_report": 1,
    "_future": 2,
    "_runqueue": 1,
    "_timer": 2,
    "_park": 1,
    "_share": 2,
    "_map": 5,
    "_request": 2,
    "_waits": 3,
    "_wrap": 3,
    "_task": 4,
    "_combiner": 5,
    "_gather": 5,
    "_usage": 6,
    "_worker": 6,
    "_caller": 7,
    "_scheduler": 8,
    "_dump": 9,
    "_lock": 9,
    "_tasks": 9,
    "_group": 10,
    "_primitives": 10,
    "_pool": 10,
    "__init__": 11,
    "testing._run": 12,
    "testing._points": 12,
    "testing._carriers": 13,
    "testing._strategies": 13,
    "testing._machine": 14,
    "testing._world": 15,
    "testing._linearizable": 12,
    "testing._explore": 16,
    "testing._simulate": 16,
    "testing._drawn": 17,
    "testing.__init__": 18,
    "trace": 12,
}

# `_sync` is the only door to these, so that a test can put a lying clock or lock behind it.
DOOR = "_sync"
BEHIND_THE_DOOR = {"threading", "_thread", "time"}

# What puts something else behind the door.
OUTSIDE = "testing."


def imports_of(module: str, source: str) -> set[str]:
    """Return what *module* imports: ``fairpool.x`` for modules of the package, else the top name.

    A relative import is resolved; ``from . import x`` names the module ``x`` when there is such a
    rank, and the package itself (its ``__init__``) when not.
    """
    found = set()
    for node in ast.walk(ast.parse(source, filename=f"{module}.py")):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level > 1:
                names = [f"{'.' * node.level}{node.module or ''}"]  # out of the package: unknown
            elif node.level == 0 and node.module != PACKAGE:
                names = [node.module or ""]
            elif node.level == 1 and node.module:
                names = [f"{PACKAGE}.{node.module}"]
            else:
                names = [f"{PACKAGE}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top != PACKAGE:
                found.add(name if name.startswith(".") else top)
                continue
            inner = rest if rest.startswith("testing._") else rest.partition(".")[0]
            if inner == "testing":
                inner = "testing.__init__"
            # `import fairpool` and `from fairpool import FairPool` go through the front door.
            is_module = inner in RANKS or inner.startswith("_")
            found.add(f"{PACKAGE}.{inner if is_module else '__init__'}")
    return found


def violations(sources: dict[str, str]) -> list[str]:
    """Return one sentence per broken rule in *sources*, which maps module names to source text."""
    broken = []
    for module, source in sorted(sources.items()):
        if module not in RANKS:
            broken.append(f"{module}: has no rank; give it one here and in the docstring's map")
            continue
        for name in sorted(imports_of(module, source)):
            if name in BEHIND_THE_DOOR and module != DOOR and not module.startswith(OUTSIDE):
                broken.append(f"{module}: imports {name}, which is behind {DOOR}")
            if name.startswith("."):
                broken.append(f"{module}: imports {name}, from outside the package")
            if not name.startswith(f"{PACKAGE}."):
                continue
            target = name.removeprefix(f"{PACKAGE}.")
            if target not in RANKS:
                broken.append(f"{module}: imports {target}, which has no rank")
            elif RANKS[target] >= RANKS[module]:
                # Strictly lower: with that, an import cycle is impossible.
                broken.append(
                    f"{module} (rank {RANKS[module]}): imports {target} (rank {RANKS[target]})"
                )
    return broken


def package_sources() -> dict[str, str]:
    folder = pathlib.Path(fairpool.__file__).parent
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


def test_imports_point_down_the_ranks() -> None:
    sources = package_sources()
    assert {"__init__", "_sync"} <= sources.keys()  # the folder was found, and is not empty
    assert violations(sources) == []


# --- the checker itself can say no ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("_task", "from fairpool._worker import run", "_task (rank 4): imports _worker (rank 6)"),
        ("_task", "from ._worker import run", "_task (rank 4): imports _worker (rank 6)"),
        ("_task", "from . import _worker", "_task (rank 4): imports _worker (rank 6)"),
        ("_task", "import fairpool._worker as w", "_task (rank 4): imports _worker (rank 6)"),
        ("_park", "from ._runqueue import RunQueue", "_park (rank 1): imports _runqueue (rank 1)"),
        ("_lock", "from ._pool import FairPool", "_lock (rank 9): imports _pool (rank 10)"),
        ("_sync", "from ._sync import now", "_sync (rank 0): imports _sync (rank 0)"),
        ("_pool", "from fairpool import FairPool", "_pool (rank 10): imports __init__ (rank 11)"),
        ("_pool", "import fairpool", "_pool (rank 10): imports __init__ (rank 11)"),
        ("_pool", "def f():\n    import fairpool", "_pool (rank 10): imports __init__ (rank 11)"),
        ("_pool", "from ._sauna import steam", "_pool: imports _sauna, which has no rank"),
        ("_pool", "from ..other import x", "_pool: imports ..other, from outside the package"),
        ("_park", "import threading", "_park: imports threading, which is behind _sync"),
        ("_park", "from time import sleep", "_park: imports time, which is behind _sync"),
        ("_pool", "import fairpool.testing", "_pool (rank 10): imports testing.__init__ (rank 18)"),
        (
            "testing._run",
            "from fairpool.testing._explore import Explorer",
            "testing._run (rank 12): imports testing._explore (rank 16)",
        ),
        ("_park", "import os, _thread", "_park: imports _thread, which is behind _sync"),
        ("_sauna", "", "_sauna: has no rank; give it one here and in the docstring's map"),
    ],
)
def test_a_broken_rule_is_told(module: str, source: str, complaint: str) -> None:
    assert violations({module: source}) == [complaint]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_sync", "import threading, time, _thread"),
        ("_worker", "from . import _task, _sync\nfrom fairpool._park import Park"),
        ("__init__", "from ._pool import FairPool\nfrom ._lock import Lock"),
        ("testing._explore", "from fairpool import FairPool\nimport random, threading"),
        ("testing.__init__", "from fairpool.testing._explore import Explorer"),
        ("_pool", "import concurrent.futures\nfrom os import path"),
    ],
)
def test_a_rule_that_is_kept_is_not_told(module: str, source: str) -> None:
    assert violations({module: source}) == []
