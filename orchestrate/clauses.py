"""The rules over one VM, each on its own: is it in doubt, exempt, in use, or contradicted from outside? Pure.

Every clause is written so that what is not known, and NaN, speaks against acting. `orchestrate.guards` says which
rules hold for which plan; planning and applying ask the same clauses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from statistics import fmean

from orchestrate.groups import Group, ReclaimSettings
from orchestrate.inventory import Shield, VmState
from orchestrate.outside import Outside
from orchestrate.refusal import Refusal, Rule
from orchestrate.sighting import Minute, Sighting
from orchestrate.world import Scene
from reports.verdicts import Verdict
from reports.words import NOT_MEASURED, duration_words, number, time_words

_DAY_S = 86_400.0
# These pass by themselves: a VM does not begin anew for them.
PASSING = frozenset({Shield.BACKUP, Shield.LOCKED})


def on_doubt(scene: Scene, group: Group | None, settings: ReclaimSettings) -> tuple[Refusal, ...]:
    """What is not known for certain: who the VM is, and that it is idle, now and for long."""
    if scene.vm is None:
        return (_refusal(scene, Rule.ON_DOUBT, "its hypervisor does not show it"),)
    words = [scene.doubt] if scene.doubt is not None else []
    if scene.vm.state is not VmState.RUNNING:
        words.append(f"its hypervisor says that it is {scene.vm.state}")
    if scene.sighting is None:
        words.append("no agent is known to run in it")
    else:
        words += _verdict_doubts(scene.sighting, group)
        words += _data_doubts(scene.sighting, settings, scene.now_s)
        if not scene.sighting.minutes:
            words.append("its newest minutes are not known")
        elif (use := in_use(scene.sighting, settings)) is not None:
            words.append(use)
    return tuple(_refusal(scene, Rule.ON_DOUBT, each) for each in words)


def _verdict_doubts(sighting: Sighting, group: Group | None) -> Iterator[str]:
    if sighting.verdict is not Verdict.IDLE:
        yield f"it is not idle: {sighting.verdict.value} ({sighting.cause})"
    if group is not None and group.policy is not None and sighting.policy != group.policy:
        yield f"it was judged by the policy {sighting.policy}, and its group goes by {group.policy}"
    if sighting.flags:
        yield f"its figures are flagged: {', '.join(sighting.flags)}"


def _data_doubts(sighting: Sighting, settings: ReclaimSettings, now_s: float) -> Iterator[str]:
    if sighting.days is None or not sighting.days >= settings.min_days:
        yield f"{_shown(sighting.days)} days of data, and {settings.min_days:g} are needed"
    ratio, least = sighting.coverage_ratio, settings.min_coverage_ratio
    if ratio is None or not ratio >= least:
        covered = number(ratio, "ratio", beside=least)
        yield f"{covered} of its window is covered, and {number(least, 'ratio')} are needed"
    if sighting.skew_s is None or not abs(sighting.skew_s) <= settings.max_skew_s:
        skew = NOT_MEASURED if sighting.skew_s is None else duration_words(sighting.skew_s)
        yield f"its clock is off by {skew}, and {duration_words(settings.max_skew_s)} are allowed"
    newest = [("newest sample", sighting.newest_s), *(("newest minute", one.ts_s) for one in sighting.minutes[-1:])]
    # A clock that goes ahead makes old samples look young.
    ahead_s = max(-(sighting.skew_s or 0.0), 0.0)
    for what, at_s in newest:
        if at_s is None or not (is_fresh(at_s, settings, now_s) and is_fresh(at_s - ahead_s, settings, now_s)):
            age = "not known" if at_s is None else f"of {time_words(at_s - ahead_s)}, it is {time_words(now_s)}"
            yield f"its {what} is {age}, and must be younger than {duration_words(settings.fresh_s)}"


def is_fresh(at_s: float, settings: ReclaimSettings, now_s: float) -> bool:
    """Young enough to act upon, and not from a future that only a wrong clock can tell of."""
    return -settings.max_skew_s <= now_s - at_s < settings.fresh_s


def in_use(sighting: Sighting, settings: ReclaimSettings) -> str | None:
    """What one of the newest minutes shows; None: nobody uses the VM now. A figure that is missing counts as use."""
    for minute in reversed(sighting.minutes):
        if not minute.cpu_busy_ratio <= settings.recent_cpu_ratio:
            busy = number(minute.cpu_busy_ratio, "ratio", beside=settings.recent_cpu_ratio)
            return f"it woke up: {busy} CPU at {time_words(minute.ts_s)}"
        if minute.users is None:
            return f"whether somebody was logged in at {time_words(minute.ts_s)} is not known"
        if minute.users > 0:
            return f"somebody was logged in at {time_words(minute.ts_s)}"
    return None


def exempt(
    scene: Scene, group: Group | None, settings: ReclaimSettings, *, lasting_only: bool = False
) -> tuple[Refusal, ...]:
    """Whom nothing is to be taken from, whatever its use. Args: lasting_only: without what passes by itself."""
    shields = scene.vm.shields if scene.vm is not None else frozenset()
    words = [*_shields(shields - PASSING if lasting_only else shields), *_tagged(scene, settings.exclude_tags)]
    if scene.sighting is not None and scene.sighting.kept is not None:
        words.append(f"kept: {scene.sighting.kept}")
    if scene.owner is None and not (group is not None and group.unknown_owner):
        words.append("nobody is known to own it")
    created_s = scene.vm.created_s if scene.vm is not None else None
    if created_s is not None and not scene.now_s - created_s >= settings.min_days * _DAY_S:
        age = duration_words(scene.now_s - created_s)
        words.append(f"its age is {age}, and {settings.min_days:g} days are needed")
    return tuple(_refusal(scene, Rule.EXEMPT, each) for each in words)


def pinned(scene: Scene, settings: ReclaimSettings) -> tuple[Refusal, ...]:
    """What is not to be moved. An owner's wish to keep a VM does not forbid that."""
    shields = scene.vm.shields if scene.vm is not None else ()
    words = [*_shields(shields), *_tagged(scene, settings.pin_tags)]
    return tuple(_refusal(scene, Rule.EXEMPT, each) for each in words)


def _shields(shields: Collection[Shield]) -> Iterator[str]:
    yield from (f"its hypervisor says: {shield}" for shield in sorted(shields))


def _tagged(scene: Scene, tags: Sequence[str]) -> Iterator[str]:
    if found := sorted(scene.tags.intersection(tags)):
        yield f"tagged {', '.join(found)}"


def stale_figures(scene: Scene, settings: ReclaimSettings) -> tuple[Refusal, ...]:
    """For a move: neither its agent nor its hypervisor has told of it lately."""
    told = [scene.sighting.newest_s if scene.sighting else None, scene.outside.at_s if scene.outside else None]
    if any(at_s is not None and is_fresh(at_s, settings, scene.now_s) for at_s in told):
        return ()
    words = f"neither its agent nor its hypervisor told of it within {duration_words(settings.fresh_s)}"
    return (_refusal(scene, Rule.ON_DOUBT, words),)


def guest_alone(scene: Scene, settings: ReclaimSettings) -> tuple[Refusal, ...]:
    """Where the driver counts, what it counts must agree with what the agent says of the same minutes."""
    if scene.capabilities is not None and not scene.capabilities.vm_counters:
        return ()
    outside = scene.outside
    if outside is None or outside.cpu_cores is None or not is_fresh(outside.at_s, settings, scene.now_s):
        return (_refusal(scene, Rule.GUEST_ALONE, "what its hypervisor counts of it could not be read"),)
    minutes = _same_minutes(scene.sighting.minutes if scene.sighting else (), outside)
    vcpus = scene.vm.vcpus if scene.vm is not None else 0
    if not minutes or vcpus <= 0:
        return (_refusal(scene, Rule.GUEST_ALONE, "its agent says nothing of the minutes its hypervisor counted"),)
    words = [*_cpu_apart(outside.cpu_cores, vcpus, minutes, settings), *_traffic_apart(outside, minutes, settings)]
    return tuple(_refusal(scene, Rule.GUEST_ALONE, each) for each in words)


def _same_minutes(minutes: Sequence[Minute], outside: Outside) -> Sequence[Minute]:
    """Those that overlap the reading; its last where the reading is younger than all of them."""
    start_s = outside.at_s - outside.span_s
    same = [one for one in minutes if one.ts_s > start_s and one.ts_s - one.interval_s < outside.at_s]
    return same or minutes[-1:]


def _cpu_apart(cores: float, vcpus: int, minutes: Sequence[Minute], settings: ReclaimSettings) -> Iterator[str]:
    seen, told = cores / vcpus, fmean(one.cpu_busy_ratio for one in minutes)
    agree = settings.agree_cpu_ratio
    # A VM's process works for its guest; only that may stand above what the guest knows of.
    if not -agree <= seen - told <= agree + settings.emulation_cores / vcpus:
        yield f"its hypervisor counts {number(seen, 'ratio')} CPU, its agent {number(told, 'ratio')}"


def _traffic_apart(outside: Outside, minutes: Sequence[Minute], settings: ReclaimSettings) -> Iterator[str]:
    if outside.net_bytes_per_s is None:
        return
    told = [
        one.net_rx_bytes_per_s + one.net_tx_bytes_per_s
        for one in minutes
        if one.net_rx_bytes_per_s is not None and one.net_tx_bytes_per_s is not None
    ]
    mean = fmean(told) if told else None
    most = settings.agree_net_factor * (mean or 0.0) + settings.agree_net_bytes_per_s
    if mean is None or not outside.net_bytes_per_s <= most:
        seen = number(outside.net_bytes_per_s, "bytes_per_s")
        yield f"its hypervisor counts {seen} of traffic, its agent {number(mean, 'bytes_per_s')}"


def _refusal(scene: Scene, rule: Rule, words: str) -> Refusal:
    return Refusal(rule=rule, words=words, ref=scene.ref)


def _shown(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.1f}".removesuffix(".0")
