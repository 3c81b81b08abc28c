"""The only door to threads, Ctrl-C and the clock, and what the package takes for atomic.

Every other module gets its locks, threads, thread-locals and time from here, so that one place can
be read to know what the package asks of the interpreter, and one seam can be replaced under test.

This code assumes, of CPython (docs/versions.md has the place of each in the sources):

- A1. One call of `append`, `appendleft`, `extend` or `extendleft` (with a list or a tuple), `pop`,
  `popleft`, `remove`, `count`, `index`, `clear` or `rotate` on a `deque`, of `append`, `insert`,
  `pop`, `remove`, `reverse`, `clear`, `copy`, a slice or item assignment on a `list`, of `add`,
  `discard`, `remove`, `pop`, `copy` or `clear` on a `set`, and of `setdefault`, `pop`, `copy`,
  `clear` or item assignment on a `dict` is atomic. On a free-threaded build each of them takes the
  object's own mutex (a "critical section" in CPython's words); with the GIL each is one
  uninterrupted C call. Elements are only compared by identity before a foreign `__eq__` could run,
  because what the package keeps in these containers are its own objects, which compare by identity.
  With one exception: on a free-threaded build `remove`, `count` and `index` let go of the mutex
  where a comparison, or the drop of the item it was made with, has to wait for another mutex. A
  `deque` notices that it was changed meanwhile, and raises: `RunQueue` makes the call again. (A
  `list` does not. What the package keeps in lists is compared in C, without waiting, and the
  reference that is dropped there was taken a moment before: it is the last one of another thread's
  only if that lets go at that very moment, too, and then has to wait for 20 µs. Not seen.)
  Not in this list: `extend` on a `list`, `sort`, `update`, iteration: for what one thread has.
- A2. What a thread wrote before such a call is seen by a thread that makes a later such call *on
  the same object*: the mutex is released by the first and acquired by the second. This is the only
  ordering between threads that the package relies on, besides lock release → acquire. A plain
  attribute read orders nothing by itself; where one is used, a comment names the call that it is
  ordered by.
- A3. Reading one attribute, one item (`x[i]` of a list, `d[k]`, `get` or `in` of a dict, `in` of a
  set), or the truth value of a container, while another thread writes it gives the old or the new
  value, never a torn one. Such a read takes no mutex. A container may show its new length before
  its new item: `if d: d[k]` may raise KeyError, `if x: x[0]` IndexError.
- A4. `next(itertools.count())` never gives a number twice.
- A5. `Lock.acquire(False)` succeeds in at most one thread per release. `Lock.release` may be called
  from any thread.
- A6. None of the calls in A1, and neither `Lock.acquire(False)` nor `Lock.release`, runs Python
  code while it holds its mutex; but for the finalizer of what is dropped. Then the call has done
  its work, and lets go of the mutex where the finalizer waits. Between two calls, anything may run
  on the same thread: a signal handler, or a `__del__` that the collector calls. So no protocol of
  the package holds a lock from one call to the next: each step is one atomic call, and the state
  between two steps is a state that any thread, this one included, may meet.
- A7. Such a call is a fence as well: what a thread wrote before it is seen by the others before
  what the thread reads after it. (Taking and releasing the mutex are atomic read-modify-writes
  with sequentially consistent order. Slots are stored with release. Reads of slots, look-ups in a
  dict and the length of a deque begin with a load in sequentially consistent order; the length of
  any other container does not.) So of two threads that each write, make such a call, and then
  read what the other has written, one sees the other. Used where no object is common to both: in
  `_waits` and `_timer`, and in the protocols of parking, combining and joining.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import atexit
import gc
import os
import sys
import threading
import time
from _thread import allocate_lock as Lock
from _thread import get_ident, start_new_thread
from collections.abc import Callable
from contextvars import Context
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from threading import Condition, Event, RLock, Thread, current_thread, main_thread
from threading import enumerate as enumerate_threads
from typing import Any
from weakref import ref

__all__ = [
    "FREE_THREADED",
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
    "join",
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

monotonic = time.monotonic
monotonic_ns = time.monotonic_ns

# Spinning for work pays only where another thread can run meanwhile.
FREE_THREADED: bool = not getattr(sys, "_is_gil_enabled", lambda: True)()


# What a thread does between two looks: lets another thread on the same processor go first, the one
# that it looks out for, perhaps.
yield_cpu: Callable[[], None] = getattr(os, "sched_yield", partial(time.sleep, 0))


# A signal that comes just before a thread blocks in a lock does not interrupt it: its Python
# handler (Ctrl-C's, say) waits until the main thread runs bytecode again. So the main thread looks
# up at least this often, in seconds, from a wait without end.
LONGEST_BLIND_WAIT = 0.5

YEAR = 31536000


def acquire(lock: Any, timeout: float | None) -> bool:
    """`lock.acquire`, from which the main thread looks up now and then. None: without end."""
    if get_ident() != threading.main_thread().ident:
        # A lock refuses time-outs over TIMEOUT_MAX; a year stands for "very long".
        return bool(lock.acquire(timeout=-1 if timeout is None else min(max(timeout, 0), YEAR)))
    end = inf if timeout is None else monotonic() + timeout
    while True:
        look_up()
        if lock.acquire(timeout=min(max(end - monotonic(), 0), LONGEST_BLIND_WAIT)):
            return True
        if monotonic() >= end:
            return False


def wait_until_set(event: Event) -> None:
    """`event.wait`, from which the main thread looks up now and then."""
    while not event.wait(LONGEST_BLIND_WAIT):
        look_up()


def get(queue: SimpleQueue[Any]) -> Any:
    """`queue.get`, from which the main thread looks up now and then."""
    if get_ident() != threading.main_thread().ident:
        return queue.get()
    while True:
        look_up()
        try:
            return queue.get(timeout=LONGEST_BLIND_WAIT)
        except Empty:
            pass


def look_up() -> None:
    """In a wait of the main thread's: raise KeyboardInterrupt if Ctrl-C was pressed before it."""
    if here.caller is not None:
        here.caller.raise_in_wait()


def read_by_many(*values: Any) -> None:
    """Make quick what many threads do: read a slot, of an object that lives long, that holds these.

    On CPython 3.13t the read of a slot takes the object's mutex (3.13.5, `PyMember_GetOne`) if what
    is in there was made by another thread, and nobody has ever had a weak reference to it. And who
    finds a mutex taken looks again only after 40 times `sched_yield`: 20 µs, however short it was
    (`_PyMutex_LockTimed`). So here are the weak references. Elsewhere this does nothing.
    """
    for each in values:
        ref(each)


class _Here(threading.local):
    """What this thread is to the package: `worker` is None on a thread that no pool owns."""

    worker: Any = None
    # The pool's caller that it is, if it is one: Ctrl-C is its affair.
    caller: Any = None
    # The lists into which it is just taking parked workers to unpark them, as (list, outer one):
    # more than one for a signal handler, or a `__del__`, that interrupts a `Parking.notify`.
    notifying: Any = None
    # What stands for it as the owner of locks, once it has entered one.
    thread_owner: Any = None
    # How often it looks at a future before it parks on it, if that is not too often: see
    # `_future.look_out`.
    patience = 1 << 30


here = _Here()


def cpu_count() -> int:
    """Processors that this process may use: what `os.process_cpu_count` (3.13) gives."""
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        return count() or 1
    try:
        return len(os.sched_getaffinity(0)) or 1
    except AttributeError:  # no affinity on this system (macOS, Windows)
        return os.cpu_count() or 1


# An inline run nests C calls too, and their stack is not what `sys.setrecursionlimit` sets: however
# high that is, this many Python frames are deep. A quarter of the usual limit of 1,000.
DEEP_STACK = 250


def stack_is_deep() -> bool:
    """Whether a quarter of the recursion limit, or `DEEP_STACK` frames, is used up on this thread.

    Below that, a task that is run inline still has three quarters of the stack it would have had on
    a worker of its own.
    """
    try:
        sys._getframe(min(sys.getrecursionlimit() >> 2, DEEP_STACK))
    except ValueError:  # the stack is not that deep
        return False
    return True


# What a call raises for want of stack or memory. A step that undoes something handles both where no
# call of a Python function is needed for it: see docs/protocols/room.md.
SHORT_OF_ROOM = (RecursionError, MemoryError)


def need_stack(frames: int = 24) -> None:
    """Raise RecursionError unless so many more frames fit on this thread's stack.

    For steps that are slow anyway, and that could not be undone half-way: before the first of them.
    """
    if frames:
        need_stack(frames - 1)


class Stranger:
    """A thread that `threading` does not know: what stands for its `Thread`."""

    __slots__ = ("ident", "name")

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.name = f"thread-{ident}"


# The threads that `threading` knows, by their idents. It has no public name.
_known_threads: Any = getattr(threading, "_active", None)


def this_thread() -> Any:
    """The calling thread, with a `name` and an `ident`.

    `current_thread` makes a dummy for a thread that `threading` does not know, or not any more; and
    if that is still there when the interpreter ends, its finalizer complains.
    """
    if _known_threads is None:
        return current_thread()
    ident = get_ident()
    return _known_threads.get(ident) or Stranger(ident)


def call_as_stranger(call: Callable[[], object]) -> None:
    """Make a call that may make such a dummy, and take it out again."""
    is_strange = type(this_thread()) is Stranger
    try:
        call()
    finally:
        if is_strange:
            # From 3.12 on the dummy is taken out when this reference to it is dropped.
            info = getattr(threading, "_thread_local_info", here)
            vars(info).pop("_track_dummy_thread_ref", None)
            _known_threads.pop(get_ident(), None)


def join(thread: Thread) -> None:
    """`thread.join()`, without a dummy of the calling thread."""
    call_as_stranger(thread.join)


def new_thread(target: Callable[[], object], name: str, daemon: bool) -> Thread:
    """A thread, not yet started, that begins in an empty context.

    From 3.14 on a thread may inherit its starter's context (`sys.flags.thread_inherit_context`, on
    by default on free-threaded builds). A pool's threads serve everybody: they would keep, and show
    to an initializer, the context of the caller that happened to start them.
    """
    if sys.version_info >= (3, 14):
        return Thread(target=target, name=name, daemon=daemon, context=Context())
    return Thread(target=target, name=name, daemon=daemon)


def handle_ctrl_c(handler: Callable[[int, Any], object], body: Callable[[], None]) -> None:
    """Call `body`; on the main thread, have Ctrl-C call `handler` meanwhile, instead of raising.

    Only where Python's own handler is installed: one of the program's own stays what it is.
    """
    if (
        get_ident() != threading.main_thread().ident
        or _signal.getsignal(_signal.SIGINT) is not _signal.default_int_handler
    ):
        body()
        return
    try:
        _signal.signal(_signal.SIGINT, handler)
        body()
    finally:
        if _signal.getsignal(_signal.SIGINT) is handler:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def at_exit(function: Callable[[], None]) -> None:
    """Call `function` when the main thread has ended, before the other threads are joined.

    `threading._register_atexit` is what `concurrent.futures.thread` uses, and has no public
    name. The public `atexit` runs after all non-daemon threads were joined, too late for a pool
    whose searching workers have to be told to stop; it is the fallback.
    """
    register = getattr(threading, "_register_atexit", None)
    if register is None:
        atexit.register(function)
    else:
        register(function)


def before_collection(function: Callable[[], None]) -> None:
    """Call `function` whenever the collector starts, on the thread on which it runs."""

    def call(phase: str, info: object, function: Callable[[], None] = function) -> None:
        if phase == "start":
            function()

    gc.callbacks.append(call)
    atexit.register(gc.callbacks.remove, call)  # what it uses goes away after that


def in_child_after_fork(function: Callable[[], None]) -> None:
    """Call `function` in each child process right after `os.fork`, where the system has fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
