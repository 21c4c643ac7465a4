"""Whether figures come in: what the fleet database knows of agents, and what the aggregator says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.fleet import snapshot
from reports.ingest_health import Affected, AgentState, IngestHealth, Trouble, read_ingest_health
from reports.live import Live, NodeLive, NotLive
from reports.web.answers import Answer, Asked, Handler
from reports.web.backing import Backing
from reports.web.params import vm_path
from reports.web.parts import frame
from reports.web.renderer import Renderer
from reports.web.views import AgentGroup, AgentLine, HealthView, LiveLine, LiveNode, Notice


@dataclass(frozen=True, slots=True)
class _Group:
    """How a trouble is told. `is_trouble`: there is something to do."""

    title: str
    words: str
    shows: tuple[str, ...]
    is_trouble: bool = True


_GROUPS: Mapping[Trouble, _Group] = {
    Trouble.LATE: _Group(
        "Late",
        "Their newest sample is older than three of their intervals: a slow network, or an agent that waits.",
        ("newest_s", "age_s", "interval_s"),
    ),
    Trouble.SILENT: _Group(
        "Silent",
        "Nothing has come for so long that they are not judged. Look whether the VM runs, and its agent: "
        "fallow-agent status on the VM says more.",
        ("newest_s", "age_s", "flags"),
    ),
    Trouble.NEVER: _Group(
        "Enrolled, never reported",
        "Their agents enrolled, and no sample came: look at the agent's log on the VM.",
        (),
    ),
    Trouble.SKEWED: _Group(
        "Clock off",
        "Their clocks differ from the aggregator's, so that their samples lie at wrong times: set up NTP there.",
        ("skew_s", "newest_s"),
    ),
    Trouble.CONFLICTS: _Group(
        "Conflicts",
        "Samples were refused because others with the same time were there first: two machines may push as one VM, "
        "such as a clone with the token of its original.",
        ("conflicts", "flags"),
    ),
    Trouble.FLAGGED: _Group(
        "Flagged by the aggregator",
        "Their figures are doubtful, so that they are not judged.",
        ("flags", "newest_s"),
    ),
    Trouble.SPLIT: _Group(
        "History on several nodes",
        "Part of their history lies on another node than the one that keeps it, so that they are not judged until that "
        "has taken it in. The nodes page says what holds that up.",
        ("newest_s", "age_s"),
    ),
    Trouble.NO_AGENT: _Group(
        "Run no agent",
        "They are known from an import alone: install and enrol the agent to have them judged.",
        (),
        is_trouble=False,
    ),
    Trouble.POWERED_OFF: _Group(
        "Powered off",
        "The inventory says so. They use no CPU, and still hold their disks.",
        ("newest_s",),
        is_trouble=False,
    ),
}


def find_health(backing: Backing) -> tuple[IngestHealth, Sequence[NodeLive]]:
    """Both sides: what is stored, and what runs, node by node."""
    with snapshot(backing.fleet.reader) as connection:
        health = read_ingest_health(connection, backing.clock(), backing.config.limits)
    return health, backing.live()


class HealthPages:
    """`/health`."""

    def __init__(self, backing: Backing, renderer: Renderer) -> None:
        self._backing = backing
        self._renderer = renderer

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {"health": self.show}

    def show(self, asked: Asked) -> Answer:
        """The page."""
        health, told = find_health(self._backing)
        nodes = tuple(_node(one, named=len(told) > 1) for one in told)
        notices = [
            Notice(kind="warning", text=f"{one.title} does not answer: {one.problem}.")
            for one in nodes
            if one.problem is not None
        ]
        view = HealthView(
            frame=frame(
                asked,
                "Ingest health",
                "health",
                zone=self._backing.config.zone,
                now_s=self._backing.clock(),
                notices=notices,
            ),
            vms=health.vms,
            reporting=health.reporting,
            flushed_s=health.flushed_s,
            groups=tuple(_group(trouble, group, health.troubles[trouble]) for trouble, group in _GROUPS.items()),
            nodes=nodes,
            nodes_href="/nodes" if any(one.node is not None for one in told) else None,
        )
        return self._renderer.page(view)


def _group(trouble: Trouble, group: _Group, affected: Affected) -> AgentGroup:
    return AgentGroup(
        key=trouble.value,
        title=group.title,
        words=group.words,
        vms=affected.vms,
        worst=tuple(map(_agent, affected.worst)),
        shows=group.shows,
        is_trouble=group.is_trouble and affected.vms > 0,
    )


def _agent(state: AgentState) -> AgentLine:
    return AgentLine(
        vm_id=state.vm_id,
        name=state.name,
        owner=state.owner,
        href=vm_path(state.vm_id),
        newest_s=state.newest_s,
        age_s=state.age_s,
        interval_s=state.interval_s,
        skew_s=state.skew_s,
        conflicts=state.conflicts,
        flags=state.flags,
    )


def _node(told: NodeLive, *, named: bool) -> LiveNode:
    health = told.health
    return LiveNode(
        title=f"Node {told.node.name}" if named and told.node is not None else "The aggregator",
        lines=() if isinstance(health, NotLive) else _live_lines(health),
        problem=health.reason if isinstance(health, NotLive) else None,
    )


def _live_lines(live: Live) -> tuple[LiveLine, ...]:
    ingest, flushes, journal = live.ingest, live.flushes, live.journal

    def count(words: str, value: int, *, is_trouble: bool = False) -> LiveLine:
        return LiveLine(words=words, value=value, unit="count", is_trouble=is_trouble and value > 0)

    return (
        LiveLine(words="takes pushes", value="yes" if live.ready else "no", unit="text", is_trouble=not live.ready),
        count("VMs heard of in the last day", ingest.vms),
        LiveLine(words="newest push", value=ingest.last_push_s, unit="time"),
        count("pushes taken since its start", ingest.pushes),
        count("samples taken", ingest.samples),
        count("samples that were here already", ingest.duplicates),
        count("samples in conflict with others", max(ingest.conflicts, flushes.conflicts), is_trouble=True),
        count("samples too old to keep", ingest.too_old, is_trouble=True),
        *(count(f"requests refused: {reason}", number, is_trouble=True) for reason, number in ingest.rejects),
        count("connections", ingest.connections),
        count("connections refused", ingest.connections_refused, is_trouble=True),
        count("mistakes of the aggregator", ingest.errors, is_trouble=True),
        count("samples in memory, not in a store yet", live.buffered_samples),
        LiveLine(words="memory they take", value=live.buffered_bytes, unit="bytes"),
        LiveLine(words="last flush", value=flushes.last_s, unit="time"),
        LiveLine(words="it took", value=flushes.last_duration_s if flushes.last_s else None, unit="s"),
        count("flushes left out because one was running", flushes.overruns, is_trouble=True),
        count("stores that could not be written, each time", flushes.store_failures, is_trouble=True),
        count("damaged stores moved aside", flushes.stores_lost, is_trouble=True),
        count("summaries that could not be written", flushes.summary_failures, is_trouble=True),
        LiveLine(
            words="journal takes records",
            value="yes" if journal.healthy else "no",
            unit="text",
            is_trouble=not journal.healthy,
        ),
        LiveLine(words="journal on disk", value=journal.size_bytes, unit="bytes"),
        count("groups the disk did not take", journal.failed_commits, is_trouble=True),
        count("damaged records skipped at the start", journal.damaged_records, is_trouble=True),
    )
