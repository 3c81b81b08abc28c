"""The package under many schedules, and the proof that this finds bugs: a bounded share of it.

All of it: `tox -e interleave` (`__main__.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import pytest
from interleave.bugs import BUGS
from interleave.harness import Bug, explorer, search
from interleave.jobs import SCENARIOS, strategies_of

SCHEDULES = 10

# The dearer ones are for `tox -e interleave`.
QUICK = [bug for bug in BUGS if bug.schedules <= 100]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(scenario: Callable[[], object]) -> None:
    for strategy, part in strategies_of(scenario).items():
        _, failure = search(scenario, ceil(SCHEDULES * part), strategy)
        if failure is not None:
            raise failure.as_error()


@pytest.mark.parametrize("bug", QUICK, ids=str)
def test_a_bug_is_found_and_done_again(bug: Bug) -> None:
    with bug.put_in():
        explored = explorer(bug.scenario, bug.strategy)
        with explored.in_place():
            failure = explored.search(bug.schedules, 0, bug.strategy)
            assert failure is not None, "not found"
            again = explored.replay(str(failure.plan), bug.strategy)
    assert again is not None
    assert type(again.error) is type(failure.error)
    assert again.as_error().history == failure.as_error().history


@pytest.mark.parametrize("bug", [bug for bug in QUICK if bug.strategy == "mixed"][-3:], ids=str)
def test_a_seed_leads_to_the_same_end(bug: Bug) -> None:
    with bug.put_in():
        explored = explorer(bug.scenario)
        with explored.in_place():
            failure = explored.search(bug.schedules, 0, "mixed")
            assert failure is not None
            again = explored.replay(failure.seed, "mixed")
    assert again is not None
    assert again.plan == failure.plan
    assert again.as_error().history == failure.as_error().history


def test_every_bug_has_a_name_and_a_place_of_its_own() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 20
    for bug in BUGS:
        with bug.put_in():  # raises if the source has changed
            pass
