"""The prose and the vocabulary of the package, counted.

`python tests/test_prose.py` prints the counts and where each is. The tests hold what has been
reached: a list of words that are gone from identifiers, another one of words that are gone from
prose, and the most that a room may have of sentences whose subject is "who ...". The lists only
grow, and the numbers only shrink.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
COLUMNS = 100

# The word that is to go: as it stands in an identifier (parts of a name joined by "_"; CamelCase
# counts as parts), and the standard term for it. None: not asked for in identifiers.
VOCABULARY = {
    "seat": "slot",
    "debt": "overcommit",
    "roster": "threads",
    "refusal": "close reason",
    "refusals": "close reason",
    "unserved": "pending locks",
    "gone": "exited",
    "away": "blocked time",
    "services": "home queue",
    "stay": "thread waiter",
    "visitor": "thread owner",
    "guest": "external waiter",
    "lender": "helper",
    "nominate": "recruit helper",
    "errand": "assigned lock",
    "wish": "lock request",
    "spree": "consecutive acquires",
    "patience": "spin limit",
    "look_out": "spin wait",
    "look_around": "scan",
    "cell": "state",
    "registrant": "callback",
    "hand_over": "settle and take next",
    "machine": "coroutine state",
    "joint": "aggregate",
    "view": "condition adapter",
    "nap": "sleep request",
    "standing": "account",
    "level": "virtual time",
    "turn": "quantum",
    "ways": "edges",
    "enter_stack": "thread",
    "leave_stack": "thread",
}

# No identifier of the package has these.
GONE_FROM_NAMES: tuple[str, ...] = (
    "seat",
    "debt",
    "roster",
    "refusal",
    "refusals",
    "gone",
    "services",
    "visitor",
    "guest",
    "lender",
    "nominate",
    "errand",
    "wish",
    "spree",
    "cell",
    "look_out",
    "look_around",
    "registrant",
    "joint",
    "view",
    "nap",
    "standing",
    "enter_stack",
    "leave_stack",
)

# No docstring, comment or page has these, which have no other meaning there.
GONE_FROM_PROSE: tuple[str, ...] = (
    "seat",
    "debt",
    "roster",
    "refusal",
    "refusals",
    "services",
    "visitor",
    "lender",
    "nominate",
    "errand",
    "wish",
    "spree",
    "patience",
    "look_out",
    "look_around",
    "registrant",
    "hand_over",
    "joint",
    "nap",
    "standing",
    "enter_stack",
    "leave_stack",
)

# At most so many sentences whose subject is "who ..." or "whoever ...", by room or folder.
WHO: dict[str, int] = {}

# Pages that still have lines over 100 columns.
LONG_LINES: tuple[str, ...] = ()


class Place(NamedTuple):
    """A line of a file."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text.strip()}"


def sources() -> list[Path]:
    """Return the package's modules."""
    return sorted((ROOT / "fairpool").rglob("*.py"))


def pages() -> list[Path]:
    """Return the pages that people read."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(file: str) -> str:
    """Return where a file's sentences are counted: a room, the docs, or a file at the top."""
    parts = file.split("/")
    return "/".join(parts[:-1][:2]) or file


# --- reading --------------------------------------------------------------------------------------


def identifiers(source: str) -> Iterator[tuple[int, str]]:
    """Yield each name in a module with its line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def words_of(identifier: str) -> str:
    """Return an identifier in snake case, between underscores: ``_HalfOpen`` is ``_half_open_``."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower()
    return f"_{snake.strip('_')}_"


def has_word(identifier: str, word: str) -> bool:
    """Whether *word*, or its plural, is a part of an identifier."""
    return re.search(rf"_{word}s?_", words_of(identifier)) is not None


def prose_of_source(source: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of docstrings and the blocks of comments, each with its line."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for each in body if isinstance(body, list) else ():
            value = each.value if isinstance(each, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield from paragraphs(value.value, value.lineno)
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if line != last + 1 and block:
            yield first, " ".join(block)
            block = []
        if not block:
            first = line
        block.append(token.string.lstrip("# ").rstrip())
        last = line
    if block:
        yield first, " ".join(block)


def paragraphs(text: str, line: int = 1) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of a text, each on one line, with the line on which it begins."""
    fenced = False
    block: list[str] = []
    first = line
    for number, each in enumerate(text.split("\n"), line):
        starts = each.lstrip().startswith(("- ", "* ", "|", "#", "1. ")) or not each.strip()
        if each.lstrip().startswith("```"):
            fenced = not fenced
        if (starts or fenced) and block:
            yield first, " ".join(block)
            block = []
        if each.strip() and not fenced:
            if not block:
                first = number
            block.append(each.strip().lstrip("-*|# "))
    if block:
        yield first, " ".join(block)


def prose() -> Iterator[Place]:
    """Yield all that people read in the package and in its pages."""
    for path in sources():
        for line, text in prose_of_source(path.read_text(encoding="utf-8")):
            yield Place(name_of(path), line, text)
    for path in pages():
        for line, text in paragraphs(path.read_text(encoding="utf-8")):
            yield Place(name_of(path), line, text)


# --- counting -------------------------------------------------------------------------------------

# Where a clause begins, so that what follows is its subject: not in "a task, who ...", which is a
# clause about the task, and not in "to whoever ...", which is an object.
SUBJECT_WHO = re.compile(
    r"(?:^|[.:;!?(]\s+|\*\*\s*|,?\s(?:and|but|so|then)\s|,\s(?=whoever))(?:who|whoever)\s(?!else\?)",
    re.IGNORECASE,
)


def who_sentences() -> list[Place]:
    """Return the sentences, or parts of one, whose subject is "who ..." or "whoever ..."."""
    found = []
    for place in prose():
        for match in SUBJECT_WHO.finditer(place.text):
            found.append(place._replace(text=place.text[match.start() : match.end() + 60]))
    return found


def names_with(word: str) -> list[Place]:
    """Return the identifiers that have a word of the old vocabulary."""
    return [
        Place(name_of(path), line, name)
        for path in sources()
        for line, name in identifiers(path.read_text(encoding="utf-8"))
        if has_word(name, word)
    ]


def prose_with(word: str) -> list[Place]:
    """Return the paragraphs that have a word of the old vocabulary."""
    pattern = re.compile(rf"\b{word.replace('_', '[ _]')}s?\b", re.IGNORECASE)
    return [place for place in prose() if pattern.search(place.text)]


def long_lines() -> list[Place]:
    """Return the lines of the pages that are too long; an address cannot be broken."""
    return [
        Place(name_of(path), number, line)
        for path in pages()
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        if len(line) > COLUMNS and not line.startswith("|") and "://" not in line
    ]


# --- the tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", GONE_FROM_NAMES)
def test_no_identifier_has_a_word_that_is_gone(word: str) -> None:
    found = names_with(word)
    assert not found, f"write {VOCABULARY[word]!r} instead: {'; '.join(map(str, found))}"


@pytest.mark.parametrize("word", GONE_FROM_PROSE)
def test_no_sentence_has_a_word_that_is_gone(word: str) -> None:
    found = prose_with(word)
    assert not found, f"write {VOCABULARY[word]!r} instead: {'; '.join(map(str, found))}"


def test_no_more_sentences_have_the_subject_who() -> None:
    found = who_sentences()
    counts = Counter(room_of(place.file) for place in found)
    above = {room for room, count in counts.items() if count > WHO.get(room, 0)}
    shown = [str(place) for place in found if room_of(place.file) in above]
    assert not above, "name the subject, as 'the key holder': " + "; ".join(shown)


def test_lines_of_the_pages_fit() -> None:
    found = [place for place in long_lines() if place.file not in LONG_LINES]
    assert not found, f"over {COLUMNS} columns: " + "; ".join(map(str, found))


# --- the counters can count -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identifier", "word", "expected"),
    [
        ("_seat", "seat", True),
        ("seats", "seat", True),
        ("SeatWaiter", "seat", True),
        ("_SeatWaiter", "seat", True),
        ("seated", "seat", False),
        ("look_out", "look_out", True),
        ("lookout", "look_out", False),
        ("TURNS", "turn", True),
        ("returned", "turn", False),
    ],
)
def test_words_of_identifiers(identifier: str, word: str, expected: bool) -> None:
    assert has_word(identifier, word) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who holds the key may pass it on.", 1),
        ("The key is taken; who finds it taken, waits.", 1),
        ("It is released, and whoever waits is woken.", 1),
        ("A worker, who holds the key, passes it on.", 0),
        ("It goes to whoever has waited longest.", 0),
        ("The key holder passes it on.", 0),
    ],
)
def test_subjects(text: str, expected: int) -> None:
    assert len(SUBJECT_WHO.findall(text)) == expected


def test_comments_and_docstrings_are_read() -> None:
    source = '"""One.\n\nTwo\nlines.\n"""\n# a\n# b\nx = 1  # c\ndef f():\n    "doc"\n'
    assert sorted(prose_of_source(source)) == [
        (1, "One."),
        (3, "Two lines."),
        (6, "a b c"),
        (10, "doc"),
    ]


def report(file: io.TextIOBase | None = None) -> None:
    """Print the counts, and where each is."""
    for word, standard in VOCABULARY.items():
        names, texts = names_with(word), prose_with(word)
        print(f"{word} -> {standard}: {len(names)} names, {len(texts)} paragraphs", file=file)
    who = who_sentences()
    print(f"subject who: {len(who)}", dict(Counter(room_of(each.file) for each in who)), file=file)
    for each in who:
        print(" ", each, file=file)
    lines = long_lines()
    print(f"long lines: {len(lines)}", dict(Counter(each.file for each in lines)), file=file)


if __name__ == "__main__":
    report(sys.stdout)  # type: ignore[arg-type]
