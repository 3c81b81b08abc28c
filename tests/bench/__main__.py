"""Run the benchmarks and print one table: `python tests/bench [names…] [--quick]`.

`python tests/bench --against OLD.whl [rows…]` compares two versions of fairpool instead: see
`against`.

Each benchmark runs in an interpreter of its own, with a time limit, so that one that hangs or
crashes costs its own row and no other. The exit status says only whether the program itself worked,
never whether a number was good.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import against
import bench_beside  # noqa: F401  (registers its benchmarks)
import bench_costs  # noqa: F401  (registers its benchmarks)
import bench_executor  # noqa: F401  (registers its benchmarks)
import bench_joined  # noqa: F401  (registers its benchmarks)
import bench_locks  # noqa: F401  (registers its benchmarks)
import bench_shares  # noqa: F401  (registers its benchmarks)
import bench_tasks  # noqa: F401  (registers its benchmarks)
import bench_workloads  # noqa: F401  (registers its benchmarks)
from harness import (
    BENCHMARKS,
    PROBES,
    NotThereYet,
    Row,
    Size,
    gil_enabled,
    heading,
    run_child,
    table,
)

TIME_LIMIT = 900.0
"""Seconds for one benchmark: several times what the longest one takes at its full size."""


def run_here(name: str, size: Size) -> list[Row]:
    """Run one benchmark in this process."""
    before = gil_enabled()
    rows = BENCHMARKS[name](size)
    if gil_enabled() != before:
        rows.append(Row(f"{name}: an import has switched the GIL on", "", ""))
    return rows


def run_apart(name: str, size: Size) -> list[Row]:
    """Run one benchmark in an interpreter of its own."""
    quick = ["--quick"] if size.quick else []
    try:
        answer = run_child("--here", name, "--json", *quick, timeout=TIME_LIMIT, own_group=True)
    except Exception as error:
        return [Row(name, f"failed: {error}", "", met="no")]
    return [Row(**row) for row in answer["rows"]]


def check_names(parser: argparse.ArgumentParser, names: list[str], known: list[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds")
    parser.add_argument("--here", action="store_true", help="in this process (for a profiler)")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    versions = parser.add_argument_group("old against new", "names are then rows of `against`")
    versions.add_argument("--against", type=Path, metavar="OLD.whl", help="the older version")
    versions.add_argument(
        "--with", dest="new", type=Path, metavar="NEW.whl", help="the newer one: else the installed"
    )
    versions.add_argument("--rounds", type=int, default=20, help="pairs of each row (20)")
    versions.add_argument("--loss", type=float, default=3.0, help="per cent that may be lost (3)")
    versions.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="what a cost is: time, or processor time of all threads (wall)",
    )
    versions.add_argument(
        "--pin",
        choices=["yes", "no", "both"],
        default="yes",
        help="whether each worker is pinned to one processor (yes)",
    )
    versions.add_argument("--serve-rows", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.serve_rows:
        return against.serve()
    if options.against:
        check_names(parser, options.names, list(against.ROWS))
        pinnings = {"yes": [True], "no": [False], "both": [True, False]}[options.pin]
        print(heading())
        against.compare_versions(
            options.against,
            options.new,
            options.names,
            options.rounds,
            options.loss / 100,
            options.clock,
            pinnings,
        )
        return 0

    if options.probe:
        function, arguments = options.probe
        try:
            print(json.dumps(PROBES[function](*json.loads(arguments))))
        except NotThereYet as missing:
            print(json.dumps({"missing": str(missing)}))
        return 0

    check_names(parser, options.names, list(BENCHMARKS))
    size = Size(options.quick)
    title = heading()
    rows: list[Row] = []
    for name in options.names or BENCHMARKS:
        if sys.stderr.isatty():
            print(f"{name} …", file=sys.stderr)
        rows += run_here(name, size) if options.here else run_apart(name, size)
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
        return 0
    print(f"{title}{' (--quick)' if size.quick else ''}\n")
    print(table(rows))
    print("\nNumbers are medians over the rounds; a ratio is the median (min–max) of the rounds'")
    print("pairs. Rates for `at least`, costs for `at most`. Worker threads are pinned.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
