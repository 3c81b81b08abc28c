"""`Lock` and `Guarded`: the public faces of a combiner; `all_of`: several locks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

from fairpool._api.map import map_calls
from fairpool._core.errors import stays_here
from fairpool._core.foreign import plain_text
from fairpool._core.sync import here, monotonic_ns
from fairpool._locks.combiner import Combiner
from fairpool._locks.exit import GO_HOME_ABOVE, STAY_BELOW
from fairpool._locks.owners import name_of_owner
from fairpool._locks.tasks import GIVE_WAY
from fairpool._locks.usage import Charging, ChargingQueue, UsageQueue
from fairpool._locks.waiters import ExternalWaiter, Section, has_given_up
from fairpool._tasks.future import Future
from fairpool._tasks.task import Continuation, claim_coroutine, is_coroutine

__all__ = ["Guarded", "Lock", "LockStatistics", "all_of", "make_lock"]

T = TypeVar("T")

_numbers = count()

NANOSECOND = 1e-9


@dataclass(frozen=True)
class LockStatistics:
    """What has happened at a lock up to a moment. Times are in seconds.

    Reading it disturbs nobody: each number is true of a moment, together they may be of slightly
    different ones.
    """

    name: str
    sections: int
    """Critical sections that have ended: `inline` and `combined`."""
    inline: int
    """Sections that were entered at once, and sections of stacks (`with lock`)."""
    combined: int
    """Sections that a combiner has taken from the queue and run."""
    passes: int
    """How often a worker has become the lock's combiner."""
    hand_offs: int
    """How often that was another worker than the time before."""
    longest_pass: int
    """The most sections that one pass has served."""
    busy: float
    """How long the lock was in use: its sections and, within a pass, what is between them."""
    mean_section: float
    """The mean of the last sections (at least 16)."""
    waiting: int
    """Requests in the queue now."""
    home: str | None
    """The worker that sections go home to now; None where they are served where the task is."""
    go_home_above: float
    """A lock goes home when its mean section becomes longer than this, …"""
    stay_below: float
    """… and is served where the task is when it becomes shorter than this."""
    waits: tuple[float, float, float]
    """Median, 99 % and 99.9 % quantile of the latest waits from a request to its section."""
    own_responses: tuple[float, float, float]
    """The same of the time from a request to its continuation, of the combiners' own sections, …"""
    combined_responses: tuple[float, float, float]
    """… and of those that they have run for others."""
    usage: Mapping[str | None, float]
    """How long each share has been inside; None stands for work without a share.

    Counted if the lock was made with `order="usage"`, or when its pool had shares; else empty.
    """
    jain: float
    """Jain's index of that, by weight: 1 if it is even, 1/n if one of n had the lock alone."""


def _quantiles(samples: Iterable[int]) -> tuple[float, float, float]:
    ordered = sorted(samples)
    if not ordered:
        return (0.0, 0.0, 0.0)
    last = len(ordered) - 1
    median, high, highest = (ordered[round(last * q)] * NANOSECOND for q in (0.5, 0.99, 0.999))
    return median, high, highest


class Lock(Combiner, Executor):
    """A lock that runs critical sections, first come, first served.

    `pool.lock()` makes one. Four ways in, all of them in one line of waiting:

    - `async with lock:` in a task. Where nobody is inside or waits it is entered at once. Else the
      worker goes on with other work, and the task is resumed, inside, by the worker that serves the
      lock then. On leaving, the rest of the task may go on on any worker. (A coroutine of another
      pool, or of asyncio, may use it as well, and stays where it is.)
    - `lock.submit(fn, …)`: the lock is an `Executor` whose tasks are critical sections.
    - `future.then(fn, lock=lock)`: a step of a chain that is a critical section.
    - `with lock:` in a plain function, or in a thread that is no worker. It blocks its thread; a
      worker's place is taken by another one meanwhile. Also `acquire` and `release`.

    The lock belongs to the task, not to the thread: it may be held across an `await`, and is
    released by the same task on whatever worker. It is not reentrant. Where waiting for it would
    never end, `DeadlockError` is raised, which names the cycle. An exception inside releases it.
    All methods may be called from any thread.
    """

    __reduce_ex__ = stays_here("make one with pool.lock() where it is to be used")

    def __init__(self, scheduler: Any, name: str | None) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r}")
        number = next(_numbers)
        super().__init__(scheduler, plain_text(name or "") or f"lock-{number}")
        self._number = number  # the order in which `all_of` takes locks
        self._closed = False

    def __repr__(self) -> str:
        owner = self.owner
        state = "unlocked" if owner is None else f"held by {name_of_owner(owner.task)}"
        waiting = self.queue.how_many(has_given_up)
        return f"<Lock {self.name} {state}{f', {waiting} waiting' if waiting else ''}>"

    # --- delegation ------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have `fn(*args, **kwargs)` called as a critical section; return its Future.

        If it returns a coroutine, the lock is held until that has ended. Context and exceptions are
        as with `FairPool.submit`, and so is what this raises.
        """
        if not callable(fn):
            raise TypeError(f"submit() takes a callable first, not {fn!r}")
        scheduler = self.scheduler
        if scheduler.refusals:
            raise scheduler.refusal()
        if self._closed:
            raise self._refusal()
        section: Section = Section()
        section._pool = scheduler
        section._cell = [(copy_context(), fn, args, kwargs or None, None)]
        section.lock = self
        section.ticket = monotonic_ns()
        self.line_up(section)
        if (scheduler.refusals or self._closed) and section.drop():  # S2 of shutdown.md
            raise scheduler.refusal() if scheduler.refusals else self._refusal()
        self.see_to_queue()  # not before: it may start a worker, and nobody would join that
        return section

    def _refusal(self) -> RuntimeError:
        return RuntimeError(f"cannot schedule new futures after shutdown of {self!r}")

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As `FairPool.map`, with each call (or each chunk of them) as a critical section."""
        return map_calls(self.submit, fn, iterables, timeout, chunksize, buffersize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more `submit`; with `wait`, return when the sections submitted so far have ended.

        With `cancel_futures`, those that have not been started are cancelled. The lock itself goes
        on working, and so does its pool.
        """
        self._closed = True
        if cancel_futures:
            self.cancel_sections(submitted_only=True)
        if wait:
            # Let in after all of them, it leaves at once.
            last = ExternalWaiter(self, None)
            self.enqueue(last)
            last._register(self.end_section_of)
            last.result()

    # --- stacks ----------------------------------------------------------------------------------

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Enter, blocking this thread; as `threading.Lock.acquire`.

        Waits for at most `timeout` seconds (-1: without end), or not at all if not `blocking`;
        returns whether the lock was entered. In a coroutine prefer `async with`, which blocks
        nobody. Without blocking it may also fail just when nobody is inside any more, while the
        lock is on its way to one that has given up.
        """
        if not blocking and timeout != -1:
            raise ValueError("a non-blocking acquire() takes no timeout")
        if timeout < 0 and timeout != -1:
            raise ValueError(f"timeout must be at least 0 seconds, or -1, not {timeout!r}")
        if not blocking:
            return self.enter_blocking(0.0)
        return self.enter_blocking(None if timeout == -1 else timeout)

    def release(self) -> None:
        """Leave. Raises RuntimeError where this task, or this thread, is not inside."""
        # No call of a Python function but the last one, as a rule: docs/protocols/room.md.
        owner, worker = self.owner, here.worker
        item = here.thread_owner if worker is None else worker.item
        if owner is None or not (
            owner is item or (type(item) is Continuation and item.task is owner)
        ):
            self.check_owner()
        self.end_section()

    def __enter__(self) -> Lock:
        self.enter_blocking(None)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    # --- coroutine functions ---------------------------------------------------------------------

    async def enter_later(self) -> None:
        """Let what was published go first.

        Without a request, which would make all that come meanwhile queue up behind it.
        """
        await GIVE_WAY  # type: ignore[misc]  # it takes an iterator for too little
        await self.__aenter__()

    async def enter_external(self, worker: Any) -> None:
        """Enter with a coroutine that this pool does not run, or not as a task."""
        self.scheduler.check_same_process()
        waiter = ExternalWaiter(self, None if worker is None else worker.task)
        self.enqueue(waiter)
        try:
            await waiter
        except BaseException:
            if not waiter.give_up():
                self.end_section()  # it was granted, and nobody will leave
            raise

    # --- looking in ------------------------------------------------------------------------------

    def locked(self) -> bool:
        """Whether anybody is inside, or about to be. True of one moment."""
        return self.key.locked()

    def expected_wait(self) -> float:
        """How long one that comes now would wait, in seconds: an estimate.

        The number of those before it times the mean section.
        """
        return (
            (self.queue.how_many(has_given_up) + self.key.locked())
            * self.mean_section()
            * NANOSECOND
        )

    def statistics(self) -> LockStatistics:
        """What has happened here so far."""
        stats, home, ledger = self.stats, self.home, self.ledger
        inline, combined = stats.inline, stats.combined
        return LockStatistics(
            name=self.name,
            sections=inline + combined,
            inline=inline,
            combined=combined,
            passes=stats.passes,
            hand_offs=stats.hand_offs,
            longest_pass=stats.longest_pass,
            busy=stats.busy * NANOSECOND,
            mean_section=self.mean_section() * NANOSECOND,
            waiting=self.queue.how_many(has_given_up),
            home=None if home is None else home.thread.name,
            go_home_above=GO_HOME_ABOVE * NANOSECOND,
            stay_below=STAY_BELOW * NANOSECOND,
            waits=_quantiles(stats.waits.items()),
            own_responses=_quantiles(stats.own.items()),
            combined_responses=_quantiles(stats.others.items()),
            usage={} if ledger is None else ledger.usage(),
            jain=1.0 if ledger is None else ledger.jain(),
        )


class ChargedLock(Charging, Lock):
    """A lock whose sections are charged to shares."""


def make_lock(scheduler: Any, name: str | None, order: str, strict: bool) -> Lock:
    """What `FairPool.lock` returns."""
    if order not in ("ticket", "usage"):
        raise ValueError(f'order must be "ticket" or "usage", not {order!r}')
    if not isinstance(strict, bool):
        raise TypeError(f"strict must be a bool, not {strict!r}")
    if strict and order != "usage":
        raise ValueError('only a lock with order="usage" can be strict')
    lock: Lock
    if order == "ticket" and not scheduler.shares:
        lock = Lock(scheduler, name)
    else:
        lock = ChargedLock(scheduler, name)
        lock.keep_requests_in(UsageQueue(lock, strict) if order == "usage" else ChargingQueue())
    scheduler.locks.add(lock.entry)  # last: from here on others look at it
    return lock


# Not methods of the guarded state: what they raise is kept there, and leads to its callers.


def _make(state: list[Any], factory: Callable[[], Any]) -> Any:
    made = factory()
    if is_coroutine(made):
        claim_coroutine(made)
        return _make_later(state, made)
    state.append(made)
    return None


async def _make_later(state: list[Any], coroutine: Any) -> None:
    state.append(await coroutine)


class Guarded(Generic[T]):
    """State that can be reached only inside its lock. `pool.guarded(…)` makes one.

        index = pool.guarded(dict)

        async with index as words: ...             # in a task
        with index as words: ...                   # in a plain function or a thread
        index.submit(dict.setdefault, "a", [])     # fn(state, …) as a critical section

    The state is not to be kept beyond the section. If the factory has raised, so does each entry.
    """

    __slots__ = ("_made", "_state", "lock")

    __reduce_ex__ = stays_here("copy the state, inside of the lock")

    # _state: empty until the factory has ended; written inside the lock, read inside the lock.

    def __init__(self, lock: Lock, factory_or_value: Any) -> None:
        self.lock = lock
        self._state: list[T] = []
        self._made: Future[None] | None = None
        if callable(factory_or_value):
            self._made = lock.submit(_make, self._state, factory_or_value)
        else:
            self._state.append(factory_or_value)

    def __repr__(self) -> str:
        return f"<Guarded by {self.lock!r}>"

    def _get(self) -> T:
        """The state, for who is inside the lock."""
        if not self._state:
            assert self._made is not None
            try:
                self._made.result()  # it was the first section here: it has raised
            except BaseException:
                del self  # what is raised holds this frame: no cycle
                raise
        return self._state[0]

    async def __aenter__(self) -> T:
        await self.lock.__aenter__()
        try:
            return self._get()
        except BaseException:
            self.lock.end_section()
            del self  # likewise
            raise

    def __aexit__(self, kind: Any, error: Any, trace: Any) -> Any:
        return self.lock.__aexit__(kind, error, trace)

    def __enter__(self) -> T:
        self.lock.__enter__()
        try:
            return self._get()
        except BaseException:
            self.lock.end_section()
            del self  # likewise
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.lock.__exit__(*exc_info)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have `fn(state, *args, **kwargs)` called as a critical section: see `Lock.submit`."""
        if not callable(fn):
            raise TypeError(f"submit() takes a callable first, not {fn!r}")
        return self.lock.submit(self._call, fn, args, kwargs)

    def _call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return fn(self._get(), *args, **kwargs)
        finally:
            del self  # what is raised holds this frame: no cycle

    def statistics(self) -> LockStatistics:
        """Those of the lock."""
        return self.lock.statistics()


class _AllOf:
    """Several locks, taken in the order in which they were made."""

    __slots__ = ("_guards", "_order")

    __reduce_ex__ = stays_here("call all_of() where its locks are to be used")

    def __init__(self, guards: tuple[Lock | Guarded[Any], ...]) -> None:
        locks = []
        for each in guards:
            if not isinstance(each, (Lock, Guarded)):
                raise TypeError(f"all_of() takes locks and guarded states, not {each!r}")
            locks.append(each if isinstance(each, Lock) else each.lock)
        if not locks:
            raise TypeError("all_of() takes at least one lock")
        self._guards = guards
        self._order = sorted(locks, key=_number_of)
        for one, other in zip(self._order, self._order[1:], strict=False):
            if one is other:
                raise ValueError(f"all_of() was given {one!r} twice")

    def _values(self) -> tuple[Any, ...]:
        return tuple([each._get() if isinstance(each, Guarded) else None for each in self._guards])

    async def __aenter__(self) -> tuple[Any, ...]:
        entered: list[Lock] = []
        try:
            for lock in self._order:
                await lock.__aenter__()
                entered.append(lock)
            return self._values()
        except BaseException:
            for lock in reversed(entered):
                lock.end_section()
            raise

    def __aexit__(self, kind: Any, error: Any, trace: Any) -> Any:
        # Only the last one may suspend: a cancellation that came there would leave the others held.
        first, *others = self._order
        for lock in reversed(others):
            lock.end_section()
        return first.__aexit__(kind, error, trace)

    def __enter__(self) -> tuple[Any, ...]:
        entered: list[Lock] = []
        try:
            for lock in self._order:
                lock.enter_blocking(None)
                entered.append(lock)
            return self._values()
        except BaseException:
            for lock in reversed(entered):
                lock.end_section()
            raise

    def __exit__(self, *exc_info: object) -> None:
        for lock in reversed(self._order):
            lock.end_section()


def _number_of(lock: Lock) -> int:
    return lock._number


def all_of(*locks: Lock | Guarded[Any]) -> _AllOf:
    """Several locks or guarded states at once, for `async with` and `with`.

    Gives their states in the order of the arguments (None for a lock). They are taken in the order
    in which they were made, whatever the order here: so nobody who takes all of its locks with one
    `all_of` can be part of a deadlock.
    """
    return _AllOf(locks)
