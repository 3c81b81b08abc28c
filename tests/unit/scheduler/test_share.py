"""Shares: whom work is charged to, how the workers' time is divided, and what is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit import TIMEOUT, in_time, occupy

import fairpool
from fairpool import FairPool, Share
from fairpool._api.executor import submit_in
from fairpool._core import accounts as _share
from fairpool._core.accounts import (
    ABSENCE,
    CREDIT,
    CURRENT,
    QUANTUM,
    VIRTUAL_NANOSECOND,
    WEIGHT_MAX,
    WEIGHT_MIN,
    Principal,
    Shares,
    jain_index,
)
from fairpool._scheduler import blocking as _blocking
from fairpool._scheduler import find_work as _find_work

MILLISECOND = 1_000_000
YEAR = 31_536_000  # seconds


class Clock:
    """Stands still until a task moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000_000_000

    def __call__(self) -> int:
        return self.now

    def work(self, milliseconds: float) -> None:
        self.now += int(milliseconds * MILLISECOND)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(_share, "monotonic_ns", clock)
    monkeypatch.setattr(_blocking, "monotonic_ns", clock)
    monkeypatch.setattr(_find_work, "monotonic_ns", clock)
    return clock


def charged() -> str | None:
    """The share that whoever calls this is charged to."""
    principal = CURRENT.get()
    return None if principal is None else principal.name


async def charged_later() -> str | None:
    await fairpool.yield_now()
    return charged()


def statistics(pool: FairPool) -> fairpool.PoolStatistics:
    """Those of a pool of one worker, when the turn has ended whose results are there."""
    pool.submit(len, "").result(TIMEOUT)
    return pool.statistics()


# --- whom work is charged to ----------------------------------------------------------------------


def test_what_is_submitted_is_charged_to_the_share(make_pool: Callable[..., FairPool]) -> None:
    share = make_pool(2).share("one")
    assert share.submit(charged).result(TIMEOUT) == "one"
    assert share.submit(charged_later).result(TIMEOUT) == "one"
    assert list(share.map(lambda _: charged(), range(2), timeout=TIMEOUT)) == ["one", "one"]
    assert charged() is None


def test_what_a_task_submits_is_charged_to_its_share(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(2)
    lock = pool.lock()

    async def parent() -> list[Any]:
        return [
            await pool.submit(charged),
            await fairpool.create_task(charged_later()),
            await fairpool.gather(charged_later(), charged_later()),
            await lock.submit(charged),
            await lock.submit(charged_later),
            await pool.submit(charged).then(lambda _: charged()),
            await pool.submit(charged).then(lambda _: charged(), lock=lock),
        ]

    one, both = "one", ["one", "one"]
    assert pool.share("one").submit(parent).result(TIMEOUT) == [one, one, both, one, one, one, one]


def test_a_chain_is_charged_as_its_source_is(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(2)
    lock = pool.lock()
    future: Any = pool.share("one").submit(charged)
    for link in (None, lock, None):
        future = future.then(lambda before: (before, charged()), lock=link)
    assert future.result(TIMEOUT) == ((("one", "one"), "one"), "one")
    assert pool.submit(charged).then(lambda _: charged()).result(TIMEOUT) is None


def test_a_share_of_another_pool_is_none_of_this_pools(make_pool: Callable[..., FairPool]) -> None:
    one, other = make_pool(1), make_pool(1)
    share, foreign = one.share("one"), other.share("other")
    future = foreign.submit(lambda: share.submit(lambda: None) and one.submit(charged))
    assert future.result(TIMEOUT).result(TIMEOUT) == "other"  # it follows the context, …
    assert "other" not in one.statistics().worker_time  # … and has no part in this pool


def test_the_same_name_is_the_same_principal(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(1)
    first, second = pool.share("one", 2), pool.share("one", 2.0)
    assert first._principal is second._principal
    assert (second.name, second.weight) == ("one", 2.0)
    assert repr(second).startswith("<Share one, weight 2, of <FairPool ")
    with pytest.raises(ValueError, match="weight of 2; it cannot get another one \\(1\\)"):
        pool.share("one")


def test_threads_that_make_the_same_share_at_once(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(1)
    barrier = threading.Barrier(4)

    def make() -> None:
        barrier.wait()
        made.append(pool.share("one")._principal)

    for _ in range(50):
        made: list[Principal] = []
        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(made)) == 1
        assert made[0] in pool._scheduler.shares


@pytest.mark.parametrize("weight", ["1", None, True, 1j])
def test_a_weight_that_is_no_number(make_pool: Callable[..., FairPool], weight: Any) -> None:
    with pytest.raises(TypeError, match="weight must be a number"):
        make_pool(1).share("one", weight)


@pytest.mark.parametrize(
    "weight",
    [
        0,
        -1,
        float("inf"),
        float("nan"),
        1e-15,
        1e-9,
        1e-300,
        0.99e-6,
        1.01e6,
        1e300,
        pytest.param(10**400, id="10**400"),
    ],
)
def test_a_weight_out_of_bounds(make_pool: Callable[..., FairPool], weight: float) -> None:
    pool = make_pool(1)
    with pytest.raises(ValueError, match=r"weight must be between 1e-06 and 1e\+06, not "):
        pool.share("one", weight)
    assert pool.share("one").weight == 1  # it has not been made by that


@pytest.mark.parametrize("weight", [WEIGHT_MIN, 1e-3, 1, 1e3, WEIGHT_MAX, 10**6])
def test_statistics_of_extreme_weights(make_pool: Callable[..., FairPool], weight: float) -> None:
    with make_pool(1) as pool:
        share = pool.share("one", weight)
        lock = pool.lock(order="usage")
        other = pool.share("other", WEIGHT_MAX)
        for each in share, other:
            each.submit(lock.submit(int).result).result(TIMEOUT)
        assert 0 < pool.statistics().jain <= 1
        assert 0 < lock.statistics().jain <= 1


def test_a_name_that_is_no_string(make_pool: Callable[..., FairPool]) -> None:
    with pytest.raises(TypeError, match="name must be a str"):
        make_pool(1).share(1)  # type: ignore[arg-type]


# --- who is next ----------------------------------------------------------------------------------


class Division:
    """A pool's shares without a pool: what is chosen is charged at once."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.shares = Shares()

    def add(self, name: str, weight: float = 1.0, tasks: int = 1) -> Principal:
        principal = self.shares.add(Principal(None, name, weight))
        self.queue(principal, tasks)
        return principal

    def queue(self, principal: Principal, tasks: int) -> None:
        principal.queue.extend(range(tasks))
        self.shares.active[principal] = None

    def run(self, turns: int, milliseconds: float = 1.0) -> str:
        """Run turns, each one task of so long; who had them, by their names."""
        names = ""
        for _ in range(turns):
            principal = self.shares.choose()
            if principal is None:
                return names
            principal.queue.take()
            self.clock.work(milliseconds)
            principal.charges.append(int(milliseconds * MILLISECOND))
            self.shares.active[principal] = None
            names += principal.name
        return names


@pytest.fixture
def division(clock: Clock) -> Division:
    return Division(clock)


def test_shares_of_equal_weight_take_turns(division: Division) -> None:
    division.add("a", tasks=1000)
    division.add("b", tasks=3)
    assert division.run(8) == "abababaa"


def test_a_share_has_time_by_its_weight(division: Division) -> None:
    division.add("a", 3, tasks=100)
    division.add("b", 1, tasks=100)
    assert division.run(80).count("a") == 60


@pytest.mark.parametrize("weight", [WEIGHT_MIN, 1e-3, 1.0, WEIGHT_MAX])
@pytest.mark.parametrize("seconds", [2, 20 * 60, 10 * YEAR])
def test_what_one_share_has_used_absorbs_nothing_of_others(
    division: Division, weight: float, seconds: int
) -> None:
    # The issue's: a share that was kept busy for long, then two others of equal weight.
    division.add("a", weight, tasks=1000)
    division.run(1000, seconds)  # alone: so far its virtual time goes
    division.add("b", tasks=10_000)
    division.add("c", tasks=10_000)
    served = division.run(10_000, 1e-4)  # tasks of 100 ns
    assert served.count("b") == served.count("c") == 5000


@pytest.mark.parametrize("light", [WEIGHT_MIN, 1e-3, 1.0, 1e5])
@pytest.mark.parametrize("ratio", [1, 3, 10])
def test_shares_have_time_by_their_weights_after_years(
    division: Division, light: float, ratio: int
) -> None:
    division.add("a", light, tasks=100_000)
    division.add("b", light * ratio, tasks=100_000)
    served = division.run(20 * (ratio + 1), YEAR * 1000)  # each task as long as a year
    assert abs(served.count("a") - 20) <= 1


def test_tasks_count_by_their_length(division: Division) -> None:
    a = division.add("a", tasks=1000)
    b = division.add("b", tasks=1000)
    for _ in range(110):
        chosen = division.shares.choose()
        assert chosen is not None
        chosen.charges.append((10 if chosen is a else 1) * MILLISECOND)
    accounts = division.shares.ledger.accounts
    assert accounts[a].usage == pytest.approx(accounts[b].usage, abs=10 * MILLISECOND)


def test_two_workers_that_choose_at_once_choose_differently(division: Division) -> None:
    chosen: list[Principal | None] = []

    class Item:
        def run(self, worker: Any) -> None:
            chosen.append(division.shares.choose())  # the other worker, meanwhile
            division.clock.work(QUANTUM / MILLISECOND)  # as is expected

    scheduler: Any = type("Scheduler", (), {"principal_of": None, "shares": division.shares})
    worker: Any = type("Worker", (), {"blocked_time": 0, "extra_steps": 0})()
    both = [division.shares.add(Principal(scheduler, name, 1)) for name in "ab"]
    for principal in both:
        for _ in range(10):
            principal.append(Item())
    for _ in range(10):
        first = division.shares.choose()
        assert first is not None
        first.run(worker)
        assert {first, chosen.pop()} == {*both}


def test_a_newcomer_starts_at_the_average(division: Division) -> None:
    division.add("a", tasks=1000)
    division.add("b", tasks=1000)
    assert division.run(100).count("a") == 50
    division.add("c", tasks=1000)
    assert division.run(90).count("c") == 30  # not 90: it does not make good for the past


def test_one_that_comes_back_has_no_credit_for_its_absence(division: Division) -> None:
    division.add("a", tasks=10_000)
    b = division.add("b", tasks=1)
    division.run(1 + ABSENCE // MILLISECOND * 2)
    division.queue(b, 1000)
    assert division.run(100).count("b") == 50


def test_the_credit_of_one_that_uses_little_is_bounded(division: Division) -> None:
    division.add("a", tasks=20_000)
    b = division.add("b")
    for _ in range(20):  # never away for long enough to be a newcomer
        division.run(ABSENCE // MILLISECOND // 2)
        division.queue(b, 1)
    division.queue(b, 10_000)
    alone = CREDIT // VIRTUAL_NANOSECOND // MILLISECOND
    assert division.run(3 * alone).count("b") == pytest.approx(2 * alone, abs=2)


def test_a_token_that_is_taken_keeps_nobody(division: Division) -> None:
    a = division.add("a")
    a.charges.append(MILLISECOND)
    division.shares.token.clear()  # another thread is just bringing the ledger up to date
    assert division.shares.choose() is a
    assert len(a.charges) == 1
    division.shares.token.append(None)
    division.shares.choose()
    assert not a.charges


@pytest.mark.parametrize(
    ("values", "index"), [([], 1), ([0], 1), ([2, 2], 1), ([1, 0], 0.5), ([10, 1], 121 / 202)]
)
def test_jain_index(values: list[float], index: float) -> None:
    assert jain_index(values) == pytest.approx(index)


# --- on workers -----------------------------------------------------------------------------------


def test_a_flood_does_not_starve_another_share(
    make_pool: Callable[..., FairPool], clock: Clock, gate: threading.Event
) -> None:
    pool = make_pool(1)
    order: list[str] = []

    def task(name: str) -> None:
        order.append(name)
        clock.work(1)

    occupy(pool, gate)
    futures = [pool.share("a").submit(task, "a") for _ in range(100)]
    futures += [pool.share("b").submit(task, "b") for _ in range(10)]
    gate.set()
    for future in futures:
        future.result(TIMEOUT)
    assert "".join(order[:20]) == "ab" * 10
    assert statistics(pool).worker_time == {"a": pytest.approx(0.1), "b": pytest.approx(0.01)}
    assert pool.statistics().jain == pytest.approx(jain_index([100, 10]))


def test_work_with_and_without_a_share_take_turns(
    make_pool: Callable[..., FairPool], clock: Clock, gate: threading.Event
) -> None:
    pool = make_pool(1)
    order: list[str] = []

    def task(name: str) -> None:
        order.append(name)
        clock.work(1)

    occupy(pool, gate)
    futures = [pool.share("a").submit(task, "a") for _ in range(50)]
    futures += [pool.submit(task, "-") for _ in range(50)]
    gate.set()
    for future in futures:
        future.result(TIMEOUT)
    assert 18 <= order[:40].count("a") <= 22


def test_children_and_chains_stay_in_the_queue_of_their_share(
    make_pool: Callable[..., FairPool], clock: Clock, gate: threading.Event
) -> None:
    pool = make_pool(1)
    order: list[str] = []

    def task(name: str) -> None:
        order.append(name)
        clock.work(1)

    def parent() -> Any:
        clock.work(1)
        children = [pool.submit(task, "a") for _ in range(20)]
        return fairpool.gather(*[child.then(lambda _: task("a")) for child in children])

    occupy(pool, gate)
    flood = pool.share("a").submit(parent)
    futures = [pool.share("b").submit(task, "b") for _ in range(15)]
    gate.set()
    flood.result(TIMEOUT)
    for future in futures:
        future.result(TIMEOUT)
    # The parent was the first of a's. After that they take turns: nothing of a's goes ahead.
    assert order[:20].count("b") >= 9


async def yield_until(event: threading.Event) -> None:
    while not event.is_set():
        await fairpool.yield_now()


def test_one_that_always_yields_lets_the_others_run(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(1)
    for other in (pool, pool.share("b"), pool.share("a")):
        event = threading.Event()
        busy = [pool.share("a").submit(yield_until, event) for _ in range(3)]
        other.submit(event.set).result(TIMEOUT)
        for future in busy:
            future.result(TIMEOUT)


def test_one_that_is_resumed_by_others_is_charged_as_before(
    make_pool: Callable[..., FairPool], clock: Clock
) -> None:
    pool = make_pool(1)

    async def waits() -> None:
        for _ in range(5):
            await given  # what hands over to it has no share
            for _ in range(3):
                await fairpool.yield_now()
                clock.work(1)

    given: Any = pool.submit(fairpool.sleep, 0.001)
    pool.share("a").submit(waits).result(TIMEOUT)
    assert statistics(pool).worker_time["a"] == pytest.approx(0.015)


def test_continuations_of_critical_sections_are_charged(
    make_pool: Callable[..., FairPool], clock: Clock
) -> None:
    """What follows a section is published, and waits its share's turn all the same."""
    pool = make_pool(1)
    lock = pool.lock()
    order: list[str] = []

    async def user(name: str) -> None:
        for _ in range(20):
            async with lock:
                await fairpool.yield_now()  # the others have to queue
            order.append(name)
            clock.work(1)

    futures = [pool.share("a").submit(user, "a") for _ in range(4)]
    for future in futures:
        future.result(TIMEOUT)
    time = statistics(pool).worker_time["a"]
    assert time == pytest.approx(0.08, abs=0.001 * len(futures))


def test_time_that_a_task_is_blocked_is_not_charged(
    make_pool: Callable[..., FairPool], clock: Clock
) -> None:
    pool = make_pool(1)
    given: Any = fairpool.Future()

    def task() -> None:
        clock.work(1)
        with fairpool.blocking():
            clock.work(1000)
        threading.Thread(target=give).start()
        given.result()
        clock.work(1)

    def give() -> None:
        [worker] = pool._scheduler.workers
        while getattr(worker.wait, "thing", None) is not given:
            pass
        clock.work(1000)
        given.set_result(None)

    pool.share("a").submit(task).result(TIMEOUT)
    assert statistics(pool).worker_time == {"a": pytest.approx(0.002)}


def test_short_tasks_share_a_turn(make_pool: Callable[..., FairPool], clock: Clock) -> None:
    """One choice serves some dozens of small tasks, and no more than `QUANTUM` of them."""
    pool = make_pool(1)
    principal = pool.share("a")._principal
    worker: Any = type("Worker", (), {"blocked_time": 0, "extra_steps": 0})()
    ran = []

    class Item:
        def run(self, worker: Any) -> None:
            ran.append(None)
            clock.work(0.03)

    principal.queue.extend(Item() for _ in range(10))
    assert principal.run(worker) is None
    assert len(ran) == 4
    assert sum(principal.charges) == 120_000
    assert worker.extra_steps == 3
    principal.queue.clear()


# --- nothing is lost ------------------------------------------------------------------------------


def test_a_parked_worker_is_woken_for_a_share(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(2)
    share = pool.share("a")
    for _ in range(50):
        assert share.submit(lambda: 1).result(TIMEOUT) == 1
        while pool.statistics().parked < pool.statistics().workers:
            pass


def test_the_last_look_sees_the_queues_of_shares(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(1)
    principal = pool.share("a")._principal
    scheduler = pool._scheduler
    assert not scheduler.has_work()
    principal.append(fairpool.Task())
    assert scheduler.has_work()
    assert scheduler.queued() == 1
    assert "1 tasks queued" in repr(pool)
    principal.queue.clear()


def test_shutdown_runs_what_shares_have_queued(gate: threading.Event) -> None:
    pool = FairPool(1)
    occupy(pool, gate)
    futures = [pool.share(name).submit(len, name) for name in ("a", "bb") for _ in range(10)]
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.share("a").submit(len, "a")
    gate.set()
    in_time(pool.shutdown)
    assert {future.result(0) for future in futures} == {1, 2}


def test_shutdown_cancels_what_shares_have_queued(gate: threading.Event) -> None:
    pool = FairPool(1)
    occupy(pool, gate)
    futures = [pool.share("a").submit(len, "a") for _ in range(10)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    gate.set()
    in_time(pool.shutdown)


def test_a_share_that_is_shut_down_has_run_its_own(
    make_pool: Callable[..., FairPool], gate: threading.Event
) -> None:
    pool = make_pool(2)
    other = pool.submit(gate.wait, TIMEOUT)
    with pool.share("a") as share:
        futures = [share.submit(len, "a") for _ in range(10)]
    assert all(future.done() for future in futures)
    assert not other.done()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        share.submit(len, "a")
    assert pool.share("a").submit(len, "a").result(TIMEOUT) == 1
    assert pool.submit(len, "a").result(TIMEOUT) == 1


def test_a_share_that_is_shut_down_cancels_its_own(
    make_pool: Callable[..., FairPool], gate: threading.Event
) -> None:
    pool = make_pool(1)
    occupy(pool, gate)
    share: Share = pool.share("a")
    mine, other = share.submit(len, "a"), pool.share("a").submit(len, "a")
    share.shutdown(cancel_futures=True)  # waits for nothing that has not been started
    assert mine.cancelled()
    gate.set()
    assert other.result(TIMEOUT) == 1


def test_a_share_keeps_no_future_that_has_ended(make_pool: Callable[..., FairPool]) -> None:
    share = make_pool(1).share("a")
    future = share.submit(len, "a")
    future.result(TIMEOUT)
    while share._pending:  # told after whoever waits for the result
        pass


def test_a_share_that_is_shut_down_in_the_middle_of_a_submit(
    make_pool: Callable[..., FairPool], gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. submit finds the share open; 2. the share is shut down; 3. the task is queued."""
    pool = make_pool(1)
    occupy(pool, gate)
    share = pool.share("a")
    made = []

    def submit(*args: Any) -> Any:
        share.shutdown()
        made.append(submit_in(*args))
        return made[0]

    monkeypatch.setattr("fairpool._api.share.submit_in", submit)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        share.submit(len, "a")
    assert made[0].cancelled()


def test_statistics_can_be_read_while_others_count(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(2)
    lock = pool.lock()
    stats = lock.stats
    full = threading.Event()

    def count() -> None:
        while not full.is_set():
            for samples in (stats.waits, stats.own, stats.others):
                samples.append(1)

    counting = pool.submit(count)
    try:
        for _ in range(300):
            assert all(wait in (0, 1e-9) for wait in pool.statistics().locks[0].waits)
    finally:
        full.set()
    counting.result(TIMEOUT)


def test_a_pool_without_shares_has_nothing_of_them(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(1)
    pool.submit(len, "a").result(TIMEOUT)
    statistics = pool.statistics()
    assert statistics.worker_time == {}
    assert statistics.jain == 1
    assert not pool._scheduler.locks
