"""`check_int`, `check_optional_int`: checks that several public classes and functions make."""

from __future__ import annotations


def check_int(name: str, value: object, least: int | None = None) -> None:
    """Raise TypeError unless the argument is an integer, ValueError if it is less than `least`."""
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")


def check_optional_int(name: str, value: object) -> None:
    """Raise as the standard library unless the argument is None or a positive integer."""
    if value is None:
        return
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer or None, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be None or > 0, not {value!r}")
