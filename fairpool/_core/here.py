"""`here`: the state that each thread keeps for the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from fairpool._core.threads import local

# The lists into which a thread is just taking parked workers: the innermost one, then the outer
# ones.
Taking: TypeAlias = "tuple[Sequence[object], Taking | None]"


class _Here(local):
    """Per-thread state. A thread that no pool owns has the values of the class."""

    # worker:       the worker whose loop runs on this thread: a pool thread's, or a caller's
    # caller:       the innermost caller on this thread; it handles Ctrl-C
    # notifying:    set while this thread is in a `notify`. A signal handler or a `__del__` may
    #               interrupt that, and nest another
    # thread_owner: the owner that stands for this thread at locks, once it has entered one
    # spin_limit:   limit of the spin wait before this thread parks on a future

    worker: Any = None
    caller: Any = None
    notifying: Taking | None = None
    thread_owner: Any = None
    spin_limit = 1 << 30


here = _Here()
