"""What the explorer runs: small programs, each about one meeting of two or three threads.

A scenario raises if something went wrong. That something hangs is found by the explorer: so no
scenario has a time-out, and none ends a pool before it has waited for what it submitted.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from asyncio import CancelledError as TaskCancelled
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import fairpool
import fairpool._scheduler.scheduler
from fairpool import FairPool, Future, Task
from fairpool._core import timer as timer_module
from fairpool._core.here import here
from fairpool._scheduler.caller import Helper

# So long that it never comes: an idle time-out would find what a lost wake-up has left lying.
NEVER = 1e6


@contextmanager
def pool_of(workers: int, **options: Any) -> Iterator[FairPool]:
    """A pool, and at its end a look whether all is at rest. Threads that wait are lent."""
    options.setdefault("idle_timeout", NEVER)
    options.setdefault("lend", True)
    pool = FairPool(workers, **options)
    with pool:
        yield pool
    scheduler = pool._scheduler
    parking = scheduler.parking
    assert len(parking.free_slots) - len(parking.overcommits) == scheduler.slot_count, "slots"
    assert not parking.parked, "a worker is parked"
    assert not parking.searching, "a worker is searching"
    assert not scheduler.has_work(), "work is left"
    assert not scheduler.suspended, "a coroutine is left"
    assert not scheduler.workers, "a worker is listed"
    assert not scheduler.threads, "a worker is on the list of threads"
    for reference in scheduler.locks:
        lock = reference()
        assert lock is None or not lock.key.locked(), "a key is not given back"
        assert lock is None or lock.owner is None, "a lock has an owner"
        assert lock is None or not lock.queue, "a request is left in its queue"


@contextmanager
def callers_of(processors: int) -> Iterator[FairPool]:
    """A pool without threads, as on a machine with so many processors."""
    before = fairpool._scheduler.scheduler.cpu_count
    fairpool._scheduler.scheduler.cpu_count = lambda: processors
    try:
        with pool_of(0) as pool:
            yield pool
    finally:
        fairpool._scheduler.scheduler.cpu_count = before


def at_once(*functions: Callable[[], object]) -> None:
    """Call each of them on a thread of its own, and the first on this one."""
    threads = [threading.Thread(target=function) for function in functions[1:]]
    for thread in threads:
        thread.start()
    functions[0]()
    for thread in threads:
        thread.join()


# --- submit, park, steal --------------------------------------------------------------------------


def submit_meets_park() -> None:
    """A task comes while the worker that has run the one before is about to park."""
    with pool_of(1) as pool:
        assert pool.submit(int).result() == 0
        assert pool.submit(int, 1).result() == 1


def two_submit() -> None:
    """Two threads submit at once."""
    with pool_of(2) as pool:

        def submit() -> None:
            assert pool.submit(int, 5).result() == 5

        at_once(submit, submit)


def both_workers_come() -> None:
    """Two tasks that need each other: the second worker must be woken as well."""
    with pool_of(2) as pool:
        for _ in range(2):
            barrier = threading.Barrier(2)
            futures = [pool.submit(barrier.wait) for _ in range(2)]
            assert sorted(future.result() for future in futures) == [0, 1]


def task_submits() -> None:
    """A task queues two that need each other, and blocks unseen until they are done."""
    with pool_of(3) as pool:
        done = threading.Semaphore(0)
        barrier = threading.Barrier(2, done.release)

        def parent() -> None:
            for _ in range(2):
                pool.submit(barrier.wait)
            done.acquire()

        pool.submit(parent).result()


def no_more_than_the_slots() -> None:
    """Never do more tasks run than the pool has slots, where none of them waits."""
    with pool_of(1) as pool:
        running = threading.Lock()

        def alone() -> None:
            assert running.acquire(False), "two at once"
            running.release()

        futures: list[Future[None]] = []

        def submit() -> None:
            futures.append(pool.submit(alone))
            futures.append(pool.submit(alone))

        at_once(submit, submit)
        for future in futures:
            future.result()


def first_come_first_served() -> None:
    """One worker runs what one thread submits in that order."""
    with pool_of(1) as pool:
        order: list[int] = []
        futures = [pool.submit(order.append, i) for i in range(3)]
        for future in futures:
            future.result()
        assert order == [0, 1, 2]


# --- futures --------------------------------------------------------------------------------------


def complete_meets_registration() -> None:
    """Callbacks, a `wait`, and a waiting thread come while a future ends."""
    future: Future[int] = Future()
    future.set_running_or_notify_cancel()
    calls: list[str] = []

    def register() -> None:
        future.add_done_callback(lambda _: calls.append("first"))
        future.add_done_callback(lambda _: calls.append("second"))
        assert future.result() == 7

    at_once(lambda: future.set_result(7), register)
    assert sorted(calls) == ["first", "second"]


def complete_meets_wait() -> None:
    """`concurrent.futures.wait` and `as_completed` look at a future while it ends."""
    future: Future[int] = Future()
    future.set_running_or_notify_cancel()

    def look() -> None:
        done, pending = concurrent.futures.wait([future])
        assert done == {future}
        assert not pending

    def look_otherwise() -> None:
        assert list(concurrent.futures.as_completed([future])) == [future]

    at_once(lambda: future.set_result(7), look, look_otherwise)


def complete_meets_as_completed() -> None:
    """`as_completed` gives each future once, whenever it ends."""
    futures: list[Future[int]] = [Future(), Future()]
    for future in futures:
        future.set_running_or_notify_cancel()

    def end() -> None:
        for future in futures:
            future.set_result(7)

    def look() -> None:
        assert set(concurrent.futures.as_completed(futures)) == set(futures)

    at_once(end, look)


def one_claim() -> None:
    """A worker, two that cancel, and one that waits: one of them gets the task."""
    with pool_of(1) as pool:
        runs: list[None] = []
        calls: list[None] = []
        answers: list[bool] = []
        task = pool.submit(runs.append, None)
        task.add_done_callback(lambda _: calls.append(None))
        at_once(lambda: answers.append(task.cancel()), lambda: answers.append(task.cancel()))
        try:
            task.result()
        except CancelledError:
            assert not runs
            assert True in answers
        else:
            assert runs == [None]
            assert answers == [False, False]
    assert calls == [None]


def wait_with_timeout() -> None:
    """A time-out and the completion come together."""
    future: Future[int] = Future()

    def end() -> None:
        time.sleep(1)
        future.set_result(1)

    def wait() -> None:
        try:
            assert future.result(timeout=1) == 1
        except TimeoutError:
            assert future.result() == 1

    at_once(wait, end)


# --- waiting in workers ---------------------------------------------------------------------------


def nested_results() -> None:
    """Tasks wait for tasks: run inline, or by another worker, never starving."""
    with pool_of(1) as pool:

        def leaf() -> int:
            return 1

        def middle() -> int:
            return pool.submit(leaf).result() + pool.submit(leaf).result()

        futures = [pool.submit(middle) for _ in range(2)]
        assert [future.result() for future in futures] == [2, 2]


def wait_for_a_running_one() -> None:
    """A task waits for one that has been started: its slot goes to another worker."""
    with pool_of(1) as pool:
        gate: Future[int] = Future()
        first = pool.submit(gate.result)
        second = pool.submit(first.result)
        pool.submit(gate.set_result, 3)
        assert second.result() == 3


def blocked_pool_starts_another() -> None:
    """Everybody blocks: what is queued then still runs."""
    with pool_of(1) as pool:
        released = threading.Semaphore(0)

        def block() -> None:
            with fairpool.blocking():
                released.acquire()

        futures = [pool.submit(block), pool.submit(block)]
        pool.submit(released.release)
        pool.submit(released.release)
        for future in futures:
            future.result()


# --- coroutines -----------------------------------------------------------------------------------


def wake_meets_suspend() -> None:
    """What a coroutine waits for comes while it is being suspended."""
    with pool_of(1) as pool:
        future: Future[int] = Future()

        async def wait() -> int:
            return await future

        task = pool.submit(wait)
        future.set_result(3)
        assert task.result() == 3


def cancel_meets_wake() -> None:
    """A coroutine is cancelled while what it waits for comes."""
    with pool_of(1) as pool:
        future: Future[int] = Future()
        stages: list[str] = []

        async def wait() -> None:
            stages.append("begun")
            try:
                await future
                stages.append("got")
            except TaskCancelled:
                stages.append("cancelled")
                raise

        task = pool.submit(wait)
        answers: list[bool] = []
        at_once(lambda: answers.append(task.cancel()), lambda: _set_if_open(future))
        try:
            task.result()
        except CancelledError:
            # False: it was in its first step, so far a plain function, and has been asked to end.
            assert answers in ([True], [False]), answers
            assert stages in ([], ["begun", "cancelled"], ["begun", "got"]), stages
        else:
            assert stages == ["begun", "got"], stages


def wrapper_is_cancelled_as_its_source_ends() -> None:
    """Another executor's future ends while its wrapper is cancelled: the wrapper ends once."""
    with pool_of(1) as pool:
        source: Any = concurrent.futures.Future()
        wrapper = fairpool.wrap_future(source)
        ends: list[bool] = []
        wrapper.add_done_callback(lambda future: ends.append(future.cancelled()))
        answers: list[bool] = []

        async def wait() -> int:
            return await wrapper

        task = pool.submit(wait)
        at_once(lambda: _set_if_open(source), lambda: answers.append(wrapper.cancel()))
        if wrapper.cancelled():
            assert source.done()
        else:
            assert answers == [False]
            assert wrapper.result() == source.result() == 1
            assert task.result() == 1
        assert ends == [wrapper.cancelled()]


def _set_if_open(future: Future[Any]) -> None:
    try:
        future.set_result(1)
    except concurrent.futures.InvalidStateError:
        pass  # it was cancelled, or is about to be


def cancel_is_not_lost() -> None:
    """A coroutine that would wait for ever is cancelled, wherever it is."""
    with pool_of(1) as pool:
        events: list[str] = []

        async def wait() -> None:
            try:
                await fairpool.Event().wait()
            finally:
                events.append("out")

        task = pool.submit(wait)
        while not task.cancel():
            time.sleep(1)
        try:
            task.result()
        except CancelledError:
            assert events in ([], ["out"])
        else:
            raise AssertionError("it went on")


def cancel_meets_first_step() -> None:
    """A coroutine is cancelled in its first step, or just when that ends."""
    with pool_of(1) as pool:
        begun = threading.Semaphore(0)

        async def wait() -> None:
            begun.release()
            await fairpool.Event().wait()

        task = pool.submit(wait)
        begun.acquire()
        assert task.cancel()
        try:
            task.result()
        except CancelledError:
            pass
        else:
            raise AssertionError("it went on")


def cancel_meets_later_step() -> None:
    """A coroutine is cancelled while it runs, or is queued, or suspended: one step at a time."""
    with pool_of(2) as pool:
        begun = threading.Semaphore(0)
        inside = threading.Lock()

        async def turns() -> None:
            for _ in range(3):
                assert inside.acquire(False), "two resumers"
                begun.release()
                inside.release()
                await fairpool.yield_now()

        task = pool.submit(turns)
        begun.acquire()
        begun.acquire()
        task.cancel()
        try:
            task.result()
        except CancelledError:
            pass


def two_wake() -> None:
    """Two wake-ups at once: one step follows."""
    with pool_of(2) as pool:
        first: Future[int] = Future()
        second: Future[int] = Future()
        inside = threading.Lock()

        async def wait() -> int:
            total = 0
            for future in (first, second):
                total += await future
                assert inside.acquire(False), "two resumers"
                inside.release()
            return total

        task = pool.submit(wait)
        at_once(lambda: second.set_result(1), lambda: first.set_result(2))
        assert task.result() == 3


def yields_are_fair() -> None:
    """Coroutines that yield are run to their end."""
    with pool_of(2) as pool:

        async def turns() -> int:
            for _ in range(2):
                await fairpool.yield_now()
            return 1

        futures = [pool.submit(turns) for _ in range(2)]
        assert sum(future.result() for future in futures) == 2


def chain_meets_completion() -> None:
    """`then` is called while its source ends."""
    with pool_of(2) as pool:
        source = pool.submit(int, 1)
        link = source.then(lambda x: x + 1).then(lambda x: pool.submit(int, x))
        assert link.result() == 2


def end_of_a_step_meets_registration() -> None:
    """Two callbacks come while a task's step ends: both are called."""
    calls: list[str] = []
    pool = FairPool(1)
    task: Task[int] = Task()
    task._pool = pool._scheduler
    task._status = [(copy_context(), int, (), None, None)]
    worker = SimpleNamespace()

    def register() -> None:
        task._register(lambda _: calls.append("first"))
        task._register(lambda _: calls.append("second"))

    at_once(lambda: task.run(worker), register)
    assert sorted(calls) == ["first", "second"], calls
    pool.shutdown()


def chain_is_cancelled() -> None:
    """A chain is cancelled while its source ends: each part runs, or is cancelled."""
    with pool_of(1) as pool:
        ran: list[int] = []
        link = pool.submit(ran.append, 1).then(lambda _: ran.append(2))
        answer = link.cancel()
        try:
            link.result()
        except CancelledError:
            assert answer
            assert ran in ([], [1])
        else:
            assert ran == [1, 2]


def gather_meets_cancel() -> None:
    """A gather is cancelled while its children end."""
    with pool_of(2) as pool:

        async def child() -> int:
            await fairpool.yield_now()
            return 1

        async def parent() -> list[int]:
            return await fairpool.gather(child(), child())

        task = pool.submit(parent)
        task.cancel()
        try:
            assert task.result() == [1, 1]
        except CancelledError:
            pass


def gather_meets_failure() -> None:
    """One child fails while the last one ends."""
    with pool_of(2) as pool:

        async def fails() -> None:
            raise KeyError

        async def succeeds() -> None:
            pass

        async def parent() -> str:
            try:
                await fairpool.gather(fails(), succeeds())
            except KeyError:
                return "failed"
            return "missed"

        assert pool.submit(parent).result() == "failed"


def group_meets_its_last_child() -> None:
    """The only child of a group ends while the parent comes to wait for it."""
    with pool_of(2) as pool:

        async def child() -> int:
            return 1

        async def parent() -> int:
            async with fairpool.TaskGroup() as group:
                task = group.create_task(child())
            return await task

        assert pool.submit(parent).result() == 1


def group_meets_failure() -> None:
    """A child fails while another one ends, and the parent waits."""
    with pool_of(2) as pool:

        async def fails() -> None:
            raise KeyError

        async def succeeds() -> None:
            await fairpool.yield_now()

        async def parent() -> str:
            try:
                async with fairpool.TaskGroup() as group:
                    group.create_task(fails())
                    group.create_task(succeeds())
            except ExceptionGroup as errors:
                # RuntimeError: the first child had failed before the second one was made.
                kinds = [type(error) for error in errors.exceptions]
                assert kinds in ([KeyError], [KeyError, RuntimeError]), kinds
                return "failed"
            return "missed"

        assert pool.submit(parent).result() == "failed"


# --- timers ---------------------------------------------------------------------------------------


def sleepers() -> None:
    """Naps of different lengths, begun at once, wake in their order."""
    with pool_of(2) as pool:
        order: list[int] = []

        async def nap(seconds: int) -> None:
            await fairpool.sleep(seconds)
            order.append(seconds)

        futures = [pool.submit(nap, seconds) for seconds in (50, 10)]
        for future in futures:
            future.result()
        assert order == [10, 50]


def nap_after_the_timers_end() -> None:
    """A timer is added just when the timer thread ends for want of timers."""
    with pool_of(1, idle_timeout=3.0) as pool:

        async def nap() -> None:
            await fairpool.sleep(1)

        pool.submit(nap).result()
        time.sleep(3)
        pool.submit(nap).result()


@contextmanager
def timer_thread_fails(start: int) -> Iterator[None]:
    """The start of a timer thread fails, that of this number, from 0."""
    make: Any = timer_module.new_thread
    numbers = count()

    def fail() -> None:
        raise RuntimeError("can't start new thread")

    def make_or_fail(target: Any, name: str, daemon: bool) -> Any:
        thread = make(target, name, daemon)
        if next(numbers) == start:
            thread.start = fail
        return thread

    timer_module.new_thread = make_or_fail
    try:
        yield
    finally:
        timer_module.new_thread = make


def timer_thread_cannot_be_started() -> None:
    """The first attempt fails: that is told to the one who has made it, and hurts nobody else."""
    with pool_of(2) as pool, timer_thread_fails(0):
        naps = [pool.submit(fairpool.sleep, 1) for _ in range(2)]
        errors = [nap.exception() for nap in naps]
        assert [str(error) for error in errors if error] == ["can't start new thread"]


def timer_thread_ends_as_another_cannot_be_started() -> None:
    """The same just when the thread ends for want of timers: who adds one is woken, or told."""
    timers = timer_module.Timers("timers", 1.0)
    ended = [threading.Event() for _ in range(3)]

    def add(event: threading.Event) -> None:
        try:
            timers.add(time.monotonic(), SimpleNamespace(wake=event.set))
        except RuntimeError:
            event.set()

    def add_late(event: threading.Event) -> None:
        time.sleep(1.0)
        add(event)

    with timer_thread_fails(1):
        add(ended[0])
        at_once(*(partial(add_late, event) for event in ended[1:]))
        for event in ended:
            event.wait()
    timers.stop()


def timeout_meets_completion() -> None:
    """The deadline of a `timeout` comes when what it bounds has come too."""
    with pool_of(2) as pool:

        async def bounded() -> str:
            try:
                async with fairpool.timeout(1):
                    await fairpool.sleep(1)
            except TimeoutError:
                return "late"
            await fairpool.yield_now()  # a cancellation that comes after the block is not ours
            return "in time"

        assert pool.submit(bounded).result() in ("late", "in time")


# --- primitives -----------------------------------------------------------------------------------


def event_set_meets_wait() -> None:
    """An event is set while tasks come to wait for it."""
    with pool_of(2) as pool:
        event = fairpool.Event()
        futures = [pool.submit(event.wait) for _ in range(2)]
        event.set()
        assert [future.result() for future in futures] == [True, True]


def event_is_cleared_by_two() -> None:
    """Two threads clear an event, and tasks wait for the next `set`."""
    with pool_of(2) as pool:
        event = fairpool.Event()
        event.set()
        futures: list[Future[bool]] = []

        def clear() -> None:
            event.clear()
            futures.append(pool.submit(event.wait))

        at_once(clear, clear)
        event.set()
        for future in futures:
            assert future.result()


def permits_are_kept() -> None:
    """A permit is given back while one task comes for it, and another one is cancelled."""
    with pool_of(2) as pool:
        semaphore = fairpool.Semaphore(1)
        inside = threading.Lock()

        async def use() -> None:
            async with semaphore:
                assert inside.acquire(False), "two inside"
                try:
                    await fairpool.yield_now()
                finally:
                    inside.release()

        futures = [pool.submit(use) for _ in range(3)]
        futures[1].cancel()
        for future in futures:
            try:
                future.result()
            except CancelledError:
                assert future is futures[1]
        pool.submit(semaphore.acquire).result()


def permit_meets_cancellation() -> None:
    """A task is cancelled while it is given a permit: it does not go on as if it had not been."""
    with pool_of(2) as pool:
        semaphore = fairpool.Semaphore(0)

        async def use() -> None:
            async with semaphore:
                await fairpool.Event().wait()

        waiting = pool.submit(use)
        at_once(semaphore.release, waiting.cancel)
        with suppress(CancelledError):
            waiting.result()
        pool.submit(semaphore.acquire).result()


def queue_hands_over() -> None:
    """Items go from two putters to two getters, through one place."""
    with pool_of(2) as pool:
        queue: fairpool.Queue[int] = fairpool.Queue(1)

        puts = [pool.submit(queue.put, i) for i in range(2)]
        gets = [pool.submit(queue.get) for _ in range(2)]
        for future in puts:
            future.result()
        assert sorted(future.result() for future in gets) == [0, 1]


def join_waits_for_later_items() -> None:
    """Everything is done for a moment, while a task joins after the next `put`."""
    with pool_of(2) as pool:
        queue: fairpool.Queue[int] = fairpool.Queue()
        queue.put_nowait(1)
        queue.get_nowait()
        early = pool.submit(queue.join)
        done: list[None] = []

        async def put_and_join() -> None:
            queue.put_nowait(2)
            await queue.join()
            assert done, "joined before the item that it saw was done"

        late = pool.submit(put_and_join)
        queue.task_done()
        assert pool.submit(queue.get).result() == 2
        done.append(None)
        queue.task_done()
        early.result()
        late.result()


# --- the end --------------------------------------------------------------------------------------


def shutdown_meets_submit() -> None:
    """What `submit` accepts is run, what it refuses is not."""
    runs: list[int] = []
    accepted: list[int] = []
    pool = FairPool(1, idle_timeout=NEVER)

    def submit() -> None:
        for i in range(2):
            try:
                pool.submit(runs.append, i)
            except RuntimeError:
                break
            accepted.append(i)

    run_until_then: list[int] = []

    def close() -> None:
        pool.shutdown()
        run_until_then.extend(runs)

    at_once(submit, close)
    pool.shutdown()
    assert runs == accepted
    assert runs == run_until_then, "it was run after the pool's end"


def shutdown_meets_late_notify() -> None:
    """`submit` comes to its look for a worker when its task was run, and the pool has ended."""
    pool = FairPool(1, idle_timeout=NEVER)
    runs: list[int] = []

    def submit() -> None:
        with suppress(RuntimeError):
            pool.submit(runs.append, 1)

    at_once(submit, pool.shutdown)
    assert not pool._scheduler.threads, "a thread was started after the pool's end"


def shutdown_meets_park() -> None:
    """The pool is closed while its workers are about to park."""
    with pool_of(2) as pool:
        pool.submit(int)
        pool.submit(int)


def shutdown_cancels() -> None:
    """`cancel_futures` while a worker takes tasks: each is run or cancelled, and all end."""
    pool = FairPool(1, idle_timeout=NEVER)
    futures = [pool.submit(int) for _ in range(3)]
    pool.shutdown(cancel_futures=True)
    for future in futures:
        assert future.done()


def shutdown_meets_suspended() -> None:
    """A pool is closed while a coroutine waits for what another thread brings."""
    future: Future[int] = Future()
    pool = FairPool(2, idle_timeout=NEVER)

    async def wait() -> int:
        return await future

    task = pool.submit(wait)
    at_once(pool.shutdown, lambda: future.set_result(1))
    assert task.result() == 1


def two_shut_down() -> None:
    """Two threads shut down at once."""
    pool = FairPool(1, idle_timeout=NEVER)
    future = pool.submit(int)
    at_once(pool.shutdown, pool.shutdown)
    assert future.done()


def worker_ends_as_work_comes() -> None:
    """A worker has been idle for long enough, and a task comes at this very moment."""
    with pool_of(1, idle_timeout=2.0) as pool:
        pool.submit(int).result()
        time.sleep(2)
        assert pool.submit(int, 4).result() == 4


def workers_end_as_work_comes() -> None:
    """The same with two workers and two tasks that need each other."""
    with pool_of(2, idle_timeout=2.0) as pool:
        barrier = threading.Barrier(2)
        for future in [pool.submit(barrier.wait) for _ in range(2)]:
            future.result()
        time.sleep(2)
        for future in [pool.submit(barrier.wait) for _ in range(2)]:
            future.result()


def backlog_makes_room() -> None:
    """`max_pending`: whoever waits for room is let in."""
    with pool_of(1, max_pending=1) as pool:
        results: list[Future[int]] = []

        def submit() -> None:
            results.extend(pool.submit(int, i) for i in range(2))

        at_once(submit, submit)
        assert sum(future.result() for future in results) == 2


def cancelled_ones_make_room() -> None:
    """`max_pending`: a task that is cancelled makes room, too."""
    with pool_of(1, max_pending=1) as pool:
        for _ in range(3):
            pool.submit(int).cancel()
        assert pool.submit(int, 3).result() == 3


def backlog_is_closed() -> None:
    """Three threads wait for room in a pool that is closed: all are let go."""
    pool = FairPool(1, max_pending=1, idle_timeout=NEVER)
    gate = threading.Semaphore(0)
    first = pool.submit(gate.acquire)
    waiting: list[Future[int]] = []

    def submit() -> None:
        try:
            waiting.append(pool.submit(int))
            waiting.append(pool.submit(int))
        except RuntimeError:
            pass

    at_once(lambda: pool.shutdown(wait=False), submit, submit, submit)
    gate.release()  # not before: a task that ends makes room
    pool.shutdown()
    for future in [first, *waiting]:
        assert future.done()


def drop_meets_section() -> None:
    """A pool is dropped while its lock is used: the section is run, and no worker stays then."""
    pool = FairPool(1, idle_timeout=NEVER)
    scheduler, lock = pool._scheduler, pool.lock()
    sections: list[Future[int]] = []

    def submit() -> None:
        sections.append(lock.submit(int))
        sections.append(sections[0].then(int))

    at_once(scheduler.drop, submit)
    assert [section.result() for section in sections] == [0, 0]
    for worker in scheduler.threads.copy():
        worker.join()
    pool.shutdown()


def drop_meets_late_notify() -> None:
    """In a dropped pool two tasks need two workers; a look for one more comes late meanwhile."""
    pool = FairPool(2, idle_timeout=NEVER)
    pool._scheduler.drop()
    gate = threading.Semaphore(0)
    futures: list[Future[Any]] = []

    def submit(*calls: Callable[[], object]) -> None:
        futures.extend(pool.submit(call) for call in calls)

    at_once(lambda: submit(int), lambda: submit(gate.acquire, gate.release))
    for future in futures:
        future.result()
    pool.shutdown()


def initializer_fails() -> None:
    """The initializer fails while tasks are submitted: each future ends, or `submit` raises."""
    pool = FairPool(1, initializer=int, initargs=("x",), idle_timeout=NEVER)
    futures: list[Future[int]] = []
    try:
        futures += [pool.submit(int) for _ in range(2)]
    except fairpool.BrokenFairPool:
        pass
    for future in futures:
        assert isinstance(future.exception(), fairpool.BrokenFairPool)
    pool.shutdown()


# --- joined callers -------------------------------------------------------------------------------


def callers_come_and_go() -> None:
    """Three callers and a submission in a pool without threads: each gets its result."""
    with callers_of(2) as pool:
        order: list[int] = []
        left = pool.submit(order.append, 0)

        async def client(i: int) -> int:
            await fairpool.yield_now()
            return i

        def call(i: int) -> None:
            assert pool.run(client, i) == i

        at_once(lambda: call(1), lambda: call(2), lambda: call(3))
        assert left.done()
        assert order == [0]


def caller_leaves_while_combining() -> None:
    """Three callers use one lock: each leaves when its own sections are done, whoever runs them."""
    with callers_of(2) as pool:
        state = pool.guarded([])

        async def client(i: int) -> None:
            async with state as entries:
                entries.append(i)
            async with state as entries:
                entries.append(i)

        at_once(*[lambda i=i: pool.run(client, i) for i in range(3)])  # type: ignore[misc]
        assert sorted(pool.run(_read, state)) == [0, 0, 1, 1, 2, 2]


async def _read(state: Any) -> list[int]:
    async with state as entries:
        return list(entries)


def section_is_left_to_the_next_caller() -> None:
    """A section is submitted while the only caller leaves: the next caller runs it."""
    with callers_of(1) as pool:
        lock = pool.lock()
        sections: list[Future[int]] = []

        async def client() -> None:
            async with lock:
                pass

        at_once(lambda: pool.run(client), lambda: sections.append(lock.submit(int, 5)))
        assert pool.run(sections[0].result) == 5


def last_caller_leaves_with_work_queued() -> None:
    """What the last caller leaves behind is run by who shuts down."""
    with callers_of(1) as pool:

        async def slow() -> int:
            await fairpool.sleep(1)
            return 7

        futures: list[Future[int]] = []

        def parent() -> None:
            futures.append(pool.submit(slow))
            futures.append(pool.submit(int, 7))

        at_once(lambda: pool.run(parent), lambda: pool.run(int))
        pool.shutdown()
        assert [future.result() for future in futures] == [7, 7]


def caller_waits_in_a_task() -> None:
    """A caller's function waits for a coroutine, and nobody else is there but another caller."""
    with callers_of(1) as pool:

        async def child() -> int:
            await fairpool.yield_now()
            await fairpool.sleep(1)
            return 3

        def parent() -> int:
            return pool.submit(child).result()

        def call() -> None:
            assert pool.run(parent) == 3

        at_once(call, call)


def wait_further_out_is_over() -> None:
    """A caller waits for a section in the midst of another wait, which is over before that."""
    with callers_of(1) as pool:
        lock = pool.lock()
        by_hand: Future[None] = Future()

        def outer() -> int:
            inner = pool.submit(lambda: lock.submit(int, "5").result())
            by_hand.result()
            return inner.result()

        def call() -> None:
            assert pool.run(outer) == 5

        at_once(call, lambda: by_hand.set_result(None))


def caller_beside_workers() -> None:
    """A caller of a pool with a worker: its task and another one run, whoever runs them."""
    with pool_of(1) as pool:

        async def client() -> int:
            await fairpool.yield_now()
            return 1

        futures: list[Future[int]] = []

        def call() -> None:
            assert pool.run(client) == 1

        at_once(call, lambda: futures.append(pool.submit(int, 2)))
        assert futures[0].result() == 2


def caller_meets_shutdown() -> None:
    """A caller comes while the pool is shut down: it is refused, or its task has ended by then."""
    with callers_of(2) as pool:
        over: list[bool] = []
        outcomes: list[object] = []

        async def client() -> int:
            await fairpool.yield_now()
            assert not over, "run after shutdown"
            return 4

        def call() -> None:
            try:
                outcomes.append(pool.run(client))
            except RuntimeError:
                outcomes.append(4)

        def shut_down() -> None:
            pool.shutdown()
            over.append(True)

        at_once(call, shut_down)
        assert outcomes == [4]


def caller_meets_cancel() -> None:
    """A caller's task is cancelled while it comes, works and waits: it leaves."""
    with callers_of(2) as pool:
        tasks: list[Any] = []

        async def client() -> None:
            tasks.append(fairpool.current_task())
            await fairpool.Event().wait()

        def cancel() -> None:
            while not tasks:
                time.sleep(1)
            tasks[0].cancel()

        def call() -> None:
            try:
                pool.run(client)
            except CancelledError:
                return
            raise AssertionError("not cancelled")

        at_once(call, cancel)


# --- threads that wait are lent -------------------------------------------------------------------


class _Contest:
    """Coroutines that one caller runs, and behind them threads: all of them want one lock."""

    def __init__(self, pool: FairPool) -> None:
        self.pool = pool
        self.lock = pool.lock()
        self.sections = 0
        self._occupied = False

    def section(self) -> None:
        assert not self._occupied, "two inside"
        self._occupied = True
        self._occupied = False
        self.sections += 1

    async def client(self, turns: int, after: Callable[[], Any]) -> None:
        for _ in range(turns):
            async with self.lock:
                self.section()
            after()

    def stay(self, turns: int = 1) -> None:
        for _ in range(turns):
            with self.lock:
                assert not isinstance(here.worker, Helper), "a section on a helper"
                self.section()

    async def clients(self, count: int, turns: int, after: Callable[[], Any]) -> None:
        tasks = [self.pool.submit(self.client, turns, after) for _ in range(count)]
        await fairpool.gather(*tasks)
        assert all(task.done() for task in tasks)

    def hold(self, clients: Callable[[], Any], count: int, *stays: Callable[[], object]) -> None:
        """Let all of them come: first the requests of `clients`, `count` of them, then `stays`."""
        self.lock.acquire()

        def come(stay: Callable[[], object], after: int) -> Callable[[], None]:
            def wait_and_stay() -> None:
                while len(self.lock.queue) < after:
                    time.sleep(1)
                stay()

            return wait_and_stay

        def begin() -> None:
            while len(self.lock.queue) < count + len(stays):
                time.sleep(1)
            self.lock.release()

        comers = [come(stay, count + number) for number, stay in enumerate(stays)]
        at_once(begin, lambda: self.pool.run(clients), *comers)


def waiting_threads_are_lent() -> None:
    """Behind three coroutines of one caller, two threads wait: nobody is forgotten."""
    with callers_of(3) as pool:
        contest = _Contest(pool)
        contest.hold(lambda: contest.clients(3, 2, int), 3, contest.stay, contest.stay)
        assert contest.sections == 8


def waiting_thread_comes_late() -> None:
    """A thread comes while something is published: it may help at once."""
    with callers_of(2) as pool:
        contest = _Contest(pool)
        at_once(lambda: pool.run(contest.clients, 2, 2, int), lambda: contest.stay(2))
        assert contest.sections == 6


def helper_is_busy_when_its_turn_comes() -> None:
    """What a helper runs takes its time: it is passed over, and has its turn all the same."""
    with callers_of(2) as pool:
        contest = _Contest(pool)
        contest.hold(
            lambda: contest.clients(2, 2, lambda: time.sleep(1)), 2, lambda: contest.stay(2)
        )
        assert contest.sections == 6


def helper_runs_what_needs_the_lock() -> None:
    """What a helper runs waits, with the same stack, for the lock that the helper waits for."""
    with callers_of(2) as pool:
        contest = _Contest(pool)

        def enter() -> None:
            with contest.lock:
                contest.section()

        contest.hold(lambda: contest.clients(2, 1, enter), 2, contest.stay)
        assert contest.sections == 5


def helper_runs_what_waits_for_others() -> None:
    """What a helper runs waits for another coroutine, and the only caller may be gone."""
    with callers_of(2) as pool:
        contest = _Contest(pool)

        async def other() -> int:
            await fairpool.yield_now()
            return 3

        def wait() -> None:
            assert pool.submit(other).result() == 3

        contest.hold(lambda: contest.clients(2, 1, wait), 2, contest.stay)
        assert contest.sections == 3


def step_raises_on_a_helper() -> None:
    """What a helper runs raises: that is its own task's. So does a section of the helper's own."""
    with callers_of(2) as pool:
        contest = _Contest(pool)

        def fail() -> None:
            raise LookupError

        async def clients() -> None:
            for task in [pool.submit(contest.client, 1, fail) for _ in range(2)]:
                try:
                    await task
                except LookupError:
                    continue
                raise AssertionError("it has not raised")

        def stay() -> None:
            try:
                with contest.lock:
                    contest.section()
                    raise KeyError
            except KeyError:
                contest.stay()

        contest.hold(clients, 2, stay)
        assert contest.sections == 4


def helper_is_interrupted() -> None:
    """Ctrl-C comes while a helper runs what is others': that is not cut off, its wait is."""
    with callers_of(2) as pool:
        contest = _Contest(pool)
        pressed: list[Any] = []

        def press() -> None:
            # As the handler does, which is called on the main thread between two instructions.
            if type(here.worker) is Helper and not pressed:
                pressed.append(here.worker)
                here.worker.interrupt()

        def stay() -> None:
            try:
                contest.stay()
            except KeyboardInterrupt:
                assert pressed
            else:
                assert not pressed

        contest.hold(lambda: contest.clients(2, 2, press), 2, stay)
        assert contest.sections == 5 - len(pressed)
    assert not contest.lock.locked()  # not before: the key may be on its way to be served


def nobody_is_lent_inside_a_section() -> None:
    """A thread that is inside one lock and waits for another runs nothing of others."""
    with callers_of(2) as pool:
        contest, other = _Contest(pool), pool.lock()

        def note() -> None:
            assert not isinstance(here.worker, Helper), "inside a section"

        def stay() -> None:
            with other:
                contest.stay()

        contest.hold(lambda: contest.clients(2, 1, note), 2, stay)
        assert contest.sections == 3


def thread_serves_where_nobody_else_is() -> None:
    """The only caller leaves, with requests in the queue: a thread that waits behind them serves.

    No caller comes after that one, so what the thread does not do is not done.
    """
    with callers_of(1) as pool:
        contest = _Contest(pool)
        sections: list[Future[None]] = []

        async def own() -> None:
            async with contest.lock:
                contest.section()
            sections.append(contest.lock.submit(contest.section))

        at_once(lambda: pool.run(own), contest.stay)
        contest.stay()
        assert sections[0].done()
        assert contest.sections == 4


def two_wait_where_nobody_else_is() -> None:
    """A section is submitted as two threads enter: one of them serves, none is left waiting."""
    with callers_of(2) as pool:
        contest = _Contest(pool)
        at_once(lambda: contest.lock.submit(contest.section), contest.stay, contest.stay)
        contest.stay()
        assert contest.sections == 4


def section_is_cancelled_where_nobody_else_is() -> None:
    """A section is submitted and cancelled, and no caller comes: threads enter all the same."""
    with callers_of(1) as pool:
        contest = _Contest(pool)

        def submit_and_cancel() -> None:
            contest.lock.submit(int).cancel()

        at_once(submit_and_cancel, contest.stay)


def only_caller_waits_behind_a_section() -> None:
    """Two callers' functions submit sections and enter the lock themselves, with their stacks."""
    with callers_of(1) as pool:
        contest = _Contest(pool)

        def own() -> None:
            with contest.lock:
                contest.lock.submit(contest.section)
                contest.section()
            with contest.lock:
                contest.section()

        at_once(lambda: pool.run(own), lambda: pool.run(own))
        assert contest.sections == 6


def nobody_serves_inside_a_section() -> None:
    """A caller's function is inside one lock, and waits for another: it serves neither.

    That has to wait for the next caller.
    """
    with callers_of(1) as pool:
        contest, other = _Contest(pool), pool.lock()
        inside: list[Any] = []

        def section() -> None:
            assert threading.current_thread() not in inside, "run inside a section"
            contest.section()

        def own() -> None:
            with other:
                inside.append(threading.current_thread())
                contest.lock.submit(section)
                contest.stay()
                inside.clear()

        def come_again() -> None:
            while contest.sections < 2:
                pool.run(fairpool.sleep, 1)  # searches meanwhile

        at_once(lambda: pool.run(own), come_again)


def busy_caller_is_served() -> None:
    """A caller's own request is served by another, who leaves in the middle of it, or goes on.

    It runs what was published meanwhile: whoever ends whose task, both callers come back.
    """
    with callers_of(2) as pool:
        contest = _Contest(pool)

        async def own(turns: int) -> str:
            await contest.client(turns, int)
            return "own"

        def call(turns: int) -> None:
            assert pool.run(own, turns) == "own"

        at_once(lambda: call(1), lambda: call(3), contest.stay)
        assert contest.sections == 5


ALL = [
    thing
    for thing in list(vars().values())
    if callable(thing)
    and getattr(thing, "__module__", "") == __name__
    and thing.__doc__
    and not isinstance(thing, type)
    and thing not in (pool_of, callers_of, at_once, timer_thread_fails)
]
