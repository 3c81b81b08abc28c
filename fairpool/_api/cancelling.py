"""How a block asks its task to end, and later takes back that request and no other.

`TaskGroup` and `timeout` cancel a task from within. Each makes one `CancelRequest` of its own, and
counts which requests were thrown into the task: a request of somebody else is never swallowed, and
none is invented (docs/protocols/tasks.md).
"""

from __future__ import annotations

from asyncio import _get_running_loop
from logging import ERROR

from fairpool._api.tasks import current_task
from fairpool._core.report import log
from fairpool._tasks.cancel import CancelRequest
from fairpool._tasks.task import AnyTask


def task_that_enters(what: str) -> AnyTask:
    task = current_task()
    if task is None or _get_running_loop() is not None:
        raise RuntimeError(
            f"{what} works only in tasks of a FairPool, and none is running here: submit this "
            "code to a pool, or use asyncio's in an asyncio loop"
        )
    return task


def interrupt(task: AnyTask, request: CancelRequest, block: object) -> None:
    """`Task.interrupt`, for a block, with a request that can be taken back. Logs what it raises."""
    try:
        if task.add_request(request):
            task._signal()
    except BaseException:  # of a foreign future's `cancel`, or a MemoryError
        log(ERROR, "%r could not cancel what its task waits for", block, exc_info=True)


def delivered(task: AnyTask) -> int:
    """How many of the requests to `task` were thrown already. Called by the task itself."""
    return sum(request.delivered for request in task.cancel_requests())


def deliver_again(task: AnyTask) -> None:
    """Have the latest request of somebody else, which was swallowed here, thrown once more.

    The same request, not a new one: its maker may want to take it back. Called by the task itself.
    The request is thrown at the next `await` that suspends.
    """
    requests = task.cancel_requests()
    if requests:
        requests[-1].delivered = False
        task._signal()
