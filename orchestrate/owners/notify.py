"""Telling owners: a NOTIFY step → a mail to them, a signed POST, or both, with links that they alone get."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC

from orchestrate.owners.files import no_file, owner_environment
from orchestrate.owners.links import Link, LinkKey, Purpose
from orchestrate.owners.notices import Notice, html_of, json_of, text_of
from orchestrate.plan import Plan, Step
from reports.deliver import mail, webhook
from reports.deliver.targets import DeliveryError, MailTarget, WebhookTarget
from reports.words import listed_words, printable


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """Links in notices, and the door behind them.

    Args:
        url: where owners reach that door, without a slash at its end; None: notices hold no links.
        listen: host and port of the door; port 0 takes any free one.
        life_s: how long a link holds after its notice.
        keep_for_s: how long a VM is kept where its owner says no date; the longest that one may ask for is a year.
    """

    url: str | None = None
    listen: tuple[str, int] = ("127.0.0.1", 8902)
    life_s: float = 90 * 86_400.0
    keep_for_s: float = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySettings:
    """Ways to owners. Both may be configured; with neither, no VM goes further than its mark.

    Args: mail: its recipients are put in for each notice.
    """

    mail: MailTarget | None = None
    webhook: WebhookTarget | None = None


class NotNotified(Exception):
    """An owner could not be told; the text says why, without secrets."""


class Notifier:
    """Tells one owner at a time. Blocking.

    Args:
        clock: Unix seconds.
        tls: verifies the servers; by the system's authorities unless told.
    """

    def __init__(
        self,
        settings: NotifySettings,
        links: LinkSettings,
        key: LinkKey,
        *,
        clock: Callable[[], float],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._links = links
        self._key = key
        self._clock = clock
        self._tls = tls
        # A mail is read anywhere, and by others than it was sent to.
        self._environment = owner_environment(UTC, no_file)

    def __call__(self, step: Step, plan: Plan) -> str:
        """Tells the owner of the step's VM; what was done, in words.

        One way that worked is enough: the other's failure is told in the words.

        Raises: NotNotified: nobody was told.
        """
        notice = self.notice(step)
        done: list[str] = []
        failed: list[str] = []
        for name, way in (("mail", self._mail), ("webhook", self._webhook)):
            try:
                told = way(notice, plan)
            except DeliveryError as error:
                failed.append(f"{name}: {error.problem}")
            else:
                done += [told] if told else []
        if not done:
            raise NotNotified("; ".join(failed) or self._no_way(step))
        return listed_words(done) + (f" (failed: {'; '.join(failed)})" if failed else "")

    def notice(self, step: Step) -> Notice:
        """What the owner is told now."""
        now_s = self._clock()
        return Notice(
            step=step,
            at_s=now_s,
            not_before_s=now_s + (step.grace_s or 0.0),
            keep_url=self._url(step, Purpose.KEEP, now_s),
            resume_url=self._url(step, Purpose.RESUME, now_s),
        )

    def _url(self, step: Step, purpose: Purpose, now_s: float) -> str | None:
        if self._links.url is None or step.vm_id is None:
            return None
        # A link outlives what it is about: an owner may come back long after the suspension.
        expires_s = int(now_s + (step.grace_s or 0.0) + self._links.life_s)
        link = Link(purpose=purpose, ref=step.ref, vm_id=step.vm_id, expires_s=expires_s)
        return f"{self._links.url}/{purpose.value}/{self._key.make(link)}"

    def _mail(self, notice: Notice, _plan: Plan) -> str | None:
        to, target = notice.step.mail, self._settings.mail
        if target is None or not to:
            return None
        target = replace(target, recipients=(to,))
        html = html_of(notice, self._environment)
        message = mail.write(target, subject=notice.subject, text=text_of(notice), html=html, at_s=notice.at_s)
        mail.send(message, target, tls=self._tls)
        return f"mail to {printable(to)}"

    def _webhook(self, notice: Notice, plan: Plan) -> str | None:
        target = self._settings.webhook
        if target is None:
            return None
        webhook.post(
            json_of(notice),
            "application/json",
            target,
            # The same at each try of one step, so that a receiver can tell.
            delivery_id=f"{plan.sha256[:16]}-{notice.step.number}",
            now_s=notice.at_s,
            tls=self._tls,
        )
        return f"webhook {target.words}"

    def _no_way(self, step: Step) -> str:
        if self._settings.mail is not None and not step.mail:
            return f"no mail address is known of {printable(step.owner or 'the owner')}"
        return "no way to owners is configured: [orchestrate.notify]"
