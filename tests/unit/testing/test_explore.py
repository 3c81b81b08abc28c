"""`fairpool.testing` for its users: what it finds, shrinks, shows, and does again."""

from __future__ import annotations

import queue
import random
import subprocess
import sys
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import fairpool
from fairpool import FairPool, Future
from fairpool._core.here import here
from fairpool._core.waitgraph import waits, write_wait
from fairpool.testing import (
    Deadlock,
    InterleavingError,
    Livelock,
    NotLinearizable,
    Recorder,
    Schedule,
    Stuck,
    _run,
    _world,
    explore,
    schedules,
)
from fairpool.testing._run import Run
from fairpool.testing._strategies import PCT

# An explored run has the whole process to itself.
pytestmark = pytest.mark.thread_unsafe


class Counter:
    def __init__(self, lock: Any = None) -> None:
        self.value = 0
        self.lock = lock

    def add(self) -> int:
        if self.lock is not None:
            with self.lock:
                self.value += 1
                return self.value
        self.value += 1
        return self.value

    async def add_in_two_steps(self) -> None:
        value = self.value
        await fairpool.yield_now()
        self.value = value + 1


class BadText(Exception):
    def __str__(self) -> str:
        raise ValueError


def lost_update(pool: FairPool) -> None:
    counter = Counter()
    for task in [pool.submit(counter.add) for _ in range(2)]:
        task.result()
    assert counter.value == 2


def no_lost_update(pool: FairPool) -> None:
    counter = Counter(threading.Lock())
    for task in [pool.submit(counter.add) for _ in range(2)]:
        task.result()
    assert counter.value == 2


def failure(scenario: Callable[[FairPool], object], **options: Any) -> InterleavingError:
    with pytest.raises(InterleavingError) as caught:
        explore(scenario, **options)
    return caught.value


# --- finding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["mixed", "pct", "random", "systematic"])
def test_a_lost_update_is_found_and_done_again(strategy: str) -> None:
    error = failure(lost_update, strategy=strategy)
    assert isinstance(error.__cause__, AssertionError)
    for replay in error.seed, error.schedule:
        again = failure(lost_update, strategy=strategy, replay=replay)
        assert again.history == error.history
        assert again.schedule == error.schedule


def test_the_history_is_the_interleaving() -> None:
    error = failure(lost_update)
    writers = [thread for thread, line in error.history if "self.value += 1" in line]
    assert len(set(writers)) == 2
    # One of them is in the midst of it when the other one does it.
    assert writers[0] == writers[-1], error.history
    assert writers[0] in str(error)
    assert len(error.schedule.partition("/")[2].split(",")) <= 2


@pytest.mark.parametrize("strategy", ["mixed", "systematic"])
def test_nothing_is_found_where_nothing_is(strategy: str) -> None:
    assert explore(no_lost_update, schedules=300, strategy=strategy) == 300


def test_a_systematic_search_comes_to_its_end() -> None:
    def scenario(pool: FairPool) -> None:
        pool.submit(int).result()

    tried = explore(scenario, schedules=10_000, strategy="systematic", preemptions=1, workers=1)
    more = explore(scenario, schedules=10_000, strategy="systematic", preemptions=2, workers=1)
    assert 1 < tried < more < 10_000


def test_a_lost_update_between_two_steps() -> None:
    async def scenario(pool: FairPool) -> None:
        counter = Counter()
        await fairpool.gather(*(counter.add_in_two_steps() for _ in range(2)))
        assert counter.value == 2

    assert isinstance(failure(scenario).__cause__, AssertionError)


def test_opposite_order_of_locks() -> None:
    def scenario(pool: FairPool) -> None:
        first, second = threading.Lock(), threading.RLock()

        def take(one: Any, other: Any) -> None:
            with one, other:
                pass

        tasks = [pool.submit(take, first, second), pool.submit(take, second, first)]
        for task in tasks:
            task.result()

    error = failure(scenario)
    assert isinstance(error.__cause__, Deadlock)
    assert str(error).count("waits:") >= 3
    assert "with one, other" in str(error)


def test_a_loop_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "STEPS_MAX", 5000)

    def scenario(pool: FairPool) -> None:
        counter = Counter()

        def spin() -> None:
            while counter.value == 0:
                pass

        pool.submit(spin).result()

    assert isinstance(failure(scenario).__cause__, Livelock)


def test_a_thread_that_cannot_be_unwound_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_run, "STEPS_MAX", 5000)
    monkeypatch.setattr(_run, "UNWINDINGS_MAX", 10)

    def swallow() -> None:
        while True:
            try:
                with threading.Lock():
                    pass
            except BaseException:
                pass

    def scenario(pool: FairPool) -> None:
        threading.Thread(target=swallow, name="swallows").start()
        pool.submit(int).result()

    assert isinstance(failure(scenario).__cause__, Livelock)
    # Else the end of the interpreter, and of every pool in it, would wait for it.
    assert "swallows" not in [thread.name for thread in threading.enumerate()]


def test_an_exception_on_a_thread() -> None:
    def scenario(pool: FairPool) -> None:
        thread = threading.Thread(target=int, args=("x",))
        thread.start()
        thread.join()

    assert isinstance(failure(scenario).__cause__, ValueError)


def test_a_wait_that_the_explorer_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "PATIENCE", 0.2)
    outside = threading.Lock()
    outside.acquire()

    def wait() -> None:
        with outside:  # left again: there may be more than one run, and each has such a thread
            pass

    def scenario(pool: FairPool) -> None:
        pool.submit(wait).result()

    try:
        error = failure(scenario, replay="0/")
    finally:
        outside.release()
    assert isinstance(error.__cause__, Stuck)
    assert "outside" not in error.schedule


@pytest.mark.parametrize("error", [pytest.fail.Exception("no good"), SystemExit(1), BadText()])
def test_all_that_is_raised_is_a_failure(error: BaseException) -> None:
    def scenario(pool: FairPool) -> None:
        raise error

    found = failure(scenario, schedules=3)
    assert found.__cause__ is error
    assert type(error).__name__ in str(found)
    assert found.schedule == "0/"


def test_ways_out_are_no_failure() -> None:
    def skips(pool: FairPool) -> None:
        pytest.skip("not here")

    with pytest.raises(pytest.skip.Exception):
        explore(skips)
    lost = failure(lost_update)
    assert lost.schedule != "0/"  # all is as before


class Adder(threading.Thread):
    """A class that was there before any run."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter = counter

    def run(self) -> None:
        self._run()

    def _run(self) -> None:
        self.counter.add()


def test_threads_of_ones_own_class() -> None:
    def scenario(pool: FairPool) -> None:
        counter = Counter()
        adders = [Adder(counter) for _ in range(2)]
        for adder in adders:
            adder.start()
        for adder in adders:
            adder.join()
            assert not adder.is_alive()
        assert counter.value == 2

    assert isinstance(failure(scenario).__cause__, AssertionError)
    adder = Adder(Counter())  # a real one
    adder.start()
    adder.join()
    assert adder.counter.value == 1


def test_a_timer_of_threading_and_a_thread_that_exits() -> None:
    def scenario(pool: FairPool) -> None:
        woken = threading.Event()
        timer = threading.Timer(3600, woken.set)
        leaving = threading.Thread(target=sys.exit)
        for thread in (timer, leaving):
            thread.start()
        woken.wait()
        for thread in (timer, leaving):
            thread.join()

    assert explore(scenario, schedules=50) == 50


class Lazy:
    def __init__(self) -> None:
        self.made = 0

    @cached_property
    def value(self) -> int:
        made = self.made
        self.made = made + 1
        return made


def test_a_cached_property_has_points() -> None:
    def scenario(pool: FairPool) -> None:
        lazy = Lazy()
        for task in [pool.submit(lambda: lazy.value) for _ in range(2)]:
            task.result()
        assert lazy.made == 1

    if sys.version_info >= (3, 12):  # before, it has a lock
        assert isinstance(failure(scenario).__cause__, AssertionError)


def extend(items: list[int], more: int) -> None:
    items[:] = [*items[:], more]


def test_slices_are_points() -> None:
    def scenario(pool: FairPool) -> None:
        items: list[int] = []
        for task in [pool.submit(extend, items, i) for i in range(2)]:
            task.result()
        assert len(items) == 2

    assert isinstance(failure(scenario).__cause__, AssertionError)


def generates(pool: FairPool) -> Any:
    yield


async def generates_later(pool: FairPool) -> Any:
    yield


@pytest.mark.parametrize("scenario", [generates, generates_later])
def test_a_generator_is_no_scenario(scenario: Any) -> None:
    with pytest.raises(TypeError, match="not a generator's"):
        explore(scenario)


def test_a_scenario_that_is_not_the_same_each_time() -> None:
    calls: list[None] = []

    def scenario(pool: FairPool) -> None:
        calls.append(None)
        assert len(calls) != 3

    with pytest.raises(RuntimeError, match="not under the explorer's control"):
        explore(scenario)


# --- the world of a run ---------------------------------------------------------------------------


def test_time_is_virtual() -> None:
    async def naps() -> float:
        before = time.monotonic()
        await fairpool.sleep(3600)
        try:
            async with fairpool.timeout(60):
                await fairpool.sleep(3600)
        except TimeoutError:
            pass
        return time.monotonic() - before

    def scenario(pool: FairPool) -> None:
        before = time.monotonic()
        task = pool.submit(naps)
        time.sleep(10)
        assert task.result() == 3660
        assert time.monotonic() - before == 3660

    begin = time.monotonic()
    assert explore(scenario, schedules=20) == 20
    assert time.monotonic() - begin < 60


def test_timeouts_of_the_standard_library_are_virtual() -> None:
    def scenario(pool: FairPool) -> None:
        condition = threading.Condition()
        before = time.monotonic()
        with condition:
            assert not condition.wait_for(lambda: False, timeout=5)
        assert not threading.Event().wait(timeout=5)
        assert not threading.Semaphore(0).acquire(timeout=5)
        with pytest.raises(queue.Empty):
            queue.Queue[int]().get(timeout=5)
        assert time.monotonic() - before == 20

    assert explore(scenario, schedules=5) == 5


def test_what_is_measured_is_virtual() -> None:
    """What the package measures is a matter of the schedule alone."""
    seen = []

    def scenario(pool: FairPool) -> None:
        lock = pool.lock()
        before = time.monotonic_ns()
        tasks = [lock.submit(time.sleep, 10) for _ in range(2)]
        for task in tasks:
            task.result()
        assert 20_000_000_000 <= time.monotonic_ns() - before < 20_010_000_000
        assert 10 <= lock.statistics().busy < 20.01
        with lock:
            pass
        seen.append((lock.statistics().busy, lock.statistics().waits))

    for _ in range(2):
        assert explore(scenario, schedules=20) == 20
    assert seen[:20] == seen[20:]


def test_the_standard_library_on_top_of_it() -> None:
    def scenario(pool: FairPool) -> None:
        barrier, event, items = threading.Barrier(3), threading.Event(), queue.Queue[int](1)

        def work(number: int) -> int:
            barrier.wait()
            event.wait()
            items.put(number)
            return items.get()

        tasks = [pool.submit(work, number) for number in range(2)]
        barrier.wait()
        event.set()
        assert sorted(task.result() for task in tasks) == [0, 1]
        assert not event.wait(timeout=0) or event.is_set()

    assert explore(scenario, schedules=200) == 200


def world() -> list[object]:
    return [
        threading.Lock,
        threading.RLock,
        threading.Thread,
        time.monotonic,
        time.sleep,
        fairpool._core.park.Lock,
        fairpool._core.threads.Thread,
        fairpool._scheduler.find_work.random,
        fairpool._tasks.thread_wait.SPIN_LIMIT,
        vars(fairpool._scheduler.queues).get("set"),
        fairpool._core.report.LOGGER.__class__,
        sys.unraisablehook,
        getattr(sys, "monitoring", sys).__dict__.get("get_tool", lambda _: None)(3),
        sys.gettrace(),
    ]


@pytest.mark.parametrize("scenario", [no_lost_update, lost_update])
def test_everything_is_put_back(scenario: Callable[[FairPool], object]) -> None:
    before, threads = world(), threading.active_count()
    try:
        explore(scenario, schedules=100)
    except InterleavingError:
        assert scenario is lost_update
    assert world() == before
    assert threading.active_count() == threads
    with FairPool(2) as pool:
        assert pool.submit(int, 3).result() == 3


def test_what_a_failed_run_leaves_does_not_keep_the_process() -> None:
    """A pool without threads would be worked off at exit, and what it waits for is gone."""
    kept = []

    def scenario(pool: FairPool) -> None:
        kept.append(FairPool(0))
        kept[-1].submit(threading.Semaphore(0).acquire)
        raise ValueError

    before = fairpool._scheduler.process.live()
    assert isinstance(failure(scenario).__cause__, ValueError)
    assert kept
    assert fairpool._scheduler.process.live() == before


def test_other_threads_are_left_alone() -> None:
    stop = threading.Event()
    turns = []

    def outside() -> None:
        with FairPool(1) as pool:
            while not stop.is_set():
                turns.append(pool.submit(threading.Lock).result())

    thread = threading.Thread(target=outside)
    thread.start()
    try:
        explore(no_lost_update, schedules=100)
    finally:
        stop.set()
        thread.join()
    assert turns
    assert {type(lock) for lock in turns} == {type(threading.Lock())}


def test_one_at_a_time() -> None:
    def scenario(pool: FairPool) -> None:
        explore(no_lost_update)

    error = failure(scenario)
    assert isinstance(error.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"schedules": 0}, ValueError),
        ({"schedules": "3"}, TypeError),
        ({"seed": "a"}, TypeError),
        ({"preemptions": -1}, ValueError),
        ({"workers": -1}, ValueError),
        ({"modules": threading}, TypeError),
        ({"modules": "json"}, TypeError),
        ({"strategy": "best"}, ValueError),
        ({"replay": "x"}, ValueError),
        ({"workers": 0}, InterleavingError),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        explore(lost_update, **options)
    with pytest.raises(TypeError):
        explore(None)  # type: ignore[arg-type]


def test_the_same_in_another_process() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_explore\n"
        "print(test_explore.failure(test_explore.lost_update))\n"
    )
    folder = __file__.rpartition("/")[0]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, folder],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1


# --- PCT ------------------------------------------------------------------------------------------


def test_pct_keeps_its_promise() -> None:
    # n threads, k steps, a bug of depth 2: found with a probability of at least 1/(n·k). The bug:
    # thread 1 does its last step between the last two of thread 2.
    n, k = 3, 60

    class Program(Run):
        pass

    found = 0
    rounds = 4000
    for seed in range(rounds):
        run: Any = Program.__new__(Program)
        run.step = 0
        run.threads = [_run.Controlled(i, "", False) for i in range(n)]
        strategy = PCT(random.Random(seed), 2, k)
        left = dict.fromkeys(range(n), k // n)
        run.current = run.threads[0]
        order = []
        while any(left.values()):
            run.step += 1
            runnable = [each for each in run.threads if left[each.number]]
            run.current = strategy.choose(run, runnable)
            left[run.current.number] -= 1
            order.append((run.current.number, left[run.current.number]))
        last = order.index((1, 0))
        found += order.index((2, 1)) < last < order.index((2, 0))
    assert found / rounds >= 1 / (n * k)


# --- schedules that hypothesis draws --------------------------------------------------------------


def test_a_drawn_schedule_shrinks() -> None:
    found: list[Schedule] = []

    @settings(max_examples=500, deadline=None, database=None, derandomize=True)
    @given(schedules())
    def test(schedule: Schedule) -> None:
        counter = Counter()
        with schedule.pool(workers=2) as pool:
            for task in [pool.submit(counter.add) for _ in range(2)]:
                task.result()
        found.append(schedule)
        assert counter.value == 2

    with pytest.raises(AssertionError):
        test()
    assert len(found[-1]._switches) == 1, found[-1]
    assert any("self.value += 1" in line for _, line in found[-1].history)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schedules())
def test_a_drawn_schedule_of_what_is_right(schedule: Schedule) -> None:
    with schedule.pool() as pool:
        counter = Counter(threading.Lock())
        tasks = [pool.submit(counter.add) for _ in range(3)]
        assert sorted(task.result() for task in tasks) == [1, 2, 3]


def test_what_is_raised_in_the_block() -> None:
    with pytest.raises(InterleavingError) as caught, Schedule([]).pool(workers=1) as pool:
        pool.submit(int, "x").result()
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(InterleavingError) as caught, Schedule([]).pool(workers=1) as pool:
        threading.Event().wait()
    assert isinstance(caught.value.__cause__, Deadlock)
    with pytest.raises(KeyboardInterrupt), Schedule([]).pool(workers=1) as pool:
        raise KeyboardInterrupt


# --- linearizability ------------------------------------------------------------------------------


class Stack:
    def __init__(self) -> None:
        self.items: list[int] = []

    def push(self, item: int) -> None:
        self.items.append(item)

    def pop(self) -> int:
        return self.items.pop()

    def pop_badly(self) -> int | None:
        if self.items:
            item = self.items[-1]
            self.items = self.items[:-1]
            return item
        return None


class Model:
    def __init__(self) -> None:
        self.items: list[int] = []

    def push(self, item: int) -> None:
        self.items.append(item)

    def pop(self) -> int:
        return self.items.pop()

    def pop_badly(self) -> int | None:
        return self.items.pop() if self.items else None


def test_what_is_linearizable() -> None:
    def scenario(pool: FairPool) -> None:
        recorder = Recorder(Stack())
        tasks = [pool.submit(recorder.push, i) for i in range(3)]
        tasks += [pool.submit(recorder.pop) for _ in range(2)]
        for task in tasks:
            task.exception()
        recorder.check(Model)

    assert explore(scenario, schedules=300) == 300


def test_what_is_not_linearizable() -> None:
    def scenario(pool: FairPool) -> None:
        recorder = Recorder(Stack())
        recorder.push(1)
        recorder.push(2)
        for task in [pool.submit(recorder.pop_badly) for _ in range(2)]:
            task.result()
        recorder.check(Model)

    error = failure(scenario)
    assert isinstance(error.__cause__, NotLinearizable)
    assert "pop_badly() -> 2" in str(error.__cause__)


def test_an_order_in_time_is_kept() -> None:
    recorder = Recorder(Stack())
    with pytest.raises(IndexError):
        recorder.pop()
    recorder.push(1)
    recorder.check(Model)

    class Late(Model):
        def __init__(self) -> None:
            self.items = [1]

        def push(self, item: int) -> None:
            self.items.clear()

    with pytest.raises(NotLinearizable):  # it would do the other way round
        recorder.check(Late)


def test_a_cancelled_call_may_have_happened_or_not() -> None:
    class Slow(Stack):
        async def put(self, item: int, error: type[BaseException] | None = None) -> None:
            if error is not CancelledError:
                self.items.append(item)
            if error is not None:
                raise error

    class SlowModel(Model):
        def put(self, item: int, error: object = None) -> None:
            self.items.append(item)

    for error in CancelledError, None:
        recorder = Recorder(Slow())
        coroutine = recorder.put(7, error)
        with pytest.raises((StopIteration, CancelledError)):
            coroutine.send(None)
        recorder.check(SlowModel)
        if error is None:
            assert recorder.pop() == 7
        else:
            with pytest.raises(IndexError):
                recorder.pop()
        recorder.check(SlowModel)

    recorder = Recorder(Slow())
    with pytest.raises(ValueError):
        recorder.put(7, ValueError).send(None)
    with pytest.raises(NotLinearizable):  # that is no cancellation: the model raises nothing
        recorder.check(SlowModel)


def test_a_recorder_records_calls_only() -> None:
    with pytest.raises(AttributeError, match="records calls"):
        _ = Recorder(Stack()).items


def test_a_run_that_is_unwound_leaves_nothing_behind() -> None:
    def scenario(pool: FairPool) -> None:
        assert not vars(here)
        assert not waits()
        here.worker = here.thread_owner = pool  # as in the midst of a wait that was cut off
        write_wait(Future(), None, ())
        raise ValueError

    before = vars(here).copy(), waits()
    with pytest.raises(InterleavingError) as caught:
        explore(scenario, schedules=3)
    assert type(caught.value.__cause__) is ValueError
    assert (vars(here), waits()) == before


def test_a_name_that_is_gone_is_not_replaced_in_silence() -> None:
    values = {(fairpool._scheduler.worker, "NO_SUCH_NAME"): 1}
    with (
        pytest.raises(AttributeError, match=r"fairpool\._scheduler\.worker has no NO_SUCH_NAME"),
        _world.world(values=values),
    ):
        raise AssertionError("it was replaced")
    assert threading.Lock is not _world.new_lock
