"""`Failure`: an exception on its way to the one that asks for the result.

Guarantee: an exception that nobody retrieves is logged, once, also at the end of the interpreter.
"""

from __future__ import annotations

import atexit
import gc

from fairpool._core.foreign import traceback_of
from fairpool._core.hooks import in_child_after_fork
from fairpool._core.report import log_failure, log_failure_now, wait_for_log


class Failure:
    """An exception on its way to the caller that asks for the result; logged if none does.

    The traceback is kept beside the exception, because `raise` adds to `exception.__traceback__`
    each time: every `result()` starts again from the one kept here, so it does not grow.
    """

    __slots__ = ("exception", "retrieved", "source", "traceback")

    def __init__(self, exception: BaseException, source: object) -> None:
        self.exception = exception
        self.source = source
        self.traceback = traceback_of(exception)
        if not _failed:
            _failed.append(None)
        self.retrieved = False  # last: see `__del__`

    def __del__(self) -> None:
        if not getattr(self, "retrieved", True):  # unset: __init__ was interrupted
            log_failure(self.source, self.exception, self.traceback)

    def handed_on(self, source: object = None) -> Failure:
        """The same failure, for another future that fails with it. This one counts as retrieved.

        With the traceback that is kept here: `exception.__traceback__` may have grown in a thread
        that has just raised it, by frames that still run, and another thread must not look at them.
        """
        self.retrieved = True
        failure = Failure(self.exception, self.source if source is None else source)
        failure.traceback = self.traceback
        return failure


# Not empty once there was a failure.
_failed: list[None] = []


def log_at_exit() -> None:
    """Log the exceptions that nobody has retrieved while it was possible, nor will.

    At the end of the interpreter, because afterwards the modules are taken apart, and a finalizer
    finds nothing to log with.
    """
    if _failed:
        for each in gc.get_referrers(Failure):  # its instances among them
            if type(each) is Failure and not getattr(each, "retrieved", True):
                each.retrieved = True
                log_failure_now(each.source, each.exception, each.traceback)
    wait_for_log()


atexit.register(log_at_exit)
in_child_after_fork(_failed.clear)  # those are the parent's
