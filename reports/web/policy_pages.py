"""Which policies there are, and the fleet by all of them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.fleet import read_window_days, snapshot
from reports.judgement import Savings
from reports.verdicts import Verdict
from reports.web.answers import Answer, Asked, Handler
from reports.web.backing import Backing
from reports.web.comparing import ASK_AGAIN_S, Comparing, Waiting
from reports.web.params import Choosing, href, vm_path
from reports.web.parts import frame, policy_card, wait_page
from reports.web.renderer import Renderer
from reports.web.views import CompareLine, CompareView, DisputedLine, PoliciesView


class PolicyPages:
    """`/policies` and `/compare`."""

    def __init__(self, backing: Backing, renderer: Renderer, comparing: Comparing) -> None:
        self._backing = backing
        self._renderer = renderer
        self._comparing = comparing

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {"policies": self.policies, "compare": self.compare}

    def policies(self, asked: Asked) -> Answer:
        """Every policy with its rules."""
        config = self._backing.config
        # They are there without a fleet too.
        choosing = _choosing(self._backing, ())
        view = PoliciesView(
            frame=frame(asked, "Policies", "policies", zone=config.zone, now_s=self._backing.clock()),
            policies=tuple(
                policy_card(policy, choosing, is_own=name in config.own_policies)
                for name, policy in config.policies.items()
            ),
        )
        return self._renderer.page(view)

    def compare(self, asked: Asked) -> Answer:
        """The fleet by every policy."""
        backing = self._backing
        choosing = choosing_of(backing)
        _, days = choosing.read(asked.query)
        found = self._comparing.find(days)
        now_s = backing.clock()
        page_frame = frame(asked, "Policies compared", "compare", zone=backing.config.zone, now_s=now_s)
        if isinstance(found, Waiting):
            return wait_page(self._renderer, page_frame, found.text, asked.target, ASK_AGAIN_S, back="/policies")
        return self._renderer.page(
            CompareView(
                frame=page_frame,
                window_days=days,
                vms=found["vms"],
                compared_s=found["generated_at_s"],
                currency=found["currency"],
                lines=_lines(found, choosing, days),
                agreement=tuple(tuple(line["idle_by_both"].values()) for line in found["policies"]),
                disputed_vms=found["disputed_vms"],
                disputed=tuple(
                    DisputedLine(
                        vm_id=one["vm"],
                        name=one["name"],
                        owner=one["owner"],
                        href=vm_path(one["vm"]),
                        idle_by=one["idle_by"],
                        verdicts=tuple(Verdict(each["verdict"]) for each in one["verdicts"].values()),
                    )
                    for one in found["disputed"]
                ),
            )
        )


def choosing_of(backing: Backing) -> Choosing:
    """By what pages may judge."""
    with snapshot(backing.fleet.reader) as connection:
        days = read_window_days(connection)
    return _choosing(backing, days)


def _choosing(backing: Backing, windows_days: tuple[int, ...]) -> Choosing:
    config = backing.config
    return Choosing(
        policies=config.policies,
        windows_days=windows_days,
        default_policy=config.policy.name,
        default_days=config.window_days,
    )


def _lines(found: Mapping[str, Any], choosing: Choosing, days: int) -> tuple[CompareLine, ...]:
    lines = found["policies"]
    most = max((line["freed"][Verdict.IDLE.value]["vcpus"] for line in lines), default=0.0)
    return tuple(
        CompareLine(
            policy=line["name"],
            summary=line["summary"],
            is_default=line["name"] == choosing.default_policy,
            idle=line[Verdict.IDLE.value],
            insufficient=line[Verdict.INSUFFICIENT.value],
            excluded=line[Verdict.EXCLUDED.value],
            freed_idle=Savings(**line["freed"][Verdict.IDLE.value]),
            freed=Savings(**line["reclaimable"]),
            freed_length_ratio=line["freed"][Verdict.IDLE.value]["vcpus"] / most if most else 0.0,
            missing_days=tuple(line["missing_windows_days"]),
            href=href("/vms", choosing.parameters(line["name"], days)),
        )
        for line in lines
    )
