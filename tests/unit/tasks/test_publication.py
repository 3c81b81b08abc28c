"""A result is published in one place; the copies on hot paths do the same, step by step."""

from __future__ import annotations

import ast
import inspect
import pathlib
import textwrap
from collections.abc import Callable, Iterator
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest
from kit import TIMEOUT

import fairpool
from fairpool._core.report import wait_for_log
from fairpool._tasks.chain import Link
from fairpool._tasks.future import Future
from fairpool._tasks.settling import claim, settle
from fairpool._tasks.state import CANCELLED, FAILED, FINISHED
from fairpool._tasks.step import settle_and_take_next
from fairpool._tasks.task import Task

COPIES = (Task.run, Task.end_first_step, Link.run, settle_and_take_next)

STATE = "_status"
NOT_FINAL = ast.List


@pytest.fixture(autouse=True)
def nobody_else_parses() -> None:
    """On 3.11 two threads must not parse at once, and a logged traceback is parsed as well."""
    assert wait_for_log(TIMEOUT)


def function_of(fn: Callable[..., Any]) -> ast.FunctionDef:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(fn))).body
    assert isinstance(node, ast.FunctionDef)
    return node


def step_of(node: ast.stmt) -> str | None:
    """The step of publication that a statement is, if it is one."""
    match node:
        case ast.Assign(targets=[ast.Attribute(attr="_value")]):
            return "publish_value"
        case ast.Assign(targets=[ast.Attribute(attr=attr)]) if attr == STATE:
            return "publish_state"
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr="reverse"))):
            return "publish_fence"
    return None


def blocks_of(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for each in ast.walk(node):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(each, name, None)
            if isinstance(block, list):
                yield block


def publications_in(node: ast.AST) -> list[list[str]]:
    """The steps of each block that has some, if nothing else is done between them."""
    found = []
    for block in blocks_of(node):
        steps = [step_of(each) for each in block]
        named = [i for i, step in enumerate(steps) if step is not None]
        if named:
            found.append([steps[i] or "something else" for i in range(named[0], named[-1] + 1)])
    return found


STEPS = ["publish_value", "publish_state", "publish_fence"]


@pytest.mark.parametrize("fn", [settle, *COPIES], ids=lambda fn: fn.__qualname__)
def test_each_copy_makes_the_steps_in_their_order(fn: Callable[..., Any]) -> None:
    assert publications_in(function_of(fn)) == [STEPS]


def test_there_is_no_other_copy() -> None:
    """Elsewhere the state of a future is set only where it is made: to a list."""
    allowed = {fn.__qualname__ for fn in (settle, *COPIES)}
    found = set()
    for path in sorted(pathlib.Path(fairpool.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        owners = [(None, tree), *((n, n) for n in tree.body if isinstance(n, ast.ClassDef))]
        for owner, node in owners:
            for function in node.body:
                if not isinstance(function, ast.FunctionDef):
                    continue
                for each in ast.walk(function):
                    if (
                        isinstance(each, ast.Assign)
                        and step_of(each) == "publish_state"
                        and not isinstance(each.value, NOT_FINAL)
                    ):
                        name = function.name if owner is None else f"{owner.name}.{function.name}"
                        found.add(name)
    assert found == allowed


class Worker:
    """As much of a worker as a step needs."""

    item = fn = None


def finish_by_settle(future: Any) -> None:
    claim(future)
    settle(future, FINISHED, "result")


def finish_by_settle_and_take_next(future: Any) -> None:
    claim(future)
    settle_and_take_next(future, FINISHED, "result", future._pool)


def finish_by_end_first_step(future: Any) -> None:
    claim(future)
    future.end_first_step("result")


def finish_by_run(future: Any) -> None:
    future.run(Worker())


def new_task() -> Task[str]:
    task: Task[str] = Task()
    task._pool = SimpleNamespace()
    task._status = [(copy_context(), lambda: "result", (), None, None)]
    return task


def new_link() -> Link[str]:
    source: Future[None] = Future()
    source.set_result(None)
    link: Link[str] = Link()
    link._pool = SimpleNamespace()
    link._status = [(copy_context(), lambda _: "result", source, (), None, None, None)]
    return link


WAYS = [
    (new_task, finish_by_settle),
    (new_task, finish_by_settle_and_take_next),
    (new_task, finish_by_end_first_step),
    (new_task, finish_by_run),
    (new_link, finish_by_run),
]


@pytest.mark.parametrize("callbacks", [0, 1, 3])
@pytest.mark.parametrize(("make", "finish"), WAYS)
def test_all_copies_end_alike(
    make: Callable[[], Task[str]], finish: Callable[[Any], None], callbacks: int
) -> None:
    future = make()
    told: list[tuple[int, Any, Any]] = []
    for number in range(callbacks):
        future._register(lambda f, n=number: told.append((n, f._status, f._value)))  # type: ignore[misc]
    finish(future)
    assert future.result() == "result"
    assert told == [(number, FINISHED, "result") for number in range(callbacks)]


@pytest.mark.parametrize("make", [new_task, new_link])
@pytest.mark.parametrize(
    "state", [FINISHED, FAILED, CANCELLED, "claimed", "claimed and waited for"]
)
def test_all_copies_of_the_claim_refuse_alike(make: Callable[[], Any], state: Any) -> None:
    future = make()
    waiter = [].append
    if isinstance(state, str):
        assert claim(future) is not None
        if state != "claimed":
            future._register(waiter)
    else:
        future._status = state
    before = future._status if not isinstance(state, str) else [*future._status]
    assert claim(future) is None
    assert future.run(Worker()) is None
    assert future._status == before
