"""What several pages share: the frame round them, choices and links."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import tzinfo

from reports.policy import All, Either, Expression, Policy, Rule
from reports.policy_words import rule_words
from reports.web.answers import Answer, Asked
from reports.web.judging_runs import Standing
from reports.web.params import Choosing, href
from reports.web.renderer import Renderer
from reports.web.times import zone_words
from reports.web.views import Choice, Clause, Frame, Judged, Notice, PolicyCard, WaitView


def frame(
    asked: Asked,
    title: str,
    section: str,
    *,
    zone: tzinfo,
    now_s: float,
    notices: Iterable[Notice | None] = (),
    is_outside: bool = False,
) -> Frame:
    """What is round a page; absent notices are left out."""
    return Frame(
        title=title,
        section=section,
        now_s=now_s,
        zone_words=zone_words(zone, now_s),
        csrf=asked.csrf,
        notices=tuple(notice for notice in notices if notice is not None),
        who=asked.who,
        is_outside=is_outside,
    )


def judged_line(policy: Policy, window_days: int, standing: Standing, now_s: float) -> Judged:
    """By what and when a page's VMs were judged."""
    return Judged(
        policy=policy.name,
        policy_summary=policy.summary,
        window_days=window_days,
        judged_s=now_s if standing.stored is None else standing.stored.run.judged_s,
        stored=standing.stored is not None,
        stale=standing.is_stale,
    )


def judging_notices(standing: Standing) -> tuple[Notice, ...]:
    """What a reader has to know of the verdicts."""
    found = []
    if standing.problem is not None:
        found.append(Notice(kind="error", text=f"The newest judging of the fleet failed: {standing.problem}"))
    if standing.is_stale:
        found.append(
            Notice(kind="warning", text="These verdicts are older than they should be; the fleet is being judged anew.")
        )
    return tuple(found)


def wait_page(
    renderer: Renderer, page_frame: Frame, text: str, target: str, retry_after_s: int, *, back: str
) -> Answer:
    """A page whose answer is being made: 202, and the browser asks again by itself."""
    view = WaitView(frame=page_frame, text=text, href=target, retry_after_s=retry_after_s, back=back)
    # The header works without script, and only for this answer.
    return renderer.page(view, status=202, headers={"Refresh": str(retry_after_s), "Retry-After": str(retry_after_s)})


def choices(entries: Iterable[tuple[str, str]], chosen: str) -> tuple[Choice, ...]:
    """A list of values and words to choose from."""
    return tuple(Choice(value=value, words=words, chosen=value == chosen) for value, words in entries)


def policy_card(policy: Policy, choosing: Choosing, *, is_own: bool) -> PolicyCard:
    """A policy with its rules."""
    return PolicyCard(
        name=policy.name,
        summary=policy.summary,
        source=policy.source,
        min_age_days=policy.min_age_days,
        idle_when=_clause(policy.idle_when),
        is_own=is_own,
        is_default=policy.name == choosing.default_policy,
        href=href("/vms", choosing.parameters(policy.name, choosing.default_days)),
    )


def _clause(expression: Expression) -> Clause:
    match expression:
        case Rule():
            return Clause(
                kind="rule",
                words=rule_words(expression),
                figure=expression.measure.name,
                optional=expression.optional,
            )
        case All(parts):
            return Clause(kind="all", parts=tuple(map(_clause, parts)))
        case Either(parts):
            return Clause(kind="any", parts=tuple(map(_clause, parts)))
