"""One tiny behavior many times, on bocpy: a program of its own, because bocpy's workers import it.

`python bench_bocpy.py CLIENTS COUNT WORKERS` prints seconds per increment as JSON. Each client's
behavior increments the counter, and schedules the client's next one: as a task does which enters a
lock again and again.
"""

import sys
import time

from bocpy import Cown, start, wait, when


def increment(counter, left):
    """Schedule `left` increments, one after the other."""

    @when(counter)
    def _(counter):
        counter.value += 1
        if left > 1:
            increment(counter, left - 1)


def main():
    clients, count, workers = map(int, sys.argv[1:])
    start(worker_count=workers)
    counter = Cown(0)
    begin = time.perf_counter()
    for _ in range(clients):
        increment(counter, count)
    wait()
    seconds = time.perf_counter() - begin
    print(f'{{"cost": {seconds / (clients * count)}}}')


if __name__ == "__main__":
    main()
