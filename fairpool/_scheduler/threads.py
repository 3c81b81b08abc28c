"""`Threads`: the workers of one pool, and how one more is woken or started.

Guarantees:

- Where no thread can be started, the timer thread tries again; what is queued where there is no
  worker at all ends with the error (`docs/protocols/parking.md`, case 3).
- Where the pool has ended, no thread is started (`docs/protocols/shutdown.md`, 3).
- No more than `max_workers` are runnable, and no more than `SPARE_WORKERS_MAX` beyond them exist.
"""

from __future__ import annotations

from itertools import count
from logging import CRITICAL, WARNING

from fairpool._core.here import here
from fairpool._core.park import Parking
from fairpool._core.report import log
from fairpool._core.room import put_in_any_case, strike_off
from fairpool._core.runqueue import RunQueue, strike_off_ended
from fairpool._core.threads import monotonic, start_new_thread
from fairpool._core.timer import Timers
from fairpool._core.token import PRESENT, Token
from fairpool._scheduler.adopted import adopt
from fairpool._scheduler.queues import Queues
from fairpool._scheduler.roles import PoolWorker

# How many workers a pool may have beyond `max_workers`, to stand in for those that wait. A thread
# costs about 100 KiB of memory that is really used; a thousand of them is the size of a large
# ThreadPoolExecutor, and with inline runs enough for some ten thousand nested waits.
SPARE_WORKERS_MAX = 1000

# After so long (s) it is tried again to start a worker where no thread could be started: some
# threads of others may have ended. Far above what an attempt costs, and not yet a hang.
START_AGAIN_AFTER = 0.05


def _is_alive(worker: PoolWorker) -> bool:
    return worker.thread.is_alive()


class Threads(Queues):
    """The workers of one pool, parked, searching or running, and the notifications to them."""

    __slots__ = (
        "_cap",
        "_numbers",
        "_prefix",
        "_starts_again",
        "_warned",
        "exited_workers",
        "free_slots",
        "idle_timeout",
        "max_workers",
        "parking",
        "searching",
        "slot_count",
        "threads",
        "timers",
    )

    max_workers: int
    slot_count: int
    idle_timeout: float
    _cap: int
    _prefix: str
    _warned: bool

    def _reset(self) -> None:
        super()._reset()
        self._numbers = count()
        self.threads: list[PoolWorker] = []  # all workers whose threads may not have ended yet
        # Those of them that have left their loop.
        self.exited_workers: RunQueue[PoolWorker] = RunQueue()
        self.parking = Parking(self.slot_count, self._start_worker, self._overlooks_work)
        self.free_slots = self.parking.free_slots  # at hand for the quick look of every submission
        self.searching = self.parking.searching
        self.timers = self._make_timers()
        self._starts_again = Token(PRESENT)  # taken while a timer is set for it

    def _make_timers(self) -> Timers:
        return Timers(f"{self._prefix}_timer", self.idle_timeout)

    def _nobody_searches(self, worker: PoolWorker | None) -> bool:
        """As a plain `not searching`, without `worker`, the calling one: see "Foreign code"."""
        if worker is not None and worker.item is None:
            worker.withdraw()
        return not self.searching

    def notify_if_free(self) -> None:
        """`notify` of docs/protocols/parking.md: after something was queued."""
        if self.free_slots and not self.searching:
            self.notify()

    def notify(self) -> None:
        """`Parking.notify`, where there is no caller to tell that no worker could be started."""
        try:
            self.parking.notify()
        except RecursionError:
            start_new_thread(self.notify_if_work, ())
        except Exception:
            log(WARNING, "%s could not start a worker", self._prefix, exc_info=True)
            self._start_again_later()

    def notify_if_work(self) -> None:
        """What a worker does after it stopped searching or gave up its slot."""
        try:
            if self.free_slots and self.has_work():
                self.notify()
        except MemoryError:
            start_new_thread(self.notify_if_work, ())

    def notify_or_abandon(self, target: PoolWorker | None = None) -> None:
        """As `notify_if_free`; what is queued ends where there is no worker to be had.

        `target`: where it was queued. That one may have looked for the last time before.
        """
        if target is not None and target.exited:
            target.give_back()
        if self.free_slots and self._nobody_searches(here.worker):
            try:
                self.parking.notify()
            except RecursionError:
                raise  # for the caller, who knows what to do again on another stack
            except Exception as error:
                log(WARNING, "%s could not start a worker", self._prefix, exc_info=True)
                if self.workers.copy():
                    self._start_again_later()
                else:
                    # All of it: others may have counted on the worker that was being started.
                    self._abandon_queued(error)

    def distrust_searchers(self) -> None:
        """A thread has waited for a while. If there is work, those that search may be held up."""
        if self.free_slots and self.searching and self.has_work():
            self.searching.clear()
            self.notify()

    adopt = staticmethod(adopt)

    def _make_worker(self, name: str) -> PoolWorker:
        raise NotImplementedError

    def _abandon_queued(self, error: Exception) -> None:
        raise NotImplementedError

    def is_over(self) -> bool:
        raise NotImplementedError

    # --- starting --------------------------------------------------------------------------------

    def may_start(self) -> bool:
        """Whether the cap on workers leaves room for another one."""
        return self.max_workers > 0 and len(self.workers) < self._cap

    def _start_worker(self, slot: list[None]) -> None:
        """Start one more worker, which takes over the slot."""
        if not self.may_start():
            if self.max_workers:
                self.warn_once(f"{self._cap} workers are there, and no more are started")
            elif self.pending_locks and self.parking.is_empty(but=1):
                for lock in self.pending_locks.copy():
                    if lock.find_server(slot):
                        break
            return
        worker = self._make_worker(f"{self._prefix}_{next(self._numbers)}")
        try:
            self.threads.append(worker)  # shutdown: list_thread, before `workers`: see `join`
            if self.is_over():  # shutdown: recheck_over. All was run before this came to `notify`.
                worker.ended.set()
                self.forget_thread(worker)
                return
            self.workers.append(worker)
            self.parking.searching.add(worker)
            worker.thread.start()
            slot.clear()
        except BaseException as error:
            # A KeyboardInterrupt may come when the thread has started: then it has the slot.
            if worker.start_token.take():
                if not slot:  # the interrupt came after `clear`
                    slot.append(None)
                worker.ended.set()
                self.forget_thread(worker)
                try:
                    self.workers.remove(worker)
                except ValueError:  # not listed yet
                    pass
                self.parking.searching.discard(worker)
                if not isinstance(error, Exception):
                    # Callers do not handle that, and others may have counted on this worker.
                    self._start_again_later()
            else:
                slot.clear()
            raise
        strike_off_ended(self.threads, self.exited_workers, _is_alive)

    def _start_again_later(self) -> None:
        """No worker could be started, and nobody else may come to look at what is queued."""
        mine: list[None] = []
        try:
            self._starts_again.take_into(mine)
            if not mine:  # the timer will see to it
                return
            self.timers.add(monotonic() + START_AGAIN_AFTER, self)
            mine.clear()  # the timer has it
        except Exception:
            log(CRITICAL, "%s could not start its timer thread, either", self._prefix)
        finally:
            if mine:
                try:
                    self._starts_again.append(None)
                except MemoryError:
                    put_in_any_case(list.append, self._starts_again, None)

    def wake(self) -> None:
        """On the timer thread: it is time to try to start a worker again."""
        if not self._starts_again:  # it is there if an interrupt came when the timer was set
            self._starts_again.put()  # before the attempt, which may fail again
        self.notify_if_work()

    def _overlooks_work(self) -> bool:
        """Whether a worker can be started, and has something to do.

        Or nobody is runnable, and a lock could be served by one that waits for it.
        """
        return (self.may_start() and self.has_work()) or (
            bool(self.pending_locks)
            and self.parking.is_empty()
            and any(lock.finds_server() for lock in self.pending_locks.copy())
        )

    def forget_thread(self, worker: PoolWorker) -> None:
        """The worker is no longer to be waited for."""
        strike_off(self.threads, worker)

    def warn_once(self, message: str) -> None:
        if not self._warned:
            self._warned = True  # two threads at once may both warn
            log(WARNING, "%s: %s", self._prefix, message)

    # --- callers ---------------------------------------------------------------------------------

    def caller_joins(self) -> None:
        """A caller has come. Where there are workers it is one more, with a slot of its own."""
        if not self.max_workers:
            self.parking.reclaim_slot()

    def caller_leaves(self) -> None:
        """A caller is not runnable any more. The slot that it has brought goes with it."""
        if not self.max_workers:
            self.parking.release_slot()
