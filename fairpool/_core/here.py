"""`here`: the state that each thread keeps for the package."""

from __future__ import annotations

from typing import Any

from fairpool._core.threads import local

__all__ = ["here"]


class _Here(local):
    """Per-thread state. A thread that no pool owns has the values of the class."""

    # worker:       the worker whose loop runs on this thread: a pool thread's, or a caller's
    # caller:       the innermost caller on this thread; it handles Ctrl-C
    # notifying:    the lists into which this thread is just taking parked workers, as (list, outer
    #               one). A signal handler or a `__del__` may interrupt a `notify`, and nest another
    # thread_owner: the owner that stands for this thread at locks, once it has entered one
    # spin_limit:   limit of the spin wait before this thread parks on a future

    worker: Any = None
    caller: Any = None
    notifying: Any = None
    thread_owner: Any = None
    spin_limit = 1 << 30


here = _Here()
