"""`fairpool.testing.simulate`: its clock, what it counts, what things cost, and that it repeats."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import gc
import importlib.util
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from unit.instructions import LONG_FORM

import fairpool
from fairpool import FairPool
from fairpool._core.threads import FREE_THREADED
from fairpool.testing import Costs, Deadlock, Simulation, _simulate, explore, simulate, work
from fairpool.testing._carriers import Greenlets, Threads

# A simulation has the whole process to itself.
pytestmark = pytest.mark.thread_unsafe

MICROSECOND = 1e-6

# Nothing takes time but `work`, and looking for it.
FREE = Costs(
    **{each.name: {"away": 1.0, "pause": 1e-6}.get(each.name, 0.0) for each in fields(Costs)}
)

HAS_GREENLETS = not FREE_THREADED and importlib.util.find_spec("greenlet") is not None
NEEDS_GREENLETS = pytest.mark.skipif(not HAS_GREENLETS, reason="there are no greenlets here")


def clients(count: int, turns: int, section: float, rest: float) -> Callable[[FairPool], list[int]]:
    """A program: clients that are inside one lock for a while, and then outside, in turns."""

    def program(pool: FairPool) -> list[int]:
        lock = pool.lock()
        done = [0] * count

        async def client(number: int) -> None:
            for _ in range(turns):
                async with lock:
                    work(section)
                    done[number] += 1
                work(rest)

        for future in [pool.submit(client, number) for number in range(count)]:
            future.result()
        return done

    return program


def independent(count: int, seconds: float) -> Callable[[FairPool], None]:
    """A program: tasks that have nothing to do with each other."""

    def program(pool: FairPool) -> None:
        for future in [pool.submit(work, seconds) for _ in range(count)]:
            future.result()

    return program


def fork_join(depth: int) -> Callable[[FairPool], int]:
    """A program: a tree of tasks; returns how many leaves there were."""

    async def node(depth: int) -> int:
        work(20 * MICROSECOND)
        if not depth:
            return 1
        return sum(await fairpool.gather(node(depth - 1), node(depth - 1)))

    return lambda pool: pool.submit(node, depth).result()


def of_everything(pool: FairPool) -> None:
    """A program in which each of the costs is spent."""
    lock, other = pool.lock(), pool.lock()

    async def client(number: int) -> None:
        for turn in range(20):
            async with lock:
                work(20 * MICROSECOND)
            async with other:
                work(12 * MICROSECOND)
            work(30 * MICROSECOND)
            if turn == number:
                await pool.submit(work, 40 * MICROSECOND)

    def parent() -> None:
        for child in [pool.submit(work, 50 * MICROSECOND) for _ in range(40)]:
            child.result()

    for future in [*(pool.submit(client, number) for number in range(8)), pool.submit(parent)]:
        future.result()


# --- answers that are known -----------------------------------------------------------------------


@pytest.mark.parametrize(("count", "workers", "rounds"), [(12, 4, 3), (13, 4, 4), (5, 8, 1)])
def test_independent_tasks_take_as_many_rounds_as_it_needs(
    count: int, workers: int, rounds: int
) -> None:
    simulation = simulate(independent(count, 1.0), workers, costs=FREE)
    assert simulation.elapsed == pytest.approx(rounds, abs=1e-3)
    assert simulation.throughput == pytest.approx(count / rounds, rel=1e-3)
    assert simulation.utilization == pytest.approx(count / rounds / workers, rel=1e-3)


@pytest.mark.parametrize("workers", [2, 3, 16])
def test_one_lock_is_the_bound_and_is_reached(workers: int) -> None:
    simulation = simulate(clients(8, 50, 1e-3, 0.5e-3), workers, costs=FREE)
    # After each pass of 2 ms it is the turn of what else its worker has.
    assert 1 <= simulation.elapsed / (8 * 50 * 1e-3 + 0.5e-3) < 1.01


def test_the_workers_are_the_bound_where_the_rests_are_long() -> None:
    simulation = simulate(clients(16, 20, 0.01, 1.0), 4, costs=FREE)
    assert simulation.elapsed == pytest.approx(16 * 20 * 1.01 / 4, rel=0.02)


def test_waits_are_those_of_a_queue() -> None:
    def program(pool: FairPool) -> None:
        lock = pool.lock("the lock")

        async def client() -> None:
            async with lock:
                work(1.0)

        for future in [pool.submit(client) for _ in range(10)]:
            future.result()

    simulation = simulate(program, 10, costs=FREE)
    (lock,) = simulation.locks
    assert (lock.name, lock.sections, lock.jain) == ("the lock", 10, 1.0)
    assert lock.busy == pytest.approx(10)
    assert lock.waits[0] == pytest.approx(4, abs=1e-3)  # of 0, 1, …, 9
    assert lock.longest_wait == pytest.approx(9, abs=1e-3)


def test_jains_index_is_that_of_the_time_inside() -> None:
    def program(pool: FairPool) -> None:
        lock = pool.lock()

        async def client(seconds: float) -> None:
            for _ in range(2):
                async with lock:
                    work(seconds)

        for future in [pool.submit(client, seconds) for seconds in (1.0, 3.0)]:
            future.result()

    (lock,) = simulate(program, 2, costs=FREE).locks
    assert lock.jain == pytest.approx((2 + 6) ** 2 / (2 * (2**2 + 6**2)))


def test_shares_are_not_charged_for_what_is_between_sections() -> None:
    def program(pool: FairPool) -> dict[str | None, float]:
        lock = pool.lock(order="usage")
        share = pool.share("one")

        async def client() -> None:
            for _ in range(50):
                async with lock:
                    work(MICROSECOND)

        for future in [share.submit(client) for _ in range(4)]:
            future.result()
        return dict(lock.statistics().usage)

    usage = simulate(program, workers=4, costs=replace(FREE, section=5e-6)).result
    assert usage["one"] == pytest.approx(200 * MICROSECOND)


def test_a_thread_that_waits_for_a_lock_waits_until_it_is_free() -> None:
    def program(pool: FairPool) -> None:
        lock = pool.lock()

        def client() -> None:
            with lock:
                work(1.0)

        futures = [pool.submit(client) for _ in range(4)]
        with lock:
            work(2.0)
        for future in futures:
            future.result()

    simulation = simulate(program, 4, costs=FREE)
    assert simulation.elapsed == pytest.approx(6, abs=1e-3)
    assert simulation.locks[0].sections == 5
    assert simulation.locks[0].busy == pytest.approx(6, abs=1e-3)
    assert simulation.locks[0].longest_wait == pytest.approx(5, abs=1e-3)


def test_an_rlock_belongs_to_a_virtual_thread() -> None:
    def program(pool: FairPool) -> None:
        lock = threading.RLock()

        def client() -> None:
            with lock, lock:
                work(1.0)

        for future in [pool.submit(client) for _ in range(3)]:
            future.result()

    assert simulate(program, 3, costs=FREE).elapsed == pytest.approx(3, abs=1e-3)


def test_a_wait_that_has_timed_out_is_over() -> None:
    def program(pool: FairPool) -> float:
        lock = threading.Lock()

        def client() -> float:
            assert not lock.acquire(timeout=1.0)
            work(10.0)
            return time.monotonic()

        begin = time.monotonic()
        with lock:
            future = pool.submit(client)
            work(5.0)
        return future.result() - begin

    assert simulate(program, 1, costs=FREE).result == pytest.approx(11, abs=1e-3)


# --- each task exactly once -----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3, 64])
def test_each_task_is_run_exactly_once(workers: int) -> None:
    def program(pool: FairPool) -> list[int]:
        done: list[int] = []

        def leaf(number: int) -> None:
            work(number % 7 * MICROSECOND)
            done.append(number)

        def branch(number: int) -> list[Any]:
            return [pool.submit(leaf, number * 20 + i) for i in range(20)]

        for branches in [pool.submit(branch, number) for number in range(50)]:
            for future in branches.result():
                future.result()
        return done

    simulation = simulate(program, workers)
    assert sorted(simulation.result) == list(range(1000))
    assert simulation.tasks == simulation.steps == 1050
    assert simulation.worked == pytest.approx(sum(n % 7 for n in range(1000)) * MICROSECOND)


@pytest.mark.parametrize("workers", [1, 2, 32])
def test_each_child_of_a_gather_is_a_task_and_is_counted_once(workers: int) -> None:
    simulation = simulate(fork_join(7), workers)
    assert simulation.result == 128
    assert simulation.tasks == 255
    assert simulation.worked == pytest.approx(255 * 20 * MICROSECOND)


def test_children_that_end_in_their_first_step_are_counted_too() -> None:
    async def child() -> None:
        work(1.0)

    async def program(pool: FairPool) -> None:
        await fairpool.gather(*(child() for _ in range(100)))

    simulation = simulate(program, 1, costs=FREE)
    assert simulation.tasks == 101
    assert simulation.elapsed == pytest.approx(100, abs=1e-3)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_each_section_is_counted_once(workers: int) -> None:
    simulation = simulate(clients(6, 30, 15 * MICROSECOND, 15 * MICROSECOND), workers)
    assert simulation.result == [30] * 6
    assert simulation.locks[0].sections == 180
    assert simulation.tasks == 6


def test_sections_by_delegation_are_counted_too() -> None:
    def program(pool: FairPool) -> int:
        lock = pool.lock()
        sections = [lock.submit(work, 0.5) for _ in range(20)]
        for section in sections:
            section.result()
        return len(sections)

    simulation = simulate(program, 3, costs=FREE)
    assert simulation.elapsed == pytest.approx(10, abs=1e-3)
    assert simulation.locks[0].sections == simulation.locks[0].combined == simulation.tasks == 20
    assert simulation.locks[0].longest_wait == pytest.approx(9.5, abs=1e-3)


# --- the same again -------------------------------------------------------------------------------


@pytest.mark.parametrize("program", [of_everything, fork_join(6)])
def test_the_same_seed_gives_the_same_simulation(program: Callable[[FairPool], Any]) -> None:
    first, second = simulate(program, 6, seed=3), simulate(program, 6, seed=3)
    assert first == second
    assert first.events == second.events > 100


def test_another_seed_steals_from_others() -> None:
    seen = {simulate(of_everything, 6, seed=seed).elapsed for seed in range(5)}
    assert len(seen) > 1


@NEEDS_GREENLETS
@pytest.mark.parametrize("program", [of_everything, fork_join(6)])
def test_threads_and_greenlets_make_no_difference(program: Callable[[FairPool], Any]) -> None:
    on_threads, on_greenlets = (
        _simulate.run(program, 5, 1, Costs(), carriers) for carriers in (Threads(), Greenlets())
    )
    assert on_threads == on_greenlets


# --- a thread's identity --------------------------------------------------------------------------

CARRIERS = [Threads, pytest.param(Greenlets, marks=NEEDS_GREENLETS)]


class _Numbered(threading.local):
    """Is given its arguments once in each thread."""

    def __init__(self, start: int) -> None:
        self.number = start


# Made before any simulation, as the modules of a program do it.
_EARLY = threading.local()
_NUMBERED = _Numbered(7)


def tell_where_it_runs(pool: FairPool) -> list[Any]:
    """Whatever a task can learn of its thread, in one tuple a task.

    Every task waits inside, so that all workers are in the middle of it at the same time.
    """
    late = threading.local()
    main = threading.current_thread()

    def look(number: int) -> Any:
        me = threading.current_thread()
        locals_ = _EARLY, _NUMBERED, late
        before = [getattr(each, "number", None) for each in locals_]
        for each in locals_:
            each.number = number
        asyncio._set_running_loop(None)
        sys.set_asyncgen_hooks(firstiter=look)
        work(0.1)
        mine = [each.number for each in locals_] == [number] * 3
        for each in locals_:
            each.number = before
        return (
            before if number < 4 else None,
            mine,
            me.name,
            me.ident,
            me.native_id,
            me.is_alive(),
            me is main,
            threading.get_ident() == _thread.get_ident() == me.ident,
            threading.get_native_id() == _thread.get_native_id() == me.native_id,
            me in threading.enumerate(),
            threading.current_thread() is threading.main_thread(),
        )

    async def loops() -> Any:
        own = asyncio.get_running_loop()
        work(0.1)
        return asyncio.get_running_loop() is own

    told = list(pool.map(look, range(12)))
    told.append(list(pool.map(asyncio.run, [loops() for _ in range(8)])))
    return told


@pytest.fixture
def unfrozen() -> Iterator[None]:
    """The simulation finds each `threading.local` by the collector: see tests/conftest."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("unfrozen")
@pytest.mark.parametrize("carriers", CARRIERS)
def test_each_worker_is_a_thread_of_its_own(carriers: Any) -> None:
    def names() -> list[Any]:
        return sorted(each.name for each in threading.enumerate())

    before = names(), threading.get_ident(), vars(_EARLY).copy(), sys.get_asyncgen_hooks()
    told = _simulate.run(tell_where_it_runs, 4, 1, Costs(), carriers()).result
    looks, loops = told[:-1], told[-1]
    assert [look[0] for look in looks[:4]] == [[None, 7, None]] * 4  # nobody else's values
    for _, mine, _, ident, native_id, alive, is_main, *same, in_main in looks:
        assert mine
        assert alive
        assert not is_main
        assert not in_main
        assert all(same)
        assert ident == native_id
    assert len({look[2] for look in looks}) == len({look[3] for look in looks}) == 4
    assert loops == [True] * 8
    assert (names(), threading.get_ident(), vars(_EARLY), sys.get_asyncgen_hooks()) == before


@NEEDS_GREENLETS
@pytest.mark.usefixtures("unfrozen")
def test_a_program_cannot_tell_greenlets_from_threads() -> None:
    on_threads, on_greenlets = (
        _simulate.run(tell_where_it_runs, 4, 1, Costs(), carriers)
        for carriers in (Threads(), Greenlets())
    )
    assert on_threads == on_greenlets


# --- costs ----------------------------------------------------------------------------------------

# By the name under which the time is found in `spent`, where that is another one.
SPENT_AS = {"pause": "search", "lock": "locks"}


@pytest.mark.parametrize("name", [each.name for each in fields(Costs) if each.name != "away"])
def test_each_cost_is_spent(name: str) -> None:
    cheap = replace(Costs(), **{name: 1e-9})
    dear = replace(Costs(), **{name: 1e-3})
    less, more = simulate(of_everything, 3, costs=cheap), simulate(of_everything, 3, costs=dear)
    spent_as = SPENT_AS.get(name, name)
    assert more.spent[spent_as] > 1000 * less.spent[spent_as] > 0
    assert more.elapsed > less.elapsed


def test_a_pass_is_one_step_and_its_sections_are_none() -> None:
    def program(pool: FairPool) -> None:
        lock = pool.lock()
        for section in [lock.submit(work, 0.5) for _ in range(20)]:
            section.result()

    simulation = simulate(program, 1, costs=replace(FREE, step=1e-3))
    assert simulation.steps == 20
    assert simulation.spent["step"] == pytest.approx(simulation.locks[0].passes * 1e-3)


def test_a_task_that_has_started_children_goes_on_with_the_same_step() -> None:
    async def child() -> None:
        work(MICROSECOND)

    async def program(pool: FairPool) -> None:
        for _ in range(3):
            await fairpool.gather(child(), child(), eager_start=True)
        await fairpool.yield_now()

    simulation = simulate(program, 1, costs=replace(FREE, step=MICROSECOND))
    assert (simulation.tasks, simulation.steps) == (7, 8)
    assert simulation.spent["step"] == pytest.approx(8 * MICROSECOND)


def test_a_thread_waits_for_a_lock_until_it_is_awake() -> None:
    def program(pool: FairPool) -> None:
        lock = pool.lock()

        def client() -> None:
            with lock:
                work(1.0)

        for future in [pool.submit(client) for _ in range(2)]:
            future.result()

    (lock,) = simulate(program, 2, costs=replace(FREE, wake=0.5)).locks
    assert lock.sections == 2
    assert lock.longest_wait == pytest.approx(1.5, abs=1e-3)
    assert lock.busy == pytest.approx(2, abs=1e-3)


def test_a_caller_spends_what_a_worker_does() -> None:
    async def task() -> None:
        for _ in range(4):
            await fairpool.yield_now()

    def program(pool: FairPool) -> None:
        with FairPool(0) as own:
            own.run(task)

    simulation = simulate(program, 1, costs=replace(FREE, step=1e-3))
    assert simulation.steps == 5
    assert simulation.spent["step"] == pytest.approx(5e-3)


def test_classes_are_as_before() -> None:
    package = [
        kind
        for name, module in sys.modules.items()
        if name.startswith("fairpool._")
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__.startswith("fairpool._")
    ]
    before = [vars(kind).copy() for kind in package]
    simulate(of_everything, 2)
    assert [vars(kind).copy() for kind in package] == before


def test_a_section_away_takes_longer() -> None:
    near, far = (simulate(of_everything, 3, costs=Costs(away=away)) for away in (1, 5))
    assert sum(lock.away for lock in far.locks) > 0
    assert far.worked > near.worked
    assert simulate(of_everything, 1, costs=Costs(away=5)).worked == pytest.approx(
        simulate(of_everything, 1, costs=Costs(away=1)).worked
    )


def test_a_scan_of_all_queues_costs_a_look_at_each() -> None:
    few, many = (simulate(independent(96, 0.01), workers) for workers in (4, 32))
    assert many.spent["check"] / many.parks > 4 * few.spent["check"] / few.parks > 0


@pytest.mark.parametrize("program", [of_everything, fork_join(6)])
def test_each_look_is_paid_for(program: Callable[[FairPool], Any]) -> None:
    simulation = simulate(program, 8)
    spent, costs = simulation.spent, simulation.costs
    assert spent["look"] > 0
    paid = spent["look"] / costs.look + spent["check"] / costs.check
    assert paid == pytest.approx(simulation.looks, rel=1e-2)


def test_the_values_of_a_free_threaded_build_are_those_of_the_package() -> None:
    assert _simulate.FREE_THREADED_VALUES
    if FREE_THREADED:
        for (module, name), value in _simulate.FREE_THREADED_VALUES.items():
            assert getattr(module, name) == value, name


# --- the virtual clock ----------------------------------------------------------------------------


def test_time_is_virtual() -> None:
    async def program(pool: FairPool) -> tuple[float, float]:
        begin, begin_ns = time.monotonic(), time.monotonic_ns()
        await fairpool.sleep(3600)
        slept = time.monotonic() - begin
        assert time.monotonic_ns() - begin_ns == pytest.approx(slept * 1e9)
        time.sleep(60)
        work(1.0)
        return slept, time.monotonic() - begin

    began = time.monotonic()
    simulation = simulate(program, 2, costs=FREE)
    assert time.monotonic() - began < 30
    assert simulation.result == pytest.approx((3600, 3661), abs=1e-3)
    assert simulation.elapsed == pytest.approx(3661, abs=1e-3)


def test_work_after_the_program_has_returned_counts() -> None:
    def program(pool: FairPool) -> None:
        pool.submit(work, 5.0)

    simulation = simulate(program, 1, costs=FREE)
    assert simulation.tasks == 1
    assert simulation.elapsed == pytest.approx(5, abs=1e-3)


def test_waiting_in_a_task_takes_no_worker_away() -> None:
    def program(pool: FairPool) -> None:
        gate = threading.Event()

        def waits() -> None:
            with fairpool.blocking():
                gate.wait()

        waiting = [pool.submit(waits) for _ in range(2)]
        pool.submit(work, 1.0).result()
        gate.set()
        for future in waiting:
            future.result()

    assert simulate(program, 2, costs=FREE).elapsed == pytest.approx(1, abs=1e-3)


# --- what goes wrong ------------------------------------------------------------------------------


def raises(pool: FairPool) -> None:
    pool.submit(work, 1.0)
    raise LookupError("said the program")


async def raises_in_a_task(pool: FairPool) -> None:
    work(1.0)
    raise LookupError("said the program")


@pytest.mark.parametrize("program", [raises, raises_in_a_task])
@pytest.mark.parametrize(
    "carriers",
    [
        Threads,
        pytest.param(
            Greenlets,
            marks=NEEDS_GREENLETS,
        ),
    ],
)
def test_what_the_program_raises_is_raised(program: Any, carriers: Any) -> None:
    before = threading.active_count()
    with pytest.raises(LookupError, match="said the program"):
        _simulate.run(program, 3, 0, Costs(), carriers())
    assert threading.active_count() == before
    check_that_all_is_as_before()


class EndLate(Threads):
    """A thread of the system still runs for a while when another one has gone on."""

    def leave(self, to: Any) -> None:
        super().leave(to)
        time.sleep(0.005)


@pytest.mark.parametrize("program", [raises, raises_in_a_task])
def test_no_thread_is_counted_that_has_ended(program: Any) -> None:
    before = threading.enumerate()
    with contextlib.suppress(LookupError):
        _simulate.run(program, 3, 0, Costs(), EndLate())
    assert threading.enumerate() == before


def test_a_program_that_waits_for_ever_is_a_deadlock() -> None:
    def program(pool: FairPool) -> None:
        pool.submit(threading.Event().wait).result()

    with pytest.raises(Deadlock, match="no thread can go on: main, FairPool-0_0"):
        simulate(program, 3)
    check_that_all_is_as_before()


def test_ctrl_c_ends_a_simulation() -> None:
    def program(pool: FairPool) -> None:
        def task() -> None:
            signal.raise_signal(signal.SIGINT)
            while True:
                work(1.0)

        pool.submit(task).result()

    with pytest.raises(KeyboardInterrupt):
        simulate(program, 2)
    check_that_all_is_as_before()


def check_that_all_is_as_before() -> None:
    """A real pool, an explored one and a simulated one do what they should."""
    with FairPool(2) as pool:
        assert pool.submit(sum, [1, 2]).result(30) == 3
        with pytest.raises(RuntimeError, match="work"):
            pool.submit(work, 1.0).result(30)
    assert explore(lambda pool: pool.submit(int).result(), schedules=3) == 3
    assert simulate(independent(4, 1.0), 2, costs=FREE).elapsed == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None,), TypeError, "callable, not None"),
        ((raises, 2.0), TypeError, "workers must be an int, not 2.0"),
        ((raises, True), TypeError, "workers must be an int, not True"),
        ((raises, 0), ValueError, "workers must be from 1 to 10000, not 0"),
        ((raises, 10_001), ValueError, "workers must be from 1 to 10000, not 10001"),
        ((raises, 2, "x"), TypeError, "seed must be an int, not 'x'"),
    ],
)
def test_arguments_are_checked(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        simulate(*arguments)


def test_costs_are_checked() -> None:
    with pytest.raises(TypeError, match="costs must be Costs, not 3"):
        simulate(raises, costs=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="steal must be a number, not '1'"):
        Costs(steal="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wake must be at least 0, and finite, not -1"):
        Costs(wake=-1)
    with pytest.raises(ValueError, match=r"away must be at least 1, and finite, not 0\.5"):
        Costs(away=0.5)
    with pytest.raises(ValueError, match="and finite, not nan"):
        Costs(step=float("nan"))


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_work_takes_a_time(seconds: float) -> None:
    def program(pool: FairPool) -> None:
        with pytest.raises(ValueError, match="at least 0 seconds"):
            work(seconds)

    simulate(program, 1)


def test_work_is_for_simulations() -> None:
    with pytest.raises(RuntimeError, match=r"programs that fairpool\.testing\.simulate"):
        work(1.0)


def test_simulations_are_not_nested() -> None:
    def program(pool: FairPool) -> None:
        simulate(raises, 1)

    with pytest.raises(RuntimeError, match="cannot be nested"):
        simulate(program, 1)
    check_that_all_is_as_before()


# --- many workers ---------------------------------------------------------------------------------


def test_many_workers_that_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each would look a hundred times at the queues of a thousand: that takes a minute for all.
    monkeypatch.setitem(_simulate.VALUES, (fairpool._scheduler.worker, "LOOKS_WHILE_SEARCHING"), 2)
    # A thousand threads of the system take ten seconds; greenlets, one.
    workers = 1024 if HAS_GREENLETS or LONG_FORM else 256
    simulation: Simulation = simulate(independent(3 * workers - 72, 1.0), workers)
    assert simulation.workers == workers
    assert simulation.tasks == 3 * workers - 72
    assert simulation.worked == pytest.approx(3 * workers - 72)
    # Three rounds; the last worker is started a quarter of a second after the first one.
    assert 3 < simulation.elapsed < 3.3


def test_a_thousand_workers_are_the_default() -> None:
    assert simulate(independent(1, 1.0)).workers == 1024
