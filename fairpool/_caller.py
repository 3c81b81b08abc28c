"""`Caller`: a thread of the user's that works for a pool until its own task has ended.

It is a worker without a thread of its own: the same queues, the same look for work, the same seats.
Protocol and proof: `docs/protocols/joining.md`.

Guarantees:

- A caller leaves as soon as its own task is final, also in the middle of a pass, unless somebody
  else's plain function is on its stack at that moment: then it leaves when that has returned.
- What lies with a caller when it leaves is given back, and whoever may be needed for it is woken.
- A thread that waits for a lock may be a caller for one step: a `Lender`.
- What a signal handler raises (Ctrl-C's, say; one that was set before) never ends what the caller
  runs for others, and cuts off no step of the package's (only a second Ctrl-C does): it is raised
  in the code of the own task, or ends that, and is raised to the caller when it is final.

This code assumes, beside what `_worker` does, that signal handlers are called on the main thread.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from concurrent.futures import wait as wait_for_any
from dis import opmap
from linecache import getline
from logging import Logger
from pathlib import Path
from sys import get_asyncgen_hooks, set_asyncgen_hooks
from traceback import format_exception
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from fairpool._combiner import Combiner
from fairpool._future import Future, call, is_final, look_out
from fairpool._runqueue import RunQueue
from fairpool._sync import (
    LONGEST_BLIND_WAIT,
    Condition,
    Thread,
    acquire,
    handle_interrupts,
    here,
    monotonic,
    monotonic_ns,
    yield_cpu,
)
from fairpool._task import Task
from fairpool._worker import STEPS_BETWEEN_LOOKS_AROUND, Worker

__all__ = ["Caller", "LastCaller", "Lender"]

_PACKAGE = str(Path(__file__).parent / "_")[:-1]  # with the separator


class Caller(Worker):
    """The calling thread, for as long as it works for a pool. All methods are for that thread."""

    __slots__ = (
        "_deadline",
        "_holds_own",
        "_outer",
        "_own_is_told",
        "_own_waits",
        "awaited",
        "interrupt",
        "leaving",
        "outer_caller",
        "own",
    )

    # own:         the task that it is here for; None for the last caller
    # awaited:     what it works for at the moment: `own`, or what a step on its stack waits for
    # leaving:     whether that may be final. Only an optimization, for the pass that is to be cut
    #              off: the loop itself looks at `awaited`, and if that is not final, takes it back.
    # interrupt:   what a signal handler has raised, and this caller is still to raise
    # outer_caller: the one that runs what has called this one, in another pool

    def __init__(self, scheduler: Any, own: Task[Any] | None) -> None:
        super().__init__(scheduler, None)
        self.queue = RunQueue()
        self.own = own
        self.awaited: Future[Any] | None = own
        self.leaving = False
        self.interrupt: BaseException | None = None
        self._deadline: float | None = None  # of what is awaited
        self._holds_own = False  # whether it is a step of the own task's that waits
        self._own_waits = False  # whether one does, further out on this stack perhaps
        self._own_is_told = False  # whether it was asked to end, because of an interrupt
        self.outer_caller: Caller | None = None
        self._outer: Any = None

    def work(self) -> None:
        """Work for the pool until the own task is final. Raises if it is not accepted any more."""
        self.outer_caller = here.caller
        try:
            handle_interrupts(_ask, self._come_and_go)
        finally:
            if here.caller is self:  # not so in the child of a fork, which has no pool
                here.caller = self.outer_caller
        self.raise_interrupt()

    def _come_and_go(self) -> None:
        scheduler = self.scheduler
        hooks = get_asyncgen_hooks()
        self._outer = here.worker
        here.caller = here.worker = self
        try:
            scheduler.roster.append(self)  # before `workers`: see `Scheduler.join`
            scheduler.workers.append(self)  # J1
            self._sit()  # J2
            set_asyncgen_hooks(finalizer=scheduler.close_generator)
            self._do_what_it_came_for()
        finally:
            if here.worker is self:  # likewise
                self._leave()
            set_asyncgen_hooks(*hooks)
            self.own = self.awaited = None  # no cycle: see below

    def _do_what_it_came_for(self) -> None:
        scheduler, own, first = self.scheduler, self.own, None
        if own is not None:
            if scheduler.is_closed():  # S2 of shutdown.md; J1 is its S1
                own.drop()
                raise scheduler.refusal()
            own._register(self)
            if scheduler.injector:  # first come, first served
                scheduler.injector.append(own)  # S1
                scheduler.notify_if_free()  # S3
            else:
                first = own
        try:
            self._work(first)
        finally:
            # What the task has raised leads to this frame, and to `self`: no cycle.
            del own, first

    def _sit(self) -> None:
        self.scheduler.seat_caller()

    def _stand_up(self) -> None:
        self.scheduler.unseat_caller()

    def _leave(self) -> None:
        scheduler = self.scheduler
        here.worker = self._outer
        self.item = self.fn = None
        scheduler.workers.remove(self)  # E1
        self.gone = True
        self.give_back()  # E2
        self._stand_up()  # E3
        scheduler.notify_if_work()  # E4
        if scheduler.is_closed():
            # Those that parked while there was still work are to see that there is none.
            scheduler.parking.unpark_all()
        self.ended.set()
        scheduler.strike(self)

    def join(self) -> None:
        """Wait until this caller has left. Its thread goes on."""
        while not self.ended.wait(LONGEST_BLIND_WAIT):
            pass

    def requeue(self, item: Any) -> None:
        """As that of `Worker`; a lock that is to be served later is one that others look for."""
        if isinstance(item, Combiner):
            item.dispatch()
        else:
            super().requeue(item)

    # --- the loop --------------------------------------------------------------------------------

    def is_done(self) -> bool:
        """Whether there is no reason to go on."""
        return (
            is_final(self.awaited)  # type: ignore[arg-type]
            or (self._holds_own and self.interrupt is not None)
            or (self._deadline is not None and monotonic() >= self._deadline)
        )

    def _work(self, task: Any) -> None:
        """Work until `is_done`. Entered again in a wait of what it runs: see `_park_on`."""
        scheduler = self.scheduler
        queue, locks, debts = self.queue, scheduler.locks, scheduler.parking.debts
        steps = 1
        while here.worker is self:  # not so in the child of a task that forked
            if task is None:
                if self.is_done():
                    return
                self.leaving = False  # it was said of what is awaited further out on this stack
                if debts and scheduler.parking.pay_debt():
                    self._park_until_done(seated=False)
                    task = self._search()
                    continue
                if steps % STEPS_BETWEEN_LOOKS_AROUND == 0:
                    task = self.look_around()
                elif locks:
                    task = self._take_critical(steps)
                if task is None:
                    task = queue.take() or self.look_around() or self._search()
                    if task is None:
                        continue
            item, task = task, None
            try:
                following = item.run(self)
            except BaseException as error:
                self.rescue(item, error)
                if isinstance(error, KeyboardInterrupt):
                    raise
                continue
            steps += 1
            if following is not None:
                if (
                    following is not item  # else it has only yielded
                    and steps % STEPS_BETWEEN_LOOKS_AROUND
                    and not debts
                    and not self.is_done()
                ):
                    task = following
                else:
                    self.requeue(following)
            following = item = None

    def _search(self) -> Any:
        """Something to run; None where it is done. Who is unparked, to search, comes here next."""
        scheduler = self.scheduler
        searching = scheduler.searching
        while True:
            self._known = []  # to be made anew: others may have come for those that have gone
            searching.add(self)
            for _ in range(self._looks()):
                task = None if self.is_done() else self.look()
                if task is not None or self.is_done():
                    searching.discard(self)
                    # Whoever queued something meanwhile may have relied on this worker.
                    scheduler.notify_if_work()
                    return task
                yield_cpu()
            self._park_until_done(seated=True)

    def _park_until_done(self, seated: bool) -> None:
        """Park until there may be work, or until `is_done`; with a seat again afterwards."""
        parking = self.scheduler.parking
        item, fn = self.item, self.fn
        self.item = self.fn = None  # a parked worker keeps nothing alive
        parking.searching.discard(self)
        parking.parked.append(self)  # P2
        unparked = False
        try:
            if seated:
                parking.give_up_seat()  # P3
            self.scheduler.notify_if_work()  # P4
            # After P2: whoever ends what is awaited after this look finds this caller in `parked`.
            if not self.is_done():
                deadline = self._deadline
                timeout = None if deadline is None else deadline - monotonic()
                unparked = self.parker.wait(timeout)
        finally:
            if not unparked:
                if self._unlist_parked():
                    self.needs_seat = True
                else:
                    self.parker.park()  # taken out of the list, so about to be unparked
            self.item, self.fn = item, fn
            del item, fn  # an interrupt leads to this frame: no cycle
            if self.needs_seat:
                self.needs_seat = False
                parking.return_to_seat()

    def __call__(self, future: Any) -> None:
        """What the caller waits for is final. From any thread."""
        self.leaving = True
        self._wake()

    def _wake(self) -> None:
        if self._unlist_parked():
            self.needs_seat = True
            self.parker.unpark()

    # --- waiting in a task -----------------------------------------------------------------------

    def _park_on(self, future: Future[Any], timeout: float | None) -> bool:
        """Wait. Where no thread can be started to take its place, it goes on working meanwhile."""
        if self.scheduler.max_workers or not self.may_run_inline() or _get_running_loop():
            return super()._park_on(future, timeout)
        if look_out(future):
            return True
        item, fn = self.item, self.fn
        outer = self.awaited, self._deadline, self._holds_own, self._own_waits
        self._holds_own = self.own is not None and self.task is self.own
        self._own_waits = self._own_waits or self._holds_own
        self._deadline = None if timeout is None else monotonic() + timeout
        self.awaited = future
        self.leaving = False
        self._inline += 1
        future._register(self)
        try:
            self._work(None)
            if self._holds_own:
                self.raise_interrupt()
        finally:
            future._unregister(self)
            self._inline -= 1
            self.turn_to(item, fn)
            self.awaited, self._deadline, self._holds_own, self._own_waits = outer
            self.leaving = self.is_done()
            del item, fn, outer  # what was raised leads to this frame: no cycle
        return is_final(future)

    def run_inline(self, future: Any) -> bool:
        """As that of `Worker`. Afterwards the own task's wait raises what has come meanwhile."""
        waits, self._own_waits = self._own_waits, self._own_waits or self.runs_own()
        try:
            is_done = super().run_inline(future)
        finally:
            self._own_waits = waits
        if self.interrupt is not None and self.runs_own():
            self.raise_interrupt()
        return is_done

    def wait_for_event(self, adopted: Any, timeout: float | None) -> bool:
        """As that of `Worker`; and as `_park_on`."""
        if self.scheduler.max_workers:
            return super().wait_for_event(adopted, timeout)
        self._park_on(adopted.announce(), timeout)
        return bool(adopted.event.is_set())

    # --- what signal handlers raise --------------------------------------------------------------

    def runs_own(self) -> bool:
        """Whether it is a step of the own task's, or of what that is in, that runs here."""
        own, item = self.own, self.item
        return own is not None and (item is own or getattr(item, "task", None) is own)

    def end_own(self, error: BaseException) -> bool:
        """The own task is to end, and `error` is raised then.

        False where that is a plain function that has begun, and cannot be told: ask again, until
        it is its code that runs here, or a wait of its own.
        """
        before, self.interrupt = self.interrupt, error
        if before is not None and type(before) is not type(error) and error.__context__ is None:
            error.__context__ = before  # as if it was raised while that one was handled
        own = self.own
        if own is not None and not self._own_waits and not self._own_is_told:
            self._own_is_told = True  # once: it may clean up
            own.cancel()
        self._wake()
        return own is None or self._own_waits or is_final(own) or hasattr(own, "_machine")

    def raise_interrupt(self) -> None:
        """Raise what is still to be raised, in a wait of the own task's or after its end."""
        error, self.interrupt = self.interrupt, None
        if error is not None:
            self._own_is_told = False
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: no cycle


_LOOP = Caller._work.__code__
_BLOCKS = (acquire.__code__, Condition.wait.__code__)
_START = Thread.start.__code__
_CALLS_BACK = call.__code__
# Of the standard library: what is not to be cut off, whoever calls it, unless it blocks: the one
# holds futures locked, the others swallow what is raised.
_SHELTERED = tuple(
    fn.__code__.co_filename for fn in (wait_for_any, WeakSet.add, WeakValueDictionary.get)
)
# And what is not if the package calls it.
_HELPERS = tuple(
    fn.__code__.co_filename for fn in (Thread.start, Logger.log, format_exception, getline)
)


def _is_packages(frame: Any) -> bool:
    return bool(frame.f_code.co_filename.startswith(_PACKAGE))


def _place_in_own_code(frame: Any) -> bool | None:
    """Whether `frame` may be cut off, of a caller's own task; None where that runs no code of its.

    It may be in code of the user's, and in a wait that this has called, but not inside of something
    else of the package's.
    """
    blocks, may_be_cut_off = frame.f_code in _BLOCKS, not _is_about_to_await(frame)
    while frame is not None and (file := frame.f_code.co_filename) in _HELPERS + _SHELTERED:
        if frame.f_code is _START:
            blocks = may_be_cut_off = False
        elif file in _SHELTERED:
            may_be_cut_off = blocks
        frame = frame.f_back
    is_users = False
    while frame is not None and not _is_packages(frame):
        is_users = True
        frame = frame.f_back
    while frame is not None and _is_packages(frame) and frame.f_code is not _LOOP:
        if is_users and frame.f_code is _CALLS_BACK:  # which logs what a callback raises
            return False
        frame = frame.f_back
    if is_users:
        return may_be_cut_off
    return None if frame is None or frame.f_code is _LOOP else blocks


def _is_about_to_await(frame: Any) -> bool:
    """Whether it has just called what gives it something to await, as `__aexit__` does."""
    code = frame.f_code.co_code
    at = frame.f_lasti + 2
    while at < len(code) and code[at] == _CACHE:
        at += 2
    return bool(at < len(code) and code[at] == _GET_AWAITABLE)


_CACHE, _GET_AWAITABLE = opmap["CACHE"], opmap["GET_AWAITABLE"]


def _ask(frame: Any, error: BaseException | None) -> bool:
    """A signal handler has raised `error` while this thread, the main thread, was in `frame`.

    Raises it where that is code of the own task's, or a wait that such code has called. In what
    else such code has called it may be half-way into a lock, say: False, ask again (with None).
    What is others' is not to be cut off: the own task is to end, and it is raised then; True if
    that has been told.
    """
    callers: list[Caller] = []  # a task may have joined another pool
    caller = here.caller
    while caller is not None:
        callers.append(caller)
        caller = caller.outer_caller
    try:
        if error is None:
            for caller in callers:
                if caller.interrupt is not None:
                    error, caller.interrupt = caller.interrupt, None
                    break
            else:
                return True  # it was raised meanwhile
        elif not callers or (
            isinstance(error, KeyboardInterrupt)
            and any(caller.interrupt is not None for caller in callers)
        ):
            raise error
        for caller in reversed(callers):
            if not caller.runs_own():
                return caller.end_own(error)
        place = _place_in_own_code(frame)
        if place is None:
            return callers[0].end_own(error)
        if place:
            raise error
        callers[0].interrupt = error
        return False
    finally:
        del error, caller, callers  # its traceback holds this frame: no cycle


class LastCaller(Caller):
    """Who shuts down a pool without threads runs what is left in it."""

    __slots__ = ()

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler, None)

    def is_done(self) -> bool:
        if self.awaited is not None:  # in a wait of what it runs
            return super().is_done()
        return self.interrupt is not None or self.scheduler.is_over()


class _NeverEmpty(list[Any]):
    """What a lender publishes. Never taken for empty, because somebody waits on its stack.

    So what it runs does not enter one section after the other without being suspended in between,
    as it might on a worker with nothing published.
    """

    def __bool__(self) -> bool:
        return True


class Lender(Caller):
    """A thread that waits for a lock (`Combiner.nominate`), for one step of somebody else's.

    It has come with a seat, and is in `searching`, as its stay.
    """

    __slots__ = ("_stay",)

    stays = False

    def __init__(self, scheduler: Any, stay: Any) -> None:
        super().__init__(scheduler, None)
        self._stay = stay
        self.published = _NeverEmpty()

    def _do_what_it_came_for(self) -> None:
        scheduler = self.scheduler
        stay = self._stay
        errand, stay.errand = stay.errand, None
        item = errand or self._take_published()
        scheduler.searching.discard(stay)  # F1
        scheduler.notify_if_work()  # F2
        if item is None:
            return
        began = monotonic_ns()
        try:
            following = item.run(self)
        except BaseException as error:
            self.rescue(item, error)
            if isinstance(error, KeyboardInterrupt):
                raise
            return
        if errand is None:
            scheduler.note_continuation(monotonic_ns() - began)
        if following is not None:
            self.requeue(following)

    def is_done(self) -> bool:
        """Whether there is no reason to go on, in a wait of what it runs."""
        return self.interrupt is not None if self.awaited is None else super().is_done()

    def _sit(self) -> None:
        """It has a seat."""

    def _stand_up(self) -> None:
        """Whoever waits on its stack gives the seat back: `Combiner._come_back`."""
