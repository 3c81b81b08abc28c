"""`Generators`: the asynchronous generators that were iterated in a pool, and how they are closed.

See "Asynchronous generators" in `docs/protocols/shutdown.md`.
"""

from __future__ import annotations

from contextvars import copy_context
from functools import partial
from logging import WARNING
from weakref import ref

from fairpool._core.foreign import describe
from fairpool._core.report import log
from fairpool._core.types import AnyGenerator
from fairpool._scheduler.intake import Intake
from fairpool._tasks import host
from fairpool._tasks.chain import Closing
from fairpool._tasks.future import Future


class Generators(Intake):
    """What watches the asynchronous generators of a pool, and closes those that were left."""

    __slots__ = ("generators",)

    def _reset(self) -> None:
        super()._reset()
        # Weak references to the asynchronous generators that were first iterated here.
        self.generators: set[ref[AnyGenerator]] = set()

    def watch_generator(self, generator: AnyGenerator) -> None:
        """An asynchronous generator is iterated for the first time, by one of the workers."""
        self.generators.add(ref(generator, self.generators.discard))

    def close_generator(self, generator: AnyGenerator) -> None:
        """One is freed that was left early: let it clean up in a task.

        A finalizer: on any thread, at any moment.
        """
        if not self.close_reason:
            try:
                self.put(_make_closing(self, generator))
            except Exception:  # closed since, or there is no thread for it
                pass
            else:
                return
        closing = _make_closing(self, generator)
        self.injector.append(closing)  # shutdown: enqueue_closing
        # shutdown: look_for_worker. A worker that is listed now looks at the queues after it has
        # been taken from the list.
        if self.workers.copy():
            self.notify_if_free()
        elif closing.drop():
            _close_now(generator)

    def _close_generators(self) -> bool:
        """Queue the closing of all that were left. The pool is closed, and nobody runs anything."""
        generators: list[AnyGenerator] = []
        while True:
            try:
                generator = self.generators.pop()()
            except KeyError:
                break
            if generator is not None:
                generators.append(generator)
        if generators:
            self.injector.append(_make_closing(self, *generators))
        return bool(generators)


def _make_closing(scheduler: Generators, *generators: AnyGenerator) -> Closing:
    """A task that closes asynchronous generators, to be queued."""
    task: Closing = Closing()
    task._pool = scheduler  # type: ignore[assignment]  # as in `Intake.make_task`
    close = partial(host.coroutines.close_generators, generators)
    task._status = [(copy_context(), None, _DONE, (), None, None, close)]
    return task


_DONE: Future[None] = Future()
_DONE.set_result(None)


def _close_now(generator: AnyGenerator) -> None:
    """Close one up to its first suspension: the pool has ended, and nothing would resume it.

    What it raises is the finalizer's, as it is where there are no hooks.
    """
    closing = generator.aclose()
    try:
        closing.send(None)
    except (StopIteration, StopAsyncIteration):
        return
    message = "the asynchronous generator %s cannot clean up: its pool has ended"
    log(WARNING, message, describe(generator))
    closing.close()
