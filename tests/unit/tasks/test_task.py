"""Tasks: one resumer, no lost wake-up, no lost cancellation, in whatever order the parties come.

The steps are made by hand here: a pool without slots starts no worker, so what is runnable stays in
its queues until the test takes it out. First all orders of whole steps; then all places between two
instructions of a step, or of a cancellation, at which another party may come.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import itertools
import logging
import threading
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from kit import TIMEOUT, Desk, Mishap

import fairpool
from fairpool import CancelledError, DeadlockError, FairPool, Future, Task, current_task
from fairpool._core import waitgraph as waits_module
from fairpool._core.here import here
from fairpool._core.runqueue import RunQueue
from fairpool._tasks.continuation import Continuation


@pytest.fixture
def moments() -> Callable[..., Iterator[Any]]:
    """`unit.instructions.moments`: all places between two instructions of the package."""
    module: Any = pytest.importorskip("unit.instructions")
    return module.moments  # type: ignore[no-any-return]


class Subject:
    """A task that awaits one future, and all that happens to it, counted."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.future: Future[int] = Future()
        self.events: Counter[str] = Counter()
        self.in_step: list[str] = []  # what is to happen inside of its steps
        self.running = False
        self.over = False  # from then on, a cancellation comes too late, whatever it answers
        self.asked = False  # whether a `cancel` came before the end
        self.agreed = False  # whether one said yes
        self.task: Any = desk.pool.submit(self._body)
        self.task.add_done_callback(lambda _: self.events.update(["final"]))

    async def _body(self) -> int:
        self._enter("started")
        try:
            self._leave()
            value = await self.future
            self._enter("resumed")
            self.over = True
            return value + 1
        except CancelledError:
            self._enter("cancelled")
            raise
        finally:
            self._leave()

    def _enter(self, event: str) -> None:
        assert not self.running, "two in one coroutine"
        self.running = True
        self.events[event] += 1
        if self.in_step:
            self.do(self.in_step.pop(0))

    def _leave(self) -> None:
        self.running = False

    def do(self, event: str) -> None:
        if event == "step":
            self.desk.step()
        elif event == "set":
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                self.future.set_result(1)
        elif event == "fail":
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                self.future.set_exception(Mishap())
        elif event == "cancel":
            if not self.over and not self.task.done():
                self.asked = True
                if self.task.cancel():
                    self.agreed = True
        elif event == "hint":
            machine = getattr(self.task, "_coroutine_state", None)
            if hasattr(machine, "wake"):
                machine.wake()
        else:
            assert event == "nothing"
        assert self.desk.queued() <= 1, "queued twice"

    def finish(self) -> str:
        """Go on to the end, and check what must hold whatever happened; returns the outcome."""
        self.desk.run()
        if self.agreed:
            assert self.task.done(), "a cancellation was lost"
        if not self.task.done():
            assert not self.future.done(), "a wake-up was lost"
            self.future.set_result(1)
            self.desk.run()
        assert self.task.done(), "a wake-up was lost"
        assert self.events["final"] == 1
        assert self.events["started"] <= 1
        assert self.events["resumed"] + self.events["cancelled"] <= 1
        assert not self.desk.scheduler.suspended
        assert self.task not in waits_module.waiting_tasks, "an edge was left behind"
        if self.task.cancelled():
            assert self.asked
            return "cancelled"
        assert not self.agreed, "a cancellation was lost"
        if isinstance(self.task.exception(), Mishap):
            return "failed"
        assert self.task.result() == 2
        return "finished"


OUTSIDE = sorted(set(itertools.permutations(["step", "step", "step", "set", "cancel", "hint"])))
INSIDE = [*itertools.product(["nothing", "set", "cancel", "hint", "fail"], repeat=2)]


@pytest.mark.parametrize("inside", INSIDE, ids=lambda pair: "+".join(pair))
def test_all_orders_of_run_suspend_wake_cancel_and_complete(
    inside: tuple[str, ...], desk: Desk
) -> None:
    outcomes: Counter[str] = Counter()
    for outside in OUTSIDE:
        subject = Subject(desk)
        subject.in_step = [*inside]
        for event in outside:
            subject.do(event)
        outcome = subject.finish()
        # What was asked for in time is done, however late in the last step it came.
        assert (outcome == "cancelled") == subject.agreed, (inside, outside)
        outcomes[outcome] += 1
    assert outcomes["cancelled"]
    assert sum(outcomes.values()) == len(OUTSIDE)


MEANWHILE = {
    "set": ["set"],
    "set, and its step": ["set", "step"],
    "hint": ["hint"],
    "hint, and its step": ["hint", "step"],
    "cancel": ["cancel"],
    "cancel, and its step": ["cancel", "step"],
    "cancel twice": ["cancel", "cancel"],
    "cancel and set": ["cancel", "set", "step"],
    "set and cancel": ["set", "cancel", "step"],
    "hint and cancel": ["hint", "cancel"],
    "hint, its step, and cancel": ["hint", "step", "cancel"],
}


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("before", ["pending", "suspended", "hinted", "set", "asked to end"])
def test_whatever_comes_in_the_midst_of_a_step(
    before: str, meanwhile: str, desk: Desk, moments: Callable[..., Iterator[Any]]
) -> None:
    for moment in moments(shares=True):
        subject = Subject(desk)
        if before != "pending":
            desk.step()
        if before == "hinted":
            subject.do("hint")
        elif before == "set":
            subject.do("set")
        elif before == "asked to end":
            subject.do("cancel")

        def act(subject: Subject = subject) -> None:
            for event in MEANWHILE[meanwhile]:
                subject.do(event)

        with moment.do(act):
            desk.step()
        outcome = subject.finish()
        if before != "pending":  # a function that is being called may turn out to be a plain one
            assert (outcome == "cancelled") == subject.agreed, moment


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("before", ["pending", "suspended", "hinted", "set"])
@pytest.mark.parametrize("what", ["cancel", "hint"])
def test_whatever_comes_in_the_midst_of_a_cancellation_or_a_wake_up(
    what: str, before: str, meanwhile: str, desk: Desk, moments: Callable[..., Iterator[Any]]
) -> None:
    for moment in moments(shares=True):
        subject = Subject(desk)
        if before != "pending":
            desk.step()
        if before == "hinted":
            subject.do("hint")
        elif before == "set":
            subject.do("set")
        elif what == "hint" and before == "pending":
            break

        def act(subject: Subject = subject) -> None:
            for event in MEANWHILE[meanwhile]:
                subject.do(event)

        with moment.do(act):
            subject.do(what)
        outcome = subject.finish()
        assert (outcome == "cancelled") == subject.agreed, moment


def test_a_request_is_not_lost_while_somebody_tries_to_claim_the_task(
    desk: Desk, moments: Callable[..., Iterator[Any]]
) -> None:
    # Who would run the task inline, or cancel it, looks for its work, and finds it started.
    for moment in moments(shares=True):
        subject = Subject(desk)
        desk.step()

        subject.task.interrupt()
        with moment.do(desk.step):
            subject.task.run(desk.workers[2])
        desk.run()
        assert subject.task.cancelled(), moment
        assert subject.events["final"] == 1


# --- what cancels, and when -----------------------------------------------------------------------


def test_a_task_that_was_not_started_is_cancelled_at_once_and_never_run(desk: Desk) -> None:
    ran: list[int] = []
    task = desk.pool.submit(ran.append, 1)
    assert task.cancel()
    assert task.cancelled()
    assert task.cancel()
    desk.run()
    assert not ran


def test_the_coroutine_of_a_cancelled_task_is_closed(desk: Desk) -> None:
    async def never() -> None:
        raise AssertionError

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = desk.scheduler.spawn(never())
        assert task.cancel()
        del task
        gc.collect()


def test_a_plain_function_that_runs_is_not_interrupted(desk: Desk) -> None:
    def ask() -> bool:
        task = current_task()
        assert task is not None
        return task.cancel()

    task = desk.pool.submit(ask)
    desk.run()
    assert task.result(0) is False


def test_a_task_may_clean_up_and_await_meanwhile(desk: Desk) -> None:
    log: list[str] = []
    cleaned: Future[int] = Future()

    async def body() -> None:
        try:
            await Future()
        finally:
            log.append("cleaning")
            await cleaned
            log.append("clean")

    task = desk.pool.submit(body)
    desk.run()
    assert task.cancel()
    desk.run()
    assert log == ["cleaning"]
    assert not task.done()
    cleaned.set_result(1)
    desk.run()
    assert log == ["cleaning", "clean"]
    assert task.cancelled()


def test_the_second_cancellation_interrupts_the_cleaning_up(desk: Desk) -> None:
    cleaned: Future[int] = Future()

    async def body() -> None:
        try:
            await Future()
        finally:
            await cleaned

    task = desk.pool.submit(body)
    desk.run()
    task.cancel()
    desk.run()
    task.cancel()
    desk.run()
    assert cleaned.cancelled()
    assert task.cancelled()


def test_a_task_that_refuses_is_reported(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn() -> str:
        try:
            await Future()
        except CancelledError:
            pass
        return "went on"

    task = desk.pool.submit(stubborn)
    desk.run()
    task.cancel()
    with caplog.at_level(logging.WARNING):
        desk.run()
    assert task.result(0) == "went on"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cancelled" in caplog.text


def test_uncancel_takes_the_request_back(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    counts: list[int] = []

    async def body() -> str:
        task = current_task()
        assert task is not None
        try:
            await Future()
        except CancelledError:
            counts.append(task.cancelling())
            counts.append(task.uncancel())
        return "went on"

    task: Any = desk.pool.submit(body)
    desk.run()
    task.cancel()
    with caplog.at_level(logging.WARNING):
        desk.run()
    assert task.result(0) == "went on"
    assert counts == [1, 0]
    assert not caplog.records


def test_the_message_of_a_cancellation_arrives(desk: Desk) -> None:
    seen: list[tuple[object, ...]] = []

    async def body() -> None:
        try:
            await Future()
        except CancelledError as error:
            seen.append(error.args)
            raise

    task: Any = desk.pool.submit(body)
    desk.run()
    task.cancel("enough")
    desk.run()
    assert seen == [("enough",)]


def test_what_a_cancelled_task_awaits_is_cancelled_first(desk: Desk) -> None:
    log: list[str] = []

    async def inner() -> None:
        try:
            await Future()
        finally:
            log.append("inner")

    async def outer() -> None:
        try:
            await desk.pool.submit(inner)
        finally:
            log.append("outer")

    task = desk.pool.submit(outer)
    desk.run()
    task.cancel()
    desk.run()
    assert log == ["inner", "outer"]
    assert task.cancelled()


def test_a_cancellation_in_the_step_goes_on_to_what_is_awaited_next(desk: Desk) -> None:
    children: list[Any] = []

    async def child() -> None:
        await Future()

    async def body() -> None:
        children.extend(fairpool.create_task(child()) for _ in range(3))
        await fairpool.yield_now()
        task = current_task()
        assert task is not None
        task.cancel()
        await fairpool.gather(*children)

    task = desk.pool.submit(body)
    desk.run()
    assert task.cancelled()
    assert all(child.cancelled() for child in children)


def test_only_what_is_awaited_now_is_cancelled(desk: Desk) -> None:
    # A wait that was refused, or is over, has nothing to do with it.
    given_up: Future[int] = Future()
    final: Future[int] = Future()

    async def body() -> None:
        task = current_task()
        assert task is not None
        with pytest.raises(DeadlockError):
            await task
        await given_up
        await final

    task: Any = desk.pool.submit(body)
    desk.run()
    given_up.set_result(1)
    desk.run()
    task.cancel()
    desk.run()
    assert final.cancelled()
    assert not given_up.cancelled()
    assert task.cancelled()


def test_a_long_line_of_waits_is_cancelled_without_recursion(desk: Desk) -> None:
    async def wait_for(future: Any) -> None:
        await future

    tasks: list[Any] = [Future()]
    for _ in range(2000):
        tasks.append(desk.pool.submit(wait_for, tasks[-1]))
        desk.step()
    assert tasks[-1].cancel()
    for _ in range(10000):
        if not desk.step():
            break
    assert all(task.cancelled() for task in tasks)


def test_a_cancel_that_raises_is_told_and_the_task_is_resumed(desk: Desk) -> None:
    class Evil(concurrent.futures.Future):  # type: ignore[type-arg]
        def cancel(self) -> bool:
            raise Mishap

    async def body() -> None:
        await fairpool.wrap_future(Evil())

    task = desk.pool.submit(body)
    desk.run()
    try:
        task.cancel()
    except Mishap:
        pass
    desk.run()
    assert task.cancelled()


def test_a_gather_that_cannot_be_cancelled_keeps_its_results(desk: Desk) -> None:
    answers: list[bool] = []

    async def body() -> list[int]:
        children: list[Any] = [Future(), Future()]
        for child in children:
            child.set_running_or_notify_cancel()
        both = fairpool.gather(*children)
        answers.append(both.cancel())
        for child in children:
            child.set_result(3)
        return await both

    task = desk.pool.submit(body)
    desk.run()
    assert answers == [False]
    assert task.result(0) == [3, 3]


# --- the step ---------------------------------------------------------------------------------


@types.coroutine
def request(what: object) -> Generator[object, None, None]:
    yield what


class EvilRepr:
    def __repr__(self) -> str:
        raise Mishap


class EvilAttribute:
    def __getattr__(self, name: str) -> object:
        raise Mishap


@pytest.mark.parametrize("later", [False, True], ids=["first step", "later step"])
@pytest.mark.parametrize("what", [5, EvilRepr(), EvilAttribute()], ids=["5", "repr", "getattr"])
def test_a_foreign_request_is_refused_in_the_coroutine(
    what: object, later: bool, desk: Desk
) -> None:
    async def body() -> str:
        if later:
            await fairpool.yield_now()
        with pytest.raises((TypeError, Mishap)):
            await request(what)
        return "went on"

    task = desk.pool.submit(body)
    desk.run()
    assert task.result(0) == "went on"
    assert not desk.scheduler.suspended


def test_refusals_do_not_nest(desk: Desk) -> None:
    async def body() -> int:
        refused = 0
        task = current_task()
        for what in [5, task] * 2000:
            try:
                await request(what)
            except (TypeError, DeadlockError):
                refused += 1
        return refused

    task = desk.pool.submit(body)
    desk.run()
    assert task.result(0) == 4000


@pytest.mark.parametrize(
    "kind", [Mishap, KeyboardInterrupt, SystemExit, GeneratorExit, StopAsyncIteration]
)
@pytest.mark.parametrize("later", [False, True], ids=["first step", "later step"])
def test_whatever_a_coroutine_raises_is_the_outcome(
    kind: type[BaseException], later: bool, desk: Desk
) -> None:
    async def body() -> None:
        if later:
            await fairpool.yield_now()
        raise kind("it")

    task = desk.pool.submit(body)
    desk.run()
    error = task.exception(0)
    assert type(error) is kind
    assert error.args == ("it",)


def test_stop_iteration_in_a_coroutine_is_a_runtime_error(desk: Desk) -> None:
    async def body() -> None:
        raise StopIteration

    task = desk.pool.submit(body)
    desk.run()
    assert type(task.exception(0)) is RuntimeError


def test_a_traceback_shows_the_users_code_and_none_of_the_package(desk: Desk) -> None:
    async def inner() -> None:
        await fairpool.yield_now()
        raise Mishap

    async def body() -> None:
        await inner()

    task = desk.pool.submit(body)
    desk.run()
    for _ in range(3):
        try:
            task.result(0)
        except Mishap as error:
            names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names[-2:] == ["body", "inner"]
        assert names[0] == "test_a_traceback_shows_the_users_code_and_none_of_the_package"
        assert "run" not in names


def test_a_task_keeps_its_name_to_the_end(desk: Desk) -> None:
    future: Future[int] = Future()

    async def job() -> None:
        await future

    task: Any = desk.pool.submit(job)
    names = [task.get_name()]
    desk.run()
    names.append(task.get_name())
    assert "job" in repr(task)
    future.set_result(1)
    desk.run()
    assert all(name.endswith("job") for name in names)
    task.set_name("other")
    assert task.get_name() == "other"
    assert "other" in repr(task)


def test_the_context_is_the_tasks_own_on_whatever_worker(desk: Desk) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    workers: set[object] = set()

    async def body(number: int) -> bool:
        seen = [variable.get()]
        for i in range(5):
            variable.set(number + i)
            await fairpool.yield_now()
            workers.add(here.worker)
            seen.append(variable.get() - number - i)
        return seen == [7, 0, 0, 0, 0, 0]

    variable.set(7)
    tasks = [desk.pool.submit(body, 100 * i) for i in range(4)]
    variable.set(8)
    turn = itertools.cycle(range(3))
    while desk.queued():
        desk.depth = next(turn)
        desk.step()
        desk.depth = 0
    assert all(task.result(0) for task in tasks)
    assert len(workers) == 3
    assert variable.get() == 8


def test_hand_over_keeps_what_follows_out_of_the_queue(desk: Desk) -> None:
    async def wait_for(future: Any) -> int:
        return (await future) + 1

    first = desk.pool.submit(int)
    second = desk.scheduler.spawn(wait_for(first))
    item = desk.scheduler.injector.take()
    desk.step()  # `second` suspends
    assert desk.queued() == 0
    here.worker = desk.workers[0]
    try:
        following = item.run(desk.workers[0])
    finally:
        here.worker = None
    assert following.task is second
    assert desk.queued() == 0
    following.run(desk.workers[0])
    assert second.result(0) == 1


# --- cycles ---------------------------------------------------------------------------------------


def names_of(error: BaseException | None) -> str:
    assert isinstance(error, DeadlockError)
    return str(error)


def test_a_task_that_awaits_itself_is_told_so(desk: Desk) -> None:
    async def narcissus() -> None:
        task: Any = current_task()
        await task

    task = desk.pool.submit(narcissus)
    desk.run()
    assert names_of(task.exception(0)).count("narcissus") == 2


@pytest.mark.parametrize(
    "through", ["nothing", "then", "gather", "shield", "finally_", "nested gather", "catch"]
)
def test_a_cycle_is_an_error_through(through: str, desk: Desk) -> None:
    box: list[Any] = []

    def wrap(task: Any) -> Any:
        return {
            "nothing": lambda: task,
            "then": lambda: task.then(int),
            "catch": lambda: task.catch(int),
            "finally_": lambda: task.finally_(int),
            "gather": lambda: fairpool.gather(task, Future()),
            "shield": lambda: fairpool.shield(task),
            "nested gather": lambda: fairpool.gather(fairpool.gather(task), Future()),
        }[through]()

    async def echo() -> None:
        await wrap(box[1])

    async def narcissus() -> None:
        await wrap(box[0])

    box.append(desk.pool.submit(echo))
    box.append(desk.pool.submit(narcissus))
    desk.run()
    errors = [task.exception(0) for task in box if task.done()]
    messages = [str(error) for error in errors if isinstance(error, DeadlockError)]
    assert messages, "the cycle was not seen"
    assert "echo" in messages[0]
    assert "narcissus" in messages[0]


def test_a_link_that_returns_itself_is_told_so(desk: Desk) -> None:
    box: list[Any] = []
    box.append(desk.pool.submit(int).then(lambda _: box[0]))
    desk.run()
    names_of(box[0].exception(0))


def test_no_cycle_where_a_task_goes_on_after_the_error(desk: Desk) -> None:
    async def body() -> str:
        task: Any = current_task()
        for _ in range(3):
            with pytest.raises(DeadlockError):
                await task
        await fairpool.yield_now()
        return "went on"

    async def other(task: Any) -> str:
        return await task  # type: ignore[no-any-return]

    task = desk.pool.submit(body)
    desk.step()
    second = desk.pool.submit(other, task)
    desk.run()
    assert second.result(0) == "went on"
    assert not waits_module.waiting_tasks


def test_a_callback_may_wait_for_one_that_awaits_the_future_that_has_just_ended() -> None:
    results: list[object] = []
    called = threading.Event()
    ended: Future[int] = Future()
    with FairPool(2) as pool:

        async def after(future: Any) -> str:
            await future
            return "after"

        async def before() -> None:
            await ended

        task = pool.submit(before)
        second = pool.submit(after, task)
        for thing in (task, second):
            while not getattr(getattr(thing, "_coroutine_state", None), "armed", None):
                pass

        def callback(_: object) -> None:
            try:
                results.append(second.result())  # without a time-out: an edge
            except BaseException as error:
                results.append(error)
            called.set()

        task.add_done_callback(callback)
        ended.set_result(1)
        assert called.wait(TIMEOUT)
    assert results == ["after"]


# --- nothing left behind ----------------------------------------------------------------------


async def _return() -> int:
    await fairpool.yield_now()
    return 1


async def _raise() -> None:
    raise Mishap


async def _raise_later() -> None:
    await fairpool.yield_now()
    raise Mishap


async def _await_failing() -> None:
    await fairpool.create_task(_raise())


async def _catch_failing() -> None:
    try:
        await fairpool.create_task(_raise())
    except Mishap:
        pass


async def _await_itself() -> None:
    await fairpool.yield_now()
    try:
        task: Any = current_task()
        await task
    except DeadlockError:
        pass


async def _await_foreign() -> None:
    try:
        await request(5)
    except TypeError:
        pass


async def _gather_failing() -> None:
    try:
        await fairpool.gather(_return(), _raise())
    except Mishap:
        pass


async def _gather_failing_eagerly() -> None:
    try:
        await fairpool.gather(_return(), _raise(), eager_start=True)
    except Mishap:
        pass


async def _cancel_child() -> None:
    child = fairpool.create_task(_suspended())
    await fairpool.yield_now()
    child.cancel()
    try:
        await child
    except CancelledError:
        pass


async def _suspended() -> None:
    await Future()


async def _shielded() -> None:
    await fairpool.shield(fairpool.create_task(_return()))


def _raise_plain() -> None:
    raise Mishap


LEAVES_NOTHING: dict[str, Callable[[FairPool], Any]] = {
    "result": lambda pool: pool.submit(_return),
    "raise": lambda pool: pool.submit(_raise),
    "raise later": lambda pool: pool.submit(_raise_later),
    "await a failing task": lambda pool: pool.submit(_await_failing),
    "catch what it raised": lambda pool: pool.submit(_catch_failing),
    "deadlock": lambda pool: pool.submit(_await_itself),
    "foreign": lambda pool: pool.submit(_await_foreign),
    "gather": lambda pool: pool.submit(_gather_failing),
    "gather eagerly": lambda pool: pool.submit(_gather_failing_eagerly),
    "cancel": lambda pool: pool.submit(_cancel_child),
    "shield": lambda pool: pool.submit(_shielded),
    "then": lambda pool: pool.submit(_raise_plain).then(int),
    "catch, not meant": lambda pool: pool.submit(_raise_plain).catch(int, KeyError),
    "catch": lambda pool: pool.submit(_raise_plain).catch(lambda error: None),
    "finally": lambda pool: pool.submit(_raise_plain).finally_(lambda: None),
    "finally coroutine": lambda pool: pool.submit(_raise_plain).finally_(_return),
    "flatten": lambda pool: pool.submit(int).then(lambda _: _return()),
    "flatten failing": lambda pool: pool.submit(int).then(lambda _: _raise_later()),
}


@pytest.mark.parametrize("kind", LEAVES_NOTHING)
def test_no_reference_cycle_for_each_task(kind: str, desk: Desk) -> None:
    def one() -> None:
        future = LEAVES_NOTHING[kind](desk.pool)
        desk.run()
        assert future.done()
        future.exception(0)
        del future

    one()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            one()
        for worker in desk.workers:  # as before parking
            worker.item = worker.fn = None
        found = gc.collect()
    finally:
        gc.enable()
    assert found < 10, f"{found} objects in cycles after 10 tasks"


def test_interrupted_waits_leave_nothing_on_what_they_waited_for(desk: Desk) -> None:
    shared: Any = Future()

    async def waiter() -> None:
        await fairpool.shield(shared)

    for _ in range(100):
        task = desk.pool.submit(waiter)
        desk.run()
        assert task.cancel()
        desk.run()
        assert task.cancelled()
    assert not shared.done()
    assert len(shared._status) < 20, "callbacks pile up"


def test_edges_are_gone_when_all_is_done(desk: Desk) -> None:
    async def wait_for(future: Any) -> None:
        await future

    future: Future[int] = Future()
    tasks = [desk.pool.submit(wait_for, future)]
    for _ in range(10):
        tasks.append(desk.pool.submit(wait_for, tasks[-1]))
    desk.run()
    tasks[5].cancel()
    desk.run()
    assert all(task.done() for task in tasks)
    assert not waits_module.waiting_tasks


# --- the pool's end -------------------------------------------------------------------------------


def test_a_refused_coroutine_is_not_touched_if_it_was_started(desk: Desk) -> None:
    # The pool is closed between the queueing and the second look, and a thief has started it.
    class Stolen(RunQueue):
        def append(self, item: Any) -> None:
            super().append(item)
            if isinstance(item, Task):
                desk.depth = 1
                desk.step()
                desk.depth = 0
                desk.scheduler.close(RuntimeError("closed"))

    done: Future[int] = Future()

    async def child() -> int:
        return await done

    worker = desk.workers[0]
    worker.queue = Stolen()
    here.worker = worker
    try:
        task = fairpool.create_task(child())
    finally:
        here.worker = None
        worker.queue = RunQueue(worker.queue)
    done.set_result(5)
    desk.run()
    assert task.result(0) == 5


def test_what_was_not_accepted_leaves_no_coroutine(desk: Desk) -> None:
    async def child() -> None:
        raise AssertionError

    async def parent() -> str:
        desk.pool.shutdown(wait=False)
        with pytest.raises(RuntimeError):
            fairpool.create_task(child())
        with pytest.raises(RuntimeError):
            fairpool.gather(child(), child())
        return "told"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = desk.pool.submit(parent)
        desk.run()
        assert task.result(0) == "told"
        gc.collect()


@pytest.mark.parametrize("where", ["outside of a task", "with a number among them"])
def test_a_gather_that_raises_leaves_no_coroutine(where: str, desk: Desk) -> None:
    async def child() -> None:
        pass

    async def parent() -> str:
        with pytest.raises(TypeError):
            fairpool.gather(child(), 5, child())
        return "told"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if where == "outside of a task":
            with pytest.raises(RuntimeError):
                fairpool.gather(child(), child())
        else:
            task = desk.pool.submit(parent)
            desk.run()
            assert task.result(0) == "told"
        gc.collect()


def test_cancel_futures_leaves_what_was_started(desk: Desk) -> None:
    turns: list[int] = []

    async def started() -> str:
        for i in range(3):
            turns.append(i)
            await fairpool.yield_now()
        return "ended"

    first = desk.pool.submit(started)
    desk.step()
    second = desk.pool.submit(started)
    desk.pool.shutdown(wait=False, cancel_futures=True)
    desk.run()
    assert second.cancelled()
    assert first.done()
    if not first.cancelled():
        assert first.result(0) == "ended"


def test_asyncio_can_have_what_a_task_yields_afterwards(desk: Desk) -> None:
    # A future of a loop, refused here, still works there.
    async def main() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()

        async def body() -> str:
            with pytest.raises(TypeError, match="asyncio"):
                await future
            return "refused"

        def run() -> str:
            asyncio._set_running_loop(None)
            try:
                task = desk.pool.submit(body)
                desk.run()
            finally:
                asyncio._set_running_loop(loop)
            return task.result(0)

        assert run() == "refused"
        loop.call_soon(future.set_result, "fine")
        return await future

    assert asyncio.run(main()) == "fine"


# --- no memory for a continuation -----------------------------------------------------------------


async def _yields() -> None:
    await fairpool.yield_now()


async def _holds(lock: Any) -> None:
    async with lock:
        lock.submit(int)  # so that somebody waits
        await fairpool.yield_now()


async def _leaves(lock: Any) -> None:
    async with lock:
        lock.submit(int)


async def _gathers() -> list[Any]:
    await fairpool.yield_now()
    return await fairpool.gather(_yields(), fairpool.sleep(0, 1), return_exceptions=True)


def _refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """There is no memory for one of the continuations, and then there is again."""
    make = Continuation.__init__
    left = [None] * number

    def fail(continuation: Any, *args: Any) -> None:
        if left:
            left.pop()
            make(continuation, *args)
        else:
            monkeypatch.setattr(Continuation, "__init__", make)
            raise MemoryError

    monkeypatch.setattr(Continuation, "__init__", fail)


@pytest.mark.parametrize(
    "submit",
    [
        lambda pool, lock: pool.submit(_yields),
        lambda pool, lock: pool.submit(_holds, lock),
        lambda pool, lock: pool.submit(_leaves, lock),
        lambda pool, lock: pool.submit(int).then(lambda _: _yields()),
        lambda pool, lock: pool.submit(int).then(lambda _: _yields(), lock=lock),
        lambda pool, lock: lock.submit(_yields),
    ],
    ids=["task", "inside", "leaving", "link", "critical link", "section"],
)
def test_no_memory_to_suspend(
    submit: Callable[[FairPool, Any], Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The task ends with that, and holds no lock.
    with FairPool(1) as pool:
        lock = pool.lock()
        _refuse(monkeypatch, 0)
        assert isinstance(submit(pool, lock).exception(TIMEOUT), MemoryError)
        assert pool.submit(_holds, lock).exception(TIMEOUT) is None
        assert lock.acquire(timeout=TIMEOUT)
        lock.release()
    assert not pool._scheduler.suspended
    assert "cannot be suspended" in caplog.text


def test_no_memory_to_suspend_the_child_of_a_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    with FairPool(1) as pool:
        _refuse(monkeypatch, 1)  # that of the task itself is there
        results = pool.submit(_gathers).result(TIMEOUT)
    assert [type(result) for result in results] in ([MemoryError, int], [type(None), MemoryError])
