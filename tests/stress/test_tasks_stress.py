"""Random programs of tasks, drawn whole, run on 1 to 8 workers, and compared with a model.

A program is a list of nodes; each may wait for nodes before it. The model goes through them one by
one, and says which outcomes a node may have: where several of its sources fail at once, it depends
on which comes first.

`FAIRPOOL_STRESS_SECONDS`: for how long each test goes on (default: one round).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import TIMEOUT, Mishap

import fairpool
from fairpool import CancelledError, FairPool, Future, create_task, gather, shield, sleep, yield_now
from fairpool._core import waitgraph as waits_module

pytestmark = pytest.mark.stress

SECONDS = float(os.environ.get("FAIRPOOL_STRESS_SECONDS") or "0")

EXAMPLES = 60  # of each round
NODES_MAX = 14
SOURCES_MAX = 4


def rounds() -> Iterator[int]:
    """One round, or as many as fit into the time."""
    end = time.monotonic() + SECONDS
    number = 0
    while not number or time.monotonic() < end:
        yield number
        number += 1


class Node(NamedTuple):
    kind: str
    sources: tuple[int, ...]
    number: int
    pauses: int  # how often it lets others go first, before it does anything


# --- the programs ---------------------------------------------------------------------------------

WITH_SOURCES = (
    "sum",
    "gather",
    "gather all",
    "nested gather",
    "blocking sum",
    "then",
    "catch",
    "finally",
    "shield",
    "child",
    "timed out",
)
WITHOUT = ("result", "raise", "sleep", "cancel", "plain", "plain raise")


@st.composite
def programs(draw: Callable[..., Any]) -> list[Node]:
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, NODES_MAX))):
        kind = draw(st.sampled_from(WITHOUT + (WITH_SOURCES if number else ())))
        sources: tuple[int, ...] = ()
        if kind in WITH_SOURCES:
            some = st.lists(st.integers(0, number - 1), min_size=1, max_size=SOURCES_MAX)
            sources = tuple(draw(some))
        nodes.append(Node(kind, sources, number, draw(st.integers(0, 2))))
    return nodes


# --- the model --------------------------------------------------------------------------------

# An outcome: a number, ("error", node) or "cancelled".
Outcome = Any
CANCELLED = "cancelled"
REFUSED = "refused"  # it would have made a task when the pool was closed


def model(program: list[Node]) -> list[set[Outcome]]:
    outcomes: list[set[Outcome]] = []
    for node in program:
        outcomes.append(_outcomes(node, [outcomes[source] for source in node.sources]))
    return outcomes


def _is_number(outcome: Outcome) -> bool:
    return isinstance(outcome, int)


def _outcomes(node: Node, sources: list[set[Outcome]]) -> set[Outcome]:
    number = node.number
    if node.kind in ("result", "sleep", "cancel", "plain"):
        return {number}
    if node.kind in ("raise", "plain raise"):
        return {("error", number)}
    if node.kind == "timed out":
        return {number}
    if node.kind in ("gather", "nested gather"):
        return _sum(sources, number, in_order=False)
    if node.kind == "gather all":
        return _sums([{o if _is_number(o) else 1000 for o in source} for source in sources], number)
    if node.kind in ("sum", "blocking sum"):
        return _sum(sources, number, in_order=True)
    first = sources[0]
    if node.kind == "then":
        return {o + 1 if _is_number(o) else o for o in first}
    if node.kind == "catch":
        return {number if isinstance(o, tuple) else o for o in first}
    assert node.kind in ("finally", "shield", "child")
    return set(first)


def _sums(sources: list[set[Outcome]], number: int) -> set[Outcome]:
    sums = {number}
    for source in sources:
        sums = {one + other for one in sums for other in source}
    return sums


def _sum(sources: list[set[Outcome]], number: int, in_order: bool) -> set[Outcome]:
    outcomes: set[Outcome] = set()
    for source in sources:
        outcomes |= {o for o in source if not _is_number(o)}
        if in_order and not any(_is_number(o) for o in source):
            return outcomes  # the later ones are not looked at
    numbers = [{o for o in source if _is_number(o)} for source in sources]
    return outcomes | _sums(numbers, number) if all(numbers) else outcomes


# --- running it -------------------------------------------------------------------------------


async def _for_ever() -> None:
    await Future()


async def _echo(future: Any) -> Any:
    return await future


class Run:
    """One run of a program. Everything that happens to a future is counted."""

    def __init__(self, pool: FairPool, program: list[Node]) -> None:
        self.pool = pool
        self.futures: list[Any] = []
        self.finals: Counter[int] = Counter()
        self.started: Counter[int] = Counter()
        self.in_step: Counter[int] = Counter()
        for node in program:
            self.futures.append(self._submit(node))
            self.futures[-1].add_done_callback(lambda _, n=node.number: self.finals.update([n]))

    def _submit(self, node: Node) -> Any:
        sources = [self.futures[source] for source in node.sources]
        if node.kind == "then":
            return sources[0].then(lambda value: value + 1)
        if node.kind == "catch":
            return sources[0].catch(lambda _: node.number, Mishap)
        if node.kind == "finally":
            return sources[0].finally_(lambda: node.number)
        if node.kind == "blocking sum":
            return self.pool.submit(_blocking_sum, node, sources)
        if node.kind == "plain":
            return self.pool.submit(int, node.number)
        if node.kind == "plain raise":
            return self.pool.submit(_raise, node.number)
        return self.pool.submit(self._body, node, sources)

    async def _body(self, node: Node, sources: list[Any]) -> int:
        self.started[node.number] += 1
        for _ in range(node.pauses):
            await yield_now()
        return await _do(node, sources)


def _raise(number: int) -> None:
    raise Mishap(number)


def _blocking_sum(node: Node, sources: list[Any]) -> int:
    return node.number + sum(source.result() for source in sources)


async def _do(node: Node, sources: list[Any]) -> int:
    number = node.number
    if node.kind == "result":
        return number
    if node.kind == "raise":
        raise Mishap(number)
    if node.kind == "sleep":
        return await sleep(0.0005 * (number % 3), number)  # type: ignore[return-value]
    if node.kind == "cancel":
        return await _cancel(number)
    if node.kind == "sum":
        return number + sum([await source for source in sources])
    if node.kind == "gather":
        return number + sum(await gather(*sources))
    if node.kind == "gather all":
        results = await gather(*sources, return_exceptions=True)
        return number + sum(r if isinstance(r, int) else 1000 for r in results)
    if node.kind == "nested gather":
        half = len(sources) // 2
        left, right = await gather(gather(*sources[:half]), gather(*map(_echo, sources[half:])))
        return number + sum(left) + sum(right)
    if node.kind == "shield":
        return await shield(sources[0])  # type: ignore[no-any-return]
    if node.kind == "child":
        return await create_task(_echo(sources[0]))  # type: ignore[no-any-return]
    assert node.kind == "timed out"
    return await _timed_out(number)


async def _cancel(number: int) -> int:
    """Cancel a task, wherever it has come to."""
    victim = create_task(_for_ever())
    try:
        for _ in range(number % 3):
            await yield_now()
    finally:  # this one may be cancelled as well
        while not victim.cancel():
            pass
    try:
        await victim
    except CancelledError:
        return number
    raise AssertionError("not cancelled")


async def _timed_out(number: int) -> int:
    """Wait for what does not come, until a time is over."""
    timeout: Any = getattr(fairpool, "timeout", None)
    if timeout is None:
        return await _cancel(number)
    try:
        async with timeout(0.001):
            await _for_ever()
    except TimeoutError:
        return number
    raise AssertionError("not timed out")


def outcome_of(future: Any) -> Outcome:
    try:
        return future.result(TIMEOUT)
    except (CancelledError, concurrent.futures.CancelledError):
        return CANCELLED
    except Mishap as error:
        return ("error", error.args[0])
    except RuntimeError as error:
        if "after shutdown" not in str(error):
            raise
        return REFUSED


def check_end(run: Run, pool: FairPool) -> None:
    """What holds at the end of every program."""
    assert all(future.done() for future in run.futures)
    assert run.finals == Counter(range(len(run.futures))), "not exactly one final state"
    assert all(count == 1 for count in run.started.values())
    assert not pool._scheduler.suspended
    assert not any(future in waits_module.waiting_tasks for future in run.futures)


hypothesis_settings = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@hypothesis_settings
@given(programs(), st.integers(1, 8))
def _check_program(program: list[Node], workers: int) -> None:
    expected = model(program)
    pool = FairPool(workers)
    with pool:
        run = Run(pool, program)
        outcomes = [outcome_of(future) for future in run.futures]
    for node, outcome, possible in zip(program, outcomes, expected, strict=True):
        assert outcome in possible, (node, outcome, possible)
    check_end(run, pool)


def test_programs_do_what_the_model_says() -> None:
    for _ in rounds():
        _check_program()


@hypothesis_settings
@given(
    programs(),
    st.integers(1, 8),
    st.lists(st.integers(0, NODES_MAX - 1), min_size=1, max_size=6),
    st.sampled_from([0, 0, 1, 5]),
    st.booleans(),
)
def _check_cancelled_program(
    program: list[Node], workers: int, victims: list[int], pause: int, at_shutdown: bool
) -> None:
    # A cancellation goes on to what is awaited, and from there to all others that await it. So any
    # node may be cancelled, or get to know that another one was; but each has one end, and soon.
    expected = model(program)
    pool = FairPool(workers)
    run = Run(pool, program)
    for victim in victims:
        for _ in range(pause):
            time.sleep(0)
        run.futures[victim % len(program)].cancel()
    if at_shutdown:
        pool.shutdown(cancel_futures=True)
    outcomes = [outcome_of(future) for future in run.futures]
    pool.shutdown()
    for node, outcome, possible in zip(program, outcomes, expected, strict=True):
        # Numbers may differ where a source was cancelled and that was caught.
        caught = any(p.kind in ("gather all", "catch") for p in program[: node.number + 1])
        allowed = outcome in possible or outcome == CANCELLED or (caught and _is_number(outcome))
        assert allowed or (at_shutdown and outcome == REFUSED), (node, outcome, possible)
    check_end(run, pool)


def test_cancelled_programs_end() -> None:
    for _ in rounds():
        _check_cancelled_program()


# --- storms: few parties, many times, no model but the count --------------------------------------

STORM = 300


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_coroutine_is_never_in_two_threads(workers: int) -> None:
    # Every step counts itself in and out; two at once would be seen, if not crash the interpreter.
    for _ in rounds():
        with FairPool(workers) as pool:
            futures: list[Any] = []
            overlaps: list[int] = []

            async def body(number: int) -> int:
                inside = 0
                for i in range(20):
                    inside += 1
                    if inside != 1:
                        overlaps.append(number)
                    inside -= 1
                    if i % 3 == 0:
                        await yield_now()
                    elif i % 3 == 1:
                        await pool.submit(int)
                    else:
                        await sleep(1e-5)
                return number

            futures = [pool.submit(body, i) for i in range(STORM)]
            assert [future.result(TIMEOUT) for future in futures] == [*range(STORM)]
            assert not overlaps


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_cancellations_and_completions_meet(workers: int) -> None:
    chance = random.Random(0)
    for _ in rounds():
        with FairPool(workers) as pool:
            for _ in range(STORM):
                future: Future[int] = Future()
                task: Any = pool.submit(_echo, future)
                parties = [task.cancel, task.cancel, lambda: _set(future)]
                chance.shuffle(parties)
                threads = [threading.Thread(target=party) for party in parties]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                outcome = outcome_of(task)
                assert outcome in (1, CANCELLED)
                assert future.done()
            assert not pool._scheduler.suspended


def _set(future: Future[int]) -> None:
    try:
        future.set_result(1)
    except concurrent.futures.InvalidStateError:
        pass


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_one_that_waits_and_many_that_ask(workers: int) -> None:
    # `result()` on workers looks for the task's work, and must not lose what it finds instead.
    for _ in rounds():
        with FairPool(workers) as pool:
            for _ in range(STORM // 3):
                task: Any = pool.submit(_for_ever)
                asking = [pool.submit(_ask, task) for _ in range(3)]
                while not task.cancel():
                    pass
                assert outcome_of(task) == CANCELLED
                assert [ask.result(TIMEOUT) for ask in asking] == [CANCELLED] * 3


def _ask(task: Any) -> Outcome:
    try:
        return task.result()
    except (CancelledError, concurrent.futures.CancelledError):
        return CANCELLED


def test_loops_and_pools_side_by_side() -> None:
    async def main(pool: FairPool) -> None:
        async def one(number: int) -> int:
            if number % 5 == 0:
                waiter = asyncio.ensure_future(_echo(pool.submit(_for_ever)))
                await asyncio.sleep(0)
                waiter.cancel()
                try:
                    await waiter
                except asyncio.CancelledError:
                    return number
            return await pool.submit(sleep, 1e-4, number)  # type: ignore[return-value]

        results = await asyncio.gather(*(one(i) for i in range(100)))
        assert results == [*range(100)]

    for _ in rounds():
        with FairPool(4) as pool:
            threads = [threading.Thread(target=lambda: asyncio.run(main(pool))) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not pool._scheduler.suspended


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_pools_that_end_in_the_midst_of_it(workers: int) -> None:
    chance = random.Random(1)

    async def spawn(depth: int) -> int:
        if depth == 0:
            await sleep(1e-4)
            return 1
        try:
            return sum(await gather(spawn(depth - 1), spawn(depth - 1)))
        except RuntimeError:  # the pool was closed
            return 0

    for _ in rounds():
        for _ in range(20):
            pool = FairPool(workers, idle_timeout=chance.choice([0.0, 10.0]))
            tasks = [pool.submit(spawn, 5) for _ in range(4)]
            time.sleep(chance.choice([0, 0.0005, 0.002]))
            pool.shutdown(wait=True, cancel_futures=chance.random() < 0.5)
            assert all(task.done() for task in tasks)
            for task in tasks:
                outcome_of(task)
            assert not pool._scheduler.suspended
