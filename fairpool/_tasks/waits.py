"""An old name of `_core.waitgraph`: import from there."""

from __future__ import annotations

from fairpool._core.waitgraph import (
    check_lock_wait,
    enter_wait,
    leave_wait,
    locks,
    waiting_tasks,
    waits,
    write_wait,
)

__all__ = [
    "check_lock_wait",
    "enter_wait",
    "leave_wait",
    "locks",
    "waiting_tasks",
    "waits",
    "write_wait",
]
