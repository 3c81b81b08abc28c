"""What there is in memory: how much, and how many objects of the package's."""

from __future__ import annotations

import gc
import os
from collections import Counter

MEBIBYTE = 1 << 20


def resident() -> int:
    """The bytes of memory that this process has now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def of_the_package() -> Counter[str]:
    """How many objects there are of each of the package's classes, after a collection."""
    gc.collect()
    return Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in map(type, gc.get_objects())
        if kind.__module__.partition(".")[0] == "fairpool"
    )
