"""The coroutine functions that links run: see `Coroutines` in `_tasks/host.py`."""

from __future__ import annotations

from typing import Any

from fairpool._tasks import host
from fairpool._tasks.wrap import wrap_future

__all__: list[str] = []


async def _wait_for(future: Any) -> Any:
    try:
        return await wrap_future(future)
    finally:
        del future  # the traceback of what is raised holds this frame: no cycle


async def _pass_through(source: Any, outcome: Any) -> Any:
    try:
        await outcome
        return await source
    finally:
        del source, outcome  # no cycle, as above


class _Coroutines:
    wait_for = staticmethod(_wait_for)
    pass_through = staticmethod(_pass_through)


host.coroutines = _Coroutines()
