"""What an owner is told: a notice as text, HTML and JSON, with the link that keeps the VM. Pure.

It tells what will happen and not before when, what is kept, why, rule by rule, and what to do about it, in that order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from jinja2 import Environment

from orchestrate.plan import Step
from reports.words import duration_words, iso_time, printable, time_words

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One owner's news of one VM.

    Args:
        not_before_s: what the notice announces is not done earlier.
        keep_url: the page with the keep button; None where no address for links is configured.
        resume_url: the page that brings it back once it is suspended; None as for `keep_url`.
    """

    step: Step
    at_s: float
    not_before_s: float
    keep_url: str | None = None
    resume_url: str | None = None

    @property
    def subject(self) -> str:
        """One printable line, whatever the VM is called."""
        return f"VM {printable(self.step.name)}: unused, to be suspended after {time_words(self.not_before_s)}"


def text_of(notice: Notice) -> str:
    """For a mail's plain part."""
    step = notice.step
    parts = [
        f"Your VM {printable(step.name)} looks unused, and its capacity is wanted back.",
        "",
        printable(step.reason),
        "",
        f"Not before {time_words(notice.not_before_s)} it is suspended: its memory is saved, its disks stay as they",
        "are, and it goes on where it was when somebody has it resumed. Nothing is deleted.",
        "",
        *_keep_lines(notice),
        "",
        "Why, rule by rule:",
        *(
            f"  {printable(each.rule)}: {printable(each.value)} (limit {printable(each.limit)})"
            for each in step.figures
        ),
        "",
        f"VM {step.ref.uuid} ({step.ref.driver}), told {time_words(notice.at_s)}.",
        "",
    ]
    return "\n".join(parts)


def _keep_lines(notice: Notice) -> list[str]:
    if notice.keep_url is None:
        return ["You still need it? Tell whoever runs this cloud."]
    lines = ["You still need it? Say so here; no login is needed:", f"  {notice.keep_url}"]
    if notice.resume_url is not None:
        lines += ["", "Once it is suspended, this brings it back:", f"  {notice.resume_url}"]
    return lines


def html_of(notice: Notice, environment: Environment) -> str:
    """For a mail's HTML part: no images, no style sheets, nothing fetched.

    Args: environment: of `orchestrate.owners.files.owner_environment`.
    """
    return environment.get_template("notice.html.j2").render(notice=notice)


def json_of(notice: Notice) -> bytes:
    """For a webhook. docs/orchestrate.md has the fields."""
    step = notice.step
    document = {
        "format": FORMAT,
        "event": "notice",
        "at": iso_time(notice.at_s),
        "not_before": iso_time(notice.not_before_s),
        "in": duration_words(notice.not_before_s - notice.at_s),
        "vm": {"id": step.vm_id, "uuid": step.ref.uuid, "driver": step.ref.driver, "name": step.name},
        "owner": step.owner,
        "mail": step.mail,
        "reason": step.reason,
        "figures": [
            {"rule": each.rule, "value": each.value, "limit": each.limit, "holds": each.holds} for each in step.figures
        ],
        "policy": step.policy,
        "keep_url": notice.keep_url,
        "resume_url": notice.resume_url,
    }
    return json.dumps(document, sort_keys=True, allow_nan=False).encode()
