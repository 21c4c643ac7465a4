"""Which group a VM is in, and what a group may say."""

from __future__ import annotations

import pytest

from orchestrate.groups import Approve, Group, MoveSettings, ReclaimSettings, group_named, group_of
from orchestrate.records import Rung
from tests.orchestrate.worlds import sighting, vm


def test_by_default_nothing_is_allowed() -> None:
    """Settings without a word have no group, and a group goes as far as a report."""
    settings, group = ReclaimSettings(), Group(name="dev", names=("*",))
    assert settings.groups == ()
    assert (group.up_to, group.approve, group.unknown_owner) == (Rung.REPORT, Approve.PERSON, False)
    assert settings.relief == settings.consolidation == MoveSettings(allowed=False, approve=Approve.PERSON)


@pytest.mark.parametrize(
    ("group", "fits"),
    [
        (Group(name="g", tags=("env:dev", "x")), True),
        (Group(name="g", tags=("site",)), True),
        (Group(name="g", tags=("env",)), False),
        (Group(name="g", owners=("ann",)), True),
        (Group(name="g", owners=("ben",)), False),
        (Group(name="g", names=("DEV-*",)), True),
        (Group(name="g", names=("hyper*",)), True),
        (Group(name="g", names=("dev",)), False),
        (Group(name="g", tags=("env:dev",), owners=("ben",)), False),
        (Group(name="g", tags=("env:dev",), owners=("ann",), names=("dev-?",)), True),
    ],
)
def test_all_that_a_group_says_has_to_fit(group: Group, fits: bool) -> None:
    """Tags and names of either side, the owner; one of each list, and all of the lists."""
    assert group.fits(vm(name="hyper-1", tags=("site",), owner="ben"), sighting()) is fits


def test_the_owner_is_the_hypervisors_where_the_catalogue_knows_none() -> None:
    """The catalogue's word goes first."""
    group = Group(name="g", owners=("ben",))
    assert group.fits(vm(owner="ben"), sighting(owner=None))
    assert not group.fits(vm(owner="ben"), sighting(owner="ann"))


def test_the_first_group_that_fits_is_the_vms_own() -> None:
    """Order decides; a VM that none fits is in none."""
    groups = (Group(name="a", names=("x*",)), Group(name="b", names=("dev-*",)), Group(name="c", names=("*",)))
    assert group_of(vm(), sighting(), groups) == groups[1]
    assert group_of(vm(), sighting(), groups[:1]) is None
    assert group_named("c", groups) == groups[2]
    assert group_named(None, groups) is None


def test_a_group_without_vms_or_with_a_negative_grace_is_a_mistake() -> None:
    """An empty list must not come to mean every VM."""
    with pytest.raises(ValueError, match="says of no VM"):
        Group(name="all")
    with pytest.raises(ValueError, match="negative"):
        Group(name="g", names=("*",), grace_s=-1.0)
    with pytest.raises(ValueError, match="negative"):
        Group(name="g", names=("*",), stop_grace_s=float("nan"))
    with pytest.raises(ValueError, match="one name: g"):
        ReclaimSettings(groups=(Group(name="g", names=("a",)), Group(name="g", names=("b",))))
