"""`Recorder`: what threads and tasks called on an object, and whether some order explains it.

An object is *linearizable* (Herlihy and Wing 1990) if each call seems to happen at one instant
between its start and its end: if there is an order of the calls, in which no call comes before one
that had ended when it began, and in which a sequential *model* gives the same results. The search
is that of Wing and Gong (1993), and what is tested in this way is what Lincheck tests.
"""

from __future__ import annotations

import pickle
from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import CancelledError as _FutureCancelled
from copy import deepcopy
from itertools import count
from math import inf
from threading import current_thread
from typing import Any

from fairpool._tasks.coroutines import is_coroutine


class NotLinearizable(AssertionError):
    """No order of the calls explains their results."""


class _Call:
    """One call of a method: when, by whom, and what came of it."""

    __slots__ = ("args", "end", "error", "kwargs", "name", "optional", "result", "start", "thread")

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.name = name
        self.args = args
        self.kwargs = kwargs
        self.thread = current_thread().name
        self.start: float = 0
        self.end: float = inf
        self.result: Any = None
        self.error: type[BaseException] | None = None
        # It has not ended, or was cancelled: it may have happened, or not.
        self.optional = True

    def __str__(self) -> str:
        args = [
            *map(repr, self.args),
            *(f"{name}={value!r}" for name, value in self.kwargs.items()),
        ]
        if self.optional:
            outcome = "..." if self.error is None else self.error.__name__
        else:
            outcome = repr(self.result) if self.error is None else f"raised {self.error.__name__}"
        return f"{self.name}({', '.join(args)}) -> {outcome}"


class Recorder:
    """Writes down the calls of an object's methods, plain ones and coroutines.

        recorder = Recorder(Ledger())
        ...  # any threads and tasks call recorder.deposit(5), await recorder.withdraw(3)
        recorder.check(SequentialLedger)

    Arguments and results must not be changed after the call. May be used from any thread, also in
    runs without the explorer.
    """

    def __init__(self, target: object) -> None:
        self._target = target
        self._calls: list[_Call] = []
        self._clock = count()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if not callable(method):
            raise AttributeError(f"a Recorder records calls, and {name!r} is {method!r}")

        def call(*args: Any, **kwargs: Any) -> Any:
            entry = _Call(name, args, kwargs)
            entry.start = next(self._clock)
            self._calls.append(entry)
            try:
                result = method(*args, **kwargs)
            except BaseException as error:
                self._ended(entry, None, error)
                raise
            if is_coroutine(result):
                return self._await(entry, result)
            self._ended(entry, result, None)
            return result

        return call

    async def _await(self, entry: _Call, coroutine: Any) -> Any:
        try:
            result = await coroutine
        except BaseException as error:
            self._ended(entry, None, error)
            raise
        self._ended(entry, result, None)
        return result

    def _ended(self, entry: _Call, result: Any, error: BaseException | None) -> None:
        entry.result = result
        entry.error = None if error is None else type(error)
        entry.optional = isinstance(error, (CancelledError, _FutureCancelled, GeneratorExit))
        entry.end = next(self._clock)

    def check(self, model: Callable[[], object]) -> None:
        """Raise `NotLinearizable` unless some order of the calls gives these results with a model.

        `model()` makes a fresh sequential object with the same methods, plain functions all; it is
        copied with `copy.deepcopy`. A call that was cancelled, or has not ended, may have happened
        or not. Ten calls or so are quick; the time may grow as the factorial of the number of those
        that overlap.
        """
        calls = sorted(self._calls, key=lambda call: call.start)
        # (bits of the calls that are still to happen, the model after the others)
        pending: list[tuple[int, Any]] = [((1 << len(calls)) - 1, model())]
        seen: set[tuple[int, bytes]] = set()
        while pending:
            left, state = pending.pop()
            remaining = [i for i in range(len(calls)) if left >> i & 1]
            if all(calls[i].optional for i in remaining):
                return
            key = _key(left, state)
            if key is not None:
                if key in seen:
                    continue
                seen.add(key)
            # None that began after another one had ended can be the next.
            first_end = min(calls[i].end for i in remaining)
            for i in reversed(remaining):
                if calls[i].start < first_end:
                    if calls[i].optional:
                        pending.append((left & ~(1 << i), state))
                    after = _happens(calls[i], state)
                    if after is not None:
                        pending.append((left & ~(1 << i), after))
        width = max(len(call.thread) for call in calls)
        raise NotLinearizable(
            f"no order of these calls gives these results with {model!r}:\n"
            + "\n".join(
                f"  {call.start:>4} to {call.end:<4} {call.thread:<{width}}  {call}"
                for call in calls
            )
        )


def _happens(call: _Call, state: Any) -> Any:
    """The model after the call, or None if it has another outcome there."""
    after = deepcopy(state)
    try:
        result = getattr(after, call.name)(*call.args, **call.kwargs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # what the object may raise, its model may
        return after if call.optional or type(error) is call.error else None
    if call.optional or (call.error is None and result == call.result):
        return after
    return None


def _key(left: int, state: Any) -> tuple[int, bytes] | None:
    try:
        return left, pickle.dumps(state)
    except Exception:  # no two states are taken for the same then: slower, and right
        return None
