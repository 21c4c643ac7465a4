"""Policies as they are asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.simulation.fallow_policy import Fallow
from orchestrate.simulation.names import DEFAULTS, NAMES, NPA, PolicyName, parse_policy
from orchestrate.simulation.policies import make_policy
from orchestrate.simulation.reference import PowerAware


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_policy(name: str) -> None:
    """Each can be asked for, in any case of letters, and but for NPA be made."""
    assert parse_policy(name) == parse_policy(name.lower()) == PolicyName(name=name)
    if name == NPA:
        with pytest.raises(ValueError, match="not simulated"):
            make_policy(PolicyName(name=name), 1)
    else:
        assert make_policy(PolicyName(name=name), 1) is not make_policy(PolicyName(name=name), 1)


def test_the_usual_ones_are_among_them() -> None:
    """Ours is compared with others unless told."""
    assert set(DEFAULTS) < set(NAMES)
    assert isinstance(make_policy(parse_policy("fallow"), 1), Fallow)


def test_a_combination_takes_a_parameter() -> None:
    """It reaches the overload test, and the name stays without it."""
    asked = parse_policy("thr-mmt-0.9")
    assert asked == PolicyName(name="THR-MMT", parameter=0.9)
    made, usual = make_policy(asked, 1), make_policy(PolicyName(name="THR-MMT"), 1)
    assert isinstance(made, PowerAware)
    assert isinstance(usual, PowerAware)
    assert (made.test.parameter, usual.test.parameter) == (0.9, 0.8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no policy"),
        ("MMT", "no policy"),
        ("THR-XYZ", "no policy"),
        ("DVFS-0.8", "no policy"),
        ("fallow-1", "no policy"),
        ("THR-MMT-x", "'x' is not a number"),
        ("THR-MMT-", "not a number"),
        ("THR-MMT-0", "more than zero"),
        ("THR-MMT-nan", "more than zero"),
    ],
)
def test_what_is_no_policy(text: str, words: str) -> None:
    """The answer names what was asked for, and what there is."""
    with pytest.raises(ValueError, match=words):
        parse_policy(text)


@given(st.text(max_size=20))
def test_any_text_is_a_policy_or_a_value_error(text: str) -> None:
    """Nothing else comes of it."""
    try:
        found = parse_policy(text).name
    except ValueError as error:
        found = str(error)
    assert found in NAMES or repr(text) in found
