"""What the owners' pages show, as plain values, and their words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import tzinfo

from orchestrate.inventory import VmRef
from orchestrate.owners.wakes import UNDER_WAY, Wake, WakeState
from orchestrate.records import Entry, Rung
from reports.exemptions import Exemption
from reports.web.times import time_words
from reports.words import duration_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What stands round every page.

    Args: root: the way from the page to where the pages begin, `../`. refresh_s: where there is no script.
    """

    title: str
    root: str
    now_s: float
    zone_words: str
    refresh_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VmCard:
    """A VM as its owner knows it. Args: standing: a sentence on what is planned or was done; may be empty."""

    name: str
    ref: VmRef
    standing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepView:
    """The page behind a keep link.

    Args:
        kept: the exemption that holds; None: none does.
        first_day, last_day: of the field `until`.
        values, problems: of the fields `until`, `reason` and `owner`.
    """

    frame: Frame
    vm: VmCard
    kept: Exemption | None
    first_day: str
    last_day: str
    values: Mapping[str, str]
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeView:
    """The page behind a resume link. Args: wake: None: nobody has asked."""

    frame: Frame
    vm: VmCard
    wake: Wake | None
    line: str

    @property
    def is_under_way(self) -> bool:
        return self.wake is not None and self.wake.state in UNDER_WAY

    @property
    def has_failed(self) -> bool:
        return self.wake is not None and self.wake.state is WakeState.FAILED

    @property
    def question(self) -> str:
        """Above the button."""
        if self.wake is None:
            return "Do you need it now?"
        return "Try again?" if self.has_failed else "Is it asleep again?"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemView:
    """Why there is nothing to see."""

    frame: Frame
    detail: str


View = KeepView | ResumeView | ProblemView

TEMPLATES: Mapping[type[View], str] = {
    KeepView: "keep.html.j2",
    ResumeView: "resume.html.j2",
    ProblemView: "problem.html.j2",
}


def standing_words(entry: Entry | None, zone: tzinfo) -> str:
    """Where a VM stands, for its owner."""
    if entry is None:
        return "Nothing is planned for it."
    since = time_words(entry.since_s, zone)
    match entry.rung:
        case Rung.NOTIFY if entry.due_s is not None:
            return f"It looks unused, and is to be suspended: not before {time_words(entry.due_s, zone)}."
        case Rung.SUSPEND:
            return f"It has been suspended since {since}: its memory is saved, and it goes on where it was."
        case Rung.STOP:
            return f"It has been shut down since {since}. Its disks are as they were."
        case _:
            return f"It has looked unused since {since}. Nothing is done to it before you are told when."


def wake_words(wake: Wake | None, now_s: float) -> str:
    """How far a wake has come, in a sentence; empty where nobody asked."""
    if wake is None:
        return ""
    asked = f"You asked {_ago(wake.asked_s, now_s)} ago."
    return {
        WakeState.WAITING: f"{asked} {wake.words or 'It is about to be seen to.'}",
        WakeState.WAKING: f"{asked} It is being brought back.",
        WakeState.AWAKE: f"{asked} It runs, and its own next sign of life is awaited: within a minute or two.",
        WakeState.HEARD: f"It is back: {wake.heard_after_s or 0.0:.0f} s from your call to its next sample.",
        WakeState.SILENT: "It was brought back, and nothing has been heard from inside it since.",
        WakeState.RUNNING: "It runs already: there was nothing to do.",
        WakeState.FAILED: wake.words,
    }[wake.state]


def _ago(at_s: float, now_s: float) -> str:
    return duration_words(max(now_s - at_s, 0.0))


def wake_document(wake: Wake | None, now_s: float) -> Mapping[str, object]:
    """The same for scripts. docs/orchestrate.md has the fields."""
    return {
        "state": None if wake is None else wake.state.value,
        "line": wake_words(wake, now_s),
        "ended": wake is None or wake.state not in UNDER_WAY,
        "heard_after_s": None if wake is None else wake.heard_after_s,
    }
