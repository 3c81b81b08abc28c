"""What `_sync` adds to what it imports: waits that can be interrupted, handlers that ask."""

from __future__ import annotations

import _thread
import contextlib
import gc
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from unit.conftest import PATIENCE, TIMEOUT

from fairpool import _sync
from fairpool._sync import Lock, acquire, handle_interrupts

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


def raise_signal() -> None:
    signal.raise_signal(signal.SIGTERM)


def raise_inside(signum: int, frame: Any) -> None:
    """A handler that raises in what `handle_interrupts` has called, and nowhere else."""
    while frame is not None:
        if frame.f_code is handle_interrupts.__code__:
            raise Alarm
        frame = frame.f_back


def never(frame: Any, error: BaseException | None) -> bool:
    return False


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


# --- handlers that ask ----------------------------------------------------------------------------


def test_who_takes_it_raises_it_or_not(calls: list[int]) -> None:
    taken: list[tuple[Any, BaseException | None]] = []

    def ask(frame: Any, error: BaseException | None) -> bool:
        taken.append((frame, error))
        if len(taken) == 2:
            assert error is not None
            raise error
        return True

    def body() -> None:
        raise_signal()
        with pytest.raises(Alarm):
            raise_signal()
        raise_signal()

    handle_interrupts(ask, body)
    assert len(calls) == 3
    assert [type(error) for _, error in taken] == [Alarm] * 3
    assert {frame.f_code for frame, _ in taken} == {raise_signal.__code__}
    with pytest.raises(Alarm):
        raise_signal()


def test_who_does_not_take_it_is_asked_again(calls: list[int]) -> None:
    asked: list[BaseException | None] = []

    def ask(frame: Any, error: BaseException | None) -> bool:
        asked.append(error)
        return len(asked) >= 3

    def body() -> None:
        raise_signal()
        end = time.monotonic() + TIMEOUT
        while len(asked) < 3:
            assert time.monotonic() < end
        for _ in range(1000):  # nobody asks any more
            time.sleep(1e-6)
        assert len(calls) == 1
        raise_signal()

    handle_interrupts(ask, body)
    assert [type(error) for error in asked] == [Alarm, type(None), type(None), Alarm]
    assert len(calls) == 2


def test_nothing_is_sent_again_after_the_end(calls: list[int]) -> None:
    for _ in range(20):
        handle_interrupts(never, raise_signal)
    time.sleep(20 * _sync.RESEND_AFTER)
    assert len(calls) == 20


def test_the_programs_handler_is_called_for_signals_alone(calls: list[int]) -> None:
    """Not for those that are sent again. One that comes at once with such a one is not new."""

    def body() -> None:
        for _ in range(500):
            raise_signal()
            time.sleep(0)

    handle_interrupts(never, body)
    assert 0 < len(calls) <= 500


def test_no_thread_to_send_it_again(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_sync, "start_new_thread", start)
    began = time.monotonic()
    handle_interrupts(never, raise_signal)
    assert time.monotonic() - began < _sync.LONGEST_BLIND_WAIT  # nobody is waited for
    assert len(calls) == 1


def test_inside_of_another_one_that_one_is_asked(calls: list[int]) -> None:
    taken: list[BaseException | None] = []

    def ask(frame: Any, error: BaseException | None) -> bool:
        taken.append(error)
        return True

    handle_interrupts(ask, lambda: handle_interrupts(never, raise_signal))
    assert len(taken) == len(calls) == 1


@pytest.mark.parametrize("stays", [signal.SIG_IGN, signal.SIG_DFL, lambda *_: None])
def test_what_is_set_meanwhile_stays(stays: Any, calls: list[int]) -> None:
    handle_interrupts(never, lambda: signal.signal(signal.SIGTERM, stays) and None)
    assert signal.getsignal(signal.SIGTERM) is stays


def test_one_that_repeats_does_not_keep_the_handlers_from_being_put_back(calls: list[int]) -> None:
    kept: list[BaseException | None] = []
    runs: list[None] = []

    def keep(frame: Any, error: BaseException | None) -> bool:
        kept.append(error)
        return not runs

    def body() -> None:
        runs.append(None)
        time.sleep(3e-4)
        runs.clear()

    signums = (signal.SIGALRM, signal.SIGTERM)
    before = signal.signal(signal.SIGALRM, raise_inside)
    handlers = [signal.getsignal(signum) for signum in signums]
    signal.setitimer(signal.ITIMER_REAL, 2e-4, 2e-4)
    try:
        for _ in range(200):
            with contextlib.suppress(Alarm):  # before the first, or after the last is replaced
                handle_interrupts(keep, body)
            runs.clear()
            assert [signal.getsignal(signum) for signum in signums] == handlers
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert kept


def test_one_that_comes_while_they_are_replaced_or_put_back(calls: list[int]) -> None:
    """At whatever instruction: CPython does not look for all of them where one would think."""

    def ask(frame: Any, error: BaseException | None) -> bool:
        if error is not None:
            raise error
        return True

    chance = random.Random(0)
    before = signal.signal(signal.SIGALRM, raise_inside)
    handlers = [signal.getsignal(signum) for signum in range(1, 32)]
    try:
        for _ in range(3000):
            with contextlib.suppress(Alarm):
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + chance.random() * 3e-5)
                handle_interrupts(ask, list)
            assert [signal.getsignal(signum) for signum in range(1, 32)] == handlers
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_one_that_was_put_back_late_is_no_other_one(calls: list[int]) -> None:
    """Somebody has kept ours and puts it back after the end."""
    program, kept, asked = signal.getsignal(signal.SIGTERM), [], []
    handle_interrupts(never, lambda: kept.append(signal.getsignal(signal.SIGTERM)))
    signal.signal(signal.SIGTERM, kept[0])
    with pytest.raises(Alarm):
        raise_signal()

    def ask(frame: Any, error: BaseException | None) -> bool:
        asked.append(error)
        return True

    handle_interrupts(ask, raise_signal)
    assert len(asked) == 1
    assert signal.getsignal(signal.SIGTERM) is program


def test_another_handler_is_not_called_again(calls: list[int]) -> None:
    others: list[int] = []

    def body() -> None:
        raise_signal()
        signal.signal(signal.SIGTERM, lambda signum, frame: others.append(signum))
        time.sleep(10 * _sync.RESEND_AFTER)

    handle_interrupts(never, body)
    assert (len(calls), others) == (1, [])


def test_on_another_thread_there_is_nothing_to_ask(calls: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def body() -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=handle_interrupts, args=(never, body))
    thread.start()
    thread.join()
    assert seen == [before]
