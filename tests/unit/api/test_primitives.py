"""What `Event`, `Semaphore` and `Queue` promise: order, nothing lost, nothing given twice.

The order matrices run on one worker, where the order of steps is known; the stress tests run on
several, with cancellation, and count.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from kit import TIMEOUT, WORKERS, come_true, run_on, seeds
from unit.instructions import Places, moments

from fairpool import CancelledError, FairPool, Future, create_task, gather, sleep, yield_now
from fairpool._api.event import Event
from fairpool._api.permits import Permits
from fairpool._api.queue import Queue, QueueEmpty, QueueFull, QueueShutDown
from fairpool._api.semaphore import BoundedSemaphore, Semaphore
from fairpool._core.accounts import Shares
from fairpool._core.runqueue import RunQueue


async def settle() -> None:
    """Let all tasks of a pool with one worker go on until they wait."""
    for _ in range(20):
        await yield_now()


async def ending(task: Any) -> str:
    try:
        await task
    except CancelledError:
        return "cancelled"
    except QueueShutDown:
        return "shut down"
    return "done"


# --- Event ----------------------------------------------------------------------------------------


def test_event_set_wakes_all_and_stays_set(workers: int) -> None:
    async def main() -> None:
        event = Event()
        assert not event.is_set()
        waiting = [create_task(event.wait()) for _ in range(10)]
        await yield_now()
        event.set()
        event.set()
        assert event.is_set()
        assert await gather(*waiting) == [True] * 10
        assert await event.wait() is True
        assert "[set]" in repr(event)

    run_on(workers, main)


def test_event_clear_right_after_set_still_wakes_the_waiters() -> None:
    async def main() -> None:
        event = Event()
        old = create_task(event.wait())
        await settle()
        event.set()
        event.clear()
        new = create_task(event.wait())
        await settle()
        assert (old.done(), new.done(), event.is_set()) == (True, False, False)
        event.clear()
        event.set()
        assert await new is True

    run_on(1, main)


def test_event_cancelled_wait_leaves_the_event_alone(workers: int) -> None:
    async def main() -> None:
        event = Event()
        first, second = create_task(event.wait()), create_task(event.wait())
        await come_true(lambda: event._gate.waiting() == 2)
        first.cancel()
        assert await ending(first) == "cancelled"
        assert len(event._gate) == 1  # nothing is left behind
        event.set()
        assert await ending(second) == "done"

    run_on(workers, main)


def test_event_two_clears_agree_on_one_gate() -> None:
    # What a slow `clear` stores after a faster one has gone on must not hide the gate of the
    # latter.
    event = Event()
    event.set()
    stale = event._gate
    event.clear()
    event.set()
    event.clear()
    event._gate = stale  # the slow one stores what it has read long ago
    assert not event.is_set()
    event.set()
    assert event.is_set()


def test_primitives_work_in_an_asyncio_loop_and_between_pools() -> None:
    event, semaphore, queue = Event(), Semaphore(0), Queue[int](1)

    async def there() -> int:
        await event.wait()
        await semaphore.acquire()
        return await queue.get() + await queue.get()

    async def here() -> None:
        with FairPool(1) as one, FairPool(1) as two:
            task = one.submit(there)
            two.submit(event.set)
            semaphore.release()
            await queue.put(1)
            await queue.put(2)
            assert await task == 3
            waiting = asyncio.ensure_future(queue.get())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert "getters" not in repr(queue)

    asyncio.run(here())


# --- Semaphore ------------------------------------------------------------------------------------


def test_semaphore_is_first_come_first_served() -> None:
    async def main() -> list[int]:
        semaphore = Semaphore(2)
        served: list[int] = []

        async def client(number: int) -> None:
            async with semaphore:
                served.append(number)
                await yield_now()

        await gather(*[client(number) for number in range(50)])
        assert not semaphore.locked()
        return served

    assert run_on(1, main) == list(range(50))


def test_semaphore_permit_is_handed_over_and_not_overtaken() -> None:
    async def main() -> None:
        semaphore = Semaphore(1)
        await semaphore.acquire()
        waiting = create_task(semaphore.acquire())
        await settle()
        semaphore.release()
        assert semaphore.locked()  # although the one that waited has not gone on yet
        late = create_task(semaphore.acquire())
        assert await waiting is True
        await settle()
        assert not late.done()
        semaphore.release()
        assert await late is True

    run_on(1, main)


def test_semaphore_permit_that_is_just_coming_is_not_overtaken() -> None:
    async def main() -> None:
        semaphore = Semaphore(0)
        waiting = create_task(semaphore.acquire())
        await settle()
        semaphore._permits.free.append(None)  # a `release` has come as far as `change`
        late = create_task(semaphore.acquire())
        await settle()
        assert (waiting.done(), late.done()) == (True, False)
        semaphore._permits.serve()  # it goes on
        await settle()
        assert not late.done()
        semaphore.release()
        await late

    run_on(1, main)


@pytest.mark.parametrize("order", list(itertools.permutations(["cancel", "release", "acquire"])))
def test_semaphore_order_matrix(order: tuple[str, ...]) -> None:
    """One waits; in any order: it is cancelled, a permit comes, another one joins. None is lost."""

    async def main() -> None:
        semaphore = Semaphore(0)
        victim = create_task(semaphore.acquire())
        await settle()
        other = None
        for action in order:
            if action == "cancel":
                victim.cancel()
            elif action == "release":
                semaphore.release()
            else:
                other = create_task(semaphore.acquire())
        await settle()
        assert other is not None
        granted = [task.done() and not task.cancelled() for task in (victim, other)]
        assert sum(granted) == 1
        # As in asyncio, a cancellation wins over a permit that came before the task could go on.
        assert (await ending(victim), await ending(other)) == ("cancelled", "done")
        assert semaphore.locked()
        semaphore.release()
        assert not semaphore.locked()

    run_on(1, main)


def test_semaphore_all_that_wait_are_cancelled() -> None:
    async def main() -> None:
        semaphore = Semaphore(0)
        waiting = [create_task(semaphore.acquire()) for _ in range(100)]
        await settle()
        for task in waiting:
            task.cancel()
        semaphore.release()
        await gather(*waiting, return_exceptions=True)
        assert "waiters" not in repr(semaphore)
        assert await semaphore.acquire() is True

    run_on(1, main)


def test_semaphore_arguments() -> None:
    with pytest.raises(ValueError):
        Semaphore(-1)
    with pytest.raises(TypeError):
        Semaphore(1.5)  # type: ignore[arg-type]
    assert Semaphore(0).locked()
    assert not Semaphore(10**12).locked()  # and costs nothing


def test_bounded_semaphore_refuses_one_release_too_many(workers: int) -> None:
    async def main() -> None:
        semaphore = BoundedSemaphore(2)
        with pytest.raises(ValueError):
            semaphore.release()
        async with semaphore, semaphore:
            assert semaphore.locked()
        with pytest.raises(ValueError):
            semaphore.release()

    run_on(workers, main)


# --- Queue ----------------------------------------------------------------------------------------


def test_a_permit_that_was_promised_is_out(workers: int) -> None:
    """One that waits has it from the moment of the release on, before it goes on itself."""

    async def main() -> bool:
        semaphore = BoundedSemaphore(1)
        await semaphore.acquire()
        waiting = create_task(semaphore.acquire())
        while not semaphore._permits.waiting():
            await yield_now()
        semaphore.release()
        semaphore.release()  # on behalf of the one that was let in
        assert not semaphore.locked()
        with pytest.raises(ValueError, match="more often"):
            semaphore.release()
        assert await waiting
        await semaphore.acquire()
        # One that is cancelled gives back what it was promised, if nobody else has.
        waiting = create_task(semaphore.acquire())
        while not semaphore._permits.waiting():
            await yield_now()
        semaphore.release()
        semaphore.release()
        waiting.cancel()
        # With several workers it may have gone on already; then that was its own permit.
        with pytest.raises(CancelledError) if workers == 1 else contextlib.suppress(CancelledError):
            await waiting
        await semaphore.acquire()
        return semaphore.locked()

    with FairPool(workers) as pool:
        assert pool.submit(main).result(TIMEOUT)


def test_queue_is_fifo_and_bounded() -> None:
    async def main() -> None:
        queue: Queue[int] = Queue(2)
        assert (queue.maxsize, queue.empty(), queue.full()) == (2, True, False)
        queue.put_nowait(1)
        await queue.put(2)
        assert (queue.qsize(), queue.full()) == (2, True)
        with pytest.raises(QueueFull):
            queue.put_nowait(3)
        putters = [create_task(queue.put(number)) for number in (3, 4, 5)]
        await settle()
        assert "putters=3" in repr(queue)
        assert [await queue.get() for _ in range(5)] == [1, 2, 3, 4, 5]
        await gather(*putters)
        with pytest.raises(QueueEmpty):
            queue.get_nowait()

    run_on(1, main)


def test_queue_serves_getters_in_the_order_of_coming() -> None:
    async def main() -> None:
        queue: Queue[int] = Queue()
        served: list[tuple[int, int]] = []

        async def getter(number: int) -> None:
            served.append((number, await queue.get()))

        getters = [create_task(getter(number)) for number in range(10)]
        await settle()
        for number in range(10):
            queue.put_nowait(number)
        # All are promised to those that wait.
        assert queue.empty()
        with pytest.raises(QueueEmpty):
            queue.get_nowait()
        await gather(*getters)
        assert served == [(number, number) for number in range(10)]

    run_on(1, main)


@pytest.mark.parametrize("order", list(itertools.permutations(["cancel", "put", "get"])))
def test_queue_get_order_matrix(order: tuple[str, ...]) -> None:
    async def main() -> None:
        queue: Queue[str] = Queue()
        victim = create_task(queue.get())
        await settle()
        other = None
        for action in order:
            if action == "cancel":
                victim.cancel()
            elif action == "put":
                queue.put_nowait("item")
            else:
                other = create_task(queue.get())
        assert other is not None
        assert await ending(victim) == "cancelled"
        assert await other == "item"
        assert queue.empty()

    run_on(1, main)


@pytest.mark.parametrize("order", list(itertools.permutations(["cancel", "get", "put"])))
def test_queue_put_order_matrix(order: tuple[str, ...]) -> None:
    async def main() -> None:
        queue: Queue[str] = Queue(1)
        queue.put_nowait("first")
        victim = create_task(queue.put("never"))
        await settle()
        other = None
        for action in order:
            if action == "cancel":
                victim.cancel()
            elif action == "get":
                assert queue.get_nowait() == "first"
            else:
                other = create_task(queue.put("second"))
        assert other is not None
        assert await ending(victim) == "cancelled"
        await other
        assert queue.get_nowait() == "second"
        assert queue.empty()
        assert not queue.full()

    run_on(1, main)


def test_queue_join_waits_for_every_task_done(workers: int) -> None:
    async def main() -> None:
        queue: Queue[int] = Queue()
        await queue.join()  # nothing to wait for
        done: list[int] = []

        async def consumer() -> None:
            while True:
                done.append(await queue.get())
                await yield_now()
                queue.task_done()

        consumers = [create_task(consumer()) for _ in range(3)]
        for number in range(100):
            await queue.put(number)
        await queue.join()
        assert sorted(done) == list(range(100))
        for task in consumers:
            task.cancel()
        assert [await ending(task) for task in consumers] == ["cancelled"] * 3
        with pytest.raises(ValueError):
            queue.task_done()

    run_on(workers, main)


class ScriptedRunQueue(RunQueue):
    """Runs the next line of its script right after a look at it."""

    script: list[Callable[[], object]]

    def holds_work(self) -> bool:
        answer = super().holds_work()
        if self.script:
            self.script.pop(0)()
        return answer


def test_queue_join_is_not_woken_by_a_moment_before_it_came() -> None:
    """All was done for a moment, seen late: who joined after the next `put` must wait."""
    queue: Queue[int] = Queue()
    queue.put_nowait(1)
    queue.get_nowait()
    with FairPool(1) as pool:
        joining: list[Any] = []

        def put_and_join() -> None:
            queue.put_nowait(2)
            joining.append(pool.submit(queue.join))
            while len(queue._joiners) < 2:
                time.sleep(0)

        early: Future[None] = Future()
        queue._joiners.append(early)  # 1. a task waits
        queue._unfinished = scripted = ScriptedRunQueue(queue._unfinished)
        queue._joiners.unfinished = scripted
        scripted.script = [lambda: None]  # the look before any task is taken up
        # 2. `task_done` takes the last item off, and sees that; 3. another one comes, and a joiner
        scripted.script += [put_and_join]
        queue.task_done()
        assert early.done()
        assert len(queue._joiners) == 1
        queue.get_nowait()
        queue.task_done()
        joining[0].result(TIMEOUT)


def test_queue_join_that_meets_the_last_task_done_returns() -> None:
    queue: Queue[int] = Queue()
    queue.put_nowait(1)
    queue.get_nowait()
    queue._unfinished = scripted = ScriptedRunQueue(queue._unfinished)
    queue._joiners.unfinished = scripted
    scripted.script = [queue.task_done]  # after the first look of `join`, before it is in the line
    with FairPool(1) as pool:
        pool.submit(queue.join).result(TIMEOUT)


def test_queue_shutdown_lets_the_items_out_first(workers: int) -> None:
    async def main() -> None:
        queue: Queue[int] = Queue(2)
        queue.put_nowait(1)
        queue.put_nowait(2)
        putter = create_task(queue.put(3))
        await come_true(lambda: "putters=1" in repr(queue))
        queue.shutdown()
        assert await ending(putter) == "shut down"
        with pytest.raises(QueueShutDown):
            queue.put_nowait(4)
        with pytest.raises(QueueShutDown):
            await queue.put(4)
        assert queue.qsize() == 2
        assert [await queue.get(), queue.get_nowait()] == [1, 2]
        with pytest.raises(QueueShutDown):
            await queue.get()
        with pytest.raises(QueueShutDown):
            queue.get_nowait()
        queue.task_done()
        queue.task_done()
        await queue.join()

    run_on(workers, main)


def test_queue_shutdown_wakes_getters_and_immediate_drops_items(workers: int) -> None:
    async def main() -> None:
        queue: Queue[int] = Queue()
        getters = [create_task(queue.get()) for _ in range(3)]
        await come_true(lambda: "getters=3" in repr(queue))
        queue.shutdown()
        queue.shutdown()
        assert [await ending(task) for task in getters] == ["shut down"] * 3

        queue = Queue()
        queue.put_nowait(1)
        queue.get_nowait()
        queue.put_nowait(2)
        joining = create_task(queue.join())
        await yield_now()
        queue.shutdown(immediate=True)
        assert not joining.done()
        with pytest.raises(QueueShutDown):
            queue.get_nowait()
        queue.task_done()
        await joining

    run_on(workers, main)


def test_queue_put_that_meets_a_shutdown_keeps_its_item() -> None:
    # `put_in`, the shutdown, `see_shut`, and nobody takes the item: `put` fails, nothing is left.
    queue: Queue[int] = Queue()

    class Ready(Permits):
        def give(self) -> None:
            queue.shutdown()
            super().give()

    queue._ready = Ready(0)
    with pytest.raises(QueueShutDown):
        queue.put_nowait(1)
    assert queue.empty()
    with pytest.raises(QueueShutDown):
        queue.get_nowait()
    with pytest.raises(ValueError):
        queue.task_done()
    assert not queue._items
    assert not queue._taken_back


def test_queue_arguments() -> None:
    with pytest.raises(TypeError):
        Queue("3")  # type: ignore[arg-type]
    queue: Queue[int] = Queue(-1)
    for number in range(100):
        queue.put_nowait(number)
    assert not queue.full()
    assert not Queue[int](10**12).full()


# --- several threads ------------------------------------------------------------------------------


async def cancel_some(tasks: list[Any], seed: int) -> None:
    dice = random.Random(seed)
    for task in tasks:
        if dice.random() < 0.4:
            for _ in range(dice.randrange(3)):
                await yield_now()
            task.cancel()


@pytest.mark.stress
@pytest.mark.parametrize("permits", [1, 3])
def test_stress_semaphore_loses_no_permit(permits: int) -> None:
    async def main(seed: int) -> None:
        semaphore = BoundedSemaphore(permits)
        inside: list[None] = []
        most = []

        async def client() -> None:
            for _ in range(5):
                async with semaphore:
                    inside.append(None)
                    try:
                        most.append(len(inside))
                        await yield_now()
                    finally:
                        inside.pop()

        clients = [create_task(client()) for _ in range(30)]
        await cancel_some(clients, seed)
        await gather(*clients, return_exceptions=True)
        assert max(most, default=0) <= permits
        assert not inside
        for _ in range(permits):
            assert not semaphore.locked()
            await semaphore.acquire()
        assert semaphore.locked()

    with FairPool(WORKERS) as pool:
        for seed in seeds():
            pool.submit(main, seed).result(TIMEOUT)


@pytest.mark.stress
def test_stress_event_wakes_everybody() -> None:
    async def main(seed: int) -> None:
        event = Event()
        stop: list[None] = []

        async def client() -> int:
            for _ in range(5):
                assert await event.wait() is True
                await yield_now()
            return 1

        async def flicker() -> None:
            while not stop:
                event.set()
                event.clear()
                await yield_now()

        clients = [create_task(client()) for _ in range(20)]
        flickers = [create_task(flicker()) for _ in range(2)]
        await cancel_some(clients, seed)
        answers = await gather(*clients, return_exceptions=True)
        assert all(answer == 1 or isinstance(answer, CancelledError) for answer in answers)
        stop.append(None)
        await gather(*flickers)
        assert not event.is_set()

    with FairPool(WORKERS) as pool:
        for seed in seeds():
            pool.submit(main, seed).result(TIMEOUT)


@pytest.mark.stress
@pytest.mark.parametrize("maxsize", [0, 1, 3])
@pytest.mark.parametrize("immediate", [False, True])
def test_stress_queue_delivers_each_item_once(maxsize: int, immediate: bool) -> None:
    async def main(seed: int) -> None:
        queue: Queue[tuple[int, int]] = Queue(maxsize)
        accepted: list[tuple[int, int]] = []
        got: list[tuple[int, int]] = []
        joined: list[None] = []

        async def producer(number: int) -> None:
            for step in range(10):
                await queue.put((number, step))
                accepted.append((number, step))
                if step % 3 == 0:
                    await yield_now()

        async def consumer() -> None:
            try:
                while True:
                    got.append(await queue.get())  # not cancelled in between
                    queue.task_done()
            except QueueShutDown:
                pass

        async def shut() -> None:
            dice = random.Random(seed)
            for _ in range(dice.randrange(60)):
                await yield_now()
            queue.shutdown(immediate)

        producers = [create_task(producer(number)) for number in range(6)]
        consumers = [create_task(consumer()) for _ in range(6)]
        shutting = create_task(shut()) if seed % 2 else None
        await cancel_some(producers + consumers[1:], seed)
        await gather(*producers, return_exceptions=True)
        if shutting is not None:
            await shutting
        else:
            await queue.join()
            joined.append(None)
            queue.shutdown()
        await gather(*consumers, return_exceptions=True)
        await queue.join()
        assert queue.empty()
        counts = Counter(got)
        assert not counts or max(counts.values()) == 1
        if joined or not immediate:
            assert counts.keys() >= set(accepted)
            # Accepted, but its producer was cancelled before it could say so: at most one each.
            assert len(counts) - len(accepted) <= len(producers)
        for number in range(6):  # one producer's items leave in their order
            assert [step for who, step in accepted if who == number] == list(
                range(sum(who == number for who, _ in accepted))
            )
        for task in producers:
            error = None if task.cancelled() else task.exception()
            assert error is None or isinstance(error, QueueShutDown)

    with FairPool(WORKERS) as pool:
        for seed in seeds():
            pool.submit(main, seed).result(TIMEOUT)


@pytest.mark.stress
def test_stress_queue_one_consumer_sees_each_producers_order() -> None:
    async def main() -> None:
        queue: Queue[tuple[int, int]] = Queue(2)

        async def producer(number: int) -> None:
            for step in range(20):
                await queue.put((number, step))

        producers = [create_task(producer(number)) for number in range(4)]
        got = [await queue.get() for _ in range(80)]
        await gather(*producers)
        for number in range(4):
            assert [step for who, step in got if who == number] == list(range(20))

    with FairPool(WORKERS) as pool:
        for _ in seeds():
            pool.submit(main).result(TIMEOUT)


@pytest.mark.stress
def test_stress_primitives_are_fed_from_outside() -> None:
    """Threads that no pool owns put, release and set, while tasks of two pools wait."""

    async def consume(queue: Queue[int], semaphore: Semaphore, event: Event) -> int:
        await event.wait()
        await semaphore.acquire()
        return await queue.get()

    with FairPool(2) as one, FairPool(2) as two:
        for _ in seeds():
            queue: Queue[int] = Queue()
            semaphore, event = Semaphore(0), Event()
            tasks = [
                (one, two)[number % 2].submit(consume, queue, semaphore, event)
                for number in range(20)
            ]
            for number in range(20):
                queue.put_nowait(number)
                semaphore.release()
                if number == 5:
                    event.set()
            assert sorted(task.result(TIMEOUT) for task in tasks) == list(range(20))


def test_sleeping_tasks_do_not_keep_a_permit() -> None:
    async def main() -> None:
        semaphore = Semaphore(1)

        async def hold() -> None:
            async with semaphore:
                await sleep(3600)

        holder = create_task(hold())
        await come_true(semaphore.locked)
        holder.cancel()
        assert await ending(holder) == "cancelled"
        assert not semaphore.locked()

    run_on(2, main)


# --- what ends `serve` before its time ------------------------------------------------------------


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.thread_unsafe(reason="watches all instructions")
@pytest.mark.parametrize("gives_up", [False, True])
def test_an_interrupt_anywhere_in_a_release_stops_no_later_one(gives_up: bool) -> None:
    # The interrupted release may be lost, with the task that it would have woken. The others serve.
    for moment in moments(interrupts=True, places=Places()):
        semaphore = Semaphore(0)
        permits = semaphore._permits
        waiters: list[Future[Any]] = [Future() for _ in range(3)]
        permits.extend(waiters)
        if gives_up:
            waiters[0].cancel()
            waiters[1].cancel()
            permits.given_up += [None, None]  # the queue is swept
        with contextlib.suppress(KeyboardInterrupt), moment.do(interrupt):
            semaphore.release()
        last: Future[Any] = Future()
        permits.append(last)
        for _ in range(4):
            semaphore.release()
        try:
            assert last.result(TIMEOUT) is True
        except TimeoutError:
            raise AssertionError(moment) from None


@pytest.mark.thread_unsafe(reason="watches all instructions")
def test_an_interrupt_anywhere_in_settle_leaves_the_token() -> None:
    for moment in moments(interrupts=True, places=Places()):
        shares = Shares()
        with contextlib.suppress(KeyboardInterrupt), moment.do(interrupt):
            shares.settle([], 0)
        assert shares.token == [None], moment


@pytest.mark.parametrize("error", [KeyboardInterrupt, RecursionError, MemoryError])
def test_an_error_in_serve_loses_no_wake_up_of_another_thread(error: type[BaseException]) -> None:
    class Failing(Permits):
        __slots__ = ("fails",)

        def hand_out(self) -> None:
            if not self.fails:
                super().hand_out()
                return
            self.fails = False
            # It finds `idle` taken, and relies on the look after `let_in`.
            other = threading.Thread(target=self.give)
            other.start()
            other.join(TIMEOUT)
            raise error

        def offers(self) -> bool:
            return self.fails or super().offers()

    permits = Failing(0)
    permits.fails = True
    waiter: Future[Any] = Future()
    permits.append(waiter)
    with pytest.raises(error):
        permits.serve()
    assert waiter.result(TIMEOUT) is True


def test_an_error_in_serve_is_raised_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(Permits):
        __slots__ = ()

        def hand_out(self) -> None:
            raise KeyboardInterrupt

    def fail(function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("fairpool._tasks.waitlist.start_new_thread", fail)
    permits = Failing(1)
    permits.append(Future())
    with pytest.raises(KeyboardInterrupt):
        permits.serve()
    assert permits.idle == [None]
