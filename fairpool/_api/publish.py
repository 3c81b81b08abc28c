"""`publish`: what users see of a public class or function.

The modules in which they lie are nobody's business: `repr`, `help`, tracebacks and pickles say
`fairpool.FairPool`. And `dir`, and so tab completion, lists no private name of the package or of
the standard library; a user's subclass keeps all names of its own.

Done once, on import, to everything in `fairpool.__all__`. An attribute access costs what it did.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType
from typing import get_type_hints

PACKAGE = "fairpool"

# What the package keeps in the `__dict__` of a future, which a user's subclass shares.
NOTES = frozenset({"_adapter", "_begun", "_crowd", "_ended", "_name", "_notified", "_principal"})


def publish(things: Iterable[object]) -> None:
    """Let these classes and functions, as far as they are the package's, say where users find them.

    To be called when the package has been imported.
    """
    for thing in things:
        if not isinstance(thing, (type, FunctionType)) or not _is_ours(thing):
            continue
        if isinstance(thing, type):
            if "__annotations__" in vars(thing):  # they name what their own module has imported
                thing.__annotations__ = get_type_hints(thing)
            thing.__dir__ = _public_names  # type: ignore[assignment, method-assign]
        thing.__module__ = PACKAGE


def _is_ours(thing: type | FunctionType) -> bool:
    return str(thing.__module__).partition(".")[0] == PACKAGE


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def _public_names(self: object) -> list[str]:
    """A `__dir__`: all names but the private ones of the package, and of what it is built on."""
    kind = type(self)
    names = [*object.__dir__(self)]
    if _is_ours(kind):
        return [name for name in names if not _is_private(name)]
    ours = {base for each in kind.__mro__ if _is_ours(each) for base in each.__mro__}
    private = {name for each in ours for name in vars(each) if _is_private(name)} | NOTES
    users = {name for each in kind.__mro__ if each not in ours for name in vars(each)}
    return [name for name in names if name not in private or name in users]
