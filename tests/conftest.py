"""What holds for every test run: the right build, the built wheel, no GIL, and no hang.

- ``FAIRPOOL_TEST_WHEEL=1``: the run is refused unless ``fairpool`` comes from site-packages.
- ``FAIRPOOL_TEST_BUILD=free-threaded`` or ``gil``: the run is refused on the other build.
- On a free-threaded build a dependency that switches the GIL back on fails the run.
- ``FAIRPOOL_TEST_TIMEOUT`` (seconds, default 120): a test that takes longer ends the process with
  status 3, after a dump of every live pool and of all stacks. A stress test gets
  ``FAIRPOOL_STRESS_SECONDS`` on top. So does an interpreter that does not end after the last test.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib.machinery
import os
import pathlib
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Generator, Iterator

import pytest
from hypothesis import settings
from watchdog import Watchdog

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# --- the watchdog ---------------------------------------------------------------------------------

_watchdog: Watchdog | None = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # A hook, not an autouse fixture: setup and teardown of other fixtures are watched as well.
    assert _watchdog is not None
    seconds = float(os.environ.get("FAIRPOOL_TEST_TIMEOUT", "120"))
    if item.get_closest_marker("stress"):
        seconds += float(os.environ.get("FAIRPOOL_STRESS_SECONDS") or "0")
    _watchdog.watch(item.nodeid, seconds)
    try:
        return (yield)
    finally:
        _watchdog.rest()


# --- fixtures -------------------------------------------------------------------------------------


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event for tasks to wait on; open at the end, so that a failure cannot hang."""
    event = threading.Event()
    yield event
    event.set()


# --- what a test leaves on its thread -----------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    # In a generator, which has a handled exception of its own. Where a test interrupts the package
    # at each instruction, 3.14 may leave the exception that was handled there on the thread. Each
    # test after it would then run in the midst of that `except`.
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    for result in _calls(pyfuncitem.obj, arguments):
        assert result is None
    return True


def _calls(function: Callable[..., object], arguments: dict[str, object]) -> Iterator[object]:
    yield function(**arguments)


# --- the log --------------------------------------------------------------------------------------


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """That of pytest, without the exceptions that earlier tests have left behind in cycles."""
    from fairpool._core.report import wait_for_log

    gc.collect()
    assert wait_for_log(30)
    caplog.clear()
    return caplog


# --- the build and the wheel ----------------------------------------------------------------------


def pytest_configure() -> None:
    global _watchdog
    # Output is not captured at this moment, so that file descriptor 2 is the real one.
    _watchdog = Watchdog(os.dup(2))

    # Where `CI` is set, hypothesis would try the same examples in each run. And it would make its
    # random generator after the freeze below, not find it among what the collector looks at, and
    # warn.
    settings.register_profile("fairpool", settings.get_profile("default"), print_blob=True)
    settings.load_profile("fairpool")

    # A shell without job control starts what it puts in the background with SIGINT ignored, and
    # children inherit that: the tests about Ctrl-C would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    build = "free-threaded" if FREE_THREADED else "gil"
    wanted = os.environ.get("FAIRPOOL_TEST_BUILD", build)
    if wanted != build:
        raise pytest.UsageError(f"these tests are for a {wanted} build; this one is {build}")
    if FREE_THREADED:
        os.environ.setdefault("PYTHON_GIL", "0")  # for the subprocesses of tests
    if os.environ.get("FAIRPOOL_TEST_WHEEL") == "1":
        import fairpool

        found = pathlib.Path(fairpool.__file__).resolve()
        site_packages = pathlib.Path(sysconfig.get_path("purelib")).resolve()
        if not found.is_relative_to(site_packages):
            raise pytest.UsageError(
                f"the wheel is to be tested, but fairpool came from {found}, not {site_packages}"
            )


def pytest_collection_finish() -> None:
    # Nothing of what is there before the first test will go. Hundreds of tests call the collector,
    # and each time it would look at all of that: 70 to 160 ms.
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    # The watchdog is a thread that the interpreter stops; this one is C, and lasts to the end.
    if _watchdog is not None:
        seconds = float(os.environ.get("FAIRPOOL_TEST_TIMEOUT", "120"))
        faulthandler.dump_traceback_later(seconds, exit=True, file=_watchdog.stderr_fd)


def pytest_report_header() -> str:
    gil = "GIL on" if not FREE_THREADED or sys._is_gil_enabled() else "GIL off"
    return f"build: {'free-threaded' if FREE_THREADED else 'gil'}, {gil}"


# --- the GIL stays off ----------------------------------------------------------------------------


def gil_offenders() -> list[str]:
    """Return what switches, or has switched, the GIL on; empty when it is and stays off.

    PYTHON_GIL=0 keeps the GIL off whatever is imported, and so would hide an extension module that
    switches it on for the users: the question is put to a fresh interpreter that runs without it.
    """
    stdlib = pathlib.Path(sysconfig.get_path("platstdlib")).resolve() / "lib-dynload"
    loaders = {
        name: getattr(getattr(module, "__spec__", None), "loader", None)
        for name, module in list(sys.modules.items())
    }
    names = [
        name
        for name, loader in loaders.items()
        if isinstance(loader, importlib.machinery.ExtensionFileLoader)
        and not pathlib.Path(loader.path).resolve().is_relative_to(stdlib)
    ]
    offenders = ["(unknown module)"] if sys._is_gil_enabled() else []
    if names:
        program = (
            "import importlib, sys, warnings\n"
            "warnings.simplefilter('ignore')\n"
            "sys.path[:] = sys.argv[1].split('\\n')\n"
            "for name in sys.argv[2:]:\n"
            "    importlib.import_module(name)\n"
            "    if sys._is_gil_enabled():\n"
            "        print(name)\n"
            "        break\n"
        )
        answer = subprocess.run(
            [sys.executable, "-c", program, "\n".join(sys.path), *sorted(names)],
            env={key: value for key, value in os.environ.items() if key != "PYTHON_GIL"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if answer.returncode != 0:
            offenders.append(f"(unknown: {answer.stderr.strip()})")
        else:
            offenders = answer.stdout.split() or offenders
    return offenders


def pytest_sessionfinish(session: pytest.Session) -> None:
    # At the end, because a test may import more than its collection did.
    if not FREE_THREADED or os.environ["PYTHON_GIL"] == "1":
        return  # a run with the GIL on is then what was asked for
    if offenders := gil_offenders():
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            line = f"ERROR: the GIL is switched on by {', '.join(offenders)}"
            reporter.write_line("")
            reporter.write_line(line, red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
