"""The rule of `tests/bench --against`: which pairs count as a loss."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "bench"))
import against


@pytest.mark.parametrize(("pairs", "rank"), [(6, 1), (9, 2), (12, 3), (20, 6), (30, 10)])
def test_the_interval_is_that_of_the_median_by_signs(pairs: int, rank: int) -> None:
    values = [float(each) for each in range(1, pairs + 1)]
    assert against.interval(values[::-1]) == (rank, pairs + 1 - rank)


def test_five_pairs_have_no_interval() -> None:
    assert against.interval([0.5] * 5) is None
    assert not against.has_lost(None, 0.03)


@pytest.mark.parametrize(
    ("speeds", "lost"),
    [
        ([0.96] * 20, True),
        ([0.96] * 15 + [1.2] * 5, True),  # the 15th is below
        ([0.96] * 14 + [1.2] * 6, False),
        ([0.98] * 20, False),  # a loss, but not of more than 3 %
        ([1.1] * 20, False),
    ],
)
def test_a_row_has_lost_if_its_whole_interval_is_below(speeds: list[float], lost: bool) -> None:
    assert against.has_lost(against.interval(speeds), 0.03) is lost


def test_the_geometric_mean_leaves_out_rows_that_failed() -> None:
    found = {
        "one": against.Pairs([2.0] * 6, [1.0] * 6),
        "two": against.Pairs([1.0] * 6, [2.0] * 6),
        "three": against.Pairs([9.0] * 5, [1.0] * 5, {"old": "hangs"}),
    }
    *_, three, mean = against.report(found, 0.03)
    assert three[-1] == "?; old: hangs"
    assert mean[0] == "geometric mean of 2 rows"
    assert mean[3] == "1.000"
