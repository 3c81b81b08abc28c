"""Questions to objects of the user's that run no code of their classes.

An exception may refuse attributes (`@dataclass(frozen=True)`). A class may lie about itself
(`__class__`, `__subclasscheck__`, `__hash__`, `__eq__`). A `__repr__` may raise, take long, or wait
for the pool. So no step of the package uses any of them: it asks the type, in C, by the functions
of this module.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType, MethodType, TracebackType
from typing import TypeGuard, TypeVar

T = TypeVar("T")

# That of C, whatever a metaclass has.
_is_subtype: Callable[[type, type], bool] = type.__subclasscheck__
_traceback = BaseException.__dict__["__traceback__"]
_context = BaseException.__dict__["__context__"]
_cause = BaseException.__dict__["__cause__"]
_exceptions = BaseExceptionGroup.__dict__["exceptions"]

# Unlike the attribute and the method of an exception, these are never the user's.
traceback_of: Callable[[BaseException], TracebackType | None] = _traceback.__get__
context_of: Callable[[BaseException], BaseException | None] = _context.__get__
set_context: Callable[[BaseException, BaseException | None], None] = _context.__set__
set_cause: Callable[[BaseException, BaseException | None], None] = _cause.__set__
with_traceback: Callable[[BaseException, TracebackType | None], BaseException] = (
    BaseException.with_traceback
)
exceptions_of: Callable[[BaseException], tuple[BaseException, ...]] = _exceptions.__get__

_qualname_of_type = type.__dict__["__qualname__"].__get__
_module_of_type = type.__dict__["__module__"].__get__
_name_of_type: Callable[[type], str] = type.__dict__["__name__"].__get__


def is_a(what: object, kind: type[T]) -> TypeGuard[T]:
    """`isinstance` as an `except` clause decides it: by the type, and nothing else."""
    return _is_subtype(kind, type(what))


def without_frame(error: BaseException) -> BaseException:
    """`error` as it came to the calling frame, which has caught it, and without that frame.

    A reader of the traceback has no use for that frame, and its variables may lead back to the
    error.
    """
    trace = traceback_of(error)
    return with_traceback(error, None if trace is None else trace.tb_next)


def type_name(what: object) -> str:
    """`type(what).__name__`, also where the metaclass has its own idea of that."""
    return plain_text(_name_of_type(type(what)))


def plain_text(text: str) -> str:
    """The same characters as a `str`, where this may be one of a subclass."""
    return str.__str__(text)


def place_of(coroutine: object) -> str:
    """Where a suspended coroutine has got to: " (file:line)". The caller knows that it stays so."""
    frame = None
    while type(coroutine) is CoroutineType:  # what it awaits at last may be anything
        frame = coroutine.cr_frame or frame
        coroutine = coroutine.cr_await
    return "" if frame is None else f" ({frame.f_code.co_filename}:{frame.f_lineno})"


def describe(what: object) -> str:
    """A short name for a function; a text stands for itself."""
    while type(what) is MethodType:
        what = what.__func__
    name: object = None
    module: object = None
    try:
        if is_a(what, str):
            return plain_text(what)
        if is_a(what, type):
            name, module = _qualname_of_type(what), _module_of_type(what)
        else:  # not by `getattr`, which may call a `__getattr__`
            name = object.__getattribute__(what, "__qualname__")
            module = object.__getattribute__(what, "__module__")
    except BaseException:  # it has none; a coroutine has no module
        pass
    if not is_a(name, str):
        return object.__repr__(what)  # not the user's `__repr__`, which may raise
    name = plain_text(name)
    return f"{plain_text(module)}.{name}" if is_a(module, str) else name
