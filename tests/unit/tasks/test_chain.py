"""Chains: `then`, `catch` and `finally_`, of any length, and what passes along them."""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from kit import TIMEOUT, Mishap

import fairpool
from fairpool import CancelledError, DeadlockError, FairPool, Future, current_task
from fairpool._core.report import wait_for_log

LENGTH = 100_000


class OtherMishap(Exception):
    pass


def fail(*args: object) -> None:
    raise Mishap(*args)


def outcome_of(future: Any) -> object:
    """What a future ends with, in a form that compares."""
    try:
        return future.result(TIMEOUT)
    except (CancelledError, concurrent.futures.CancelledError):
        return "cancelled"
    except BaseException as error:
        return type(error)


@pytest.fixture(params=[1, 2, 8])
def pool(request: pytest.FixtureRequest) -> Iterator[FairPool]:
    with FairPool(request.param) as pool:
        yield pool


@pytest.fixture
def held(pool: FairPool) -> Iterator[Future[Any]]:
    """A future that is final only when the test says so."""
    future: Future[Any] = Future()
    yield future
    with suppress(concurrent.futures.InvalidStateError):
        future.set_result(None)


def on(pool: FairPool, future: Future[Any]) -> Any:
    """A task of the pool with the outcome of a future that is set by hand."""

    async def wait() -> Any:
        return await future

    return pool.submit(wait)


# --- what passes ----------------------------------------------------------------------------------

SOURCES: dict[str, Callable[[Future[Any]], object]] = {
    "result": lambda future: future.set_result(1),
    "error": lambda future: future.set_exception(Mishap()),
    "cancelled": lambda future: future.cancel(),
}

LINKS: dict[str, tuple[Callable[[Any], Any], dict[str, object]]] = {
    "then": (lambda f: f.then(lambda value: value + 1), {"result": 2}),
    "then both": (
        lambda f: f.then(lambda value: value + 1, lambda error: type(error).__name__),
        {"result": 2, "error": "Mishap"},
    ),
    "then failing": (lambda f: f.then(lambda _: fail()), {"result": Mishap}),
    "on_error failing": (
        lambda f: f.then(int, lambda _: int("x")),
        {"error": ValueError},
    ),
    "catch": (lambda f: f.catch(lambda error: type(error).__name__), {"error": "Mishap"}),
    "catch meant": (lambda f: f.catch(lambda _: 7, KeyError, Mishap), {"error": 7}),
    "catch not meant": (lambda f: f.catch(lambda _: 7, OtherMishap), {}),
    "catch, no cancellation": (lambda f: f.catch(lambda _: 7, BaseException), {"error": 7}),
    "finally_": (lambda f: f.finally_(lambda: 9), {}),
    "finally_ failing": (
        lambda f: f.finally_(lambda: int("x")),
        dict.fromkeys(SOURCES, ValueError),
    ),
    "two": (
        lambda f: f.then(lambda value: value + 1).then(lambda value: value * 5),
        {"result": 10},
    ),
    "mended": (
        lambda f: f.then(lambda _: fail()).catch(lambda _: 3).then(lambda v: v + 1),
        {"result": 4, "error": 4},
    ),
    "finally_ and then": (lambda f: f.finally_(lambda: 9).then(lambda v: v + 1), {"result": 2}),
}


@pytest.mark.parametrize("early", [True, False], ids=["linked first", "final first"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", LINKS)
def test_outcomes(kind: str, source: str, early: bool, pool: FairPool, held: Future[Any]) -> None:
    make, outcomes = LINKS[kind]
    task = on(pool, held)
    if early:
        link = make(task)
        SOURCES[source](held)
    else:
        SOURCES[source](held)
        outcome_of(task)
        link = make(task)
    unchanged: dict[str, object] = {"result": 1, "error": Mishap, "cancelled": "cancelled"}
    assert outcome_of(link) == outcomes.get(source, unchanged[source])
    assert link.done()
    outcome_of(task)


@pytest.mark.parametrize("source", SOURCES)
def test_finally_is_called_once_in_any_case(source: str, pool: FairPool) -> None:
    calls: list[int] = []
    held: Future[Any] = Future()
    link = on(pool, held).finally_(lambda: calls.append(1))
    SOURCES[source](held)
    outcome_of(link)
    assert calls == [1]


def test_finally_waits_for_what_its_function_returns(pool: FairPool, held: Future[Any]) -> None:
    log: list[str] = []

    async def clean() -> str:
        await held
        log.append("clean")
        return "not this"

    link = pool.submit(int).finally_(clean)
    assert not link.done()
    held.set_result(None)
    assert link.result(TIMEOUT) == 0
    assert log == ["clean"]

    async def failing() -> None:
        raise OtherMishap

    assert outcome_of(pool.submit(int).finally_(failing)) is OtherMishap


async def _twice(value: int) -> int:
    await fairpool.yield_now()
    return value * 2


async def _failing(value: int) -> int:
    await fairpool.yield_now()
    raise OtherMishap


async def _cancelled(value: int) -> int:
    raise CancelledError


FLATTENS: dict[str, tuple[Callable[[FairPool, int], Any], object]] = {
    "coroutine": (lambda pool, value: _twice(value), 6),
    "future of the pool": (lambda pool, value: pool.submit(_twice, value), 6),
    "failing coroutine": (lambda pool, value: _failing(value), OtherMishap),
    "failing future": (lambda pool, value: pool.submit(_failing, value), OtherMishap),
    "cancelled": (lambda pool, value: _cancelled(value), "cancelled"),
    "chain": (lambda pool, value: pool.submit(_twice, value).then(lambda v: v + 1), 7),
    "gather": (lambda pool, value: fairpool.gather(_twice(value), _twice(1)), [6, 2]),
    "final future": (lambda pool, value: _final(value), 3),
    "standard future": (lambda pool, value: _standard(value), 3),
}


def _final(value: int) -> Future[int]:
    future: Future[int] = Future()
    future.set_result(value)
    return future


def _standard(value: int) -> concurrent.futures.Future[int]:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    future.set_result(value)
    return future


@pytest.mark.parametrize("kind", FLATTENS)
def test_what_a_step_returns_is_flattened(kind: str, pool: FairPool) -> None:
    make, outcome = FLATTENS[kind]
    assert outcome_of(pool.submit(int, 3).then(lambda value: make(pool, value))) == outcome
    assert outcome_of(pool.submit(fail).catch(lambda _: make(pool, 3))) == outcome


def test_an_async_function_is_a_step(pool: FairPool) -> None:
    assert pool.submit(int, 3).then(_twice).then(_twice).result(TIMEOUT) == 12


def test_steps_run_on_the_pool_as_tasks_of_their_own(pool: FairPool, held: Future[Any]) -> None:
    def where(_: object) -> tuple[object, str]:
        return current_task(), threading.current_thread().name

    link = on(pool, held).then(where)
    held.set_result(1)
    task, thread = link.result(TIMEOUT)
    assert task is link
    assert thread.startswith("FairPool")


def test_a_step_has_the_context_of_the_call_that_made_it(pool: FairPool, held: Future[Any]) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def swap(_: object) -> str:
        before = variable.get()
        variable.set("changed")
        return before

    task = on(pool, held)
    variable.set("then")
    link = task.then(swap)
    variable.set("afterwards")
    held.set_result(1)
    assert link.result(TIMEOUT) == "then"
    assert variable.get() == "afterwards"
    assert link.then(swap).result(TIMEOUT) == "afterwards"


def test_a_future_set_by_hand_is_linked_in_a_task_only(pool: FairPool) -> None:
    by_hand: Future[int] = Future()
    with pytest.raises(RuntimeError, match="pool"):
        by_hand.then(int)

    def link() -> Any:
        return by_hand.then(lambda value: value + 1)

    link_of = pool.submit(link).result(TIMEOUT)
    by_hand.set_result(1)
    assert link_of.result(TIMEOUT) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda f: f.then(None),
        lambda f: f.then(int, 5),
        lambda f: f.catch(5),
        lambda f: f.catch(int, 5),
        lambda f: f.catch(int, "x"),
        lambda f: f.finally_(None),
    ],
)
def test_wrong_arguments_are_told_at_once(wrong: Callable[[Any], object], pool: FairPool) -> None:
    with pytest.raises(TypeError):
        wrong(pool.submit(int))


# --- errors ---------------------------------------------------------------------------------------


def test_an_error_passes_whole_and_its_traceback_does_not_grow(pool: FairPool) -> None:
    def frames(future: Any) -> list[str]:
        error = future.exception(TIMEOUT)
        with pytest.raises(Mishap) as caught:
            future.result(TIMEOUT)
        assert caught.value is error
        return [frame.name for frame in traceback.extract_tb(caught.tb)]

    short = pool.submit(fail, 1)
    long: Any = short
    for _ in range(200):
        long = long.then(int).catch(int, KeyError)
    assert long.exception(TIMEOUT) is short.exception(TIMEOUT)
    assert len(frames(long)) <= len(frames(short)) + 1
    assert frames(long) == frames(long)
    assert frames(long)[-1] == "fail"


def test_an_error_that_a_chain_has_taken_over_is_not_reported_twice(
    pool: FairPool, caplog: pytest.LogCaptureFixture
) -> None:
    assert pool.submit(fail).then(int).catch(lambda _: 5).result(TIMEOUT) == 5
    del pool
    gc.collect()
    assert wait_for_log(TIMEOUT)
    assert not [record for record in caplog.records if "retrieved" in record.message]


# --- cancelling -----------------------------------------------------------------------------------


def test_a_cancelled_link_is_not_run_and_takes_with_it_what_it_alone_waits_for(
    pool: FairPool, held: Future[Any]
) -> None:
    calls: list[int] = []
    task = on(pool, held)
    first = task.then(calls.append)
    second = first.then(calls.append)
    third = second.then(calls.append)
    assert second.cancel()
    for future in (third, second, first, task):
        assert outcome_of(future) == "cancelled"
    assert not calls


def test_a_cancelled_link_leaves_what_others_wait_for(pool: FairPool, held: Future[Any]) -> None:
    task = on(pool, held)
    other = task.then(lambda value: value + 1)
    assert task.then(lambda value: value + 2).cancel()
    held.set_result(1)
    assert task.result(TIMEOUT) == 1
    assert other.result(TIMEOUT) == 2


def test_clean_ups_are_run_in_a_chain_that_is_cancelled(pool: FairPool, held: Future[Any]) -> None:
    calls: list[int] = []
    first = on(pool, held).then(int).finally_(lambda: calls.append(1))
    last = first.finally_(lambda: calls.append(2))
    assert last.cancel()
    assert outcome_of(last) == "cancelled"
    assert calls == [1, 2]


def test_what_a_running_link_awaits_is_cancelled_with_it(pool: FairPool, held: Future[Any]) -> None:
    inner = on(pool, held)
    reached = threading.Event()

    def step(_: object) -> Any:
        reached.set()
        return inner

    link = pool.submit(int).then(step)
    assert reached.wait(TIMEOUT)
    while not getattr(getattr(link, "_coroutine_state", None), "armed", None):
        pass
    assert link.cancel()
    assert outcome_of(link) == "cancelled"
    assert outcome_of(inner) == "cancelled"


def test_a_link_that_returns_itself_is_told_so(pool: FairPool, held: Future[Any]) -> None:
    box: list[Any] = []
    box.append(on(pool, held).then(lambda _: box[0]))
    held.set_result(1)
    assert outcome_of(box[0]) is DeadlockError


@pytest.mark.parametrize("meanwhile", ["cancel", "run", "cancel twice", "register"])
@pytest.mark.parametrize("outcome", ["result", "error"])
def test_a_link_ends_although_others_would_claim_it(meanwhile: str, outcome: str) -> None:
    # Between any two instructions of the link's step, somebody cancels it or would run it inline.
    # Both look for its work by taking the first entry of its cell, and put it back if it is not.
    module: Any = pytest.importorskip("unit.instructions")
    pool = FairPool(1)
    pool._scheduler.parking.free_slots.clear()  # the test runs the steps
    worker = _worker(pool)
    for place in module.moments():
        source: Any = pool.submit(int if outcome == "result" else fail)
        link = source.then(lambda value: value + 1)
        calls: Counter[str] = Counter()
        link.add_done_callback(lambda _: calls.update(["first"]))
        pool._scheduler.injector.clear()
        source.run(worker)
        pool._scheduler.injector.clear()

        def act(link: Any = link, calls: Counter[str] = calls) -> None:
            for _ in range(2 if meanwhile == "cancel twice" else 1):
                if meanwhile == "run":
                    link.run(worker)
                elif meanwhile == "register":
                    link.add_done_callback(lambda _: calls.update(["second"]))
                else:
                    link.cancel()

        with place.do(act):
            link.run(worker)
        link.run(worker)
        assert link.done(), place
        assert calls["first"] == 1, place
        assert calls["second"] <= 1, place
        source.exception(0)


@pytest.mark.parametrize("meanwhile", ["run", "register"])
def test_a_claim_that_fails_may_meet_the_step_of_a_link(meanwhile: str) -> None:
    # The same the other way round: in the midst of a failing claim, the link's step comes.
    module: Any = pytest.importorskip("unit.instructions")
    pool = FairPool(1)
    pool._scheduler.parking.free_slots.clear()
    worker = _worker(pool)
    for place in module.moments():
        source: Any = pool.submit(int)
        link = source.then(lambda value: value + 1)
        calls: Counter[str] = Counter()
        link.add_done_callback(lambda _: calls.update(["first"]))
        source.run(worker)
        pool._scheduler.injector.clear()
        reached: list[object] = []
        claims = _Claims(link, reached)

        with place.do(claims):
            link.cancel()
        link.run(worker)
        assert link.done(), place
        assert calls["first"] == 1, place


class _Claims:
    """In the midst of a claim: the step of the link begins, and in its midst the claim goes on."""

    def __init__(self, link: Any, reached: list[object]) -> None:
        self._link = link
        self._reached = reached

    def __call__(self) -> None:
        self._reached.append(self._link.run(_worker_of(self._link)))


def _worker(pool: FairPool) -> Any:
    from fairpool._core.runqueue import RunQueue
    from fairpool._scheduler.worker import Worker

    worker = Worker(pool._scheduler, "by-hand")
    worker.queue = RunQueue()
    return worker


def _worker_of(link: Any) -> Any:
    from fairpool._core.runqueue import RunQueue
    from fairpool._scheduler.worker import Worker

    worker = Worker(link._pool, "by-hand")
    worker.queue = RunQueue()
    return worker


# --- length -----------------------------------------------------------------------------------


def chain(first: Any, length: int = LENGTH) -> Any:
    future = first
    for _ in range(length):
        future = future.then(_increment)
    return future


def _increment(value: int) -> int:
    return value + 1


@pytest.mark.parametrize("early", [True, False], ids=["linked first", "final first"])
@pytest.mark.parametrize("source", SOURCES)
def test_100_000_links(source: str, early: bool) -> None:
    with FairPool(2) as pool:
        held: Future[Any] = Future()
        task = on(pool, held)
        if not early:
            SOURCES[source](held)
            outcome_of(task)
        last = chain(task)
        if early:
            SOURCES[source](held)
        expected: dict[str, object] = {
            "result": LENGTH + 1,
            "error": Mishap,
            "cancelled": "cancelled",
        }
        assert outcome_of(last) == expected[source]
        outcome_of(task)


def test_100_000_links_cancelled_in_the_middle() -> None:
    with FairPool(2) as pool:
        held: Future[Any] = Future()
        middle = chain(on(pool, held), LENGTH // 2)
        last = chain(middle, LENGTH // 2)
        assert middle.cancel()
        assert outcome_of(last) == "cancelled"


def test_100_000_links_of_one_future() -> None:
    with FairPool(2) as pool:
        held: Future[Any] = Future()
        task = on(pool, held)
        links = [task.then(_increment) for _ in range(LENGTH)]
        held.set_result(1)
        assert {link.result(TIMEOUT) for link in links} == {2}


def test_a_step_of_a_chain_does_not_nest() -> None:
    depths: set[int] = set()

    def depth(value: int) -> int:
        depths.add(len(traceback.extract_stack()))
        return value

    with FairPool(1) as pool:
        held: Future[Any] = Future()
        link: Any = on(pool, held)
        for _ in range(300):
            link = link.then(depth)
        held.set_result(1)
        assert link.result(TIMEOUT) == 1
    # As a step that was taken from a queue, or that the one before has handed over.
    assert len(depths) <= 2


def test_a_chain_leaves_the_others_their_turn() -> None:
    with FairPool(1) as pool:
        held: Future[Any] = Future()
        last = chain(on(pool, held), 10_000)
        order: list[str] = []
        last.add_done_callback(lambda _: order.append("chain"))
        entered = threading.Event()
        gate = threading.Event()

        def hold() -> None:
            entered.set()
            gate.wait(TIMEOUT)

        holding = pool.submit(hold)
        assert entered.wait(TIMEOUT)
        held.set_result(1)
        other = pool.submit(order.append, "other")
        gate.set()
        holding.result(TIMEOUT)
        other.result(TIMEOUT)
        last.result(TIMEOUT)
    assert order == ["other", "chain"]
