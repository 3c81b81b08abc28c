"""`wrap_future`: another executor's future as one of ours, and what takes such futures as they are.

The model is `asyncio.wrap_future`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import pytest
from kit import TIMEOUT, Mishap, in_time

import fairpool
from fairpool import FairPool, Future, gather, shield, wrap_future
from fairpool._core.report import LOGGER, wait_for_log

Foreign = concurrent.futures.Future


@pytest.fixture
def pool() -> Iterator[FairPool]:
    with FairPool(2) as pool:
        yield pool


async def wait_for(future: Any) -> Any:
    return await future


def until_suspended(task: Any) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not getattr(getattr(task, "_coroutine_state", None), "armed", None):
        assert time.monotonic() < deadline
        time.sleep(0)


def end(future: Any, outcome: str) -> None:
    if outcome == "result":
        future.set_result(5)
    elif outcome == "error":
        future.set_exception(Mishap())
    else:
        assert future.cancel()
        assert not future.set_running_or_notify_cancel()  # as an executor does


def outcome_of(get: Callable[[], object]) -> str:
    try:
        assert get() == 5
    except Mishap:
        return "error"
    except (asyncio.CancelledError, concurrent.futures.CancelledError):
        return "cancelled"
    return "result"


# --- it ends as the other one does ----------------------------------------------------------------

PLACES: dict[str, Callable[[FairPool, Any], object]] = {
    "a thread": lambda pool, future: future.result(TIMEOUT),
    "a function on a worker": lambda pool, future: pool.submit(lambda: future.result()).result(
        TIMEOUT
    ),
    "a task": lambda pool, future: pool.submit(wait_for, future).result(TIMEOUT),
    "an asyncio loop": lambda pool, future: asyncio.run(wait_for(future)),
    "concurrent.futures.wait": lambda pool, future: (
        concurrent.futures.wait([future], TIMEOUT).done.pop().result(0)
    ),
    "as_completed": lambda pool, future: next(
        concurrent.futures.as_completed([future], TIMEOUT)
    ).result(0),
    "asyncio's own wrapper": lambda pool, future: asyncio.run(through_asyncio(future)),
}


async def through_asyncio(future: Any) -> object:
    return await asyncio.wrap_future(future)


@pytest.mark.parametrize("outcome", ["result", "error", "cancelled"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("early", [True, False], ids=["final first", "wrapped first"])
def test_ends_as_the_other_one_does(pool: FairPool, early: bool, place: str, outcome: str) -> None:
    future: Foreign[int] = Foreign()
    if early:
        end(future, outcome)
    wrapper = wrap_future(future)
    assert isinstance(wrapper, Future)
    assert wrapper.done() is early
    if not early:
        timer = threading.Timer(0.005, end, (future, outcome))
        timer.start()
    assert outcome_of(lambda: PLACES[place](pool, wrapper)) == outcome
    if not early:
        timer.join()
    assert wrapper.done()
    assert wrapper.cancelled() is (outcome == "cancelled")


def test_own_future_is_returned_as_it_is(pool: FairPool) -> None:
    for own in (Future[int](), pool.submit(int), gather(), shield(Future())):
        assert wrap_future(own) is own


@pytest.mark.parametrize("what", [5, None, "text", object(), Foreign, wait_for])
def test_anything_else_is_a_type_error(what: Any) -> None:
    with pytest.raises(TypeError, match=r"takes a concurrent\.futures\.Future, not "):
        wrap_future(what)


def test_future_of_asyncio_is_refused_with_advice() -> None:
    loop = asyncio.new_event_loop()
    try:
        future: Any = loop.create_future()
        with pytest.raises(TypeError, match=r"not .*Future, which.*run_coroutine_threadsafe"):
            wrap_future(future)
    finally:
        loop.close()


def test_wrapper_is_not_ended_by_hand() -> None:
    for wrapper in (wrap_future(Foreign[int]()), shield(Future()), gather(Future())):
        for step in (
            lambda: wrapper.set_result(1),
            lambda: wrapper.set_exception(Mishap()),
            wrapper.set_running_or_notify_cancel,
        ):
            with pytest.raises(concurrent.futures.InvalidStateError, match="not by hand"):
                step()
        assert not wrapper.done()


# --- both ways: cancelling ------------------------------------------------------------------------


async def cancel_a_task(rt: Any, wrapper: Any) -> bool:
    task = rt.create_task(wait_for(wrapper))
    await rt.sleep(0.001)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def cancel_by_timeout(rt: Any, wrapper: Any) -> bool:
    try:
        async with rt.timeout(0.001):
            await wrapper
    except TimeoutError:
        return True
    return False


async def cancel_itself(rt: Any, wrapper: Any) -> bool:
    return bool(wrapper.cancel())


async def cancel_a_gather(rt: Any, wrapper: Any) -> bool:
    joint = rt.gather(wrapper)
    joint.cancel()
    try:
        await joint
    except asyncio.CancelledError:
        return True
    return False


async def cancel_a_shield(rt: Any, wrapper: Any) -> bool:
    return bool(rt.shield(wrapper).cancel())


def after_cancelling(rt: Any, how: Any, state: str) -> list[object]:
    """What asyncio, or fairpool, makes of a future that is pending, running or finished."""
    future: Foreign[int] = Foreign()
    if state != "pending":
        future.set_running_or_notify_cancel()
    if state == "finished":
        future.set_result(5)
    seen: list[object] = []

    async def body() -> None:
        wrapper = rt.wrap_future(future)
        await rt.sleep(0.001)
        seen.append(await how(rt, wrapper))
        await rt.sleep(0.001)
        seen.extend([wrapper.cancelled(), wrapper.done()])

    rt.run(body())
    seen.extend([future.cancelled(), future.running()])
    if state == "pending" and future.cancelled():
        seen.append(future.set_running_or_notify_cancel())
    return seen


@pytest.mark.parametrize("state", ["pending", "running", "finished"])
@pytest.mark.parametrize(
    "how", [cancel_itself, cancel_a_task, cancel_by_timeout, cancel_a_gather, cancel_a_shield]
)
def test_cancelling_as_in_asyncio(how: Any, state: str) -> None:
    ours = in_time(lambda: after_cancelling(fairpool, how, state))
    assert ours == after_cancelling(asyncio, how, state)


@pytest.mark.parametrize("way", ["wrapper", "gather", "shield", "shield, source"])
def test_nobody_waits_for_ever_for_a_cancelled_one(way: str) -> None:
    """`concurrent.futures.wait` is told of a cancellation without another step by hand."""
    future: Foreign[int] = Foreign()
    what: Any = wrap_future(future)
    if way == "gather":
        what = gather(Future())
    elif way == "shield":
        what = shield(Future())
    elif way == "shield, source":
        what = shield(future)
    if way == "shield, source":
        future.cancel()
    else:
        assert what.cancel()
    assert what.cancelled()
    assert concurrent.futures.wait([what], TIMEOUT).done == {what}
    assert [*concurrent.futures.as_completed([what], TIMEOUT)] == [what]


@pytest.mark.parametrize("make", [wrap_future, shield, gather])
def test_final_one_is_not_cancelled(make: Any) -> None:
    future: Foreign[int] = Foreign()
    future.set_result(1)
    assert make(future).cancel() is False


def test_other_one_that_cannot_be_cancelled_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Evil(Foreign[int]):
        def cancel(self) -> bool:
            raise Mishap

    with caplog.at_level(logging.ERROR, LOGGER.name):
        wrapper = wrap_future(Evil())
        assert wrapper.cancel()
        assert wait_for_log(TIMEOUT)
    assert wrapper.cancelled()
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [Mishap]


def test_callback_of_the_other_one_may_wait_for_the_wrapper() -> None:
    """The wrapper is final before it cancels the other one."""
    future: Foreign[int] = Foreign()
    wrapper = wrap_future(future)
    seen: list[object] = []
    future.add_done_callback(lambda _: seen.append(wrapper.done()))
    assert wrapper.cancel()
    assert seen == [True]


# --- what is awaited ------------------------------------------------------------------------------


def test_bare_future_of_another_executor_is_a_type_error_of_pythons(pool: FairPool) -> None:
    error = pool.submit(wait_for, Foreign()).exception(TIMEOUT)
    assert type(error) is TypeError
    assert "await" in str(error)


@types.coroutine
def yields(future: Any) -> Generator[Any, None, Any]:
    """What an object of a library of the program's may do."""
    while not future.done():
        yield future
    return future.result()


@pytest.mark.parametrize("outcome", ["result", "error", "cancelled"])
def test_generator_may_yield_a_future_of_another_executor(pool: FairPool, outcome: str) -> None:
    future: Foreign[int] = Foreign()
    task = pool.submit(yields, future)
    until_suspended(task)
    end(future, outcome)
    error = task.exception(TIMEOUT) if outcome != "cancelled" else None
    assert outcome_of(lambda: task.result(TIMEOUT)) == outcome, error


def test_cancelling_a_coroutine_that_yields_a_future_cancels_the_future(pool: FairPool) -> None:
    future: Foreign[int] = Foreign()
    task = pool.submit(yields, future)
    until_suspended(task)
    assert task.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        task.result(TIMEOUT)
    assert future.cancelled()


TAKERS: dict[str, Callable[[FairPool, Any], object]] = {
    "gather": lambda pool, future: gather(future, future).result(TIMEOUT)[1],
    "gather, exceptions": lambda pool, future: raised(
        gather(future, return_exceptions=True).result(TIMEOUT)[0]
    ),
    "shield": lambda pool, future: shield(future).result(TIMEOUT),
    "then": lambda pool, future: pool.submit(int).then(lambda _: future).result(TIMEOUT),
    "catch": lambda pool, future: (
        pool.submit(raised, Mishap()).catch(lambda _: future).result(TIMEOUT)
    ),
    "finally_": lambda pool, future: outcome_of_finally(pool, future),
    "then of a wrapper": lambda pool, future: (
        pool.submit(lambda: wrap_future(future).then(lambda a: a)).result(TIMEOUT).result(TIMEOUT)
    ),
    "wait": lambda pool, future: (
        pool.submit(lambda: concurrent.futures.wait([pool.submit(int), future]))
        .then(lambda _: future)
        .result(TIMEOUT)
    ),
}


def raised(outcome: object) -> object:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def outcome_of_finally(pool: FairPool, future: Any) -> object:
    assert pool.submit(int).finally_(lambda: future).result(TIMEOUT) == 0
    return future.result(0)


@pytest.mark.parametrize("outcome", ["result", "error", "cancelled"])
@pytest.mark.parametrize("early", [True, False], ids=["final first", "taken first"])
@pytest.mark.parametrize("taker", TAKERS)
def test_functions_take_futures_of_other_executors(
    pool: FairPool, taker: str, early: bool, outcome: str
) -> None:
    future: Foreign[int] = Foreign()
    timer = threading.Timer(0.0 if early else 0.005, end, (future, outcome))
    timer.start()
    if early:
        timer.join()
    assert outcome_of(lambda: TAKERS[taker](pool, future)) == outcome
    timer.join()


# --- exceptions, and little stack -----------------------------------------------------------------


@pytest.mark.parametrize("retrieved", [False, True])
@pytest.mark.parametrize("way", ["wrapper", "shield", "gather", "cancelled"])
def test_exception_is_logged_once_if_nobody_retrieves_it(
    caplog: pytest.LogCaptureFixture, way: str, retrieved: bool
) -> None:
    gc.collect()
    assert wait_for_log(TIMEOUT)
    future: Foreign[int] = Foreign()
    make = {"shield": shield, "gather": gather}.get(way, wrap_future)
    what: Any = make(future)
    if way == "cancelled":
        what.cancel()
        future = Foreign()
        what = wrap_future(future)
        future.set_running_or_notify_cancel()
        what.cancel()
    with caplog.at_level(logging.ERROR, LOGGER.name):
        caplog.clear()
        future.set_exception(Mishap())
        if retrieved and way != "cancelled":
            assert type(what.exception(0)) is Mishap
        del what, future
        gc.collect()
        assert wait_for_log(TIMEOUT)
        lost = [record for record in caplog.records if record.exc_info]
    assert len(lost) == (0 if retrieved or way == "cancelled" else 1)


@pytest.mark.parametrize("step", ["set_result", "cancel", "add_done_callback"])
@pytest.mark.parametrize("make", [wrap_future, shield, gather])
def test_ends_however_little_stack_there_is(make: Any, step: str) -> None:
    """At each depth at which the other future's step succeeds, what follows it ends."""
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)
    try:
        missing = in_time(lambda: depths_without_end(make, step))
    finally:
        logging.getLogger("concurrent.futures").setLevel(logging.NOTSET)
    assert missing == []


def depths_without_end(make: Any, step: str) -> list[int]:
    missing = []
    for room in range(1, 60):
        future: Foreign[int] = Foreign()
        what: list[Any] = []
        if step == "add_done_callback":
            future.set_result(1)
        else:
            what.append(make(future))
        call = {
            "set_result": partial(future.set_result, 1),
            "cancel": future.cancel,
            "add_done_callback": partial(wrap_into, what, make, future),
        }[step]
        try:
            at_depth(room, call)
        except RecursionError:
            continue
        if not concurrent.futures.wait(what, PATIENCE).done:
            missing.append(room)
    return missing


def wrap_into(what: list[Any], make: Any, future: Any) -> None:
    what.append(make(future))


PATIENCE = 0.5


def at_depth(room: int, call: Callable[[], object]) -> None:
    """Call it where so many frames are left."""
    depth = len(frames())
    deepen(sys.getrecursionlimit() - depth - room, call)


def frames() -> list[Any]:
    found, frame = [], sys._getframe(1)
    while frame is not None:
        found.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def deepen(depth: int, call: Callable[[], object]) -> None:
    if depth > 0:
        deepen(depth - 1, call)
    else:
        call()


# --- the standard library is left as it was -------------------------------------------------------


@pytest.mark.parametrize("name", ["fairpool", "fairpool.testing"])
def test_import_changes_nothing_of_the_standard_library(name: str) -> None:
    """No attribute of a module or class of it: all that the package imports is compared."""
    program = """
    import subprocess, sys
    name = sys.argv[1]
    needed = subprocess.run(
        [sys.executable, "-c", f"import {name}, sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()
    standard = [
        each for each in needed
        if each.partition(".")[0] in sys.stdlib_module_names and each != "__main__"
    ]
    for each in standard:
        try:
            __import__(each)
        except ImportError:
            pass
    def seen():
        found = {}
        for module in standard:
            if module not in sys.modules:
                continue
            names = dict(vars(sys.modules[module]))
            found[module] = names
            for value in names.values():
                if isinstance(value, type) and value.__module__ in standard:
                    found[value.__module__ + "." + value.__qualname__] = dict(vars(value))
        return found
    import concurrent.futures
    concurrent.futures.ThreadPoolExecutor  # made when it is asked for
    # What the interpreter fills in when it is asked: annotations from 3.14 on.
    caches = ["__warningregistry__", "__annotations_cache__", "__annotate_func__"]
    caches += ["_lazy_annotationlib", "_MODULE_IDENTIFIER_RE"]  # of typing, and of dataclasses
    before = seen()
    assert "concurrent.futures._base.Future" in before and len(before) > 100
    for each in ("threading", "asyncio.futures", "queue", "logging", "signal"):
        assert each in before or name == "fairpool", each
    __import__(name)
    after = seen()
    for where, names in before.items():
        for attribute in names.keys() | after[where].keys():
            old, new = names.get(attribute, "nothing"), after[where].get(attribute, "nothing")
            if old is not new and attribute not in caches:
                print(where, attribute, old, new)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), name],
        capture_output=True,
        text=True,
        timeout=TIMEOUT * 4,
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stderr
