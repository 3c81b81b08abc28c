"""Waits that can be interrupted, Ctrl-C, and joins."""

from __future__ import annotations

import _thread
import contextlib
import gc
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kit import PATIENCE

from fairpool._core.signals import acquire, handle_ctrl_c
from fairpool._core.threads import Lock, join

pytestmark = pytest.mark.thread_unsafe(reason="signals are the main thread's")


class Alarm(Exception):
    pass


@pytest.fixture
def calls() -> Iterator[list[int]]:
    """SIGTERM's handler notes that it was called, and raises `Alarm`."""
    calls: list[int] = []

    def handler(signum: int, frame: object) -> None:
        calls.append(signum)
        raise Alarm

    before = signal.signal(signal.SIGTERM, handler)
    gc.disable()  # what is raised in a `__del__`, or a callback of the collector, is lost
    yield calls
    gc.enable()
    signal.signal(signal.SIGTERM, before)


# --- waits ----------------------------------------------------------------------------------------


def test_the_time_of_an_acquire() -> None:
    lock = Lock()
    for timeout in (None, 0.0, 1.0, 1e300):
        assert acquire(lock, timeout)
        lock.release()
    lock.acquire()
    for timeout in (-1.0, 0.0, 0.02, 0.7):
        began = time.monotonic()
        assert not acquire(lock, timeout)
        assert max(timeout, 0) <= time.monotonic() - began + 1e-3 < PATIENCE


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_signal_that_has_not_cut_the_wait_off_is_seen(
    timeout: float | None, calls: list[int]
) -> None:
    """As where it comes just before the thread blocks: the system does not wake it."""
    lock = Lock()
    lock.acquire()
    timer = threading.Timer(0.05, _thread.interrupt_main, (signal.SIGTERM,))
    began = time.monotonic()
    with pytest.raises(Alarm):
        timer.start()
        acquire(lock, timeout)
    assert time.monotonic() - began < PATIENCE
    timer.join()


# --- Ctrl-C ---------------------------------------------------------------------------------------


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler is installed, and is afterwards."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    yield
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert handler is signal.default_int_handler


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_calls_the_handler_in_the_body_alone() -> None:
    handled: list[int] = []
    handle_ctrl_c(lambda signum, frame: handled.append(signum), press)
    assert handled == [signal.SIGINT]
    with pytest.raises(KeyboardInterrupt):
        press()


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("error", [None, LookupError, KeyboardInterrupt])
def test_pythons_handler_is_back_whatever_the_body_raises(error: Any) -> None:
    def body() -> None:
        if error is not None:
            raise error

    with contextlib.suppress(LookupError, KeyboardInterrupt):
        handle_ctrl_c(lambda signum, frame: None, body)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("stays", [signal.SIG_IGN, signal.SIG_DFL, lambda *_: None])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_handler_of_the_programs_own_stays(stays: Any, when: str) -> None:
    seen: list[Any] = []

    def body() -> None:
        if when == "meanwhile":
            signal.signal(signal.SIGINT, stays)
        seen.append(signal.getsignal(signal.SIGINT))

    if when == "before":
        signal.signal(signal.SIGINT, stays)
    handle_ctrl_c(lambda signum, frame: None, body)
    assert seen == [stays]
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is stays


@pytest.mark.usefixtures("ctrl_c")
def test_on_another_thread_nothing_is_installed() -> None:
    seen: list[Any] = []

    def body() -> None:
        seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=handle_ctrl_c, args=(lambda signum, frame: None, body))
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


@pytest.mark.usefixtures("ctrl_c")
def test_no_other_signal_is_touched() -> None:
    def handlers() -> list[Any]:
        return [signal.getsignal(s) for s in signal.valid_signals() if s != signal.SIGINT]

    before, seen = handlers(), []
    handle_ctrl_c(lambda signum, frame: None, lambda: seen.append(handlers()))
    assert seen == [before]


def test_a_join_goes_on_where_two_threads_join_one() -> None:
    """Up to 3.12 the second may find the thread ended, and not yet noted as such."""
    asked = iter([AssertionError, AssertionError])

    class JoinedTwice(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            for error in asked:
                raise error
            super().join(timeout)

    thread = JoinedTwice(target=int)
    thread.start()
    join(thread)
    assert not thread.is_alive()
