"""What `atomicity`, `threads`, `here`, `signals`, `room` and `hooks` have, under one old name.

Import from those: this module goes.
"""

from __future__ import annotations

from fairpool._core.here import (
    here,
)
from fairpool._core.hooks import (
    at_exit,
    before_collection,
    in_child_after_fork,
)
from fairpool._core.room import (
    DEEP_STACK,
    SHORT_OF_ROOM,
    need_stack,
    stack_is_deep,
)
from fairpool._core.signals import (
    LONGEST_BLIND_WAIT,
    acquire,
    get,
    handle_ctrl_c,
    wait_until_set,
)
from fairpool._core.threads import (
    FREE_THREADED,
    Condition,
    Event,
    Lock,
    RLock,
    Stranger,
    Thread,
    call_as_stranger,
    cpu_count,
    current_thread,
    enumerate_threads,
    get_ident,
    is_main_thread,
    join,
    local,
    main_thread,
    monotonic,
    monotonic_ns,
    new_thread,
    read_by_many,
    start_new_thread,
    this_thread,
    yield_cpu,
)

__all__ = [
    "DEEP_STACK",
    "FREE_THREADED",
    "LONGEST_BLIND_WAIT",
    "SHORT_OF_ROOM",
    "Condition",
    "Event",
    "Lock",
    "RLock",
    "Stranger",
    "Thread",
    "acquire",
    "at_exit",
    "before_collection",
    "call_as_stranger",
    "cpu_count",
    "current_thread",
    "enumerate_threads",
    "get",
    "get_ident",
    "handle_ctrl_c",
    "here",
    "in_child_after_fork",
    "is_main_thread",
    "join",
    "local",
    "main_thread",
    "monotonic",
    "monotonic_ns",
    "need_stack",
    "new_thread",
    "read_by_many",
    "stack_is_deep",
    "start_new_thread",
    "this_thread",
    "wait_until_set",
    "yield_cpu",
]
