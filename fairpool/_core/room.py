"""Room on a thread's stack: how deep it is, and what a call raises where room runs out.

Protocol: `docs/protocols/room.md`.
"""

from __future__ import annotations

import sys

__all__ = ["DEEP_STACK", "SHORT_OF_ROOM", "need_stack", "stack_is_deep"]

# What a call raises for want of stack or memory. A step that undoes something handles both where it
# needs no call of a Python function.
SHORT_OF_ROOM = (RecursionError, MemoryError)

# Stack depth from which nothing is run inline, whatever the recursion limit: an inline run nests C
# calls as well, and `sys.setrecursionlimit` does not set their stack. A quarter of the usual limit.
DEEP_STACK = 250


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
    if frames:
        need_stack(frames - 1)
