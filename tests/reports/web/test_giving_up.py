"""A source that hangs costs a request about many VMs one time-out."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.series import FirstOf, SeriesUnavailable, UnknownVm
from reports.web.giving_up import GivingUp
from tests.reports.fleets import Spec
from tests.reports.web.house import FakeSeries, pages


def test_source_that_cannot_tell_is_asked_once() -> None:
    """The next source answers for every VM, and the one that hangs is not asked again."""
    hung, local = FakeSeries(problem=SeriesUnavailable("it hangs")), FakeSeries()
    source = FirstOf([GivingUp(hung), local])
    for vm_id in ("a", "b", "c"):
        assert source.read(vm_id, 0, 3600).vm == vm_id
    assert (len(hung.asked), len(local.asked)) == (1, 3)
    assert source.find("d", 0, 3600).passed == ("it hangs",)


def test_vm_that_is_unknown_is_no_reason_to_give_up() -> None:
    """Another VM may be known."""
    series = FakeSeries(problem=UnknownVm("a"))
    source = GivingUp(series)
    with pytest.raises(UnknownVm):
        source.read("a", 0, 3600)
    series.problem = None
    assert source.read("b", 0, 3600).vm == "b"


def test_host_of_many_vms_waits_once(tmp_path: Path) -> None:
    """Each request asks anew, and once; every VM has the reason."""
    with pages(tmp_path, [Spec(vm_id=f"vm-{n}", tags=("host:h1",)) for n in range(4)]) as house:
        house.series.problem = SeriesUnavailable("it hangs")
        for times in (1, 2):
            got = house.browser.get("/v1/hosts/h1/series?from=1000000&to=1003600").json
            assert [one["reason"] for one in got["unavailable"]] == ["it hangs"] * 4
            assert len(house.series.asked) == times
