"""The observer seam: how a timeline, a profile or a simulator sees what the package does.

An `Observer` has one method for each event. Nobody pays for events that nobody looks at: there is
no flag, and no call. `attach` replaces the functions at which the events happen, of classes and of
modules, by functions that also report; `detach` puts the originals back. A function is replaced
only if an attached observer overrides the method of one of its events.

Each event happens at one `Point`, or at a few where the original is written out on a hot path. The
core has the mechanism and knows no points: `fairpool._inspect.points` lists them, room by room.

Guarantees: an event is reported on the thread that it happens on. A function that is called after
`attach` has returned reports; a call that was under way then does not.
Assumes: an observer raises nothing, does not wait, and is safe to be called by any thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from fairpool._core.threads import Lock

__all__ = ["EVENTS", "Observer", "Point", "attach", "attached", "detach", "point"]


class Observer:
    """Told of events. Each method does nothing; a subclass overrides those that it wants."""

    def submitted(self, scheduler: Any, task: Any) -> None:
        """A task was made and is about to be queued."""

    def settled(self, future: Any) -> None:
        """A future has become final. Its callbacks run before or after this."""

    def work_taken(self, worker: Any, item: Any) -> None:
        """A worker has taken an item, and is about to run it: a task, a continuation, a lock."""

    def step_began(self, worker: Any, item: Any) -> None:
        """A worker begins a step of a task or a continuation."""

    def step_ended(self, worker: Any, item: Any) -> None:
        """The step has ended, or the task was suspended."""

    def section_began(self, lock: Any, ticket: int, waited: int) -> None:
        """A critical section begins. `ticket`: when it asked (ns). `waited`: for how long (ns)."""

    def section_ended(self, lock: Any) -> None:
        """A critical section has ended."""

    def pass_began(self, lock: Any, worker: Any) -> None:
        """A combiner begins a pass."""

    def pass_ended(self, lock: Any, worker: Any) -> None:
        """The pass has ended."""

    def handed_off(self, lock: Any, target: Any) -> None:
        """The key of a lock was given to a waiter; None: to a worker, which will run a pass."""

    def stolen(self, thief: Any, item: Any) -> None:
        """A worker has taken an item from another worker's run queue (`WorkFinder._steal`).

        Without an event: what it takes besides (`_take_more`), the published continuations
        (`_take_published`) and the locks (`_take_service`) of other workers.
        """

    def parked(self, worker: Any) -> None:
        """A worker is about to park."""

    def unparked(self, worker: Any) -> None:
        """A worker goes on after a park."""

    def blocked(self, worker: Any, wait: Any) -> None:
        """A worker is about to block in the midst of a task. `wait`: its `kind` and `thing`."""

    def unblocked(self, worker: Any, wait: Any) -> None:
        """The worker goes on."""


EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))


class _Several(Observer):
    """Stands for several observers."""

    def __init__(self, observers: list[Observer]) -> None:
        for event in EVENTS:
            methods = [getattr(each, event) for each in observers if _looks_at(each, event)]
            setattr(self, event, _calls(methods))


def _calls(methods: list[Callable[..., None]]) -> Callable[..., None]:
    def call(*args: Any) -> None:
        for method in methods:
            method(*args)

    return call


def _looks_at(observer: Observer, event: str) -> bool:
    return getattr(type(observer), event) is not getattr(Observer, event)


class Point(NamedTuple):
    """Where events happen: one function of a class or of a module."""

    owner: Any
    name: str
    events: tuple[str, ...]
    wrap: Callable[[Any, Observer], Any]


Wrap = Callable[[Any, Observer], Any]

_points: list[Point] = []
_observers: list[Observer] = []
_replaced: list[tuple[Any, str, Any]] = []  # the place, the name, the original or `_INHERITED`
_INHERITED: Any = object()
_changing = Lock()


def point(owner: type | ModuleType, name: str, *events: str) -> Callable[[Wrap], Wrap]:
    """Decorate `wrap(original, observer)`, which makes the function that also reports `events`.

    A function of a module is replaced in every module of the package that has imported it. A class
    may have inherited the function. Raises AttributeError if `owner` has none of this name: a
    renamed one must not go unseen.
    """
    if not hasattr(owner, name):
        raise AttributeError(f"{owner.__name__} has no function {name} to observe")
    unknown = set(events).difference(EVENTS)
    if unknown or not events:
        raise ValueError(f"an observer is not told of {unknown or 'nothing'}")

    def register(wrap: Wrap) -> Wrap:
        _points.append(Point(owner, name, events, wrap))
        return wrap

    return register


def attach(observer: Observer) -> None:
    """Tell `observer` of the events from now on. Attached twice, it is told twice.

    Raises RuntimeError where no points are known: import it from `fairpool._inspect.points`.
    """
    if not _points:
        raise RuntimeError("no events to observe: import attach() from fairpool._inspect.points")
    with _changing:
        _put_back()
        _observers.append(observer)
        _replace()


def detach(observer: Observer) -> None:
    """Tell it no more. Raises ValueError if it is not attached."""
    with _changing:
        _put_back()
        try:
            _observers.remove(observer)
        finally:
            _replace()


@contextmanager
def attached(observer: Observer) -> Iterator[None]:
    """`attach` and `detach` around a block."""
    attach(observer)
    try:
        yield
    finally:
        detach(observer)


def _replace() -> None:
    if not _observers:
        return
    looked_at = {event for event in EVENTS for each in _observers if _looks_at(each, event)}
    observer = _observers[0] if len(_observers) == 1 else _Several(_observers)
    for owner, name, events, wrap in _points:
        if looked_at.isdisjoint(events):
            continue
        original = getattr(owner, name)
        observed = wrap(original, observer)
        for place, as_name in list(_places(owner, name, original)):
            _replaced.append((place, as_name, vars(place).get(as_name, _INHERITED)))
            setattr(place, as_name, observed)


def _places(owner: Any, name: str, original: Any) -> Iterator[tuple[Any, str]]:
    """Where a function is found: in its class, or in each module that has imported it."""
    if not isinstance(owner, ModuleType):
        yield owner, name
        return
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("fairpool."):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    yield module, attribute


def _put_back() -> None:
    while _replaced:
        owner, name, original = _replaced.pop()
        if original is _INHERITED:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
