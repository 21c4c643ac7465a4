"""Where a VM's history is at home, and what of its summaries needs to be kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aggregator.homes import Home, Part, fold, place
from aggregator.summary import Summary
from tests.aggregator.flush_fakes import NOW_S, TS, summary

OLD_S = TS - 7200


def home(node: str, newest_s: int, received_s: float = NOW_S) -> Home:
    """What the database says."""
    return Home(node, OLD_S, newest_s, received_s)


def test_whoever_writes_first_is_the_home() -> None:
    """So is whoever writes next where none has said so yet; the whole summary is written."""
    placing = place([summary("new"), summary("unsaid")], "a", {"unsaid": home("", TS)}, {}, now_s=NOW_S)
    assert [one.vm_id for one in placing.rows] == ["new", "unsaid"]
    assert placing.whole == {"new", "unsaid"}
    assert (placing.parts, placing.returned) == ([], [])


def test_the_home_writes_no_figures_while_another_holds_a_part() -> None:
    """Those of the last whole history stand; its row goes on, and begins where the older of both begins."""
    placing = place([summary("vm")], "a", {"vm": home("a", TS - 60)}, {"vm": {"b"}}, now_s=NOW_S)
    assert [(one.oldest_s, one.newest_s) for one in placing.rows] == [(OLD_S, TS)]
    assert (placing.whole, placing.parts, placing.returned) == (set(), [], [])


def test_a_vm_that_moves_gets_a_new_home_and_leaves_a_part() -> None:
    """The former home is noted as the holder of a part, and the figures stay as they are."""
    placing = place([summary("vm")], "b", {"vm": home("a", TS - 60)}, {}, now_s=NOW_S)
    assert [(one.oldest_s, one.newest_s) for one in placing.rows] == [(OLD_S, TS)]
    assert placing.parts == [Part("vm", "a", OLD_S, TS - 60)]
    assert (placing.whole, placing.returned) == (set(), [])


def test_a_vm_that_comes_back_is_at_home_again() -> None:
    """What was a part is the home's own history now."""
    placing = place([summary("vm")], "a", {"vm": home("b", TS - 60)}, {"vm": {"a", "c"}}, now_s=NOW_S)
    assert placing.returned == ["vm"]
    assert placing.parts == [Part("vm", "b", OLD_S, TS - 60)]


def test_what_is_not_newer_is_a_part() -> None:
    """A late flush does not take the VM away from where it pushes to."""
    placing = place([summary("vm")], "b", {"vm": home("a", TS)}, {}, now_s=NOW_S)
    assert placing.parts == [Part("vm", "b", TS - 3600, TS)]
    assert (placing.rows, placing.whole, placing.returned) == ([], set(), [])


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([-30, 0, 90, 3_600, 72_000]), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_row_23_whoever_is_pushed_to_is_the_home_whatever_was_of_the_future(steps: list[tuple[str, int, bool]]) -> None:
    """A sample of tomorrow keeps no node from becoming the home that the VM pushes to from then on, nor does what the
    other tells again."""
    found: Home | None = None
    told: dict[str, Summary] = {}

    def tell(node: str, now_s: float) -> None:
        nonlocal found
        homes = {} if found is None else {"vm": found}
        for row in place([told[node]], node, homes, {}, now_s=now_s).rows:
            found = home(node, row.newest_s, row.received_s)

    for number, (node, ahead_s, is_told_again) in enumerate(steps, start=1):
        now_s = NOW_S + 900 * number
        newest_s = max(int(now_s) + ahead_s, told[node].newest_s if node in told else 0)
        told[node] = summary("vm", newest_s=newest_s, received_s=now_s)
        tell(node, now_s)
        for other in [*told] if is_told_again else []:
            tell(other, now_s + 60)
        assert found is not None
        assert found.node == node


def test_placing_twice_is_placing_once() -> None:
    """A commit whose answer was lost is repeated: what it says then is what it said before."""
    one = summary("vm")
    after = place([one], "b", {"vm": home("b", TS)}, {"vm": {"a"}}, now_s=NOW_S)
    assert [(row.oldest_s, row.newest_s) for row in after.rows] == [(OLD_S, TS)]
    assert (after.whole, after.parts) == (set(), [])


summaries = st.lists(
    st.builds(
        lambda step, received, figures, evidence: summary("vm", newest_s=TS + step)._replace(
            received_s=NOW_S + step if received else 0.0,
            skew_s=float(step),
            figures=summary("vm").figures if figures else [],
            evidence=b"%d" % step if evidence else None,
        ),
        st.integers(0, 9),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


def written(rows: list[Summary]) -> dict[str, object]:
    """What a database holds after these writes, one after the other."""
    held: dict[str, object] = {}
    for row in rows:
        held["newest_s"] = row.newest_s
        if row.received_s:
            held["push"] = (row.received_s, row.skew_s)
        if row.figures:
            held["figures"] = (row.figures, row.newest_s)
        if row.evidence is not None:
            held["evidence"] = row.evidence
    return held


@given(summaries)
def test_folded_summaries_say_all_that_each_would_have_said(rows: list[Summary]) -> None:
    """Nothing is lost where several summaries of one VM wait, and no more than three are kept."""
    kept: tuple[Summary, ...] = ()
    for row in rows:
        kept = fold(kept, row)
        assert len(kept) <= 3
    assert written(list(kept)) == written(rows)
