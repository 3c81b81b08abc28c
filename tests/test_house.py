"""docs/house.svg shows the rooms and the imports that the sources have.

And docs/architecture.md names functions and files that the sources have.
"""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def load_script() -> object:
    spec = importlib.util.spec_from_file_location("house", DOCS / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module  # `dataclass` looks its module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["house"]
    return module


house = load_script()


def test_the_picture_is_that_of_the_sources() -> None:
    checked_in = (DOCS / "house.svg").read_text("utf-8")
    assert checked_in == house.picture(), "run: python docs/house.py"  # type: ignore[attr-defined]


def test_the_picture_is_well_formed_and_shows_each_room() -> None:
    root = ElementTree.fromstring(house.picture())  # type: ignore[attr-defined]
    shown = {text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")}
    for folder in (DOCS.parent / "fairpool").iterdir():
        if (folder / "__init__.py").exists():
            assert any(text.endswith(f"fairpool/{folder.name}") for text in shown), folder.name
            assert {path.stem for path in folder.glob("[!_]*.py")} <= shown


def test_imports_point_down() -> None:
    rooms = house.read_rooms()  # type: ignore[attr-defined]
    order = [room.name for room in rooms]
    assert order[-1] == "_core"
    for rank, room in enumerate(rooms):
        assert room.imports <= set(order[rank + 1 :]), room.name


PACKAGE = DOCS.parent / "fairpool"
WALKS = (DOCS / "architecture.md").read_text("utf-8")

# "`Task.run` (`_tasks/task.py`)": where the walks say that something is defined.
PLACES = re.findall(r"`([\w.]+)`\s+\(`(_\w+/\w+\.py)`\)", WALKS)


def defined_in(path: pathlib.Path) -> set[str]:
    """Return the names of a module's functions and classes, methods as ``Class.method``."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            names |= {
                f"{node.name}.{each.name}" for each in node.body if isinstance(each, functions)
            }
    return names


def test_the_walks_name_places() -> None:
    assert len(PLACES) > 15


@pytest.mark.parametrize(("name", "path"), sorted(set(PLACES)))
def test_the_architecture_names_what_is_there(name: str, path: str) -> None:
    assert name in defined_in(PACKAGE / path)


def test_the_methods_that_it_names_are_there() -> None:
    there = {name for path in PACKAGE.rglob("*.py") for name in defined_in(path)}
    named = set(re.findall(r"`([A-Z]\w+\.\w+)`", WALKS))
    assert len(named) > 15
    assert sorted(named - there) == []


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(_\w+/\w+\.py)`", WALKS))))
def test_the_architecture_names_files_that_are_there(path: str) -> None:
    assert (PACKAGE / path).exists()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("_*/*.py")), ids=lambda path: path.stem)
def test_only_a_module_that_exports_what_it_imports_lists_its_names(path: pathlib.Path) -> None:
    body = ast.parse(path.read_text("utf-8")).body
    imported = {
        alias.asname or alias.name
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            assert imported & set(ast.literal_eval(node.value))
