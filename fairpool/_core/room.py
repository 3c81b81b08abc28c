"""Room: how deep a thread's stack is, and what a call raises where stack or memory runs out.

Protocol: `docs/protocols/room.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from fairpool._core.threads import yield_cpu

C = TypeVar("C")
T = TypeVar("T")

# What a call raises for want of stack or memory. A step that undoes something handles both where it
# needs no call of a Python function.
SHORT_OF_ROOM = (RecursionError, MemoryError)

# What the `pop` of an empty deque raises: MemoryError where there is none for the IndexError.
EMPTY = (IndexError, MemoryError)

# Stack depth from which nothing is run inline, whatever the recursion limit: an inline run nests C
# calls as well, and `sys.setrecursionlimit` does not set their stack. A quarter of the usual limit.
DEEP_STACK = 250

# Up to so many frames are tried out at once, without asking first whether the stack is deep.
FEW_FRAMES = 12


def stack_is_deep() -> bool:
    """Whether a quarter of the recursion limit, or `DEEP_STACK` frames, is used up on this thread.

    Below that, a task that is run inline still has three quarters of the stack that a worker of its
    own would give it.
    """
    try:
        sys._getframe(min(sys.getrecursionlimit() >> 2, DEEP_STACK))
    except ValueError:  # the stack is not that deep
        return False
    return True


def need_stack(frames: int = 24) -> None:
    """Raise RecursionError unless so many more frames fit on this thread's stack.

    For slow steps that could not be undone half-way: called before the first of them.
    """
    # A frame costs 45 ns, and the question 500.
    if frames <= FEW_FRAMES or stack_is_deep():
        _descend(frames)


def _descend(frames: int) -> None:
    if frames:
        _descend(frames - 1)


def put_in_any_case(put: Callable[[C, T], None], container: C, item: T) -> None:
    """`put(container, item)` that waits for memory: a step that undoes something cannot give up."""
    while True:
        try:
            put(container, item)
        except MemoryError:
            yield_cpu()
        else:
            return


def strike_off(entries: list[T], entry: T) -> bool:
    """Take an entry out of a list; False if it is not in there. Does not fail for want of memory.

    `remove` needs some for its ValueError, or where the list should shrink.
    """
    while True:
        try:
            entries.remove(entry)
        except ValueError:
            return False
        except MemoryError:
            yield_cpu()
        else:
            return True
