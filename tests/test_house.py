"""docs/house.svg shows the rooms and the imports that the sources have."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

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
