"""Many threads at once, without a model: what was accepted is done exactly once, and all ends."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest
from kit import TIMEOUT, check_whole
from stress.conftest import run_all

from fairpool import FairPool, Future, blocking

pytestmark = pytest.mark.stress


def test_stampede(rounds: Iterator[int]) -> None:
    # Eight threads submit at once: each call is made exactly once, and nothing is lost.
    for number in rounds:
        pool = FairPool(1 + number % 3, idle_timeout=1000, max_pending=(None, 7)[number % 2])
        calls: list[list[int]] = [[] for _ in range(8)]

        def submit_all(mine: list[int], pool: FairPool = pool) -> None:
            futures = [pool.submit(mine.append, i) for i in range(200)]
            for future in futures:
                future.result(TIMEOUT)

        run_all(*(lambda mine=mine: submit_all(mine) for mine in calls))
        assert all(sorted(mine) == list(range(200)) for mine in calls)
        check_whole(pool, TIMEOUT)


def test_ping_pong(rounds: Iterator[int]) -> None:
    # One task at a time: each has to wake a worker that is just going to sleep.
    for _ in rounds:
        pool = FairPool(2, idle_timeout=1000)
        for i in range(300):
            assert pool.submit(int, i).result(TIMEOUT) == i
        run_all(*(lambda: [pool.submit(int).result(TIMEOUT) for _ in range(100)] for _ in range(2)))
        check_whole(pool, TIMEOUT)


def test_shrink_against_submit(rounds: Iterator[int]) -> None:
    # Threads end as soon as they find nothing, and are started again.
    for number in rounds:
        pool = FairPool(1 + number % 2, idle_timeout=(0, 0.00005)[number % 2])
        run_all(*(lambda: [pool.submit(int).result(TIMEOUT) for _ in range(100)] for _ in range(3)))
        check_whole(pool, TIMEOUT)


def test_nested_waits(rounds: Iterator[int]) -> None:
    for number in rounds:
        pool = FairPool(1 + number % 3, idle_timeout=1000)

        def tree(depth: int, pool: FairPool = pool) -> int:
            inner = [pool.submit(tree, depth - 1) for _ in range(2 if depth else 0)]
            if depth % 3 == 2:
                wait(inner)
            elif depth % 3 == 1:
                with blocking():
                    pass
            return 1 + sum(future.result() for future in inner)

        run_all(
            *(lambda: [pool.submit(tree, 5).result(TIMEOUT) for _ in range(5)] for _ in range(3))
        )
        check_whole(pool, TIMEOUT)


def test_slots_come_and_go(rounds: Iterator[int]) -> None:
    # Waits that end from outside, from tasks, and by their time-outs, all at once.
    for _ in rounds:
        pool = FairPool(2, idle_timeout=1000)
        gates = [Future[int]() for _ in range(60)]

        def waits(i: int, gates: list[Future[int]] = gates) -> int:
            if i % 3 == 0:
                try:
                    return gates[i].result(0.0001)
                except TimeoutError:
                    pass
            return gates[i].result()

        futures = [pool.submit(waits, i) for i in range(60)]
        openers = [
            lambda: [gate.set_result(1) for gate in gates[0::3]],
            lambda: [gate.set_result(1) for gate in gates[1::3]],
            lambda: [pool.submit(gate.set_result, 1) for gate in gates[2::3]],
        ]
        run_all(*openers)
        assert [future.result(TIMEOUT) for future in futures] == [1] * 60
        check_whole(pool, TIMEOUT)


def test_cancel_against_run(rounds: Iterator[int]) -> None:
    # Whoever wins: a task that says it is cancelled has not run and will not, and the others have.
    for number in rounds:
        pool = FairPool(2, idle_timeout=1000, max_pending=(None, 5)[number % 2])
        calls: Counter[int] = Counter()
        told: list[Any] = []
        futures: list[Any] = []
        done_submitting = threading.Event()

        def submit_all(pool: FairPool = pool) -> None:
            for i in range(300):
                future = pool.submit(lambda i=i: ran.append(i))
                future.add_done_callback(told.append)
                futures.append(future)
            done_submitting.set()

        def cancel_some() -> None:
            seen = 0
            while not (done_submitting.is_set() and seen == len(futures)):
                if seen < len(futures):
                    if random.random() < 0.7:
                        futures[seen].cancel()
                    seen += 1

        ran: list[int] = []
        run_all(submit_all, cancel_some, cancel_some)
        check_whole(pool, TIMEOUT)
        calls.update(ran)
        assert set(calls.values()) <= {1}
        for i, future in enumerate(futures):
            assert future.done()
            assert future.cancelled() == (i not in calls)
        assert Counter(map(id, told)) == Counter(map(id, futures))


def test_shutdown_against_submit(rounds: Iterator[int]) -> None:
    # A task that was accepted is run, unless it says that it was cancelled; one that was refused is
    # not.
    for number in rounds:
        pool = FairPool(
            2, idle_timeout=(0, 1000)[number % 2], max_pending=(None, 3)[number // 2 % 2]
        )
        cancel = number % 3 == 0
        accepted: list[tuple[int, Any]] = []
        refused: list[int] = []
        ran: list[int] = []

        def submit_all(start: int, pool: FairPool = pool) -> None:
            for i in range(start, start + 1000):
                try:
                    accepted.append((i, pool.submit(ran.append, i)))
                except RuntimeError:
                    refused.append(i)
                    return

        def submit_from_a_task(start: int, pool: FairPool = pool) -> None:
            try:
                future = pool.submit(submit_all, start)
            except RuntimeError:
                return
            wait([future], TIMEOUT)

        def close(pool: FairPool = pool) -> None:
            for _ in range(random.randrange(5)):
                pass
            pool.shutdown(cancel_futures=cancel)

        run_all(
            lambda: submit_all(0),
            lambda: submit_all(1000),
            lambda: submit_from_a_task(2000),
            close,
            close,
        )
        check_whole(pool, TIMEOUT)
        counts = Counter(ran)
        assert set(counts.values()) <= {1}
        assert not set(refused) & set(counts)
        for i, future in accepted:
            assert future.done(), i
            assert future.cancelled() == (i not in counts), i
            assert cancel or not future.cancelled(), i


def test_register_against_finish(rounds: Iterator[int]) -> None:
    # Callbacks, waits and views come while the result does: each is told exactly once.
    for _ in rounds:
        futures = [Future[int]() for _ in range(200)]
        told: list[list[int]] = [[], []]

        def register(mine: list[int], futures: list[Future[int]] = futures) -> None:
            for i, future in enumerate(futures):
                future.add_done_callback(lambda _, i=i: mine.append(i))

        def finish(futures: list[Future[int]] = futures) -> None:
            for future in futures:
                future.set_result(1)

        def ask(futures: list[Future[int]] = futures) -> None:
            for future in futures:
                assert future.result(TIMEOUT) == 1

        def watch(futures: list[Future[int]] = futures) -> None:
            assert not wait(futures, TIMEOUT).not_done

        run_all(lambda: register(told[0]), lambda: register(told[1]), finish, ask, watch)
        for mine in told:
            assert sorted(mine) == list(range(200))


def test_claim_by_hand_against_cancel(rounds: Iterator[int]) -> None:
    for _ in rounds:
        futures = [Future[int]() for _ in range(300)]
        outcomes: dict[int, list[str]] = {i: [] for i in range(300)}

        def execute(futures: list[Future[int]] = futures, outcomes: Any = outcomes) -> None:
            for i, future in enumerate(futures):
                if future.set_running_or_notify_cancel():
                    outcomes[i].append("started")
                    future.set_result(i)

        def cancel(futures: list[Future[int]] = futures, outcomes: Any = outcomes) -> None:
            for i, future in enumerate(futures):
                if future.cancel():
                    outcomes[i].append("cancelled")

        run_all(execute, cancel)
        for i, future in enumerate(futures):
            assert outcomes[i] == (["cancelled"] if future.cancelled() else ["started"])
            if future.cancelled():
                with pytest.raises(CancelledError):
                    future.result(0)
            else:
                assert future.result(0) == i
