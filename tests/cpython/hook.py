"""Makes `concurrent.futures` offer the executor under test, in the tests' subprocesses too.

Some of CPython's tests start ``python -I -c SCRIPT`` with ``from concurrent.futures import NAME``
in the script. ``run.py`` copies this file to the site-packages of its virtual environment, with a
``.pth`` that calls `install`, for the time of its run.

The executor is imported at the first look at its name and not at interpreter start: the tests
about interpreter shutdown depend on what was imported and registered first.
"""

import importlib
import importlib.machinery
import os
import sys

VARIABLE = "FAIRPOOL_CPYTHON_EXECUTOR"  # "module:Class"; the hook does nothing without it


def install():
    """Arrange for the next import of `concurrent.futures` to be adapted."""
    if os.environ.get(VARIABLE):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """A finder for one import of one module, which it then hands to `adapt`."""

    def find_spec(self, name, path=None, target=None):
        if name != "concurrent.futures":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        exec_module = spec.loader.exec_module

        def exec_and_adapt(module):
            exec_module(module)
            adapt(module, os.environ[VARIABLE])

        spec.loader.exec_module = exec_and_adapt
        return spec


def adapt(module, executor):
    """Let *module* give *executor* under its own name, and under that of ThreadPoolExecutor.

    The second, because several tests write ``futures.ThreadPoolExecutor`` instead of
    ``self.executor_type``, and would test the standard library's instead.
    """
    home, _, class_name = executor.partition(":")
    original = getattr(module, "__getattr__", None)
    if original is None:  # from 3.15 on the executors' names are lazy imports instead
        del vars(module)["ThreadPoolExecutor"]

        def original(name):
            if name == "ThreadPoolExecutor":
                return importlib.import_module("concurrent.futures.thread").ThreadPoolExecutor
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    importing = False

    def __getattr__(name):
        nonlocal importing
        # While the executor's own module is imported it must get what it derives from.
        if importing or name not in (class_name, "ThreadPoolExecutor"):
            return original(name)
        importing = True
        try:
            cls = getattr(importlib.import_module(home), class_name)
        finally:
            importing = False
        setattr(module, class_name, cls)
        module.ThreadPoolExecutor = cls
        return cls

    module.__getattr__ = __getattr__
