"""A container that another thread is just writing to: its length is there before its item is.

On a free-threaded build `dict` stores the number of its keys before the table that has the first
one (`insert_to_emptydict`), and a `list` may show its new length before its new array. Reads take
no mutex (plain read, `fairpool._core.atomicity`), so code must not conclude from the length that an
item is found.
The moment is too short to be met by threads in a test: the stand-ins here stay in it.
"""

from __future__ import annotations

from typing import Any

from fairpool import FairPool
from fairpool._api.event import Event
from fairpool._core.token import Latch


class DictWithKeyToCome(dict[Any, Any]):
    def __len__(self) -> int:
        return 1


class LatchWithItemToCome(Latch):
    def __getitem__(self, index: Any) -> Any:  # takes no mutex
        raise IndexError

    def copy(self) -> list[Any]:  # waits for the mutex, and so for the item
        return [*self]


def test_an_event_that_is_just_being_cleared() -> None:
    event = Event()
    event._gate.successor = DictWithKeyToCome()
    assert not event.is_set()


def test_a_pool_that_is_just_being_closed() -> None:
    with FairPool(1) as pool:
        scheduler = pool._scheduler
        before = scheduler.close_reason
        scheduler.close_reason = LatchWithItemToCome([RuntimeError("closed")])
        try:
            assert str(scheduler.closed_error()) == "closed"
        finally:
            scheduler.close_reason = before
