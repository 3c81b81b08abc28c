"""A lost update, found and shown: a ledger without a lock, under many interleavings.

    pytest examples/test_ledger.py        or: python examples/test_ledger.py

Each account transfer reads, decides and writes; without a lock another task may do the same in
between. The same tests pass with the lock, for every schedule that is tried.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from fairpool import FairPool
from fairpool.testing import InterleavingError, NotLinearizable, Recorder, explore


class Ledger:
    """What is in each account, and never less than nothing."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.accounts = {"ada": 10, "bob": 0}

    def transfer(self, source: str, target: str, amount: int) -> bool:
        """Move an amount if it is there; whether it was."""
        with self._lock:
            balance = self.accounts[source]
            if balance < amount:
                return False
            self.accounts[source] = balance - amount
            self.accounts[target] = self.accounts[target] + amount
            return True


def two_transfers(pool: FairPool, lock: Any) -> None:
    """Two tasks that both want most of what is there: one gets it."""
    ledger = Ledger(lock)
    tasks = [pool.submit(ledger.transfer, "ada", "bob", 8) for _ in range(2)]
    assert sum(task.result() for task in tasks) == 1, "both were paid"
    assert ledger.accounts == {"ada": 2, "bob": 8}


def without_lock(pool: FairPool) -> None:
    two_transfers(pool, nullcontext())


def with_lock(pool: FairPool) -> None:
    two_transfers(pool, pool.lock())


def results_explained(pool: FairPool) -> None:
    """The same in other words: some order of the calls explains what each of them returned."""
    ledger = Recorder(Ledger(nullcontext()))
    for task in [pool.submit(ledger.transfer, "ada", "bob", 8) for _ in range(2)]:
        task.result()
    ledger.check(lambda: Ledger(nullcontext()))


def failure_of(scenario: Any) -> InterleavingError:
    try:
        explore(scenario, schedules=1000, seed=0)
    except InterleavingError as error:
        return error
    raise AssertionError("no interleaving fails")


def test_the_lost_update_is_found() -> None:
    error = failure_of(without_lock)
    assert isinstance(error.__cause__, AssertionError)
    assert failure_of(without_lock).history == error.history  # the same again, step for step


def test_the_lock_helps() -> None:
    assert explore(with_lock, schedules=1000, seed=0) == 1000


def test_no_order_explains_it() -> None:
    assert isinstance(failure_of(results_explained).__cause__, NotLinearizable)


if __name__ == "__main__":
    print(failure_of(without_lock))
    print(f"\nwith the lock: {explore(with_lock)} schedules, and no failure")
