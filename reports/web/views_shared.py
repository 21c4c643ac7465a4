"""What pages share: the frame round them, choices, forms, bars and exemptions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reports.exemptions import Exemption
from reports.people.identity import Identity
from reports.people.roles import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something to know before reading on.

    Attributes:
        kind: `info`, `warning` or `error`.
        href: where to go on, None for nowhere; `link` is its text.
    """

    kind: str
    text: str
    href: str | None = None
    link: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What every page has round its content.

    Attributes:
        title: of the page, for `<title>` and `<h1>`; text from people may be in it.
        section: `fleet`, `vms`, `hosts`, `health`, `nodes`, `exemptions`, `compare`, `policies`, `deliveries`,
            `people`, `account`, or empty on an error page: which entry of the navigation is the current one.
        now_s: when the page was made.
        zone_words: the reader's zone at that time, such as `Europe/Berlin (CET, UTC+01:00)`.
        csrf: every form that posts carries it in a hidden field named `csrf`.
        notices: in the order in which to show them.
        who: is logged in; None where that is not known, as on a page for whoever comes.
        is_outside: before anybody is logged in: without navigation.
    """

    title: str
    section: str
    now_s: float
    zone_words: str
    csrf: str
    notices: tuple[Notice, ...] = ()
    who: Identity | None = None
    is_outside: bool = False

    @property
    def may_change(self) -> bool:
        """Whether forms that change something are worth showing."""
        return self.may(Role.OPERATOR)

    @property
    def is_admin(self) -> bool:
        return self.may(Role.ADMIN)

    def may(self, needed: Role) -> bool:
        """Whether the one who is logged in has a role."""
        return self.who is not None and self.who.role.covers(needed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One entry of a list to choose from: `<option value="...">words</option>`."""

    value: str
    words: str
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """By what and when the VMs of a page were judged.

    Attributes:
        judged_s: of totals and order; single VMs are judged when the page is made.
        stored: read from the last judging run, rather than judged for this page.
        stale: older than the settings call fresh.
    """

    policy: str
    policy_summary: str
    window_days: int
    judged_s: float
    stored: bool
    stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One band of a distribution: from `low` to below `high`, in the unit of its `Distribution`.

    Attributes:
        amount: VMs, or hours.
        share_ratio: of all bars together; the widest bar is `length_ratio` 1.
    """

    words: str
    low: float
    high: float
    amount: float
    share_ratio: float
    length_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How a figure spreads, drawn without script as bars.

    Attributes:
        title: such as `Mean CPU`.
        amounts: what the bars count: `VMs` or `hours`.
        unit: of `low` and `high`: `ratio` or `bytes_per_s`.
        unknown: VMs on which the figure is not known, which no bar counts.
    """

    title: str
    amounts: str
    unit: str
    bars: tuple[Bar, ...]
    unknown: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form that posts, with what was typed and what is wrong with it.

    Attributes:
        action: its address.
        values: by the name of a field, as typed before.
        problems: by the name of a field; under the empty name, those of no single field.
    """

    action: str
    values: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExemptionLine:
    """One exemption.

    Attributes:
        state: `in force`, `expired` or `ended`.
        left_s: until it expires, None unless it is in force.
        vm_href: page of the VM, for one of a VM.
        end_action, renew_action: addresses to post to; None where that is not possible. Renewing takes the field
            `until`.
        version: what both forms carry in the field `version`: with another one they would change what was not seen.
    """

    exemption: Exemption
    state: str
    left_s: float | None
    vm_href: str | None
    end_action: str | None
    renew_action: str | None
    version: str = ""
