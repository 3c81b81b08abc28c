"""`Caller`: a thread of the user's that works for a pool until its own task has ended.

It is a worker without a thread of its own: the same queues, the same look for work, the same slots.
Protocol and proof: `docs/protocols/joining.md`.

Guarantees:

- A caller leaves as soon as its own task is final, also in the middle of a pass, unless somebody
  else's plain function is on its stack at that moment: then it leaves when that has returned.
- What lies with a caller when it leaves is given back, and a worker is woken for it.
- A thread that waits for a lock may be a caller for one step: a `Helper`.
- Ctrl-C, where Python's own handler is installed, neither ends what the main thread runs for others
  as a caller, nor cuts off a step of the package's (a second one does): KeyboardInterrupt is raised
  in the code of the own task, or that is cancelled, and it is raised when the task is final.

This code assumes, beside what `worker` does, that signal handlers are called on the main thread.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from sys import _getframe, get_asyncgen_hooks, set_asyncgen_hooks
from types import FrameType

from fairpool._core.foreign import is_a
from fairpool._core.here import here
from fairpool._core.room import SHORT_OF_ROOM, need_stack, strike_off
from fairpool._core.runqueue import RunQueue
from fairpool._core.signals import handle_ctrl_c, wait_until_set
from fairpool._core.threads import monotonic, monotonic_ns, start_new_thread
from fairpool._core.types import Runnable
from fairpool._locks.combiner import Combiner
from fairpool._locks.waiters import ThreadWaiter
from fairpool._scheduler.adopted import AdoptedEvent
from fairpool._scheduler.blocking import blocked
from fairpool._scheduler.ctrl_c import is_called_by_user, may_be_cut_off, may_raise
from fairpool._scheduler.lifecycle import LifeCycle
from fairpool._scheduler.worker import Worker
from fairpool._tasks.future import AnyFuture
from fairpool._tasks.request import Published
from fairpool._tasks.state import is_final
from fairpool._tasks.task import AnyTask
from fairpool._tasks.thread_wait import ThreadCallback, spin_wait


class Caller(Worker):
    """The calling thread, for as long as it works for a pool. All methods are for that thread."""

    __slots__ = (
        "_deadline",
        "_holds_own",
        "_outer",
        "_own_waits",
        "awaited",
        "gives_up",
        "interrupted",
        "leaving",
        "outer_caller",
        "own",
    )

    # own:         the task that it is here for; None for the last caller
    # awaited:     what it works for at the moment: `own`, or what a step on its stack waits for
    # leaving:     whether that may be final. Only an optimization, for the pass that is to be cut
    #              off: the loop itself looks at `awaited`, and if that is not final, takes it back.
    # interrupted: whether Ctrl-C has come, and KeyboardInterrupt is still to be raised
    # gives_up:    whether it has come twice: this caller leaves, whatever its task does
    # outer_caller: the one that runs what has called this one, in another pool

    def __init__(self, scheduler: LifeCycle, own: AnyTask | None) -> None:
        super().__init__(scheduler, None)
        self.queue = RunQueue()
        self.own = own
        self.awaited: AnyFuture | None = own
        self.leaving = False
        self.interrupted = self.gives_up = False
        self._deadline: float | None = None  # of what is awaited
        self._holds_own = False  # whether it is a step of the own task's that waits
        self._own_waits = False  # whether one does, further out on this stack perhaps
        self.outer_caller: Caller | None = None
        self._outer: Worker | None = None

    def run(self) -> None:
        """Work for the pool until the own task is final. Raises if it is not accepted any more."""
        need_stack(100)
        self.outer_caller = here.caller
        try:
            handle_ctrl_c(on_ctrl_c, self._come_and_go)
        finally:
            if here.caller is self:  # not so in the child of a fork, which has no pool
                here.caller = self.outer_caller
        self.raise_interrupt()

    def _come_and_go(self) -> None:
        scheduler = self.scheduler
        hooks = get_asyncgen_hooks()
        outer = self._outer = here.worker
        loan = None if outer is None else outer.lend_key(None)
        here.caller = here.worker = self
        try:
            scheduler.threads.append(self)  # joining: list_thread, before list_worker: see `join`
            scheduler.workers.append(self)  # joining: list_worker
            self._take_slot()  # joining: join_slots
            set_asyncgen_hooks(scheduler.watch_generator, scheduler.close_generator)
            self._do_what_it_came_for()
        finally:
            if here.worker is self:  # likewise
                self._leave()
            set_asyncgen_hooks(*hooks)
            self.own = self.awaited = None  # no cycle: see below
            if loan is not None:
                loan.end()

    def _do_what_it_came_for(self) -> None:
        scheduler, own, first = self.scheduler, self.own, None
        if own is not None:
            if scheduler.is_closed():  # shutdown: recheck_closed
                own.drop()
                raise scheduler.closed_error()
            own._register(self)
            if scheduler.injector:  # first come, first served
                scheduler.injector.append(own)  # parking: enqueue
                scheduler.notify_if_free()  # parking: notify
            else:
                first = own
        try:
            self.work(first, self.is_done)
        finally:
            # What the task has raised leads to this frame, and to `self`: no cycle.
            del own, first

    def _take_slot(self) -> None:
        self.scheduler.caller_joins()

    def _free_slot(self) -> None:
        self.scheduler.caller_leaves()

    def _leave(self) -> None:
        scheduler = self.scheduler
        here.worker = self._outer
        self.item = self.fn = None
        if strike_off(scheduler.workers, self):  # joining: unlist
            self.exited = True
            try:
                self.give_back()  # joining: give_back
            except SHORT_OF_ROOM:
                start_new_thread(self.give_back, ())
            self._free_slot()  # joining: leave_slots
        try:
            scheduler.searching.discard(self)  # an interrupt may have left it there
            scheduler.notify_if_work()  # joining: last_look
            if scheduler.is_ending():
                # Those that parked while there was still work are to see that there is none.
                scheduler.parking.unpark_all()
        finally:
            try:
                self.ended.set()
            except SHORT_OF_ROOM:
                start_new_thread(self.ended.set, ())
            scheduler.forget_thread(self)

    def join(self) -> None:
        """Wait until this caller has left. Its thread goes on."""
        wait_until_set(self.ended)

    def requeue(self, item: Runnable) -> None:
        """As that of `Worker`; a lock that is to be served later is one that others look for."""
        if isinstance(item, Combiner):
            item.dispatch()
        else:
            super().requeue(item)

    # --- the loop --------------------------------------------------------------------------------

    def is_done(self) -> bool:
        """Whether there is no reason to go on: what the loop is told as `until`."""
        if (
            is_final(self.awaited)  # type: ignore[arg-type]
            or self.gives_up
            or (self._holds_own and self.interrupted)
            or (self._deadline is not None and monotonic() >= self._deadline)
        ):
            return True
        self.leaving = False  # it was said of what is awaited further out on this stack
        return False

    def _park_time(self) -> float | None:
        deadline = self._deadline
        return None if deadline is None else deadline - monotonic()

    def __call__(self, future: AnyFuture) -> None:
        """What the caller waits for is final. From any thread."""
        self.leaving = True
        self.wake()

    def wake(self) -> None:
        """Look again at whether it is done."""
        if strike_off(self.scheduler.parking.parked, self):
            self.needs_slot = True
            self.woken = True
            self.parker.unpark()

    # --- waiting in a task -----------------------------------------------------------------------

    def _block_on(self, future: AnyFuture, timeout: float | None) -> bool:
        """Wait. Where no thread can be started to take its place, it goes on working meanwhile."""
        if self.scheduler.max_workers or not self.may_run_inline() or _get_running_loop():
            return super()._block_on(future, timeout)
        if spin_wait(future):
            return True
        if (loan := self.lend_key(future if timeout is None else None)) is not None:
            try:
                return self._block_on(future, timeout)
            finally:
                loan.end()
        if self.item is None:  # in a `__del__` between two steps: this one may be about to park
            with blocked("future", future, lends_key=True):
                AwaitingCaller(self.scheduler, future, timeout).run()
            return is_final(future)
        item, fn = self.item, self.fn
        outer = self.awaited, self._deadline, self._holds_own, self._own_waits
        self._holds_own = self.own is not None and self.task is self.own
        self._own_waits = self._own_waits or self._holds_own
        self._deadline = None if timeout is None else monotonic() + float(timeout)
        self.awaited = future
        self.leaving = False
        self._inline += 1
        future.register_for_now(self)
        try:
            self.work(None, self.is_done)
            self._end_wait(self._holds_own)
        finally:
            future._unregister(self)
            self._inline -= 1
            self.turn_to(item, fn)
            self.awaited, self._deadline, self._holds_own, self._own_waits = outer
            self.leaving = self.is_done()
            is_done = is_final(future)
            del item, fn, outer, future  # what was raised leads to this frame: no cycle
        return is_done

    def run_inline(self, future: AnyFuture) -> bool:
        """As that of `Worker`. Afterwards the own task's wait raises what has come meanwhile."""
        waits, self._own_waits = self._own_waits, self._own_waits or self.runs_own()
        try:
            is_done = super().run_inline(future)
        finally:
            self._own_waits = waits
            del future  # as there
        if self.interrupted and self.runs_own():
            self.raise_interrupt()
        return is_done

    def wait_for_event(self, adopted: AdoptedEvent, timeout: float | None) -> bool:
        """As that of `Worker`; and as `_block_on`."""
        future = adopted.announce()
        if not self.scheduler.max_workers:
            self._block_on(future, timeout)
            return adopted.event.is_set()
        # Not in the event's own `wait`: Ctrl-C would not end that. See `may_be_cut_off`.
        with blocked("event", adopted, lends_key=True):
            waiter = ThreadCallback()
            try:
                future.register_for_now(waiter)
                waiter.park(timeout, adopted.futures[0]._pool)
            finally:
                future._unregister(waiter)
        return adopted.event.is_set()

    # --- Ctrl-C ----------------------------------------------------------------------------------

    def runs_own(self) -> bool:
        """Whether it is a step of the own task's, or of what that is in, that runs here."""
        own, item = self.own, self.item
        return own is not None and (item is own or getattr(item, "task", None) is own)

    def interrupt(self) -> None:
        """Ctrl-C: end the own task, or its wait; KeyboardInterrupt is raised then."""
        self.interrupted = True
        own = self.own
        if own is not None and not self._own_waits:
            own.cancel()  # once: it may clean up
        self.wake()

    def raise_interrupt(self) -> None:
        """Raise KeyboardInterrupt if that is still to be done; for `run`, and the own waits."""
        if self.interrupted:
            self.interrupted = self.gives_up = False
            raise KeyboardInterrupt

    def raise_in_wait(self) -> None:
        """As `raise_interrupt`, in a wait that is not the loop's."""
        if self.interrupted and is_called_by_user(_getframe()):
            self._end_wait(self.runs_own())

    def _end_wait(self, is_own: bool) -> None:
        if is_own:
            self.raise_interrupt()
        elif self.gives_up:
            raise KeyboardInterrupt


def on_ctrl_c(signum: int, frame: FrameType | None) -> None:
    """Ctrl-C has come while the main thread, which is here, is a caller."""
    callers: list[Caller] = []  # a task may have joined another pool
    caller: Caller | None = here.caller
    while caller is not None:
        callers.append(caller)
        caller = caller.outer_caller
    others = [caller for caller in callers if not caller.runs_own()]
    if any(caller.interrupted for caller in callers):
        for caller in callers:
            caller.interrupted = caller.gives_up = True
            caller.wake()
        if may_be_cut_off(frame) and is_called_by_user(frame, callbacks=True):
            raise KeyboardInterrupt
    elif not callers or (not others and may_raise(frame)):
        raise KeyboardInterrupt
    else:
        # What runs in an inner pool is the work of the outermost one that runs others' work.
        (others[-1] if others else callers[0]).interrupt()


class LastCaller(Caller):
    """The thread that shuts down a pool without threads, and runs what is left in it."""

    __slots__ = ()

    def __init__(self, scheduler: LifeCycle) -> None:
        super().__init__(scheduler, None)

    def is_done(self) -> bool:
        if self.awaited is not None:  # in a wait of what it runs
            return super().is_done()
        return self.interrupted or self.scheduler.is_over()


class AwaitingCaller(Caller):
    """A caller for a future that is not its own.

    For the task of `fairpool.run`, and for what a `__del__` waits for in the search of a caller.
    """

    __slots__ = ()

    def __init__(self, scheduler: LifeCycle, awaited: AnyFuture, timeout: float | None) -> None:
        super().__init__(scheduler, None)
        self.awaited = awaited
        self._deadline = None if timeout is None else monotonic() + timeout

    def _do_what_it_came_for(self) -> None:
        future = self.awaited
        assert future is not None
        future._register(self)
        try:
            self.work(None, self.is_done)
        finally:
            future._unregister(self)
            del future  # an interrupt leads to this frame: no cycle


class _NeverEmpty(list[Published]):
    """What a helper publishes. Never taken for empty, because somebody waits on its stack.

    So what it runs does not enter one section after the other without being suspended in between,
    as it might on a worker with nothing published.
    """

    def __bool__(self) -> bool:
        return True


class Helper(Caller):
    """A thread that waits for a lock, for one step of somebody else's: see `recruit_helper`.

    Protocol and proof: "Threads that wait are lent" in `docs/protocols/joining.md`.

    It has come with a slot, and is in `searching`, as its waiter.
    """

    __slots__ = ("_waiter",)

    stays = False

    def __init__(self, scheduler: LifeCycle, waiter: ThreadWaiter) -> None:
        super().__init__(scheduler, None)
        self._waiter = waiter
        self.published = _NeverEmpty()

    def _do_what_it_came_for(self) -> None:
        scheduler = self.scheduler
        waiter = self._waiter
        assigned_lock, waiter.assigned_lock = waiter.assigned_lock, None
        item = assigned_lock or self._take_published()
        scheduler.searching.discard(waiter)  # parking: stop_searching
        scheduler.notify_if_work()  # parking: look_for_more
        if item is None:
            return
        began = monotonic_ns()
        try:
            following = item.run(self)
        except BaseException as error:
            self.rescue(item, error)
            if is_a(error, KeyboardInterrupt):
                raise
            return
        if assigned_lock is None:
            scheduler.note_continuation(monotonic_ns() - began)
        if following is not None:
            self.requeue(following)

    def withdraw(self) -> None:
        """As that of `Worker`; it is in `searching` as its waiter."""
        super().withdraw()
        self.scheduler.searching.discard(self._waiter)

    def is_done(self) -> bool:
        """Whether there is no reason to go on, in a wait of what it runs."""
        return self.interrupted if self.awaited is None else super().is_done()

    def _take_slot(self) -> None:
        """It has a slot."""

    def _free_slot(self) -> None:
        """Nothing: its thread gives the slot back when it waits again (`_come_back`)."""
