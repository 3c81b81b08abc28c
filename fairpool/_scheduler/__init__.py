"""Rank 3, the scheduler: workers, callers, and what the workers of one pool share.

The scheduler is one object in layers, each in its module and derived from the one before:

queues:     `Queues`, where the work lies, and which locks are in use
threads:    `Threads`, the workers, and how one more is woken or started
intake:     `Intake`, how a task comes into the pool; `Backlog`, a bound on those not started
generators: `Generators`, asynchronous generators, and how they are closed
lifecycle:  `LifeCycle`, how a pool is closed, dropped, drained and joined, or forks

So is a worker, which knows the scheduler as a `LifeCycle`:

find_work: `WorkFinder`, where a worker takes its work, and in which order
waiting:   `WaitingWorker`, what a worker runs, and how that waits
worker:    `Worker`, the loop, the search, parking
caller:    `Caller`, a thread of the user's that works until its own task has ended
           `Helper`, a caller that waits for a lock and runs one step meanwhile

scheduler: `Scheduler`, the last layer, which makes workers

blocking: `blocked`, a worker that waits gives up its slot
adopted:  the event of `concurrent.futures.wait` and `as_completed` in a worker
ctrl_c:   Ctrl-C on a main thread that is a caller
process:  the pools of this process: its end, a fork, a collection
roles:    what the scheduler asks of workers, and of what lies in its queues
"""
