"""The rig of real hypervisors: real guests report, survive what an executor does to them, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import psutil  # type: ignore[import-untyped]
import pytest

from tests.rig.guests import METADATA_NAMESPACE, Guest, GuestSpec
from tests.rig.hypervisor import Host, Hypervisor
from tests.rig.lan import Lan, namespaces
from tests.rig.rig import Rig
from tests.rig.session import absent, session_rig
from tests.rig.shell import ROOT, RigError, wait_for

pytestmark = pytest.mark.real

SPEC = GuestSpec(name="rig-1", owner="web & shop", mail="web@example.org", tags=("shop", "night"), takes_load=True)


@pytest.fixture(scope="module")
def rig(pytestconfig: pytest.Config) -> Rig:
    return session_rig(pytestconfig)


@pytest.fixture(scope="module")
def guest(rig: Rig) -> Iterator[Guest]:
    """A guest that has reported once; the tests leave it running, on either host."""
    made = rig.start(rig.hosts[0], SPEC)
    try:
        rig.wait_for_samples(made)
        yield made
    finally:
        rig.remove(made)


def where(rig: Rig, guest: Guest) -> tuple[Host, Host]:
    """The host that a guest runs on, and the other one."""
    found = rig.host_of(guest)
    assert found is not None
    (other,) = (host for host in rig.hosts if host != found)
    return found, other


def newest_ts(rig: Rig, guest: Guest) -> int:
    ts: int = rig.samples(guest)[-1]["ts"]
    return ts


def test_an_agent_reports_at_boot_under_the_uuid_of_its_domain(rig: Rig, guest: Guest) -> None:
    """Nobody touches the guest: its agent enrols as what libvirt calls the domain, with its address and card."""
    host, _ = where(rig, guest)
    assert rig.virsh(host, "domuuid", guest.name).strip() == guest.uuid
    record = rig.record(guest)
    assert record["vm"] == guest.uuid
    assert record["hostname"] == guest.name
    assert record["ips"] == [guest.address]
    assert record["macs"] == [guest.mac]
    assert guest.boots() == [record["boot"]]
    (sample, *_) = rig.wait_for_samples(guest)
    assert sample["interval_s"] == SPEC.interval_s
    assert sample["cpu_count"] == 1
    assert sample["mem_total_bytes"] < SPEC.memory_mib * 2**20


def test_owner_mail_and_tags_stand_in_the_domain(rig: Rig, guest: Guest) -> None:
    """A driver finds the labels in the metadata, as they were given."""
    host, _ = where(rig, guest)
    found = ElementTree.fromstring(rig.virsh(host, "dumpxml", guest.uuid)).find(f"metadata/{{{METADATA_NAMESPACE}}}vm")
    assert found is not None
    labels = [(element.tag.removeprefix(f"{{{METADATA_NAMESPACE}}}"), element.text) for element in found]
    assert labels == [("owner", SPEC.owner), ("mail", SPEC.mail), *(("tag", tag) for tag in SPEC.tags)]


def test_suspend_and_save_keep_the_boot_of_a_guest(rig: Rig, guest: Guest) -> None:
    """Paused and resumed, then saved to disk and restored: samples go on and the guest was up all the time."""
    host, _ = where(rig, guest)
    boots, up_s, generation = guest.boots(), guest.uptime_s(), rig.record(guest)["generation"]
    for off, state, on in (("suspend", "paused", "resume"), ("managedsave", "shut off", "start")):
        rig.virsh(host, off, guest.uuid)
        assert rig.state(host, guest) == state
        before_ts = newest_ts(rig, guest)
        rig.virsh(host, on, guest.uuid)
        assert rig.state(host, guest) == "running"
        rig.wait_for_samples(guest, 2, after_ts=before_ts)
        now_up_s = guest.uptime_s()
        assert up_s is not None
        assert now_up_s is not None
        assert now_up_s > up_s
        up_s = now_up_s
    assert guest.boots() == boots
    assert rig.record(guest)["generation"] == generation


def test_a_live_migration_keeps_samples_flowing(rig: Rig, guest: Guest) -> None:
    """The guest runs on the other host alone, was not booted again, and its samples go on from there."""
    source, target = where(rig, guest)
    boots, before_ts = guest.boots(), newest_ts(rig, guest)
    rig.migrate(guest, source, target)
    assert rig.host_of(guest) == target
    later = rig.wait_for_samples(guest, 3, after_ts=max(before_ts, newest_ts(rig, guest)))
    assert guest.boots() == boots
    with pytest.raises(RigError, match="failed to get domain"):
        rig.state(source, guest)
    # Other guests of the target have cards of their own: this one's traffic still has its way.
    assert rig.record(guest)["macs"] == [guest.mac]
    assert {sample["interval_s"] for sample in later} == {SPEC.interval_s}


def test_samples_of_a_cut_host_wait_in_the_guest(rig: Rig, guest: Guest) -> None:
    """While the cable is out nothing arrives, though the guest runs on; put back in, what it kept arrives."""
    host, _ = where(rig, guest)
    up_s = guest.uptime_s()
    assert up_s is not None
    rig.cut(host)
    try:
        # What was on its way has arrived by the first look.
        before_ts = wait_for(lambda: (guest.uptime_s() or 0) > up_s + 3 and newest_ts(rig, guest), "time", within_s=60)
        wait_for(lambda: (guest.uptime_s() or 0) > up_s + 3 + 3 * SPEC.interval_s, "time", within_s=60)
        assert newest_ts(rig, guest) == before_ts
        assert rig.state(host, guest) == "running"
    finally:
        rig.mend(host)
    kept = rig.wait_for_samples(guest, 2, after_ts=before_ts)
    assert kept[0]["ts"] <= before_ts + 2 * SPEC.interval_s


def test_a_guest_becomes_busy_and_idle_when_told_to(rig: Rig, guest: Guest) -> None:
    """The load shows in what the agent measures, and goes again."""
    rig.load(guest, 0.9)
    try:
        before_ts = newest_ts(rig, guest)

        def is_busy() -> bool:
            return any(s["ts"] > before_ts and s["cpu_busy_ratio"] > 0.6 for s in rig.samples(guest))

        wait_for(is_busy, "a busy guest", within_s=120)
    finally:
        rig.load(guest, 0)
    wait_for(lambda: rig.samples(guest)[-1]["cpu_busy_ratio"] < 0.3, "an idle guest", within_s=120)


def test_a_second_rig_has_a_network_of_its_own_and_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    """Beside a running rig: other addresses, the same host names; at its end no process and no device is left."""
    before = namespaces_of(os.getpid())
    lan = Lan()
    try:
        assert lan.address != rig.address
        hypervisor = Hypervisor(tmp_path, lan, "hva", 0)
        try:
            hypervisor.start()
            started = psutil.Process(hypervisor.pid)
            wait_for(lambda: [child.name() for child in started.children()] == ["libvirtd"], "a daemon", within_s=30)
            processes = [started, *started.children()]
            assert len(namespaces_of(os.getpid()) - before) == 2
            assert lan.device in psutil.net_if_addrs()
        finally:
            hypervisor.stop()
        assert not any(process.is_running() for process in processes)
    finally:
        lan.close()
    assert namespaces_of(os.getpid()) == before
    assert lan.device not in psutil.net_if_addrs()


def test_what_is_missing_for_a_rig_is_named() -> None:
    """Without root or a program there is a reason to skip that says so."""
    assert absent(user_id=1000, which=str) == "real hypervisors need root"
    reason = absent(user_id=0, which=lambda name: None if name in ("libvirtd", "virsh") else name)
    assert reason == "real hypervisors need libvirtd, virsh"


KILLED = """
import sys, time
from pathlib import Path
from tests.rig.hypervisor import Hypervisor
from tests.rig.lan import Lan
hypervisor = Hypervisor(Path(sys.argv[1]), Lan(), "hva", 0)
hypervisor.start()
print(hypervisor.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_run_ends_its_daemons_and_the_next_one_tidies_up(rig: Rig, tmp_path: Path) -> None:
    """kill -9 of the tests takes the daemons along; the namespaces go when the next rig starts."""
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert run.stdout is not None
        parent = psutil.Process(int(run.stdout.readline()))
        wait_for(lambda: [child.name() for child in parent.children()] == ["libvirtd"], "a daemon", within_s=30)
        processes = [parent, *parent.children()]
    finally:
        run.send_signal(signal.SIGKILL)
        run.communicate()
    wait_for(lambda: not any(map(is_alive, processes)), "the end of the daemon", within_s=30)
    ours = namespaces_of(os.getpid())
    assert len(namespaces_of(run.pid)) == 2
    Lan().close()
    assert namespaces_of(run.pid) == set()
    assert namespaces_of(os.getpid()) == ours


def namespaces_of(pid: int) -> set[str]:
    return {name for name in namespaces() if f"-{pid}-" in name}


def is_alive(process: psutil.Process) -> bool:
    # Whoever inherited it may be slow to take note of its end.
    return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
