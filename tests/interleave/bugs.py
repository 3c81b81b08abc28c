"""Bugs put in on purpose: what the proofs of `docs/protocols` need, taken away one at a time.

Each is to be found by its scenario within the stated number of schedules, which is at least three
times what it took on any of Python 3.11, 3.13 and 3.13t when this was written.
"""

from __future__ import annotations

from interleave import acquire as a
from interleave import locks as k
from interleave import scenarios as s
from interleave.harness import Bug

BUGS = [
    # --- parking ------------------------------------------------------------------------------
    Bug(
        "a worker parks without a last look at the queues (`last_look`)",
        "_scheduler.worker",
        "Worker._park",
        "            scheduler.notify_if_work()  # parking: last_look\n",
        "",
        s.submit_meets_park,
        50,
        guarantee=3,
        proof="parking",
    ),
    Bug(
        "a worker gives up its slot after its last look (`free_slot`)",
        "_scheduler.worker",
        "Worker._park",
        """            if has_slot:
                parking.release_slot()  # parking: free_slot
            scheduler.notify_if_work()  # parking: last_look
""",
        """            scheduler.notify_if_work()
            if has_slot:
                parking.release_slot()
""",
        s.submit_meets_park,
        50,
        guarantee=3,
        proof="parking",
    ),
    Bug(
        "a worker leaves `searching` after its last look (`stop_searching`)",
        "_scheduler.worker",
        "Worker._park",
        """        parking.searching.discard(self)  # parking: stop_searching
        self.woken = False
        me = (self,)
        # With the mark, in one C call: foreign code that came between would not wait for a thread
        # that has taken this worker out (`withdraw`).
        # parking: announce
        any(chain(map(parking.parked.append, me), map(setattr, me, _PARKS, _TRUE)))
        unparked = False
        try:
            if has_slot:
                parking.release_slot()  # parking: free_slot
            scheduler.notify_if_work()  # parking: last_look
""",
        """        self.woken = False
        self.parks = True
        parking.parked.append(self)
        unparked = False
        try:
            if has_slot:
                parking.release_slot()
            scheduler.notify_if_work()
            parking.searching.discard(self)
""",
        s.submit_meets_park,
        50,
        guarantee=3,
        proof="parking",
    ),
    Bug(
        "a worker that has found a task does not look again for others (`look_for_more`)",
        "_scheduler.worker",
        "Worker._search",
        "                    scheduler.notify_if_work()  # parking: look_for_more\n",
        "",
        s.both_workers_come,
        50,
        guarantee=3,
        proof="parking",
    ),
    Bug(
        "a worker that blocks leaves its queue to nobody (`last_look`)",
        "_scheduler.blocking",
        "blocked._give_up_slot",
        "            scheduler.notify_if_work()  # parking: last_look\n",
        "",
        s.blocked_pool_starts_another,
        50,
        guarantee=3,
        proof="parking",
    ),
    Bug(
        "the slot is given twice: to the woken worker, and back",
        "_core.park",
        "Parking._notify_one",
        """                slot.clear()
            elif slot:
                self._start(slot)
        finally:
            try:
                if woken:  # no more than one, and an iterator would need memory
                    woken[0].woken = True
                    woken[0].parker.unpark()
                if slot and not woken:
""",
        """                pass
            elif slot:
                self._start(slot)
        finally:
            try:
                if woken:
                    woken[0].woken = True
                    woken[0].parker.unpark()
                if slot:
""",
        s.submit_meets_park,
        50,
        guarantee=3,
        proof="parking",
    ),
    Bug(
        "the slot is lost when somebody else took the parked worker",
        "_core.park",
        "Parking._notify_one",
        "                self._start(slot)\n",
        "                self._start(slot) if not self.parked else slot.clear()\n",
        s.two_submit,
        8000,
        guarantee=3,
        proof="parking",
    ),
    Bug(
        "two threads return the slot of one wait",
        "_scheduler.blocking",
        "blocked.return_slot",
        "not owed.take():",
        "not owed:",
        s.wait_for_a_running_one,
        50,
        guarantee=3,
        proof="parking",
    ),
    Bug(
        "a worker that repays an overcommit frees its slot as well",
        "_scheduler.worker",
        "Worker._next",
        "self._park(until, has_slot=False)",
        "self._park(until, has_slot=True)",
        s.wait_for_a_running_one,
        50,
        guarantee=3,
        proof="parking",
    ),
    Bug(
        "a worker that returns from a wait leaves no overcommit",
        "_core.park",
        "Parking.reclaim_slot",
        "self.overcommits.append(None)",
        "pass",
        s.wait_for_a_running_one,
        50,
        guarantee=3,
        proof="parking",
    ),
    # --- the end of a worker ------------------------------------------------------------------
    Bug(
        "an idle worker ends although somebody is unparking it",
        "_scheduler.worker",
        "Worker._leave_park",
        "        is_alone = not unparked and self._unlist_parked()\n",
        "        is_alone = not unparked and (self._unlist_parked() or True)\n",
        s.worker_ends_as_work_comes,
        500,
        guarantee=3,
        proof="parking",
    ),
    # --- futures ------------------------------------------------------------------------------
    Bug(
        "a callback is registered without `recheck`",
        "_tasks.callbacks",
        "CallbackFuture._register",
        "            if type(self._status) is list:  # recheck\n"
        "                return\n"
        "            run_late(self, status, callback)\n",
        "",
        s.complete_meets_registration,
        100,
        guarantee=7,
        proof="future",
    ),
    Bug(
        "`run_late` calls a callback that it could not take out",
        "_tasks.settling",
        "run_late",
        "        return\n",
        "        pass\n",
        s.complete_meets_registration,
        500,
        guarantee=7,
        proof="future",
    ),
    Bug(
        "`publish_state` comes before `publish_value`",
        "_tasks.settling",
        "settle",
        "    future._value = value  # publish_value\n    future._status = state  # publish_state\n",
        "    future._status = state\n    future._value = value\n",
        s.complete_meets_registration,
        500,
        guarantee=7,
        proof="future",
    ),
    Bug(
        "`run_callbacks` looks before `publish_state`",
        "_tasks.settling",
        "settle",
        """    future._status = state  # publish_state
""",
        """    if not status:
        future._status = state
        return
    future._status = state
""",
        s.complete_meets_registration,
        50,
        guarantee=7,
        proof="future",
    ),
    Bug(
        "a lost claim forgets `put_back`",
        "_tasks.settling",
        "put_back",
        "    status.insert(0, callback)  # put_back\n",
        "    return\n",
        s.one_claim,
        100,
        guarantee=7,
        proof="future",
    ),
    Bug(
        "`put_back` without `recheck`",
        "_tasks.settling",
        "put_back",
        "    if type(future._status) is not list:  # recheck\n",
        "    if False:\n",
        s.one_claim,
        3000,
        guarantee=7,
        proof="future",
    ),
    Bug(
        "a waiter of concurrent.futures sees the end before it is told",
        "_tasks.future",
        "Future._state",
        "        if adapter is not None and not adapter.told:\n",
        "        if False:\n",
        s.complete_meets_as_completed,
        50,
        guarantee=7,
        proof="future",
    ),
    Bug(
        "`follow` settles a wrapper that it has not claimed",
        "_tasks.wrap",
        "_Wrapper._follow",
        "        if claim(self) is not None:\n",
        "        if claim(self) is not None or True:\n",
        s.wrapper_is_cancelled_as_its_source_ends,
        500,
        guarantee=7,
        proof="future",
    ),
    # --- tasks --------------------------------------------------------------------------------
    Bug(
        "`arm` comes before `send` has returned",
        "_tasks.continuation",
        "Continuation.run",
        """        try:
            request = self.run_in(self.send, None)
""",
        """        try:
            self.armed.append(None)
            request = self.run_in(self.send, None)
            self.disarm()
""",
        s.cancel_meets_later_step,
        50,
        guarantee=1,
        proof="tasks",
    ),
    Bug(
        "`arm` comes after the registration",
        "_tasks.continuation",
        "Continuation._arm",
        "        self.armed.append(None)  # arm\n",
        "        suspend(self) if suspend is not None else None\n"
        "        self.armed.append(None)\n"
        "        return True\n",
        s.wake_meets_suspend,
        100,
        guarantee=1,
        proof="tasks",
    ),
    Bug(
        "two threads `disarm` one continuation",
        "_tasks.cancel",
        "Suspension.wake",
        """        try:
            self.armed.pop()
        except IndexError:
            return
        except MemoryError:  # as above
            if not self.disarm():
                return
""",
        """        if not self.armed:
            return
""",
        s.cancel_meets_wake,
        100,
        guarantee=1,
        proof="tasks",
    ),
    Bug(
        "a first suspension without `recheck_first`",
        "_tasks.continuation",
        "Continuation.__init__",
        "        if entries and may_hold_request(entries) and task.cancel_requests():\n",
        "        if False:\n",
        s.cancel_is_not_lost,
        100,
        guarantee=8,
        proof="tasks",
    ),
    Bug(
        "a suspension without `recheck`",
        "_tasks.continuation",
        "Continuation._arm",
        "        while self._requested and self.disarm():  # recheck\n",
        "        while False:\n",
        s.cancel_is_not_lost,
        50,
        guarantee=8,
        proof="tasks",
    ),
    Bug(
        "`read_state` comes before `request`",
        "_tasks.cancel",
        "CancellableTask.interrupt",
        """        if not self.add_request(request):
            return None
        self._signal()
""",
        """        self._signal()
        if not self.add_request(request):
            return None
""",
        s.cancel_meets_first_step,
        1500,
        guarantee=8,
        proof="tasks",
    ),
    Bug(
        "`rearm` without `recheck_awaited`",
        "_tasks.cancel",
        "Suspension._rearm",
        "        if is_done:  # recheck_awaited\n",
        "        if False:\n",
        s.cancel_meets_wake,
        500,
        guarantee=8,
        proof="tasks",
    ),
    Bug(
        "`take_next` without `recheck_others`",
        "_tasks.step",
        "take_next",
        "    if status:  # recheck_others: one more has come, and `callback` may be that\n",
        "    if False:\n",
        s.end_of_a_step_meets_registration,
        30000,
        guarantee=7,
        proof="future",
    ),
    Bug(
        "a link is registered before it is whole",
        "_scheduler.intake",
        "Intake.link",
        """        link._status = [(context, on_result, source, types, None, on_error, in_any_case)]
        source.register_for_now(link)
""",
        """        link._status = []
        source.register_for_now(link)
        link._status.append((context, on_result, source, types, None, on_error, in_any_case))
""",
        s.chain_meets_completion,
        200,
        guarantee=7,
        proof="tasks",
    ),
    Bug(
        "a gather takes a child that has failed for one that has not",
        "_tasks.gather",
        "Gather.child_ended",
        "        if self._all or child._status is FINISHED:\n",
        "        if True:\n",
        s.gather_meets_failure,
        50,
        guarantee=7,
        proof="tasks",
    ),
    Bug(
        "a group's parent does not look again for children (recheck)",
        "_api.waiting",
        "wait_in",
        "        waiters.serve()  # recheck\n",
        "",
        s.group_meets_its_last_child,
        3000,
        guarantee=3,
        proof="fairpool/_tasks/waitlist.py",
    ),
    Bug(
        "a child leaves its group before it has asked the parent to end",
        "_api.taskgroup",
        "TaskGroup._child_ended",
        "        if task._status is FAILED and not self._given_up:\n",
        "        self._children.discard(task)\n"
        "        if not self._children:\n"
        "            self._waiting_parent.serve_anyhow()\n"
        "        if task._status is FAILED and not self._given_up:\n",
        s.group_meets_failure,
        200,
        guarantee=8,
        proof="fairpool/_api/taskgroup.py",
    ),
    # --- callers ------------------------------------------------------------------------------
    Bug(
        "a caller takes the end of an outer wait for that of its own",
        "_scheduler.caller",
        "Caller.is_done",
        "        self.leaving = False",
        "        pass",
        s.wait_further_out_is_over,
        200,
        guarantee=5,
        proof="joining",
    ),
    # --- timers -------------------------------------------------------------------------------
    Bug(
        "an adder checks when the timer thread wakes before it pushes its timer",
        "_core.timer",
        "Timers.start",
        """        self._incoming.append(timer)  # push
        if not self._runs:
            try:
                self._start()
            except BaseException:
                self.cancel(timer)  # its owner is told
                raise
        if timer[DEADLINE] < self._wakes_at:  # check
            self._unpark()
""",
        """        if timer[DEADLINE] < self._wakes_at:
            self._unpark()
        self._incoming.append(timer)
        if not self._runs:
            try:
                self._start()
            except BaseException:
                self.cancel(timer)  # its owner is told
                raise
""",
        s.sleepers,
        100,
        guarantee=3,
        proof="fairpool/_core/timer.py",
    ),
    Bug(
        "a timer counts on a thread that another is about to start, and cannot",
        "_core.timer",
        "Timers._start",
        """        if not self._absent:
            return
        need_stack()  # so that `start` does not fail once the thread is there
        thread = new_thread(lambda: self._live(thread), self._name, daemon=False)
        self._threads.append(thread)
        try:
            thread.start()
        except Exception:
            self._threads.remove(thread)
            raise
""",
        """        try:
            self._absent.pop()
        except IndexError:
            return
        try:
            new_thread(self._run, self._name, daemon=False).start()
        except Exception:
            self._absent.append(None)
            raise
""",
        s.timer_thread_cannot_be_started,
        1000,
        guarantee=3,
        proof="fairpool/_core/timer.py",
    ),
    Bug(
        "the timer thread parks without its last_look",
        "_core.timer",
        "Timers._run",
        """            if self._incoming.holds_work() or self._keeps_too_many():  # last_look
                continue
""",
        "",
        s.sleepers,
        6000,
        guarantee=3,
        proof="fairpool/_core/timer.py",
    ),
    Bug(
        "the timer thread ends without its final_look",
        "_core.timer",
        "Timers._run",
        "            if not self._incoming.holds_work():  # final_look\n",
        "            if True:\n",
        s.nap_after_the_timers_end,
        3000,
        guarantee=3,
        proof="fairpool/_core/timer.py",
    ),
    # --- primitives ---------------------------------------------------------------------------
    Bug(
        "a task that queues for a permit does not look again for one (recheck)",
        "_api.waiting",
        "wait_in",
        "        waiters.serve()  # recheck\n",
        "",
        s.permits_are_kept,
        500,
        guarantee=3,
        proof="fairpool/_tasks/waitlist.py",
    ),
    Bug(
        "a permit given to a cancelled task is lost",
        "_api.waiting",
        "wait_in",
        "            waiters.reclaim()\n",
        "            pass\n",
        s.permits_are_kept,
        8000,
        guarantee=8,
        proof="fairpool/_api/permits.py",
    ),
    Bug(
        "a permit for one that was cancelled meanwhile is lost",
        "_api.permits",
        "Permits.hand_out",
        "            if waiter is None and not self._closed:\n"
        "                self._put_back()  # change\n",
        "",
        s.permits_are_kept,
        1000,
        guarantee=8,
        proof="fairpool/_api/permits.py",
    ),
    Bug(
        "a wait that has just been ended says that it was cancelled",
        "_tasks.future",
        "Derived.cancel",
        "            return self._status is CANCELLED\n",
        "            return True\n",
        s.permit_meets_cancellation,
        1000,
        guarantee=7,
        proof="fairpool/_tasks/waitlist.py",
    ),
    Bug(
        "a join is woken that came after the moment at which all was done",
        "_tasks.waitlist",
        "WaitList.hand_out",
        "            for waiter in waiters:\n",
        "            for waiter in self.items():\n",
        s.join_waits_for_later_items,
        12000,
        guarantee=3,
        proof="fairpool/_tasks/waitlist.py",
    ),
    Bug(
        "an event is cleared twice, and a task at the second gate is left there",
        "_api.event",
        "Event.clear",
        "            gate.successor.setdefault(None, _Gate())  # atomic: one for all\n",
        "            gate.successor[None] = _Gate()\n",
        s.event_is_cleared_by_two,
        60000,
        guarantee=3,
        proof="fairpool/_api/event.py",
    ),
    # --- locks: in and out --------------------------------------------------------------------
    Bug(
        "a lock goes out of use with the key that others have at hand (`replace_key`)",
        "_locks.key",
        "KeyedLock.go_out_of_use",
        """            self._use_key(key)  # combining: replace_key
""",
        """            key = self.key
            self.take_key = _take_nothing
            key.release()
""",
        k.OUT_OF_USE["function"],
        15000,
        guarantee=2,
        proof="combining",
    ),
    Bug(
        "a lock's new key can be taken before it is the one that is released (`replace_key`)",
        "_locks.key",
        "KeyedLock._use_key",
        """        self.take_key = _take_nothing
        self.release_key = key.release
        read_by_many(key, self.release_key)
        self.key = key  # last: from here on others take it
""",
        """        self.key = key
        self.take_key = _take_nothing
        self.release_key = key.release
""",
        k.OUT_OF_USE["task"],
        3000,
        guarantee=2,
        proof="combining",
    ),
    Bug(
        "a lock that goes out of use does not look at its queue again (`recheck_new_key`)",
        "_locks.key",
        "KeyedLock.go_out_of_use",
        """            self.rotate(0)  # combining: recheck_new_key; also for what is held back
            if not self.queue:
                return
""",
        """            return
""",
        k.OUT_OF_USE["section"],
        3000,
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a task that gives the key back does not look at the queue again (`recheck`)",
        "_locks.tasks",
        "TaskEntry.__aexit__",
        """        self.rotate(0)  # combining: recheck (`holds_work`, written out)
        if not self.queue:
""",
        "        if True:\n",
        k.MEETS["task", "section"],
        2000,
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a pass that gives the key back does not look at the queue again (`recheck`)",
        "_locks.combiner",
        "Combiner.run",
        "if not (self.queue.holds_work() and self._take_key_again(worker)):\n",
        "if True:\n",
        k.MEETS["section", "section"],
        500,
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a thread that gives the key back does not look at the queue again (`recheck`)",
        "_locks.key",
        "KeyedLock.hand_over_key",
        "                    if more and self.key.acquire(False):\n",
        "                    if False:\n",
        k.MEETS["thread", "thread"],
        500,
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a thread that queues a section does not try the key (`try_key`)",
        "_locks.key",
        "KeyedLock.see_to_queue",
        "        if self.key.acquire(False):  # combining: try_key\n",
        "        if False:\n",
        k.MEETS["thread", "thread"],
        200,
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a task that queues its request does not try the key (`try_key`)",
        "_locks.tasks",
        "TaskEntry.queue_up",
        "        if self.key.acquire(False):  # combining: try_key\n",
        "        if False:\n",
        k.MEETS["task", "task"],
        500,
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a task that finds the key enters before those in the queue (`enter_at_once`)",
        "_locks.tasks",
        "TaskEntry.__aenter__",
        "            not self.queue\n            and (home is worker or home is None)\n",
        "            (home is worker or home is None)\n",
        k.no_task_overtakes,
        20000,
        guarantee=2,
        proof="combining",
    ),
    Bug(
        "a thread that finds the key enters before those in the queue (`enter_at_once`)",
        "_locks.threads",
        "ThreadEntry._enter_blocking",
        """        if not self.queue and (
            self.take_key(False) or (not self.in_use and self.take_unused_key())
        ):
""",
        "        if self.key.acquire(False):\n",
        k.nobody_overtakes,
        10000,
        guarantee=2,
        proof="combining",
    ),
    Bug(
        "a task gives the key back before it has written that nobody is inside",
        "_locks.tasks",
        "TaskEntry.__aexit__",
        """            self._account(monotonic_ns())
        except SHORT_OF_ROOM:
            self.served = 0
            self.owner = None
        self.release_key()  # combining: release_key
""",
        """            self.release_key()
            self._account(monotonic_ns())
        except SHORT_OF_ROOM:
            self.served = 0
            self.owner = None
""",
        k.MEETS["task", "thread"],
        4000,
        guarantee=2,
        proof="combining",
    ),
    Bug(
        "a pass gives the key back before it has written that nobody is inside",
        "_locks.combiner",
        "Combiner.run",
        """                self._account_pass(now, count)
                worker.item = None
                self.key.release()  # combining: release_key
""",
        """                self.key.release()
                self._account_pass(now, count)
""",
        k.home_worker_ends,
        2000,
        guarantee=2,
        proof="combining",
    ),
    Bug(
        "a continuation is published before it is written that nobody is inside",
        "_locks.combiner",
        "Combiner.run",
        """                self.owner = None  # before its task can be anywhere else
                worker.item = self
                publish(continuation)  # parking: enqueue
""",
        """                publish(continuation)
                self.owner = None
""",
        k.enter_again_at_once,
        8000,
        guarantee=2,
        proof="tickets",
    ),
    Bug(
        "a task that leaves is published before it is written that nobody is inside",
        "_locks.tasks",
        "TaskEntry.after_leave",
        """        self._account(monotonic_ns())
        if worker.scheduler is not self.scheduler:
            self.hand_over_key_safely()
            return continuation  # as if it had yielded
        worker.publish(continuation)
""",
        """        worker.publish(continuation)
        self._account(monotonic_ns())
""",
        k.enter_again_and_again,
        10000,
        guarantee=2,
        proof="tickets",
    ),
    Bug(
        "a section that is suspended is taken for one that has ended",
        "_locks.combiner",
        "Combiner.run",
        "                if not is_final(item):\n",
        "                if False:\n",
        k.MEETS["task", "long_section"],
        50,
        guarantee=2,
        proof="combining",
    ),
    Bug(
        "an external waiter that is just being let in seems to wait for itself",
        "_locks.waiters",
        "ExternalWaiter.sources",
        "owner is None or owner is self or is_final(self)",
        "owner is None or is_final(self)",
        k.MEETS["section", "external"],
        4000,
        guarantee=6,
        proof="waiting",
    ),
    # --- locks: a pass ------------------------------------------------------------------------
    Bug(
        "a pass does not end while there are requests",
        "_locks.combiner",
        "Combiner.run",
        "                if count == end or now > deadline or worker.leaving:\n",
        "                if worker.leaving:\n",
        k.pass_ends_beside_other_work,
        50,
        guarantee=4,
        proof="combining",
    ),
    Bug(
        "what a pass has displaced is told to nobody",
        "_scheduler.find_work",
        "WorkFinder.displace",
        "        self.scheduler.notify_if_free()  # parking: notify; ",
        "        # ",
        k.pass_displaces_other_work,
        5000,
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a worker parks without a look at what was displaced",
        "_scheduler.queues",
        "Queues.has_work",
        "self.injector.holds_work() or self.displaced.holds_work()",
        "self.injector.holds_work()",
        k.pass_displaces_other_work,
        500,
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a pass that has ended is not asked for again",
        "_locks.combiner",
        "Combiner._end_pass",
        "        self.dispatch()\n",
        "        self.key.release()\n",
        k.pass_ends_by_count,
        50,
        guarantee=4,
        proof="combining",
    ),
    Bug(
        "a lock is served without a look at the ticket of its oldest request",
        "_scheduler.find_work",
        "WorkFinder._take_critical",
        "            if first is None or first > lock.head_ticket():\n",
        "            if True:\n",
        k.continuation_goes_before_the_lock,
        50,
        guarantee=4,
        proof="tickets",
    ),
    # --- locks: home --------------------------------------------------------------------------
    Bug(
        "a worker that stands in leaves the lock with its home worker as well",
        "_scheduler.find_work",
        "WorkFinder._take_service",
        "(lock := home_queue.take())",
        "(lock := home_queue.first())",
        k.home_worker_takes_over,
        50,
        guarantee=2,
        proof="combining",
    ),
    Bug(
        "a worker that takes a lock puts it back with one that has ended meanwhile",
        "_scheduler.find_work",
        "WorkFinder._take_service",
        """                if worker.exited:
                    worker.give_back()
""",
        "",
        k.pass_ends_by_time,
        20000,
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a lock is given to a home worker that has ended",
        "_scheduler.threads",
        "Threads.notify_or_abandon",
        "        if target is not None and target.exited:\n            target.give_back()\n",
        "",
        k.home_worker_ends,
        2000,
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a worker that ends keeps the locks that it was to serve",
        "_scheduler.find_work",
        "WorkFinder.give_back",
        """        while (lock := self.home_queue.take()) is not None:
            self.scheduler.injector.append(lock)
""",
        "",
        k.home_worker_ends,
        50,
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a thread that asks for a pass wakes nobody (`notify`)",
        "_locks.key",
        "KeyedLock.dispatch",
        "            scheduler.notify_or_abandon(target)  # parking: notify\n",
        "            pass\n",
        k.MEETS["section", "thread"],
        50,
        guarantee=3,
        proof="combining",
    ),
    # --- locks: giving up ---------------------------------------------------------------------
    Bug(
        "a request is granted although it was given up",
        "_locks.combiner",
        "Combiner.run",
        "                    continuation: Continuation = item.pop()\n",
        "                    continuation = item[-1]\n",
        k.task_is_cancelled,
        500,
        guarantee=8,
        proof="combining",
    ),
    Bug(
        "a request is given up although it was granted",
        "_tasks.request",
        "Request.give_up",
        "        if not LockRequest.give_up(self):\n            return False\n",
        "        LockRequest.give_up(self)\n",
        k.task_is_cancelled,
        500,
        guarantee=8,
        proof="combining",
    ),
    Bug(
        "a request that was given up is used again",
        "_tasks.request",
        "Request.give_up",
        "        self.door = None\n",
        "",
        k.request_is_not_used_again,
        5000,
        "systematic",
        guarantee=1,
        proof="combining",
    ),
    Bug(
        "a request at a lock is queued without `recheck_lock`",
        "_tasks.continuation",
        "Continuation._queue_up",
        "        if self._requested and request.give_up():  # recheck_lock\n",
        "        if False:\n",
        k.cancellation_reaches_the_queue,
        200,
        guarantee=8,
        proof="combining",
    ),
    Bug(
        "the key is lost with an external waiter that is cancelled when it was let in",
        "_api.lock",
        "Lock.enter_external",
        "                self.end_section()  # it was granted, and nobody will leave\n",
        "                pass\n",
        k.external_waiter_is_cancelled,
        50,
        guarantee=8,
        proof="combining",
    ),
    Bug(
        "a thread whose time is up as it is let in does not wait until it is the owner",
        "_locks.threads",
        "ThreadEntry._gave_up",
        "            if self.owner is waiter.owner:\n                return False\n",
        "            return False\n",
        k.time_is_up_as_the_turn_comes,
        2000,
        guarantee=2,
        proof="combining",
    ),
    # --- locks: several of them ---------------------------------------------------------------
    Bug(
        "all_of takes its locks in the order of its arguments",
        "_api.all_of",
        "_AllOf.__init__",
        "        locks.sort(key=_number_of)\n",
        "",
        k.all_of_in_opposite_order,
        50,
        guarantee=5,
        proof="waiting",
    ),
    Bug(
        "all_of keeps the first lock if it is cancelled at the second one",
        "_api.all_of",
        "_AllOf.__aenter__",
        "            self._leave(rest)\n",
        "",
        k.all_of_is_cancelled,
        5000,
        guarantee=8,
        proof="waiting",
    ),
    Bug(
        "a task that queues its request does not look for a cycle",
        "_locks.tasks",
        "TaskEntry.queue_up",
        "        self._check_wait(worker.item.task, request)\n",
        "",
        k.cycle_is_found,
        200,
        guarantee=6,
        proof="waiting",
    ),
    Bug(
        "a thread looks for a cycle before it has said that it waits",
        "_locks.threads",
        "ThreadEntry._wait_blocking",
        """            if thread is not None and timeout is None:
                thread.awaited = waiter
                waiter.helps = waiter.serves = self._may_lend(thread)
                if waiter.helps:
                    self.scheduler.helper_candidates[waiter] = None  # joining: list_candidate
            elif worker is not None and timeout is None:
                waiter.serves = self._may_serve(worker)
                enter_wait(task, worker.doing, (waiter,))
            self.enqueue(waiter)
            if thread is not None and timeout is None:
                self._check_wait(thread, waiter)
""",
        """            if worker is not None and timeout is None:
                enter_wait(task, worker.doing, (waiter,))
            self.enqueue(waiter)
            if thread is not None and timeout is None:
                self._check_wait(thread, waiter)
                thread.awaited = waiter
""",
        k.cycle_with_threads_is_found,
        500,
        guarantee=6,
        proof="waiting",
    ),
    # --- locks: linearizability ---------------------------------------------------------------
    Bug(
        "a thread that enters at once does not ask for the key",
        "_locks.threads",
        "ThreadEntry._enter_blocking",
        """        if not self.queue and (
            self.take_key(False) or (not self.in_use and self.take_unused_key())
        ):
""",
        "        if not self.queue:\n",
        a.ALL[0],
        10,
        "systematic",
        guarantee=2,
        proof="combining",
    ),
    Bug(
        "a thread that leaves has a worker give the key back, and is gone before that",
        "_locks.key",
        "KeyedLock.hand_over_key",
        "            if first is None:\n"
        "                self.key.release()  # combining: release_key\n",
        "            if first is None:\n                self.dispatch()\n                return\n",
        a.ALL[2],
        50,
        "systematic",
        guarantee=2,
        proof="combining",
    ),
    Bug(
        "a thread that was let in as its time was up takes it that it was not",
        "_locks.threads",
        "ThreadEntry._gave_up",
        "            if self.owner is waiter.owner:\n                return False\n",
        "            return self.owner is not waiter.owner\n",
        a.ALL[15],
        500,
        "systematic",
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a thread that has left does not look at the queue again, and one waits for ever",
        "_locks.key",
        "KeyedLock.hand_over_key",
        "                    if more and self.key.acquire(False):\n",
        "                    if False:\n",
        a.ALL[5],
        2000,
        "systematic",
        guarantee=3,
        proof="combining",
    ),
    Bug(
        "a task that is cancelled in the queue is let in nevertheless",
        "_locks.combiner",
        "Combiner.run",
        "                    continuation: Continuation = item.pop()\n",
        "                    continuation = item[-1]\n",
        a.ALL[32],
        2000,
        "systematic",
        guarantee=8,
        proof="combining",
    ),
    Bug(
        "a cancellation takes back what was granted just before",
        "_tasks.request",
        "Request.give_up",
        "        if not LockRequest.give_up(self):\n            return False\n",
        "        LockRequest.give_up(self)\n",
        a.ALL[32],
        2000,
        "systematic",
        guarantee=8,
        proof="combining",
    ),
    # --- locks: usage order -------------------------------------------------------------------
    Bug(
        "the chosen request is chosen although it was given up",
        "_locks.usage",
        "UsageQueue.first",
        "        if chosen is None or chosen not in self._lined:\n",
        "        if chosen is None:\n",
        k.usage_order_drops_sections,
        500,
        guarantee=10,
        proof="usage",
    ),
    Bug(
        "the end of a section does not see the requests that are in lines (`mark`)",
        "_locks.usage",
        "UsageQueue._mark",
        "                deque.append(self, _MARK)\n",
        "                pass\n",
        k.usage_order_serves_lines,
        500,
        guarantee=3,
        proof="usage",
    ),
    # --- locks: the end -----------------------------------------------------------------------
    Bug(
        "lock.submit does not look again whether the pool was closed (`recheck_closed`)",
        "_api.lock",
        "Lock.submit",
        "(scheduler.close_reason or self._closed) and section.drop()",
        "False",
        k.shutdown_meets_sections,
        600,
        guarantee=10,
        proof="shutdown",
    ),
    Bug(
        "lock.submit has its section served before it looks whether the pool was closed",
        "_api.lock",
        "Lock.submit",
        "        self.line_up(section)\n",
        "        self.enqueue(section)\n",
        k.shutdown_meets_sections,
        1000,
        guarantee=10,
        proof="shutdown",
    ),
    Bug(
        "the workers of a closed pool are not told that nobody waits for a lock any more",
        "_locks.key",
        "KeyedLock._tell_workers",
        "            self.scheduler.parking.unpark_all()\n",
        "            pass\n",
        k.shutdown_meets_a_waiting_thread,
        500,
        guarantee=10,
        proof="shutdown",
    ),
    # --- shutdown -----------------------------------------------------------------------------
    Bug(
        "submit does not look again whether the pool was closed (`recheck_closed`)",
        "_scheduler.intake",
        "Intake.put",
        "        if self.close_reason and task.drop():  # shutdown: recheck_closed\n"
        "            raise self.closed_error()\n",
        "",
        s.shutdown_meets_submit,
        1000,
        guarantee=10,
        proof="shutdown",
    ),
    Bug(
        "a worker parks without a look whether the pool was closed",
        "_scheduler.worker",
        "Worker._park",
        "scheduler.is_over() if until is None",
        "False if until is None",
        s.shutdown_meets_park,
        50,
        guarantee=10,
        proof="shutdown",
    ),
    Bug(
        "close unparks nobody (`unpark_all`)",
        "_scheduler.lifecycle",
        "LifeCycle.drop",
        "        self.parking.unpark_all()  # shutdown: unpark_all\n",
        "",
        s.shutdown_meets_park,
        10000,
        guarantee=10,
        proof="shutdown",
    ),
    Bug(
        "a dropped pool is one that refuses",
        "_scheduler.lifecycle",
        "LifeCycle.drop",
        "        self.ending.set()\n",
        "        self.ending.set()\n"
        "        self.close_reason = self.close_reason or Latch([RuntimeError('dropped')])\n",
        s.drop_meets_section,
        50,
        guarantee=10,
        proof="shutdown",
    ),
    Bug(
        "the workers of a dropped pool wait as those of an open one",
        "_scheduler.lifecycle",
        "LifeCycle.is_ending",
        "        return self.ending.is_set()\n",
        "        return self.close_reason.is_set()\n",
        s.drop_meets_section,
        50,
        guarantee=10,
        proof="shutdown",
    ),
    Bug(
        "shutdown looks at the threads before the queues",
        "_scheduler.lifecycle",
        "LifeCycle.join",
        "                if not over and not here.notifying:\n",
        "                if not self.is_over() and not here.notifying:\n",
        s.shutdown_meets_submit,
        40000,
        guarantee=10,
        proof="shutdown",
    ),
    Bug(
        "shutdown takes an empty threads for the end",
        "_scheduler.lifecycle",
        "LifeCycle.join",
        "                if not over and not here.notifying:\n",
        "                if False:\n",
        s.shutdown_meets_submit,
        50,
        guarantee=10,
        proof="shutdown",
    ),
    Bug(
        "a late look for a worker starts one after the pool's end (`recheck_over`)",
        "_scheduler.threads",
        "Threads._start_worker",
        "            if self.is_over():  # shutdown: recheck_over",
        "            if False:  #",
        s.shutdown_meets_late_notify,
        20000,
        guarantee=10,
        proof="shutdown",
    ),
    Bug(
        "a late look for a worker puts its slot back, and looks at no queue (`look_again`)",
        "_scheduler.threads",
        "Threads._overlooks_work",
        "(self.may_start() and self.has_work()) or",
        "",
        s.drop_meets_late_notify,
        20000,
        guarantee=3,
        proof="shutdown",
    ),
    Bug(
        "a cancelled task does not give its permit back",
        "_tasks.task",
        "_drop",
        "        backlog.leave()\n",
        "        pass\n",
        s.cancelled_ones_make_room,
        50,
        guarantee=8,
        proof="shutdown",
    ),
    Bug(
        "a closed backlog lets one in, and forgets the others",
        "_scheduler.intake",
        "Backlog.enter",
        "            self._permits.put(False)  # closed: pass it on to whoever waits, too\n",
        "",
        s.backlog_is_closed,
        200,
        guarantee=10,
        proof="shutdown",
    ),
    # --- joined callers -----------------------------------------------------------------------
    Bug(
        "a slot taken in vain is put back, and nobody looks who has parked (`look_again`)",
        "_core.park",
        "Parking.notify",
        "        while self._notify_one() and (self.parked.copy() or self._overlooks()):\n",
        "        while self._notify_one() and self._overlooks():\n",
        s.section_is_left_to_the_next_caller,
        1000,
        guarantee=3,
        proof="joining",
    ),
    Bug(
        "a caller takes its queues with it (`give_back`)",
        "_scheduler.caller",
        "Caller._leave",
        "                self.give_back()  # joining: give_back\n",
        "                pass\n",
        s.caller_leaves_while_combining,
        100,
        guarantee=3,
        proof="joining",
    ),
    Bug(
        "a caller leaves without a last look (`last_look`)",
        "_scheduler.caller",
        "Caller._leave",
        "            scheduler.notify_if_work()  # joining: last_look\n",
        "",
        s.callers_come_and_go,
        100,
        guarantee=3,
        proof="joining",
    ),
    Bug(
        "a caller that comes late is not refused (`recheck_closed`)",
        "_scheduler.caller",
        "Caller._do_what_it_came_for",
        "            if scheduler.is_closed():  # shutdown: recheck_closed\n",
        "            if False:\n",
        s.caller_meets_shutdown,
        100,
        guarantee=10,
        proof="joining",
    ),
    Bug(
        "a caller that leaves keeps its slot (`leave_slots`)",
        "_scheduler.caller",
        "Caller._leave",
        "            self._free_slot()  # joining: leave_slots\n",
        "",
        s.callers_come_and_go,
        10,
        guarantee=3,
        proof="joining",
    ),
    # --- threads that wait are lent -----------------------------------------------------------
    Bug(
        "a thread is lent although it is inside a section",
        "_locks.threads",
        "ThreadEntry._may_lend",
        "            and owner.inside == 1\n",
        "",
        s.nobody_is_lent_inside_a_section,
        50,
        guarantee=5,
        proof="joining",
    ),
    Bug(
        "a helper does not claim its waiter (`claim_helper`)",
        "_locks.threads",
        "ThreadEntry.recruit_helper",
        "if not waiter.helps or (parker := waiter.claim()) is None:\n",
        "if not waiter.helps or (parker := waiter[-1]) is None:\n",
        s.helper_is_busy_when_its_turn_comes,
        50,
        guarantee=2,
        proof="joining",
    ),
    Bug(
        "a helper does not look whether its turn has come (`look_passed_over`)",
        "_locks.threads",
        "ThreadEntry._put_back",
        "        if waiter.passed_over:  # joining: look_passed_over\n",
        "        if False:\n",
        s.helper_is_busy_when_its_turn_comes,
        50,
        guarantee=3,
        proof="joining",
    ),
    Bug(
        "a helper does `look_passed_over` before `claimable_again`",
        "_locks.threads",
        "ThreadEntry._put_back",
        """        waiter.append(parker)  # joining: claimable_again
        if waiter.passed_over:  # joining: look_passed_over
""",
        """        passed_over = waiter.passed_over
        waiter.append(parker)
        if passed_over:
""",
        s.waiting_threads_are_lent,
        5000,
        guarantee=3,
        proof="joining",
    ),
    Bug(
        "a helper that was passed over does not try the key (`try_key`)",
        "_locks.threads",
        "ThreadEntry._put_back",
        "            if self.key.acquire(False):  # combining: try_key\n",
        "            if False:\n",
        s.helper_is_busy_when_its_turn_comes,
        500,
        guarantee=3,
        proof="joining",
    ),
    Bug(
        "a combiner that has lost the claim of a busy waiter lets its thread in",
        "_locks.waiters",
        "ThreadWaiter.grant",
        "                    helper.leaving = True  # its turn has come; only an optimization\n"
        "                return False\n",
        "                    helper.leaving = True\n"
        "                lock.owner = self.owner\n"
        "                return True\n"
        "                return False\n",
        s.helper_runs_what_needs_the_lock,
        50,
        guarantee=2,
        proof="joining",
    ),
    Bug(
        "a helper keeps its slot (`leave_slots`)",
        "_locks.threads",
        "ThreadEntry._come_back",
        "        scheduler.parking.release_slot()  # joining: leave_slots\n",
        "",
        s.waiting_threads_are_lent,
        50,
        guarantee=3,
        proof="joining",
    ),
    Bug(
        "an interrupt of a helper is forgotten",
        "_scheduler.caller",
        "Caller.run",
        "        self.raise_interrupt()\n",
        "",
        s.helper_is_interrupted,
        50,
        guarantee=11,
        proof="joining",
    ),
    Bug(
        "a thread that gives up takes a waiter that is lent for one that was let in",
        "_locks.threads",
        "ThreadEntry._gave_up",
        "            if self.owner is waiter.owner:\n                return False\n",
        "            return False\n",
        s.helper_is_interrupted,
        2000,
        guarantee=2,
        proof="joining",
    ),
    Bug(
        "a thread that comes does not look for locks that nobody serves",
        "_locks.threads",
        "ThreadEntry._wait_blocking",
        "            if self.scheduler.pending_locks:\n",
        "            if False:\n",
        s.two_wait_where_nobody_else_is,
        200,
        guarantee=3,
        proof="joining",
    ),
    Bug(
        "a slot taken in vain is put back, and nobody looks who waits (`look_again`)",
        "_core.park",
        "Parking.notify",
        "        while self._notify_one() and (self.parked.copy() or self._overlooks()):\n",
        "        while self._notify_one() and self.parked.copy():\n",
        s.two_wait_where_nobody_else_is,
        200,
        guarantee=3,
        proof="joining",
    ),
    Bug(
        "a lock is written down as pending_locks after it was put into a queue (`mark_pending`)",
        "_locks.key",
        "KeyedLock.dispatch",
        """            scheduler.pending_locks.add(self)  # joining: mark_pending
""",
        """            scheduler.injector.append(self)
            scheduler.notify()
            scheduler.pending_locks.add(self)
            return
""",
        s.two_wait_where_nobody_else_is,
        500,
        guarantee=3,
        proof="joining",
    ),
    Bug(
        "nobody serves where only those are who wait for the lock",
        "_scheduler.threads",
        "Threads._start_worker",
        "                    if lock.find_server(slot):\n",
        "                    if True:\n",
        s.thread_serves_where_nobody_else_is,
        200,
        guarantee=3,
        proof="joining",
    ),
    Bug(
        "a thread is to serve its lock with the tasks of others, inside another section",
        "_scheduler.waiting",
        "WaitingWorker.may_run_inline",
        "        if not self.has_slot or "
        "(scheduler.locks_in_use and scheduler.is_in_section(self.task)):\n",
        "        if False:\n",
        s.nobody_serves_inside_a_section,
        200,
        guarantee=5,
        proof="joining",
    ),
    Bug(
        "a task that gives way is published although somebody else resumes it",
        "_locks.tasks",
        "_GiveWay._suspend",
        "        if continuation.disarm():\n",
        "        if True:\n",
        k.who_gives_way_is_cancelled,
        2000,
        guarantee=1,
        proof="tickets",
    ),
    Bug(
        "a task that gives way is published and stays armed",
        "_locks.tasks",
        "_GiveWay._suspend",
        "        if continuation.disarm():\n",
        "        if continuation.armed:\n",
        k.who_gives_way_is_cancelled,
        2000,
        guarantee=1,
        proof="tickets",
    ),
]
