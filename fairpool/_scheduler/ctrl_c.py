"""Ctrl-C on a main thread that is a caller: whose affair it is, and where it may be raised.

Rules and reasons: "Ctrl-C" in `docs/protocols/joining.md`.
"""

from __future__ import annotations

from typing import Any

from fairpool._core.here import here
from fairpool._core.signals import acquire
from fairpool._scheduler.worker import Worker
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.settling import run_callback
from fairpool._tasks.task import Task

__all__ = ["is_called_by_user", "may_be_cut_off", "on_ctrl_c"]

# Where a step of a task's calls code of the user's.
_STEPS = (Task.run.__code__, Continuation.run.__code__)
# Below this, frames are of the thread's life before it came, or of a wait of what it runs.
_LOOP = Worker.work.__code__


def _is_packages(frame: Any) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("fairpool.")


def may_be_cut_off(frame: Any) -> bool:
    """Whether this is not the package at its own work: other code, or a wait."""
    return not _is_packages(frame) or frame.f_code is acquire.__code__


def _may_raise(frame: Any) -> bool:
    """Whether `frame` is code of a task's own, or a wait that such code has called.

    Not where the package is at its own work, or calls what would swallow the exception.
    """
    if _is_packages(frame):
        return may_be_cut_off(frame) and is_called_by_user(frame)
    while frame is not None and not _is_packages(frame):
        frame = frame.f_back
    return frame is not None and frame.f_code in _STEPS


def is_called_by_user(frame: Any, callbacks: bool = False) -> bool:
    """Whether code of the user's, with `callbacks` also of a callback, is below the loop's."""
    is_users = False
    while frame is not None and frame.f_code is not _LOOP:
        if (
            frame.f_code is run_callback.__code__ and not callbacks
        ):  # it logs what a callback raises
            return False
        is_users = is_users or not _is_packages(frame)
        frame = frame.f_back
    return is_users


def on_ctrl_c(signum: int, frame: Any) -> None:
    """Ctrl-C has come while the main thread, which is here, is a caller."""
    callers: list[Any] = []  # a task may have joined another pool
    caller = here.caller
    while caller is not None:
        callers.append(caller)
        caller = caller.outer_caller
    others = [caller for caller in callers if not caller.runs_own()]
    if any(caller.interrupted for caller in callers):
        for caller in callers:
            caller.interrupted = caller.gives_up = True
            caller.wake()
        if may_be_cut_off(frame) and is_called_by_user(frame, callbacks=True):
            raise KeyboardInterrupt
    elif not callers or (not others and _may_raise(frame)):
        raise KeyboardInterrupt
    else:
        # What runs in an inner pool is the work of the outermost one that runs others' work.
        (others[-1] if others else callers[0]).interrupt()
