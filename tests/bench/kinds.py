"""Lock kinds: fairpool's locks, and the controls that they are measured against.

Each kind runs critical sections, which are plain functions, with `await kind.call(section)`. It
works alike in a simulation and for real. `KINDS` has those that need a FairPool:

- `ticket`: the pool's lock as it is made without arguments.
- `usage`: that of the share first that has used it least; each client has a share of its own.
- `by task`: that of the task first, without shares.
- `no home`: ticket order, and a lock is served where its pass begins.
- `unbounded`: combining as in CES (arXiv 2511.09194). A pass ends when nobody waits, and what lies
  on the combiner's worker waits for it.
- `dispatch`: a lock that wakes its next waiter. A section runs where its task runs.
- `actor`: one task is the server, and requests reach it in a `Queue`.

`Tonio` is the lock of another runtime, and works for real only.

`no home` and `unbounded` are switches of private constants (`contend.without`): a run enters
`switched` before the kind is made, and leaves it after the last section.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from contend import without
from harness import require

import fairpool
from fairpool import FairPool, Future, Lock, Queue, QueueShutDown, Semaphore

T = TypeVar("T")

Client = Callable[[], Coroutine[Any, Any, None]]
"""A client or a bystander: a coroutine function that is called once."""


class Kind:
    """What a measurement needs of a lock and its runtime."""

    without: tuple[str, ...] = ()
    """The mechanisms that are switched off meanwhile."""

    async def call(self, section: Callable[[], T]) -> T:
        """Run a critical section; return what it returns, or raise what it raises."""
        raise NotImplementedError

    async def yield_now(self) -> None:
        """Let other tasks go first."""
        raise NotImplementedError

    def run(self, clients: list[Client], bystanders: list[Client]) -> None:
        """Run them all, to their ends."""
        raise NotImplementedError


class PoolKind(Kind):
    """A kind whose clients are tasks of a FairPool."""

    def __init__(self, pool: FairPool) -> None:
        self.pool = pool

    async def yield_now(self) -> None:
        await fairpool.yield_now()

    def submit(self, number: int, client: Client) -> Future[Any]:
        return self.pool.submit(client)

    def run(self, clients: list[Client], bystanders: list[Client]) -> None:
        futures = [self.submit(number, client) for number, client in enumerate(clients)]
        futures += [self.pool.submit(bystander) for bystander in bystanders]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]


class Ticket(PoolKind):
    """First come, first served."""

    def __init__(self, pool: FairPool) -> None:
        super().__init__(pool)
        self.lock = self.make_lock()

    def make_lock(self) -> Lock:
        return self.pool.lock()

    async def call(self, section: Callable[[], T]) -> T:
        async with self.lock:
            return section()


class Usage(Ticket):
    """The share first that has used the lock least; a share for each client."""

    def make_lock(self) -> Lock:
        return self.pool.lock(order="usage")

    def submit(self, number: int, client: Client) -> Future[Any]:
        return self.pool.share(f"client-{number}").submit(client)


class UsageByTask(Ticket):
    """The task first that has used the lock least."""

    def make_lock(self) -> Lock:
        return self.pool.lock(order="usage", charge="task")


class NoHome(Ticket):
    """No worker is preferred."""

    without = ("home",)


class Unbounded(Ticket):
    """The combiner serves as long as anybody waits."""

    without = ("bound", "home")


class Dispatch(PoolKind):
    """The end of a section gives the permit to the next waiter, which becomes runnable."""

    def __init__(self, pool: FairPool) -> None:
        super().__init__(pool)
        self.permit = Semaphore(1)

    async def call(self, section: Callable[[], T]) -> T:
        async with self.permit:
            return section()


class Actor(PoolKind):
    """The server task runs all sections; a client awaits the future of its request."""

    def __init__(self, pool: FairPool) -> None:
        super().__init__(pool)
        self.requests: Queue[tuple[Future[Any], Callable[[], Any]]] = Queue()

    async def call(self, section: Callable[[], T]) -> T:
        future: Future[T] = Future()
        self.requests.put_nowait((future, section))
        return await future

    async def serve(self) -> None:
        while True:
            try:
                future, section = await self.requests.get()
            except QueueShutDown:
                return
            try:
                result = section()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

    def run(self, clients: list[Client], bystanders: list[Client]) -> None:
        server: Future[Any] = self.pool.submit(self.serve)
        try:
            super().run(clients, bystanders)
        finally:
            self.requests.shutdown()
            server.result()


class Tonio(Kind):
    """The lock of tonio, on its own runtime."""

    def __init__(self, run: Callable[[Any], Any]) -> None:
        """`run(main())` runs a coroutine on the runtime, to its end."""
        self.runtime_run = run
        self.tonio = require("tonio.colored", "spawn", "yield_now")
        self.lock = require("tonio.colored.sync", "Lock").Lock()

    async def call(self, section: Callable[[], T]) -> T:
        async with self.lock:
            return section()

    async def yield_now(self) -> None:
        await self.tonio.yield_now()

    def run(self, clients: list[Client], bystanders: list[Client]) -> None:
        async def main() -> float:
            await self.tonio.spawn(*[each() for each in (*clients, *bystanders)])
            return 0.0

        self.runtime_run(main())


KINDS: dict[str, type[PoolKind]] = {
    "ticket": Ticket,
    "usage": Usage,
    "by task": UsageByTask,
    "no home": NoHome,
    "unbounded": Unbounded,
    "dispatch": Dispatch,
    "actor": Actor,
}


@contextmanager
def switched(kind: type[Kind]) -> Iterator[None]:
    """Switch off what the kind does without."""
    with ExitStack() as stack:
        for mechanism in kind.without:
            stack.enter_context(without(mechanism))
        yield
