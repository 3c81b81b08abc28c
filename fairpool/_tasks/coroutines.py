"""One task for each coroutine object.

A coroutine object that is handed over is *claimed*, for good, by weak reference. Proof:
`docs/protocols/tasks.md` (`claim_coroutine`).
"""

from __future__ import annotations

import sys
from inspect import CO_ITERABLE_COROUTINE
from itertools import repeat
from operator import is_
from sys import getrefcount
from types import CoroutineType, GeneratorType
from typing import Any, TypeGuard
from weakref import ref

from fairpool._core.foreign import describe
from fairpool._core.types import AnyCoroutine, NativeCoroutine


def is_coroutine(what: object) -> TypeGuard[NativeCoroutine]:
    """Whether `what` can be run step by step: a native or a generator-based coroutine."""
    if type(what) is GeneratorType:
        return bool(what.gi_code.co_flags & CO_ITERABLE_COROUTINE)
    return type(what) is CoroutineType


# Weak references to the coroutine objects that have been claimed. References to one object are
# equal, so the first that comes in stays. It leaves when its object is freed.
_claimed: dict[ref[Any], ref[Any]] = {}
_forget = _claimed.pop


def claim_coroutine(coroutine: AnyCoroutine) -> None:
    """Make a coroutine object the caller's, to be run by one task, for good.

    Raises RuntimeError if it was claimed before, or started. Not needed where
    nobody else can have a reference to it, or come by one: see `HELD_BY_LOCAL`.
    """
    kind = type(coroutine)
    if kind is not CoroutineType and kind.__hash__ != object.__hash__:
        return  # of a foreign type, whose code must not run in the dict
    try:
        mine = ref(coroutine, _forget)
    except TypeError:  # of another foreign type
        return
    if _claimed.setdefault(mine, mine) is not mine:  # claim_coroutine
        del mine  # not to be called for, by the frame that the error holds: it is not in there
        raise RuntimeError(f"{_which(coroutine)} is a task's already: {_CALL_AGAIN}")
    if type(coroutine) is CoroutineType:
        started = coroutine.cr_suspended or coroutine.cr_running
    else:
        started = getattr(coroutine, "gi_suspended", False) or getattr(
            coroutine, "gi_running", False
        )
    if started:
        raise RuntimeError(f"{_which(coroutine)} has been started already: {_CALL_AGAIN}")


def claim_all(coroutines: tuple[NativeCoroutine, ...]) -> None:
    """As `claim_coroutine` for each of these native ones; if one is refused, close the others.

    In few passes, most of them in C: a program may keep the list of what it gathers.
    """
    mine = [*map(ref, coroutines, repeat(_forget))]
    are_mine = [*map(is_, map(_claimed.setdefault, mine, mine), mine)]  # claim_coroutine
    if False in are_mine:
        each = coroutines[are_mine.index(False)]
        why = "is a task's already"
    else:
        for each in coroutines:
            if each.cr_suspended or each.cr_running:
                why = "has been started already"
                break
        else:
            return
    del mine  # as in `claim_coroutine`
    for other, is_mine in zip(coroutines, are_mine, strict=True):
        if is_mine and not (other.cr_suspended or other.cr_running):
            other.close()  # else Python warns that it was never awaited
    raise RuntimeError(f"{_which(each)} {why}: {_CALL_AGAIN}")


_CALL_AGAIN = "call its function once for each task, or await the task that runs it"


def _which(coroutine: object) -> str:
    return f"the coroutine object {describe(coroutine)} at {id(coroutine):#x}"


# What `getrefcount` gives, at least, of an object that is held only by one local of its caller's;
# only as the caller's argument; only by the tuple that a loop, or `map`, goes through. If there is
# no weak reference to it either, nobody else can come by it. The call itself is one more holder,
# but not always from 3.14 on: there the caller alone may hold an argument, so that its
# count says nothing (-1).
_BORROWS = sys.version_info >= (3, 14)
HELD_BY_LOCAL = 1 if _BORROWS else 2
HELD_BY_ARGUMENT = -1 if _BORROWS else 2
HELD_BY_TUPLE_AND_LOCAL = HELD_BY_LOCAL + 1
HELD_BY_TUPLE = max(map(getrefcount, (object(),)))
