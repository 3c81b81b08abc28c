"""Where Ctrl-C may be raised on a main thread that is a caller.

Rules and reasons: "Ctrl-C" in `docs/protocols/joining.md`.
"""

from __future__ import annotations

from types import FrameType

from fairpool._core.signals import acquire
from fairpool._scheduler.worker import Worker
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.settling import run_callback
from fairpool._tasks.task import Task

# Where a step of a task's calls code of the user's.
_STEPS = (Task.run.__code__, Continuation.run.__code__)
# Below this, frames are of the thread's life before it came, or of a wait of what it runs.
_LOOP = Worker.work.__code__


def _is_packages(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("fairpool.")


def may_be_cut_off(frame: FrameType | None) -> bool:
    """Whether this is not the package at its own work: other code, or a wait."""
    return frame is None or not _is_packages(frame) or frame.f_code is acquire.__code__


def may_raise(frame: FrameType | None) -> bool:
    """Whether `frame` is code of a task's own, or a wait that such code has called.

    Not where the package is at its own work, or calls what would swallow the exception.
    """
    if frame is not None and _is_packages(frame):
        return may_be_cut_off(frame) and is_called_by_user(frame)
    while frame is not None and not _is_packages(frame):
        frame = frame.f_back
    return frame is not None and frame.f_code in _STEPS


def is_called_by_user(frame: FrameType | None, callbacks: bool = False) -> bool:
    """Whether code of the user's, with `callbacks` also of a callback, is below the loop's."""
    is_users = False
    while frame is not None and frame.f_code is not _LOOP:
        if frame.f_code is run_callback.__code__ and not callbacks:  # it logs what that raises
            return False
        is_users = is_users or not _is_packages(frame)
        frame = frame.f_back
    return is_users
