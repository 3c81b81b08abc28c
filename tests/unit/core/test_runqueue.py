"""`RunQueue`: the calls that compare, where another call comes in between."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import pytest

import fairpool
from fairpool._core.runqueue import RunQueue, _Look, strike_off_ended
from fairpool._tasks.request import Request


class Between:
    """An item at which a call is cut in two, once or more often, by `change`."""

    def __init__(self, change: Callable[[], object], times: int) -> None:
        self._change = change
        self._times = times

    def __eq__(self, other: object) -> bool:
        if self._times:
            self._times -= 1
            self._change()
        return NotImplemented

    __hash__ = object.__hash__


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda queue, item: queue.remove(item), None),
        (lambda queue, item: queue.count(item), 1),
        (lambda queue, item: len(queue.items()) - len(queue), 0),
        (lambda queue, item: queue.first() is queue[0], True),
    ],
    ids=["remove", "count", "items", "first"],
)
def test_a_call_that_was_cut_in_two_is_made_again(
    call: Callable[[RunQueue, Any], Any], expected: Any, times: int
) -> None:
    queue = RunQueue()
    item = object()
    queue.append(Between(lambda: queue.append(object()), times))
    queue.append(item)
    assert call(queue, item) == expected
    assert len(queue) == 2 + times - (expected is None)


def test_what_is_not_there_cannot_be_removed() -> None:
    queue = RunQueue([Request()])
    with pytest.raises(ValueError, match="not in"):
        queue.remove(Request())
    assert queue.count(Request()) == 0


COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")


def compared_by_identity() -> list[type]:
    """The classes that have a comparison of their own, but for those that are plain values."""
    names = [each.name for each in pkgutil.walk_packages(fairpool.__path__, "fairpool.")]
    modules = [importlib.import_module(name) for name in names if ".testing" not in name]
    found = {
        each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type)
        and each.__module__ in (module.__name__, "fairpool")
        and "__eq__" in vars(each)
    }
    found = {each for each in found if not is_dataclass(each) and each is not _Look}
    assert len(found) > 1  # the search finds something
    return sorted(found, key=lambda each: each.__name__)


@pytest.mark.parametrize("kind", compared_by_identity())
def test_what_is_compared_by_identity_is_so_in_c(kind: type) -> None:
    # Else a comparison looks up a method, which may wait for a mutex of the interpreter: the call
    # on a container that compares would be cut in two (atomic call).
    assert all(getattr(kind, name) is getattr(object, name) for name in COMPARISONS)


def test_only_what_has_ended_is_struck_off() -> None:
    entries = ["ended", "alive", "elsewhere"]
    leaving = RunQueue(["alive", "ended", "struck off before"])
    strike_off_ended(entries, leaving, lambda entry: entry == "alive")
    assert entries == ["alive", "elsewhere"]
    assert [*leaving] == ["alive"]
