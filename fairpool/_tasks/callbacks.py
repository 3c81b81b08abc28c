"""Registering a callback with a future, and taking it out again.

Protocol and proof: `docs/protocols/future.md` (`register`, `recheck`).
"""

from __future__ import annotations

from typing import Any

from fairpool._core.types import T
from fairpool._tasks.settling import run_callback, run_late
from fairpool._tasks.state import AnyState, Callback, FutureState

# Length of a future's list from which on callbacks that may be taken out again go into a `Crowd`.
# To take one out of a list takes the longer the longer the list is.
CROWDED = 64


class Crowd(dict[Callback, None]):
    """A callback for many: those of one future that may be taken out again, beyond `CROWDED`."""

    __slots__ = ("registered",)

    # Compared by identity, although it is a dict. All six, so that it is done in C.
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __lt__, __le__ = object.__lt__, object.__le__  # type: ignore[operator]
    __gt__, __ge__ = object.__gt__, object.__ge__  # type: ignore[operator]

    def __init__(self) -> None:
        self.registered = False

    def leave(self, callback: Callback) -> bool:
        """Take this one out; False if it is not in here."""
        return self.pop(callback, self) is None

    def __call__(self, future: AnyState) -> None:
        interrupt = None
        while self:
            for callback in self.copy():  # copy_crowd
                if self.leave(callback):
                    try:
                        run_callback(future, callback)
                    except KeyboardInterrupt as error:  # the others must not suffer from it
                        interrupt = error
        if interrupt is not None:
            raise interrupt


class CallbackFuture(FutureState[T]):
    """A future that keeps callbacks in its state."""

    __slots__ = ()

    def _register(self, callback: Callback) -> None:
        """Have `callback(self)` called once this future is final: at once if it is already."""
        status = self._status
        if type(status) is list:
            status.append(callback)  # register
            if type(self._status) is list:  # recheck
                return
            run_late(self, status, callback)
        else:
            run_callback(self, callback)

    def register_for_now(self, callback: Callback) -> None:
        """As `_register`, for one that may be taken out again, and is not in there yet."""
        status = self._status
        if type(status) is not list:
            run_callback(self, callback)
        elif len(status) > CROWDED:
            self._join_crowd(callback)
        else:
            status.append(callback)  # register
            if type(self._status) is not list:  # recheck
                run_late(self, status, callback)

    def _join_crowd(self, callback: Callback) -> None:
        crowd: Crowd = self.__dict__.setdefault("_crowd", Crowd())  # one for all
        crowd[callback] = None  # join_crowd
        if type(self._status) is not list:  # recheck_crowd
            if crowd.leave(callback):
                run_callback(self, callback)
        elif not crowd.registered:
            # Not only by the thread that made it, which may have been interrupted in between.
            self._register(crowd)
            crowd.registered = True

    def _unregister(self, callback: Callback) -> None:
        """Forget a callback that has not been called yet, if it is still there."""
        status = self._status
        if type(status) is not list:
            return
        if len(status) > CROWDED and self._leave_crowd(callback):
            return
        try:
            status.remove(callback)
        except ValueError:
            self._leave_crowd(callback)

    def _leave_crowd(self, callback: Callback) -> bool:
        crowd: Crowd | None = self.__dict__.get("_crowd")
        return crowd is not None and crowd.leave(callback)


# Where the type of the result does not matter.
AnyCallbackFuture = CallbackFuture[Any]
