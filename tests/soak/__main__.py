"""Everything public at once, for long, with faults: nothing hangs, nothing is lost, nothing stays.

    python tests/soak [--seconds 600] [--seed N] [--rounds N]

A round has a pool of its own, some threads (the *parties*) that do one act after the other (see
`acts.py`), and faults (`faults.py`); then it is let end, and what must hold at the end is checked
(`World.finish`). A pool that is there from the first round to the last is used by all.

The seed of each round is printed when it fails; `--seed N --rounds 1` does that one again, as far
as the threads allow.

Memory: after the warm-up, a tenth of the time, and again at the end, all threads of the pools have
ended and the collector has run. The objects of the package's classes are counted by class, and must
be as many; the resident memory may have grown by `GROWTH_MAX`.

Ends with 1 if something was wrong, and be it a critical message of the package's that no fault
explains; with 3, after a dump of all pools and stacks, if for `STUCK_SECONDS` no act of a round,
nor its end, has come to an end.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import pathlib
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from memory import MEBIBYTE, of_the_package, resident, threads
from soak.acts import ACTS, ON_CALLERS, Act, perform
from soak.world import World, outcome
from watchdog import Watchdog

from fairpool import FairPool
from fairpool._core.waitgraph import waiting_tasks

# An act takes milliseconds. Not counted for the whole of a round: where other programs take the
# processors, that may last minutes, without being stuck.
STUCK_SECONDS = 90
PARTIES_MAX = 6
ACTS_OF_A_PARTY = 25
GROWTH_MAX = 16 * MEBIBYTE
# The only critical message that a fault explains: no memory for a continuation.
EXPLAINED = "CRITICAL: %s cannot be suspended"


class Log(logging.Handler):
    """Counts what the package says, instead of printing it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.levelname}: {record.msg}")


def party(world: World, seed: str, progress: Callable[[], None]) -> None:
    chance = random.Random(seed)
    for number in range(ACTS_OF_A_PARTY):
        act: Act = chance.choice(ACTS if world.has_workers else ON_CALLERS)
        name = act.__name__.removeprefix("act_")
        step = f"{seed}, act {number}"
        try:
            if world.has_workers:
                act(world, random.Random(step))
            else:
                world.pool.run(perform, act, world, step)
            world.done.append(name)
        except BaseException as error:
            if not world.excuses(error):
                error.add_note(f"in {name} of {step}")
                world.errors.append(error)
                return
            world.done.append(name)
            world.done.append("excused")
        progress()


def close(world: World, seed: str) -> None:
    chance = random.Random(seed)
    time.sleep(chance.random() * 0.3)
    world.pool.shutdown(wait=False, cancel_futures=chance.randrange(2) == 0)


def play(seed: str, tally: Counter[str], progress: Callable[[], None]) -> None:
    """One round."""
    world = World(seed)
    parties = [f"{seed}, party {i}" for i in range(1 + random.Random(seed).randrange(PARTIES_MAX))]
    bodies: list[Any] = [
        threading.Thread(target=party, args=(world, name, progress)) for name in parties
    ]
    if world.closes:
        bodies.append(threading.Thread(target=close, args=(world, f"{seed}, close")))
    with world.faults.in_place():
        for body in bodies:
            body.start()
        for body in bodies:
            body.join()
    if world.errors:
        raise world.errors[0]
    world.finish()
    if world.errors:
        raise world.errors[0]
    tally.update(f"act: {name}" for name in world.done)
    tally.update(f"fault: {name}" for name in world.faults.counts)
    tally.update(f"future: {outcome(future)}" for future in world.futures)
    tally["section: served"] += sum(account.total for account in world.accounts)
    tally["callback: called"] += len(world.calls)
    tally["round: " + ("workers" if world.has_workers else "callers only")] += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--seconds", type=float, default=600, help="how long; default 600")
    parser.add_argument("--seed", type=int, default=None, help="of the first round")
    parser.add_argument("--rounds", type=int, default=None, help="how many, instead of a time")
    options = parser.parse_args()
    first = random.randrange(10**9) if options.seed is None else options.seed
    watchdog = Watchdog(os.dup(2))
    alone = threads()
    log = Log()
    logger = logging.getLogger("concurrent.futures")
    logger.addHandler(log)
    logger.propagate = False

    # Seen before any pool: what is there then is there for good.
    FairPool(1).submit(int).result()
    print(
        f"soak: {options.seconds:.0f} s from seed {first} on {sys.version.split()[0]}", flush=True
    )
    tally: Counter[str] = Counter()
    began = time.monotonic()
    number = 0
    objects: Counter[str] = Counter()
    memory = highest = 0
    while True:
        passed = time.monotonic() - began
        if not memory and number and (passed > options.seconds / 10 or number == options.rounds):
            objects, memory = of_the_package(alone, STUCK_SECONDS), resident()
            print(f"soak: warm after {number} rounds: {memory / MEBIBYTE:.1f} MiB", flush=True)
        if number == options.rounds or (options.rounds is None and passed > options.seconds):
            break
        seed = str(first + number)
        watchdog.watch(f"soak: round with seed {seed}", STUCK_SECONDS)
        try:
            play(seed, tally, watchdog.progress)
        except BaseException:
            traceback.print_exc()
            print(f"soak: FAILED with seed {seed}: --seed {seed} --rounds 1")
            return 1
        gc.collect()  # what is in the dump is then of this round
        watchdog.rest()
        number += 1
        highest = max(highest, resident())
    watchdog.watch("soak: the end", STUCK_SECONDS)
    objects_left = of_the_package(alone, STUCK_SECONDS) - objects
    assert not waiting_tasks
    grown = resident() - memory
    tally.update(f"log: {said}" for said in log.said)
    for name in sorted(tally):
        print(f"{tally[name]:>12,}  {name}")
    print(
        f"soak: {number} rounds in {time.monotonic() - began:.0f} s; "
        f"memory {grown / MEBIBYTE:+.1f} MiB since the warm-up, at most {highest / MEBIBYTE:.1f}; "
        f"objects left: {dict(objects_left)}"
    )
    critical = {name for name in log.said if name.startswith("CRITICAL")} - {EXPLAINED}
    if critical:
        print(f"soak: FAILED: the package has said {critical}")
        return 1
    if objects_left or grown > GROWTH_MAX:
        print("soak: FAILED: memory is not back to where it began")
        return 1
    print("soak: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
