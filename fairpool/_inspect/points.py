"""Where each event of an `Observer` happens, room by room.

One entry an event, or a few where a hot path has the original written out. Each makes the function
that reports; nothing of this runs while no observer is attached. See `fairpool._core.observer`.
"""

from __future__ import annotations

from typing import Any

from fairpool._core.here import here
from fairpool._core.observer import Observer, attach, attached, detach, point
from fairpool._core.threads import local, monotonic_ns
from fairpool._locks.charging import Charging
from fairpool._locks.combiner import Combiner
from fairpool._locks.exit import LockExit
from fairpool._locks.key import KeyedLock
from fairpool._locks.tasks import TaskEntry
from fairpool._locks.threads import ThreadEntry
from fairpool._locks.waiters import ExternalWaiter
from fairpool._scheduler.blocking import blocked
from fairpool._scheduler.scheduler import Scheduler
from fairpool._scheduler.worker import Worker
from fairpool._tasks import settling, step
from fairpool._tasks.chain import Link
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.gather import Gather
from fairpool._tasks.request import Request
from fairpool._tasks.state import FINISHED, is_claimed, is_final
from fairpool._tasks.task import Task

__all__ = ["Observer", "attach", "attached", "detach"]


class _Told(local):
    """What this thread has just reported, for functions that call each other."""

    entered: Any = None  # the lock that it entered last
    entering = 0  # how deep it is in `__aenter__`
    leaving: Any = None  # the lock whose section it has just reported as ended
    settled: Any = None  # the future that it has just reported as settled


_told = _Told()


# --- tasks ----------------------------------------------------------------------------------------


@point(Scheduler, "put", "submitted")
def _put(put: Any, observer: Observer) -> Any:
    def observed(self: Any, task: Any) -> None:
        observer.submitted(self, task)
        put(self, task)

    return observed


@point(KeyedLock, "line_up", "submitted")
def _line_up(line_up: Any, observer: Observer) -> Any:
    def observed(self: Any, item: Any) -> None:
        if item.is_submitted:  # of `lock.submit`
            observer.submitted(self.scheduler, item)
        line_up(self, item)

    return observed


def _observed_end(end: Any, observer: Observer) -> Any:
    def observed(future: Any, *args: Any) -> Any:
        following = end(future, *args)
        _told.settled = future
        observer.settled(future)
        return following

    return observed


point(settling, "settle", "settled")(_observed_end)
point(step, "settle_and_take_next", "settled")(_observed_end)


@point(Task, "end_first_step", "settled")
def _end_first_step(end: Any, observer: Observer) -> Any:
    """`settle` is written out there, but for one case."""

    def observed(self: Any, result: Any) -> Any:
        _told.settled = None
        following = end(self, result)
        if _told.settled is not self:
            observer.settled(self)
        return following

    return observed


def _observed_run(run: Any, observer: Observer) -> Any:
    """The run of a task, or of a link: taken, its first step, and its end if it has one step."""

    def observed(self: Any, worker: Any) -> Any:
        if is_claimed(self):  # in vain
            return run(self, worker)
        lock = self.lock if getattr(self, "is_section", False) else None
        if lock is None:
            observer.work_taken(worker, self)
        else:
            observer.section_began(lock, self.ticket, monotonic_ns() - self.ticket)
        observer.step_began(worker, self)
        _told.settled = None
        following = run(self, worker)
        is_plain = not hasattr(self, "_coroutine_state")
        if is_plain and self._status is FINISHED and _told.settled is not self:
            observer.settled(self)  # `settle` is written out there
        observer.step_ended(worker, self)
        if lock is not None and is_final(self):  # else it was suspended in its section
            observer.section_ended(lock)
        return following

    return observed


_RUN = ("work_taken", "step_began", "step_ended", "settled", "section_began", "section_ended")
point(Task, "run", *_RUN)(_observed_run)
point(Link, "run", *_RUN)(_observed_run)


@point(Continuation, "run", "work_taken", "step_began", "step_ended")
def _continuation_run(run: Any, observer: Observer) -> Any:
    def observed(self: Any, worker: Any) -> Any:
        observer.work_taken(worker, self)
        observer.step_began(worker, self)
        following = run(self, worker)
        observer.step_ended(worker, self)
        return following

    return observed


@point(Gather, "run", "work_taken")
def _gather_run(run: Any, observer: Observer) -> Any:
    def observed(self: Any, worker: Any) -> Any:
        observer.work_taken(worker, self)
        return run(self, worker)

    return observed


# --- locks ----------------------------------------------------------------------------------------


@point(Combiner, "run", "work_taken", "pass_began", "pass_ended")
def _pass(run: Any, observer: Observer) -> Any:
    def observed(self: Any, worker: Any) -> Any:
        observer.work_taken(worker, self)
        observer.pass_began(self, worker)
        try:
            return run(self, worker)
        finally:
            observer.pass_ended(self, worker)

    return observed


@point(Request, "pop", "section_began")
def _grant_request(pop: Any, observer: Observer) -> Any:
    """A pass claims a task's request to grant it. Others claim it to give it up."""

    def observed(self: Any, *args: Any) -> Any:
        continuation = pop(self, *args)
        worker, lock = here.worker, self.lock
        if worker is not None and worker.item is lock:  # the mark of the key, in a pass
            observer.section_began(lock, self.ticket, monotonic_ns() - self.ticket)
        return continuation

    return observed


@point(KeyedLock, "_grant", "handed_off", "section_began")
def _grant(grant: Any, observer: Observer) -> Any:
    def observed(self: Any, item: Any) -> bool:
        granted: bool = grant(self, item)
        if granted:
            observer.handed_off(self, item)
            if type(item) is ExternalWaiter:  # a thread reports that it has entered itself
                observer.section_began(self, item.ticket, monotonic_ns() - item.ticket)
        return granted

    return observed


@point(KeyedLock, "dispatch", "handed_off")
def _dispatch(dispatch: Any, observer: Observer) -> Any:
    def observed(self: Any, *args: Any, **kwargs: Any) -> None:
        observer.handed_off(self, None)
        dispatch(self, *args, **kwargs)

    return observed


def _observed_aenter(aenter: Any, observer: Observer) -> Any:
    """A task enters at once: then it gets its worker's `ready`."""

    def observed(self: Any) -> Any:
        now = monotonic_ns()
        _told.entering += 1
        try:
            door = aenter(self)
        finally:
            _told.entering -= 1
        worker = here.worker
        if not _told.entering and worker is not None and door is worker.ready:
            observer.section_began(self, now, monotonic_ns() - now)
        return door

    return observed


def _observed_enter_blocking(enter: Any, observer: Observer) -> Any:
    """A thread enters, at once or after a wait."""

    def observed(self: Any, timeout: Any, owner: Any) -> bool:
        now = monotonic_ns()
        _told.entered = None
        entered: bool = enter(self, timeout, owner)
        if entered and _told.entered is not self:  # else an entry further in has reported it
            _told.entered = self
            observer.section_began(self, now, monotonic_ns() - now)
        return entered

    return observed


for _lock in (TaskEntry, Charging):
    point(_lock, "__aenter__", "section_began")(_observed_aenter)
for _blocking in (ThreadEntry, Charging):
    point(_blocking, "_enter_blocking", "section_began")(_observed_enter_blocking)


@point(TaskEntry, "__aexit__", "section_ended")
def _aexit(aexit: Any, observer: Observer) -> Any:
    def observed(self: Any, *args: Any) -> Any:
        observer.section_ended(self)
        outer, _told.leaving = _told.leaving, self
        try:
            return aexit(self, *args)
        finally:
            _told.leaving = outer

    return observed


@point(LockExit, "end_section", "section_ended")
def _end_section(end_section: Any, observer: Observer) -> Any:
    def observed(self: Any) -> None:
        outer, _told.leaving = _told.leaving, self
        if outer is not self:  # else reported further out
            observer.section_ended(self)
        try:
            end_section(self)
        finally:
            _told.leaving = outer

    return observed


# --- workers --------------------------------------------------------------------------------------


@point(Worker, "_steal", "stolen")
def _steal(steal: Any, observer: Observer) -> Any:
    def observed(self: Any) -> Any:
        steals = self.steals
        item = steal(self)
        if self.steals != steals:  # else it lay in the own run queue
            observer.stolen(self, item)
        return item

    return observed


@point(Worker, "_park", "parked", "unparked")
def _park(park: Any, observer: Observer) -> Any:
    def observed(self: Any, *args: Any, **kwargs: Any) -> Any:
        observer.parked(self)
        try:
            return park(self, *args, **kwargs)
        finally:
            observer.unparked(self)

    return observed


@point(blocked, "__enter__", "blocked")
def _block(enter: Any, observer: Observer) -> Any:
    def observed(self: Any) -> Any:
        entered = enter(self)
        if self._worker is not None:  # else the calling thread is no worker
            observer.blocked(self._worker, self)
        return entered

    return observed


@point(blocked, "__exit__", "unblocked")
def _unblock(leave: Any, observer: Observer) -> Any:
    def observed(self: Any, *exc_info: Any) -> None:
        leave(self, *exc_info)
        if self._worker is not None:
            observer.unblocked(self._worker, self)

    return observed
