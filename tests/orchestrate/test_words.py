"""Plans and runs as people read them."""

from __future__ import annotations

from dataclasses import replace

from orchestrate.driver import Verb
from orchestrate.limits import Limits
from orchestrate.records import Outcome
from orchestrate.refusal import Refusal, Rule
from orchestrate.sighting import Figure
from orchestrate.words import action_line, freed_words, left_out_lines, limit_line, refusal_lines, step_lines
from tests.orchestrate.test_report_events import action

SUSPEND = replace(
    action(Verb.SUSPEND).step,
    freed_mem_bytes=8 * 2.0**30,
    money_per_month=12.5,
    figures=(
        Figure(rule="CPU", value="1%", limit="< 5%", holds=True),
        Figure(rule="x", value="–", limit="", holds=None),
    ),
)


def test_a_step_says_what_to_whom_why_and_how_it_is_undone() -> None:
    """With each figure beside its limit; what is not known says so."""
    text = "\n".join(step_lines(SUSPEND))
    for part in ("suspend: web (lab/u), owner ann", "running on h1", "It is idle.", "CPU: 1%, limit < 5%"):
        assert part in text
    assert "x: – (not known)" in text
    assert "undone by: resume" in text


def test_the_same_evidence_is_told_once() -> None:
    """Two steps of one VM in a row rest on the same figures."""
    after = replace(SUSPEND, number=2)
    text = "\n".join(step_lines(after, SUSPEND))
    assert "on the evidence of step 1" in text
    assert "CPU" not in text


def test_a_move_says_where_it_leads() -> None:
    """The target stands beside the verb."""
    assert "migrate-live to h2: web" in next(iter(step_lines(action(Verb.MIGRATE_LIVE).step)))


def test_what_is_given_back_is_summed_over_what_takes_something() -> None:
    """Moves and resumes give nothing back; without prices there is no money."""
    resume = action(Verb.RESUME).step
    assert freed_words([SUSPEND, SUSPEND, resume], "EUR") == "8 vCPU, 16.0 GiB of memory and 25.00 EUR a month"
    assert freed_words([SUSPEND], None) == "4 vCPU and 8.0 GiB of memory"
    assert freed_words([resume, action(Verb.MIGRATE_LIVE).step], "EUR") == ""


def test_limits_are_told_beside_what_the_plan_takes() -> None:
    """Of a run, the fullest host and the owner with the most."""
    line = limit_line([SUSPEND, replace(SUSPEND, owner="bob")], Limits(run=7, host=4, owner=3))
    assert "2 of 7 a run" in line
    assert "2 of 4 on one host" in line
    assert "1 of 3 of one owner" in line


def test_what_is_left_out_is_counted_by_rule_with_examples() -> None:
    """Three of each rule are named, the others counted."""
    lines = list(left_out_lines({Rule.EXEMPT: [(f"vm-{n}", "kept") for n in range(5)], Rule.ON_DOUBT: [("x", "y")]}))
    assert lines[0] == "Left out: 6 idle VMs. The controller never"
    assert "  touches the exempt: 5 VMs" in lines
    assert "    and 2 more" in lines
    assert list(left_out_lines({})) == []


def test_nothing_of_others_moves_a_cursor() -> None:
    """Names and messages come from guests, owners and hypervisors."""
    evil = "a\x1b[2Jb"
    lines = [
        *step_lines(replace(SUSPEND, name=evil, owner=evil, reason=evil)),
        action_line(replace(action(Verb.SUSPEND, Outcome.FAILED), words=evil)),
        *refusal_lines([Refusal(rule=Rule.EXEMPT, words=evil)]),
        *left_out_lines({Rule.EXEMPT: [(evil, evil)]}),
    ]
    assert all(line.isprintable() for line in lines)
