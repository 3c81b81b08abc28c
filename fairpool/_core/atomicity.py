"""What the package takes for atomic, and for ordered between threads: the one page on it.

A comment, a proof or a seeded bug that relies on one of these assumptions names it. The place of
each in CPython's sources, version by version, is in `docs/versions.md`.

**Atomic call.** One call of these is atomic:

- on a `deque`: `append`, `appendleft`, `extend` or `extendleft` (with a list or a tuple), `pop`,
  `popleft`, `remove`, `count`, `index`, `clear`, `rotate`;
- on a `list`: `append`, `insert`, `pop`, `remove`, `reverse`, `clear`, `copy`, a slice or item
  assignment;
- on a `set`: `add`, `discard`, `remove`, `pop`, `copy`, `clear`;
- on a `dict`: `setdefault`, `pop`, `copy`, `clear`, item assignment.

A free-threaded build takes the object's own mutex in each of them (a "critical section" in
CPython's words). With the GIL, each is one uninterrupted C call. Elements are compared by identity
before a foreign `__eq__` could run: the package keeps its own objects in these containers, and they
compare by identity.

One exception: on a free-threaded build `remove`, `count` and `index` release the mutex where a
comparison, or the drop of a compared item, has to wait for another mutex. A `deque` notices a
change meanwhile, and raises; `RunQueue` makes the call again. A `list` does not notice. The
package's lists are compared in C, without waiting. A reference that is dropped there is the last
one only if its other owner lets go at that very moment, and must then wait for 20 µs. Not seen.

Not in this list: `extend` on a `list`, `sort`, `update`, iteration. They are for containers that
one thread has.

**Mutex order.** A thread sees what another thread wrote before an atomic call if it makes a later
atomic call *on the same object*: the first call releases the mutex, the second acquires it. Lock
release and acquire order alike. The package relies on no other order between threads, except for a
fence. A plain read orders nothing by itself; its comment names the call that orders it.

**Plain read.** Reading one attribute, one item (`x[i]` of a list; `d[k]`, `get` or `in` of a dict;
`in` of a set) or the truth value of a container while another thread writes it gives the old or the
new value, never a torn one. It takes no mutex. A container may show its new length before its new
item: `if d: d[k]` may raise KeyError, `if x: x[0]` IndexError.

**Unique count.** `next(itertools.count())` never gives a number twice.

**Try-lock.** `Lock.acquire(False)` succeeds in at most one thread per release. Any thread may call
`Lock.release`.

**No code inside.** No atomic call, and neither `Lock.acquire(False)` nor `Lock.release`, runs
Python code while it holds its mutex. The finalizer of a dropped object is the exception: by then
the call has done its work, and it releases the mutex where the finalizer waits. Between two calls
anything may run on the same thread: a signal handler, or a `__del__` that the collector calls.
Hence no protocol of the package holds a lock from one call to the next. Each step is one atomic
call, and any thread, this one included, may meet the state between two steps.

**Fence.** An atomic call is a fence, too: other threads see what this thread wrote before it before
what this thread reads after it. (Taking and releasing the mutex are sequentially consistent
read-modify-writes. Slots are stored with release. Reads of slots, dict look-ups and the length of a
deque begin with a sequentially consistent load; the length of another container does not.) Of two
threads that each write, make an atomic call, and then read what the other wrote, one sees the
other. Used where the two share no container: in the wait-for graph, the timers, and the protocols
of parking, combining and joining.
"""
