"""What `TaskGroup` and `timeout` promise: asyncio's meaning, and no request that comes too late."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import warnings
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from kit import TIMEOUT, WORKERS, run_on, seeds

import fairpool
from fairpool import (
    CancelledError,
    DeadlockError,
    FairPool,
    Future,
    create_task,
    current_task,
    gather,
    sleep,
    yield_now,
)
from fairpool._api.event import Event
from fairpool._api.taskgroup import TaskGroup
from fairpool._api.timeout import Timeout, timeout, timeout_at
from fairpool._core.threads import monotonic

LONG = 3600.0  # a sleep that is always cut off


async def nothing_comes_later() -> None:
    """No request was left behind that would be thrown at one of these."""
    task = current_task()
    assert task is not None
    assert task.cancelling() == 0
    await yield_now()
    await sleep(0.001)
    future: Future[int] = Future()
    waiting = create_task(_bring(future))
    assert await future == 1
    await waiting


async def _bring(future: Future[int]) -> None:
    future.set_result(1)


class Oops(Exception):
    pass


async def fail_with(error: BaseException) -> None:
    raise error


async def fail_after(event: Event, error: BaseException) -> None:
    await event.wait()
    raise error


class Witness:
    """A coroutine that sleeps for long, and tells how it was ended."""

    def __init__(self) -> None:
        self.started = Event()
        self.ended: list[str] = []

    async def run(self) -> None:
        self.started.set()
        try:
            await sleep(LONG)
        except CancelledError:
            self.ended.append("cancelled")
            raise
        finally:
            self.ended.append("ended")


# --- TaskGroup: the plain case --------------------------------------------------------------------


def test_group_waits_for_its_tasks(workers: int) -> None:
    async def main() -> None:
        async def child(number: int) -> int:
            await yield_now()
            return number

        async with TaskGroup() as group:
            tasks = [group.create_task(child(number)) for number in range(20)]
            assert "entered" in repr(group)
        assert all(task.done() for task in tasks)
        assert [task.result() for task in tasks] == list(range(20))
        assert "finished" in repr(group)
        await nothing_comes_later()

    run_on(workers, main)


def test_group_empty() -> None:
    async def main() -> None:
        async with TaskGroup():
            pass
        await nothing_comes_later()

    run_on(1, main)


def test_group_children_may_add_to_the_group(workers: int) -> None:
    async def main() -> int:
        count: list[None] = []

        async def child(depth: int) -> None:
            count.append(None)
            if depth:
                for _ in range(2):
                    group.create_task(child(depth - 1))
                    await yield_now()

        async with TaskGroup() as group:
            group.create_task(child(6))
        return len(count)

    assert run_on(workers, main) == 2**7 - 1


def test_group_task_has_name_and_context() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="none")

    async def child() -> str:
        return variable.get()

    async def main() -> None:
        variable.set("main")
        other = copy_context()
        other.run(variable.set, "other")
        async with TaskGroup() as group:
            first = group.create_task(child(), name="first")
            second = group.create_task(child(), context=other)
        assert first.get_name() == "first"
        assert (first.result(), second.result()) == ("main", "other")

    run_on(1, main)


# --- TaskGroup: failing ---------------------------------------------------------------------------


def test_group_first_failure_cancels_the_others_and_the_body(workers: int) -> None:
    async def main() -> None:
        witness = Witness()
        body: list[str] = []
        with pytest.raises(ExceptionGroup) as caught:
            async with TaskGroup() as group:
                group.create_task(witness.run())
                await witness.started.wait()
                group.create_task(fail_with(Oops("one")))
                try:
                    await sleep(LONG)
                except CancelledError:
                    body.append("cancelled")
                    raise
        assert [repr(error) for error in caught.value.exceptions] == ["Oops('one')"]
        assert witness.ended == ["cancelled", "ended"]
        assert body == ["cancelled"]
        await nothing_comes_later()

    run_on(workers, main)


def test_group_collects_errors_of_children_and_body(workers: int) -> None:
    async def cleanup(started: Event) -> None:
        try:
            started.set()
            await sleep(LONG)
        finally:
            raise Oops("cleanup")

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with TaskGroup() as group:
                started = Event()
                group.create_task(cleanup(started))
                await started.wait()
                raise Oops("body")
        errors = [str(error) for error in caught.value.exceptions]
        assert errors == ["cleanup", "body"]
        await nothing_comes_later()

    run_on(workers, main)


def test_group_body_error_alone_is_in_a_group_too(workers: int) -> None:
    async def main() -> None:
        witness = Witness()
        with pytest.raises(ExceptionGroup) as caught:
            async with TaskGroup() as group:
                group.create_task(witness.run())
                await witness.started.wait()
                raise Oops("body")
        assert len(caught.value.exceptions) == 1
        assert witness.ended == ["cancelled", "ended"]
        await nothing_comes_later()

    run_on(workers, main)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["child", "body"])
def test_group_base_errors_are_raised_as_themselves(kind: type[BaseException], where: str) -> None:
    async def main() -> None:
        witness = Witness()
        with pytest.raises(kind):
            async with TaskGroup() as group:
                group.create_task(witness.run())
                await witness.started.wait()
                if where == "body":
                    raise kind
                group.create_task(fail_with(kind()))
                await sleep(LONG)
        assert witness.ended == ["cancelled", "ended"]
        await nothing_comes_later()

    run_on(2, main)


def test_group_child_that_is_cancelled_by_itself_harms_nobody(workers: int) -> None:
    async def main() -> None:
        witness = Witness()
        async with TaskGroup() as group:
            task = group.create_task(witness.run())
            await witness.started.wait()
            task.cancel()
        assert task.cancelled()
        await nothing_comes_later()

    run_on(workers, main)


def test_group_nested(workers: int) -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with TaskGroup() as outer:
                outer.create_task(sleep(LONG))
                async with TaskGroup() as inner:
                    inner.create_task(sleep(LONG))
                    inner.create_task(fail_with(Oops("inner")))
        (group,) = caught.value.exceptions
        assert isinstance(group, ExceptionGroup)
        assert [str(error) for error in group.exceptions] == ["inner"]
        await nothing_comes_later()

    run_on(workers, main)


def test_group_outer_child_fails_while_in_inner_group(workers: int) -> None:
    async def main() -> None:
        event = Event()
        with pytest.raises(ExceptionGroup) as caught:
            async with TaskGroup() as outer:
                outer.create_task(fail_after(event, Oops("outer")))
                async with TaskGroup() as inner:
                    witness = Witness()
                    inner.create_task(witness.run())
                    await witness.started.wait()
                    event.set()
        assert [str(error) for error in caught.value.exceptions] == ["outer"]
        assert witness.ended == ["cancelled", "ended"]
        await nothing_comes_later()

    run_on(workers, main)


# --- TaskGroup: cancelling ------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["body", "end"])
def test_group_cancelling_the_parent_cancels_the_children(workers: int, where: str) -> None:
    async def main() -> None:
        witnesses = [Witness() for _ in range(5)]

        async def parent() -> None:
            async with TaskGroup() as group:
                for witness in witnesses:
                    group.create_task(witness.run())
                if where == "body":
                    await sleep(LONG)

        task = create_task(parent())
        for witness in witnesses:
            await witness.started.wait()
        task.cancel()
        with pytest.raises(CancelledError):
            await task
        assert all(witness.ended == ["cancelled", "ended"] for witness in witnesses)

    run_on(workers, main)


def test_group_waits_for_the_cleanup_of_its_children(workers: int) -> None:
    async def main() -> None:
        cleaned: list[None] = []
        started = Event()

        async def child() -> None:
            try:
                started.set()
                await sleep(LONG)
            finally:
                await sleep(0.01)
                cleaned.append(None)

        async def parent() -> None:
            async with TaskGroup() as group:
                group.create_task(child())

        task = create_task(parent())
        await started.wait()
        task.cancel()
        task.cancel()
        with pytest.raises(CancelledError):
            await task
        assert cleaned == [None]

    run_on(workers, main)


def test_group_error_and_outside_cancellation_keep_both(workers: int) -> None:
    """As asyncio: the errors are raised, and the cancellation at the next `await`."""

    async def main() -> None:
        seen: list[str] = []
        started = Event()

        async def stubborn() -> None:
            try:
                started.set()
                await sleep(LONG)
            finally:
                raise Oops("cleanup")

        async def parent() -> None:
            try:
                async with TaskGroup() as group:
                    group.create_task(stubborn())
            except* Oops:
                seen.append("errors")
            seen.append(str(current_task().cancelling()))  # type: ignore[union-attr]
            try:
                await sleep(LONG)
            except CancelledError:
                seen.append("cancelled")
                raise

        task = create_task(parent())
        await started.wait()
        task.cancel()
        with pytest.raises(CancelledError):
            await task
        assert seen == ["errors", "1", "cancelled"]

    run_on(workers, main)


# --- TaskGroup: wrong use -------------------------------------------------------------------------


def test_group_refuses_tasks_before_and_after() -> None:
    async def main() -> None:
        group = TaskGroup()
        with pytest.raises(RuntimeError, match="enter it"):
            group.create_task(sleep(0))  # type: ignore[arg-type]
        async with group:
            with pytest.raises(TypeError, match="coroutine"):
                group.create_task(main)  # type: ignore[arg-type]
            with pytest.raises(RuntimeError, match="before"):
                await group.__aenter__()
        coro = fail_with(Oops())
        with pytest.raises(RuntimeError, match="finished"):
            group.create_task(coro)
        assert coro.cr_frame is None  # it was closed

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_on(1, main)


def test_group_refuses_tasks_while_shutting_down(workers: int) -> None:
    async def main() -> None:
        refused: list[str] = []

        started = Event()

        async def late() -> None:
            try:
                started.set()
                await sleep(LONG)
            finally:
                try:
                    group.create_task(fail_with(Oops()))
                except RuntimeError as error:
                    refused.append(str(error))

        with pytest.raises(ExceptionGroup):
            async with TaskGroup() as group:
                group.create_task(late())
                await started.wait()
                raise Oops
        assert len(refused) == 1
        assert "shutting down" in refused[0]

    run_on(workers, main)


def test_group_and_timeout_outside_of_tasks() -> None:
    async def enter(what: Any) -> None:
        async with what:
            pass

    for what in (TaskGroup(), timeout(1)):
        with pytest.raises(RuntimeError, match="tasks of a FairPool"):
            enter(what).send(None)
        with pytest.raises(RuntimeError, match="tasks of a FairPool"):
            asyncio.run(enter(what))
        # An asyncio loop in a worker is not a task of the pool.
        with FairPool(1) as pool, pytest.raises(RuntimeError, match="tasks of a FairPool"):
            pool.submit(asyncio.run, enter(what)).result(TIMEOUT)


def test_group_child_that_waits_for_the_parent_is_a_deadlock(workers: int) -> None:
    async def main() -> None:
        parents: list[Any] = []
        ready = Event()

        async def child() -> None:
            await ready.wait()
            await parents[0]

        async def parent() -> None:
            async with TaskGroup() as group:
                group.create_task(child())

        task = create_task(parent())
        parents.append(task)
        ready.set()
        with pytest.raises((ExceptionGroup, CancelledError)) as caught:
            await task
        if isinstance(caught.value, ExceptionGroup):
            assert any(isinstance(error, DeadlockError) for error in caught.value.exceptions)

    for _ in range(20):
        run_on(workers, main)


def test_group_of_a_closed_coroutine_does_not_wait() -> None:
    async def main() -> None:
        async def parent() -> None:
            async with TaskGroup() as group:
                children.append(group.create_task(sleep(LONG)))  # type: ignore[arg-type]
                await future

        children: list[Any] = []
        future: Future[None] = Future()
        coro = parent()
        coro.send(None)
        coro.close()
        with pytest.raises(CancelledError):
            await children[0]

    run_on(2, main)


def test_group_that_is_about_to_finish_waits_for_a_task_that_was_just_added() -> None:
    """`create_task` on a foreign thread comes between the look for children and `close`."""
    ended: list[None] = []

    async def late() -> None:
        await sleep(0.001)
        ended.append(None)

    class Closed(list[str]):
        def append(self, reason: str) -> None:
            if script:
                script.pop()()
            super().append(reason)

    async def main() -> None:
        async with TaskGroup() as group:
            group._closed = Closed()
            script.append(lambda: group.create_task(late()))
        assert ended == [None]
        assert "finished" in repr(group)

    script: list[Callable[[], object]] = []
    run_on(1, main)


def test_group_whose_last_child_ends_just_before_it_waits() -> None:
    """The last child's `wake` comes between the parent's look for children and its `enqueue`."""

    async def main() -> None:
        class WaitingParent(type(TaskGroup()._waiting_parent)):  # type: ignore[misc]
            def append(self, completion: Any) -> None:
                ending.set()
                while group._children:
                    time.sleep(0)
                super().append(completion)

        async with TaskGroup() as group:
            group._waiting_parent = WaitingParent(group._children)
            ending = Event()
            group.create_task(fail_after(ending, CancelledError()))

    run_on(2, main)


# --- timeout --------------------------------------------------------------------------------------


def test_timeout_cuts_off(workers: int) -> None:
    async def main() -> None:
        start = monotonic()
        with pytest.raises(TimeoutError) as caught:
            async with timeout(0.02) as limit:
                await sleep(LONG)
        assert monotonic() - start >= 0.02
        assert isinstance(caught.value.__cause__, CancelledError)
        assert limit.expired()
        assert "expired" in repr(limit)
        await nothing_comes_later()

    run_on(workers, main)


def test_timeout_that_is_not_needed(workers: int) -> None:
    async def main() -> None:
        for _ in range(100):
            async with timeout(LONG) as limit:
                await yield_now()
            assert not limit.expired()
        async with timeout(None) as limit:
            assert limit.when() is None
        async with timeout(float("inf")) as limit:
            await sleep(0.001)
        with pytest.raises(RuntimeError, match="finished"):
            limit.reschedule(1)
        await nothing_comes_later()

    run_on(workers, main)


@pytest.mark.parametrize("delay", [0, -1])
def test_timeout_in_the_past_is_raised_at_the_first_wait(delay: float) -> None:
    async def main() -> None:
        steps: list[str] = []
        with pytest.raises(TimeoutError):
            async with timeout(delay):
                steps.append("body")
                await yield_now_and_wait()
                steps.append("never")
        assert steps == ["body"]
        async with timeout_at(monotonic() - 1) as limit:
            pass  # nothing to cut off
        assert limit.expired()
        await nothing_comes_later()

    async def yield_now_and_wait() -> None:
        await sleep(LONG)

    run_on(1, main)


def test_timeout_reschedule() -> None:
    async def main() -> None:
        async with timeout(LONG) as limit:
            limit.reschedule(None)
            assert limit.when() is None
            when = monotonic() + LONG
            limit.reschedule(when)
            assert limit.when() == when
            assert "active" in repr(limit)
        with pytest.raises(TimeoutError):
            async with timeout(None) as limit:
                limit.reschedule(monotonic() + 0.01)
                await sleep(LONG)
        with pytest.raises(TimeoutError):
            async with timeout(LONG) as limit:
                limit.reschedule(0)
                with pytest.raises(RuntimeError, match="expiring"):
                    limit.reschedule(LONG)
                await sleep(LONG)
        with pytest.raises(RuntimeError, match="created"):
            timeout(1).reschedule(2)
        await nothing_comes_later()

    run_on(1, main)


def test_timeout_nested(workers: int) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with timeout(0.01) as outer, timeout(LONG) as inner:
                await sleep(LONG)
        assert (outer.expired(), inner.expired()) == (True, False)
        async with timeout(LONG) as outer:
            with pytest.raises(TimeoutError):
                async with timeout(0.01) as inner:
                    await sleep(LONG)
            await nothing_comes_later()
        assert (outer.expired(), inner.expired()) == (False, True)
        # Both at once: the outer one is what is told.
        with pytest.raises(TimeoutError):
            async with timeout(0) as outer:
                try:
                    async with timeout(0) as inner:
                        await sleep(LONG)
                except TimeoutError:
                    pytest.fail("the inner timeout hides the outer one")
        assert (outer.expired(), inner.expired()) == (True, True)
        await nothing_comes_later()

    run_on(workers, main)


def test_timeout_and_outside_cancellation(workers: int) -> None:
    async def main() -> None:
        inside = Event()

        async def victim() -> None:
            async with timeout(LONG):
                inside.set()
                await sleep(LONG)

        task = create_task(victim())
        await inside.wait()
        task.cancel()
        with pytest.raises(CancelledError):
            await task

    run_on(workers, main)


def test_timeout_own_error_of_the_block_tells_that_it_was_a_timeout() -> None:
    async def main() -> None:
        with pytest.raises(Oops) as caught:
            async with timeout(0):
                try:
                    await sleep(LONG)
                except CancelledError:
                    raise Oops
        assert isinstance(caught.value.__context__, TimeoutError)
        await nothing_comes_later()

    run_on(1, main)


def test_timeout_cancels_what_is_awaited(workers: int) -> None:
    async def main() -> None:
        witness = Witness()
        task = create_task(witness.run())
        await witness.started.wait()
        with pytest.raises(TimeoutError):
            async with timeout(0.01):
                await task
        assert task.cancelled()
        assert witness.ended == ["cancelled", "ended"]

    run_on(workers, main)


def test_timeout_of_a_group(workers: int) -> None:
    async def main() -> None:
        witnesses = [Witness() for _ in range(5)]
        with pytest.raises(TimeoutError):
            async with timeout(LONG) as limit, TaskGroup() as group:
                for witness in witnesses:
                    group.create_task(witness.run())
                for witness in witnesses:
                    await witness.started.wait()
                limit.reschedule(monotonic() + 0.005)
        assert all(witness.ended == ["cancelled", "ended"] for witness in witnesses)
        await nothing_comes_later()

    run_on(workers, main)


def test_timeout_arguments() -> None:
    for wrong in ("1", [1]):
        with pytest.raises(TypeError):
            timeout(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            timeout_at(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        timeout(float("nan"))

    async def twice() -> None:
        limit = timeout(1)
        async with limit:
            pass
        async with limit:
            pass

    with pytest.raises(RuntimeError, match="before"):
        run_on(1, twice)


def test_timeout_block_waits_for_a_deadline_that_is_just_coming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The deadline has won, but its request is not there yet when the block is left."""
    real = fairpool._api.timeout.interrupt
    decided, left = threading.Event(), threading.Event()

    def late(*args: Any) -> None:
        decided.set()  # 1. the timer thread has popped `_undecided`
        assert left.wait(TIMEOUT)  # 3. the block is being left, and waits
        real(*args)

    monkeypatch.setattr(fairpool._api.timeout, "interrupt", late)
    limits: list[Timeout] = []

    async def main() -> str:
        async with timeout(0.01) as limit:
            limits.append(limit)
            assert decided.wait(TIMEOUT)  # 2. a step that is running at the deadline
        assert limit.expired()
        await nothing_comes_later()
        return "unharmed"

    with FairPool(2) as pool:
        task = pool.submit(main)
        assert decided.wait(TIMEOUT)
        while type(limits[0]._landed._status) is list and len(limits[0]._landed._status) < 2:
            time.sleep(0)
        left.set()
        assert task.result(TIMEOUT) == "unharmed"


# --- several threads ------------------------------------------------------------------------------


@pytest.mark.stress
def test_stress_timeout_leaves_no_request_behind() -> None:
    """Deadlines that come about when the block is left: they are told or not, and that is all."""
    outcomes = {"in time": 0, "too late": 0, "late but done": 0}

    async def client(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(20):
            spin = dice.random() * 2e-4
            try:
                async with timeout(dice.random() * 2e-4) as limit:
                    end = monotonic() + spin
                    while monotonic() < end:
                        pass
                    if dice.random() < 0.5:
                        await yield_now()
            except TimeoutError:
                assert limit.expired()
                outcomes["too late"] += 1
            else:
                outcomes["late but done" if limit.expired() else "in time"] += 1
            task = current_task()
            assert task is not None
            assert task.cancelling() == 0
            future: Future[int] = Future()
            await gather(_bring(future))
            assert await future == 1

    with FairPool(WORKERS) as pool:
        for seed in seeds():
            for task in [pool.submit(client, seed * 8 + number) for number in range(8)]:
                task.result(TIMEOUT)
    assert all(outcomes.values()), outcomes  # the race was met


@pytest.mark.stress
def test_stress_timeout_against_cancellation() -> None:
    """Of a time-out and a cancellation at the same time, the cancellation is not lost."""

    async def victim(delay: float, started: Event) -> str:
        try:
            started.set()
            try:
                async with timeout(delay):
                    await sleep(LONG)
            except TimeoutError:
                await sleep(LONG)
        except CancelledError:
            return "cancelled"
        return "lost"

    async def main(seed: int) -> None:
        dice = random.Random(seed)
        started = [Event() for _ in range(10)]
        tasks = [create_task(victim(dice.random() * 3e-4, event)) for event in started]
        for event, task in zip(started, tasks, strict=True):
            await event.wait()
            end = monotonic() + dice.random() * 1e-4
            while monotonic() < end:
                pass
            task.cancel()
        assert await gather(*tasks) == ["cancelled"] * 10

    with FairPool(WORKERS) as pool:
        for seed in seeds():
            pool.submit(main, seed).result(TIMEOUT)


@pytest.mark.stress
def test_stress_group_ends_whatever_happens() -> None:
    """Children that return, fail, sleep, or add others; parents that are cut off, or cancelled."""

    async def main(seed: int) -> None:
        dice = random.Random(seed)
        running: list[None] = []

        async def child(kind: int) -> None:
            running.append(None)
            try:
                if kind == 1:
                    await yield_now()
                elif kind == 2:
                    await sleep(0.0005)
                elif kind == 3:
                    await sleep(LONG)
                elif kind == 4:
                    raise Oops
                elif kind == 5:
                    await yield_now()
                    raise Oops
            finally:
                running.pop()

        async def grow(group: TaskGroup, kinds: list[int]) -> None:
            for kind in kinds:
                try:
                    group.create_task(child(kind))
                except RuntimeError as error:
                    if "shutting down" not in str(error):
                        raise
                await yield_now()

        async def parent(kinds: list[int], delay: float, number: int) -> str:
            try:
                async with timeout(delay), TaskGroup() as group:
                    group.create_task(grow(group, kinds[:3]))
                    await grow(group, kinds[3:])
                outcome = "done"
            except* Oops:
                outcome = "failed"
            except* TimeoutError:
                outcome = "timeout"
            if number % 3:  # else it is cancelled from outside, perhaps just now
                await nothing_comes_later()
            return outcome

        plans = [
            ([dice.choice([0, 1, 2, 3, 3, 4, 5, 0, 1, 2]) for _ in range(8)], dice.random() * 4e-3)
            for _ in range(6)
        ]
        parents = [create_task(parent(*plan, number)) for number, plan in enumerate(plans)]
        for task in parents[::3]:
            for _ in range(dice.randrange(5)):
                await yield_now()
            task.cancel()
        outcomes = await gather(*parents, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            cancelled = number % 3 == 0 and isinstance(outcome, CancelledError)
            assert cancelled or outcome in ("done", "failed", "timeout"), outcome
        assert not running

    with FairPool(WORKERS) as pool:
        for seed in seeds():
            pool.submit(main, seed).result(TIMEOUT)


@pytest.mark.stress
def test_stress_group_takes_tasks_from_other_threads_or_refuses() -> None:
    """`create_task` on a thread that is no child, against the end of the group: run, or refused."""

    async def parent(started: threading.Event) -> None:
        async with TaskGroup() as group:
            groups.append(group)
            started.set()
            for _ in range(3):
                await yield_now()
        ended.append(len(ran))

    async def child() -> None:
        ran.append(None)

    with FairPool(2) as pool:
        for _ in seeds():
            groups: list[TaskGroup] = []
            ran: list[None] = []
            ended: list[int] = []
            started = threading.Event()
            task = pool.submit(parent, started)
            assert started.wait(TIMEOUT)
            taken = 0
            while True:
                try:
                    groups[0].create_task(child())
                except RuntimeError as error:
                    if "finished" not in str(error):
                        raise
                    break
                taken += 1
            task.result(TIMEOUT)
            assert ended[0] == len(ran) == taken
