"""Rank 0, the core: what every other room stands on. It knows no task, no lock and no pool.

atomicity: what the package takes for atomic, and for ordered between threads
threads:   the only door to threads, locks and the clock: the seam that tests replace
here:      the state that each thread keeps
signals:   Ctrl-C, and waits that the main thread can be interrupted in
room:      room on a thread's stack
hooks:     the interpreter's end, the collector's start, the child of a fork
token:     one-shot tokens and latches
observer:  the seam by which others see what happens: `Observer`, `attach`
waitgraph: which task waits for what, and the `DeadlockError` of a cycle
park:      `Parker`, and the slots: which workers may run, search, sleep
runqueue:  queues of runnable tasks, and of waiters
timer:     deadlines, one heap and one thread for a pool
accounts:  usage accounts: principals, ledgers, shares
foreign:   what may be asked of objects of the user's
report:    the log
errors:    the exceptions
types:     names for types that many signatures have
"""
