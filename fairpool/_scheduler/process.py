"""The pools of this process: at the end of the program, after a fork, before a collection."""

from __future__ import annotations

from weakref import ref

from fairpool._core.here import here
from fairpool._core.hooks import at_exit, before_collection, in_child_after_fork
from fairpool._core.threads import (
    Thread,
    current_thread,
    enumerate_threads,
    main_thread,
    new_thread,
    yield_cpu,
)
from fairpool._scheduler.lifecycle import LifeCycle
from fairpool._scheduler.worker import Worker

# Weak references to all schedulers. A plain set of them, because one call adds, one discards and
# one copies (atomic call); a WeakSet does each in several steps.
live_entries: set[ref[LifeCycle]] = set()


def live() -> list[LifeCycle]:
    """All schedulers that exist, at one moment."""
    return [scheduler for entry in live_entries.copy() if (scheduler := entry()) is not None]


# Why no pool is open any more, once the program has ended.
exiting: list[Exception] = []


def _threads_of_the_program() -> list[Thread]:
    """The threads that the interpreter waits for, but for the main thread and those of pools."""
    # First: a pool's thread that is among them was listed there before, or has ended since.
    threads = enumerate_threads()
    ours = [current_thread(), main_thread()]
    for scheduler in live():
        ours += [each.thread for each in scheduler.threads.copy() if type(each) is Worker]
        ours += scheduler.timers.threads()
    known = set(map(id, ours))  # a class of the user's may have an `__eq__`
    return [each for each in threads if not each.daemon and id(each) not in known]


def _when_the_main_thread_has_ended() -> None:
    """The program goes on for as long as it has threads that are not daemons; so do the pools."""
    if _threads_of_the_program():
        try:
            new_thread(_wait_and_close_all, "FairPool_exit", daemon=False).start()
        except RuntimeError:  # no more threads
            pass
        else:
            return
    _close_all()


def _wait_and_close_all() -> None:
    while threads := _threads_of_the_program():
        for thread in threads:
            try:
                Thread.join(thread)  # that of its own class may be what tells it to stop
            except (RuntimeError, AssertionError):  # it is just being started; see `threads.join`
                yield_cpu()
    _close_all()


def _close_all() -> None:
    error = RuntimeError("cannot schedule new futures after interpreter shutdown")
    exiting.append(error)
    for scheduler in live():
        if scheduler.is_open():
            scheduler.close(error)
        # A coroutine that waits for something which nobody is left to bring would keep the process.
        scheduler.cancel_all(closings=True)
    for scheduler in live():
        if not scheduler.max_workers and not scheduler.is_over():
            scheduler.run_what_is_left()  # nobody else will


def _before_collection() -> None:
    """The collector is about to call finalizers on this thread, which may take long."""
    worker: Worker | None = here.worker
    if worker is not None and worker.item is None:  # it searches, or is about to park
        worker.withdraw()
        worker.scheduler.notify_if_work()


def _after_fork() -> None:
    here.caller = None
    if here.worker is not None:
        here.worker.queue.clear()
        here.worker = None
    for scheduler in live():
        scheduler.after_fork()


at_exit(_when_the_main_thread_has_ended)
in_child_after_fork(_after_fork)
before_collection(_before_collection)
