"""Timers: in order, none lost, whoever adds, cancels or ends meanwhile."""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit import TIMEOUT, made_by, until

import fairpool
from fairpool import CancelledError, FairPool
from fairpool._core.threads import new_thread
from fairpool._core.timer import CANCELLED_MIN, Timers
from fairpool._scheduler.scheduler import Scheduler

LATER = 1000.0  # a deadline that does not come


class Target:
    """What is to be woken; tells when."""

    def __init__(self, log: list[Any] | None = None, name: object = None) -> None:
        self._log = log
        self._name = name
        self._woken = threading.Event()
        self.count = 0
        self.at = 0.0

    def wake(self) -> None:
        self.count += 1
        self.at = time.monotonic()
        if self._log is not None:
            self._log.append(self._name)
        self._woken.set()

    def wait(self) -> bool:
        return self._woken.wait(TIMEOUT)


@pytest.fixture
def make_timers() -> Iterator[Callable[..., Timers]]:
    made: list[Timers] = []

    def make(idle_timeout: float = LATER) -> Timers:
        made.append(Timers("timers-under-test", idle_timeout))
        return made[-1]

    yield make
    for timers in made:
        timers.stop()
    assert not running()


@pytest.fixture
def timers(make_timers: Callable[..., Timers]) -> Timers:
    return make_timers()


def running() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("timers-under-test")]


def now() -> float:
    return time.monotonic()


def test_a_target_is_woken_once_and_not_before_its_time(timers: Timers) -> None:
    target = Target()
    deadline = now() + 0.02
    timers.add(deadline, target)
    assert target.wait()
    assert target.at >= deadline
    last = Target()
    timers.add(now(), last)
    assert last.wait()
    assert target.count == 1


def test_no_thread_before_the_first_timer(make_timers: Callable[..., Timers]) -> None:
    make_timers()
    assert not running()


def test_one_thread_for_all(timers: Timers) -> None:
    for _ in range(1000):
        timers.add(now() + LATER, Target())
    last = Target()
    timers.add(now(), last)
    assert last.wait()
    assert len(running()) == 1


def test_targets_are_woken_in_the_order_of_their_deadlines(timers: Timers) -> None:
    order: list[int] = []
    start = now() + 0.05
    for i in (5, 3, 8, 1, 9, 2, 7, 0, 6, 4):
        timers.add(start + i * 1e-4, Target(order, i))
    last = Target()
    timers.add(start + 0.01, last)
    assert last.wait()
    assert order == sorted(order)
    assert len(order) == 10


def test_equal_deadlines_keep_the_order_of_their_coming(timers: Timers) -> None:
    order: list[int] = []
    deadline = now() + 0.03
    for i in range(500):
        timers.add(deadline, Target(order, i))
    last = Target()
    timers.add(deadline, last)
    assert last.wait()
    assert order == [*range(500)]


def test_an_earlier_one_is_not_kept_waiting_by_a_later_one(timers: Timers) -> None:
    for _ in range(50):
        timers.add(now() + LATER, Target())
        soon = Target()
        timers.add(now() + 0.001, soon)
        assert soon.wait()


def test_a_cancelled_timer_wakes_nobody(timers: Timers) -> None:
    # Both deadlines come while the thread is at work on another timer: only after that it looks.
    is_busy, go_on = threading.Event(), threading.Event()

    class Busy:
        def wake(self) -> None:
            is_busy.set()
            go_on.wait(TIMEOUT)

    timers.add(now(), Busy())
    assert is_busy.wait(TIMEOUT)
    deadline = now()
    cancelled, kept = Target(), Target()
    timer = timers.add(deadline, cancelled)
    timers.add(deadline, kept)
    timers.cancel(timer)
    go_on.set()
    assert kept.wait()
    assert cancelled.count == 0


def test_many_cancelled_timers_are_forgotten(timers: Timers) -> None:
    targets = [Target() for _ in range(CANCELLED_MIN * 2)]
    kept = Target()
    for target in targets:
        timers.cancel(timers.add(now() + LATER, target))
    refs = [weakref.ref(target) for target in targets]
    timers.add(now() + 0.01, kept)
    del targets, target
    assert kept.wait()
    gc.collect()
    assert sum(ref() is not None for ref in refs) <= 1


def test_cancelled_timers_are_forgotten_where_no_deadline_comes_near(timers: Timers) -> None:
    timers.add(now() + LATER, Target())
    for _ in range(20_000):
        timers.cancel(timers.add(now() + 2 * LATER, Target()))
    deadline = now() + TIMEOUT
    while len(timers._incoming) > CANCELLED_MIN * 2:
        assert now() < deadline
        time.sleep(0.001)


def test_a_sleep_that_was_woken_early_keeps_one_timer() -> None:
    async def nap() -> None:
        started.release()
        await fairpool.sleep(LATER)

    started = threading.Semaphore(0)
    with FairPool(1) as pool:
        task = pool.submit(nap)
        assert started.acquire(timeout=TIMEOUT)
        for i in range(20):
            gate = threading.Event()
            busy = pool.submit(gate.wait)  # so that nobody sees the cancellation before it is over
            while not busy.running():
                time.sleep(0)
            task.cancel()
            task.uncancel()
            gate.set()
            deadline = now() + TIMEOUT
            while len(pool._scheduler.timers._cancelled) <= i:
                assert now() < deadline
                time.sleep(0.001)
        task.cancel()
        assert not concurrent.futures.wait([task], TIMEOUT).not_done


def test_a_sleep_that_was_cancelled_keeps_nothing_until_its_deadline(pool: FairPool) -> None:
    class Held:
        pass

    async def nap() -> None:
        held = Held()
        refs.append(weakref.ref(held))
        started.release()
        await fairpool.sleep(LATER)

    refs: list[weakref.ref[Held]] = []
    started = threading.Semaphore(0)
    tasks = [pool.submit(nap) for _ in range(5)]
    for _ in range(len(tasks)):
        assert started.acquire(timeout=TIMEOUT)
    for task in tasks:
        assert task.cancel()
    assert not concurrent.futures.wait(tasks, TIMEOUT).not_done
    left = weakref.WeakSet(tasks)
    del task, tasks
    # What a worker has run last it drops when it parks.
    deadline = now() + TIMEOUT
    while left or any(ref() is not None for ref in refs):
        assert now() < deadline
        gc.collect()
        time.sleep(0.001)


@pytest.mark.parametrize("idle_timeout", [0.0, 0.001])
def test_the_thread_ends_and_the_next_timer_starts_another(
    idle_timeout: float, make_timers: Callable[..., Timers]
) -> None:
    timers = make_timers(idle_timeout)
    for _ in range(200):
        target = Target()
        timers.add(now(), target)
        assert target.wait()


def test_a_thread_that_is_about_to_end_meets_those_that_add(
    make_timers: Callable[..., Timers],
) -> None:
    timers = make_timers(0.0)
    failures: list[int] = []

    def add(pause: float) -> None:
        for i in range(300):
            target = Target()
            timers.add(now() + pause, target)
            if not target.wait():
                failures.append(i)
                return

    threads = [threading.Thread(target=add, args=[pause]) for pause in (0, 0.0001, -1, 0.0003)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_between_any_two_instructions_of_an_add_another_one_may_come(
    make_timers: Callable[..., Timers],
) -> None:
    module: Any = pytest.importorskip("unit.instructions")
    for moment in module.moments():
        timers = make_timers(0.0)
        first, second = Target(), Target()
        with moment.do(lambda timers=timers, second=second: timers.add(now(), second)):
            timers.add(now(), first)
        assert first.wait(), moment
        assert not moment.reached or second.wait(), moment
        timers.stop()


def test_at_whatever_moment_of_the_threads_life_a_timer_comes(
    make_timers: Callable[..., Timers],
) -> None:
    # The test does the thread's work, which ends at once for want of timers.
    module: Any = pytest.importorskip("unit.instructions")
    for moment in module.moments():
        timers = make_timers(0.0)
        timers._absent.clear()  # as if started
        target = Target()
        with moment.do(lambda timers=timers, target=target: timers.add(now(), target)):
            timers._run()
        assert not moment.reached or target.wait(), moment
        assert target.count <= 1, moment


def ends(timers: Timers) -> bool:
    """Whether its threads end by themselves, long before their idle time-out and LATER."""
    threads = timers.threads()
    for thread in threads:
        while thread.ident is None:  # just being started
            time.sleep(0)
        thread.join(TIMEOUT)
    return not any(thread.is_alive() for thread in threads)


def test_stop_waits_for_a_thread_that_is_about_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[None] = []

    def new_slow_thread(live: Callable[[], object], name: str, daemon: bool) -> threading.Thread:
        def run() -> None:
            live()
            time.sleep(0.05)
            ended.append(None)

        return new_thread(run, name, daemon)

    monkeypatch.setattr("fairpool._core.timer.new_thread", new_slow_thread)
    timers = Timers("timers", 0)
    for count in range(1, 4):
        timers.add(now(), Target())
        until(lambda: len(timers._exited) > 0)
        timers.stop()
        assert len(ended) == count
    assert len(timers.threads()) == 1, "those that have ended are not forgotten"


@pytest.mark.parametrize("cancelled", [0, 1, 3, 100])
@pytest.mark.parametrize("closes_first", [False, True])
def test_the_thread_of_closed_timers_ends_at_once(
    closes_first: bool, cancelled: int, make_timers: Callable[..., Timers]
) -> None:
    timers = make_timers()
    far = [timers.add(now() + LATER, Target()) for _ in range(cancelled)]
    last = Target()
    timers.add(now(), last)
    assert last.wait()
    if closes_first:
        timers.close()
    for timer in far:
        timers.cancel(timer)
    timers.close()
    assert ends(timers)
    again = Target()
    timers.add(now() + 0.001, again)  # is not lost, and starts another thread
    assert again.wait()
    assert ends(timers)


def test_closed_timers_are_still_kept(make_timers: Callable[..., Timers]) -> None:
    timers = make_timers()
    targets = [Target() for _ in range(5)]
    far = timers.add(now() + LATER, Target())
    for i, target in enumerate(targets):
        timers.add(now() + 0.002 * i, target)
    timers.close()
    assert all(target.wait() for target in targets)
    timers.cancel(far)
    assert ends(timers)


@pytest.mark.parametrize("first", ["close", "cancel", "run"])
def test_closing_meets_a_cancellation(first: str, make_timers: Callable[..., Timers]) -> None:
    # Whatever comes in the midst of the other, nobody is left to wait for the far deadline.
    module: Any = pytest.importorskip("unit.instructions")
    for moment in module.moments():
        timers = make_timers()
        timers._absent.clear()  # as if started: the test does the thread's work
        timer = timers.add(now() + LATER, Target())
        cancel = functools.partial(timers.cancel, timer)
        if first == "run":
            timers.close()
            timers._lock.acquire(False)  # its token, so that it would park

        def has_parked(timers: Timers = timers, moment: Any = moment) -> None:
            raise AssertionError(f"parked for good: {moment}")

        timers._lock = NeverParks(has_parked)
        inner, outer = {
            "close": (cancel, timers.close),
            "cancel": (timers.close, cancel),
            "run": (cancel, timers._run),
        }[first]
        parks = False
        with moment.do(inner):
            try:
                outer()
            except AssertionError:
                parks = True
        if first != "run":
            if not moment.reached:
                inner()
            timers._run()
        elif not moment.reached:
            assert parks
            timers._heap.clear()
        assert timers._heap == [], moment


class NeverParks:
    """A lock that calls this where its thread would park for good."""

    def __init__(self, would_park: Callable[[], None]) -> None:
        self._tokens = 0
        self._would_park = would_park

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._tokens:
            self._tokens -= 1
            return True
        if timeout > 1:
            self._would_park()
        return False

    def release(self) -> None:
        self._tokens = 1


async def sleeps() -> None:
    await fairpool.sleep(0.001)


async def times_out() -> None:
    async with fairpool.timeout(LATER):
        await fairpool.sleep(0.001)


async def is_cancelled() -> None:
    task = fairpool.create_task(fairpool.sleep(LATER))
    await fairpool.sleep(0.001)
    task.cancel()


@pytest.mark.parametrize("work", [sleeps, times_out, is_cancelled])
@pytest.mark.parametrize("end", ["shutdown", "drop", "drop before"])
def test_no_timer_thread_outlives_what_needs_it(end: str, work: Callable[[], Any]) -> None:
    pool = FairPool(2)
    timers = pool._scheduler.timers
    future = pool.submit(work)
    if end == "drop before":
        del pool
    future.result(TIMEOUT)
    if end == "shutdown":
        pool.shutdown(wait=False)
    elif end == "drop":
        del pool
    gc.collect()
    assert ends(timers)


@pytest.mark.parametrize("born", [True, False])
def test_an_interrupted_start_leaves_one_thread(
    born: bool, make_timers: Callable[..., Timers], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The interrupt comes when there is a thread, which has come as far as to run, or not.
    timers = make_timers()
    late: list[threading.Thread] = []

    class Interrupted(threading.Thread):
        def start(self) -> None:
            if born:
                super().start()
                while not timers._runs:
                    time.sleep(0)
            else:
                late.append(self)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fairpool._core.timer, "new_thread", made_by(Interrupted))
        with pytest.raises(KeyboardInterrupt):
            timers.add(now(), Target())
    second = Target()
    timers.add(now(), second)
    assert second.wait()
    for thread in late:
        threading.Thread.start(thread)
        thread.join(TIMEOUT)  # it was given up, and ends at once
    assert len(running()) == 1
    third = Target()
    timers.add(now(), third)
    assert third.wait()


@pytest.mark.parametrize("starts_then", [True, False])
def test_nobody_counts_on_a_thread_that_another_could_not_start(
    starts_then: bool, make_timers: Callable[..., Timers], monkeypatch: pytest.MonkeyPatch
) -> None:
    timers = make_timers()
    first, second = Target(), Target()
    errors: list[Exception] = []

    def add() -> None:
        try:
            timers.add(now(), second)
        except RuntimeError as error:
            errors.append(error)

    adder = threading.Thread(target=add)

    class NoThread(threading.Thread):
        def start(self) -> None:
            if adder.ident is None:
                adder.start()
                adder.join()
            elif starts_then:
                super().start()
                return
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(fairpool._core.timer, "new_thread", made_by(NoThread))
        with pytest.raises(RuntimeError, match="can't start new thread"):
            timers.add(now() + LATER, first)
    assert second.wait() if starts_then else errors
    third = Target()
    timers.add(now(), third)
    assert third.wait()
    assert not first.count  # it was told
    assert second.count == starts_then


def test_stop_may_be_called_again_and_without_a_thread(make_timers: Callable[..., Timers]) -> None:
    timers = make_timers()
    timers.stop()
    timers.stop()
    target = Target()
    timers.add(now(), target)
    assert target.wait()
    timers.stop()
    timers.stop()


def test_a_timer_after_the_stop_is_woken(timers: Timers) -> None:
    for _ in range(20):
        target = Target()
        timers.add(now(), target)
        assert target.wait()
        timers.stop()


def test_a_time_in_the_past_is_now(timers: Timers) -> None:
    target = Target()
    timers.add(float("-inf"), target)
    assert target.wait()


# --- sleep --------------------------------------------------------------------------------------


@pytest.fixture
def pool() -> Iterator[FairPool]:
    with FairPool(2) as pool:
        yield pool


def test_sleep_returns_its_result_not_before_its_time(pool: FairPool) -> None:
    async def nap() -> tuple[str | None, bool]:
        start = now()
        result = await fairpool.sleep(0.02, "rested")
        return result, now() - start >= 0.02

    assert pool.submit(nap).result(TIMEOUT) == ("rested", True)


@pytest.mark.parametrize("delay", [0, -1, float("-inf")])
def test_no_delay_lets_others_go_first(delay: float) -> None:
    order: list[str] = []

    async def nap() -> str | None:
        other = fairpool.create_task(note("other"))
        result = await fairpool.sleep(delay, "rested")
        await note("sleeper")
        await other
        return result

    async def note(what: str) -> None:
        order.append(what)

    with FairPool(1) as pool:
        assert pool.submit(nap).result(TIMEOUT) == "rested"
    assert order == ["other", "sleeper"]


def test_not_a_number_is_refused_and_hurts_nobody(pool: FairPool) -> None:
    async def nap(delay: float) -> str | None:
        return await fairpool.sleep(delay, "rested")

    assert isinstance(pool.submit(nap, float("nan")).exception(TIMEOUT), ValueError)
    assert pool.submit(nap, 0.01).result(TIMEOUT) == "rested"


def test_an_endless_sleep_can_be_cancelled(pool: FairPool) -> None:
    started = threading.Event()

    async def nap() -> None:
        started.set()
        await fairpool.sleep(float("inf"))

    task = pool.submit(nap)
    assert started.wait(TIMEOUT)
    assert task.cancel()
    with pytest.raises((CancelledError, fairpool._tasks.future.CancelledError)):
        task.result(TIMEOUT)


@pytest.mark.thread_unsafe(reason="counts threads")
def test_sleepers_take_no_thread_each() -> None:
    count = 2000
    threads: list[int] = []

    async def nap(delay: float) -> bool:
        deadline = now() + delay
        await fairpool.sleep(delay)
        if len(threads) < 10:
            threads.append(threading.active_count())
        return now() >= deadline

    before = threading.active_count()
    with FairPool(1) as pool:
        naps = [pool.submit(nap, 0.2 + i * 7919 % count * 1e-5) for i in range(count)]
        assert all(task.result(TIMEOUT) for task in naps)
    assert max(threads) <= before + 3


async def nap(value: int) -> int | None:
    return await fairpool.sleep(0.01, value + 1)


def test_a_sleep_on_a_pool_that_was_shut_down_ends(pool: FairPool) -> None:
    box: list[Any] = []

    async def link() -> None:
        await fairpool.sleep(0.001)
        source: fairpool.Future[int] = fairpool.Future()
        box.append(source)
        box.append(source.then(lambda value: fairpool.sleep(0.001, value)))
        box.append(source.then(nap))

    pool.submit(link).result(TIMEOUT)
    pool.shutdown()
    source, _, link_of = box
    source.set_result(1)
    assert link_of.result(TIMEOUT) == 2


def test_a_sleep_that_comes_after_the_shutdown_of_a_pool_without_timers_ends(
    pool: FairPool,
) -> None:
    links: list[Any] = []
    source: fairpool.Future[int] = fairpool.Future()
    pool.submit(lambda: links.append(source.then(nap))).result(TIMEOUT)
    pool.shutdown()
    pool.shutdown()
    source.set_result(1)
    assert links[0].result(TIMEOUT) == 2


def test_a_task_that_is_accepted_in_the_midst_of_the_shutdown_can_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 1. `submit` queues the task. 2. `shutdown`, in a signal handler on the same thread, finds no
    # worker, no slot for one, and returns. 3. `submit` starts the worker for which it has the slot.
    start_worker = Scheduler._start_worker

    def start_late(scheduler: Scheduler, slot: list[None]) -> None:
        monkeypatch.undo()
        pool.shutdown()
        start_worker(scheduler, slot)

    monkeypatch.setattr(Scheduler, "_start_worker", start_late)
    pool = FairPool(1)
    assert pool.submit(nap, 1).result(TIMEOUT) == 2
    pool.shutdown()


def test_the_end_where_no_thread_could_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with FairPool(1) as pool, monkeypatch.context() as patch:
        patch.setattr(fairpool._core.timer, "new_thread", made_by(NoThread))
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.submit(fairpool.sleep, 0.001).result(TIMEOUT)
