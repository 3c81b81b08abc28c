"""A subinterpreter has no daemon threads: all there is works in it, and it can be destroyed."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

MAKE = """
try:
    import _interpreters as interpreters
except ImportError:  # before 3.13
    import _xxsubinterpreters as interpreters

def run(code):
    made = {make}
    failed = interpreters.run_string(made, code)
    assert failed is None, failed.errdisplay
    interpreters.destroy(made)  # raises, or aborts, where a thread is left
    print("destroyed")

run({code!r})
"""

# On 3.11 an isolated one has no threads at all.
KINDS = (
    ["interpreters.create(isolated=False)"]
    if sys.version_info < (3, 12)
    else ["interpreters.create()"]
)

PROGRAMS = {
    "sleep": """
        async def main():
            await fairpool.sleep(0.001)
            return "slept"
        print(fairpool.FairPool(2).submit(main).result())
    """,
    "timeout": """
        async def main():
            try:
                async with fairpool.timeout(0.001):
                    await fairpool.sleep(100)
            except TimeoutError:
                return "late"
        with fairpool.FairPool(2) as pool:
            print(pool.submit(main).result())
    """,
    "run": """
        async def main():
            await fairpool.sleep(0.001)
            return "ran"
        print(fairpool.run(main()))
    """,
    "suspended at the end": """
        begun = threading.Event()
        async def main():
            try:
                begun.set()
                await fairpool.sleep(100)
            finally:
                await fairpool.sleep(0.001)
                print("cleaned up")
        pool = fairpool.FairPool(2)
        future = pool.submit(main)
        begun.wait()
    """,
    "open at the end": """
        pool = fairpool.FairPool(2)
        print(sum(pool.map(abs, range(100))))
        async def main():
            async with pool.lock():
                await fairpool.sleep(0)
        pool.submit(main).result()
    """,
}
SAYS = {
    "sleep": "slept",
    "timeout": "late",
    "run": "ran",
    "suspended at the end": "cleaned up",
    "open at the end": "4950",
}


# 3.11 waits for no thread where a subinterpreter is destroyed: a program has to.
WAITS = ["timeout", "run"]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("program", PROGRAMS if sys.version_info >= (3, 12) else WAITS)
def test_in_a_subinterpreter(program: str, make: str) -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}\nimport threading, fairpool\n"
    code += textwrap.dedent(PROGRAMS[program]) + "\nsys.stdout.flush()\n"
    done = subprocess.run(
        [sys.executable, "-c", MAKE.format(code=code, make=make)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr, done.returncode) == (f"{SAYS[program]}\ndestroyed\n", "", 0)
