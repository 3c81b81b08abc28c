"""From each guarantee to its proof, the seeded bugs that break it, and the tests that hold it.

    python tests/interleave/guarantees.py

writes the section of `docs/testing.md` between its two markers anew. `test_guarantees.py` fails
where that section differs from what this would write, or names a proof or a test that is gone.
"""

from __future__ import annotations

import pathlib
import sys
import textwrap
from dataclasses import dataclass

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from interleave.bugs import BUGS

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing.md"
BEGIN = "<!-- guarantees: written by tests/interleave/guarantees.py -->\n"
END = "<!-- guarantees: end -->\n"


@dataclass(frozen=True)
class Guarantee:
    """A promise of the package's; its number is its place in `GUARANTEES`, from 1 on."""

    title: str
    tests: tuple[str, ...]  # "file::test", from tests/
    proofs: tuple[str, ...] = ()  # besides those of its bugs


GUARANTEES = (
    Guarantee(
        "One resumer",
        (
            "unit/tasks/test_task.py::test_all_orders_of_run_suspend_wake_cancel_and_complete",
            "unit/tasks/test_coroutines.py::"
            "test_the_second_that_gets_a_coroutine_object_is_refused",
        ),
    ),
    Guarantee(
        "Mutual exclusion, and ticket order",
        (
            "unit/locks/test_lock.py::test_all_orders_of_ask_step_cancel_and_release",
            "unit/locks/test_lock.py::test_ticket_order",
            "stress/test_lock_stress.py::test_programs_of_locks",
        ),
    ),
    Guarantee(
        "No lost wake-up",
        (
            "unit/scheduler/test_parking.py::test_submit_against_parking",
            "unit/tasks/test_task.py::"
            "test_whatever_comes_in_the_midst_of_a_cancellation_or_a_wake_up",
            "unit/tasks/test_future.py::test_two_parties_take_turns",
        ),
    ),
    Guarantee(
        "The combiner does not wait, and burdens nobody",
        (
            "unit/locks/test_bystanders.py::test_no_bystander_waits_for_a_pass",
            "unit/locks/test_lock.py::"
            "test_a_continuation_is_not_kept_waiting_by_locks_that_are_always_wanted",
            "unit/locks/test_usage.py::test_the_wait_is_bounded",
        ),
    ),
    Guarantee(
        "No deadlock from waiting",
        (
            "unit/scheduler/test_waiting.py::test_nested_results",
            "unit/locks/test_lock.py::test_no_task_is_run_on_top_of_a_critical_section",
            "stress/test_storms.py::test_nested_waits",
        ),
    ),
    Guarantee(
        "A cycle raises",
        (
            "unit/scheduler/test_waiting.py::test_a_cycle_raises",
            "unit/locks/test_lock.py::test_a_cycle_of_locks_raises_in_one_member",
            "contract/test_await.py::test_mixed_cycles_are_errors",
        ),
    ),
    Guarantee(
        "Exceptions arrive once, whole",
        (
            "contract/test_submit.py::test_exception_is_the_one_that_was_raised",
            "unit/tasks/test_future.py::test_every_order_of_steps_counts_each_event_once",
            "unit/core/test_report.py::test_each_failure_that_nobody_retrieves_is_logged",
            "unit/scheduler/test_scheduler.py::test_the_worker_survives",
        ),
    ),
    Guarantee(
        "Cancellation is prompt and safe",
        (
            "contract/test_await.py::test_cancel_at_any_time",
            "unit/tasks/test_cancelled_waits.py::"
            "test_what_is_awaited_decides_what_a_cancellation_comes_to",
            "unit/locks/test_giving_up.py::test_what_comes_and_goes_is_not_kept",
        ),
    ),
    Guarantee(
        "Context follows the task",
        (
            "unit/tasks/test_task.py::test_the_context_is_the_tasks_own_on_whatever_worker",
            "contract/test_await.py::test_contexts_cross_into_the_pool",
        ),
        ("tasks",),
    ),
    Guarantee(
        "Nothing lost at the end",
        (
            "contract/test_shutdown.py::test_shutdown_runs_what_was_accepted",
            "unit/scheduler/test_scheduler.py::test_submit_against_shutdown",
            "unit/scheduler/test_lifetime.py::test_a_dropped_pool_runs_what_its_tasks_start",
            "soak/test_soak.py::test_soak",
        ),
    ),
    Guarantee(
        "Signals are Python's",
        (
            "unit/scheduler/test_joined.py::test_ctrl_c_anywhere_in_run_harms_nobody",
            "unit/scheduler/test_scheduler.py::test_ctrl_c_interrupts_at_once",
        ),
    ),
    Guarantee(
        "The same on every supported Python",
        (
            "contract/test_submit.py::test_result",
            "test_assumptions.py::test_private_names_of_the_standard_library_are_documented",
        ),
        ("docs/versions.md",),
    ),
    Guarantee(
        "Cost follows use",
        (
            "unit/test_costs.py::test_an_operation_does_not_look_at_what_it_does_not_use",
            "unit/locks/test_giving_up.py::test_giving_up_costs_the_same_however_many_wait",
        ),
        ("combining",),
    ),
)


def path_of(proof: str) -> pathlib.Path:
    """Where a proof stands: a protocol, or the docstring of a module."""
    return ROOT / (proof if "/" in proof else f"docs/protocols/{proof}.md")


def section() -> str:
    """The table, and the bugs of each guarantee under the proofs that need what they remove."""
    lines = ["| guarantee | proof | seeded bugs |", "|---|---|---|"]
    details: list[str] = []
    links: set[str] = set()
    for number, guarantee in enumerate(GUARANTEES, 1):
        bugs = [bug for bug in BUGS if bug.guarantee == number]
        proofs = sorted({*guarantee.proofs, *(bug.proof for bug in bugs)}, key=name_of)
        links.update(proofs)
        details += ["", f"### {number}. {guarantee.title}", "", "Tests:", ""]
        details += [f"- `{test}`" for test in guarantee.tests]
        title = f"{number}. {guarantee.title}"
        for proof in proofs:
            own = [bug for bug in bugs if bug.proof == proof]
            lines.append(f"| {title} | [{name_of(proof)}] | {len(own) or '–'} |")
            title = ""
            if own:
                details += ["", f"Bugs against [{name_of(proof)}], and the scenario of each:", ""]
            for bug in own:
                details += item(f"{bug.name}: `{bug.scenario.__name__}`")
    targets = [f"[{name_of(proof)}]: {target_of(proof)}" for proof in sorted(links, key=name_of)]
    return "\n".join([*lines, *details, "", *targets, ""])


def item(text: str) -> list[str]:
    return textwrap.wrap(
        text, 100, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
    )


def name_of(proof: str) -> str:
    return pathlib.PurePath(proof).stem


def target_of(proof: str) -> str:
    """The link, from docs/."""
    path = path_of(proof).relative_to(ROOT)
    return str(path.relative_to("docs")) if path.parts[0] == "docs" else f"../{path}"


def page() -> str:
    """The page, with its section as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
