"""`Event`: a flag for which tasks wait.

Names and meanings are asyncio's, with one difference: a primitive belongs to no loop and no pool.
Tasks of several pools may share one, and so may the coroutines of asyncio loops.

All waiting is in a `WaitList`, whose module has the protocol (`enqueue`, `recheck`, `change`,
`wake`) and its proof. Assumes *atomic call*, *mutex order* and *plain read*.
"""

from __future__ import annotations

from fairpool._api.waiting import wait_in
from fairpool._core.errors import stays_here
from fairpool._core.foreign import type_name
from fairpool._tasks.future import Derived
from fairpool._tasks.waitlist import WaitList, wake


class _Gate(WaitList):
    """What tasks wait for from one `clear` of an event to the next `set`. It is opened once."""

    __slots__ = ("is_open", "successor")

    # successor: empty, or {None: the gate that a `clear` has put after this one}.

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.successor: dict[None, _Gate] = {}

    def offers(self) -> bool:
        # Plain read: `open` writes before its `serve`, a waiter reads after its `enqueue` (mutex
        # order).
        return self.is_open

    def open(self) -> None:
        self.is_open = True  # change
        self.serve_anyhow()  # wake

    def _serve(self) -> None:
        # It stays open, and no order is to be kept: any number of threads may wake the waiters. One
        # that a sweeping thread has in hand is woken by that, which looks again when it is done.
        if self.is_open:
            for waiter in self.items():
                wake(waiter, True)
                self.discard(waiter)
        elif self.given_up:
            super()._serve()


class Event:
    """A flag for which tasks can wait. As `asyncio.Event`.

    `set` wakes all tasks that wait, also if `clear` follows at once. A task that calls `wait` after
    the `clear` waits for the next `set`. `set`, `clear` and `is_set` may be called from any thread,
    from a callback and from a signal handler; `wait` from a task or an asyncio coroutine.
    """

    __slots__ = ("__weakref__", "_gate")

    __reduce_ex__ = stays_here("make an Event in each process that needs one")

    # An opened gate stays open. It has one successor (`setdefault` is the arbiter). The last gate
    # is reached from `_gate` over the successors, so two threads may store `_gate` in any order.

    def __init__(self) -> None:
        self._gate = _Gate()

    def __repr__(self) -> str:
        state = "set" if self.is_set() else "unset"
        return f"<{type_name(self)} at {id(self):#x} [{state}]>"

    def _last_gate(self) -> _Gate:
        gate = first = self._gate
        while gate.successor:
            try:
                gate = gate.successor[None]
            except KeyError:  # a dict may count its first key before it finds it (plain read)
                break
        if gate is not first:
            self._gate = gate
        return gate

    def is_set(self) -> bool:
        """Whether the flag is set. From any thread."""
        return self._last_gate().is_open

    def set(self) -> None:
        """Set the flag, and wake all tasks that wait for it. From any thread."""
        self._last_gate().open()

    def clear(self) -> None:
        """Unset the flag: a later `wait` waits for the next `set`. From any thread."""
        gate = self._last_gate()
        if gate.is_open:
            gate.successor.setdefault(None, _Gate())  # atomic: one for all
            self._last_gate()

    async def wait(self) -> bool:
        """Wait until the flag is set; return True, at once if it is set already."""
        gate = self._last_gate()
        if gate.is_open:
            return True
        return bool(await wait_in(gate, Derived()))
