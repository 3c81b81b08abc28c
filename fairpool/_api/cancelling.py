"""How a block asks its task to end, and later takes back that request and no other.

`TaskGroup` and `timeout` cancel a task from within. Each makes one `CancelRequest` of its own, and
counts which requests were thrown into the task: a request of somebody else is never swallowed, and
none is invented (docs/protocols/tasks.md).
"""

from __future__ import annotations

from asyncio import _get_running_loop

from fairpool._api.tasks import current_task
from fairpool._api.types import AnyTask
from fairpool._tasks.cancel import CancelRequest

__all__ = ["deliver_again", "delivered", "interrupt", "task_that_enters"]


def task_that_enters(what: str) -> AnyTask:
    task = current_task()
    if task is None or _get_running_loop() is not None:
        raise RuntimeError(
            f"{what} works only in tasks of a FairPool, and none is running here: submit this "
            "code to a pool, or use asyncio's in an asyncio loop"
        )
    return task


def interrupt(task: AnyTask, request: CancelRequest) -> None:
    """`Task.interrupt`, with a request that can be taken back whatever this raises."""
    cell = task._status
    if type(cell) is list:
        cell.append(request)  # X1 of docs/protocols/tasks.md
        task._signal()


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
