"""A state machine over everything public, against a model.

Hypothesis chooses what is done next, one operation after the other, on one pool of 1 to 16 workers,
or of callers only; what the operations start goes on side by side. The model knows of each future
which outcomes it may have: a number, that it fails, that it is cancelled (if somebody has tried),
that it was timed out. In the end the pool is shut down, in one of the ways there are, and every
future has one of its outcomes, every section was inside once, and nothing is left.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kit import TIMEOUT, Mishap, check_free
from stress.conftest import SECONDS

from fairpool import CancelledError, FairPool, TaskGroup, gather, sleep, timeout, yield_now

pytestmark = pytest.mark.stress

LOCKS = 3

FAILS = "fails"
CANCELLED = "cancelled"
TIMED_OUT = "timed out"
REFUSED = "refused"  # what it would have started came after the shutdown

numbers = st.integers(0, 99)
locks = st.integers(0, LOCKS - 1)


class Entry:
    """A future, and what the model says of it."""

    def __init__(self, future: Any, outcomes: set[Any], sources: tuple[Entry, ...] = ()) -> None:
        self.future = future
        self.outcomes = outcomes
        self.sources = sources
        self.victim = False  # somebody has tried to cancel it

    def may_be_cancelled(self) -> bool:
        return self.victim or any(source.may_be_cancelled() for source in self.sources)


class Account:
    """What a lock guards: counted without any atomic operation."""

    def __init__(self) -> None:
        self.inside = 0
        self.total = 0
        self.tokens: list[object] = []  # of those that were inside

    def enter(self, token: object) -> None:
        assert self.inside == 0, "two are inside"
        self.inside += 1
        self.total += 1
        self.tokens.append(token)

    def leave(self) -> None:
        assert self.inside == 1, "two are inside"
        self.inside -= 1


def plain(value: int, fails: bool) -> int:
    if fails:
        raise Mishap
    return value


async def steps(value: int, fails: bool, pauses: int) -> int:
    for _ in range(pauses):
        await yield_now()
    await sleep(1e-5 * pauses)
    return plain(value, fails)


def section(account: Account, token: object, value: int, fails: bool) -> int:
    account.enter(token)
    try:
        return plain(value, fails)
    finally:
        account.leave()


async def long_section(account: Account, token: object, value: int, fails: bool) -> int:
    account.enter(token)
    try:
        await yield_now()
        return plain(value, fails)
    finally:
        account.leave()


async def total(futures: list[Any]) -> int:
    return sum(await gather(*futures))


async def in_a_group(value: int, fails: bool) -> int:
    try:
        async with TaskGroup() as group:
            group.create_task(steps(0, False, 2))
            one = group.create_task(steps(value, fails, 1))  # last: it may fail at once
    except* Mishap:
        pass
    return plain(value, fails) if one.done() else -1


class Machine(RuleBasedStateMachine):
    futures: Bundle[Entry] = Bundle("futures")

    @initialize(
        workers=st.integers(0, 16),
        max_pending=st.sampled_from([None, None, 3]),
        idle_timeout=st.sampled_from([0, 0.0005, 1000]),
        shares=st.booleans(),
        lend=st.sampled_from([None, True]),
    )
    def begin(
        self,
        workers: int,
        max_pending: int | None,
        idle_timeout: float,
        shares: bool,
        lend: bool | None,
    ) -> None:
        self.workers = workers
        self.pool = FairPool(
            workers,
            max_pending=max_pending if workers else None,
            idle_timeout=idle_timeout,
            lend=lend,
        )
        self.views: list[Any] = [self.pool]
        if shares:
            self.views += [self.pool.share("one"), self.pool.share("two", 3)]
        self.locks = [self.pool.lock(), self.pool.lock(order="usage"), self.pool.lock()]
        self.accounts = [Account() for _ in self.locks]
        self.entries: list[Entry] = []
        self.sections: list[tuple[Entry, Account, object]] = []
        self.told: list[int] = []
        self.callbacks = 0

    def add(self, future: Any, outcomes: set[Any], sources: tuple[Entry, ...] = ()) -> Entry:
        self.entries.append(Entry(future, outcomes, sources))
        return self.entries[-1]

    def view(self, number: int) -> Any:
        return self.views[number % len(self.views)]

    # --- tasks and chains ------------------------------------------------------------------------

    @rule(target=futures, value=numbers, fails=st.booleans(), view=st.integers(0, 2))
    def submit(self, value: int, fails: bool, view: int) -> Entry:
        future = self.view(view).submit(plain, value, fails)
        return self.add(future, {FAILS if fails else value})

    @rule(
        target=futures,
        value=numbers,
        fails=st.booleans(),
        pauses=st.integers(0, 3),
        view=st.integers(0, 2),
    )
    def submit_coroutine(self, value: int, fails: bool, pauses: int, view: int) -> Entry:
        future = self.view(view).submit(steps, value, fails, pauses)
        return self.add(future, {FAILS if fails else value})

    @rule(target=futures, value=numbers, fails=st.booleans())
    def group(self, value: int, fails: bool) -> Entry:
        return self.add(self.pool.submit(in_a_group, value, fails), {FAILS if fails else value})

    @rule(target=futures, source=futures)
    def then(self, source: Entry) -> Entry:
        outcomes = {o + 1 if isinstance(o, int) else o for o in source.outcomes}
        return self.add(source.future.then(lambda value: value + 1), outcomes, (source,))

    @rule(target=futures, source=futures, value=numbers)
    def catch(self, source: Entry, value: int) -> Entry:
        outcomes = {value if o == FAILS else o for o in source.outcomes}
        return self.add(source.future.catch(lambda _: value, Mishap), outcomes, (source,))

    @rule(target=futures, sources=st.lists(futures, min_size=1, max_size=4))
    def sum(self, sources: list[Entry]) -> Entry:
        future = self.pool.submit(total, [source.future for source in sources])
        sums: set[Any] = {0}
        for source in sources:
            sums = {s + o for s in sums for o in source.outcomes if isinstance(o, int)}
        rest = {o for source in sources for o in source.outcomes if not isinstance(o, int)}
        return self.add(future, sums | rest, tuple(sources))

    @rule(source=futures)
    def callback(self, source: Entry) -> None:
        self.callbacks += 1
        source.future.add_done_callback(lambda _: self.told.append(1))

    # --- locks -----------------------------------------------------------------------------------

    @rule(
        target=futures,
        lock=locks,
        value=numbers,
        fails=st.booleans(),
        way=st.sampled_from(["submit", "coroutine", "task", "link", "worker", "timed"]),
        view=st.integers(0, 2),
    )
    def enter(self, lock: int, value: int, fails: bool, way: str, view: int) -> Entry:
        account, token, guard = self.accounts[lock], object(), self.locks[lock]
        outcomes: set[Any] = {FAILS if fails else value}

        async def task() -> int:
            async with guard:
                return await long_section(account, token, value, fails)

        async def timed() -> int:
            async with timeout(3e-4):
                return await task()

        def stack() -> int:
            if not guard.acquire(timeout=TIMEOUT if self.workers else 3e-4):
                raise TimeoutError
            try:
                return section(account, token, value, fails)
            finally:
                guard.release()

        if way == "submit":
            future: Any = guard.submit(section, account, token, value, fails)
        elif way == "coroutine":
            future = guard.submit(long_section, account, token, value, fails)
        elif way == "link":
            source = self.view(view).submit(int)
            future = source.then(lambda _: section(account, token, value, fails), lock=guard)
        else:
            if way == "timed" or (way == "worker" and not self.workers):
                outcomes.add(TIMED_OUT)
            body = {"task": task, "timed": timed, "worker": stack}[way]
            future = self.view(view).submit(body)
        entry = self.add(future, outcomes)
        self.sections.append((entry, account, token))
        return entry

    @precondition(lambda self: self.workers)
    @rule(lock=locks, patience=st.sampled_from([0.0, 3e-4, TIMEOUT]))
    def enter_here(self, lock: int, patience: float) -> None:
        if self.locks[lock].acquire(timeout=patience):
            section(self.accounts[lock], None, 0, False)
            self.locks[lock].release()
        else:
            assert patience < TIMEOUT

    # --- cancelling, waiting, lending ------------------------------------------------------------

    @rule(victim=futures)
    def cancel(self, victim: Entry) -> None:
        # What it waits for may be cancelled with it, and then all that waits for that.
        affected = [victim]
        while affected:
            one = affected.pop()
            if not one.victim:
                one.victim = True
                affected += one.sources
        victim.future.cancel()

    @precondition(lambda self: self.workers)
    @rule(one=futures)
    def result(self, one: Entry) -> None:
        self.check(one, TIMEOUT)

    @rule(one=futures)
    def wait_a_moment(self, one: Entry) -> None:
        concurrent.futures.wait([one.future], 1e-4)

    @rule(value=numbers, fails=st.booleans())
    def run(self, value: int, fails: bool) -> None:
        try:
            assert self.pool.run(steps, value, fails, 2) == value
            assert not fails
        except Mishap:
            assert fails

    @rule(one=futures)
    def run_and_wait(self, one: Entry) -> None:
        try:
            self.pool.run(one.future.result)
        except (Mishap, TimeoutError, CancelledError, concurrent.futures.CancelledError):
            pass
        self.check(one, 0)

    # --- checking --------------------------------------------------------------------------------

    def check(self, entry: Entry, patience: float) -> None:
        outcome = self.outcome_of(entry.future, patience)
        if outcome == CANCELLED:
            assert entry.may_be_cancelled() or CANCELLED in entry.outcomes
        else:
            assert outcome in entry.outcomes, (outcome, entry.outcomes)

    @staticmethod
    def outcome_of(future: Any, patience: float) -> Any:
        outcome: Any = None
        try:
            outcome = future.result(patience)
        except* (CancelledError, concurrent.futures.CancelledError):
            outcome = CANCELLED
        except* Mishap:
            outcome = FAILS
        except* TimeoutError:
            outcome = TIMED_OUT
            assert future.done(), "hangs"
        except* RuntimeError as error:
            outcome = REFUSED
            if "after shutdown" not in repr(error.exceptions):
                raise
        return outcome

    @invariant()
    def not_two_are_inside(self) -> None:
        for account in getattr(self, "accounts", ()):
            assert account.inside in (0, 1)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for entry in self.entries:  # it may have tasks of its own to start
            entry.outcomes = entry.outcomes | {REFUSED}
        if len(self.entries) % 3 == 2:
            for entry in self.entries:
                entry.victim = True
            self.pool.shutdown(wait=False, cancel_futures=True)
        self.pool.shutdown()
        for entry in self.entries:
            assert entry.future.done()
            self.check(entry, 0)
        for entry, account, token in self.sections:
            times = account.tokens.count(token)
            outcome = self.outcome_of(entry.future, 0)
            assert times == 1 if outcome == FAILS or isinstance(outcome, int) else times <= 1
        for account, lock in zip(self.accounts, self.locks, strict=True):
            check_free(lock)
            assert account.inside == 0
            assert account.total == len(account.tokens)
        assert len(self.told) == self.callbacks
        scheduler = self.pool._scheduler
        assert not scheduler.suspended
        assert not scheduler.workers
        prefix = scheduler._prefix + "_"
        assert not [t for t in threading.enumerate() if t.name.startswith(prefix)]


machine_settings = settings(
    max_examples=30,
    stateful_step_count=30,
    phases=[Phase.generate],  # a race that was lost once does not shrink
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_machine() -> None:
    end = time.monotonic() + SECONDS * 0.3
    run_state_machine_as_test(Machine, settings=machine_settings)
    while time.monotonic() < end:
        run_state_machine_as_test(Machine, settings=machine_settings)
