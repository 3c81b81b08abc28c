"""Where each event of an `Observer` happens, room by room.

One entry an event, or a few where a hot path has the original written out. Each is a generator
around the calls of one function; nothing of this runs while no observer is attached. See
`fairpool._core.observer`.

Sections, and the steps that a pass runs, end in several places, one of which may call another. So
their beginning is noted (`report.begin`), and the first of those places reports the end.
"""

from __future__ import annotations

from fairpool._core.foreign import is_a
from fairpool._core.here import here
from fairpool._core.observer import Observer, Steps, attach, attached, detach, point, report
from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import monotonic_ns
from fairpool._core.types import Runnable
from fairpool._locks.charging import Charging
from fairpool._locks.combiner import Combiner
from fairpool._locks.exit import LockExit
from fairpool._locks.key import KeyedLock
from fairpool._locks.tasks import TaskEntry
from fairpool._locks.threads import ThreadEntry
from fairpool._locks.waiters import Section
from fairpool._scheduler.blocking import blocked
from fairpool._scheduler.scheduler import Scheduler
from fairpool._scheduler.worker import Worker
from fairpool._tasks import settling, step
from fairpool._tasks.chain import Link
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.gather import Gather
from fairpool._tasks.request import LockOfWaiter, Request, Waiter
from fairpool._tasks.state import FINISHED, AnyState, Final, is_claimed, is_final
from fairpool._tasks.task import AnyTask, Task

__all__ = ["Observer", "attach", "attached", "detach"]

# Together, because the end is reported only if the beginning was.
SECTION = ("section_began", "section_ended")
STEP = ("step_began", "step_ended")


def _section_began(lock: LockOfWaiter, ticket: int) -> None:
    report.begin(lock)
    report.section_began(lock, ticket, monotonic_ns() - ticket)


def _section_ended(lock: LockOfWaiter) -> None:
    if report.end(lock):
        report.section_ended(lock)


def _step_ended(continuation: Continuation) -> None:
    if report.end(continuation):
        report.step_ended(here.worker, continuation)


# --- tasks ----------------------------------------------------------------------------------------


@point(Scheduler, "put", "submitted")
def _put(scheduler: Scheduler, task: AnyTask | Gather) -> Steps:
    report.submitted(scheduler, task)
    yield


@point(KeyedLock, "line_up", "submitted")
def _line_up(lock: KeyedLock, item: Waiter) -> Steps:
    if is_a(item, Section):  # of `lock.submit`
        report.submitted(lock.scheduler, item)
    yield


@point(settling, "settle", "settled", *SECTION)
@point(step, "settle_and_take_next", "settled", *SECTION)
def _settle(future: AnyState, state: Final, *_: object) -> Steps:
    report.end(future)  # else `_run` would report it, too
    if is_a(future, Waiter):
        lock = future.lock
        if future.is_section:
            if lock.owner is future:  # else it was cancelled before it began
                _section_ended(lock)
        elif state is FINISHED:  # an external waiter, with the key, is about to be woken
            _section_began(lock, future.ticket)
    yield
    report.settled(future)


@point(Task, "end_first_step", "settled")
def _end_first_step(task: AnyTask, result: object) -> Steps:
    """`settle` is written out there, but for one case."""
    yield
    if task._status is FINISHED:
        report.end(task)
        report.settled(task)


@point(Task, "run", "work_taken", "settled", *STEP, *SECTION)
@point(Link, "run", "work_taken", "settled", *STEP, *SECTION)
def _run(task: AnyTask, worker: Worker) -> Steps:
    """The run of a task, or of a link: taken, its first step, and its end if it has one step."""
    if is_claimed(task):  # in vain
        yield
        return
    section = task if is_a(task, Waiter) else None
    if section is None:
        report.work_taken(worker, task)
    else:
        _section_began(section.lock, section.ticket)
    report.step_began(worker, task)
    report.begin(task)
    yield
    is_written_out = task._status is FINISHED  # read first: else `settle` has ended it, elsewhere
    if report.end(task) and is_written_out:
        report.settled(task)
    report.step_ended(worker, task)
    # Else it was suspended in its section. It was cancelled if it is not the worker's item.
    if section is not None and (is_final(task) or worker.item is not task):
        _section_ended(section.lock)


@point(Continuation, "run", "work_taken", *STEP)
def _continuation_run(continuation: Continuation, worker: Worker) -> Steps:
    report.work_taken(worker, continuation)
    report.step_began(worker, continuation)
    yield
    report.step_ended(worker, continuation)


@point(Gather, "run", "work_taken")
def _gather_run(gather: Gather, worker: Worker) -> Steps:
    report.work_taken(worker, gather)
    yield


@point(Gather, "_start", *STEP)
def _gather_start(gather: Gather, index: int, worker: Worker) -> Steps:
    """The first step of a child, which becomes a task where something asks for one meanwhile."""
    report.step_began(worker, gather)
    yield
    report.step_ended(worker, worker.item or gather)


# --- locks ----------------------------------------------------------------------------------------


@point(KeyedLock, "__init__", "lock_made")
def _lock_init(lock: KeyedLock, *_: object) -> Steps:
    yield
    report.lock_made(lock)


@point(Combiner, "run", "work_taken", "pass_began", "pass_ended")
def _pass(lock: Combiner, worker: Worker) -> Steps:
    report.work_taken(worker, lock)
    report.pass_began(lock, worker)
    try:
        yield
    finally:
        report.pass_ended(lock, worker)


@point(Request, "pop", *SECTION, *STEP)
def _grant_request(request: Request, *_: object) -> Steps:
    """A pass claims a request to grant it, and runs a step. Others claim it to give it up."""
    continuation = yield
    worker, lock = here.worker, request.lock
    if worker is not None and worker.item is lock:  # the mark of the key, in a pass
        _section_began(lock, request.ticket)
        report.begin(continuation)
        report.step_began(worker, continuation)


@point(Continuation, "suspended", *STEP)
def _step_of_pass_suspended(continuation: Continuation, *_: object) -> Steps:
    _step_ended(continuation)
    yield


@point(Continuation, "end", *STEP)
def _step_of_pass_ended(continuation: Continuation, raised: BaseException) -> Steps:
    yield
    _step_ended(continuation)


@point(KeyedLock, "_grant", "handed_off")
def _grant(lock: KeyedLock, item: Waiter) -> Steps:
    if (yield):
        report.handed_off(lock, item)


@point(KeyedLock, "dispatch", "handed_off")
def _dispatch(lock: KeyedLock, *_: object, **__: object) -> Steps:
    report.handed_off(lock, None)
    yield


@point(TaskEntry, "__aenter__", *SECTION)
def _aenter(lock: TaskEntry) -> Steps:
    now = monotonic_ns()
    door = yield
    if not is_a(lock, Charging):  # that may still refuse, and reports itself
        _entered_at_once(lock, now, door)


@point(Charging, "__aenter__", *SECTION)
def _charging_aenter(lock: Charging) -> Steps:
    now = monotonic_ns()
    door = yield
    _entered_at_once(lock, now, door)


def _entered_at_once(lock: TaskEntry, now: int, door: object) -> None:
    worker = here.worker
    if worker is not None and door is worker.ready:
        _section_began(lock, now)


@point(ThreadEntry, "_enter_blocking", *SECTION)
@point(Charging, "_enter_blocking", *SECTION)
def _enter_blocking(lock: ThreadEntry, *_: object) -> Steps:
    """A thread enters, at once or after a wait."""
    now = monotonic_ns()
    has_entered = yield
    if has_entered and not report.has_begun(lock):  # else an entry further in has reported it
        _section_began(lock, now)


@point(TaskEntry, "__aexit__", *SECTION, *STEP)
def _aexit(lock: TaskEntry, *_: object) -> Steps:
    _section_ended(lock)
    door = yield
    if door is lock.leave_door and here.worker is not None:
        _step_ended(here.worker.item)  # of a pass, which goes on with the next request


@point(LockExit, "end_section", *SECTION)
def _end_section(lock: LockExit) -> Steps:
    _section_ended(lock)
    yield


# --- workers --------------------------------------------------------------------------------------


# The run queue from which a worker is just stealing.
_robbed: dict[Worker, RunQueue[Runnable]] = {}


@point(Worker, "_steal", "stolen", "queues_scanned")
def _steal(worker: Worker) -> Steps:
    item = yield
    queue = _robbed.pop(worker, None)
    report.queues_scanned(worker, worker.queue if item is not None and queue is None else queue)
    if queue is not None:
        report.stolen(worker, item)


@point(Worker, "_take_more", "stolen", "queues_scanned")
def _take_more(worker: Worker, queue: RunQueue[Runnable]) -> Steps:
    """Called for what was found in a queue of another worker's."""
    _robbed[worker] = queue
    yield


@point(Worker, "_take_published", "locks_scanned")
@point(Worker, "_take_service", "locks_scanned")
def _scan_locks(worker: Worker) -> Steps:
    report.locks_scanned(worker)
    yield


@point(Scheduler, "has_work", "work_checked")
def _has_work(scheduler: Scheduler) -> Steps:
    found = yield
    report.work_checked(scheduler, found)


@point(Worker, "_park", "parked", "unparked")
def _park(worker: Worker, *_: object, **__: object) -> Steps:
    report.parked(worker)
    try:
        yield
    finally:
        report.unparked(worker)


@point(blocked, "__enter__", "blocked")
def _block(wait: blocked) -> Steps:
    yield
    if wait._worker is not None:  # else the calling thread is no worker
        report.blocked(here.worker, wait)


@point(blocked, "__exit__", "unblocked")
def _unblock(wait: blocked, *_: object) -> Steps:
    yield
    if wait._worker is not None:
        report.unblocked(here.worker, wait)
