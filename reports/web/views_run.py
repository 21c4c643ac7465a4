"""What the pages on hosts, agents, exemptions and deliveries show. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from reports.judgement import Savings
from reports.report import Listed
from reports.web.views_shared import Choice, ExemptionLine, Form, Frame, Judged


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLine:
    """A host and its VMs. `freed` is what those of them that can be reclaimed would give back."""

    host: str
    vms: int
    vcpus: float
    mem_bytes: float
    reclaimable: int
    freed: Savings
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsView:
    """`/hosts` (template `hosts.html.j2`).

    Attributes:
        hosts: by name.
        without_host: VMs that name no host.
        source: where hosts come from, in a sentence; the page shows it, most of all where there are none.
    """

    frame: Frame
    judged: Judged
    currency: str | None
    hosts: tuple[HostLine, ...]
    without_host: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """`/hosts/{id}` (template `host.html.j2`).

    Attributes:
        rows: every VM of the host, the one that frees most first; `rank` is None for those that free nothing.
        chart_href: JSON of its VMs' series, stacked by script; `charted` of `line.vms` VMs are in it.
    """

    frame: Frame
    judged: Judged
    currency: str | None
    line: HostLine
    rows: tuple[Listed, ...]
    chart_href: str
    charted: int
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLine:
    """One VM whose ingest is in trouble. Figures that do not matter to its group are None."""

    vm_id: str
    name: str | None
    owner: str | None
    href: str
    newest_s: float | None = None
    age_s: float | None = None
    interval_s: float | None = None
    skew_s: float | None = None
    conflicts: int | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentGroup:
    """VMs with the same trouble.

    Attributes:
        key: `late`, `silent`, `never`, `no_agent`, `powered_off`, `skewed`, `conflicts`, `flagged` or `split`.
        words: what it means and what to do.
        vms: how many there are.
        worst: at most 50 of them, the worst first.
        shows: which fields of AgentLine matter: of `newest_s`, `age_s`, `interval_s`, `skew_s`, `conflicts`, `flags`.
    """

    key: str
    title: str
    words: str
    vms: int
    worst: tuple[AgentLine, ...]
    shows: tuple[str, ...]
    is_trouble: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLine:
    """A figure of the running aggregator. `unit` is `count`, `bytes`, `s`, `time`, `ratio` or `text`."""

    words: str
    value: float | str | None
    unit: str
    is_trouble: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveNode:
    """What one aggregator says of itself. `lines`: none where it does not answer, and `problem` says why."""

    title: str
    lines: tuple[LiveLine, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthView:
    """`/health` (template `health.html.j2`).

    Attributes:
        vms: in the catalogue; `reporting` of them have sent something lately.
        flushed_s: when the aggregator last wrote figures to the fleet database; None: never.
        groups: every group, also those without VMs.
        nodes: every aggregator that was asked.
        nodes_href: the page of all nodes; None where none has told of itself.
    """

    frame: Frame
    vms: int
    reporting: int
    flushed_s: float | None
    groups: tuple[AgentGroup, ...]
    nodes: tuple[LiveNode, ...]
    nodes_href: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLine:
    """One aggregator on the page of nodes; None is not known.

    Attributes:
        state: `up`, `draining`, `stopped`, `away` or `unknown`.
        words: what there is to know of its state, in clauses.
        free_bytes: room on the disk of its stores.
        problems: why parts were not taken in, with how many VMs each holds up.
    """

    name: str
    state: str
    is_trouble: bool
    words: tuple[str, ...]
    seen_s: float | None
    version: str | None
    address: str | None
    home_vms: int
    heard_vms: int | None
    owed: int | None
    free_bytes: int | None
    parts: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesView:
    """`/nodes` (template `nodes.html.j2`): all of them by name."""

    frame: Frame
    rows: tuple[NodeLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExemptionsView:
    """`/exemptions` (template `exemptions.html.j2`).

    Attributes:
        rows: those in force, the next to expire first; with `shows_all` the others behind them, newest first.
        all_href: the other view: `?all=1` or without.
        add: form with `kind` (vm, tag, name), `subject`, `until`, `reason`, `owner`.
        kinds: choices for `kind`.
    """

    frame: Frame
    rows: tuple[ExemptionLine, ...]
    shows_all: bool
    all_href: str
    add: Form
    kinds: tuple[Choice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLine:
    """One delivery of a report: `state` is `pending`, `sent` or `failed`; `kind` is mail, webhook or directory."""

    name: str
    kind: str
    target: str
    state: str
    due_s: float
    attempt: int
    next_attempt_s: float | None
    finished_s: float | None
    problem: str | None
    subject: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveriesView:
    """`/deliveries` (template `deliveries.html.j2`): the last 100, newest first. `configured` counts the settings'."""

    frame: Frame
    rows: tuple[DeliveryLine, ...]
    configured: int
