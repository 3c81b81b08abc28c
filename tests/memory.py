"""What there is in a process: how much memory, how many threads and objects of the package's."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter

MEBIBYTE = 1 << 20


def resident() -> int:
    """The bytes of memory that this process has now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def threads() -> int:
    """The threads of this process, with those that end; Python's where the system does not say.

    A thread leaves `threading.enumerate` before what its locals keep is freed: a worker, and with
    that the pool.
    """
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def wait_for_threads(count: int, seconds: float) -> None:
    """Wait until there are no more than `count` threads, or fail.

    Those of a pool that was dropped, or shut down without `wait`, end on their own.
    """
    end = time.monotonic() + seconds
    while threads() > count:
        assert time.monotonic() < end, f"threads are left: {threading.enumerate()}"
        time.sleep(0.001)


def of_the_package(count: int, seconds: float) -> Counter[str]:
    """How many objects there are of each of the package's classes, once there are `count` threads.

    A collection may start the thread that logs what nobody has retrieved, and that keeps the
    frames of an error for so long: so it is waited for, and what it kept is collected as well.
    """
    found: Counter[str] | None = None
    while True:
        gc.collect()
        wait_for_threads(count, seconds)
        fewer = Counter(
            f"{kind.__module__}.{kind.__qualname__}"
            for kind in map(type, gc.get_objects())
            if kind.__module__.partition(".")[0] == "fairpool"
        )
        if found is not None and fewer.total() >= found.total():
            return fewer
        found = fewer
