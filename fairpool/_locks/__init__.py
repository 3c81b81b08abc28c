"""Rank 2, locks: where a task is in a critical section, and how it gets there.

A lock is one object in layers, each in its module and derived from the one before:

key:      `KeyedLock`, the queue and the key, and how the key is handed over
exit:     `LockExit`, where a section ends; accounting; waiters that give up
threads:  `ThreadEntry`, the way in of a blocked thread, which helps meanwhile
tasks:    `TaskEntry`, the way in and out of a coroutine
combiner: `Combiner`, the pass
charging: `Charging`, a combiner that charges its sections to shares

waiters:    the kinds of waiters in the queue, and how each is let in
owners:     threads as owners, and the loan of a key to foreign code
usage:      the queue in the order of usage
statistics: what a lock counts
host:       what locks ask of the room above: one protocol a role

A new kind of waiter is a class over `Waiter` (`_tasks/request.py`), as those in `waiters` are.
"""
