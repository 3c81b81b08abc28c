"""Objects of the user's whose classes answer every question with an error: no step asks them.

Each hook of the classes here notes down that it was called, calls the pool back, and raises. So a
test that ends with an empty list shows that the package has run none of them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import io
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future as StdFuture
from typing import Any

import pytest
from kit import TIMEOUT, in_time

import fairpool
from fairpool import FairPool, Future, TaskGroup, gather, shield, timeout, yield_now
from fairpool._core.report import wait_for_log

called: list[str] = []


class Insult(BaseException):
    """What a hook raises."""


def hook(name: str) -> Callable[..., Any]:
    def hostile(*args: object, **kwargs: object) -> Any:
        called.append(name)
        raise Insult(name)

    return hostile


# What a class can be asked by way of its objects, and a metaclass by way of its classes.
QUESTIONS = [
    "__eq__",
    "__ne__",
    "__lt__",
    "__hash__",
    "__bool__",
    "__len__",
    "__str__",
    "__repr__",
    "__format__",
    "__setattr__",
    "__getattribute__",
    "__getattr__",
    "__delattr__",
    "__dir__",
    "__reduce_ex__",
    "__iter__",
    "__contains__",
]
OF_AN_EXCEPTION = ["with_traceback", "add_note", "__traceback__", "__context__", "__cause__"]
# Without `__subclasscheck__`: `raise` itself calls that.
OF_A_CLASS = [
    "__instancecheck__",
    "__eq__",
    "__hash__",
    "__bool__",
    "__getattribute__",
]


def hostile_class(*bases: type, questions: list[str], meta: bool = False) -> type:
    namespace: dict[str, Any] = {name: hook(name) for name in questions if name[2:5] != "tra"}
    namespace["__class__"] = property(hook("__class__"))
    for name in ("__traceback__", "__context__", "__cause__"):
        if name in questions:
            namespace[name] = property(hook(name), hook(name))
    kind: Any = type
    if meta:
        kind = type("Meta", (type,), {name: hook(f"type.{name}") for name in OF_A_CLASS})
    made: type = kind("Hostile", bases, namespace)
    return made


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """The usual case."""


ERRORS: dict[str, type] = {
    "frozen": Frozen,
    "error": hostile_class(Exception, questions=QUESTIONS + OF_AN_EXCEPTION),
    "error with a metaclass": hostile_class(
        Exception, questions=QUESTIONS + OF_AN_EXCEPTION, meta=True
    ),
    "base error": hostile_class(BaseException, questions=QUESTIONS + OF_AN_EXCEPTION, meta=True),
    "group": hostile_class(
        ExceptionGroup, questions=[*QUESTIONS, *OF_AN_EXCEPTION, "exceptions"], meta=True
    ),
}


def make_error(kind: str) -> Any:
    args = ("several", [ValueError()]) if kind == "group" else ()
    return ERRORS[kind](*args)


def raised_by(call: Callable[..., object], *args: object) -> BaseException | None:
    """What the call raises. Not with `pytest.raises`, which asks."""
    try:
        call(*args)
    except BaseException as error:
        return error
    return None


def frames(error: BaseException) -> list[str]:
    trace = BaseException.__dict__["__traceback__"].__get__(error)
    names = []
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return names


@pytest.fixture
def pool() -> Iterator[FairPool]:
    called.clear()
    with FairPool(2) as pool:
        yield pool


# --- exceptions -----------------------------------------------------------------------------------


def fail(error: BaseException) -> Any:
    raise error


async def fail_at_once(error: BaseException) -> Any:
    raise error


async def fail_later(error: BaseException) -> Any:
    await yield_now()
    raise error


async def suspended(pool: FairPool, error: BaseException) -> Any:
    await pool.submit(int)
    raise error


async def in_group(error: BaseException) -> None:
    async with TaskGroup() as group:
        group.create_task(fail_later(error))


async def in_timeout(error: BaseException, delay: float | None) -> None:
    async with timeout(delay):
        await yield_now()
        raise error


async def cancelled_in_timeout(error: BaseException) -> None:
    async with timeout(0):
        try:
            await fairpool.sleep(TIMEOUT)
        except asyncio.CancelledError:
            raise error from None


async def inside(lock: Any, error: BaseException, turns: int) -> None:
    async with lock:
        for _ in range(turns):
            await yield_now()
        raise error


def inside_on_stack(lock: Any, error: BaseException) -> None:
    with lock:
        raise error


async def handled(error: BaseException) -> None:
    """The coroutine is asked to go on by an awaitable that raises."""
    await Raising(error)


class Raising:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __await__(self) -> Any:
        yield None
        raise self.error


DOORS: dict[str, Callable[[FairPool, Any], object]] = {
    "submit": lambda pool, error: pool.submit(fail, error).result(TIMEOUT),
    "submit, exception()": lambda pool, error: fail(pool.submit(fail, error).exception(TIMEOUT)),
    "coroutine": lambda pool, error: pool.submit(fail_at_once, error).result(TIMEOUT),
    "coroutine later": lambda pool, error: pool.submit(fail_later, error).result(TIMEOUT),
    "coroutine after a wait": lambda pool, error: pool.submit(suspended, pool, error).result(
        TIMEOUT
    ),
    "awaitable": lambda pool, error: pool.submit(handled, error).result(TIMEOUT),
    "await": lambda pool, error: pool.submit(awaits, pool.submit(fail, error)).result(TIMEOUT),
    "nested result": lambda pool, error: pool.submit(
        lambda: pool.submit(fail, error).result()
    ).result(TIMEOUT),
    "then": lambda pool, error: pool.submit(int).then(lambda _: fail(error)).result(TIMEOUT),
    "then, coroutine": lambda pool, error: (
        pool.submit(int).then(lambda _: fail_later(error)).result(TIMEOUT)
    ),
    "then, future": lambda pool, error: (
        pool.submit(int).then(lambda _: pool.submit(fail, error)).result(TIMEOUT)
    ),
    "past then": lambda pool, error: pool.submit(fail, error).then(int).result(TIMEOUT),
    "past catch": lambda pool, error: (
        pool.submit(fail, error).catch(int, KeyError).result(TIMEOUT)
    ),
    "catch": lambda pool, error: fail(
        pool.submit(fail, error).catch(lambda caught: [caught], type(error)).result(TIMEOUT)[0]
    ),
    "catch, again": lambda pool, error: (
        pool.submit(fail, error).catch(fail, BaseException).result(TIMEOUT)
    ),
    "on_error": lambda pool, error: pool.submit(fail, error).then(int, fail).result(TIMEOUT),
    "past finally_": lambda pool, error: pool.submit(fail, error).finally_(int).result(TIMEOUT),
    "finally_": lambda pool, error: (
        pool.submit(int).finally_(lambda: fail(error)).result(TIMEOUT)
    ),
    "finally_, coroutine": lambda pool, error: (
        pool.submit(int).finally_(lambda: fail_later(error)).result(TIMEOUT)
    ),
    "gather": lambda pool, error: pool.submit(in_gather, error, False).result(TIMEOUT),
    "gather, eager": lambda pool, error: pool.submit(in_gather, error, True).result(TIMEOUT),
    "gather of futures": lambda pool, error: gather(
        pool.submit(fail, error), pool.submit(int)
    ).result(TIMEOUT),
    "gather of another executor's": lambda pool, error: gather(standard(error)).result(TIMEOUT),
    "gather, exceptions": lambda pool, error: fail(
        gather(pool.submit(fail, error), return_exceptions=True).result(TIMEOUT)[0]
    ),
    "gather of another executor's, exceptions": lambda pool, error: fail(
        gather(standard(error), return_exceptions=True).result(TIMEOUT)[0]
    ),
    "shield": lambda pool, error: shield(pool.submit(fail, error)).result(TIMEOUT),
    "shield of another executor's": lambda pool, error: shield(standard(error)).result(TIMEOUT),
    "await of another executor's": lambda pool, error: pool.submit(
        awaits, fairpool.wrap_future(standard(error))
    ).result(TIMEOUT),
    "timeout": lambda pool, error: pool.submit(in_timeout, error, TIMEOUT).result(TIMEOUT),
    "no timeout": lambda pool, error: pool.submit(in_timeout, error, None).result(TIMEOUT),
    "expired": lambda pool, error: pool.submit(cancelled_in_timeout, error).result(TIMEOUT),
    "lock.submit": lambda pool, error: of_lock(pool).submit(fail, error).result(TIMEOUT),
    "lock.submit, coroutine": lambda pool, error: (
        of_lock(pool).submit(fail_at_once, error).result(TIMEOUT)
    ),
    "lock.submit, coroutine later": lambda pool, error: (
        of_lock(pool).submit(fail_later, error).result(TIMEOUT)
    ),
    "lock.map": lambda pool, error: list(of_lock(pool).map(fail, [error], timeout=TIMEOUT)),
    "then, lock": lambda pool, error: (
        pool.submit(int).then(lambda _: fail(error), lock=of_lock(pool)).result(TIMEOUT)
    ),
    "async with": lambda pool, error: (
        pool.submit(inside, of_lock(pool), error, 0).result(TIMEOUT)
    ),
    "async with, later": lambda pool, error: (
        pool.submit(inside, of_lock(pool), error, 2).result(TIMEOUT)
    ),
    "async with, granted": lambda pool, error: pool.submit(granted, of_lock(pool), error).result(
        TIMEOUT
    ),
    "with": lambda pool, error: pool.submit(inside_on_stack, of_lock(pool), error).result(TIMEOUT),
    "with, here": lambda pool, error: inside_on_stack(of_lock(pool), error),
    "all_of": lambda pool, error: (
        pool.submit(inside, fairpool.all_of(of_lock(pool), pool.lock()), error, 1).result(TIMEOUT)
    ),
    "guarded": lambda pool, error: (
        pool.submit(inside, of_guarded(pool), error, 1).result(TIMEOUT)
    ),
    "guarded.submit": lambda pool, error: (
        of_guarded(pool).submit(lambda _: fail(error)).result(TIMEOUT)
    ),
    "guarded, born": lambda pool, error: pool.submit(
        inside, pool.guarded(lambda: fail(error)), KeyError(), 0
    ).result(TIMEOUT),
    "lock by usage": lambda pool, error: (
        pool.share("a").submit(inside, pool.lock(order="usage"), error, 1).result(TIMEOUT)
    ),
    "map": lambda pool, error: list(pool.map(fail, [error], timeout=TIMEOUT)),
    "map in chunks": lambda pool, error: list(pool.map(fail, [error] * 2, chunksize=2)),
    "share": lambda pool, error: pool.share("a").submit(fail_later, error).result(TIMEOUT),
    "run": lambda pool, error: pool.run(fail_later, error),
    "fairpool.run": lambda pool, error: fairpool.run(fail_later(error)),
    "callers only": lambda pool, error: callers_only(error),
    "create_task": lambda pool, error: pool.submit(of_task, error).result(TIMEOUT),
    "set_exception": lambda pool, error: by_hand(error).result(TIMEOUT),
    "then of one by hand": lambda pool, error: pool.submit(
        lambda: by_hand(error).then(int)
    ).result(TIMEOUT).result(TIMEOUT),
    "a generator": lambda pool, error: pool.submit(iterate, error).result(TIMEOUT),
}  # fmt: skip

LOCKS: list[Any] = []


def of_lock(pool: FairPool) -> Any:
    LOCKS.append(pool.lock())
    return LOCKS[-1]


def of_guarded(pool: FairPool) -> Any:
    guarded = pool.guarded([])
    LOCKS.append(guarded.lock)
    return guarded


def standard(error: BaseException) -> StdFuture[Any]:
    future: StdFuture[Any] = StdFuture()
    future.set_exception(error)
    return future


def by_hand(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


async def awaits(future: Any) -> Any:
    return await future


async def in_gather(error: BaseException, eager: bool) -> Any:
    await gather(give(1), fail_later(error), give_later(1), eager_start=eager)


async def of_task(error: BaseException) -> Any:
    await fairpool.create_task(fail_later(error))


async def iterate(error: BaseException) -> Any:
    async def items() -> Any:
        yield 1
        await yield_now()
        raise error

    async for _ in items():
        pass


async def granted(lock: Any, error: BaseException) -> Any:
    """The second is let in by a pass, and not at once."""

    async def first() -> None:
        async with lock:
            await yield_now()

    async with TaskGroup() as group:
        group.create_task(first())
        await yield_now()
        task = lock.submit(fail_later, error)
        fails = fairpool.create_task(inside(lock, error, 1))
        await gather(task, fails, return_exceptions=True)
    raise error


def callers_only(error: BaseException) -> Any:
    with FairPool(0) as pool:
        return pool.run(fail_later, error)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("door", DOORS)
def test_an_error_arrives_whole_whatever_its_class_does(
    pool: FairPool, door: str, kind: str
) -> None:
    LOCKS.clear()
    error = make_error(kind)
    raised = in_time(lambda: raised_by(DOORS[door], pool, error))
    same = raised is error  # not in the `assert`, which would ask for its `repr`
    assert same, (frames(raised) if raised is not None else "nothing", called)
    if "gather" not in door and door != "with, here":
        assert {"fail", "fail_at_once", "fail_later", "suspended"}.intersection(frames(error)) or (
            frames(error)[-1] != "raised_by"
        )
    assert called == []
    for lock in LOCKS:
        assert in_time(lambda lock=lock: lock.submit(int, 3).result(TIMEOUT)) == 3
        assert lock.acquire(timeout=TIMEOUT)
        lock.release()
    # Both workers are there, and nothing waits in them.
    assert [future.result(TIMEOUT) for future in [pool.submit(int, i) for i in range(9)]] == [
        *range(9)
    ]


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind != "base error"])
def test_a_group_of_errors_is_made_of_what_was_raised(pool: FairPool, kind: str) -> None:
    error = make_error(kind)
    raised: Any = in_time(lambda: raised_by(pool.submit(in_group, error).result, TIMEOUT))
    assert type(raised) is ExceptionGroup
    same = raised.exceptions[0] is error
    assert same
    assert called == []


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_of_a_callback_harms_nobody(pool: FairPool, kind: str) -> None:
    error = make_error(kind)
    calls: list[object] = []
    future = pool.submit(fail, error)
    future.add_done_callback(lambda _: fail(error))
    future.add_done_callback(calls.append)
    same = raised_by(future.result, TIMEOUT) is error
    assert same
    assert pool.submit(int, 3).result(TIMEOUT) == 3
    future.add_done_callback(lambda _: fail(error))
    pool.shutdown()
    assert calls == [future]


class Counter(logging.Handler):
    """Counts, without formatting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += self.text in str(record.msg)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("work", [fail, fail_later])
def test_an_error_that_nobody_retrieves_is_logged_whatever_its_class_does(
    pool: FairPool, kind: str, work: Any
) -> None:
    logger = logging.getLogger("concurrent.futures.fairpool")
    counter = Counter("never retrieved")
    gc.collect()
    assert wait_for_log(TIMEOUT)
    logger.addHandler(counter)
    try:
        pool.submit(work, make_error(kind))
        pool.shutdown()
        gc.collect()
        assert wait_for_log(TIMEOUT)
    finally:
        logger.removeHandler(counter)
    assert counter.count == 1


# --- results, items and states --------------------------------------------------------------------

# In a list, because pytest asks each class of a module what it is.
VALUES: list[Any] = [hostile_class(object, questions=QUESTIONS, meta=True)]
Text: Any = hostile_class(
    str, questions=["__eq__", "__hash__", "__str__", "__repr__", "__format__"]
)


async def give(value: Any) -> Any:
    return value


async def give_later(value: Any) -> Any:
    await yield_now()
    return value


async def through_queue(value: Any) -> Any:
    queue: fairpool.Queue[Any] = fairpool.Queue(1)
    getter = fairpool.create_task(queue.get())
    await yield_now()
    await queue.put(value)
    first = await getter
    queue.put_nowait(value)
    assert queue.get_nowait() is first
    return first


async def through_gather(value: Any, eager: bool) -> Any:
    return (await gather(give(value), give_later(value), eager_start=eager))[1]


async def through_lock(lock: Any, value: Any) -> Any:
    async with lock as state:
        return value if state is None else state


async def sleeps(value: Any) -> Any:
    return await fairpool.sleep(0.001, value)


def standard_with(value: Any) -> StdFuture[Any]:
    future: StdFuture[Any] = StdFuture()
    future.set_result(value)
    return future


def by_hand_with(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


PASSAGES: dict[str, Callable[[FairPool, Any], Any]] = {
    "submit": lambda pool, value: pool.submit(lambda: value).result(TIMEOUT),
    "argument": lambda pool, value: pool.submit(lambda a: a, value).result(TIMEOUT),
    "keyword": lambda pool, value: pool.submit(lambda *, a: a, a=value).result(TIMEOUT),
    "coroutine": lambda pool, value: pool.submit(give, value).result(TIMEOUT),
    "coroutine later": lambda pool, value: pool.submit(give_later, value).result(TIMEOUT),
    "await": lambda pool, value: pool.submit(awaits, pool.submit(give, value)).result(TIMEOUT),
    "then": lambda pool, value: pool.submit(int).then(lambda _: value).result(TIMEOUT),
    "through then": lambda pool, value: (
        pool.submit(give, value).then(lambda a: a).result(TIMEOUT)
    ),
    "through catch": lambda pool, value: pool.submit(give, value).catch(int).result(TIMEOUT),
    "catch": lambda pool, value: (
        pool.submit(fail, KeyError()).catch(lambda _: value).result(TIMEOUT)
    ),
    "finally_": lambda pool, value: (
        pool.submit(give, value).finally_(lambda: value).result(TIMEOUT)
    ),
    "gather": lambda pool, value: pool.submit(through_gather, value, False).result(TIMEOUT),
    "gather, eager": lambda pool, value: pool.submit(through_gather, value, True).result(TIMEOUT),
    "gather of another executor's": lambda pool, value: gather(standard_with(value)).result(0)[0],
    "shield": lambda pool, value: shield(pool.submit(give, value)).result(TIMEOUT),
    "shield of another executor's": lambda pool, value: shield(standard_with(value)).result(0),
    "lock.submit": lambda pool, value: of_lock(pool).submit(lambda: value).result(TIMEOUT),
    "lock.submit, coroutine": lambda pool, value: of_lock(pool).submit(give_later, value).result(
        TIMEOUT
    ),
    "then, lock": lambda pool, value: (
        pool.submit(int).then(lambda _: value, lock=of_lock(pool)).result(TIMEOUT)
    ),
    "async with": lambda pool, value: (
        pool.submit(through_lock, of_lock(pool), value).result(TIMEOUT)
    ),
    "guarded": lambda pool, value: (
        pool.submit(through_lock, pool.guarded(value), value).result(TIMEOUT)
    ),
    "guarded, born": lambda pool, value: (
        pool.guarded(lambda: value).submit(lambda state: state).result(TIMEOUT)
    ),
    "queue": lambda pool, value: pool.submit(through_queue, value).result(TIMEOUT),
    "sleep": lambda pool, value: pool.submit(sleeps, value).result(TIMEOUT),
    "map": lambda pool, value: next(pool.map(lambda a: a, [value])),
    "map in chunks": lambda pool, value: list(pool.map(lambda a: a, [value] * 3, chunksize=2))[2],
    "share": lambda pool, value: pool.share("a").submit(give_later, value).result(TIMEOUT),
    "run": lambda pool, value: pool.run(give_later, value),
    "fairpool.run": lambda pool, value: fairpool.run(give_later(value)),
    "set_result": lambda pool, value: by_hand_with(value).result(0),
}  # fmt: skip


@pytest.mark.parametrize("passage", PASSAGES)
def test_a_result_arrives_whatever_its_class_does(pool: FairPool, passage: str) -> None:
    LOCKS.clear()
    value = type.__call__(VALUES[0])
    same = in_time(lambda: PASSAGES[passage](pool, value)) is value
    assert same
    repr(pool.submit(give, value)), repr(by_hand_with(value))
    for lock in LOCKS:
        assert in_time(lambda lock=lock: lock.submit(int, 3).result(TIMEOUT)) == 3
    assert pool.submit(int, 3).result(TIMEOUT) == 3
    assert called == []


class Callable_:
    """A callable that does not want to be asked for its name."""

    def __init__(self, work: Callable[..., Any]) -> None:
        object.__setattr__(self, "work", work)

    def __call__(self, *args: Any) -> Any:
        return object.__getattribute__(self, "work")(*args)

    for _name in QUESTIONS:
        locals()[_name] = hook(_name)


@pytest.mark.parametrize(
    "way",
    {
        "submit": lambda pool, fn: pool.submit(fn),
        "then": lambda pool, fn: pool.submit(int).then(lambda _: fn()),
        "finally_": lambda pool, fn: pool.submit(int).finally_(fn),
        "lock.submit": lambda pool, fn: pool.lock().submit(fn),
        "guarded": lambda pool, fn: pool.guarded(fn).submit(lambda state: state),
        "share": lambda pool, fn: pool.share("a").submit(fn),
    }.items(),
    ids=lambda way: way[0],
)
def test_a_callable_is_called_and_shown_without_being_asked(
    pool: FairPool, way: tuple[str, Any]
) -> None:
    shown = io.StringIO()
    future: list[Any] = []

    def look() -> str:
        pool.dump(shown)
        return repr(fairpool.current_task())

    fn = Callable_(look)
    future.append(way[1](pool, fn))
    future[0].result(TIMEOUT)
    repr(future[0]), repr(pool)
    assert "Callable_ object at" in shown.getvalue() or way[0] in ("then", "guarded", "finally_")
    assert called == []


@pytest.mark.parametrize(
    "make",
    [
        lambda pool, text: FairPool(1, text),
        lambda pool, text: pool.lock(text),
        lambda pool, text: pool.share(text),
        lambda pool, text: pool.guarded(0, name=text),
    ],
    ids=["prefix", "lock", "share", "guarded"],
)
def test_a_name_is_taken_as_its_characters(pool: FairPool, make: Any) -> None:
    made = make(pool, str.__new__(Text, "name"))
    assert "name" in repr(made)
    made.submit(lambda *state: 1).result(TIMEOUT)
    made.statistics() if hasattr(made, "statistics") else None
    pool.dump(io.StringIO())
    if isinstance(made, FairPool):
        made.shutdown()
    assert called == []


# --- futures and groups of the user's own classes, and of other executors -------------------------


@dataclasses.dataclass
class Compared(Future[Any]):
    """Cannot be hashed, and compares what it has not."""

    number: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    __eq__ = hook("__eq__")


@dataclasses.dataclass
class ComparedGroup(TaskGroup):
    number: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    __eq__ = hook("__eq__")


def test_a_future_is_waited_for_whatever_its_class_does(pool: FairPool) -> None:
    future = Compared()
    waiting = pool.submit(lambda: future.result(TIMEOUT))
    awaiting = pool.submit(awaits, future)
    chained = pool.submit(lambda: future.then(lambda a: a)).result(TIMEOUT)
    together = gather(future, shield(future))
    nested = pool.submit(lambda: chained.result() or together.result())
    future.set_result(3)
    assert in_time(lambda: waiting.result(TIMEOUT)) == awaiting.result(TIMEOUT) == 3
    assert nested.result(TIMEOUT) == chained.result(TIMEOUT) == 3
    assert together.result(TIMEOUT) == [3, 3]
    assert called == []


async def use_group() -> int:
    async with ComparedGroup() as group:
        tasks = [group.create_task(give_later(3)) for _ in range(3)]
        shields = [shield(task) for task in tasks]
        shields[1].cancel()  # taken out of what waits for the task, the group before it
        tasks[0].cancel()
    return sum(task.result() for task in tasks[1:])


def test_a_group_is_not_asked_either(pool: FairPool) -> None:
    assert in_time(lambda: pool.submit(use_group).result(TIMEOUT)) == 6
    assert called == []


class Refusing(StdFuture[Any]):
    """Another executor's future, which answers some questions with an error."""

    refused = ""

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "refused"):
            raise Insult(name)
        if name.startswith("_suspend") or name == "_coroutine_state":
            raise AttributeError(name) if name == "_suspend" else Insult(name)
        return object.__getattribute__(self, name)


async def cancel_the_one_that_waits(future: Any) -> object:
    task = fairpool.create_task(awaits(fairpool.wrap_future(future)))
    await yield_now()
    await yield_now()
    future.refused = "cancel"
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return "cancelled"


@pytest.mark.parametrize("refused", ["cancelled", "exception", "result"])
@pytest.mark.parametrize("way", ["gather", "gather, exceptions", "shield"])
def test_a_foreign_future_that_refuses_is_a_failed_one(
    pool: FairPool, way: str, refused: str
) -> None:
    future = Refusing()
    joined: Future[Any] = (
        shield(future) if way == "shield" else gather(future, return_exceptions="exceptions" in way)
    )
    future.refused = refused
    future.set_result(3)
    if way == "gather, exceptions":
        assert type(joined.result(0)[0]) is Insult
    else:
        assert type(raised_by(joined.result, 0)) is Insult


def test_a_foreign_future_that_cannot_be_cancelled_keeps_nobody(pool: FairPool) -> None:
    future = Refusing()
    assert in_time(lambda: pool.submit(cancel_the_one_that_waits, future).result(TIMEOUT)) == (
        "cancelled"
    )
