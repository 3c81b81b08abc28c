"""A wrong argument raises at the call, and the message says what was wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import fairpool
from fairpool import BrokenFairPool, DeadlockError, FairPool, Future

WRONG_MAKING: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_workers": 0, "initializer": print}, ValueError, "max_workers=0"),
    ({"max_workers": -3}, ValueError, "max_workers.* -3"),
    ({"max_workers": 10**9}, ValueError, "max_workers.* 1000000000"),
    ({"max_workers": 2.0}, TypeError, "max_workers.* 2.0"),
    ({"max_workers": "2"}, TypeError, "max_workers.* '2'"),
    ({"max_workers": True}, TypeError, "max_workers.* True"),
    ({"max_pending": 0}, ValueError, "max_pending.* 0"),
    ({"max_pending": -1}, ValueError, "max_pending.* -1"),
    ({"max_pending": 1.5}, TypeError, "max_pending.* 1.5"),
    ({"max_pending": False}, TypeError, "max_pending.* False"),
    ({"thread_name_prefix": 7}, TypeError, "thread_name_prefix.* 7"),
    ({"thread_name_prefix": b"x"}, TypeError, "thread_name_prefix.* b'x'"),
    ({"initializer": 7}, TypeError, "initializer.* 7"),
    ({"initializer": int, "initargs": 7}, TypeError, "iterable"),
    ({"idle_timeout": -1}, ValueError, "idle_timeout.* -1"),
    ({"idle_timeout": 1e9}, ValueError, "idle_timeout.* 1000000000.0"),
    ({"idle_timeout": math.nan}, ValueError, "idle_timeout.* nan"),
    ({"idle_timeout": math.inf}, ValueError, "idle_timeout.* inf"),
    ({"idle_timeout": "1"}, TypeError, "idle_timeout.* '1'"),
    ({"idle_timeout": None}, TypeError, "idle_timeout.* None"),
    ({"idle_timeout": True}, TypeError, "idle_timeout.* True"),
    ({"lend": 1}, TypeError, "lend must be a bool or None, not 1"),
    ({"lend": "yes"}, TypeError, "lend must be a bool or None, not 'yes'"),
    ({"lend": 0, "max_workers": 0}, TypeError, "lend must be a bool or None, not 0"),
    ({"max_worker": 1}, TypeError, "max_worker"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG_MAKING)
def test_making_a_pool(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FairPool(**arguments)


@pytest.mark.parametrize("arguments", [{}, {"max_workers": None}, {"max_workers": 1}])
def test_making_a_pool_right(make_pool: Callable[..., FairPool], arguments: dict[str, Any]) -> None:
    assert make_pool(**arguments).submit(int).result() == 0


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda pool: pool.submit(), TypeError, "fn"),
        (lambda pool: pool.submit(None), TypeError, "callable.*None"),
        (lambda pool: pool.submit(7, 8), TypeError, "callable.*7"),
        (lambda pool: pool.submit(fn=int), TypeError, "fn"),
        (lambda pool: pool.map(), TypeError, "fn"),
        (lambda pool: pool.map(None, [1]), TypeError, "callable.*None"),
        (lambda pool: pool.map(int, 7), TypeError, "int"),
        (lambda pool: pool.map(int, "1", chunksize=0), ValueError, "chunksize.* 0"),
        (lambda pool: pool.map(int, "1", chunksize=-1), ValueError, "chunksize.* -1"),
        (lambda pool: pool.map(int, "1", chunksize=1.5), TypeError, "chunksize.* 1.5"),
        (lambda pool: pool.map(int, "1", chunksize=None), TypeError, "chunksize.* None"),
        (lambda pool: pool.map(int, "1", buffersize=0), ValueError, "None or > 0, not 0"),
        (lambda pool: pool.map(int, "1", buffersize=-1), ValueError, "None or > 0, not -1"),
        (lambda pool: pool.map(int, "1", buffersize=1.5), TypeError, "integer or None, not 1.5"),
        (lambda pool: pool.map(int, "1", timeout="1"), TypeError, "str"),
        (lambda pool: pool.shutdown(True, True), TypeError, "positional"),
    ],
)
def test_using_a_pool(
    make_pool: Callable[..., FairPool],
    use: Callable[[FairPool], object],
    error: type[Exception],
    message: str,
) -> None:
    pool = make_pool(1)
    with pytest.raises(error, match=message):
        use(pool)
    assert not pool._scheduler.workers  # nothing was started for it
    assert pool.submit(int).result() == 0


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda future: future.add_done_callback(None), TypeError, "callable.*None"),
        (lambda future: future.set_exception(7), TypeError, "exception.*7"),
        (lambda future: future.result("1"), TypeError, "str"),
    ],
)
def test_using_a_future(
    use: Callable[[Future[int]], object], error: type[Exception], message: str
) -> None:
    future: Future[int] = Future()
    with pytest.raises(error, match=message):
        use(future)
    assert not future.done()


def test_the_names_of_the_package() -> None:
    for name in fairpool.__all__:
        assert hasattr(fairpool, name)
    assert issubclass(DeadlockError, RuntimeError)
    assert issubclass(BrokenFairPool, RuntimeError)
    assert fairpool.__doc__
