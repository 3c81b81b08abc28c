"""`Watchdog`: ends the process when something takes too long, and says what was going on."""

from __future__ import annotations

import faulthandler
import io
import os
import sys
import threading
import time

HANG_EXIT_STATUS = 3
PERIOD = 0.5  # seconds; only decides how late a hang is noticed


class Watchdog:
    """A daemon thread that ends the process when one thing takes too long.

    It takes no lock that a test could hold: what is in progress is one attribute, which the main
    thread replaces and the watchdog reads. It polls, because a condition to wait on would be one
    more thing that a broken test can leave locked.
    """

    def __init__(self, stderr_fd: int) -> None:
        """Start watching; reports go to *stderr_fd*, which the watchdog then owns."""
        self.stderr_fd = stderr_fd
        self._watched: tuple[str, float, float] | None = None
        threading.Thread(target=self._run, name="test-watchdog", daemon=True).start()

    def watch(self, nodeid: str, seconds: float) -> None:
        self._watched = (nodeid, seconds, time.monotonic() + seconds)

    def progress(self) -> None:
        """What is watched has come further: it has all of its seconds again."""
        watched = self._watched
        if watched is not None:
            self.watch(*watched[:2])

    def rest(self) -> None:
        self._watched = None

    def _run(self) -> None:
        while True:
            time.sleep(PERIOD)
            watched = self._watched
            if watched is not None and time.monotonic() > watched[2]:
                self._bark(watched[0], watched[1])

    def _bark(self, nodeid: str, seconds: float) -> None:
        self._say(f"\n\n{nodeid}: no end after {seconds:.0f} s; pools and stacks follow\n")
        try:
            # First the stacks: faulthandler needs nothing from the pools, and cannot fail on them.
            faulthandler.dump_traceback(file=self.stderr_fd, all_threads=True)
            self._say(describe_live_pools())
        except BaseException as error:
            self._say(f"watchdog: {error!r}\n")
        finally:
            os._exit(HANG_EXIT_STATUS)

    def _say(self, text: str) -> None:
        os.write(self.stderr_fd, text.encode("utf-8", "backslashreplace"))


def describe_live_pools() -> str:
    """Return the dumps of all live pools; whatever fails is told in the text instead of raised."""
    # Not imported here: a hung test may hold the import lock.
    scheduler_module = sys.modules.get("fairpool._scheduler.process")
    dump_module = sys.modules.get("fairpool._inspect.dump")
    out = io.StringIO()
    if scheduler_module is None or dump_module is None:
        return "no pool was made\n"
    for scheduler in scheduler_module.live():
        try:
            dump_module.dump(scheduler, out)
        except Exception as error:
            out.write(f"{scheduler!r} cannot be dumped: {error!r}\n")
    return out.getvalue() or "no live pool\n"
