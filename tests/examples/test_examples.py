"""The examples run, as a reader would run them: each in an interpreter of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
TAKES_FOLDER = {"wordindex"}
TIME_LIMIT = 120.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A little source tree: 40 files in two folders, one of them not valid UTF-8."""
    for number in range(40):
        place = tmp_path / "source" / ("even" if number % 2 == 0 else "odd")
        place.mkdir(parents=True, exist_ok=True)
        words = "alpha " * (number + 1) + ("beta " * 3 if number < 5 else "")
        (place / f"file{number}.py").write_text(f"# {words}\n", encoding="utf-8")
    (tmp_path / "source" / "latin1.py").write_bytes("# gamma gr\u00fc\u00dfe\n".encode("latin-1"))
    return tmp_path / "source"


def run(script: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run from another folder, so that the installed package is used and not the source tree."""
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, cwd=cwd)


def test_there_are_examples() -> None:
    """The parametrized tests below would pass without a word if the folder had moved."""
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example_runs(script: Path, folder: Path, tmp_path: Path) -> None:
    """It ends well, says something, and complains about nothing."""
    arguments = [str(folder)] if script.stem in TAKES_FOLDER else []
    done = run(script, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example_is_short(script: Path) -> None:
    """An example is read in one sitting: under 100 lines."""
    assert len(script.read_text(encoding="utf-8").splitlines()) < 100


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_wordindex_counts(workers: int, folder: Path, tmp_path: Path) -> None:
    """The numbers are the folder's, with any number of workers, and all files are accounted for."""
    done = run(EXAMPLES / "wordindex.py", str(folder), "--workers", str(workers), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["alpha", str(sum(range(41))), "times", "in", "40", "files"] in lines
    assert ["beta", "15", "times", "in", "5", "files"] in lines
    assert ["gamma", "1", "times", "in", "1", "files"] in lines
    accounts = [line for line in lines if line[0].startswith("index")]
    assert 1 <= len(accounts) <= workers
    assert sum(int(line[1]) for line in accounts) == 41
    assert lines[-1] == ["the", "index", "is", "correct"]


def test_wordindex_limit(folder: Path, tmp_path: Path) -> None:
    done = run(EXAMPLES / "wordindex.py", str(folder), "--limit", "7", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " in 7 files of " in done.stdout.splitlines()[0]


def test_wordindex_of_nothing(tmp_path: Path) -> None:
    """A folder without source text is a wrong argument, and the message names the folder."""
    (tmp_path / "empty").mkdir()
    done = run(EXAMPLES / "wordindex.py", str(tmp_path / "empty"), cwd=tmp_path)
    assert done.returncode == 2
    assert "empty" in done.stderr


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("branches", [2, 5])
def test_ledger_keeps_the_money(branches: int, workers: int) -> None:
    """All transfers happen, all the money is there, and no account is overdrawn."""
    ledger = load("ledger")
    books, log = ledger.with_fairpool(branches, 400, workers)
    assert len(log) == 400
    assert {tenant for tenant, *_ in log} <= set(ledger.TENANTS)
    assert sum(moved for _, moved, *_ in log) > 0
    assert len(books) == branches
    assert sum(sum(book.values()) for book in books) == branches * ledger.ACCOUNTS * ledger.OPENING
    assert min(min(book.values()) for book in books) >= 0


def test_ledger_finds_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    """The example's own verdict: one cent less, one more, or an overdrawn account is a no."""
    ledger = load("ledger")
    books, log = ledger.with_threads(2, 20, 2)
    assert ledger.report("whole", books, log)
    books[0][0] -= 1
    assert not ledger.report("a cent is missing", books, log)
    books[0][0] += 2
    assert not ledger.report("a cent too many", books, log)
    books[0][0] -= 1 + ledger.OPENING * ledger.ACCOUNTS
    books[0][1] += ledger.OPENING * ledger.ACCOUNTS
    assert not ledger.report("overdrawn", books, log)
    assert "whole: 20 transfers" in capsys.readouterr().out


def test_threads_counts_every_turn(tmp_path: Path) -> None:
    """Before and after, with as many sections as were asked for, and a wait for each."""
    arguments = ["--threads", "3", "--turns", "20", "--inside", "10", "--outside", "10"]
    done = run(EXAMPLES / "threads.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0].rstrip(":") for line in lines] == ["before", "after"]
    for line in lines:
        median, high, longest = (float(line[line.index(word) + skip]) for word, skip in WAITS)
        assert 0 <= median <= high <= longest


WAITS = (("median", 1), ("99", 2), ("longest", 1))
