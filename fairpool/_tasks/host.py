"""What the tasks ask of the rooms above them: one `Protocol` for each role.

The host of a task is the pool that runs it (`Future._pool`). The methods are called from any
thread, unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

__all__ = ["Coroutines", "coroutines"]


class Coroutines(Protocol):
    """The coroutine functions that tasks run on the package's own behalf.

    They live above, because a compiled coroutine function makes no `types.CoroutineType`.
    """

    def wait_for(self, future: Any) -> Coroutine[Any, Any, Any]:
        """Have the outcome of `future`, which may be another executor's."""
        ...

    def pass_through(self, source: Any, outcome: Any) -> Coroutine[Any, Any, Any]:
        """Wait for `outcome`, which may be a coroutine, and then have the outcome of `source`."""
        ...


# Set once, by the module that defines them, when the package is imported.
coroutines: Coroutines
