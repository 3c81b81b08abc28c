"""An inverted index (word → files, with counts) of a folder of source text, built by a pool.

Reading and tokenizing a file is the non-critical work and runs on any worker; merging its words
into the one shared index is the critical section, which is run by the worker that the index lives
with. The result is checked against a plain run without any pool. By default, the standard library
of this interpreter is indexed.
"""

import argparse
import importlib.util
import os
import re
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import Future, as_completed
from pathlib import Path
from threading import current_thread
from time import perf_counter as clock
from typing import Any

from fairpool import FairPool

tqdm: Any = importlib.import_module("tqdm").tqdm if importlib.util.find_spec("tqdm") else None

Index = dict[str, dict[str, int]]
WORD = re.compile(r"[^\W\d]\w+")


def count_words(path: Path) -> Counter[str]:
    return Counter(WORD.findall(path.read_text("utf-8", errors="replace")))


def merge(index: Index, path: Path, words: Counter[str]) -> None:
    for word, count in words.items():
        index.setdefault(word, {})[str(path)] = count


def build(paths: list[Path], workers: int) -> tuple[Index, dict[str, list[float]]]:
    """The index, and for each worker: files, words, seconds outside and inside the lock."""

    async def scan(path: Path) -> None:
        reader, begin = current_thread().name, clock()
        words = count_words(path)
        counted = clock()
        async with shared as (index, accounts):  # from here to its end on the lock's worker
            entered = clock()
            merge(index, path, words)
            row = accounts[reader]
            row[:3] = row[0] + 1, row[1] + words.total(), row[2] + counted - begin
            accounts[current_thread().name][3] += clock() - entered

    with FairPool(workers, thread_name_prefix="index") as pool:
        shared = pool.guarded(lambda: (Index(), defaultdict[str, list[float]](lambda: [0] * 4)))
        futures = [pool.submit(scan, path) for path in paths]
        done: Iterable[Future[None]] = as_completed(futures)
        if tqdm and sys.stderr.isatty():  # a bar for whoever watches
            done = tqdm(done, total=len(paths), unit="file")
        for future in done:
            future.result()  # raises if the file could not be read
        with shared as (index, accounts):
            return index, accounts


def main() -> int:
    cores = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    parser = argparse.ArgumentParser(description="Index the words of a folder of Python files.")
    parser.add_argument("folder", nargs="?", type=Path, default=sysconfig.get_path("stdlib"))
    parser.add_argument("--workers", type=int, default=cores, help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="index only the first LIMIT files")
    options = parser.parse_args()
    found = sorted(p for p in options.folder.rglob("*.py") if "site-packages" not in p.parts)
    if not (paths := found[: options.limit]):
        parser.error(f"there is no *.py file in {options.folder}")

    plain, start = Index(), clock()
    for path in paths:
        merge(plain, path, count_words(path))
    no_pool, start = clock() - start, clock()
    build(paths, 1)
    one, start = clock() - start, clock()
    index, accounts = build(paths, options.workers)
    many = clock() - start

    print(f"{len(index):,} words in {len(paths):,} files of {options.folder}")
    for word in sorted(index, key=lambda w: (-sum(index[w].values()), w))[:10]:
        print(f"  {word:12} {sum(index[word].values()):8,} times in {len(index[word]):5,} files")
    for worker, (files, words, outside, inside) in sorted(accounts.items()):
        print(f"{worker}: {files:,} files, {words:,} words,", end=" ")
        print(f"{outside:.2f} s outside and {inside:.2f} s inside the critical section")
    print(f"{no_pool:.2f} s without a pool, {one:.2f} s with one worker,", end=" ")
    print(f"{many:.2f} s with {options.workers}: {one / many:.2f} times as fast as one")
    print("the index is", "correct" if index == plain else "WRONG")
    return int(index != plain)


if __name__ == "__main__":
    sys.exit(main())
