"""Relief on real hypervisors: a hot host is cooled by a live migration, and a cut link costs no guest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.e2e.cloud import Cloud
from tests.e2e.story import INTERVAL_S, KEPT, NAPPER, Notices, Slept, wake
from tests.rig.guests import Guest
from tests.rig.hypervisor import Host
from tests.rig.shell import RigError, wait_for

pytestmark = pytest.mark.real

BUSY_RATIO = 0.95
# Slow enough to be cut in its middle, quick enough to be waited for.
SLOW_MIB_PER_S = 4
UNBOUND_MIB_PER_S = 8_796_093_022_207


@pytest.fixture(scope="module")
def busy(cloud: Cloud, pages: str, told: Notices, slept: Slept) -> Iterator[Cloud]:
    """Both guests of one host work, the other host has none that runs. That their owner keeps one does not pin it."""
    wake(pages, told, NAPPER)
    assert slept.run["actions"]
    guests = [cloud.guests[name] for name in (NAPPER, KEPT)]
    for guest in guests:
        cloud.rig.load(guest, BUSY_RATIO)
    yield cloud
    for guest in guests:
        cloud.rig.load(guest, 0)


def hot_plan(cloud: Cloud) -> dict[str, Any]:
    """A plan of one move off the hot host, once a whole minute of load has been seen."""

    def made() -> dict[str, Any] | None:
        planned = cloud.read("plan", "--kind", "relief", "--by", "ann")
        return planned if planned["plan"]["steps"] else None

    planned = wait_for(made, "a plan of relief", within_s=240)
    (step,) = planned["plan"]["steps"]
    target, source = (host.name for host in cloud.rig.hosts)
    assert {each["host_id"] for each in planned["hot"]} == {source}
    assert (step["verb"], step["expected"]["host_id"], step["target_host_id"]) == ("migrate-live", source, target)
    return planned


def mover(cloud: Cloud, planned: dict[str, Any]) -> Guest:
    """The guest that a plan moves."""
    (step,) = planned["plan"]["steps"]
    return cloud.guests[step["name"]]


@contextmanager
def applying(cloud: Cloud, sha256: str) -> Iterator[Future[CompletedProcess[str]]]:
    """`apply` in the background: what it came to, as a future."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(cloud.call, "apply", sha256, "--by", "ann", "--json")


def test_a_cut_link_leaves_the_guest_at_its_source_and_the_plan_honest(busy: Cloud) -> None:
    """The cable is out in the middle of the move: the action failed, says so, and the guest ran all the time."""
    cloud = busy
    target, source = cloud.rig.hosts
    planned = hot_plan(cloud)
    guest = mover(cloud, planned)
    sha256 = cloud.approve(planned, ("migrate-live", guest.name))
    cloud.rig.limit_migration(source, guest, mib_per_s=SLOW_MIB_PER_S)
    with applying(cloud, sha256) as future:
        try:
            wait_for(lambda: future.done() or has_copied(cloud, source, guest), "a move under way", within_s=120)
            cloud.rig.cut(target)
            done = future.result(240)
        finally:
            cloud.rig.mend(target)
            cloud.rig.limit_migration(source, guest, mib_per_s=UNBOUND_MIB_PER_S)
    assert done.returncode == 1, (done.stdout, done.stderr)
    (action,) = json.loads(done.stdout)["actions"]
    assert action["outcome"] == "failed", action["words"]
    assert cloud.rig.state(source, guest) == "running"
    # What its target had prepared goes once that has noticed too; until then both know the guest.
    wait_for(lambda: is_at(cloud, source, guest), "the guest at its source alone", within_s=60)
    assert guest.boots() == [cloud.rig.record(guest, aggregator=cloud.aggregator)["boot"]]
    status = cloud.read("status")
    assert (status["unsettled"], status["runs"][0]["run_id"]) == ([], json.loads(done.stdout)["run_id"])
    again = cloud.call("apply", sha256)
    assert again.returncode == 1
    assert cloud.ok("audit", "verify")


def test_a_hot_host_is_relieved_by_a_move_that_loses_no_sample(busy: Cloud) -> None:
    """Planned, approved, applied: the guest runs on the other host, on the same boot, and no sample of it lacks."""
    cloud = busy
    target, source = cloud.rig.hosts
    planned = hot_plan(cloud)
    guest = mover(cloud, planned)
    sha256 = cloud.approve(planned, ("migrate-live", guest.name))
    before_ts = cloud.samples(guest)[-1]["ts"]
    applied = cloud.read("apply", sha256, "--by", "ann")
    assert [each["outcome"] for each in applied["actions"]] == ["done"], applied
    assert cloud.rig.host_of(guest) == target
    moved_ts = cloud.samples(guest)[-1]["ts"]
    cloud.wait_for_samples(guest, 2, after_ts=moved_ts)
    times = [each["ts"] for each in cloud.samples(guest) if each["ts"] >= before_ts]
    assert times == list(range(before_ts, times[-1] + 1, INTERVAL_S))
    assert len(guest.boots()) == 1
    told = {vm["name"]: vm["host"] for vm in cloud.read("inventory")["vms"] if vm["state"] == "running"}
    assert told == {each: (target if each == guest.name else source).name for each in (NAPPER, KEPT)}


def is_at(cloud: Cloud, host: Host, guest: Guest) -> bool:
    """Whether the guest is on this host and nowhere else."""
    try:
        return cloud.rig.host_of(guest) == host
    except RigError:
        return False


def has_copied(cloud: Cloud, source: Host, guest: Guest) -> bool:
    """Whether a migration has moved some of the guest's memory."""
    try:
        about = cloud.rig.virsh(source, "domjobinfo", guest.uuid)
    except RigError:
        return False
    found = re.search(r"^Data processed: +([0-9.]+) (\w+)", about, re.MULTILINE)
    return found is not None and found[2] in {"MiB", "GiB"} and float(found[1]) > 1
