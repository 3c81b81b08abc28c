"""The pages of the documentation: links lead somewhere, and named code is where they say."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page: pathlib.Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def links(page: pathlib.Path) -> list[str]:
    """Return the targets of a page's links and pictures that lie in the checkout."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    return [each for each in found if not re.match(r"\w+:", each)]


def name_of(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


def code_names(page: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Return the files of a page's "Code:" paragraph, each with a name that is said to be in it.

    A file without names has the name "". One without a folder lies in that of the file before it.
    """
    paragraph = re.search(r"^Code: (.*?)\n\n", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert paragraph is not None, f"{name_of(page)} has no paragraph that begins with 'Code: '"
    found = []
    folder = ROOT
    for path, names in re.findall(r"`([\w/]*(?:/|\.py))`(?:\s\(([^)]*)\))?", paragraph[1]):
        if path.endswith("/"):
            folder = ROOT / path
            continue
        if "/" in path:
            folder = (ROOT if path.startswith("fairpool/") else ROOT / "fairpool") / path
            folder = folder.parent
        for name in re.findall(r"`(\w+)`", names) or [""]:
            found.append((folder / path.rpartition("/")[2], name))
    return found


def test_pages_have_links() -> None:
    assert sum(len(links(page)) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs/protocols").glob("*.md")), ids=name_of)
def test_code_is_where_a_proof_says(page: pathlib.Path) -> None:
    names = code_names(page)
    assert names
    wrong = []
    for file, name in names:
        defined = rf"^\s*(?:(?:async )?def|class) {name}\b|^{name}\b.* ="
        source = file.read_text("utf-8") if file.exists() else None
        if source is None or (name and not re.search(defined, source, re.MULTILINE)):
            wrong.append(f"{name_of(file)} ({name})")
    assert wrong == []
