"""`Future`: one result, settled once, in whatever order the parties come.

First all orders of whole steps, against the standard library's Future as the model; then all places
between two instructions of one party at which another one may come.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import itertools
import logging
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, InvalidStateError, wait
from types import SimpleNamespace
from typing import Any

import pytest
from kit import TIMEOUT, Mishap, occupy
from unit.instructions import interleavings, moments

from fairpool import FairPool, Future
from fairpool._core.report import wait_for_log
from fairpool._scheduler.intake import Backlog


def fail(kind: type[BaseException] = Mishap, *args: object) -> None:
    raise kind(*args)  # and no variable refers to it: that were a cycle


def outcome_of(step: Callable[[], object]) -> object:
    """What a step returned or raised, in a form that compares."""
    try:
        return step()
    except BaseException as error:
        return type(error)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert wait_for_log(TIMEOUT)
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# --- futures by hand: every order of whole steps, against the standard library's ----------------

STEPS: dict[str, Callable[[Any], object]] = {
    "start": lambda future: future.set_running_or_notify_cancel(),
    "cancel": lambda future: future.cancel(),
    "finish": lambda future: future.set_result(1),
    "fail": lambda future: future.set_exception(Mishap()),
    "ask": lambda future: future.result(0),
    "watch": lambda future: len(wait([future], 0).done),
}


def account(future: Any, calls: list[object]) -> dict[str, object]:
    return {
        "done": future.done(),
        "cancelled": future.cancelled(),
        "running": future.running(),
        "callbacks": len(calls),
        "exception": type(future.exception(0))
        if future.done() and not future.cancelled()
        else None,
    }


def history(future: Any, steps: tuple[str, ...]) -> list[object]:
    calls: list[object] = []
    future.add_done_callback(calls.append)
    record: list[object] = []
    for step in steps:
        record.append(
            (step, outcome_of(lambda step=step: STEPS[step](future)), account(future, calls))
        )
    future.add_done_callback(calls.append)
    record.append(account(future, calls))
    return record


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_every_order_of_steps_ends_as_in_the_standard_library(
    length: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1, "concurrent.futures")  # both complain; not at issue here
    for steps in itertools.product(STEPS, repeat=length):
        assert history(Future(), steps) == history(concurrent.futures.Future(), steps), steps


# --- tasks: every order of whole steps --------------------------------------------------------


class Tally:
    """A Counter that two threads may use at once: each event is one `list.append`."""

    def __init__(self) -> None:
        self._events: list[str] = []

    def update(self, events: list[str]) -> None:
        for event in events:
            self._events.append(event)

    def __getitem__(self, event: str) -> int:
        return self._events.copy().count(event)


class Events:
    """A task that no worker will take, and the count of all that happens to it."""

    def __init__(self, shelf: FairPool) -> None:
        self.counts = Tally()
        backlog = Backlog(10**6)
        backlog.leave = lambda: self.counts.update(["left the backlog"])  # type: ignore[method-assign]
        shelf._scheduler.backlog = backlog
        self.body: Callable[[], object] = int
        self.task: Any = shelf.submit(self.work)

    def work(self) -> str:
        self.counts.update(["ran"])
        self.body()
        return "ran"

    def run(self) -> object:
        return self.task.run(SimpleNamespace(task=None, fn=None))

    def cancel(self) -> object:
        if self.task.cancel():
            self.counts.update(["cancel said yes"])
        return None

    def abandon(self) -> object:
        return self.task.abandon(Mishap())

    def add_callback(self) -> object:
        self.counts.update(["expected calls"])
        return self.task.add_done_callback(lambda _: self.counts.update(["called"]))

    def watch(self) -> object:
        return wait([self.task], 0)

    def start_by_hand(self) -> object:
        return outcome_of(self.task.set_running_or_notify_cancel)

    def finish_by_hand(self) -> object:
        return outcome_of(lambda: self.task.set_result(2))

    def look(self) -> object:
        return repr(self.task), self.task.running(), self.task._state

    def check(self, what: object) -> None:
        """What is true after any steps, whoever took them, in whatever order."""
        counts, task = self.counts, self.task
        if task.done():
            assert counts["called"] == counts["expected calls"], what
            assert counts["left the backlog"] == 1, what
        else:
            assert counts["called"] == counts["left the backlog"] == 0, what
        assert counts["ran"] <= 1, what
        assert bool(counts["cancel said yes"]) == task.cancelled(), what
        assert task.running() == (bool(counts["ran"]) and not task.done()), what
        if counts["ran"] and task.done():
            assert task.result(0) == "ran", what
        assert wait([task], 0).done == ({task} if task.done() else set()), what
        assert task._status is None or not counts["ran"] or task.done(), what


PARTIES = (
    "run",
    "cancel",
    "abandon",
    "add_callback",
    "watch",
    "start_by_hand",
    "finish_by_hand",
    "look",
)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_every_order_of_steps_counts_each_event_once(shelf: FairPool, length: int) -> None:
    for steps in itertools.permutations(PARTIES, length):
        events = Events(shelf)
        events.add_callback()
        for step in steps:
            getattr(events, step)()
            events.check(steps)
        if not events.task.done():
            events.run()
            events.check(steps)


# --- one party in the middle of another: every place --------------------------------------------


@pytest.mark.parametrize("second", PARTIES)
@pytest.mark.parametrize("first", PARTIES)
@pytest.mark.parametrize("watched", [False, True])
def test_a_party_comes_in_the_middle_of_another(
    shelf: FairPool, first: str, second: str, watched: bool
) -> None:
    for moment in moments(shares=True):
        events = Events(shelf)
        events.add_callback()
        if watched:
            events.watch()
        with moment.do(getattr(events, second)):
            getattr(events, first)()
        events.check(moment)
        events.add_callback()
        if not events.task.done():
            events.run()
        events.check(moment)


@pytest.mark.parametrize("second", ["run", "cancel", "add_callback"])
@pytest.mark.parametrize("first", ["run", "cancel", "add_callback"])
def test_two_parties_take_turns(shelf: FairPool, first: str, second: str) -> None:
    for turns in interleavings():
        events = Events(shelf)
        events.add_callback()
        turns.run(getattr(events, first), getattr(events, second))
        if not events.task.done():
            events.run()
        events.check(turns)


@pytest.mark.parametrize(
    ("second", "callbacks"), [("cancel", 1), ("add_callback", 1), ("add_callback", 2)]
)
def test_a_party_comes_while_the_task_runs_and_stays_while_it_ends(
    shelf: FairPool, second: str, callbacks: int
) -> None:
    for turns in interleavings():
        events = Events(shelf)
        for _ in range(callbacks):
            events.add_callback()
        events.body = functools.partial(turns.start, getattr(events, second))
        turns.run_around(events.run)
        events.check(turns)


@pytest.mark.parametrize("second", ["cancel", "call", "watch", "ask"])
@pytest.mark.parametrize("first", ["cancel", "call", "watch", "ask", "finish"])
def test_two_parties_meet_while_the_future_ends(first: str, second: str) -> None:
    # The future has been started, so that a claim takes a callback out and has to put it back.
    # In the middle of the first party's doing, the second one comes, and then the end.
    for moment in moments():
        calls: Counter[int] = Counter()
        expected = iter(range(100))

        def call(
            future: Any, calls: Counter[int] = calls, expected: Iterator[int] = expected
        ) -> None:
            number = next(expected)
            future.add_done_callback(lambda _: calls.update([number]))

        steps = {**STEPS, "call": call}
        future: Any = Future()
        future.set_running_or_notify_cancel()
        call(future)
        call(future)

        def second_and_end(future: Any = future, steps: Any = steps) -> None:
            outcome_of(lambda: steps[second](future))
            outcome_of(lambda: future.set_result(1))

        with moment.do(second_and_end):
            outcome_of(lambda: steps[first](future))
        outcome_of(lambda: future.set_result(1))
        assert future.result(0) == 1, moment
        assert calls == Counter(range(next(expected))), moment
        assert wait([future], 0).done == {future}, moment


def test_cancel_in_the_middle_of_cancel(shelf: FairPool) -> None:
    # Who comes first says yes. (Of a task, the other one may say no while that is going on.)
    for make, answers in (Future, {True}), (lambda: shelf.submit(int), {True, False}):
        for moment in moments():
            future: Any = make()
            with moment.do(future.cancel):
                assert future.cancel() or moment.result, moment
            assert moment.result in answers or not moment.reached, moment
            assert future.cancelled()
            assert future.cancel()


def test_start_in_the_middle_of_cancel_is_refused_or_wins() -> None:
    for moment in moments():
        future: Future[int] = Future()
        with moment.do(future.set_running_or_notify_cancel):
            cancelled = future.cancel()
        assert future.cancelled() == cancelled, moment
        if moment.reached:
            assert moment.result is not cancelled, moment


BY_HAND = ("start", "cancel", "finish", "fail")


@pytest.mark.parametrize("second", BY_HAND)
@pytest.mark.parametrize("first", BY_HAND)
def test_one_of_two_ends_by_hand_wins(first: str, second: str) -> None:
    for moment in moments():
        future: Any = Future()
        calls: list[object] = []
        future.add_done_callback(calls.append)
        with moment.do(lambda: outcome_of(lambda: STEPS[second](future))):
            result = outcome_of(lambda: STEPS[first](future))
        outcomes = [(first, result)]
        if moment.reached:
            outcomes.append((second, moment.result))
        ended = [step for step, out in outcomes if step in ("finish", "fail") and out is None]
        cancelled = [step for step, out in outcomes if step == "cancel" and out is True]
        assert len(ended) <= 1, (moment, outcomes)
        assert not (ended and cancelled), (moment, outcomes)
        assert future.done() == bool(ended or cancelled), (moment, outcomes)
        assert future.cancelled() == bool(cancelled), (moment, outcomes)
        assert len(calls) == future.done(), (moment, outcomes)


def test_a_callback_that_raises_is_logged_at_whatever_moment_the_future_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for moment in moments():
        future: Future[int] = Future()
        caplog.clear()
        with moment.do(lambda future=future: future.set_result(1)):
            future.add_done_callback(lambda _: fail())
        if moment.reached:
            assert len(messages(caplog)) == 1, moment


def test_all_readers_get_the_same_condition(shelf: FairPool) -> None:
    for moment in moments():
        future: Any = Future()
        with moment.do(lambda future=future: future._condition):
            condition = future._condition
        assert moment.result in (condition, None), moment
        assert future._condition is condition


def test_wait_sees_the_end_at_whatever_moment_it_comes() -> None:
    # The end comes in the middle of `wait`'s preparations, as from a thread: it may have to wait
    # for the condition, which `wait` holds.
    for moment in moments():
        future: Future[int] = Future()
        thread = threading.Thread(target=future.set_result, args=[1])

        def end(thread: threading.Thread = thread, future: Future[int] = future) -> None:
            thread.start()
            while not future.done():  # so the end is as far as it can get now, or soon
                pass

        with moment.do(end):
            done = wait([future], TIMEOUT if moment.reached else 0).done
        if moment.reached:
            thread.join(TIMEOUT)
            assert wait([future], TIMEOUT).done == {future}, moment
        assert done in ({future}, set())


def test_the_state_is_frozen_while_the_condition_is_held() -> None:
    # 1. Somebody is in the middle of `concurrent.futures.wait`: holds the condition, has read the
    #    state and goes by it.
    future: Future[int] = Future()
    final = threading.Event()
    holding, release = threading.Event(), threading.Event()

    class Registrant:
        def add_result(self, future: object) -> None:
            told.append(future)

    told: list[object] = []

    def hold() -> None:
        with future._condition:
            holding.set()
            release.wait(TIMEOUT)
            # 4. Nothing has happened, as far as whoever holds the condition can see.
            seen.append(future._state)
            future._waiters.append(Registrant())

    seen: list[str] = []
    holder = threading.Thread(target=hold)
    holder.start()
    assert holding.wait(TIMEOUT)
    # 2. The result comes meanwhile.
    ender = threading.Thread(target=lambda: (final.set(), future.set_result(1)))
    ender.start()
    # 3. `result` has it at once: it does not depend on the condition.
    assert future.result(TIMEOUT) == 1
    assert future.done()
    assert future._state == "RUNNING"
    release.set()
    # 5. Who was registered under the condition is told.
    ender.join(TIMEOUT)
    holder.join(TIMEOUT)
    assert seen == ["RUNNING"]
    assert told == [future]
    assert future._state == "FINISHED"


# --- exceptions arrive once, whole ------------------------------------------------------------


def test_the_traceback_does_not_grow(make_pool: Callable[..., FairPool]) -> None:
    future = make_pool(1).submit(fail)
    lengths = set()
    for _ in range(5):
        with pytest.raises(Mishap) as caught:
            future.result(TIMEOUT)
        lengths.add(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(lengths) == 1


def test_the_traceback_shows_none_of_the_machinery_below_the_task(
    make_pool: Callable[..., FairPool],
) -> None:
    error = make_pool(1).submit(fail).exception(TIMEOUT)
    assert error is not None
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["fail"]


def test_the_exception_of_a_callable_in_c_has_no_frames(make_pool: Callable[..., FairPool]) -> None:
    error = make_pool(1).submit(int, "x").exception(TIMEOUT)
    assert error is not None
    assert error.__traceback__ is None


def test_an_exception_that_nobody_retrieves_is_logged_once(
    make_pool: Callable[..., FairPool], caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1)
    pool.submit(fail, Mishap, "for the log")
    pool.shutdown()
    gc.collect()
    assert wait_for_log(TIMEOUT)
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert f"{fail.__module__}.fail" in record.getMessage()
    assert "never retrieved" in record.getMessage()
    assert "for the log" in caplog.text


@pytest.mark.parametrize(
    "retrieve",
    [
        lambda future: future.exception(TIMEOUT),
        lambda future: outcome_of(lambda: future.result(TIMEOUT)),
        lambda future: outcome_of(
            lambda: asyncio.run(asyncio.wait_for(wrapped(future), TIMEOUT)),
        ),
    ],
)
def test_an_exception_that_was_retrieved_is_not_logged(
    make_pool: Callable[..., FairPool],
    caplog: pytest.LogCaptureFixture,
    retrieve: Callable[[object], object],
) -> None:
    pool = make_pool(1)
    assert retrieve(pool.submit(fail)) is not None
    pool.shutdown()
    gc.collect()
    assert messages(caplog) == []


async def wrapped(future: Any) -> object:
    return await asyncio.wrap_future(future)


def test_waiting_for_a_failure_is_not_retrieving_it(
    make_pool: Callable[..., FairPool], caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1)
    wait([pool.submit(fail)], TIMEOUT)
    pool.shutdown()
    gc.collect()
    assert len(messages(caplog)) == 1


@pytest.fixture
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def succeed(pool: FairPool) -> None:
    assert pool.submit(int).result(TIMEOUT) == 0


def raise_in_task(pool: FairPool) -> None:
    with pytest.raises(Mishap):
        pool.submit(fail).result(TIMEOUT)


def ask_for_the_exception(pool: FairPool) -> None:
    assert pool.submit(fail).exception(TIMEOUT) is not None


def ask_in_a_task(pool: FairPool) -> None:
    assert pool.submit(lambda: pool.submit(int).result()).result(TIMEOUT) == 0


def wait_for_it(pool: FairPool) -> None:
    assert len(wait([pool.submit(int)], TIMEOUT).done) == 1


def cancel_it(pool: FairPool) -> None:
    pool.submit(int).cancel()


def map_it(pool: FairPool) -> None:
    assert list(pool.map(int, "123")) == [1, 2, 3]


@pytest.mark.parametrize(
    "use",
    [succeed, raise_in_task, ask_for_the_exception, ask_in_a_task, wait_for_it, cancel_it, map_it],
)
def test_a_task_leaves_no_cycle_for_the_collector(
    make_pool: Callable[..., FairPool], collector_off: None, use: Callable[[FairPool], None]
) -> None:
    pool = make_pool(2)
    kinds = {
        "Task",
        "Future",
        "Failure",
        "Mishap",
        "ConditionAdapter",
        "StdWaiters",
        "SlotWaiter",
        "UserCallback",
    }
    for _ in range(50):
        use(pool)
    pool.shutdown()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        found = Counter(type(thing).__name__ for thing in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    # pytest.raises keeps a cycle of its own, which leads to the last exception of all.
    assert {kind: count for kind, count in found.items() if kind in kinds and count > 2} == {}


# --- callbacks --------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Mishap, RecursionError])
def test_whatever_a_callback_raises_is_logged_and_harms_nobody(
    make_pool: Callable[..., FairPool],
    gate: threading.Event,
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
) -> None:
    pool = make_pool(1)
    [future] = occupy(pool, gate)
    calls: list[object] = []
    future.add_done_callback(lambda _: fail(error))
    future.add_done_callback(calls.append)
    gate.set()
    name = pool.submit(lambda: threading.current_thread().name).result(TIMEOUT)
    assert calls == [future]
    assert name.endswith("_0")  # the worker has survived it
    assert len(messages(caplog)) == 1
    # The same for a future that is done; but here it is our own thread, and a Ctrl-C is ours.
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            future.add_done_callback(lambda _: fail(error))
    else:
        future.add_done_callback(lambda _: fail(error))
        assert len(messages(caplog)) == 2


def test_callbacks_that_compare_in_python_are_left_alone() -> None:
    class Callback:
        def __call__(self, future: object) -> None:
            calls.append(self)

        def __eq__(self, other: object) -> bool:
            raise Mishap

        __hash__ = object.__hash__

    calls: list[object] = []
    future: Future[int] = Future()
    callbacks = [Callback(), Callback()]
    for callback in callbacks:
        future.add_done_callback(callback)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.001)  # registers and forgets a callback of its own
    future.set_result(1)
    assert list(map(id, calls)) == list(map(id, callbacks))


# --- states and texts -------------------------------------------------------------------------


def test_ends_only_once() -> None:
    for end in STEPS["finish"], STEPS["fail"]:
        future: Future[int] = Future()
        end(future)
        for again in STEPS["finish"], STEPS["fail"]:
            with pytest.raises(InvalidStateError):
                again(future)
        future.exception()


def test_a_cancelled_future_gets_no_result() -> None:
    future: Future[int] = Future()
    future.cancel()
    for end in STEPS["finish"], STEPS["fail"]:
        with pytest.raises(InvalidStateError):
            end(future)
    with pytest.raises(CancelledError):
        future.result()


def test_nobody_sets_the_result_of_a_pools_task(
    make_pool: Callable[..., FairPool], gate: threading.Event
) -> None:
    pool = make_pool(1)
    occupy(pool, gate)
    future = pool.submit(int)
    for end in STEPS["finish"], STEPS["fail"], STEPS["start"]:
        with pytest.raises(InvalidStateError, match="belongs to a pool"):
            end(future)
    gate.set()
    assert future.result(TIMEOUT) == 0


def test_set_exception_takes_exceptions_only() -> None:
    with pytest.raises(TypeError, match="'not one'"):
        Future[int]().set_exception("not one")  # type: ignore[arg-type]


def test_repr(make_pool: Callable[..., FairPool], gate: threading.Event) -> None:
    pool = make_pool(1)
    [running] = occupy(pool, gate)
    pending, cancelled = pool.submit(int), pool.submit(int)
    cancelled.cancel()
    assert "int" in repr(pending)
    assert "state=pending" in repr(pending)
    assert "state=running" in repr(running)
    assert "state=cancelled" in repr(cancelled)
    gate.set()
    pool.shutdown()
    assert "state=finished returned int" in repr(pending)
    failed: Future[int] = Future()
    failed.set_exception(Mishap())
    assert "state=finished raised Mishap" in repr(failed)
    failed.exception()


def test_repr_does_not_look_into_callbacks(
    make_pool: Callable[..., FairPool], gate: threading.Event
) -> None:
    class Registry(dict[object, object]):
        def __call__(self, future: object) -> None:
            pass

    [running] = occupy(make_pool(1), gate)
    running.add_done_callback(Registry())
    assert "state=running" in repr(running)


def test_snapshot_for_asyncio() -> None:
    error = Mishap()
    pending, finished, failed, cancelled = (Future[int]() for _ in range(4))
    finished.set_result(7)
    failed.set_exception(error)
    cancelled.cancel()
    assert pending._get_snapshot() == (False, False, None, None)
    assert finished._get_snapshot() == (True, False, 7, None)
    assert failed._get_snapshot() == (True, False, None, error)
    assert cancelled._get_snapshot() == (True, True, None, None)
