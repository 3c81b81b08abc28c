"""The package's log: never in the way of the work, and no message lost.

Guarantees:

- `log` raises nothing that a handler, a filter or the `__repr__` of an argument has raised.
- A finalizer may call `log_failure`, in the midst of anything, on any thread. It waits for no lock
  that its thread may hold, `logging`'s own included: it leaves the logging to a thread
  (`_Reporter`) that lives as long as there are messages.
- Messages that are left when the interpreter ends are logged before the modules are taken apart.

Why not in the finalizer itself: from 3.13.4 on `logging` drops messages of a thread that is just
logging. Before, a handler with a lock of its own (a `QueueHandler`) could wait for itself. And on a
thread that `threading` does not know, or not any more, `logging` makes a dummy thread object, which
complains when the interpreter ends.
"""

from __future__ import annotations

import logging
from functools import partial
from sys import is_finalizing
from types import TracebackType
from typing import TypeAlias

from fairpool._core.foreign import describe
from fairpool._core.here import here
from fairpool._core.hooks import in_child_after_fork
from fairpool._core.threads import Lock, Stranger, call_as_stranger, new_thread, this_thread
from fairpool._core.token import PRESENT, Token

LOGGER = logging.getLogger("concurrent.futures.fairpool")

# How long (s) the end of the interpreter waits for a handler that is being called.
LAST_WAIT = 5.0

_ExcInfo: TypeAlias = bool | tuple[type[BaseException], BaseException, TracebackType | None]


def log(level: int, message: str, *args: object, exc_info: _ExcInfo = False) -> None:
    """Log a message. Raises nothing but the Ctrl-C of a thread of the user's."""
    try:
        if type(this_thread()) is Stranger:  # logging asks for the current thread
            call_as_stranger(partial(LOGGER.log, level, message, *args, exc_info=exc_info))
        else:
            LOGGER.log(level, message, *args, exc_info=exc_info, stacklevel=2)
    except BaseException as error:  # `logging` itself lets RecursionError and SystemExit through
        if type(error) is KeyboardInterrupt and here.worker is None:
            raise


# --- exceptions that nobody has retrieved ---------------------------------------------------------

# The source that failed, the exception, and its traceback.
_Item = tuple[object, BaseException, TracebackType | None]


def log_failure_now(source: object, error: BaseException, trace: TracebackType | None) -> None:
    """Log an exception that nobody has retrieved."""
    exc_info = type(error), error, trace
    log(logging.ERROR, "exception of %s was never retrieved", describe(source), exc_info=exc_info)


class _Reporter:
    """Logs the messages of finalizers, on a thread that ends when there are no more.

    Protocol: a finalizer does `push`, an append to `_items`, and `try_there`: it tries the lock
    `_there`, and with it starts a thread. The thread does `release_there` and `recheck`, a look at
    `_items`. Both pairs are calls on the same two objects (mutex order, try-lock), so one of the
    two sees the other.
    """

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._there = Lock()  # held while the thread is there, or is being started

    def leave(self, item: _Item) -> None:
        """Have it logged."""
        self._items.append(item)  # push
        if not self._there.acquire(False):  # try_there
            return
        begin = Token(PRESENT)
        try:
            # A daemon: `threading` takes a lock to start others, which this thread may hold.
            new_thread(lambda: self._run(begin), "fairpool-log", daemon=True).start()
        except BaseException as error:
            if not begin.take():  # an interrupt, and the thread is there
                raise
            self._there.release()
            if type(error) is not RuntimeError:  # no memory or stack: the next message starts it
                raise
            self._log_all()  # no thread can be started

    def _run(self, begin: Token) -> None:
        if not begin.take():  # the starter has given this thread up
            return
        while True:
            self._log_all()
            self._there.release()  # release_there
            if not (self._items.copy() and self._there.acquire(False)):  # recheck
                return

    def _log_all(self) -> None:
        while True:
            try:
                item = self._items.pop(0)
            except IndexError:
                return
            log_failure_now(*item)
            del item  # perhaps the last reference: dropped while this may still find another

    def wait(self, timeout: float) -> bool:
        """Log the rest on this thread, and wait for the other thread; whether all is logged."""
        self._log_all()
        if not self._there.acquire(timeout=timeout):
            return False
        self._run(Token(PRESENT))
        return True

    def forget(self) -> None:
        """In the child of a fork: the messages are the parent's, and so is the thread."""
        self._items.clear()
        self._there = Lock()


_reporter = _Reporter()
in_child_after_fork(_reporter.forget)


def log_failure(source: object, error: BaseException, trace: TracebackType | None) -> None:
    """Have an exception logged that nobody has retrieved. For finalizers: it only leaves word."""
    # At the very end the modules are taken apart, and a thread that is started never begins (3.11).
    # By then `log_at_exit` has logged all there was.
    if is_finalizing is not None and not is_finalizing():
        _reporter.leave((source, error, trace))


def wait_for_log(timeout: float = LAST_WAIT) -> bool:
    """Wait until the messages of `log_failure` are logged; whether they are."""
    return _reporter.wait(timeout)
