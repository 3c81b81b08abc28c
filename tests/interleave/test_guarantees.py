"""Each guarantee has a proof, bugs that break it, and tests; `docs/testing.md` says which."""

from __future__ import annotations

import re

import pytest
from interleave.bugs import BUGS
from interleave.guarantees import GUARANTEES, PAGE, ROOT, Guarantee, page, path_of

# Where a promise is kept by the absence of something, no step can be removed.
WITHOUT_BUGS = {"Context follows the task", "The same on every supported Python"}
WITHOUT_BUGS |= {"Cost follows use"}

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documents are not here")


def test_the_page_says_what_the_bugs_say() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(), "run: python tests/interleave/guarantees.py"


@pytest.mark.parametrize("guarantee", GUARANTEES, ids=lambda guarantee: guarantee.title)
def test_each_guarantee_has_bugs_and_tests(guarantee: Guarantee) -> None:
    number = GUARANTEES.index(guarantee) + 1
    bugs = [bug for bug in BUGS if bug.guarantee == number]
    assert bool(bugs) != (guarantee.title in WITHOUT_BUGS)
    assert bugs or guarantee.proofs
    for proof in guarantee.proofs:
        assert path_of(proof).is_file(), proof
    for test in guarantee.tests:
        file, _, name = test.partition("::")
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), test


def test_each_bug_has_a_guarantee_and_a_proof() -> None:
    for bug in BUGS:
        assert 1 <= bug.guarantee <= len(GUARANTEES), bug
        assert path_of(bug.proof).is_file(), bug


def test_a_bug_names_a_step_as_its_proof_or_the_code_does() -> None:
    for bug in BUGS:
        code = ROOT / "fairpool" / f"{bug.module.replace('.', '/')}.py"
        text = "".join(path.read_text(encoding="utf-8") for path in (path_of(bug.proof), code))
        for step in re.findall(r"`(\w+)`", bug.name):
            assert re.search(rf"\b{step}\b", text), (bug.name, step)
