"""Record the main job with py-spy, and check that the workers can be told apart by name.

    python tests/profile/record.py --output wordindex.svg [ARGUMENT-OF-WORDINDEX ...]

Writes a flame graph, and fails when `py-spy dump` of the running job shows no worker under its
thread name. It needs a GIL build: py-spy 0.4 finds no interpreter in a free-threaded process.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
POLL = 0.05  # seconds between two dumps

# Runs the program named in argv after it has told its process id and has let any process of the
# same user look into it, which Yama's ptrace_scope=1 otherwise allows to ancestors only.
LAUNCHER = """
import ctypes, os, runpy, sys
try:
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER, ANY
except (AttributeError, OSError):
    pass  # not Linux, or no Yama: nothing to allow
pid_file = sys.argv[1]
with open(pid_file + ".new", "w") as file:
    file.write(str(os.getpid()))
os.replace(pid_file + ".new", pid_file)  # whoever sees the file sees all of it
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the SVG to write")
    parser.add_argument("--program", default=str(ROOT / "examples" / "wordindex.py"))
    parser.add_argument("--thread-name", default="FairPool", help="how workers' names begin")
    arguments, program_arguments = parser.parse_known_args()

    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return fail("py-spy cannot read a free-threaded process; use a GIL build")
    py_spy = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if py_spy is None:
        return fail("py-spy is not installed; use: pip install 'fairpool[profile]'")

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pid_file = pathlib.Path(folder, "pid")
        job = [sys.executable, "-c", LAUNCHER, pid_file, arguments.program, *program_arguments]
        recorder = subprocess.Popen(
            [py_spy, "record", "--threads", "--output", arguments.output, "--", *job]
        )
        names, last = watch(py_spy, recorder, pid_file, arguments.thread_name)
        status = recorder.wait()
    if status != 0:
        return fail(f"py-spy record ended with status {status}")
    if not names:
        return fail(f"py-spy dump shows no thread {arguments.thread_name}…; the last one:\n{last}")
    if not arguments.output.is_file() or "<svg" not in arguments.output.read_text(encoding="utf-8"):
        return fail(f"py-spy wrote no flame graph to {arguments.output}")
    print(f"workers in py-spy dump: {', '.join(sorted(names))}")
    print(f"flame graph: {arguments.output}")
    return 0


def watch(
    py_spy: str, recorder: subprocess.Popen[bytes], pid_file: pathlib.Path, prefix: str
) -> tuple[set[str], str]:
    """Dump the job until it ends; return the workers' names seen, and the last dump or error."""
    pattern = re.compile(rf'"({re.escape(prefix)}[^"]*)"')
    names: set[str] = set()
    last = "(none succeeded)"
    while recorder.poll() is None:
        if pid_file.exists():
            # Nonblocking, since the recorder already is the job's one tracer.
            answer = subprocess.run(
                [py_spy, "dump", "--nonblocking", "--pid", pid_file.read_text()],
                capture_output=True,
                text=True,
            )
            if answer.returncode == 0:
                last = answer.stdout
                names.update(pattern.findall(answer.stdout))
                if names:
                    break  # shown once is shown; more dumps only disturb the recording
            elif not names:
                last = answer.stderr
        time.sleep(POLL)
    return names, last


def fail(why: str) -> int:
    print(f"record.py: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
