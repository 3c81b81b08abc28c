"""Threads that deposit into shared accounts under one lock, before and after one line is changed.

Before, the lock is a `threading.Lock`: whoever comes first when it is released gets it, and that is
mostly who has just released it. After, it is a lock of a pool that has no threads of its own:
first come, first served. Waits and throughput side by side; the sums are checked.
"""

import argparse
import threading
from collections.abc import Callable
from time import perf_counter as clock
from typing import Any

from fairpool import FairPool


def busy(seconds: float) -> None:
    """Compute something for so long."""
    end = clock() + seconds
    while clock() < end:
        pass


def program(
    lock: Any, count: int, turns: int, inside: float, outside: float
) -> tuple[float, list[float]]:
    """The whole program, which takes any lock. Returns its seconds, and how long each wait was."""
    accounts = dict.fromkeys(range(count), 0)
    waits: list[list[float]] = [[] for _ in range(count)]
    meeting = threading.Barrier(count + 1)

    def deposit(number: int) -> None:
        meeting.wait()
        for turn in range(turns):
            asked = clock()
            with lock:
                waits[number].append(clock() - asked)
                busy(inside)
                accounts[(number + turn) % count] += 1
            busy(outside)

    threads = [threading.Thread(target=deposit, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    meeting.wait()
    begin = clock()
    for thread in threads:
        thread.join()
    seconds = clock() - begin
    assert sum(accounts.values()) == count * turns, accounts
    return seconds, sorted(wait for each in waits for wait in each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--turns", type=int, default=200, help="of each; default: %(default)s")
    parser.add_argument("--inside", type=float, default=100, help="µs; default: %(default)s")
    parser.add_argument("--outside", type=float, default=100, help="µs; default: %(default)s")
    options = parser.parse_args()

    with FairPool(max_workers=0) as pool:
        makers: dict[str, Callable[[], Any]] = {"before": threading.Lock, "after": pool.lock}
        for name, make_lock in makers.items():
            lock = make_lock()  # the one line: `threading.Lock()`, then `pool.lock()`
            seconds, waits = program(
                lock, options.threads, options.turns, options.inside * 1e-6, options.outside * 1e-6
            )
            last = len(waits) - 1
            print(f"{name:6}: {len(waits) / seconds:8,.0f} sections a second; waits:", end=" ")
            print(f"median {waits[last // 2] * 1e3:.2f} ms,", end=" ")
            print(f"99 % {waits[last * 99 // 100] * 1e3:.2f} ms, longest {waits[-1] * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
