"""What the package takes from the standard library's private parts stands in docs/versions.md.

And what it calls on containers stands in `fairpool._core.atomicity`, or here, with the reason.
"""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import fairpool
from fairpool._core import atomicity

ROOT = pathlib.Path(fairpool.__file__).parent
DOCS = pathlib.Path(__file__).parent.parent / "docs" / "versions.md"
SOURCES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names() -> set[str]:
    """The private names that the package itself defines."""
    own = {part for path in SOURCES for part in path.relative_to(ROOT).with_suffix("").parts}
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    own.add(name)
                case ast.ClassDef(name=name):
                    own.add(name)
                case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                    own.add(name)
    return own


def modules_of_others(tree: ast.AST) -> set[str]:
    """By what names a module knows those of the standard library."""
    return {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if not alias.name.startswith("fairpool")
    }


def private_names_of_others() -> Iterator[tuple[str, str]]:
    """Each private name of the standard library that is used: where, and the name."""
    own = own_names()
    for path, tree in SOURCES.items():
        others = modules_of_others(tree)
        for node in ast.walk(tree):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            match node:
                case ast.ImportFrom(module=str(module), names=names) if not module.startswith(
                    ("fairpool", "__future__")
                ):
                    for alias in names:
                        if is_private(module) or is_private(alias.name):
                            yield where, alias.name
                case ast.Import(names=names):
                    for alias in names:
                        if is_private(alias.name):
                            yield where, alias.name
                case ast.Attribute(value=ast.Name(id=module), attr=name) if module in others:
                    if is_private(name) or is_private(module):
                        yield where, name
                case ast.Attribute(attr=name) if is_private(name) and name not in own:
                    yield where, name
                case ast.Call(
                    func=ast.Name(id="getattr"),
                    args=[ast.Name(id=module), ast.Constant(value=str(name)), *_],
                ) if module in others and is_private(name):
                    yield where, name


# What the module `_thread` has publicly in `threading`, and what is documented.
PUBLIC = {"LockType", "RLock", "_exit"}


def test_private_names_of_the_standard_library_are_documented() -> None:
    documented = set(re.findall(r"\w+", DOCS.read_text("utf-8")))
    found = {(where, name) for where, name in private_names_of_others() if name not in PUBLIC}
    assert len(found) > 20  # the search finds something
    assert sorted((where, name) for where, name in found if name not in documented) == []


# Methods of containers. `index`, `count`, `copy` and others are methods of other things, too.
METHODS = {
    *("append", "appendleft", "clear", "copy", "count", "discard", "extend", "extendleft", "get"),
    *("index", "insert", "pop", "popitem", "popleft", "remove", "reverse", "rotate", "setdefault"),
    *("sort", "add", "update", "items", "keys", "values", "difference_update"),
    *("intersection_update", "symmetric_difference_update"),
}

# Used on what one thread has, as a rule on a copy: so said in docs/versions.md.
OF_ONE_THREAD = {"items", "sort", "update", "values"}


def test_methods_of_containers_are_assumed_atomic() -> None:
    assumed = set(
        re.findall(
            r"`(\w+)",
            (atomicity.__doc__ or "").partition("**Unique count")[0].replace("`extend` on a", ""),
        )
    )
    used = {
        node.attr
        for path, tree in SOURCES.items()
        if path.parent.name != "testing"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in METHODS
    }
    assert sorted(used - assumed - OF_ONE_THREAD) == []
