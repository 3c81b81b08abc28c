"""What stands in for an object of the standard library has all that the real one has.

The comparison is with the object of the Python that runs the tests: what a later version adds is
missed there, and not by a user.
"""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import textwrap
import threading
from itertools import compress
from typing import Any

import pytest

import fairpool
from fairpool._tasks import condition as _condition
from fairpool.testing import _ordered, _world, explore

# Of every object, or of how its class is written.
_OF_NO_INTEREST = {*dir(object), "__module__", "__dict__", "__weakref__", "__slots__"}
_OF_CLASSES = {
    *_OF_NO_INTEREST,
    "__abstractmethods__",
    "__class_getitem__",
    "__firstlineno__",
    "__orig_bases__",
    "__parameters__",
    "__static_attributes__",
}

STAND_INS = {
    "ConditionLock": (_condition.ConditionLock, threading.RLock),
    "testing Lock": (_world.Lock, threading.Lock),
    "testing RLock": (_world.RLock, threading.RLock),
    "testing OrderedSet": (_ordered.OrderedSet, set),
    "StdWaiters": (lambda: _condition.StdWaiters(fairpool.Future()), list),
}


@pytest.mark.parametrize("name", STAND_INS)
def test_the_interface_is_whole(name: str) -> None:
    ours, real = STAND_INS[name]
    stand_in, original = ours(), real()
    missing = [
        each for each in sorted(set(dir(original)) - _OF_CLASSES) if not hasattr(stand_in, each)
    ]
    assert missing == []


def test_a_future_inherits_nothing_that_needs_the_base_classs_init() -> None:
    """That makes `_done_callbacks`, `_result` and `_exception`, which no future of ours has."""
    base, ours = concurrent.futures.Future, fairpool.Future
    methods = {name for name, value in vars(base).items() if callable(value)}
    # Called by methods that are replaced; and what is the same for all classes.
    methods -= {"_Future__get_result", "_invoke_callbacks", "__class_getitem__"}
    inherited = [name for name in methods if getattr(base, name) is getattr(ours, name)]
    assert inherited == []


def test_an_executor_has_what_a_thread_pool_has() -> None:
    with fairpool.FairPool(1) as pool, concurrent.futures.ThreadPoolExecutor(1) as real:
        public = {name for name in dir(real) if not name.startswith("_")}
        # How it makes its threads, and no method for users.
        public -= {"prepare_context"}
        assert sorted(name for name in public if not hasattr(pool, name)) == []


def test_locks_behave_as_the_real_ones() -> None:
    def history(lock: Any) -> list[Any]:
        said: list[Any] = []

        def do(name: str, *args: Any, **kwargs: Any) -> None:
            try:
                method = getattr(lock, name)
            except AttributeError:
                said.append("is not there")
                return
            try:
                answer = method(*args, **kwargs)
            except Exception as error:
                said.append((name, type(error)))
            else:
                said.append((name, answer if isinstance(answer, (bool, int)) else None))

        again = hasattr(lock, "_is_owned")
        do("locked")
        do("release")
        do("acquire")
        do("locked")
        do("acquire", False)
        do("acquire", False, 1)
        do("acquire", blocking=False)
        do("acquire", timeout=-2)
        do("acquire", timeout=threading.TIMEOUT_MAX * 2)
        if again:
            do("_recursion_count")
            do("_is_owned")
            do("_release_save")
            do("_recursion_count")
            do("_is_owned")
            do("_release_save")
            do("acquire", timeout=0.001)
        do("release")
        do("locked")
        with lock as entered:
            said.append(entered)
            do("locked")
        do("acquire")
        do("_at_fork_reinit")
        do("locked")
        do("acquire", timeout=0)
        do("release")
        return said

    told: list[tuple[list[Any], list[Any]]] = []

    def scenario(pool: fairpool.FairPool) -> None:
        del told[:]
        assert type(threading.Lock()) is _world.Lock
        assert type(threading.RLock()) is _world.RLock
        told.extend(
            [
                (history(_world.Lock()), history(_world._real_lock())),
                (history(_world.RLock()), history(_world._real_rlock())),
            ]
        )

    explore(scenario, schedules=1)
    told.append((history(_condition.ConditionLock()), history(threading.RLock())))
    for ours, real in told:
        # What only some versions have (`locked`) is allowed to be there on all.
        there = [two != "is not there" for two in real]
        assert list(compress(ours, there)) == list(compress(real, there))


def test_an_ordered_set_answers_as_a_set() -> None:
    ordered, real = _ordered.OrderedSet([3, 1, 2]), {3, 1, 2}
    for name, *args in [
        ("add", 5),
        ("discard", 9),
        ("remove", 3),
        ("update", [7, 8], [9]),
        ("difference_update", [7], {8}),
        ("intersection_update", [1, 2, 5, 9], (2, 5, 9)),
        ("symmetric_difference_update", [2, 11]),
        ("union", [1], [2]),
        ("difference", [5]),
        ("intersection", [5, 9]),
        ("symmetric_difference", [5, 6]),
        ("issubset", [5, 9, 11, 12]),
        ("issuperset", [5]),
        ("isdisjoint", [6]),
        ("copy",),
        ("__contains__", 5),
    ]:
        ours, theirs = getattr(ordered, name)(*args), getattr(real, name)(*args)
        assert ours == theirs, name
        assert ordered == real, name
    assert list(_ordered.OrderedSet([3, 1, 2])) == [3, 1, 2]
    for operate in ("__or__", "__and__", "__sub__", "__xor__", "__le__", "__ge__", "__eq__"):
        assert getattr(ordered, operate)({5, 6}) == getattr(real, operate)({5, 6}), operate
    assert {ordered.pop() for _ in range(len(real))} == real
    with pytest.raises(KeyError):
        ordered.remove(1)


# --- what waits on a future's condition as the standard library does ------------------------------


def test_wait_and_as_completed_work() -> None:
    with fairpool.FairPool(2) as pool:
        futures = [pool.submit(pow, 2, n) for n in range(20)]
        assert {f.result() for f in concurrent.futures.as_completed(futures)} == {
            2**n for n in range(20)
        }
        gate = threading.Event()
        futures = [pool.submit(gate.wait), pool.submit(int)]
        done, waits = concurrent.futures.wait(futures, return_when="FIRST_COMPLETED")
        gate.set()
        assert futures[1] in done
        assert not concurrent.futures.wait(futures).not_done
        del waits


def test_a_condition_on_a_views_lock_makes_the_call_when_it_waits() -> None:
    """`wait` releases the lock for good, too."""
    lock = _condition.ConditionLock()
    calls: list[str] = []
    condition = threading.Condition(lock)  # type: ignore[arg-type]
    with condition:
        with condition:
            lock.on_release = lambda: calls.append("called")
        assert calls == []
        condition.wait(0)
        assert calls == ["called"]
    assert calls == ["called"]


# --- threads begin in an empty context ------------------------------------------------------------


@pytest.mark.parametrize("flag", [[], ["-X", "thread_inherit_context=1"]])
def test_no_thread_keeps_the_context_of_its_starter(flag: list[str]) -> None:
    program = textwrap.dedent(
        """
        import contextvars, threading
        import fairpool

        var = contextvars.ContextVar("var", default="nothing")
        seen = []

        def start(pool):
            var.set("the starter's")
            assert pool.submit(var.get).result() == "the starter's"

            async def sleeps():
                await fairpool.sleep(0.001)
                return var.get()

            assert pool.submit(sleeps).result() == "the starter's"

        with fairpool.FairPool(1, initializer=lambda: seen.append(var.get())) as pool:
            contextvars.copy_context().run(start, pool)
            kept = [
                each.name
                for each in threading.enumerate()
                if var in (getattr(each, "_context", None) or ())
            ]
        print(seen, kept)
        """
    )
    answer = subprocess.run(
        [sys.executable, *flag, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (answer.stdout, answer.stderr) == ("['nothing'] []\n", "")


@pytest.mark.skipif(sys.version_info < (3, 14), reason="threads have a context from 3.14 on")
def test_an_explored_thread_has_its_context() -> None:
    import contextvars

    var = contextvars.ContextVar("var", default=0)

    def scenario(pool: fairpool.FairPool) -> None:
        seen: list[int] = []
        context = contextvars.copy_context()
        context.run(var.set, 5)
        thread = threading.Thread(target=lambda: seen.append(var.get()), context=context)
        thread.start()
        thread.join()
        assert seen == [5]

    explore(scenario, schedules=3)
