"""`Guarded`: state that can be reached only inside its lock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Concatenate, Generic, ParamSpec, TypeVar

from fairpool._api.lock import Lock
from fairpool._core.errors import stays_here
from fairpool._core.types import AnyCoroutine, Function
from fairpool._locks.statistics import LockStatistics
from fairpool._tasks.coroutines import claim_coroutine, is_coroutine
from fairpool._tasks.future import Future

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# Not methods of the guarded state: what they raise is kept there, and leads to its callers.


def _make(state: list[T], factory: Function) -> AnyCoroutine | None:
    made = factory()
    if is_coroutine(made):
        claim_coroutine(made)
        return _make_later(state, made)
    state.append(made)
    return None


async def _make_later(state: list[T], coroutine: Awaitable[T]) -> None:
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

    def __init__(self, lock: Lock, factory_or_value: Callable[[], object] | T) -> None:
        self.lock = lock
        self._state: list[T] = []
        self._made: Future[object] | None = None
        if callable(factory_or_value):
            self._made = lock.submit(_make, self._state, factory_or_value)
        else:
            self._state.append(factory_or_value)

    def __repr__(self) -> str:
        return f"<Guarded by {self.lock!r}>"

    def _get(self) -> T:
        """The state. The caller is inside the lock."""
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

    def __aexit__(self, kind: object, error: object, trace: object) -> Awaitable[None]:
        left: Awaitable[None] = self.lock.__aexit__(kind, error, trace)
        return left

    def __enter__(self) -> T:
        self.lock.__enter__()
        try:
            return self._get()
        except BaseException:
            self.lock.end_section()
            del self  # likewise
            raise

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.lock.__exit__(kind, error, trace)

    def submit(
        self, fn: Callable[Concatenate[T, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Have `fn(state, *args, **kwargs)` called as a critical section: see `Lock.submit`."""
        if not callable(fn):
            raise TypeError(f"submit() takes a callable first, not {fn!r}")
        return self.lock.submit(self._call, fn, args, kwargs)

    def _call(self, fn: Callable[..., R], args: tuple[object, ...], kwargs: dict[str, object]) -> R:
        try:
            return fn(self._get(), *args, **kwargs)
        finally:
            del self  # what is raised holds this frame: no cycle

    def statistics(self) -> LockStatistics:
        """Those of the lock."""
        return self.lock.statistics()
