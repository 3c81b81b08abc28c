"""`LockExit`: where a section ends, its accounting, and the waiters that give up."""

from __future__ import annotations

from fairpool._core.accounts import jain_index
from fairpool._core.here import here
from fairpool._core.room import EMPTY, SHORT_OF_ROOM, need_stack, put_in_any_case
from fairpool._core.threads import monotonic_ns, start_new_thread
from fairpool._locks.host import LockWorker
from fairpool._locks.key import KeyedLock
from fairpool._locks.owners import ThreadOwner
from fairpool._locks.statistics import NANOSECOND, LockStatistics, quantiles
from fairpool._locks.waiters import Sweep, has_given_up
from fairpool._tasks.request import Waiter

# A lock goes home (see `KeyedLock.home`) when its mean section is longer than the first, and is
# served where the task is when it is shorter than the second (ns).
GO_HOME_ABOVE = 10_000
STAY_BELOW = 5_000

# The mean is looked at after this many sections.
SECTIONS_BETWEEN_REVIEWS = 16


class LockExit(KeyedLock):
    """The end of a section where the calling thread goes on, and of a wait that was in vain."""

    __slots__ = ()

    # --- the end of a section ---------------------------------------------------------------------

    def end_section(self) -> None:
        """A section has ended, and the calling thread goes on.

        With no more stack than the entry has needed (docs/protocols/room.md): this frame, and calls
        in C.
        """
        owner = self.owner
        assert owner is not None
        if owner.is_thread:
            try:
                owner.inside -= 1
            except MemoryError:
                pass  # too high: its thread is not lent
            if owner.loans:
                self._end_section_and_loans(owner)
                return
        try:
            self._account(monotonic_ns())
        except SHORT_OF_ROOM:  # it is not counted
            self.served = 0
            self.owner = None
        try:
            self.hand_over_key()
        except SHORT_OF_ROOM:
            try:
                start_new_thread(self.hand_over_key, ())
            except (RuntimeError, MemoryError):
                self.release_key()  # the next arrival serves those that wait

    def _end_section_and_loans(self, owner: ThreadOwner) -> None:
        loans = owner.loans
        owner.loans = loans[-1].no_loans
        owner.inside += 1
        try:
            self.end_section()
        finally:
            owner.loans = loans
            owner.take_back()

    def end_section_of(self, task: object) -> None:
        """A suspended section has ended, or an external waiter was let in that does nothing."""
        self.end_section()

    # --- accounting -------------------------------------------------------------------------------

    def _account_pass(self, now: int, count: int) -> None:
        """These sections of a pass have ended (key)."""
        self.served = 0
        if count:
            self.owner = None  # before their tasks can be anywhere else
            stats = self.stats
            spent = now - self.began
            stats.busy += spent
            stats.burden.time += spent
            stats.combined += count
            if count > stats.longest_pass:
                stats.longest_pass = count
            if stats.inline + stats.combined - stats.reviewed >= SECTIONS_BETWEEN_REVIEWS:
                self._review()

    def _account(self, now: int) -> None:
        """Account for a section that has ended where the calling thread goes on (key)."""
        if self.served:
            self._account_pass(now, self.served)
            return
        self.owner = None  # before its task can be anywhere else
        stats = self.stats
        stats.busy += now - self.began
        stats.inline = inline = stats.inline + 1
        if not inline % SECTIONS_BETWEEN_REVIEWS:
            self._review()

    def _review(self) -> None:
        """Decide whether to go home (key)."""
        stats = self.stats
        sections = stats.inline + stats.combined
        before = stats.mean
        inside = self._time_inside()
        stats.mean = mean = (inside - stats.busy_reviewed) // (sections - stats.reviewed)
        stats.reviewed, stats.busy_reviewed = sections, inside
        preferred = self.preferred
        if preferred is None or preferred.exited:
            worker: LockWorker | None = here.worker
            self.home = None
            self.preferred = None
            if worker is None or worker.scheduler is not self.scheduler or not worker.stays:
                return
            self.preferred = worker
        if mean > GO_HOME_ABOVE:
            # Twice in a row: a section that the system has interrupted is one in a thousand, and
            # may be a hundred times as long as the others.
            if before > GO_HOME_ABOVE:
                self.home = self.preferred
        elif mean < STAY_BELOW:
            self.home = None

    def _time_inside(self) -> int:
        """How long all sections have taken so far, in ns (key)."""
        return self.stats.busy

    def mean_section(self) -> int:
        """The mean of the last sections, in ns."""
        stats = self.stats
        return stats.mean or stats.busy // (stats.inline + stats.combined or 1)

    def statistics(self) -> LockStatistics:
        """What has happened here so far."""
        stats, home, ledger = self.stats, self.home, self.ledger
        inline, combined = stats.inline, stats.combined
        burden = stats.burden_by_name(self.scheduler.workers.copy())
        return LockStatistics(
            name=self.name,
            sections=inline + combined,
            inline=inline,
            combined=combined,
            passes=stats.passes,
            hand_offs=stats.hand_offs,
            longest_pass=stats.longest_pass,
            burden=burden,
            burden_jain=jain_index(time for name, time in burden.items() if name is not None),
            busy=stats.busy * NANOSECOND,
            mean_section=self.mean_section() * NANOSECOND,
            waiting=self.how_many_wait(),
            home=None if home is None else home.thread.name,
            go_home_above=GO_HOME_ABOVE * NANOSECOND,
            stay_below=STAY_BELOW * NANOSECOND,
            waits=quantiles(stats.waits.items()),
            own_responses=quantiles(stats.own.items()),
            combined_responses=quantiles(stats.others.items()),
            usage={} if ledger is None else ledger.usage(),
            jain=1.0 if ledger is None else ledger.jain(),
            longest_wait_passes=self.longest_wait_passes(),
        )

    # --- giving up --------------------------------------------------------------------------------

    def forget(self, item: Waiter) -> None:
        """A request was given up. Its claimer calls this, after the claim."""
        if self.queue.give_up(item):
            self.sweep()
        self._tell_workers()

    def how_many_wait(self) -> int:
        """The number of those that wait. From any thread."""
        return self.queue.how_many(has_given_up)

    def waiting(self) -> list[Waiter]:
        """All that wait, and perhaps some that have given up. From any thread."""
        items = self.queue.items()
        for item in {*items}:
            if item.taken is not None:
                items += item.taken.copy()
        return items

    def sweep(self) -> None:
        """Take those out of the queue that have given up. From any thread, without the key.

        The thread goes to the head of the queue, as one that waits. So nobody is served past it,
        and the key may be given to it: then it serves when it has done.
        """
        queue = self.queue
        while queue.is_half_empty():
            need_stack()
            sweep = Sweep()
            mine: list[None] = []
            won: list[bool] = []
            claim = map(list.pop, (sweep,))
            try:
                queue.idle.take_into(mine)  # combining: begin_sweep
                if not mine:
                    return  # another one is doing it, and looks again after `end_sweep`
                # Three times: a combiner takes one of them, and the queue is still not empty.
                queue.sweep((sweep, sweep, sweep), sweep.taken, has_given_up)
            finally:
                if mine:
                    try:
                        # Claimed and noted in one C call: an interrupt before it would leave the
                        # key to a sweep that has ended. Again where there was no memory for it.
                        while sweep and not won:
                            try:
                                won.extend(claim)  # combining: claim_sweep
                            except EMPTY:
                                pass
                        if won:
                            sweep.given_up = True
                        while queue.discard(sweep):
                            pass
                    finally:
                        try:
                            queue.idle.append(None)  # combining: end_sweep
                        except MemoryError:
                            put_in_any_case(list.append, queue.idle, None)
                        finally:
                            if not won:  # the key was given to it
                                self.hand_over_key_safely()
                    if won and self.scheduler.pending_locks:
                        self.scheduler.notify_if_work()  # a waiter in its hands was overlooked

    def cancel_sections(self, submitted_only: bool = False) -> None:
        """Cancel the sections that wait here now: all that are tasks, or those of `submit` only."""
        for item in self.waiting():
            if item.is_submitted or (item.is_section and not submitted_only):
                item.give_up()

    def abandon_sections(self, error: BaseException) -> None:
        """End the sections that wait here now, with an error that has been reported."""
        for item in self.waiting():
            if item.is_section and (section := item.claim_to_end()) is not None:
                section.abandon(error)
                self.forget(item)
