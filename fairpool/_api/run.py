"""`run`: one coroutine in a pool of its own."""

from __future__ import annotations

from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

from fairpool._api.pool import FairPool
from fairpool._core.here import here
from fairpool._core.signals import handle_ctrl_c
from fairpool._scheduler.caller import AwaitingCaller
from fairpool._scheduler.ctrl_c import may_be_cut_off
from fairpool._tasks.coroutines import claim_coroutine, is_coroutine
from fairpool._tasks.task import Task
from fairpool._tasks.thread_wait import wait

T = TypeVar("T")


def run(coro: Coroutine[Any, Any, T], *, max_workers: int | None = None, **options: Any) -> T:
    """Run a coroutine in a pool of its own, and return its result.

    `max_workers` and `options` are those of `FairPool`. With `max_workers=0` the calling thread
    runs everything. Ctrl-C cancels the coroutine and lets it clean up; then KeyboardInterrupt is
    raised. What the coroutine leaves running is cancelled, as in `asyncio.run`.

    Raises what the coroutine raises. Raises TypeError for what is no coroutine, and RuntimeError
    inside a task or for a coroutine object that another task has.
    """
    if not is_coroutine(coro):
        raise TypeError(f"run() takes a coroutine, as in run(main()), not {coro!r}")
    claim_coroutine(coro)
    if here.worker is not None:
        coro.close()
        raise RuntimeError("run() would start a second pool in a task: await the coroutine instead")
    try:
        pool = FairPool(max_workers, **options)
    except BaseException:
        coro.close()
        raise
    scheduler = pool._scheduler
    task: Task[T] = scheduler.make_task(coro)
    pressed: list[None] = []

    def on_ctrl_c(signum: int, frame: FrameType | None) -> None:
        # The first Ctrl-C cancels only the coroutine, which may need other tasks to clean up. If
        # all were cancelled, one that ends at once could let the coroutine into its clean-up before
        # it is cancelled itself. Each further Ctrl-C ends a wait.
        pressed.append(None)
        if len(pressed) == 1:
            task.cancel()
        elif may_be_cut_off(frame):
            raise KeyboardInterrupt

    def finish() -> None:
        if scheduler.max_workers:
            wait(task, None)
        else:  # the pool has no other thread
            AwaitingCaller(scheduler, task, None).run()

    def body() -> None:
        try:
            try:
                scheduler.put(task)
                finish()
            except BaseException:  # raised by a signal handler of the program
                if not pressed:
                    task.cancel()
                    finish()
                raise
        finally:
            # What the coroutine has left running is cancelled, as in asyncio.run.
            pool.shutdown(wait=False, cancel_futures=True)
            scheduler.cancel_all()
            pool.shutdown()

    handle_ctrl_c(on_ctrl_c, body)
    if pressed:
        raise KeyboardInterrupt
    try:
        return task.result()
    finally:
        task = coro = None  # type: ignore[assignment]  # what is raised holds this frame: no cycle
