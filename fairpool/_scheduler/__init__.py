"""Rank 3, the scheduler: workers, callers, and what the workers of one pool share.

A worker is one object in layers, each in its module and derived from the one before:

find_work: `WorkFinder`, where a worker takes its work, and in which order
waiting:   `WaitingWorker`, what a worker runs, and how that waits
worker:    `Worker`, the loop, the search, parking
caller:    `Caller`, a thread of the user's that works until its own task has ended
helper:    `Helper`, a caller that waits for a lock and runs one step meanwhile

So is the scheduler:

queues:     `Queues`, where the work lies, and which locks are in use
threads:    `Threads`, the workers, and how one more is woken or started
intake:     `Intake`, how a task comes into the pool
generators: `Generators`, asynchronous generators, and how they are closed
lifecycle:  `LifeCycle`, how a pool is closed, dropped, drained and joined, or forks
scheduler:  `Scheduler`, what the workers of one pool share

blocking: `blocked`, a worker that waits gives up its slot
adopted:  the event of `concurrent.futures.wait` and `as_completed` in a worker
backlog:  `Backlog`, a bound on the tasks that have not been started
ctrl_c:   Ctrl-C on a main thread that is a caller
process:  the pools of this process: its end, a fork, a collection
roles:    what the parts of this room ask of one another: one protocol a role
"""
