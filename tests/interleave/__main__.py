"""All of it: every bug is found, and then nothing is, in as many schedules as are wanted.

    python tests/interleave [--schedules 100000] [--jobs N] [name ...]

Prints for each bug the scenario that found it, the number of schedules that took, and the seed;
then for each scenario the number of schedules without a failure. Ends with 1 if a bug was not
found, or a scenario failed.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from interleave.bugs import BUGS
from interleave.jobs import SCENARIOS, explore, find, take_processor


def main() -> int:
    parser = argparse.ArgumentParser(prog="interleave")
    parser.add_argument("--schedules", type=int, default=100_000, help="of all scenarios together")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("names", nargs="*", help="parts of the names of bugs and scenarios")
    options = parser.parse_args()

    def wanted(name: str) -> bool:
        return not options.names or any(part in name for part in options.names)

    bugs = [i for i, bug in enumerate(BUGS) if wanted(bug.name)]
    scenarios = [i for i, scenario in enumerate(SCENARIOS) if wanted(scenario.__name__)]
    each = -(-options.schedules // max(len(scenarios), 1))
    wrong = 0
    start = time.perf_counter()
    context = get_context("spawn")
    numbers = context.Queue()
    for number in range(options.jobs):
        numbers.put(number)
    with ProcessPoolExecutor(options.jobs, context, take_processor, (numbers,)) as pool:
        print(f"{'bug':<72} {'scenario':<33} {'schedules':>9} {'of':>6} {'seed':>6}  found as")
        for i, (needed, seed, what, _) in zip(bugs, pool.map(find, bugs), strict=True):
            bug = BUGS[i]
            row = f"{bug.name:<72} {bug.scenario.__name__:<33}"
            if needed:
                print(f"{row} {needed:>9} {bug.schedules:>6} {seed:>6}  {what}", flush=True)
            else:
                wrong += 1
                print(f"{row} NOT FOUND in {bug.schedules}", flush=True)
        print(f"\n{'scenario':<33} {'schedules':>9} {'ms each':>8}")
        total = 0
        runs = pool.map(explore, scenarios, [each] * len(scenarios))
        for i, (count, text, seconds) in zip(scenarios, runs, strict=True):
            total += count
            name = SCENARIOS[i].__name__
            print(f"{name:<33} {count:>9} {seconds / count * 1e3:>8.2f}", flush=True)
            if text:
                wrong += 1
                print(text)
    print(
        f"\n{len(bugs)} bugs, {total} schedules, {wrong} failures, "
        f"{time.perf_counter() - start:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
