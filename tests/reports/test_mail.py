"""The text of a mail."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.facts import Vm
from reports.fleet_report import make_report
from reports.mail import subject, to_mail
from reports.policies import POLICIES
from reports.report import Report
from reports.savings import Prices
from reports.verdicts import Settings, Verdict
from tests.reports import columns, samples
from tests.reports.fleets import ASLEEP, Spec, one_of_each, question, stored
from tests.reports.golden import PRICES

ANY_NAME = st.text(min_size=1, max_size=200)


def report(specs: list[Spec], **changes: Any) -> Report:
    return make_report(stored(specs), question(**changes))


def report_of(vm: Vm) -> Report:
    """Of one idle VM, without a database."""
    one = columns.facts(vm=replace(vm, enrolled_s=samples.ENROLLED_S), body=columns.evidence(cpu_s={0.002: 86_400}))
    return samples.report([one])


def paragraph(text: str, name: str) -> str:
    """What is said of one VM, as one line."""
    (found,) = (block for block in text.split("\n\n") if name in block.split("\n")[0])
    return " ".join(found.split())


@pytest.mark.parametrize("policy", POLICIES)
def test_lines_fit_every_mail_program(policy: str) -> None:
    """76 characters, and every paragraph ends where the next begins."""
    text = to_mail(report(one_of_each(), policy=policy, settings=Settings(prices=PRICES)))
    assert max(map(len, text.splitlines())) <= 76
    assert text.endswith("\n")
    assert not re.search(r"\n{3}| \n", text)


@given(name=ANY_NAME, owner=ANY_NAME)
def test_names_break_no_line_and_reach_no_subject(name: str, owner: str) -> None:
    """Whatever people call a VM, it is printed in its own line and nowhere above; only a long word is a long line."""
    plain = report_of(Vm(vm_id="vm-a"))
    named = report_of(Vm(vm_id="vm-a", name=name, owner=owner))
    assert subject(named) == subject(plain)
    text = to_mail(named)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert all(len(line) <= 76 or len(line.split()) == 1 for line in text.splitlines())
    assert len(text.split("\n\n")) == len(to_mail(plain).split("\n\n"))


def test_a_vm_is_told_so_that_its_owner_understands() -> None:
    """Whose it is, why, what is proposed, what that frees, how sure that is."""
    text = to_mail(report(one_of_each(), settings=Settings(prices=PRICES)))
    idle = paragraph(text, "(vm-idle)")
    assert re.match(r"\d\. web \(vm-idle\), owner ann Idle: ", idle)
    assert "It was never awake (CPU above 2%) in 14 days. Proposed: give it back. That frees 8 vCPU, " in idle
    assert re.search(r"\(6\.6 kWh and 137\.57 EUR a month\)\. Confidence: 8\d(\.\d)?%\.$", idle)
    sized = paragraph(text, "(vm-oversized)")
    assert "It used 19.4% of its CPU or less for 95% of the time, and never more than 15% of its memory." in sized
    assert "Proposed: the smaller size. That frees 10 vCPU and 52.0 GiB of memory" in sized
    scheduled = paragraph(text, "(vm-scheduled)")
    assert "needed Mon–Fri 08:00–17:00 UTC" in scheduled
    assert "Proposed: switch it off while nobody needs it. Averaged over the week, that frees 1.5 vCPU" in scheduled
    assert "reason and the date" in text.split("\n\n")[-1]


def test_nothing_is_proposed_for_vms_that_stay() -> None:
    """They are told why, and how large they are where that is known."""
    text = to_mail(report(one_of_each()))
    for name in ("(vm-active)", "vm-silent", "vm-kept", "vm-off", "vm-new", "vm-bare", "vm-mute"):
        assert "Proposed" not in paragraph(text, name)
    assert "awake" not in paragraph(text, "vm-silent")
    assert "It has 2 vCPU, 8.0 GiB of memory and 40.0 GiB of disk." in paragraph(text, "(vm-active)")
    assert paragraph(text, "vm-bare") == "vm-bare Runs no agent: known from an import alone."


def test_money_is_told_only_with_prices() -> None:
    """And the same in every paragraph."""
    assert "EUR" not in to_mail(report(one_of_each()))
    assert "EUR" in to_mail(report(one_of_each(), settings=Settings(prices=Prices(currency="EUR", vcpu_hour=1.0))))


def test_an_unknown_size_is_told_as_such() -> None:
    """In the VM's paragraph and below the totals; no number takes its place."""
    unsized = Spec(vm_id="vm-x", vcpus=None, mem_gib=None, disk_gib=None)
    text = to_mail(report([unsized]))
    assert "That frees an amount that is not known, as its size is not." in paragraph(text, "vm-x")
    assert "The size of 1 of them is not known" in " ".join(text.split())
    assert subject(report([unsized])) == "fallow: 1 of 1 VM can give capacity back"
    half = to_mail(report([replace(unsized, vcpus=4)]))
    assert "That frees 4 vCPU (2.2 kWh a month); how much memory and disk it has is not known." in paragraph(
        half, "vm-x"
    )


@pytest.mark.parametrize(
    ("vms", "words"),
    [
        ([], "fallow: the fleet is empty"),
        ([Spec(enrolled=False, load=None)], "fallow: none of 1 VM can give capacity back"),
        ([Spec()], "fallow: 1 of 1 VM can give back 4 vCPU"),
        ([Spec(vm_id="vm-a"), Spec(vm_id="vm-b", load=ASLEEP)], "fallow: 2 of 2 VMs can give back 8 vCPU"),
    ],
)
def test_the_subject_counts(vms: list[Spec], words: str) -> None:
    """In English, for any number of VMs."""
    assert subject(report(vms)) == words


def test_an_empty_fleet_tells_what_to_do() -> None:
    """No totals of nothing."""
    text = to_mail(report([]))
    assert "join-token" in text
    assert "Reclaimable" not in text


def test_what_became_of_the_last_report_is_told() -> None:
    """When somebody asked, with what came of it."""
    text = " ".join(to_mail(samples.report(changes=samples.CHANGES)).split())
    assert "3 reclaimed, 2 kept, 1 objected to and 0 given back to their owners. Realised: 12 vCPU, " in text
    assert "Realised" not in to_mail(samples.report())


def test_each_verdict_has_a_vm_in_the_samples() -> None:
    """Else these tests say little."""
    assert {one.judgement.verdict for one in report(one_of_each()).listed} == set(Verdict)
