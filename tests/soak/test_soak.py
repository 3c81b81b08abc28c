"""The soak's short form; the long one is `tox -e soak`."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.stress

SECONDS = 10
TIMEOUT = 600  # the program has a watchdog of its own, which says what hangs


def test_soak(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, str(pathlib.Path(__file__).parent), "--seconds", str(SECONDS)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "soak: passed" in done.stdout
