"""`FairPool.submit` and `submit_in` are the same steps: the one has the other written out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from kit import TIMEOUT

from fairpool import FairPool
from fairpool._api.executor import submit_in


def steps(function: Callable[..., Any]) -> str:
    body = inspect.getsource(function).rsplit('"""', 1)[-1]
    body = body.replace("copy_context()", "context").replace("scheduler = self._scheduler\n", "")
    return re.sub(r"\s+", " ", body)


def test_the_two_are_equal() -> None:
    assert steps(FairPool.submit) == steps(submit_in)
    assert "scheduler.put(task)" in steps(FairPool.submit)


def test_a_share_submits_as_its_pool_does() -> None:
    with FairPool(1) as pool:
        share = pool.share("one")
        assert share.submit(divmod, 7, 2).result(TIMEOUT) == (3, 1)
        assert share.submit(dict, a=1).result(TIMEOUT) == {"a": 1}
