"""What the explorer runs of locks: who enters, leaves, hands over, gives up and is left behind.

As in `scenarios.py`. Beyond what is asserted here, `pool_of` sees to it that each lock is free in
the end, that its queue is empty, and that it belongs to nobody.
"""

from __future__ import annotations

import threading
import time
from asyncio import CancelledError as TaskCancelled
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from itertools import combinations_with_replacement
from types import FunctionType
from typing import Any

from interleave.scenarios import NEVER, at_once, pool_of

import fairpool
import fairpool._locks.combiner
import fairpool._locks.exit
from fairpool import FairPool


class Inside:
    """A lock, and what its sections see of each other: one at a time, and each once."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.order: list[Any] = []
        self.others = 0  # sections that are not in `order`
        self._alone = threading.Lock()

    def section(self, who: Any) -> Any:
        """What is done inside, by a function."""
        self.begin(who)
        self.end()
        return who

    def begin(self, who: Any) -> None:
        assert self._alone.acquire(False), f"{who} is inside, and not alone"
        self.order.append(who)

    def end(self) -> None:
        self._alone.release()

    def check(self, *expected: Any) -> None:
        """To be called when the pool has ended: these were inside, and each of them was counted."""
        assert sorted(self.order) == sorted(expected), self.order
        statistics = self.lock.statistics()
        assert statistics.sections == len(expected) + self.others, statistics


# --- the ways in ----------------------------------------------------------------------------------

# Each begins to enter, and returns what waits until it has left.
Way = Callable[[FairPool, Inside, Any], Callable[[], object]]


def task(pool: FairPool, inside: Inside, who: Any) -> Callable[[], object]:
    """`async with`."""

    async def enter() -> None:
        async with inside.lock:
            inside.section(who)

    return pool.submit(enter).result


def function(pool: FairPool, inside: Inside, who: Any) -> Callable[[], object]:
    """`with`, in a function that a worker runs."""

    def enter() -> None:
        with inside.lock:
            inside.section(who)

    return pool.submit(enter).result


def section(pool: FairPool, inside: Inside, who: Any) -> Callable[[], object]:
    """`lock.submit` of a function."""
    return inside.lock.submit(inside.section, who).result  # type: ignore[no-any-return]


def long_section(pool: FairPool, inside: Inside, who: Any) -> Callable[[], object]:
    """`lock.submit` of a coroutine function that is suspended inside."""

    async def run() -> None:
        inside.begin(who)
        await fairpool.yield_now()
        inside.end()

    return inside.lock.submit(run).result  # type: ignore[no-any-return]


def link(pool: FairPool, inside: Inside, who: Any) -> Callable[[], object]:
    """`then(fn, lock=lock)`."""
    return pool.submit(int).then(lambda _: inside.section(who), lock=inside.lock).result


def thread(pool: FairPool, inside: Inside, who: Any) -> Callable[[], object]:
    """`with`, in a thread that is no worker."""

    def enter() -> None:
        with inside.lock:
            inside.section(who)

    thread = threading.Thread(target=enter)
    thread.start()
    return thread.join


def caller(pool: FairPool, inside: Inside, who: Any) -> Callable[[], object]:
    """`with`, in the thread that calls this: it has left when this returns."""
    with inside.lock:
        inside.section(who)
    return int


def external(pool: FairPool, inside: Inside, who: Any) -> Callable[[], object]:
    """`async with`, in a task of another pool."""
    other = FairPool(1, idle_timeout=NEVER)
    entered = task(other, inside, who)

    def wait() -> None:
        entered()
        other.shutdown()

    return wait


WAYS: tuple[Way, ...] = (task, function, section, long_section, link, thread, external)


def _name_of(way: Way) -> str:
    return way.__name__  # type: ignore[attr-defined,no-any-return]


def meeting(one: Way, other: Way) -> Callable[[], None]:
    """One enters and leaves while the other one does."""

    def scenario() -> None:
        with pool_of(2) as pool:
            inside = Inside(pool.lock())
            for wait in [one(pool, inside, 0), other(pool, inside, 1)]:
                wait()
        inside.check(0, 1)

    scenario.__name__ = f"{_name_of(one)}_meets_{_name_of(other)}"
    scenario.__doc__ = f"{one.__doc__} {other.__doc__}"
    return scenario


def in_turn(way: Way) -> Callable[[], None]:
    """Nobody overtakes what was in the queue before: two clients, of which each does two things."""

    def scenario() -> None:
        with pool_of(2) as pool:
            inside = Inside(pool.lock())

            def client(who: int) -> None:
                waits = [section(pool, inside, (who, 0)), way(pool, inside, (who, 1))]
                for wait in waits:
                    wait()

            at_once(lambda: client(0), lambda: client(1))
        inside.check((0, 0), (0, 1), (1, 0), (1, 1))
        for who in range(2):
            assert inside.order.index((who, 0)) < inside.order.index((who, 1)), inside.order

    scenario.__name__ = f"{_name_of(way)}_is_behind_a_section"
    scenario.__doc__ = in_turn.__doc__
    return scenario


MEETS = {
    (_name_of(one), _name_of(other)): meeting(one, other)
    for one, other in combinations_with_replacement(WAYS, 2)
}
BEHIND = {_name_of(way): in_turn(way) for way in (*WAYS, caller)}


def nobody_overtakes() -> None:
    """A thread has a section in the queue when it comes itself, as the lock becomes free."""
    with pool_of(1) as pool:
        inside = Inside(pool.lock())
        inside.lock.acquire()

        def client() -> None:
            wait = section(pool, inside, 0)
            caller(pool, inside, 1)
            wait()

        at_once(inside.lock.release, client)
        inside.others = 1
    inside.check(0, 1)
    assert inside.order == [0, 1], inside.order


def no_task_overtakes() -> None:
    """The same of a task."""
    with pool_of(1) as pool:
        inside = Inside(pool.lock())
        inside.lock.acquire()

        async def client() -> None:
            first = inside.lock.submit(inside.section, 0)
            async with inside.lock:
                inside.section(1)
            await first

        future = pool.submit(client)
        inside.lock.release()
        future.result()
    inside.others = 1
    inside.check(0, 1)
    assert inside.order == [0, 1], inside.order


# --- in use and out of use ------------------------------------------------------------------------


def out_of_use(way: Way) -> Callable[[], None]:
    """A lock goes out of use, again and again, while others enter it."""

    def scenario() -> None:
        with pool_of(2) as pool:
            inside = Inside(pool.lock())
            used, lock = pool._scheduler.locks_in_use, inside.lock
            begin = inside.begin

            def look_and_begin(who: Any) -> None:
                begin(who)
                assert lock.entry in used, f"{who} is inside of a lock that is not in use"

            inside.begin = look_and_begin  # type: ignore[method-assign]

            def client() -> None:
                waits = [way(pool, inside, who) for who in "ab"]
                for wait in waits:
                    wait()

            def others() -> None:
                for _ in range(4):
                    lock.go_out_of_use()

            at_once(client, others)
        inside.check("a", "b")

    scenario.__name__ = f"{_name_of(way)}_meets_out_of_use"
    scenario.__doc__ = out_of_use.__doc__
    return scenario


OUT_OF_USE = {_name_of(way): out_of_use(way) for way in WAYS}


# --- the way out ----------------------------------------------------------------------------------


def sections_raise() -> None:
    """Whatever a section ends with, the next one is let in, and the error is its own caller's."""
    with pool_of(2) as pool:
        inside = Inside(pool.lock())

        def fail(who: int) -> None:
            inside.section(who)
            raise ValueError(who)

        async def fail_in_block(who: int) -> None:
            async with inside.lock:
                fail(who)

        def fail_in_with(who: int) -> None:
            with inside.lock:
                fail(who)

        futures = [
            inside.lock.submit(fail, 0),
            pool.submit(fail_in_block, 1),
            pool.submit(fail_in_with, 2),
            inside.lock.submit(fail, 3),
        ]
        for i, future in enumerate(futures):
            error = future.exception()
            assert isinstance(error, ValueError), error
            assert error.args == (i,), error
    inside.check(0, 1, 2, 3)


def enter_again_and_again() -> None:
    """Tasks that come again when they have left, a plain thread among them."""
    with pool_of(2) as pool:
        inside = Inside(pool.lock())

        async def twice(who: int) -> None:
            for i in range(2):
                async with inside.lock:
                    inside.section((who, i))

        def visit() -> None:
            for i in range(2):
                with inside.lock:
                    inside.section((2, i))

        futures = [pool.submit(twice, who) for who in range(2)]
        visit()
        for future in futures:
            future.result()
    inside.check(*[(who, i) for who in range(3) for i in range(2)])


def enter_again_at_once() -> None:
    """Two tasks leave one after the other and come again, and a second worker is looking for work.

    It takes the one while its combiner goes on with the other.
    """
    with pool_of(2) as pool:
        inside = Inside(pool.lock())

        async def twice(who: int) -> None:
            for i in range(2):
                async with inside.lock:
                    inside.section((who, i))

        async def scan() -> None:
            for _ in range(4):
                await fairpool.yield_now()

        with inside.lock:
            inside.others = 1
            futures = [pool.submit(twice, who) for who in range(2)]
            while len(inside.lock.queue) < 2:
                time.sleep(1)
            futures.append(pool.submit(scan))
        for future in futures:
            future.result()
    inside.check((0, 0), (0, 1), (1, 0), (1, 1))


def held_while_suspended() -> None:
    """A task is suspended inside, and its lock goes with it from worker to worker."""
    with pool_of(2) as pool:
        inside = Inside(pool.lock())

        async def hold(who: int) -> None:
            async with inside.lock:
                inside.begin(who)
                await fairpool.yield_now()
                inside.end()

        futures = [pool.submit(hold, who) for who in range(3)]
        for future in futures:
            future.result()
    inside.check(0, 1, 2)


# --- a pass, and its end --------------------------------------------------------------------------


@contextmanager
def set_to(**values: int) -> Iterator[None]:
    """Constants of the locks, set to these values."""
    modules = (vars(fairpool._locks.combiner), vars(fairpool._locks.exit))
    with ExitStack() as undo:
        for name, value in values.items():
            module = next(each for each in modules if name in each)
            undo.callback(module.__setitem__, name, module[name])
            module[name] = value
        yield


def pass_ends_by_count() -> None:
    """A request comes as a pass ends because it has served its number."""
    with set_to(PASS_SECTIONS=1), pool_of(1) as pool:
        inside = Inside(pool.lock())
        for future in [inside.lock.submit(inside.section, i) for i in range(3)]:
            future.result()
    inside.check(0, 1, 2)
    assert inside.order == [0, 1, 2], "not in the order of the queue"
    assert inside.lock.statistics().longest_pass == 1


def pass_ends_by_time() -> None:
    """The same where its time is up, and two more threads come."""
    with set_to(PASS_TIME=10_000), pool_of(2) as pool:
        inside = Inside(pool.lock())

        def submit(who: int) -> None:
            for future in [inside.lock.submit(inside.section, (who, i)) for i in range(2)]:
                future.result()

        at_once(lambda: submit(0), lambda: submit(1))
    inside.check((0, 0), (0, 1), (1, 0), (1, 1))
    for who in range(2):
        assert inside.order.index((who, 0)) < inside.order.index((who, 1)), inside.order


def pass_ends_beside_other_work() -> None:
    """With one worker, a task has its turn although sections come again and again."""
    with set_to(PASS_SECTIONS=1), pool_of(1) as pool:
        inside = Inside(pool.lock())
        served: list[int] = []
        done = threading.Semaphore(0)

        def again(who: int) -> None:
            inside.section(who)
            if who == 0:
                pool.submit(lambda: served.append(len(inside.order)))
            if who < 9:
                inside.lock.submit(again, who + 1)
            else:
                done.release()

        inside.lock.submit(again, 0)
        done.acquire()
    inside.check(*range(10))
    # The rest of that pass, and then the task in turns with the next one.
    assert served[0] <= 2, served


def pass_displaces_other_work() -> None:
    """A section waits, on its thread, for a task that lies in the run queue of its worker."""
    with set_to(DISPLACE_AFTER=-1), pool_of(2) as pool:
        lock = pool.lock()
        done = threading.Semaphore(0)

        def section() -> Any:
            pool.submit(done.release)
            return lock.submit(done.acquire)

        lock.submit(section).result().result()


def continuation_goes_before_the_lock() -> None:
    """What has left the lock goes on before the lock serves those that came after it."""
    with set_to(PASS_SECTIONS=1), pool_of(1) as pool:
        lock = pool.lock()
        order: list[str] = []

        async def client() -> None:
            async with lock:
                order.append("inside")
            order.append("went on")

        with lock:
            task = pool.submit(client)
            while not lock.queue:
                time.sleep(1)
            late = [lock.submit(order.append, f"late {i}") for i in range(2)]
        for future in [task, *late]:
            future.result()
    assert order == ["inside", "went on", "late 0", "late 1"], order


# --- home -----------------------------------------------------------------------------------------


def _with_home(pool: FairPool) -> Inside:
    """A lock that has a home, because its sections are long."""
    inside = Inside(pool.lock())
    with set_to(GO_HOME_ABOVE=0):
        while inside.lock.home is None:
            inside.lock.submit(int).result()
            inside.others += 1
    return inside


def home_worker_takes_over() -> None:
    """A lock that has a home: tasks on either worker enter, and the home worker serves them."""
    with pool_of(2) as pool:
        inside = _with_home(pool)

        async def twice(who: int) -> None:
            for i in range(2):
                async with inside.lock:
                    inside.section((who, i))

        for future in [pool.submit(twice, who) for who in range(2)]:
            future.result()
    inside.check((0, 0), (0, 1), (1, 0), (1, 1))


def another_stands_in() -> None:
    """One of two workers is blocked, where nobody sees it, in what waits for a section."""
    with pool_of(2) as pool:
        inside = _with_home(pool)
        done = threading.Semaphore(0)
        blocked = pool.submit(done.acquire)
        section = inside.lock.submit(inside.section, 0)
        section.add_done_callback(lambda _: done.release())
        assert blocked.result()
        assert section.result() == 0


def stand_in_meets_home() -> None:
    """The home worker comes back when another one has begun to stand in for it."""
    with pool_of(2) as pool:
        inside = _with_home(pool)

        def busy() -> None:
            for _ in range(5):
                fairpool.current_task()

        futures: list[Any] = [pool.submit(busy), *[inside.lock.submit(inside.section, 0)]]
        futures += [pool.submit(busy), inside.lock.submit(inside.section, 1)]
        for future in futures:
            future.result()
    inside.check(0, 1)
    assert inside.order == [0, 1], "not in the order of the queue"


def home_worker_ends() -> None:
    """A section comes just when the home worker ends for want of work."""
    with pool_of(2, idle_timeout=2.0) as pool:
        inside = _with_home(pool)
        time.sleep(2)
        for future in [inside.lock.submit(inside.section, i) for i in range(3)]:
            future.result()
    inside.check(0, 1, 2)
    assert inside.order == [0, 1, 2], "not in the order of the queue"


# --- giving up ------------------------------------------------------------------------------------


def _given_up(enter: Callable[[FairPool, Inside], Any]) -> None:
    """One enters, and is cancelled while the lock becomes free; another one comes after it."""
    with pool_of(2) as pool:
        inside = Inside(pool.lock())
        inside.lock.acquire()
        future = enter(pool, inside)
        at_once(inside.lock.release, future.cancel)
        try:
            future.result()
        except CancelledError:
            cancelled = True
        else:
            cancelled = False
        assert task(pool, inside, "after")() is None
    assert inside.order in (["in", "after"], ["after"]), inside.order
    assert cancelled or "in" in inside.order


def task_is_cancelled() -> None:
    """A task is cancelled on its way in: it gives up, or it enters, leaves, and is told then."""

    async def enter(inside: Inside) -> None:
        async with inside.lock:
            inside.section("in")

    _given_up(lambda pool, inside: pool.submit(enter, inside))


def section_is_cancelled() -> None:
    """A section is cancelled, or run."""
    _given_up(lambda pool, inside: inside.lock.submit(inside.section, "in"))


def link_is_cancelled() -> None:
    """A link that is a section is cancelled, or run."""

    def enter(pool: FairPool, inside: Inside) -> Any:
        return pool.submit(int).then(lambda _: inside.section("in"), lock=inside.lock)

    _given_up(enter)


def external_waiter_is_cancelled() -> None:
    """A task of another pool is cancelled on its way in."""
    with pool_of(1) as other:

        async def enter(inside: Inside) -> None:
            async with inside.lock:
                inside.section("in")

        _given_up(lambda pool, inside: other.submit(enter, inside))


def cancellation_reaches_the_queue() -> None:
    """A task that would wait for ever is cancelled as it comes to the lock, or waits there."""
    with pool_of(1) as pool:
        inside = Inside(pool.lock())

        async def enter() -> None:
            async with inside.lock:
                inside.section("in")

        with inside.lock:
            future = pool.submit(enter)
            while not future.cancel():
                time.sleep(1)
            try:
                future.result()
            except CancelledError:
                pass
            else:
                raise AssertionError("it went on")
        task(pool, inside, "after")()
    assert inside.order == ["after"]


def second_in_line_is_cancelled() -> None:
    """Of three tasks in the queue, the one in the middle is cancelled as its turn comes."""
    with pool_of(2) as pool:
        inside = Inside(pool.lock())

        async def enter(who: int) -> None:
            async with inside.lock:
                inside.section(who)

        tasks = [pool.submit(enter, who) for who in range(3)]
        tasks[1].cancel()
        for each in tasks:
            try:
                each.result()
            except CancelledError:
                assert each is tasks[1]
    assert sorted(inside.order) in ([0, 1, 2], [0, 2]), inside.order


def who_gives_way_is_cancelled() -> None:
    """Loops at a lock of tiny sections let others go first, and one of them is cancelled."""
    with pool_of(2) as pool:
        inside = Inside(pool.lock())

        async def loop(who: str) -> None:
            for turn in range(5):
                async with inside.lock:
                    inside.section((who, turn))
                if (who, turn) == ("c", 2):
                    tasks[0].cancel()

        tasks: list[Any] = []
        for who in "abc":
            tasks.append(pool.submit(loop, who))
        for each in tasks:
            try:
                each.result()
            except CancelledError:
                assert each is tasks[0]
    turns = {who: [turn for other, turn in inside.order if other == who] for who in "abc"}
    assert turns["b"] == turns["c"] == [*range(5)], turns
    assert turns["a"] == [*range(len(turns["a"]))], turns


def time_is_up_as_the_turn_comes() -> None:
    """The lock is released at the very moment at which a thread, and a task, have waited enough."""
    with pool_of(2) as pool:
        inside = Inside(pool.lock())
        inside.lock.acquire()
        entered: list[str] = []

        def release() -> None:
            time.sleep(1)
            inside.lock.release()

        def visit() -> None:
            if inside.lock.acquire(timeout=1):
                entered.append("thread")
                inside.section("thread")
                inside.lock.release()

        async def enter() -> None:
            try:
                async with fairpool.timeout(1), inside.lock:
                    entered.append("task")
                    inside.section("task")
            except TimeoutError:
                pass

        def visit_in_a_task() -> None:
            if inside.lock.acquire(timeout=1):
                entered.append("function")
                inside.section("function")
                inside.lock.release()

        # Released by who has acquired it: the owner is the thread.
        futures = [pool.submit(enter), pool.submit(visit_in_a_task)]
        visitor = threading.Thread(target=visit)
        visitor.start()
        release()
        visitor.join()
        for future in futures:
            future.result()
        assert inside.lock.acquire(timeout=0) or inside.lock.acquire()
        inside.lock.release()
    assert sorted(inside.order) == sorted(entered)
    assert inside.lock.statistics().sections == 2 + len(entered)


def cancelled_after_the_grant() -> None:
    """A task that is cancelled when it is inside leaves the lock, and is told at its next wait."""
    with pool_of(2) as pool:
        inside = Inside(pool.lock())
        is_in = threading.Semaphore(0)

        async def enter() -> None:
            async with inside.lock:
                inside.begin("first")
                is_in.release()
                try:
                    await fairpool.yield_now()
                    await fairpool.yield_now()
                finally:
                    inside.end()

        first = pool.submit(enter)
        second = task(pool, inside, "second")
        is_in.acquire()
        first.cancel()
        try:
            first.result()
        except CancelledError:
            pass
        second()
    inside.check("first", "second")


def cancellation_is_taken_back() -> None:
    """A time-out comes as the lock does, and the task goes on with the next lock in either case."""
    with pool_of(2) as pool:
        one, other = Inside(pool.lock()), Inside(pool.lock())
        one.lock.acquire()

        async def enter() -> bool:
            got_in = False
            try:
                async with fairpool.timeout(1), one.lock:
                    got_in = True
            except TimeoutError:
                pass
            async with other.lock:
                other.section("task")
            return got_in

        future = pool.submit(enter)
        section = other.lock.submit(other.section, "section")
        time.sleep(1)
        one.lock.release()
        got_in = future.result()
        section.result()
    other.check("task", "section")
    assert one.lock.statistics().sections == 1 + got_in


def request_is_not_used_again() -> None:
    """A task is cancelled as its turn comes, and waits for another lock at once."""
    with pool_of(2) as pool:
        one, other = Inside(pool.lock()), Inside(pool.lock())
        one.lock.acquire()

        async def enter() -> None:
            try:
                async with one.lock:
                    one.section("one")
            except TaskCancelled:
                fairpool.current_task().uncancel()  # type: ignore[union-attr]
            async with other.lock:
                other.section("other")

        with other.lock:
            future = pool.submit(enter)
            while not one.lock.queue:
                time.sleep(1)
            at_once(one.lock.release, future.cancel)
            time.sleep(1)
            assert other.order == [], "it has entered while somebody else was inside"
        try:
            future.result()
        except CancelledError:
            pass
        caller(pool, one, "after")
        caller(pool, other, "after")
    assert one.order in (["one", "after"], ["after"])


# --- several locks --------------------------------------------------------------------------------


def all_of_in_opposite_order() -> None:
    """Two tasks, and a thread, take the same two locks: each the other way round."""
    with pool_of(2) as pool:
        one, other = Inside(pool.lock()), Inside(pool.lock())

        async def enter(who: int, *locks: Any) -> None:
            async with fairpool.all_of(*locks):
                one.section(who)
                other.section(who)

        futures = [
            pool.submit(enter, 0, one.lock, other.lock),
            pool.submit(enter, 1, other.lock, one.lock),
        ]
        with fairpool.all_of(other.lock, one.lock):
            one.section(2)
            other.section(2)
        for future in futures:
            future.result()
    one.check(0, 1, 2)
    other.check(0, 1, 2)


def all_of_is_cancelled() -> None:
    """A task is cancelled between its two locks, or with both: none stays held."""
    with pool_of(2) as pool:
        one, other = Inside(pool.lock()), Inside(pool.lock())

        async def enter() -> None:
            async with fairpool.all_of(one.lock, other.lock):
                one.section("both")
                other.section("both")

        first = pool.submit(enter)
        waits = [task(pool, other, "other"), task(pool, one, "one")]
        first.cancel()
        try:
            first.result()
        except CancelledError:
            pass
        for wait in waits:
            wait()
    assert sorted(one.order) in (["both", "one"], ["one"])
    assert ("both" in one.order) == ("both" in other.order)


def cycle_is_found() -> None:
    """Two tasks take two locks, each in its own order: they get through, or one is told."""
    with pool_of(2) as pool:
        one, other = Inside(pool.lock()), Inside(pool.lock())

        async def enter(first: Inside, second: Inside) -> None:
            async with first.lock, second.lock:
                second.section(first.lock.name)

        futures = [pool.submit(enter, one, other), pool.submit(enter, other, one)]
        errors = [future.exception() for future in futures]
    for error in errors:  # both, if both have seen it at once
        assert error is None or isinstance(error, fairpool.DeadlockError), error


def cycle_with_threads_is_found() -> None:
    """The same of two threads that are no workers, and a task that waits for nobody."""
    with pool_of(1) as pool:
        one, other = Inside(pool.lock()), Inside(pool.lock())

        def enter(first: Inside, second: Inside) -> None:
            try:
                with first.lock, second.lock:
                    second.section("thread")
            except fairpool.DeadlockError:
                pass

        at_once(lambda: enter(one, other), lambda: enter(other, one))
        task(pool, one, "task")()


# --- usage order ----------------------------------------------------------------------------------


def usage_order_meets_cancel() -> None:
    """Requests of two shares are taken out of the queue while one of them is cancelled."""
    with pool_of(2) as pool:
        inside = Inside(pool.lock(order="usage"))
        shares = [pool.share("one"), pool.share("other")]

        async def enter(who: int) -> None:
            async with inside.lock:
                inside.section(who)

        tasks = [shares[who % 2].submit(enter, who) for who in range(3)]
        tasks[1].cancel()
        for each in tasks:
            try:
                each.result()
            except CancelledError:
                assert each is tasks[1]
    assert sorted(inside.order) in ([0, 1, 2], [0, 2]), inside.order


def usage_order_serves_lines() -> None:
    """Requests of two shares come while a thread is inside, and are in lines when it leaves."""
    with pool_of(1) as pool:
        inside = Inside(pool.lock(order="usage"))
        shares = [pool.share("one"), pool.share("other")]

        async def enter(who: int) -> None:
            async with inside.lock:
                inside.section(who)

        with inside.lock:
            tasks = [shares[who % 2].submit(enter, who) for who in range(3)]
            pool.submit(int).result()
        for each in tasks:
            each.result()
    assert sorted(inside.order) == [0, 1, 2], inside.order


def usage_order_drops_sections() -> None:
    """The same with sections, of which two are dropped, and a thread."""
    with pool_of(1) as pool:
        inside = Inside(pool.lock(order="usage"))
        sections = [inside.lock.submit(inside.section, who) for who in range(3)]
        dropped: list[int] = []

        def drop() -> None:
            dropped.extend(who for who in (0, 2) if sections[who].cancel())

        def visit() -> None:
            with inside.lock:
                inside.section(3)

        at_once(drop, visit)
        for who, each in enumerate(sections):
            assert each.cancelled() if who in dropped else each.result() == who
    assert sorted(inside.order) == [who for who in range(4) if who not in dropped]


def strict_order_holds_back() -> None:
    """A share that is ahead is held back until the other one has come, or for a while."""
    with pool_of(2) as pool:
        inside = Inside(pool.lock(order="usage", strict=True))
        one, other = pool.share("one"), pool.share("other")

        async def enter(who: str, seconds: int) -> None:
            async with inside.lock:
                inside.begin(who)
                await fairpool.sleep(seconds)
                inside.end()

        other.submit(enter, "other", 0).result()
        one.submit(enter, "one", 1).result()
        futures = [one.submit(enter, "one", 0), other.submit(enter, "other", 0)]
        for future in futures:
            future.result()
    inside.check("one", "one", "other", "other")


# --- the end --------------------------------------------------------------------------------------


def shutdown_meets_sections() -> None:
    """A pool is closed while sections are submitted: those it takes are run, and before the end."""
    pool = FairPool(2, idle_timeout=NEVER)
    inside = Inside(pool.lock())
    accepted: list[int] = []

    def submit() -> None:
        for who in range(2):
            try:
                inside.lock.submit(inside.section, who)
            except RuntimeError:
                break
            accepted.append(who)

    run_until_then: list[int] = []

    def close() -> None:
        pool.shutdown()
        run_until_then.extend(inside.order)

    at_once(submit, close)
    pool.shutdown()
    assert inside.order == accepted == run_until_then, (inside.order, accepted, run_until_then)
    assert not inside.lock.locked()


def shutdown_meets_waiting() -> None:
    """A pool is closed while a task, and a thread, wait for a lock that somebody holds."""
    with pool_of(2) as pool:
        inside = Inside(pool.lock())
        inside.lock.acquire()
        entered = task(pool, inside, "task")
        visited = thread(pool, inside, "thread")
        at_once(inside.lock.release, pool.shutdown)
        entered()
        visited()
    assert sorted(inside.order) == ["task", "thread"]


def shutdown_meets_a_waiting_thread() -> None:
    """A pool whose worker is parked is closed while only a thread waits for its lock."""
    with pool_of(1) as pool:
        inside = Inside(pool.lock())
        pool.submit(int).result()
        inside.lock.acquire()
        visited = thread(pool, inside, "thread")
        at_once(inside.lock.release, pool.shutdown)
        visited()
    inside.others = 1
    inside.check("thread")


def shutdown_cancels_sections() -> None:
    """`cancel_futures` while a worker takes sections: each is run, or cancelled, and all end."""
    with pool_of(1) as pool:
        inside = Inside(pool.lock())
        sections = [inside.lock.submit(inside.section, who) for who in range(3)]
        pool.shutdown(cancel_futures=True)
        run = [who for who, each in enumerate(sections) if not each.cancelled()]
        assert all(each.done() for each in sections)
    assert inside.order == run


def lock_is_closed() -> None:
    """`lock.shutdown` while sections are submitted: those it takes have ended when it returns."""
    with pool_of(1) as pool:
        inside = Inside(pool.lock())
        accepted: list[int] = []
        run_until_then: list[int] = []

        def submit() -> None:
            for who in range(2):
                try:
                    inside.lock.submit(inside.section, who)
                except RuntimeError:
                    break
                accepted.append(who)

        def close() -> None:
            taken = list(accepted)
            inside.lock.shutdown()
            run_until_then.extend(inside.order)
            assert taken == run_until_then[: len(taken)]

        at_once(submit, close)
        task(pool, inside, "after")()
    assert inside.order == [*accepted, "after"], inside.order


def last_worker_ends_with_a_lock() -> None:
    """The only worker ends for want of work as a task, a section and a thread come for a lock."""
    with pool_of(1, idle_timeout=2.0) as pool:
        inside = Inside(pool.lock())
        task(pool, inside, 0)()
        time.sleep(2)
        waits = [section(pool, inside, 1), task(pool, inside, 2), thread(pool, inside, 3)]
        for wait in waits:
            wait()
    inside.check(0, 1, 2, 3)


NOT_SCENARIOS = (set_to, meeting, in_turn, out_of_use, caller, *WAYS)

ALL = [
    *MEETS.values(),
    *BEHIND.values(),
    *OUT_OF_USE.values(),
    *[
        thing
        for thing in list(vars().values())
        if isinstance(thing, FunctionType)
        and thing.__module__ == __name__
        and not thing.__name__.startswith("_")
        and thing not in NOT_SCENARIOS
    ],
]
