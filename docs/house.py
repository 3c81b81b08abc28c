"""Draw `house.svg`: the rooms in the order of their ranks, their modules, and their imports.

    python docs/house.py

Everything is read from the sources with `ast`, nothing is imported: a room is a folder of the
package, its rank and its text come from its docstring, its arrows from its imports. An import
inside a function or under ``TYPE_CHECKING`` counts as well. tests/test_house.py holds the picture
equal to the sources.
"""

from __future__ import annotations

import ast
import pathlib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

DOCS = pathlib.Path(__file__).parent
PACKAGE = DOCS.parent / "fairpool"
PICTURE = DOCS / "house.svg"

# The rooms without a rank of their own, above the others: where it is, its title, what it is.
FRONT = "", "fairpool/__init__.py", "the front: the public names, and nothing else"
TESTING = "testing", "fairpool/testing", "schedules and simulated machines, for tests"

# Each has enough contrast on white and on black.
COLORS = ("#d9622b", "#3b82f6", "#22943f", "#9a5cf0", "#1593ac", "#d83a76", "#7d8590")

WIDTH = 600  # of a room
LEFT = 8
GAP = 22  # between two rooms
LANE = 24  # between two vertical lines
HEADER, CHIP, PADDING = 50, 24, 12
LETTER = 7.3  # the advance of the monospaced font at 12 px


@dataclass
class Room:
    """One box of the picture."""

    name: str
    title: str
    text: str
    modules: list[str]
    imports: set[str]  # names of other rooms
    top: float = 0.0
    height: float = 0.0


def rooms_imported(path: pathlib.Path) -> Iterator[str]:
    """Name the rooms that the module at *path* imports from; all imports are absolute."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            # `from fairpool._core import sync` and `from fairpool import _core` name a room, too.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, _, inner = name.partition(".")
            if top == PACKAGE.name:
                room = inner.partition(".")[0]
                yield room if (PACKAGE / room).is_dir() else ""


def room_in(folder: pathlib.Path) -> tuple[int, Room]:
    """Return the rank and the room of a folder; the docstring of its `__init__` has both."""
    files = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
    init = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    rank, text = re.match(r"Rank (\d+), (.*)", init, re.DOTALL).groups()  # type: ignore[union-attr]
    imports = {room for path in folder.glob("*.py") for room in rooms_imported(path)}
    title = f"{rank}  fairpool/{folder.name}"
    text = " ".join(text.split("\n\n")[0].split())
    modules = [path.stem for path in files]
    return int(rank), Room(folder.name, title, text, modules, imports - {folder.name})


def read_rooms() -> list[Room]:
    """Return the rooms, the highest first."""
    ranked = dict(room_in(path.parent) for path in sorted(PACKAGE.glob("_*/__init__.py")))
    front = Room(*FRONT, [], set(rooms_imported(PACKAGE / "__init__.py")) - {""})
    files = sorted((PACKAGE / "testing").glob("*.py"))
    modules = [path.stem for path in files if path.stem != "__init__"]
    imports = {room for path in files for room in rooms_imported(path)} - {"testing"}
    testing = Room(*TESTING, modules, imports)
    return [testing, front, *(ranked[rank] for rank in sorted(ranked, reverse=True))]


def chips(room: Room) -> Iterator[tuple[float, float, float, str]]:
    """Place the modules of *room*: left, top and width of each, from the room's corner on."""
    x, y = PADDING, float(HEADER)
    for module in room.modules:
        width = len(module) * LETTER + 16
        if x + width > WIDTH - PADDING:
            x, y = PADDING, y + CHIP + 6
        yield x, y, width, module
        x += width + 6


def place(rooms: list[Room]) -> float:
    """Place the rooms one below another, and return where the last one ends."""
    y = 8.0
    for room in rooms:
        rows = [top for _, top, _, _ in chips(room)]
        room.top, room.height = y, (max(rows) + CHIP + PADDING if rows else HEADER + 4)
        # Arrows that come in, and the line that goes out, need some room each.
        entries = sum(room.name in other.imports for other in rooms) + 1
        room.height = max(room.height, 14.0 * entries + 6)
        y += room.height + GAP
    return y - GAP + 8


def draw_room(room: Room) -> Iterator[str]:
    yield f'<g transform="translate({LEFT} {room.top:g})">'
    yield f'<rect class="room" width="{WIDTH}" height="{room.height:g}" rx="6"/>'
    yield f'<text class="title" x="{PADDING}" y="21">{escape(room.title)}</text>'
    text = textwrap.shorten(room.text, 92, placeholder=" …")
    yield f'<text class="text" x="{PADDING}" y="39">{escape(text)}</text>'
    for x, y, width, module in chips(room):
        yield f'<rect class="module" x="{x:g}" y="{y:g}" width="{width:g}" height="{CHIP}" rx="4"/>'
        yield f'<text class="name" x="{x + 8:g}" y="{y + 16:g}">{escape(module)}</text>'
    yield "</g>"


def draw_imports(rooms: list[Room]) -> Iterator[str]:
    """Draw one line for each room that imports: out of it, down, and into each that it imports."""
    right = LEFT + WIDTH
    sources = [room for room in rooms if room.imports]
    for number, source in enumerate(sources):
        # The lines of low rooms are short, and lie next to the boxes.
        lane = right + 30 + LANE * (len(sources) - 1 - number)
        start = source.top + source.height - 10
        color = COLORS[number % len(COLORS)]
        yield f'<g stroke="{color}" fill="{color}">'
        yield f'<circle cx="{right}" cy="{start:g}" r="4" stroke="none"/>'
        ends = []
        for target in rooms:
            if target.name in source.imports:
                # Below one another, in the order of the rooms that they come from.
                above = [room for room in sources if target.name in room.imports]
                ends.append(target.top + 12 + 14 * above.index(source))
        for end in ends:
            yield f'<path fill="none" d="M{lane:g} {end:g}H{right + 8}"/>'
            yield f'<path stroke="none" d="M{right + 1} {end:g}l9 -4v8z"/>'
        yield f'<path fill="none" d="M{right} {start:g}H{lane:g}V{max(ends):g}"/>'
        yield "</g>"


STYLE = """
text { fill: #1f2328 }
.room { fill: #eef1f4; stroke: #8c959f }
.module { fill: #ffffff; stroke: #afb8c1 }
.title { font: bold 14px monospace }
.text { font: 12.5px sans-serif }
.name { font: 12px monospace }
path { stroke-width: 1.8 }
"""


def picture() -> str:
    """Return the picture as the text of an SVG file."""
    rooms = read_rooms()
    height = place(rooms)
    width = LEFT + WIDTH + 30 + LANE * (len(rooms) - 2) + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"'
        f' width="{width:g}" height="{height:g}" role="img">',
        "<title>The rooms of fairpool, highest rank first, and their imports</title>",
        "<!-- Made by docs/house.py from the imports in fairpool/. Do not edit. -->",
        f"<style>{STYLE}</style>",
        *(line for room in rooms for line in draw_room(room)),
        *draw_imports(rooms),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), "utf-8", newline="\n")
    print(PICTURE)
