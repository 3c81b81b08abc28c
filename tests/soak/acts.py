"""What a party does, one act after the other: everything that is public.

An act raises AssertionError where something is wrong. What else it raises has to be excused by the
world: see `World.excuses`.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, as_completed, wait
from typing import Any

from kit import Mishap
from soak.world import SLOW_SECTION, TIMEOUT, Account, World

import fairpool
from fairpool import (
    BoundedSemaphore,
    BrokenFairPool,
    CancelledError,
    DeadlockError,
    Event,
    FairPool,
    Future,
    Queue,
    QueueShutDown,
    Semaphore,
    TaskGroup,
    all_of,
    blocking,
    create_task,
    current_task,
    gather,
    shield,
    sleep,
    timeout,
    timeout_at,
    yield_now,
)

Chance = random.Random
Act = Callable[[World, Chance], None]

# After so long a forked child is taken for hung. On a free-threaded build that may be so without a
# fault of the package's: 3.13t does not stop the other threads for a fork, so that an object may be
# locked in the child by a thread that is not there.
CHILD_SECONDS = 40
FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()


# --- what tasks do --------------------------------------------------------------------------------


def plain(value: int) -> int:
    return value + 1


def raises(kind: type[BaseException]) -> None:
    raise kind("on purpose")


async def pauses(value: int, count: int) -> int:
    for _ in range(count):
        await yield_now()
    return value + 1


async def naps(value: int) -> int:
    await sleep(1e-5)
    return value + 1


def section(account: Account, token: object, slow: bool, fails: bool) -> int:
    account.enter(token)
    try:
        if slow:
            time.sleep(SLOW_SECTION)
        if fails:
            raise Mishap
        return account.total
    finally:
        account.leave()


async def slow_section(account: Account, token: object, count: int, fails: bool) -> int:
    account.enter(token)
    try:
        for _ in range(count):
            await yield_now()
        if fails:
            raise Mishap
        return account.total
    finally:
        account.leave()


async def enters(account: Account, count: int, fails: bool, patience: float | None) -> int:
    async with timeout(patience), account.lock:
        return await slow_section(account, object(), count, fails)


def holds(account: Account, slow: bool, fails: bool, patience: float | None = None) -> int:
    if not account.lock.acquire(timeout=-1 if patience is None else patience):
        raise TimeoutError
    try:
        return section(account, object(), slow, fails)
    finally:
        account.lock.release()


def ask(future: Any, *expected: object) -> None:
    """The result is as expected; a Mishap or a TimeoutError if those are among what is."""
    try:
        result = future.result()
    except Mishap:
        assert Mishap in expected
    except TimeoutError:
        assert TimeoutError in expected
    else:
        assert not expected or result in expected, (result, expected)


def pick(world: World, chance: Chance) -> Account:
    return chance.choice(world.accounts)


def executor(world: World, chance: Chance) -> Any:
    return chance.choice([world.pool, *world.shares])


# --- tasks ----------------------------------------------------------------------------------------


def act_submit(world: World, chance: Chance) -> None:
    value = chance.randrange(1000)
    fn, args = chance.choice(
        [(plain, (value,)), (pauses, (value, chance.randrange(4))), (naps, (value,))]
    )
    future = world.keep(executor(world, chance).submit(fn, *args))
    if chance.randrange(3):
        ask(future, value + 1)


def act_raise(world: World, chance: Chance) -> None:
    kind = chance.choice([Mishap, MemoryError, SystemExit, KeyboardInterrupt, GeneratorExit])
    future = world.keep(executor(world, chance).submit(raises, kind))
    error = future.exception()
    assert world.excuses(error) or (type(error) is kind and error.args == ("on purpose",)), error


def act_callbacks(world: World, chance: Chance) -> None:
    future = world.keep(world.pool.submit(plain, 1))

    def called(_: Any) -> None:
        world.calls.append(None)
        if fails:
            raise MemoryError

    fails = chance.randrange(3) == 0
    for _ in range(chance.randrange(1, 4)):
        world.expected_calls.append(None)
        future.add_done_callback(called)


def act_cancel(world: World, chance: Chance) -> None:
    victim = world.victim(chance)
    if victim is not None and victim.cancel() and victim.done():
        # A coroutine that runs is only asked to end, and may be about to return.
        assert victim.cancelled() or hasattr(victim, "_coroutine_state")


def act_wait(world: World, chance: Chance) -> None:
    futures = [world.keep(world.pool.submit(plain, i)) for i in range(chance.randrange(1, 8))]
    how = chance.randrange(4)
    if how == 0:
        assert not wait(futures).not_done
    elif how == 1:
        assert wait(futures, return_when=FIRST_COMPLETED).done
    elif how == 2:
        wait(futures, 1e-4)
    else:
        assert {*as_completed(futures)} == {*futures}
    for i, future in enumerate(futures):
        ask(future, i + 1)


def act_map(world: World, chance: Chance) -> None:
    size, chunk = chance.randrange(20), chance.randrange(1, 5)
    target = chance.choice([executor(world, chance), pick(world, chance).lock])
    results = target.map(plain, range(size), chunksize=chunk, buffersize=chance.choice([None, 3]))
    if chance.randrange(4) == 0:
        next(results, None)
        results.close()
    else:
        assert [*results] == [*range(1, size + 1)]


def act_tree(world: World, chance: Chance) -> None:
    def tree(depth: int) -> int:
        inner = [world.keep(world.pool.submit(tree, depth - 1)) for _ in range(2 if depth else 0)]
        if depth == 1:
            with blocking():
                time.sleep(0)
        return 1 + sum(future.result() for future in inner)

    depth = chance.randrange(1, 5)
    ask(world.keep(world.pool.submit(tree, depth)), 2 ** (depth + 1) - 1)


def act_in_a_task(world: World, chance: Chance) -> None:
    """Another act, in a task that waits for it."""
    act = chance.choice(INNER)
    world.keep(world.pool.submit(perform, act, world, chance.random())).result()


def perform(act: Act, world: World, seed: float) -> None:
    chance = random.Random(seed)
    try:
        act(world, chance)
    except BaseException as error:
        # Here, where its traceback is short; and so that the one who waits may be cancelled.
        if not world.excuses(error):
            world.errors.append(error)
        raise
    finally:
        del world, chance


# --- coroutines -----------------------------------------------------------------------------------


def act_gather(world: World, chance: Chance) -> None:
    async def both() -> list[int]:
        return await gather(naps(0), naps(1))

    async def body() -> int:
        *numbers, (one, two) = await gather(*(pauses(i, i % 3) for i in range(10)), both())
        assert numbers == [*range(1, 11)]
        child = create_task(naps(3))
        inner = await shield(child)
        task = current_task()
        assert task is not None
        return sum(numbers) + one + two + inner

    ask(world.keep(executor(world, chance).submit(body)), 62)


def act_group(world: World, chance: Chance) -> None:
    async def body() -> int:
        tasks: list[Any] = []
        try:
            async with TaskGroup() as group:
                tasks += [group.create_task(pauses(i, i)) for i in range(5)]
                if fails:
                    group.create_task(fail())
        except* Mishap:
            assert fails
        assert all(task.done() for task in tasks)
        return 15 if fails else sum(task.result() for task in tasks)

    async def fail() -> None:
        await yield_now()
        raise Mishap

    fails = chance.randrange(2) == 0
    ask(world.keep(world.pool.submit(body)), 15)


def act_timeout(world: World, chance: Chance) -> None:
    async def body() -> int:
        try:
            if chance.randrange(2):
                async with timeout(1e-4):
                    await Future()
            else:
                async with timeout_at(time.monotonic() + TIMEOUT) as block:
                    block.reschedule(time.monotonic() + 2e-4)
                    await Future()
        except TimeoutError:
            return 1
        raise AssertionError("not timed out")

    ask(world.keep(world.pool.submit(body)), 1)


def act_generator(world: World, chance: Chance) -> None:
    async def numbers() -> Any:
        try:
            for i in range(5):
                await yield_now()
                yield i
        finally:
            await yield_now()

    async def body() -> int:
        total = 0
        async for number in numbers():
            total += number
            if leaves and number == 2:
                break  # the generator is left to the collector
        return total

    leaves = chance.randrange(2) == 0
    ask(world.keep(world.pool.submit(body)), 3 if leaves else 10)


def act_primitives(world: World, chance: Chance) -> None:
    bounded, permits = BoundedSemaphore(2), Semaphore(1)
    queue: Queue[int] = Queue(chance.randrange(3))
    begin = Event()
    got: list[int] = []

    async def produce(start: int) -> None:
        await begin.wait()
        for i in range(start, start + 10):
            async with bounded:
                await queue.put(i)

    async def consume() -> None:
        try:
            while True:
                got.append(await queue.get())
                async with permits:
                    await yield_now()
                queue.task_done()
        except QueueShutDown:
            pass

    async def body() -> None:
        async with TaskGroup() as group:
            for _ in range(2):
                group.create_task(consume())
            async with TaskGroup() as producers:
                for start in (0, 10, 20):
                    producers.create_task(produce(start))
                begin.set()
            await queue.join()
            queue.shutdown()
        # A shutdown may have cancelled producers before they were started, which fails no group.
        assert sorted(got) == [*range(30)] or (world.closes and len({*got}) == len(got)), got

    ask(world.keep(world.pool.submit(body)), None)


def act_deadlock(world: World, chance: Chance) -> None:
    tasks: list[Any] = []

    async def waits_for(which: int) -> None:
        while len(tasks) < 2:
            await yield_now()
        await tasks[which]

    try:
        for which in (1, 0):
            tasks.append(world.keep(world.pool.submit(waits_for, which)))
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    errors = [task.exception() for task in tasks]
    assert any(isinstance(error, DeadlockError) or world.excuses(error) for error in errors), errors


# --- chains ---------------------------------------------------------------------------------------


def act_chain(world: World, chance: Chance) -> None:
    ended: list[None] = []
    length = chance.randrange(1, 20)
    future: Any = world.keep(executor(world, chance).submit(plain, 0))
    for _ in range(length):
        kind = chance.randrange(4)
        if kind == 0:
            future = future.then(plain)
        elif kind == 1:
            future = future.then(lambda value: pauses(value, 1))
        elif kind == 2:
            future = future.then(lambda value: world.pool.submit(plain, value))
        else:
            future = future.then(plain, lock=pick(world, chance).lock)
    if chance.randrange(2):
        future = future.then(lambda _: raises(Mishap)).catch(lambda _: length + 1, Mishap)
    future = world.keep(future.finally_(lambda: ended.append(None)))
    if chance.randrange(4) == 0:
        future.cancel()
    ask(future, length + 1)
    assert ended == [None]


# --- locks ----------------------------------------------------------------------------------------


def act_section(world: World, chance: Chance) -> None:
    account = pick(world, chance)
    fails = chance.randrange(3) == 0
    if chance.randrange(2):
        slow = chance.randrange(10) == 0
        future = world.keep(account.lock.submit(section, account, object(), slow, fails))
    else:
        args = (account, object(), chance.randrange(3), fails)
        future = world.keep(account.lock.submit(slow_section, *args))
    if chance.randrange(4) == 0:
        future.cancel()
    if chance.randrange(2):
        check_section(future, fails)


def check_section(future: Any, fails: bool, patience: float | None = None) -> None:
    try:
        assert future.result() > 0
        assert not fails
    except Mishap:
        assert fails
    except TimeoutError:
        assert patience is not None


def act_async_with(world: World, chance: Chance) -> None:
    fails = chance.randrange(3) == 0
    patience = chance.choice([None, None, 5e-4])
    args = (pick(world, chance), chance.randrange(3), fails, patience)
    future = world.keep(executor(world, chance).submit(enters, *args))
    if chance.randrange(4) == 0:
        future.cancel()
    if chance.randrange(2):
        check_section(future, fails, patience)


def act_with(world: World, chance: Chance) -> None:
    fails = chance.randrange(3) == 0
    patience = chance.choice([None, None, 5e-4])
    args = (pick(world, chance), chance.randrange(10) == 0, fails, patience)
    if chance.randrange(2):
        check_section(world.keep(executor(world, chance).submit(holds, *args)), fails, patience)
        return
    try:
        assert holds(*args) > 0
        assert not fails
    except Mishap:
        assert fails
    except TimeoutError:
        assert patience is not None


def act_all_of(world: World, chance: Chance) -> None:
    some = chance.sample(world.accounts, chance.randrange(1, 4))

    async def body() -> int:
        async with all_of(*(account.lock for account in some)):
            for account in some:
                await slow_section(account, object(), 1, False)
        return 1

    ask(world.keep(world.pool.submit(body)), 1)


def act_guarded(world: World, chance: Chance) -> None:
    def add(shelf: dict[int, int], key: int) -> None:
        shelf[key] = shelf.get(key, 0) + 1
        world.shelf_total.append(None)
        shelf[-1] = len(world.shelf_total)

    async def body() -> int:
        async with world.shelf as shelf:
            add(shelf, 1)
            return sum(shelf.values()) - shelf[-1] - shelf[-1]

    future = world.keep(world.shelf.submit(add, 0))
    if chance.randrange(4) == 0:
        future.cancel()
    ask(world.keep(world.pool.submit(body)), 0)


def act_expected_wait(world: World, chance: Chance) -> None:
    lock = pick(world, chance).lock
    assert lock.expected_wait() >= 0
    stats = lock.statistics()
    assert stats.sections == stats.inline + stats.combined
    assert world.pool.statistics().workers >= 0
    world.pool.dump(io.StringIO())
    assert repr(world.pool)
    assert repr(lock)


# --- callers, loops, other pools ------------------------------------------------------------------


def act_run(world: World, chance: Chance) -> None:
    value = chance.randrange(100)
    fn = chance.choice([plain, naps])
    assert world.pool.run(fn, value) == value + 1


def act_callers_only(world: World, chance: Chance) -> None:
    async def body() -> int:
        async with lock:
            await yield_now()
        return sum(await gather(*(naps(i) for i in range(4))))

    with FairPool(0) as pool:
        lock = pool.lock()
        futures = [pool.submit(body) for _ in range(3)]
        assert pool.run(body) == 10
        if chance.randrange(2):
            assert pool.run(futures[0].result) == 10
    assert [future.result() for future in futures] == [10] * 3


def act_own_pool(world: World, chance: Chance) -> None:
    async def body() -> int:
        async with timeout(TIMEOUT):
            return sum(await gather(*(naps(i) for i in range(4))))

    assert fairpool.run(body(), max_workers=chance.randrange(1, 4)) == 10


def act_shutdown(world: World, chance: Chance) -> None:
    """A pool that is shut down, or dropped, in the midst of its work."""
    pool = FairPool(chance.randrange(1, 5), idle_timeout=chance.choice([0, 0.01]))
    lock = pool.lock()

    async def spawn(depth: int) -> int:
        if depth == 0:
            async with lock:
                await sleep(1e-5)
            return 1
        return sum(await gather(spawn(depth - 1), spawn(depth - 1)))

    futures: list[Any] = [pool.submit(spawn, 3) for _ in range(3)]
    futures += [lock.submit(plain, 0), pool.submit(plain, 0).then(plain, lock=lock)]
    cancel = chance.randrange(2) == 0
    if chance.randrange(4):
        pool.shutdown(wait=chance.randrange(2) == 0, cancel_futures=cancel)
    del pool
    for future in futures:
        assert not wait([future], TIMEOUT).not_done
        error = None if future.cancelled() else future.exception(0)
        assert error is None or "after shutdown" in str(error) or world.excuses(error), error


def act_loop(world: World, chance: Chance) -> None:
    account = pick(world, chance)

    async def external() -> None:
        async with asyncio.timeout(TIMEOUT), account.lock:
            account.enter(object())
            try:
                await asyncio.sleep(0)
            finally:
                account.leave()

    async def body() -> None:
        loop = asyncio.get_running_loop()
        one = asyncio.ensure_future(external())
        two = asyncio.ensure_future(external())
        assert await loop.run_in_executor(world.pool, plain, 1) == 2
        assert await world.keep(world.pool.submit(naps, 1)) == 2
        if chance.randrange(2):
            two.cancel()
        await asyncio.gather(one, two, return_exceptions=True)
        if (error := None if one.cancelled() else one.exception()) is not None:
            raise error

    asyncio.run(body())


# --- shares, the end, forks -----------------------------------------------------------------------


def act_share(world: World, chance: Chance) -> None:
    share = world.pool.share("one", 1)
    futures = [world.keep(share.submit(naps, i)) for i in range(5)]
    if chance.randrange(2):
        share.shutdown(wait=True, cancel_futures=chance.randrange(2) == 0)
        assert all(future.done() for future in futures)
        refused = False
        try:
            share.submit(plain, 1)
        except (RuntimeError, MemoryError):
            refused = True
        assert refused, "taken after shutdown"
    else:
        for i, future in enumerate(futures):
            ask(future, i + 1)


def act_fork(world: World, chance: Chance) -> None:
    if not hasattr(os, "fork") or chance.randrange(4):
        return
    in_a_task = world.has_workers and chance.randrange(2) == 0
    child = world.pool.submit(fork, world).result() if in_a_task else fork(world)
    end = time.monotonic() + CHILD_SECONDS
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            assert FREE_THREADED, "the forked child hangs"
            world.done.append("forked child that hung")
            return
        time.sleep(0.001)
    assert os.waitstatus_to_exitcode(ended[1]) == 0, f"the forked child ended with {ended[1]}"


def fork(world: World) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of fork in a process with threads
        child = os.fork()
    if child:
        return child
    status = 1
    world.faults.over = True
    try:
        try:
            world.pool.submit(plain, 1)
        except BrokenFairPool:
            status = 2
        with FairPool(2) as pool:
            if status == 2 and pool.submit(naps, 1).result() == 2:
                status = 0
    finally:
        os._exit(status)
    raise AssertionError


ACTS: list[Act] = [act for name, act in sorted(globals().items()) if name.startswith("act_")]
# Those that may be done in a task: without `run` of a pool of one's own, and without a loop.
INNER = [act for act in ACTS if act not in (act_own_pool, act_loop, act_fork, act_in_a_task)]
# Where the calling thread is the only worker, it may not block in what the package does not see.
ON_CALLERS = [act for act in ACTS if act not in (act_own_pool, act_loop, act_deadlock)]

__all__ = ["ACTS", "INNER", "ON_CALLERS", "CancelledError", "perform"]
