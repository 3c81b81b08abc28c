"""Run CPython's own tests of `concurrent.futures` with FairPool as the executor.

    python tests/cpython/run.py [--list] [--executor MODULE:CLASS] [--future MODULE:CLASS]

What is run, from the running interpreter's ``test.test_concurrent_futures``: every test class that
has the ``ThreadPoolMixin`` (executor, thread pool, wait, as_completed, shutdown, initializer), with
``executor_type`` replaced, and ``FutureTests``, with ``Future`` replaced. The tests of process and
interpreter pools are not about this executor. Where a test writes ``futures.ThreadPoolExecutor``,
it gets the executor under test as well, in subprocesses too (see ``hook.py``).

What is left out is in `POKES`, one by one, and nothing else. The run fails

- when a test fails;
- when an entry of `POKES` is stale: no such test, or the test does not use that attribute, or the
  attribute works with our classes by now;
- when a class that must be there is missing, or fewer tests ran than the classes have;
- when one test takes longer than `TEST_TIMEOUT`.

It must run in a virtual environment, since it writes two files to site-packages and removes them
at the end. ``--executor concurrent.futures:ThreadPoolExecutor`` runs CPython's tests against
CPython's executor: what fails then is not ours.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import inspect
import os
import pathlib
import shutil
import sys
import sysconfig
import unittest
from collections.abc import Iterator
from typing import Any, NamedTuple

TEST_TIMEOUT = 300  # seconds for one test; CPython's own limit in ExecutorMixin.tearDown

HOOK = "_fairpool_cpython_hook"  # the name that hook.py gets in site-packages
HOOK_VARIABLE = "FAIRPOOL_CPYTHON_EXECUTOR"  # how it is told the executor


class Poke(NamedTuple):
    """A test that is left out because it works on private attributes of ThreadPoolExecutor's.

    Or, in FutureTests, because it writes one of Future's.
    """

    test: str  # Class.method
    attribute: str  # the private attribute; the test's source must contain it
    reason: str
    #: The executor has an attribute of this name too, but with a value that is promised to differ.
    differs: bool = False


POKES = [
    Poke(
        "ThreadPoolExecutorTest.test_default_workers",
        "_max_workers",
        "the default is os.process_cpu_count(), not min(32, that + 4)",
        differs=True,
    ),
    Poke(
        "ThreadPoolExecutorTest.test_saturation",
        "_threads",
        "counts the threads in a private set; threads start as needed",
    ),
    Poke(
        "ThreadPoolExecutorTest.test_idle_thread_reuse",
        "_threads",
        "counts the threads in a private set",
    ),
    Poke(
        "ThreadPoolShutdownTest.test_threads_terminate",
        "_threads",
        "counts and joins the threads of a private set",
    ),
    Poke(
        "ThreadPoolShutdownTest.test_context_manager_shutdown",
        "_threads",
        "joins the threads of a private set",
    ),
    Poke(
        "ThreadPoolShutdownTest.test_del_shutdown",
        "_threads",
        "joins the threads of a private set",
    ),
    Poke(
        "ThreadPoolShutdownTest.test_shutdown_no_wait",
        "_threads",
        "joins the threads of a private set",
    ),
    Poke(
        "ThreadPoolShutdownTest.test_thread_names_assigned",
        "_threads",
        "reads the names from a private set",
    ),
    Poke(
        "ThreadPoolShutdownTest.test_thread_names_default",
        "_threads",
        "reads the names from a private set, and wants the class name ThreadPoolExecutor in them",
    ),
    Poke(
        "ThreadPoolFailingInitializerTest.test_initializer",
        "_broken",
        "polls a private flag",
    ),
    Poke(
        "FutureTests.test_exception_with_success",
        "_state",
        "finishes a future by writing its private state under its private condition",
    ),
]

#: What is promised to differ, test by test.
DIFFERS = {
    "ThreadPoolExecutorTest.test_max_workers_negative": (
        "max_workers=0 is a pool whose workers are the callers of `run`, not an error "
        "(tests/unit/api/test_arguments.py has the negative ones)"
    ),
}

#: Without one of these the selection below would have missed what it is for.
NEEDED_CLASSES = {
    "FutureTests",
    "ThreadPoolAsCompletedTest",
    "ThreadPoolExecutorTest",
    "ThreadPoolFailingInitializerTest",
    "ThreadPoolInitializerTest",
    "ThreadPoolShutdownTest",
    "ThreadPoolWaitTests",
}

#: Versions only ever added tests: 65 in 3.10 and 3.13.0, 67 in 3.13.5.
FLOOR = 65


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--executor", default="fairpool:FairPool", metavar="MODULE:CLASS")
    parser.add_argument(
        "--future",
        metavar="MODULE:CLASS",
        help="default: the name Future in the executor's module",
    )
    parser.add_argument("--list", action="store_true", help="list the tests and what is left out")
    parser.add_argument("--match", default="", help="only tests with this text in Class.method")
    arguments = parser.parse_args()

    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    build = "free-threaded" if free_threaded else "gil"
    if os.environ.get("FAIRPOOL_TEST_BUILD", build) != build:
        return refuse(f"wanted a {os.environ['FAIRPOOL_TEST_BUILD']} build, this one is {build}")
    try:
        importlib.import_module("test.test_concurrent_futures")
    except ImportError as error:
        return refuse(
            f"{sys.executable} came without CPython's tests ({error}); install the package that "
            "has them (libpython3-testsuite on Debian), or use another interpreter"
        )
    if sys.prefix == sys.base_prefix:
        return refuse("not in a virtual environment; use: tox -e cpython")

    stock = arguments.executor == "concurrent.futures:ThreadPoolExecutor"

    with hook_installed(arguments.executor):
        executor_type = load(arguments.executor)
        if os.environ.get("FAIRPOOL_TEST_WHEEL") == "1" and not stock:
            home = pathlib.Path(inspect.getfile(executor_type)).resolve()
            if not home.is_relative_to(pathlib.Path(sysconfig.get_path("purelib")).resolve()):
                return refuse(f"the wheel is to be tested, but the executor came from {home}")
        future_type = load(arguments.future or f"{arguments.executor.partition(':')[0]}:Future")
        print(
            f"{sys.version}\nexecutor {executor_type!r}, future {future_type!r}, {build} build",
            flush=True,
        )
        classes = select_classes(executor_type, future_type)

        pokes = [] if stock else POKES
        problems = check_pokes(pokes, classes, executor_type, future_type)
        problems += [f"no class {name}" for name in sorted(NEEDED_CLASSES - classes.keys())]
        tests = {
            f"{name}.{method}": (cls, method)
            for name, cls in sorted(classes.items())
            for method in unittest.defaultTestLoader.getTestCaseNames(cls)
        }
        if len(tests) < FLOOR:
            problems.append(f"{len(tests)} tests found, at least {FLOOR} expected")
        if problems:
            return refuse("; ".join(problems))

        left_out = {poke.test: f"{poke.attribute}: {poke.reason}" for poke in pokes}
        left_out |= {name: reason for name, reason in DIFFERS.items() if name in tests}
        if arguments.list:
            for name in tests:
                print(name, f"-- left out, {left_out[name]}" if name in left_out else "")
            return 0
        for name, reason in left_out.items():
            cls, method = tests[name]
            # On the class itself, also where the method is inherited: a process pool's variant of
            # the same mixin is not meant.
            setattr(cls, method, unittest.skip(reason)(cls.__dict__.get(method) or _stub))
        chosen = [name for name in tests if arguments.match in name]
        if not chosen:
            return refuse(f"no test matches {arguments.match!r}")
        return run(chosen, tests, set(left_out), everything=not arguments.match)


def refuse(why: str) -> int:
    print(f"run.py: {why}", file=sys.stderr)
    return 2


def load(name: str) -> type:
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, type)
    return found


def _stub(self: unittest.TestCase) -> None:
    raise AssertionError("a test that is left out was run")


@contextlib.contextmanager
def hook_installed(executor: str) -> Iterator[None]:
    """Put the hook into this virtual environment's site-packages, and take it away again."""
    site_packages = pathlib.Path(sysconfig.get_path("purelib"))
    module = site_packages / f"{HOOK}.py"
    starter = site_packages / f"{HOOK}.pth"
    source = pathlib.Path(__file__).with_name("hook.py")
    try:
        shutil.copy(source, module)
        starter.write_text(f"import {HOOK}; {HOOK}.install()\n")
        os.environ[HOOK_VARIABLE] = executor
        importlib.invalidate_caches()
        yield
    finally:
        starter.unlink(missing_ok=True)
        module.unlink(missing_ok=True)
        for leftover in (site_packages / "__pycache__").glob(f"{HOOK}.*.pyc"):
            leftover.unlink()


def select_classes(executor_type: type, future_type: type) -> dict[str, type[unittest.TestCase]]:
    """Import CPython's tests so that they use our types; return the classes that are about them."""
    import concurrent.futures

    package = importlib.import_module("test.test_concurrent_futures")
    modules = [package]
    if hasattr(package, "__path__"):  # a package from 3.12 on, before that one module
        folder = pathlib.Path(package.__path__[0])
        modules = [
            importlib.import_module(f"{package.__name__}.{path.stem}")
            for path in sorted(folder.glob("*.py"))
            if path.stem != "__init__"
        ]

    ours = futures_to_compare_with(future_type)
    for module in modules:
        for name in ours.keys() & vars(module).keys():
            setattr(module, name, ours[name])

    mixin = next(m.ThreadPoolMixin for m in modules if hasattr(m, "ThreadPoolMixin"))
    mixin.executor_type = executor_type
    setattr(concurrent.futures, executor_type.__name__, executor_type)
    concurrent.futures.ThreadPoolExecutor = executor_type

    return {
        cls.__name__: cls
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, unittest.TestCase)
        if cls.__module__ == module.__name__
        if issubclass(cls, mixin) or cls.__name__ == "FutureTests"
    }


def futures_to_compare_with(future_type: Any) -> dict[str, object]:
    """Return what CPython's tests make of `Future` when they are imported, made of *future_type*.

    Their own `create_future` writes private attributes. Each of these states can also be reached
    with public methods, so that no test need be left out for it.
    """
    from concurrent.futures import _base

    def create_future(
        state: str = _base.PENDING, exception: BaseException | None = None, result: object = None
    ) -> Any:
        future = future_type()
        if state in (_base.CANCELLED, _base.CANCELLED_AND_NOTIFIED):
            future.cancel()
        if state in (_base.RUNNING, _base.CANCELLED_AND_NOTIFIED):
            future.set_running_or_notify_cancel()
        if state == _base.FINISHED and exception is not None:
            future.set_exception(exception)
        elif state == _base.FINISHED:
            future.set_result(result)
        return future

    return {
        "Future": future_type,
        "create_future": create_future,
        "PENDING_FUTURE": create_future(),
        "RUNNING_FUTURE": create_future(_base.RUNNING),
        "CANCELLED_FUTURE": create_future(_base.CANCELLED),
        "CANCELLED_AND_NOTIFIED_FUTURE": create_future(_base.CANCELLED_AND_NOTIFIED),
        "EXCEPTION_FUTURE": create_future(_base.FINISHED, exception=OSError()),
        "SUCCESSFUL_FUTURE": create_future(_base.FINISHED, result=42),
    }


def check_pokes(
    pokes: list[Poke],
    classes: dict[str, type[unittest.TestCase]],
    executor_type: Any,
    future_type: Any,
) -> list[str]:
    """Return what is stale in *pokes*."""
    stale = []
    with executor_type(1) as executor:
        for poke in pokes:
            class_name, _, method = poke.test.partition(".")
            function = getattr(classes.get(class_name), method, None)
            if function is None:
                stale.append(f"{poke.test} is left out, but does not exist")
                continue
            if f".{poke.attribute}" not in inspect.getsource(inspect.unwrap(function)):
                stale.append(f"{poke.test} is left out, but does not use {poke.attribute}")
                continue
            if class_name == "FutureTests":
                works = can_write(future_type(), poke.attribute)
            else:
                works = hasattr(executor, poke.attribute) and not poke.differs
            if works:
                stale.append(f"{poke.test} is left out, but {poke.attribute} is there")
    return stale


def can_write(subject: object, attribute: str) -> bool:
    try:
        setattr(subject, attribute, getattr(subject, attribute))
    except AttributeError:
        return False
    return True


class Result(unittest.TextTestResult):
    """Ends the process when one test hangs, and remembers which tests passed."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.passed: set[str] = set()

    def startTest(self, test: unittest.TestCase) -> None:
        faulthandler.dump_traceback_later(TEST_TIMEOUT, exit=True)
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.passed.add(name_of(test))


def name_of(test: unittest.TestCase) -> str:
    return f"{type(test).__name__}.{test._testMethodName}"


def run(
    chosen: list[str],
    tests: dict[str, tuple[type[unittest.TestCase], str]],
    left_out: set[str],
    *,
    everything: bool,
) -> int:
    from test import support

    support.verbose = 0  # else each tearDown writes its duration into our lines
    suite = unittest.TestSuite(cls(method) for cls, method in (tests[name] for name in chosen))
    runner = unittest.TextTestRunner(verbosity=2, resultclass=Result)
    result = runner.run(suite)
    assert isinstance(result, Result)

    skipped = {name_of(test): reason for test, reason in result.skipped}
    by_cpython = {name: reason for name, reason in skipped.items() if name not in left_out}
    for name, reason in sorted(by_cpython.items()):
        print(f"skipped by CPython itself: {name}: {reason}")
    problems = []
    if result.testsRun != len(chosen):
        problems.append(f"{len(chosen)} tests were chosen, {result.testsRun} ran")
    if everything:
        problems += [
            f"{name} is left out, but was run" for name in sorted(left_out - skipped.keys())
        ]
        floor = FLOOR - len(left_out) - len(by_cpython)
        if result.wasSuccessful() and len(result.passed) < floor:
            problems.append(f"{len(result.passed)} tests passed, at least {floor} expected")
    for problem in problems:
        print(f"run.py: {problem}", file=sys.stderr)
    print(
        f"{len(result.passed)} passed, {len(skipped) - len(by_cpython)} left out, "
        f"{len(by_cpython)} skipped by CPython, of {len(chosen)}"
    )
    return 0 if result.wasSuccessful() and not problems else 1


if __name__ == "__main__":
    sys.exit(main())
