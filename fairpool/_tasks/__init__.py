"""Rank 1, tasks: what runs.

state:        the state of a future, and the questions that it answers
settling:     `claim` and `settle`: which thread gets a future, and how it ends
callbacks:    how a callback is registered, and taken out again
future:       `Future`, one result for any number of threads
failure:      `Failure`, an exception on its way to the one that asks for the result
task:         `Task`, a future together with its call
continuation: `Continuation`, the rest of a coroutine after a step
step:         the end of a step, and what the worker runs next
coroutines:   one task for each coroutine object
cancel:       how a cancellation reaches a coroutine
chain:        `Link`, the task that `then`, `catch` and `finally_` return
gather:       `Gather`, and children that were not started
request:      `Waiter`, `Request`, `Leave`: what waits for a lock
waitlist:     `WaitList`, the queue of waiting tasks of every primitive
thread_wait:  how a thread waits for a future
condition:    the adapter to `concurrent.futures.wait` and `as_completed`
wrap:         `wrap_future`, the future of another executor as one of ours
host:         what tasks ask of the rooms above: one protocol a role
"""
