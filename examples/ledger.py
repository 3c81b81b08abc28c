"""A bank whose branches each have a lock: transfers take two at once, and no money is lost.

Two tenants move money all the time. One checks ten times as much in a transfer. As shares of the
pool they are to have equal times inside; as threads with `threading.Lock` they have what they take.
It prints the invariants, fairness and waits; its status is 1 if a cent is missing.
"""

import argparse
import itertools
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter as clock

from fairpool import FairPool, all_of, yield_now

ACCOUNTS, OPENING = 100, 1_000  # in each branch; in cents
BOOK = dict.fromkeys(range(ACCOUNTS), OPENING)
TENANTS = {"brief": 8, "thorough": 110}  # how often each adds up the books in a transfer
CLIENTS = [(tenant, number) for number in range(4) for tenant in TENANTS]


def transfer(source, target, dice, tenant, asked):
    """Move money, if there is enough. Nobody else may be at one of the two branches meanwhile."""
    entered = clock()
    payer, payee, amount = dice.randrange(ACCOUNTS), dice.randrange(ACCOUNTS), dice.randrange(200)
    has, gets = source[payer], target[payee]
    for _ in range(TENANTS[tenant]):
        sum(source.values())
    amount = min(amount, has)
    source[payer], target[payee] = has - amount, gets + amount
    return tenant, amount, entered - asked, clock() - entered


def with_fairpool(branches, transfers, workers):
    async def client(tenant, number):
        dice, log = random.Random(f"{tenant} {number}"), []
        while next(turn) < transfers:
            one, other = dice.sample(bank, 2)
            asked = clock()
            async with all_of(one, other) as (source, target):
                log.append(transfer(source, target, dice, tenant, asked))
            await yield_now()  # the other clients are as hungry
        return log

    turn = itertools.count()
    with FairPool(workers) as pool:
        bank = [pool.guarded(BOOK.copy, order="usage", strict=True) for _ in range(branches)]
        futures = [pool.share(who[0]).submit(client, *who) for who in CLIENTS]
        log = [entry for future in futures for entry in future.result()]
        return [branch.submit(dict).result() for branch in bank], log


def with_threads(branches, transfers, workers):
    def client(tenant, number):
        dice, log = random.Random(f"{tenant} {number}"), []
        while next(turn) < transfers:
            one, other = dice.sample(range(branches), 2)
            asked = clock()
            with locks[min(one, other)], locks[max(one, other)]:
                log.append(transfer(books[one], books[other], dice, tenant, asked))
        return log

    books, turn = [BOOK.copy() for _ in range(branches)], itertools.count()
    locks = [threading.Lock() for _ in books]
    with ThreadPoolExecutor(len(CLIENTS)) as pool:  # with fewer, some would never begin
        futures = [pool.submit(client, *who) for who in CLIENTS]
        return books, [entry for future in futures for entry in future.result()]


def report(name, books, log):
    """Print what a run has shown; return whether all the money is there."""
    total, moved = sum(sum(book.values()) for book in books), sum(entry[1] for entry in log)
    held = {tenant: sum(entry[3] for entry in log if entry[0] == tenant) for tenant in TENANTS}
    jain = sum(held.values()) ** 2 / (len(held) * sum(time**2 for time in held.values()))
    waits = sorted(entry[2] * 1e3 for entry in log)
    high = waits[len(waits) * 99 // 100]
    print(f"{name}: {len(log):,} transfers, {moved:,} cents moved, {total:,} are there")
    shares = ", ".join(f"{tenant} {time:.3f} s" for tenant, time in held.items())
    print(f"  inside the locks: {shares}; Jain's index of that {jain:.2f}")
    print(f"  waits: median {waits[len(waits) // 2]:.3f} ms, 99 % {high:.2f}, last {waits[-1]:.2f}")
    return total == len(books) * ACCOUNTS * OPENING and min(map(min, map(dict.values, books))) >= 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--branches", type=int, default=5)
    parser.add_argument("--transfers", type=int, default=4_000)
    parser.add_argument("--workers", type=int, default=None, help="default: one for each processor")
    options = parser.parse_args()
    runs = {"FairPool": with_fairpool, "ThreadPoolExecutor": with_threads}
    kept = [report(name, *run(**vars(options))) for name, run in runs.items()]
    print("no money was lost" if all(kept) else "MONEY WAS LOST")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
