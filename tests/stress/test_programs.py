"""Random programs, run by several threads on one pool, against what they must give.

A program is drawn whole before it is run. What its tasks return does not depend on who runs them or
when, so that the model can say it: each future reaches one final state, with that result, unless
somebody cancelled it (and only then).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, as_completed, wait
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kit import TIMEOUT, Mishap, check_slots
from stress.conftest import SECONDS

from fairpool import FairPool, blocking

pytestmark = pytest.mark.stress


@dataclass(frozen=True)
class Work:
    """What a task does: how it gathers the results of its own tasks, and what it ends with."""

    how: str
    inner: tuple[Work, ...] = ()
    fails: bool = False

    def expected(self) -> int:
        return 1 + sum(work.expected() for work in self.inner if not work.fails)


WAYS = (
    "result",
    "exception",
    "timeout",
    "wait",
    "first",
    "as_completed",
    "map",
    "blocking",
    "callback",
)

works = st.recursive(
    st.builds(Work, st.just("result"), st.just(()), st.booleans()),
    lambda inner: st.builds(
        Work, st.sampled_from(WAYS), st.lists(inner, max_size=3).map(tuple), st.booleans()
    ),
    max_leaves=8,
)

# What an outside thread does, one after the other.
steps = st.one_of(
    st.tuples(st.just("submit"), works),
    st.tuples(st.just("submit"), works),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("ask"), st.integers(0, 20)),
    st.tuples(st.just("callback"), st.integers(0, 20)),
    st.tuples(st.just("wait"), st.sampled_from([FIRST_COMPLETED, FIRST_EXCEPTION])),
)

programs = st.fixed_dictionaries(
    {
        "max_workers": st.integers(1, 3),
        "max_pending": st.sampled_from([None, None, 1, 4]),
        "idle_timeout": st.sampled_from([0, 0.0001, 1000]),
        "threads": st.lists(st.lists(steps, max_size=8), min_size=1, max_size=4),
        "closing": st.sampled_from(["at the end", "in between", "cancelling"]),
    }
)


class Run:
    """One program, running."""

    def __init__(self, program: dict[str, Any]) -> None:
        self.program = program
        self.pool = FairPool(
            program["max_workers"],
            max_pending=program["max_pending"],
            idle_timeout=program["idle_timeout"],
        )
        self.closes = program["closing"] != "at the end"
        self.submitted: list[tuple[Work, Any]] = []  # all futures, inner ones too
        self.cancelled: set[int] = set()  # whose `cancel` said yes
        # Lists, because one `append` is atomic: `+= 1` in a callback would lose some.
        self.callbacks: list[int] = []
        self.calls: list[int] = []
        self.started: list[object] = []
        self.errors: list[BaseException] = []

    def submit(self, work: Work) -> Any:
        token = object()
        future = self.pool.submit(self.perform, work, token)
        self.submitted.append((work, future))
        return future

    def perform(self, work: Work, token: object) -> int:
        self.started.append(token)
        total = 1
        if work.how == "map":
            for result in self.pool.map(self.perform_or_none, work.inner, chunksize=2):
                total += result
        else:
            futures = [self.submit(inner) for inner in work.inner]
            for future in self.gather(work.how, futures):
                total += self.result_of(future)
        if work.fails:
            raise Mishap
        return total

    def perform_or_none(self, work: Work) -> int:
        try:
            return self.perform(work, object())
        except Mishap:
            return 0

    def gather(self, how: str, futures: list[Any]) -> list[Any]:
        if how == "wait":
            wait(futures)
        elif how == "first" and futures:
            wait(futures, return_when=FIRST_COMPLETED)
        elif how == "as_completed":
            return list(as_completed(futures))
        elif how == "timeout":
            wait(futures, 0.0001)
        elif how == "blocking":
            with blocking():
                time.sleep(0)
        elif how == "callback":
            called = [threading.Event() for _ in futures]
            for future, event in zip(futures, called, strict=True):
                future.add_done_callback(lambda _, event=event: event.set())
            with blocking():
                for event in called:
                    assert event.wait(TIMEOUT)
        return futures

    def result_of(self, future: Any) -> int:
        try:
            return future.result()  # type: ignore[no-any-return]
        except Mishap:
            return 0

    def thread(self, steps: list[tuple[str, Any]]) -> None:
        mine: list[Any] = []
        try:
            for what, argument in steps:
                if what == "submit":
                    mine.append(self.submit(argument))
                elif not mine:
                    continue
                elif what == "wait":
                    assert wait(mine, TIMEOUT, argument).done
                else:
                    future = mine[argument % len(mine)]
                    if what == "cancel":
                        if future.cancel():
                            self.cancelled.add(id(future))
                    elif what == "ask":
                        if not future.cancelled():
                            future.exception(TIMEOUT) if not self.closes else wait(
                                [future], TIMEOUT
                            )
                    else:
                        self.callbacks.append(id(future))
                        future.add_done_callback(lambda future: self.calls.append(id(future)))
        except RuntimeError as error:
            if not (self.closes and "after shutdown" in str(error)):
                self.errors.append(error)
        except BaseException as error:
            self.errors.append(error)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=self.program["closing"] == "cancelling")

    def run(self) -> None:
        threads = [
            threading.Thread(target=self.thread, args=[steps], daemon=True)
            for steps in self.program["threads"]
        ]
        if self.closes:
            threads.append(threading.Thread(target=self.close, daemon=True))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive(), "hangs"
        while any(not future.done() for _, future in self.submitted.copy()):
            assert not wait([future for _, future in self.submitted.copy()], TIMEOUT).not_done
        self.pool.shutdown()
        if self.errors:
            raise self.errors[0]
        self.check()

    def check(self) -> None:
        may_be_cut_short = self.closes
        for work, future in self.submitted:
            assert future.done()
            if future.cancelled():
                assert id(future) in self.cancelled or self.program["closing"] == "cancelling"
                continue
            assert id(future) not in self.cancelled
            error = future.exception(0)
            if may_be_cut_short and error is not None and not isinstance(error, Mishap):
                continue  # a task of its own was refused, or cancelled, by the shutdown
            if work.fails:
                assert isinstance(error, Mishap), error
            else:
                assert error is None, error
                assert future.result(0) == work.expected()
        assert Counter(self.calls) == Counter(self.callbacks), "called too often, or not"
        assert len(set(map(id, self.started))) == len(self.started)
        scheduler = self.pool._scheduler
        parking = scheduler.parking
        check_slots(self.pool)
        assert not parking.searching
        assert not scheduler.workers
        prefix = scheduler._prefix + "_"
        assert not [t for t in threading.enumerate() if t.name.startswith(prefix)]


@settings(
    max_examples=25,
    phases=[Phase.generate],  # a race that was lost once does not shrink
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(programs)
def run_some(program: dict[str, Any]) -> None:
    Run(program).run()


def test_programs() -> None:
    end = time.monotonic() + SECONDS * 0.4
    run_some()
    while time.monotonic() < end:
        run_some()
