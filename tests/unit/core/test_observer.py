"""The observer seam: functions are replaced while somebody looks, and only those looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kit import Mishap

from fairpool._core import observer as seam
from fairpool._core.observer import (
    EVENTS,
    Observer,
    Steps,
    attach,
    attached,
    detach,
    point,
    report,
)


class Thief:
    def steal(self) -> str:
        return "loot"

    def park(self) -> None:
        pass


class Told(Observer):
    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def stolen(self, thief: Any, item: Any) -> None:
        self.told.append(("stolen", item))


@pytest.fixture(autouse=True)
def points() -> Iterator[None]:
    """Two points of a class that is no part of the package."""
    before = seam._points[:]

    @point(Thief, "steal", "stolen")
    def report_steal(thief: Any) -> Steps:
        item = yield
        report.stolen(thief, item)

    @point(Thief, "park", "parked", "unparked")
    def report_park(thief: Any) -> Steps:
        report.parked(thief)
        try:
            yield
        finally:
            report.unparked(thief)

    yield
    seam._points[:] = before
    assert not seam._observers


def test_functions_are_replaced_only_while_somebody_looks() -> None:
    steal, park = Thief.steal, Thief.park
    told = Told()
    with attached(told):
        assert Thief.steal is not steal
        assert Thief.park is park  # nobody looks at that
        assert Thief().steal() == "loot"
    assert Thief.steal is steal
    Thief().steal()
    assert told.told == [("stolen", "loot")]


def test_two_observers_are_told_of_their_own() -> None:
    class Sleeper(Told):
        def parked(self, worker: Any) -> None:
            self.told.append(("parked",))

    first, second = Told(), Sleeper()
    attach(first)
    attach(second)
    Thief().steal()
    Thief().park()
    detach(first)
    Thief().steal()
    detach(second)
    Thief().steal()
    assert first.told == [("stolen", "loot")]
    assert second.told == [("stolen", "loot"), ("parked",), ("stolen", "loot")]


def test_one_that_is_not_attached_cannot_be_detached() -> None:
    with pytest.raises(ValueError, match="not in list"):
        detach(Told())
    told = Told()
    with attached(told):
        with pytest.raises(ValueError, match="not in list"):
            detach(Told())
        Thief().steal()
    assert told.told


def test_a_point_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError, match="Thief has no function take"):
        point(Thief, "take", "stolen")
    with pytest.raises(ValueError, match="robbed"):
        point(Thief, "steal", "robbed")
    with pytest.raises(ValueError, match="nothing"):
        point(Thief, "steal")


def test_without_points_nothing_can_be_observed() -> None:
    seam._points.clear()
    with pytest.raises(RuntimeError, match=r"fairpool\._inspect\.points"):
        attach(Told())


def test_a_function_that_a_class_inherits_is_left_inherited() -> None:
    class Heir(Thief):
        pass

    seam._points.clear()

    @point(Heir, "steal", "stolen")
    def report_steal(thief: Any) -> Steps:
        report.stolen(thief, "nothing")  # type: ignore[arg-type]
        yield

    told = Told()
    with attached(told):
        assert Heir().steal() == "loot"
        assert Thief().steal() == "loot"
    assert "steal" not in vars(Heir)
    assert told.told == [("stolen", "nothing")]


class Parker(Told):
    def parked(self, worker: Any) -> None:
        self.told.append(("parked",))

    def unparked(self, worker: Any) -> None:
        self.told.append(("unparked",))


def test_a_function_that_raises_has_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def park(self: Thief) -> None:
        raise Mishap

    monkeypatch.setattr(Thief, "park", park)
    told = Parker()
    with attached(told), pytest.raises(Mishap):
        Thief().park()
    assert told.told == [("parked",), ("unparked",)]


def test_a_call_under_way_reports_nothing_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Parker()

    def park(self: Thief) -> None:
        detach(told)

    monkeypatch.setattr(Thief, "park", park)
    attach(told)
    Thief().park()
    assert told.told == [("parked",)]


def test_an_end_is_reported_once_for_each_beginning() -> None:
    one, other = Thief(), Thief()
    with attached(Told()):
        assert not report.end(one)
        report.begin(one)
        report.begin(other)
        assert report.has_begun(one)
        assert report.end(one)
        assert not report.end(one)
        assert not report.has_begun(one)
    assert not report.has_begun(other)


def test_an_observer_does_nothing_by_itself() -> None:
    observer = Observer()
    for event in EVENTS:
        method = getattr(observer, event)
        assert method(*[None] * (method.__code__.co_argcount - 1)) is None
