"""Slots, searching, parking: no wake-up is lost, and the books are kept.

`Worker._search` is the searching and parking side of the protocol in `docs/protocols/parking.md`,
`Scheduler.put` the other one. Here a worker's code runs on the test's thread, its `Parker` is
scripted, and no thread is started: what `notify` does is only counted.
"""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from sys import exception
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from kit import LONG, TIMEOUT, check_whole
from unit.instructions import moments, nothing_follows

from fairpool import FairPool, Future, blocking
from fairpool._core.here import here
from fairpool._core.park import Parker, Parking
from fairpool._core.report import LOGGER
from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import yield_cpu
from fairpool._scheduler.blocking import SlotWaiter
from fairpool._scheduler.process import _before_collection
from fairpool._scheduler.scheduler import Scheduler
from fairpool._scheduler.worker import Worker

# --- the parts --------------------------------------------------------------------------------


def test_an_unpark_before_the_park_is_kept() -> None:
    parker = Parker()
    assert not parker.park(0)
    parker.unpark()
    assert parker.park(0)
    assert not parker.park(0)


def test_unpark_wakes_another_thread() -> None:
    parker = Parker()
    woken = threading.Event()
    thread = threading.Thread(target=lambda: parker.park() and woken.set())
    thread.start()
    parker.unpark()
    thread.join(TIMEOUT)
    assert woken.is_set()


def test_a_run_queue_is_first_in_first_out() -> None:
    queue = RunQueue()
    assert queue.take() is None
    assert not queue.holds_work()
    for item in "abc":
        queue.append(item)
    assert queue.holds_work()
    assert [queue.take() for _ in range(4)] == ["a", "b", "c", None]


def test_takers_take_each_task_once() -> None:
    queue = RunQueue()
    taken: list[list[int]] = [[], [], []]

    def take(mine: list[int]) -> None:
        while len(taken[0]) + len(taken[1]) + len(taken[2]) < 3000:
            item = queue.take()
            if item is not None:
                mine.append(item)

    threads = [threading.Thread(target=take, args=[mine]) for mine in taken]
    for thread in threads:
        thread.start()
    for i in range(3000):
        queue.append(i)
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(itertools.chain(*taken)) == list(range(3000))


# --- the books of slots and overcommits -----------------------------------------------------------


class FakeWorker:
    def __init__(self) -> None:
        self.parker = Parker()
        self.needs_slot = False  # set by `unpark_all`: as `Worker` has it


class Slots(RuleBasedStateMachine):
    """Workers and callers always keep `runnable = max - free slots + overcommits`."""

    def __init__(self) -> None:
        super().__init__()
        self.parking: Any = None
        self.runnable: list[FakeWorker] = []
        self.waiting: list[FakeWorker] = []
        self.parked: list[FakeWorker] = []

    def start(self, slot: list[None]) -> None:
        slot.clear()
        worker = FakeWorker()
        self.parking.searching.add(worker)
        self.runnable.append(worker)

    def woken(self) -> None:
        for worker in self.parked.copy():
            if worker.parker.park(0):
                if worker.needs_slot:
                    worker.needs_slot = False
                    self.parking.reclaim_slot()
                self.parked.remove(worker)
                self.runnable.append(worker)

    @precondition(lambda self: self.parking is None)
    @rule(slots=st.integers(1, 3))
    def open(self, slots: int) -> None:
        self.max = slots
        self.parking = Parking(slots, self.start, bool)

    @precondition(lambda self: self.parking is not None)
    @rule()
    def notify(self) -> None:
        before = len(self.runnable)
        idle_and_free = not self.parking.searching and len(self.parking.free_slots) > 0
        self.parking.notify()
        self.woken()
        assert len(self.runnable) - before == idle_and_free  # one, where one was due

    @precondition(lambda self: self.runnable)
    @rule(data=st.data())
    def find_work(self, data: st.DataObject) -> None:
        self.parking.searching.discard(data.draw(st.sampled_from(self.runnable)))

    @precondition(lambda self: self.runnable)
    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.runnable))
        self.parking.searching.discard(worker)
        self.runnable.remove(worker)
        self.parked.append(worker)
        self.parking.parked.append(worker)
        self.parking.release_slot()

    @precondition(lambda self: self.runnable)
    @rule(data=st.data())
    def wait(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.runnable))
        self.parking.searching.discard(worker)
        self.runnable.remove(worker)
        self.waiting.append(worker)
        self.parking.release_slot()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def return_from_wait(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(worker)
        self.runnable.append(worker)
        self.parking.reclaim_slot()

    @precondition(lambda self: self.runnable)
    @rule(data=st.data())
    def end_step(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.runnable))
        too_many = len(self.runnable) > self.max
        pays = self.parking.repay_overcommit()
        assert pays == too_many
        if pays:
            self.parking.searching.discard(worker)
            self.runnable.remove(worker)
            self.parked.append(worker)
            self.parking.parked.append(worker)

    @precondition(lambda self: self.parking is not None)
    @rule()
    def unpark_all(self) -> None:
        self.parking.unpark_all()
        self.woken()
        assert not self.parked

    @invariant()
    def the_books_are_right(self) -> None:
        if self.parking is not None:
            slots, overcommits = len(self.parking.free_slots), len(self.parking.overcommits)
            assert len(self.runnable) == self.max - slots + overcommits
            assert not (slots and overcommits)
            assert self.parking.parked == self.parked


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# --- a worker's code on this thread -------------------------------------------------------------


class ScriptedParker(Parker):
    """Parks nobody: says whether there is a token, and what to say where there is none."""

    def __init__(self, times_out: bool) -> None:
        super().__init__()
        self._times_out = times_out
        self.before_parking: Callable[[], object] = int

    def park(self, timeout: float | None = None) -> bool:
        self.before_parking()
        if self._lock.acquire(blocking=False):
            return True
        if self._times_out and timeout is not None:
            self._times_out = False  # once: then it would go round until another one takes the task
            return False
        here.worker = None  # a parked thread runs nothing, no finalizers either
        nothing_follows()
        raise Asleep


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """One that begins in the midst of a search has the worker counted on by nobody."""
    gc.disable()
    yield
    gc.enable()


class Asleep(BaseException):
    """The worker has parked, and nobody will wake it by itself."""


class BenchWorker(Worker):
    """Stays parked where its thread would sleep."""

    __slots__ = ()

    def _leave_park(self, unparked: bool) -> bool:
        return not isinstance(exception(), Asleep) and super()._leave_park(unparked)


class Bench:
    """A scheduler of which nothing runs by itself, and one of its workers, searching."""

    def __init__(self, max_workers: int = 1, times_out: bool = False) -> None:
        self.scheduler = Scheduler(max_workers, "bench", None, (), None, 0.0, lend=False)
        self.started = 0
        self.seen: list[Any] = []
        self.scheduler.parking._start = self._start
        self.worker = self.add_worker(times_out)
        self.scheduler.parking.free_slots.pop()
        self.scheduler.parking.searching.add(self.worker)

    def _start(self, slot: list[None]) -> None:
        slot.clear()
        self.started += 1

    def add_worker(self, times_out: bool = False) -> Worker:
        worker = BenchWorker(self.scheduler, "of the bench")
        worker.queue = RunQueue()
        worker.parker = ScriptedParker(times_out)
        self.scheduler.workers.append(worker)
        return worker

    @contextmanager
    def on_worker(self) -> Iterator[None]:
        here.worker = self.worker
        try:
            yield
        finally:
            here.worker = None

    def put(self, task: Any) -> None:
        """As from outside of the pool."""
        inside, here.worker = here.worker, None
        try:
            self.scheduler.put(task)
        finally:
            here.worker = inside

    def search(self) -> object:
        """What `_search` gives: a task, None when the worker ends, or "asleep"."""
        try:
            with self.on_worker():
                return self.worker._search()
        except Asleep:
            return "asleep"

    def check_books(self, what: object) -> None:
        parking = self.scheduler.parking
        runnable = self.started + (self.worker in self.scheduler.workers)
        runnable -= self.worker in parking.parked
        assert runnable == self.scheduler.max_workers - len(parking.free_slots) + len(
            parking.overcommits
        ), what


class FakeTask:
    """What a queue holds: nothing of it is looked at here."""

    def cancel(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fairpool._scheduler.worker.LOOKS_WHILE_SEARCHING", 1
    )  # more are more of the same


@pytest.mark.parametrize("times_out", [False, True])
def test_submit_against_parking(times_out: bool) -> None:
    # A task comes from outside at any moment of a worker's way from its last look into sleep, or,
    # by its time-out, out of the pool: it takes the task, or has been woken, or another one is
    # started.
    for moment in moments(shares=True):
        bench = Bench(times_out=times_out)
        task = FakeTask()
        with moment.do(lambda bench=bench, task=task: bench.put(task)):
            found = bench.search()
        if moment.reached:
            assert found is task or bench.started == 1, (moment, found)
        else:
            assert found == (None if times_out else "asleep")
            assert bench.started == 0
        bench.check_books(moment)


def test_submit_between_the_last_look_and_parking() -> None:
    # The same race by hand, as in the protocol:
    bench = Bench()
    task = FakeTask()
    arrivals = iter([task])

    def arrive() -> None:
        # 3. A task is queued. Its `put` sees the slot that the worker gave up in step 2, takes it,
        #    takes the worker out of the list and unparks it: before the worker parks.
        for arrival in arrivals:
            bench.put(arrival)
            assert bench.worker not in bench.scheduler.parking.parked
            assert bench.worker in bench.scheduler.parking.searching

    # 1. The worker finds nothing anywhere.
    # 2. It leaves `searching`, is listed as parked, gives up its slot and looks once more.
    bench.worker.parker.before_parking = arrive  # type: ignore[attr-defined]
    # 4. It parks, with the token there: awake at once, it searches and finds the task.
    assert bench.search() is task
    assert bench.started == 0
    bench.check_books("at the end")


@pytest.mark.parametrize("times_out", [False, True])
def test_a_del_submits_while_its_worker_parks(times_out: bool) -> None:
    # The collector runs a `__del__` on the worker's own thread, so that the task goes into its own
    # run queue, or would, if the worker were not just leaving the pool.
    for moment in moments(interrupts=True):
        bench = Bench(times_out=times_out)
        task = FakeTask()
        with moment.do(lambda bench=bench, task=task: bench.scheduler.put(task)):
            found = bench.search()
        if moment.reached and found is not task:
            assert bench.started == 1, moment
            assert bench.scheduler.has_work(), moment  # where the other one will find it
        bench.check_books(moment)


@pytest.mark.parametrize("times_out", [False, True])
def test_closing_against_parking(times_out: bool) -> None:
    for moment in moments(shares=True):
        bench = Bench(times_out=times_out)
        with moment.do(lambda bench=bench: bench.scheduler.close(RuntimeError("closed"))):
            found = bench.search()
        if moment.reached:
            assert found is None, moment
            assert bench.scheduler.workers == [], moment
        else:
            assert found == (None if times_out else "asleep")


@pytest.mark.parametrize("closed", [False, True])
def test_unpark_all_against_parking(closed: bool) -> None:
    for moment in moments(shares=True):
        bench = Bench()
        if closed:
            bench.scheduler.close(RuntimeError("closed"))
        with moment.do(bench.scheduler.parking.unpark_all):
            found = bench.search()
        assert found == (None if closed else "asleep"), moment
        bench.check_books(moment)


def test_a_searcher_leaves_while_something_is_queued() -> None:
    # Whoever queues a task notifies nobody while somebody searches. So the searcher, when it leaves
    # with a task of its own, has to look for whoever counted on it.
    for moment in moments(shares=True):
        bench = Bench(max_workers=2)
        first, second = FakeTask(), FakeTask()
        bench.scheduler.injector.append(first)
        with moment.do(lambda bench=bench, second=second: bench.put(second)):
            found = bench.search()
        assert found is first, moment
        if moment.reached:
            assert bench.started == 1, moment
            assert bench.scheduler.has_work(), moment
        else:
            assert bench.started == 0


def test_a_searcher_that_pays_a_debt_is_not_counted_on() -> None:
    # Unparked to search, it finds itself one too many, and parks. It must not be seen as searching:
    # then nobody would ever be notified again.
    bench = Bench()
    bench.scheduler.parking.overcommits.append(None)
    bench.worker.parker.before_parking = lambda: seen.extend(  # type: ignore[attr-defined]
        bench.scheduler.parking.searching
    )
    seen: list[object] = []
    assert bench.search() == "asleep"
    assert seen == []
    bench.put(FakeTask())
    assert not bench.scheduler.parking.overcommits


def test_a_worker_looks_everywhere() -> None:
    bench = Bench(max_workers=3)
    others = [bench.add_worker(), bench.add_worker()]
    outside, *stolen = tasks = [FakeTask(), FakeTask(), FakeTask()]
    bench.scheduler.injector.append(outside)
    for other, task in zip(others, stolen, strict=True):
        other.queue.append(task)
    found = [bench.worker.look() for _ in range(4)]
    assert found[0] is outside
    assert set(map(id, found[:3])) == set(map(id, tasks))
    assert found[3] is None


# --- foreign code in a search -----------------------------------------------------------------


class Foreign:
    """Says, when its last reference goes, what the worker is to the others at that moment."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __del__(self) -> None:
        parking = self.bench.scheduler.parking
        worker = self.bench.worker
        counted_on = worker in parking.searching or worker in parking.parked
        self.bench.seen.append((counted_on, len(parking.overcommits)))


@pytest.mark.parametrize("overcommits", [0, 1])
@pytest.mark.parametrize("attribute", ["item", "fn", "_last_acquirer"])
def test_what_was_run_last_goes_before_others_count_on_the_worker(
    attribute: str, overcommits: int
) -> None:
    bench = Bench()
    parking = bench.scheduler.parking
    parking.searching.discard(bench.worker)
    parking.overcommits.extend([None] * overcommits)
    setattr(bench.worker, attribute, Foreign(bench))
    assert bench.search() == "asleep"
    assert bench.seen == [(False, overcommits)]  # nor has it paid what it owes


def test_an_error_of_the_package_is_gone_before_the_worker_searches(
    make_pool: Callable[..., FairPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "disabled", True)  # a record holds the error, too

    class Held:
        pass

    class Fails:
        def run(self, worker: Worker) -> None:
            held = Held()  # in a frame of the error's
            references.append(weakref.ref(held))
            raise MemoryError

    references: list[weakref.ref[Held]] = []
    pool = make_pool(1, idle_timeout=LONG)
    scheduler = pool._scheduler
    scheduler.resume(Fails())
    while not (references and scheduler.parking.parked.copy()):
        yield_cpu()
    assert references[0]() is None
    assert pool.submit(int).result(TIMEOUT) == 0


def block(bench: Bench) -> None:
    with blocking():
        others_go_on(bench)


def queue_and_look(bench: Bench) -> None:
    bench.scheduler.put(FakeTask())
    assert bench.started
    others_go_on(bench)


def collect(bench: Bench) -> None:
    _before_collection()
    others_go_on(bench)


def others_go_on(bench: Bench) -> None:
    """The `__del__` goes on for long. What comes meanwhile must find another worker."""
    assert bench.worker not in bench.scheduler.parking.searching
    assert bench.worker not in bench.scheduler.parking.parked
    bench.started = 0
    bench.put(FakeTask())
    assert bench.started


class Late(Worker):
    """A worker that looks everywhere a moment before something is queued."""

    __slots__ = ("_left",)

    def look(self) -> Any:
        left = getattr(self, "_left", 1)
        self._left = left - 1
        return None if left > 0 else super().look()


@pytest.mark.parametrize("times_out", [False, True])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("foreign", [block, queue_and_look, collect])
def test_nobody_counts_on_a_worker_that_runs_foreign_code(
    foreign: Callable[[Bench], None],
    late: bool,
    times_out: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A `__del__` interrupts a worker's way from its last look into sleep, and waits, or queues
    # something and goes on for long; or the collector is about to run one. (On 3.11 it may start at
    # any allocation, so anywhere.) `late`: it has just missed a task, and wakes itself.
    if late:
        monkeypatch.setattr(f"{__name__}.Worker", Late)
    for moment in moments():
        bench = Bench(max_workers=9, times_out=times_out)
        if late:
            bench.scheduler.injector.append(FakeTask())
        errors: list[BaseException] = []

        def act(bench: Bench = bench, errors: list[BaseException] = errors) -> None:
            if here.worker is None:
                return  # it has left the pool
            try:
                foreign(bench)
            except AssertionError as error:
                errors.append(error)

        with moment.do(act):
            found = bench.search()
        assert not errors, (moment, errors)
        parking = bench.scheduler.parking
        assert bench.worker not in parking.searching, moment
        # It has come through: asleep and to be woken, with what was queued, or out of the pool.
        assert (found == "asleep") == (bench.worker in parking.parked), (moment, found)


@pytest.mark.parametrize("times_out", [False, True])
def test_foreign_code_comes_while_another_thread_unparks_its_worker(
    times_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = 0
    for moment in moments():
        bench = Bench(max_workers=9, times_out=times_out)
        parking, worker = bench.scheduler.parking, bench.worker
        rest: list[Callable[[], object]] = []
        counted_on: list[bool] = []

        def go_on(rest: list[Callable[[], object]] = rest) -> None:
            # 3. That thread goes on: it lists the worker as searching, and unparks it.
            while rest:
                rest.pop(0)()

        def act(
            bench: Bench = bench,
            parking: Any = parking,
            worker: Worker = worker,
            rest: list[Callable[[], object]] = rest,
            counted_on: list[bool] = counted_on,
        ) -> None:
            if worker not in parking.parked or not parking.free_slots:
                return
            # 1. A thread that has queued something takes a slot, and the worker.
            parking.free_slots.pop()
            parking.parked.remove(worker)
            rest += [
                lambda: parking.searching.add(worker),
                lambda: setattr(worker, "woken", True),
                worker.parker.unpark,
            ]
            # 2. The collector is about to run a `__del__` on the worker's thread, which may wait
            #    for that thread, and for no other.
            _before_collection()
            go_on()
            counted_on.append(worker in parking.searching)

        monkeypatch.setattr("fairpool._scheduler.worker.yield_cpu", go_on)
        with moment.do(act):
            bench.search()
        assert not any(counted_on), moment
        reached += len(counted_on)
    assert reached > 1


def test_foreign_code_on_a_thread_that_wakes_its_own_worker_waits_for_nobody() -> None:
    # A `__del__` that shuts the pool down on a worker that is about to park.
    for moment in moments():
        bench = Bench()
        parking = bench.scheduler.parking
        parking.searching.discard(bench.worker)
        bench.worker.parks = True
        parking.parked.append(bench.worker)
        with bench.on_worker(), moment.do(_before_collection):
            parking.unpark_all()
        assert bench.worker.woken, moment
        assert bench.worker.needs_slot, moment
        assert bench.worker.parker.park(0), moment
        assert here.notifying is None, moment


@pytest.mark.parametrize("where", ["outside", "in a worker", "in a caller"])
@pytest.mark.parametrize("wait", ["result", "exception", "wait", "as_completed", "then"])
def test_a_wait_gets_past_a_searcher_that_is_held_up(
    wait: str, where: str, make_pool: Callable[..., FairPool]
) -> None:
    # CPython 3.13t calls `__del__` on the thread that made the object, when that is woken: nobody
    # can see it coming.
    pool = make_pool(3, idle_timeout=LONG)
    parking = pool._scheduler.parking
    ways: dict[str, Callable[[Future[int]], object]] = {
        "result": lambda future: future.result(TIMEOUT),
        "exception": lambda future: future.exception(TIMEOUT) or 0,
        "wait": lambda future: futures.wait([future], TIMEOUT).done.pop().result(),
        "as_completed": lambda future: next(futures.as_completed([future], TIMEOUT)).result(),
        "then": lambda future: future.then(int).result(TIMEOUT),
    }

    def submit_and_wait() -> object:
        held_up = FakeWorker()
        assert parking.take_slot(held_up)
        try:
            return ways[wait](pool.submit(int))
        finally:
            parking.searching.discard(held_up)
            parking.release_slot()

    if where == "in a caller":
        assert pool.run(submit_and_wait) == 0
    elif where == "in a worker":
        assert pool.submit(submit_and_wait).result(TIMEOUT) == 0
    else:
        assert submit_and_wait() == 0


# --- in a real pool ---------------------------------------------------------------------------


def by_result(submit: Callable[..., Future[Any]]) -> None:
    submit(int).result(TIMEOUT)


def by_wait(submit: Callable[..., Future[Any]]) -> None:
    assert futures.wait([submit(int)], TIMEOUT).done


def by_other_means(submit: Callable[..., Future[Any]]) -> None:
    done = threading.Event()
    with blocking():
        submit(done.set)
        assert done.wait(TIMEOUT)


def in_another(submit: Callable[..., Future[Any]]) -> None:
    with blocking():
        by_result(submit)


@pytest.mark.parametrize("is_final", [False, True])
@pytest.mark.parametrize("foreign", [by_result, by_wait, by_other_means, in_another])
def test_a_wait_in_a_wait_is_not_counted_as_running(
    foreign: Callable[[Any], None],
    is_final: bool,
    make_pool: Callable[..., FairPool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A `__del__` interrupts a worker that waits for a future, and waits as well. What completes the
    # first future returns the worker's slot, before or meanwhile; but the worker does not run.
    def submit(fn: Callable[[], object]) -> Future[Any]:
        if is_final:
            outer.set_result(None)
            return pool.submit(fn)
        return pool.submit(lambda: (outer.set_result(None), pool.submit(fn).result(TIMEOUT)))

    def park(waiter: Any, *args: Any) -> bool:
        if interrupts:
            interrupts.pop()(submit)
        return real(waiter, *args)  # type: ignore[no-any-return]

    interrupts = [foreign]
    real = SlotWaiter.park
    monkeypatch.setattr(SlotWaiter, "park", park)
    pool = make_pool(1)
    outer: Future[None] = Future()
    pool.submit(outer.result).result(2 * TIMEOUT)
    assert not interrupts
    check_whole(pool)


def test_the_slots_are_whole_at_the_end(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(2, idle_timeout=0.001)

    def nested(depth: int) -> int:
        inner = pool.submit(nested, depth - 1) if depth else None
        return 1 + (inner.result() if inner is not None else 0)

    futures = [pool.submit(nested, 20) for _ in range(10)]
    assert [future.result(TIMEOUT) for future in futures] == [21] * 10
    pool.shutdown()
    parking = pool._scheduler.parking
    assert len(parking.free_slots) - len(parking.overcommits) == 2
    assert not parking.searching
    assert not parking.parked
    assert not pool._scheduler.workers
    assert not pool._scheduler.threads


def test_a_worker_with_a_debt_and_tasks_of_its_own_loses_none(
    make_pool: Callable[..., FairPool], gate: threading.Event
) -> None:
    # 1. `first` gives up the slot of a pool that has one, so that `second` runs on a second worker.
    # 2. `second` submits, into its own run queue, and lets `first` come back: one is too many.
    # 3. The second worker pays it at the end of its step, and parks; its time-out is over at once,
    #    and `first` keeps the only slot.
    # 4. What `second` submitted is still run.
    pool = make_pool(1, idle_timeout=0)
    unblock, is_back = threading.Event(), threading.Event()

    def first() -> None:
        with blocking():
            unblock.wait(TIMEOUT)
        is_back.set()
        gate.wait()

    def second() -> Any:
        inner = pool.submit(int, "7")
        unblock.set()
        is_back.wait(TIMEOUT)
        return threading.current_thread(), inner

    pool.submit(first)
    thread, inner = pool.submit(second).result(TIMEOUT)
    while thread.is_alive() and not pool._scheduler.parking.parked:
        pass
    thread.join(0.05)  # the time it may take to end, where its time-out makes it end
    assert not inner.done()
    gate.set()
    assert inner.result(TIMEOUT) == 7


def test_a_worker_that_is_starting_is_waited_for(make_pool: Callable[..., FairPool]) -> None:
    # Starting a worker takes those that have ended off the list of threads. One that is just
    # starting, in another thread's `submit`, has an ident, and is not "alive" yet.
    pool = make_pool(2)
    scheduler = pool._scheduler

    class Starting(threading.Thread):
        ident = 1  # type: ignore[assignment]

        def is_alive(self) -> bool:
            return False

    worker = Worker(scheduler, "starting")
    worker.thread = Starting()
    scheduler.threads.append(worker)
    assert pool.submit(int).result(TIMEOUT) == 0  # starts one
    assert worker in scheduler.threads
    scheduler.threads.remove(worker)
