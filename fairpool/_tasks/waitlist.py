"""`WaitList`: the one queue of waiting tasks under every primitive.

An event, a semaphore, a queue and a task group wait in the same way: each task waits on a future of
its own, which stands in a `WaitList`. A kind of list says what its tasks wait for (`offers`), and
may hand it out one by one (`hand_out`).

Protocol:

| waiter | waker |
|---|---|
| `enqueue`: append a future | `change`: make `offers` true |
| `recheck`: `serve` | `wake`: `serve` |

- No wake-up is lost. `serve` begins with a call that takes the mutex of the list, as `enqueue` does
  (*mutex order*). `enqueue` first: the waker's `serve` finds the future. `enqueue` last: the
  waiter's `serve` sees the change.
- One thread at a time serves, so that no task is passed over while the list is swept. It does
  `lock_out` (take `idle`), hands out, does `let_in` (put it back), and looks again. A thread that
  does not get `idle` has nothing to do: the look after the other thread's `let_in` sees its change.
  An interrupt (Ctrl-C) does not lose `idle`: `lock_out` takes and notes it in one C call, and
  `let_in` is the first call of the `finally`. Where an error ends `serve`, the look that others
  rely on is made all the same, and another thread serves.
- A future is claimed once: by the waker, which then finishes it, or by the cancellation of its
  task. Giving up costs the same however many wait (`WaitQueue`).

Assumes *atomic call*, *mutex order* and *plain read* of `fairpool._core.atomicity`. Each method may
be called from any thread, from a callback and from a signal handler, in the midst of itself too.
"""

from __future__ import annotations

from fairpool._core.room import SHORT_OF_ROOM, need_stack, put_in_any_case
from fairpool._core.runqueue import WaitQueue
from fairpool._core.threads import start_new_thread
from fairpool._tasks.future import AnyFuture, Derived
from fairpool._tasks.settling import claim, settle
from fairpool._tasks.state import CANCELLED, FINISHED, is_claimed


def wake(waiter: AnyFuture, value: object) -> bool:
    """Finish the future on which a task waits; False if it was cancelled, or woken before."""
    if claim(waiter) is None:
        return False
    settle(waiter, FINISHED, value)
    return True


class WaitList(WaitQueue[AnyFuture]):
    """Tasks that wait for the same condition, each on a future of its own, oldest first."""

    __slots__ = ()

    def offers(self) -> bool:
        """Whether there may be something for a task that waits. Overridden by each kind of list.

        What `hand_out` relies on must be ordered by a call on the container that the change is a
        call on (mutex order).
        """
        raise NotImplementedError

    def hand_out(self) -> None:
        """Wake the tasks that waited at a moment when the condition held. Called while serving.

        First the tasks, then the condition: a task that comes later may wait for what has been
        changed meanwhile.
        """
        waiters = self.items()
        if self.offers():
            for waiter in waiters:
                wake(waiter, True)
                self.discard(waiter)

    def reclaim(self) -> None:
        """Take back what a task got that was cancelled at this very moment. By default: nothing."""

    def serve(self) -> None:
        """Hand out what there is, to those that wait for it."""
        self.rotate(0)  # `holds_work`, written out: mostly nobody waits
        if self:
            self._serve()

    def _serve(self) -> None:
        try:
            while self.offers() or (self.given_up and self.is_half_empty()):
                mine: list[None] = []
                try:
                    self.idle.take_into(mine)  # lock_out
                    if not mine:
                        return
                    if self.given_up:
                        self._sweep()
                    self.hand_out()
                finally:
                    if mine:
                        try:
                            self.idle.append(None)  # let_in
                        except MemoryError:
                            put_in_any_case(list.append, self.idle, None)
                self.rotate(0)
                if not self:
                    return
        except BaseException:
            # Other threads may have relied on the look that this one does not come to.
            try:
                if self.holds_work() and self.offers():
                    start_new_thread(self.serve, ())
            except (RuntimeError, MemoryError):
                pass  # the first error is the one to raise
            raise

    def serve_anyhow(self) -> None:
        """As `serve`; on another stack, where this one has no room for it."""
        try:
            self.serve()
        except SHORT_OF_ROOM:
            start_new_thread(self.serve, ())

    def waiting(self) -> int:
        """How many tasks wait. True of one moment."""
        return self.how_many(is_claimed)

    def abandon(self, waiter: AnyFuture) -> bool:
        """A task stops waiting; True if its future was finished before, with what that brought."""
        if claim(waiter) is None and waiter._status is not CANCELLED:
            return True
        self._leave(waiter)
        return False

    def _leave(self, waiter: AnyFuture) -> None:
        try:
            if self.give_up(waiter):
                self.serve()
        except SHORT_OF_ROOM:
            start_new_thread(self._leave, (waiter,))

    def _sweep(self) -> None:
        if self.is_half_empty():
            need_stack()
            head: Derived[bool] = Derived()
            try:
                self.sweep((head,), [], is_claimed)
            finally:
                self.discard(head)
