"""`OrderedSet`: the set of a run, which is the same again when the run is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from itertools import chain
from typing import Any


class OrderedSet(MutableSet[Any]):
    """A set that is gone through in the order in which it was filled, not in that of addresses."""

    __slots__ = ("__weakref__", "_items")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._items)})"

    def add(self, item: Any) -> None:
        self._items[item] = None

    def discard(self, item: Any) -> None:
        self._items.pop(item, None)

    # What a set has beside its operators: for any iterables, and several at once.

    def copy(self) -> OrderedSet:
        return OrderedSet(self._items)

    def update(self, *others: Iterable[Any]) -> None:
        self._items.update(dict.fromkeys(chain(*others)))

    def difference_update(self, *others: Iterable[Any]) -> None:
        for item in list(chain(*others)):
            self.discard(item)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        for other in others:
            kept = set(other)
            self._items = {item: None for item in self._items if item in kept}

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        self ^= OrderedSet(other)

    def union(self, *others: Iterable[Any]) -> OrderedSet:
        return OrderedSet(chain(self, *others))

    def difference(self, *others: Iterable[Any]) -> OrderedSet:
        result = self.copy()
        result.difference_update(*others)
        return result

    def intersection(self, *others: Iterable[Any]) -> OrderedSet:
        result = self.copy()
        result.intersection_update(*others)
        return result

    def symmetric_difference(self, other: Iterable[Any]) -> OrderedSet:
        return self ^ OrderedSet(other)  # type: ignore[return-value]

    def issubset(self, other: Iterable[Any]) -> bool:
        return self <= OrderedSet(other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        return self >= OrderedSet(other)
