"""The observer seam: how a timeline, a profile or a simulator sees what the package does.

An `Observer` has one method for each event. Nobody pays for events that nobody looks at: there is
no flag, and no call. `attach` replaces the functions at which the events happen, of classes and of
modules, by functions that also report; `detach` puts the originals back. A function is replaced
only if an attached observer overrides the method of one of its events.

Each event happens at one *point*, or at a few where the original is written out on a hot path. The
core has the mechanism and knows no points: `fairpool._inspect.points` lists them, room by room.
What reports at a point calls `report`, which tells the observers.

Guarantees: an event is reported on the thread that it happens on. A function that is called after
`attach` has returned reports; a call that was under way then does not. After `detach` has returned,
calls under way report nothing either. The seam keeps no task and no lock alive.
Assumes: an observer raises nothing, does not wait, and is safe to be called by any thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol

from fairpool._core.threads import Lock as Mutex
from fairpool._core.threads import Thread
from fairpool._core.types import Function

# --- what an observer is told of ------------------------------------------------------------------

# With the members on which it may rely. It compares by identity, and shows by `repr`.


class Pool(Protocol):
    """The scheduler of a pool."""

    max_workers: int


class Future(Protocol):
    """A future; a task is one."""

    def done(self) -> bool: ...

    def cancelled(self) -> bool: ...


class Item(Protocol):
    """What a worker runs: a task, a continuation, the children of a gather, the pass of a lock."""

    @property
    def task(self) -> Future | None: ...


class Worker(Protocol):
    """A thread of a pool, or one that runs the pool's work for a while."""

    thread: Thread


class Lock(Protocol):
    """A lock of a pool."""

    name: str


class Waiter(Protocol):
    """What waits for a lock. `ticket`: since when (ns)."""

    ticket: int


class Wait(Protocol):
    """A worker's wait: for what kind of thing, and for which."""

    kind: str
    thing: object


class Observer:
    """Told of events. Each method does nothing; a subclass overrides those that it wants."""

    def submitted(self, scheduler: Pool, task: Future) -> None:
        """A task was made and is about to be queued."""

    def lock_made(self, lock: Lock) -> None:
        """A lock was made."""

    def settled(self, future: Future) -> None:
        """A future has become final. Its callbacks run before or after this."""

    def work_taken(self, worker: Worker, item: Item) -> None:
        """A worker has taken an item, and is about to run it: a task, a continuation, a lock."""

    def step_began(self, worker: Worker, item: Item) -> None:
        """A worker begins a step of a task or a continuation, or the first one of a gather's child.

        The item of a child is the gather. At the end of the step it is a task if one was made.
        """

    def step_ended(self, worker: Worker, item: Item) -> None:
        """The step has ended, or the task was suspended."""

    def section_began(self, lock: Lock, ticket: int, waited: int) -> None:
        """A critical section begins. `ticket`: when it asked (ns). `waited`: for how long (ns)."""

    def section_ended(self, lock: Lock) -> None:
        """A critical section has ended, whose beginning was reported."""

    def pass_began(self, lock: Lock, worker: Worker) -> None:
        """A combiner begins a pass."""

    def pass_ended(self, lock: Lock, worker: Worker) -> None:
        """The pass has ended."""

    def handed_off(self, lock: Lock, target: Waiter | None) -> None:
        """The key of a lock was given to a waiter; None: to a worker, which will run a pass."""

    def stolen(self, thief: Worker, item: Item) -> None:
        """A worker has taken an item from another worker's run queue (`WorkFinder._steal`).

        Without an event: what it takes besides (`_take_more`), the published continuations
        (`_take_published`) and the locks (`_take_service`) of other workers.
        """

    def queues_scanned(self, worker: Worker, queue: object | None) -> None:
        """A worker has gone through the run queues of all workers, from one chosen at random on.

        `queue`: where it has found something, and stopped. It may be its own. None: all were empty.
        """

    def locks_scanned(self, worker: Worker) -> None:
        """A worker is about to go through what locks have left with all workers."""

    def work_checked(self, scheduler: Pool, found: bool) -> None:
        """A thread has gone through all queues of a pool, up to the first that held something."""

    def parked(self, worker: Worker) -> None:
        """A worker is about to park."""

    def unparked(self, worker: Worker) -> None:
        """A worker goes on after a park."""

    def blocked(self, worker: Worker, wait: Wait) -> None:
        """A worker is about to block in the midst of a task."""

    def unblocked(self, worker: Worker, wait: Wait) -> None:
        """The worker goes on."""


EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))


class _Report(Observer):
    """Tells each attached observer of the events that it looks at."""

    # _begun: the ids of what has begun, and not ended: see `begin`. Not the objects themselves,
    #         which would be kept alive.

    def __init__(self) -> None:
        self._begun: set[int] = set()

    def tell(self, observers: list[Observer]) -> None:
        """These are attached now."""
        for event in EVENTS:
            methods = [getattr(each, event) for each in observers if _looks_at(each, event)]
            setattr(self, event, _calls(methods))
        if not observers:
            self._begun.clear()

    def begin(self, thing: object) -> None:
        """Note that `thing` has begun."""
        self._begun.add(id(thing))

    def has_begun(self, thing: object) -> bool:
        return id(thing) in self._begun

    def end(self, thing: object) -> bool:
        """True to one caller for each `begin`, in whatever places the end of `thing` is seen."""
        try:
            self._begun.remove(id(thing))
        except KeyError:
            return False
        return True


def _calls(methods: list[Callable[..., None]]) -> Callable[..., None]:
    if len(methods) == 1:
        return methods[0]

    def call(*args: object) -> None:
        for method in methods:
            method(*args)

    return call


def _looks_at(observer: Observer, event: str) -> bool:
    return getattr(type(observer), event) is not getattr(Observer, event)


report = _Report()


# --- where it happens -----------------------------------------------------------------------------

# What is done around a call: see `point`. It is sent what the function has returned.
Steps = Generator[None, Any, None]
Reporter = Callable[..., Steps]

# Where a function is found: in a class or in a module.
Owner = type | ModuleType

# The owner of a function, its name, the events, and what reports them.
_points: list[tuple[Owner, str, tuple[str, ...], Reporter]] = []
_observers: list[Observer] = []
# The place, the name, and the original or `_INHERITED`.
_replaced: list[tuple[Owner, str, object]] = []
_INHERITED = object()
_changing = Mutex()


def point(owner: Owner, name: str, *events: str) -> Callable[[Reporter], Reporter]:
    """Decorate the generator that reports `events`, around each call of a function.

    It gets the arguments of the call, which is made at its one `yield`. What the function returns
    is the value of that. If the function raises, the generator is closed there.

    A function of a module is replaced in every module of the package that has imported it. A class
    may have inherited the function. Raises AttributeError if `owner` has none of this name: a
    renamed one must not go unseen.
    """
    if not hasattr(owner, name):
        raise AttributeError(f"{owner.__name__} has no function {name} to observe")
    unknown = set(events).difference(EVENTS)
    if unknown or not events:
        raise ValueError(f"an observer is not told of {unknown or 'nothing'}")

    def register(reporter: Reporter) -> Reporter:
        _points.append((owner, name, events, reporter))
        return reporter

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
    report.tell(_observers)
    looked_at = {event for event in EVENTS for each in _observers if _looks_at(each, event)}
    for owner, name, events, reporter in _points:
        if looked_at.isdisjoint(events):
            continue
        original = getattr(owner, name)
        observed = _observed(original, reporter)
        for place, as_name in list(_places(owner, name, original)):
            _replaced.append((place, as_name, vars(place).get(as_name, _INHERITED)))
            setattr(place, as_name, observed)


def _observed(original: Function, reporter: Reporter) -> Function:
    """The function that takes the place of `original`."""

    def observed(*args: object, **kwargs: object) -> object:
        steps = reporter(*args, **kwargs)
        next(steps)
        try:
            result: object = original(*args, **kwargs)
        except BaseException:
            steps.close()
            raise
        try:
            steps.send(result)
        except StopIteration:
            pass
        return result

    return observed


def _places(owner: Owner, name: str, original: object) -> Iterator[tuple[Owner, str]]:
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
