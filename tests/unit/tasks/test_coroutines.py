"""Handing over coroutines: each object is run by one task, and each function gives its result."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import itertools
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from kit import PATIENCE, in_time

import fairpool
from fairpool import FairPool, Future
from fairpool._tasks import coroutines as coroutines_module
from fairpool._tasks.coroutines import claim_coroutine

MakePool = Callable[..., FairPool]


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Python's "coroutine was never awaited" fails the test, through pytest's unraisable hook."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def go_on(make_pool: MakePool) -> Iterator[Future[None]]:
    """What coroutines wait for; final at the end, so that a failure cannot hang."""
    future: Future[None] = Future()
    yield future
    if not future.done():
        future.set_result(None)


def in_group(pool: FairPool, coroutine: Any) -> Any:
    async def body() -> Any:
        try:
            async with fairpool.TaskGroup() as group:
                task = group.create_task(coroutine)
        except ExceptionGroup as error:
            raise error.exceptions[0] from None
        return task.result()

    return pool.submit(body)


def in_run(pool: FairPool, coroutine: Any) -> Any:
    """`fairpool.run`, which is for threads outside."""
    outcome: Future[Any] = Future()

    def call() -> None:
        try:
            outcome.set_result(fairpool.run(coroutine, max_workers=1))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call).start()
    return outcome


def in_pool_run(pool: FairPool, coroutine: Any) -> Any:
    outcome: Future[Any] = Future()

    def call() -> None:
        try:
            outcome.set_result(pool.run(lambda: coroutine))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call).start()
    return outcome


def in_other_pool(pool: FairPool, coroutine: Any) -> Any:
    other = FairPool(1)
    future = other.submit(lambda: coroutine)
    other.shutdown(wait=False)
    return future


def failed(pool: FairPool) -> Any:
    return pool.submit(lambda: 1 / 0)


async def first_of(gathered: Any) -> Any:
    return (await gathered)[0]


async def nothing() -> None:
    pass


# Called in a task of the pool; each gives a future of the coroutine's outcome, or raises.
WAYS: dict[str, Callable[[FairPool, Any], Any]] = {
    "create_task": lambda pool, coroutine: fairpool.create_task(coroutine),
    "group": in_group,
    "gather": lambda pool, coroutine: fairpool.create_task(
        first_of(fairpool.gather(coroutine, nothing()))
    ),
    "gather_mixed": lambda pool, coroutine: fairpool.create_task(
        first_of(fairpool.gather(coroutine, pool.submit(int)))
    ),
    "shield": lambda pool, coroutine: fairpool.shield(coroutine),
    "submit": lambda pool, coroutine: pool.submit(lambda: coroutine),
    "other_pool": in_other_pool,
    "share": lambda pool, coroutine: pool.share("tenant").submit(lambda: coroutine),
    "run": in_run,
    "pool.run": in_pool_run,
    "then": lambda pool, coroutine: pool.submit(int).then(lambda _: coroutine),
    "then_lock": lambda pool, coroutine: pool.submit(int).then(
        lambda _: coroutine, lock=pool.lock()
    ),
    "catch": lambda pool, coroutine: failed(pool).catch(lambda _: coroutine),
    "finally_": lambda pool, coroutine: pool.submit(lambda: 5).finally_(lambda: coroutine),
    "lock.submit": lambda pool, coroutine: pool.lock().submit(lambda: coroutine),
    "guarded": lambda pool, coroutine: pool.guarded(dict).submit(lambda _: coroutine),
}


async def answer(begun: Future[None], go_on: Future[None]) -> int:
    begun.set_result(None)
    await go_on
    return 5


@types.coroutine
def answer_in_generator(begun: Future[None], go_on: Future[None]) -> Generator[Any, Any, int]:
    begun.set_result(None)
    yield from go_on.__await__()
    return 5


MADE = {"native": answer, "generator": answer_in_generator}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("second", WAYS)
@pytest.mark.parametrize("first", WAYS)
def test_the_second_that_gets_a_coroutine_object_is_refused(
    first: str, second: str, kind: str, make_pool: MakePool, go_on: Future[None]
) -> None:
    pool = make_pool(2)
    begun: Future[None] = Future()
    coroutine = MADE[kind](begun, go_on)

    async def main() -> Any:
        accepted = WAYS[first](pool, coroutine)
        await begun
        with pytest.raises(RuntimeError, match="is a task's already"):
            await WAYS[second](pool, coroutine)
        go_on.set_result(None)
        return await accepted

    assert pool.submit(main).result(PATIENCE) == 5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", ["suspended", "awaited", "running"])
def test_a_coroutine_object_that_was_started_is_refused(
    way: str, state: str, make_pool: MakePool, go_on: Future[None]
) -> None:
    pool = make_pool(2)
    begun: Future[None] = Future()
    refused: list[Any] = []

    async def itself() -> int:
        with pytest.raises(RuntimeError, match="has been started already"):
            await WAYS[way](pool, refused[0])
        return 5

    async def outer(coroutine: Any) -> Any:
        return await coroutine

    async def main() -> Any:
        if state == "running":
            refused.append(itself())
            return await refused[0]
        coroutine = answer(begun, go_on)
        if state == "awaited":
            awaiting = fairpool.create_task(outer(coroutine))
            await begun
            await fairpool.yield_now()
        else:
            assert coroutine.send(None) is go_on
        with pytest.raises(RuntimeError, match="has been started already"):
            await WAYS[way](pool, coroutine)
        go_on.set_result(None)
        if state == "awaited":
            return await awaiting
        with pytest.raises(StopIteration) as stop:
            coroutine.send(None)
        return stop.value.value

    assert pool.submit(main).result(PATIENCE) == 5


@pytest.mark.parametrize("pattern", ["cc", "cdc", "ccdd", "cfc", "ffc", "aa", "aca"])
@pytest.mark.parametrize("eager", [False, True])
def test_gather_gives_what_is_given_several_times_as_asyncio_does(
    pattern: str, eager: bool, make_pool: MakePool
) -> None:
    class Awaitable:
        def __await__(self) -> Generator[Any, Any, str]:
            return named("a").__await__()

    starts: list[str] = []

    async def named(name: str) -> str:
        starts.append(name)
        return name

    def arguments(create_task: Callable[[Any], Any]) -> list[Any]:
        each: dict[str, Any] = {}
        for name in pattern:
            if name not in each:
                each[name] = Awaitable() if name == "a" else named(name)
                if name == "f":
                    each[name] = create_task(each[name])
        return [each[name] for name in pattern]

    async def with_asyncio() -> list[str]:
        return await asyncio.gather(*arguments(asyncio.create_task))

    async def with_fairpool() -> list[str]:
        return await fairpool.gather(*arguments(fairpool.create_task), eager_start=eager)

    expected = asyncio.run(with_asyncio()), sorted(starts)
    starts.clear()
    assert (make_pool(2).submit(with_fairpool).result(PATIENCE), sorted(starts)) == expected


def test_a_cancelled_gather_asks_a_child_once_that_it_has_twice(make_pool: MakePool) -> None:
    begun: Future[None] = Future()
    seen: list[int] = []

    async def child() -> None:
        try:
            begun.set_result(None)
            await Future()
        finally:
            task: Any = fairpool.current_task()
            seen.append(task.cancelling())
            await fairpool.sleep(0.001)  # a second request would cut this off
            seen.append(task.cancelling())

    async def main() -> None:
        coroutine = child()
        both = fairpool.gather(coroutine, coroutine)
        await begun
        assert both.cancel()
        with pytest.raises(asyncio.CancelledError):
            await both

    make_pool(2).submit(main).result(PATIENCE)
    assert seen == [1, 1]


def test_the_error_of_a_refused_coroutine_may_be_the_last_that_holds_it(
    make_pool: MakePool, go_on: Future[None]
) -> None:
    pool = make_pool(1)
    box = [answer(Future(), go_on)]
    pool.submit(lambda: box[0])
    error = pool.submit(lambda: box[0]).exception(PATIENCE)
    assert "is a task's already" in str(error)
    go_on.set_result(None)
    pool.shutdown()
    box.clear()
    del error  # an error in a callback of a weak reference would go to pytest's unraisable hook
    gc.collect()


def test_a_refused_gather_closes_what_is_its_own_only(
    make_pool: MakePool, go_on: Future[None]
) -> None:
    begun: Future[None] = Future()

    async def main() -> Any:
        taken = answer(begun, go_on)
        task = fairpool.create_task(taken)
        await begun
        others = [nothing(), nothing(), nothing()]
        with pytest.raises(RuntimeError, match="is a task's already"):
            fairpool.gather(others[0], taken, others[1])
        with pytest.raises(RuntimeError, match="is a task's already"):
            fairpool.gather(taken, others[2], pool.submit(int))
        assert [other.cr_frame for other in others] == [None] * 3
        go_on.set_result(None)
        return await task

    pool = make_pool(2)
    assert pool.submit(main).result(PATIENCE) == 5


@pytest.mark.parametrize("outside", ["gather", "create_task", "group", "run in a task"])
def test_what_is_refused_leaves_the_coroutine_of_another_task_alone(
    outside: str, make_pool: MakePool, go_on: Future[None]
) -> None:
    begun: Future[None] = Future()
    taken = answer(begun, go_on)
    pool = make_pool(2)
    accepted = pool.submit(lambda: taken)
    begun.result(PATIENCE)
    with pytest.raises(RuntimeError):
        if outside == "gather":
            fairpool.gather(taken)
        elif outside == "create_task":
            fairpool.create_task(taken)
        elif outside == "group":
            fairpool.TaskGroup().create_task(taken)
        else:
            pool.submit(fairpool.run, taken).result(PATIENCE)
    go_on.set_result(None)
    assert accepted.result(PATIENCE) == 5


@pytest.mark.parametrize("way", ["create_task", "gather", "group", "submit"])
def test_a_weak_reference_does_not_hand_a_coroutine_over_twice(
    way: str, make_pool: MakePool, go_on: Future[None]
) -> None:
    begun: Future[None] = Future()
    weak: list[weakref.ref[Any]] = []

    def make() -> Any:
        coroutine = answer(begun, go_on)
        weak.append(weakref.ref(coroutine))
        return coroutine

    async def main() -> Any:
        if way == "create_task":
            task: Any = fairpool.create_task(make())
        elif way == "gather":
            task = fairpool.gather(make())
        elif way == "group":
            task = in_group(pool, make())
        else:
            task = pool.submit(make)
        await begun
        with pytest.raises(RuntimeError, match="is a task's already"):
            fairpool.create_task(weak[0]())  # type: ignore[arg-type]
        go_on.set_result(None)
        return await task

    pool = make_pool(2)
    assert pool.submit(main).result(PATIENCE) in (5, [5])


def test_of_threads_that_claim_at_once_one_gets_each_coroutine() -> None:
    rounds, threads = 2000, 3
    coroutines = [nothing() for _ in range(rounds)]
    claimed: list[list[int]] = [[] for _ in range(threads)]
    start = threading.Barrier(threads)

    def claim_all(mine: list[int]) -> None:
        start.wait()
        for index, coroutine in enumerate(coroutines):
            try:
                claim_coroutine(coroutine)
            except RuntimeError:
                continue
            mine.append(index)

    workers = [threading.Thread(target=claim_all, args=(mine,)) for mine in claimed]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for coroutine in coroutines:
        coroutine.close()
    assert sorted(itertools.chain(*claimed)) == [*range(rounds)]


def test_a_claim_is_forgotten_with_its_coroutine() -> None:
    coroutine = nothing()
    claim_coroutine(coroutine)
    claim = coroutines_module._claimed[weakref.ref(coroutine)]
    coroutine.close()
    del coroutine
    assert claim not in coroutines_module._claimed


def test_coroutines_that_nobody_else_holds_are_not_looked_up(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only a matter of cost: this is the path of almost every coroutine.
    claims: list[Any] = []
    for module in ("_tasks.task", "_api.tasks", "_api.taskgroup"):
        monkeypatch.setattr(f"fairpool.{module}.claim_coroutine", claims.append)

    async def main() -> None:
        claims.clear()  # of `main` itself
        await fairpool.gather(nothing(), nothing())
        if sys.version_info >= (3, 12):  # before, the arguments are in a second tuple meanwhile
            await fairpool.gather(*[nothing() for _ in range(100)])
        if coroutines_module.HELD_BY_ARGUMENT > 0:  # where the count says so
            await pool.submit(lambda: nothing())
            await pool.submit(int).then(lambda _: nothing())
            await fairpool.create_task(nothing())
            async with fairpool.TaskGroup() as group:
                group.create_task(nothing())

    pool = make_pool(1)
    pool.submit(main).result(PATIENCE)
    assert claims == []


def test_many_gathers_of_one_coroutine_do_not_crash(make_pool: MakePool) -> None:
    async def child() -> int:
        await fairpool.yield_now()
        return 1

    async def main() -> None:
        for _ in range(300):
            coroutine = child()
            assert await fairpool.gather(coroutine, coroutine) == [1, 1]

    in_time(lambda: make_pool(2).submit(main).result(PATIENCE))


# --- functions that return coroutines -------------------------------------------------------------


async def double(value: int) -> int:
    await fairpool.yield_now()
    return 2 * value


class Doubler:
    async def method(self, value: int) -> int:
        return await double(value)

    @classmethod
    async def of_class(cls, value: int) -> int:
        return await double(value)

    async def __call__(self, value: int) -> int:
        return await double(value)


@functools.wraps(double)
def decorated(*args: Any) -> Any:
    return double(*args)


@types.coroutine
def generator_function(value: int) -> Generator[Any, Any, int]:
    yield
    return 2 * value


FUNCTIONS: dict[str, Any] = {
    "function": double,
    "partial": functools.partial(double),
    "method": Doubler().method,
    "class method": Doubler.of_class,
    "callable": Doubler(),
    "decorated": decorated,
    "lambda": lambda value: double(value),
    "generator": generator_function,
    "sometimes": lambda value: double(value) if value % 2 else 2 * value,
}


def within(pool: FairPool, body: Callable[[], Any]) -> Any:
    return pool.submit(body).result(PATIENCE)


def guarded_state(pool: FairPool, fn: Any) -> Any:
    state = pool.guarded(lambda: fn(1))
    with state as value:
        return value


# Each gives 2, the double of 1.
DOORS: dict[str, Callable[[FairPool, Any], Any]] = {
    "submit": lambda pool, fn: pool.submit(fn, 1).result(PATIENCE),
    "run": lambda pool, fn: pool.run(fn, 1),
    "run in a task": lambda pool, fn: within(pool, lambda: pool.run(fn, 1)),
    "map": lambda pool, fn: max(pool.map(fn, [0, 1])),
    "map in chunks": lambda pool, fn: max(pool.map(fn, [0, 1, 1, 0, 0], chunksize=3)),
    "map ahead": lambda pool, fn: max(pool.map(fn, [0, 1, 1], chunksize=2, buffersize=2)),
    "share": lambda pool, fn: pool.share("tenant").submit(fn, 1).result(PATIENCE),
    "share.map": lambda pool, fn: max(pool.share("tenant").map(fn, [0, 1], chunksize=2)),
    "lock": lambda pool, fn: pool.lock().submit(fn, 1).result(PATIENCE),
    "lock.map": lambda pool, fn: max(pool.lock().map(fn, [0, 1], chunksize=2)),
    "guarded": lambda pool, fn: pool.guarded(1).submit(fn).result(PATIENCE),
    "guarded state": guarded_state,
    "then": lambda pool, fn: pool.submit(int, 1).then(fn).result(PATIENCE),
    "then of an error": lambda pool, fn: failed(pool).then(fn, lambda _: fn(1)).result(PATIENCE),
    "then in a lock": lambda pool, fn: (
        pool.submit(int, 1).then(fn, lock=pool.lock()).result(PATIENCE)
    ),
    "catch": lambda pool, fn: failed(pool).catch(lambda _: fn(1)).result(PATIENCE),
    "finally_": lambda pool, fn: pool.submit(int, 2).finally_(lambda: fn(1)).result(PATIENCE),
    "asyncio": lambda pool, fn: asyncio.run(in_executor(pool, fn)),
}


async def in_executor(pool: FairPool, fn: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, fn, 1)


@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize("door", DOORS)
def test_a_function_that_returns_a_coroutine_gives_its_result(
    door: str, fn: str, make_pool: MakePool
) -> None:
    assert DOORS[door](make_pool(2), FUNCTIONS[fn]) == 2


@pytest.mark.parametrize("kind", ["pool", "share", "lock"])
@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, SystemExit])
def test_a_chunk_gives_its_results_up_to_the_error(
    kind: str, error: type[BaseException], make_pool: MakePool
) -> None:
    pool = make_pool(2)
    view = {"pool": pool, "share": pool.share("tenant"), "lock": pool.lock()}[kind]

    async def halve(value: int) -> int:
        await fairpool.yield_now()
        if value == 3:
            raise error
        return value

    results = view.map(halve, range(6), chunksize=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    # A chunk ends as a call does: one that raises asyncio's CancelledError is cancelled.
    expected = concurrent.futures.CancelledError if error is asyncio.CancelledError else error
    with pytest.raises(expected):
        next(results)


def test_a_chunk_may_be_cancelled(make_pool: MakePool) -> None:
    begun: Future[None] = Future()
    ended: Future[str] = Future()

    async def call(value: int) -> None:
        if value < 2:
            return
        begun.set_result(None)
        try:
            await Future()
        except asyncio.CancelledError:
            ended.set_result("cancelled")
            raise

    results = make_pool(1).map(call, range(4), chunksize=2)
    next(results)
    begun.result(PATIENCE)
    results.close()  # type: ignore[attr-defined]
    assert ended.result(PATIENCE) == "cancelled"


async def begin() -> None:
    pass


@pytest.mark.parametrize("initializer", [begin, lambda: begin()])
def test_an_initializer_that_is_a_coroutine_function_is_refused(
    initializer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if initializer is begin:
        with pytest.raises(TypeError, match="must be a plain function"):
            FairPool(1, initializer=initializer)
        return
    with FairPool(1, initializer=initializer) as pool, pytest.raises(fairpool.BrokenFairPool):
        pool.submit(int).result(PATIENCE)
    assert "must be a plain function" in caplog.text


def test_a_callback_that_is_a_coroutine_function_is_told_so(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    async def callback(_: object) -> None:
        pass

    future = make_pool(1).submit(int)
    future.result(PATIENCE)
    future.add_done_callback(callback)
    assert "use then()" in caplog.text
