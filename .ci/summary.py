"""Print what ran, as a table: summary.py REPORT..., where each is tox's --result-json.

Fails when an environment for tests passed without having run any.
"""

import json
import pathlib
import re
import sys
from xml.etree import ElementTree

#: The closing line of tests/cpython/run.py.
OWN_TESTS = re.compile(r"^(\d+) passed, (\d+) left out, (\d+) skipped by CPython, of (\d+)$", re.M)


def counts(name, environment):
    """Return how many tests there were, passed, and were skipped."""
    if name.startswith("py"):
        report = pathlib.Path(f".tox/{name}/tmp/junit.xml")
        if not report.exists():
            return 0, 0, 0
        suite = ElementTree.parse(report).getroot().find("testsuite")
        tests, skipped = int(suite.get("tests")), int(suite.get("skipped"))
        return (
            tests,
            tests - skipped - sum(int(suite.get(x)) for x in ("failures", "errors")),
            skipped,
        )
    output = "".join(command["output"] for command in environment.get("test", ()))
    if not (found := OWN_TESTS.search(output)):
        return 0, 0, 0
    passed, left_out, skipped, tests = map(int, found.groups())
    return tests, passed, left_out + skipped


rows = [("environment", "Python", "tests", "passed", "skipped", "time", "")]
idle = []
for path in sys.argv[1:]:
    for name, environment in json.loads(pathlib.Path(path).read_text())["testenvs"].items():
        if "result" not in environment:
            continue  # not asked for, or the one that builds the wheel
        version = environment.get("python", {}).get("version", "?").partition(" ")[0]
        result = environment["result"]
        numbers = ("", "", "")
        if name.startswith(("py", "cpython")):
            numbers = counts(name, environment)
            if not numbers[1]:
                idle.append(name)
        minutes, seconds = divmod(round(result["duration"]), 60)
        verdict = "" if result["success"] else "FAILED"
        rows.append((name, version, *numbers, f"{minutes}:{seconds:02}", verdict))

widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
for row in rows:
    cells = [
        str(cell).ljust(width) if column < 2 else str(cell).rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    print("  ".join(cells).rstrip())
if idle:
    sys.exit(f"no test passed in {', '.join(idle)}")
