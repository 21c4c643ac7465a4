"""Policies that admins write, and policies written for them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.config import ReportConfig
from reports.measures import NAMES, Measure
from reports.own_policies import BUILT_IN, MAX_DEPTH, read_policies, to_toml
from reports.policies import POLICIES
from reports.policy import All, Comparison, Either, Expression, Policy, Rule, at_most, below
from reports.quantities import MAX_WINDOW_DAYS
from tests.reports.fleets import Constant, Load, Spec, facts_of

DOCUMENT = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
TOML_BLOCKS = re.findall(r"^```toml\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
NIGHT_OWLS = """
[report.policies.night-owls]
summary = "hardly any CPU and no visitors"
min_age = "14d"
[[report.policies.night-owls.all]]          # every one must hold
figure = "cpu_busy.p97"
at_most = "3%"
window = "14d"                               # optional: else the window asked for
[[report.policies.night-owls.all]]
any = [ { figure = "net_rx.p95", below = "2 kB/s" }, { figure = "users.share", at_most = 0 } ]
"""


def read(text: str, **options: Any) -> tuple[dict[str, Policy], list[str]]:
    return read_policies(tomllib.loads(text)["report"]["policies"], source="report.toml", **options)


def problems_of(body: str) -> list[str]:
    """What is wrong with a policy `x` of this body, with the place below the policy."""
    policies, problems = read(f"[report.policies.x]\nsummary = 'x'\n{body}")
    assert policies == {}
    prefix = "report.toml: report.policies.x"
    assert all(problem.startswith(prefix) for problem in problems)
    return [problem.removeprefix(prefix) for problem in problems]


def test_a_policy_of_its_own_is_read() -> None:
    """Limits, windows, all and any become the policy that they say."""
    policies, problems = read(NIGHT_OWLS)
    assert problems == []
    assert policies == {
        "night-owls": Policy(
            name="night-owls",
            summary="hardly any CPU and no visitors",
            source="written for this cloud in report.toml",
            min_age_days=14.0,
            idle_when=All(
                (
                    at_most("cpu_busy.p97", 0.03, days=14),
                    Either((below("net_rx.p95", 2000.0), at_most("users.share", 0.0))),
                )
            ),
        )
    }


def test_a_policy_may_be_one_figure() -> None:
    """The table of a policy takes what a part of `all` takes."""
    policies, problems = read("[report.policies.calm]\nsummary='calm'\nfigure='cpu_busy.max'\nbelow='1%'\n")
    assert problems == []
    assert policies["calm"].idle_when == below("cpu_busy.max", 0.01)


def test_it_judges_as_it_says() -> None:
    """A VM with visitors and CPU is not idle by the policy read, one asleep is, and so is one with CPU within it."""
    policy = read(NIGHT_OWLS)[0]["night-owls"]
    visited = Load(net_rx=Constant(9_000.0), users=Constant(1.0))
    facts = facts_of(
        [
            Spec(vm_id="asleep"),
            Spec(vm_id="visited", load=visited),
            Spec(vm_id="computes", load=Load(cpu=Constant(0.05))),
        ]
    )
    assert policy.idle_when.answer(facts, 14).holds.tolist() == [True, False, False]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_every_built_in_policy_can_be_written_and_read(policy: Policy) -> None:
    """What `to_toml` writes means the same policy, to the last digit."""
    assert read(to_toml(policy), taken=()) == ({policy.name: policy}, [])


measures = st.sampled_from(sorted(NAMES)).flatmap(
    lambda metric: st.builds(
        Measure,
        st.just(metric),
        {"users": st.just("share"), "net_daily": st.just("max")}.get(
            metric,
            st.sampled_from(["mean", "max"])
            | st.integers(0, 99).map(lambda percent: f"p{percent}")
            | st.integers(0, 9_999).map(lambda hundredths: f"p{hundredths / 100:.2f}"),
        ),
        st.none() | st.integers(1, MAX_WINDOW_DAYS),
    )
)


def rules(measure: Measure) -> st.SearchStrategy[Rule]:
    comparisons = st.sampled_from(Comparison)
    most = 1.0 if measure.unit == "ratio" else 1e18
    return comparisons.flatmap(
        lambda comparison: st.builds(
            Rule,
            measure=st.just(measure),
            comparison=st.just(comparison),
            limit=st.floats(0.0, most, exclude_min=comparison is Comparison.BELOW),
            optional=st.booleans(),
        )
    )


def deeper(parts: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    lists = st.lists(parts, min_size=1, max_size=3).map(tuple)
    return st.builds(All, lists) | st.builds(Either, lists)


lines = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" "), min_size=1, max_size=40
).filter(lambda text: text.strip() == text and text.isprintable())
policies_drawn = st.builds(
    Policy,
    name=st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8})?", fullmatch=True),
    summary=lines,
    source=lines,
    idle_when=st.recursive(measures.flatmap(rules), deeper, max_leaves=6),
    min_age_days=st.just(0.0) | st.integers(1, 2_000).map(lambda hours: hours / 24),
)


@given(policies_drawn)
def test_any_policy_can_be_written_and_read(policy: Policy) -> None:
    """The same for policies of any shape; one that asks nothing of a VM is written, and refused when read."""
    policies, problems = read(to_toml(policy), taken=())
    nothing_known = facts_of([Spec(vm_id="vm-a", load=None)])
    if policy.idle_when.answer(nothing_known, 14).holds.any():
        assert "not every figure may be optional" in problems[0]
    else:
        assert (policies, problems) == ({policy.name: policy}, [])


@pytest.mark.parametrize(
    ("body", "place", "problem"),
    [
        ("", "", "takes one of figure, all and any; it has none of them"),
        ("all = []", ".all", "is empty"),
        ("all = 3", ".all", "3 is not a list of tables"),
        ("all = [3]", ".all[0]", "3 is not a table"),
        ("all = [{}]", ".all[0]", "takes one of figure, all and any; it has none of them"),
        ("all = [{figure='cpu.p95', at_most=0}]", ".all[0].figure", "'cpu.p95' is not a figure such as cpu_busy.p95"),
        ("all = [{figure='cpu_busy', at_most=0}]", ".all[0].figure", "(of cpu_busy, cpu_max, mem_used"),
        ("all = [{figure='cpu_busy.p100', at_most=0}]", ".all[0].figure", "'p100' is not mean, max or a percentile"),
        ("all = [{figure='users.p95', at_most=0}]", ".all[0].figure", "users has share alone"),
        ("all = [{figure=95, at_most=0}]", ".all[0].figure", "95 is not a figure"),
        ("all = [{figure='cpu_busy.p95'}]", ".all[0]", "takes one of at_most, below, at_least; it has none of them"),
        ("all = [{figure='cpu_busy.p95', at_most=0, below=1}]", ".all[0]", "it has at_most and below"),
        ("all = [{figure='cpu_busy.p95', at_most='2 kB/s'}]", ".all[0].at_most", "'2 kB/s' is not a share"),
        ("all = [{figure='net_rx.p95', below='5%'}]", ".all[0].below", "'5%' is not a rate"),
        ("all = [{figure='net_daily.max', below='5 MB/s'}]", ".all[0].below", "is not an amount a day"),
        ("all = [{figure='cpu_vcpus.p95', below='3%'}]", ".all[0].below", "is not a number of vCPUs"),
        ("all = [{figure='cpu_busy.p95', at_most=5}]", ".all[0].at_most", "5 is more than the whole"),
        ("all = [{figure='cpu_busy.p95', at_most=-0.1}]", ".all[0].at_most", "-0.1 is not a share"),
        ("all = [{figure='cpu_busy.p95', below=0}]", ".all[0].below", "no figure is below 0"),
        ("all = [{figure='cpu_busy.p95', below=1, window='36h'}]", ".all[0].window", "is not a number of whole days"),
        ("all = [{figure='cpu_busy.p95', below=1, window=14}]", ".all[0].window", "14 is not a duration"),
        ("all = [{figure='cpu_busy.p95', below=1, optional='yes'}]", ".all[0].optional", "neither true nor false"),
        ("all = [{figure='cpu_busy.p95', below=1, colour=1}]", ".all[0].colour", "unknown setting"),
        ("all = [{figure='cpu_busy.p95', below=1, any=[]}]", ".all[0]", "it has figure and any"),
        ("window = '7d'\nall = [{figure='cpu_busy.p95', below=1}]", ".window", "stands beside a figure alone"),
        ("max_age = '7d'\nfigure='cpu_busy.p95'\nbelow=1", ".max_age", "unknown setting"),
        ("min_age = 7\nfigure='cpu_busy.p95'\nbelow=1", ".min_age", "7 is not a duration"),
        ("source = 7\nfigure='cpu_busy.p95'\nbelow=1", ".source", "7 is not a line of text"),
        ("figure='cpu_busy.p95'\nbelow=1\noptional=true", "", "not every figure may be optional"),
        (
            "any=[{figure='cpu_busy.p95', below=1}, {figure='cpu_max.p95', below=1, optional=true}]",
            "",
            "not every figure may be optional",
        ),
        ('figure="cpu_busy.p95"\nbelow=1\n"two\\nlines"=1', ".'two\\nlines'", "unknown setting"),
    ],
)
def test_a_mistake_is_named_with_its_place(body: str, place: str, problem: str) -> None:
    """One mistake is one problem, which says where it is and what is wrong."""
    (found,) = problems_of(body)
    assert found.startswith(f"{place}: ")
    assert problem in found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[report.policies.Owls]", "report.policies.Owls: a name is of a-z, 0-9 and -"),
        ("[report.policies.-x]", "report.policies.-x: a name is of"),
        (f"[report.policies.{'x' * 41}]", ": a name is of a-z, 0-9 and - between them, at most 40 characters"),
        ('[report.policies."x y"]', "report.policies.'x y': a name is of"),
        ("[report.policies.classic]", "report.policies.classic: is the name of a built-in policy"),
        ("[report.policies.fallow]", "report.policies.fallow: is the name of a built-in policy"),
        ("[report.policies.all]", "report.policies.all: means every policy"),
        ("[report]\npolicies = 3", "report.policies: 3 is not a table of policies"),
        ("[report.policies]\nx = 3", "report.policies.x: 3 is not a table"),
    ],
)
def test_a_name_is_plain_and_its_own(text: str, problem: str) -> None:
    """Names can be typed, are no options, and hide no built-in policy."""
    rest = "\nsummary='x'\nfigure='cpu_busy.p95'\nbelow=1\n" if text.startswith("[report.policies.") else "\n"
    policies, problems = read(text + rest)
    assert policies == {}
    assert len(problems) == 1
    assert problem in problems[0]


def test_a_summary_is_needed() -> None:
    """Who reads the list of policies must know what each looks for; a line that cannot be printed is no summary."""
    assert "summary: is missing" in read("[report.policies.x]\nfigure='cpu_busy.p95'\nbelow=1\n")[1][0]
    assert (
        "cannot be printed" in read('[report.policies.x]\nsummary="a\\u001bb"\nfigure="cpu_busy.p95"\nbelow=1\n')[1][0]
    )


def test_every_mistake_is_reported_at_once_and_the_others_are_read() -> None:
    """Mistakes of several policies and places come together; a policy without one is there."""
    text = """
[report.policies.bad]
colour = 1
all = [ { figure = "cpu.p95", below = 1 }, { any = [ { figure = "net_rx.p95", below = "5%" }, { any = [] } ] } ]
[report.policies.good]
summary = "fine"
figure = "cpu_busy.p95"
below = "5%"
"""
    policies, problems = read(text)
    assert list(policies) == ["good"]
    assert [problem.split(": ")[1].removeprefix("report.policies.bad") for problem in problems] == [
        ".summary",
        ".colour",
        ".all[0].figure",
        ".all[1].any[0].below",
        ".all[1].any[1].any",
    ]


@given(st.integers(1, 40))
def test_nesting_has_a_bound(depth: int) -> None:
    """Lists in lists are read down to MAX_DEPTH, and named beyond it, however deep they go."""
    body = "{figure='cpu_busy.p95', below=1}"
    for _ in range(depth - 1):
        body = f"{{any=[{body}]}}"
    policies, problems = read(f"[report.policies.x]\nsummary='x'\nall=[{body}]\n")
    assert bool(policies) == (depth <= MAX_DEPTH)
    assert bool(problems) == (depth > MAX_DEPTH)
    assert all("is nested more than 8 deep" in problem for problem in problems)


def test_built_in_names_are_taken() -> None:
    """`fallow` alone stands for the default strictness, so that nobody's own may be called that."""
    assert {"fallow", *POLICIES} == BUILT_IN


def test_the_document_has_every_policy_and_figure() -> None:
    """docs/policies.md shows each built-in policy as it is, with its source, and names each figure."""
    for policy in POLICIES.values():
        section = f"### `{policy.name}`\n\nSource: {policy.source}.\n\n```toml\n{to_toml(policy)}```\n"
        assert section in DOCUMENT, f"docs/policies.md needs:\n{section}"
    table = DOCUMENT.partition("## Figures")[2].partition("## ")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE)))) == set(NAMES)
    assert len(re.findall("^### ", DOCUMENT, re.MULTILINE)) == len(POLICIES)


def test_the_documents_examples_are_read() -> None:
    """Every block of TOML is a configuration without a mistake; those of built-in policies but for their names."""
    assert len(TOML_BLOCKS) == len(POLICIES) + 1
    for block in TOML_BLOCKS:
        table = tomllib.loads(block)
        if table["report"]["policies"].keys() <= POLICIES.keys():
            assert read(block, taken=())[1] == []
        else:
            config = ReportConfig.parse(table, source="docs/policies.md")
            assert config.policy == config.own_policies["night-owls"]


def test_the_documents_mistake_is_the_real_one() -> None:
    """The message that the document shows is what its example, so spoilt, gives."""
    (block,) = (block for block in TOML_BLOCKS if "night-owls" in block)
    (problem,) = read(block.replace('"2 kB/s"', '"2 kB"'))[1]
    assert f"\n{problem}\n" in DOCUMENT
