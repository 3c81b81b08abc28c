"""`Token` and `Latch`, and that two threads cannot both have a token."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from fairpool._core.token import PRESENT, Latch, Token


def test_a_token_is_taken_once() -> None:
    token = Token(PRESENT)
    assert [token.take(), token.take()] == [True, False]
    token.put()
    assert [bool(token), token.take(), bool(token)] == [True, True, False]


def test_a_token_that_is_not_there_at_first() -> None:
    token = Token()
    assert not token.take()
    token.put()
    assert token.take()


def test_of_two_threads_one_takes_the_token() -> None:
    tokens = [Token(PRESENT) for _ in range(2000)]
    barrier = Barrier(2)

    def take_all() -> int:
        barrier.wait()
        return sum(token.take() for token in tokens)

    with ThreadPoolExecutor(2) as executor:
        taken = [executor.submit(take_all) for _ in range(2)]
        assert sum(future.result() for future in taken) == len(tokens)


def test_a_latch_keeps_the_first_reason() -> None:
    latch = Latch()
    assert not latch
    assert not latch.is_set()
    latch.set("closed")
    latch.set("again")
    assert latch
    assert latch.is_set()
    assert latch.reason() == "closed"
