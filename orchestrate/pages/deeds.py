"""What people change by the pages and by their API: a plan's approval, the kill switch. Blocking.

Each deed is told in the audit log, with the address that it came from; so is each that was refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest

from twisted.logger import Logger

from aggregator.problems import Problem, Refused
from orchestrate.approvals import Hindrance, NotApprovable, Standing, check_approvable, read_standing
from orchestrate.cli_parts import MIN_HASH_DIGITS, Unfound, find_plan, parse_hash
from orchestrate.pages.backing import Backing
from orchestrate.pages.refusals import RefusalLog
from orchestrate.pages.switch import SwitchStuck, switch_sha256
from orchestrate.records import Approval
from reports.people.identity import Identity
from reports.web.account_pages import person
from reports.web.answers import Asked, not_found, stale, wrong

MAX_REASON_CHARS = 200
_HASH_CHARS = 64
_CHANGED = "what you saw has changed since: look again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a yes. `is_new`: False: the same person had said so before."""

    standing: Standing
    is_new: bool


class Deeds:
    """Does what people ask for. Any thread may use it."""

    _log = Logger()

    def __init__(self, backing: Backing, refusals: RefusalLog) -> None:
        self._backing = backing
        self._refusals = refusals

    def find(self, text: str) -> Standing:
        """A plan by its hash, or its beginning. Raises: Refused, 404."""
        records = self._backing.records
        try:
            plan = find_plan(records, parse_hash(text))
        except ValueError:
            words = f"{text[:80]}: is not the hash of a plan, nor its beginning of {MIN_HASH_DIGITS} digits at least"
            raise not_found("plan", words) from None
        except Unfound as error:
            raise not_found("plan", str(error)) from error
        return read_standing(records, plan, above=self._backing.two_persons_above)

    def approve(self, asked: Asked, text: str, *, seen: str, reason: str) -> Done:
        """Notes the yes of whoever asks.

        Args: text: the whole hash. seen: the fingerprint of what was shown, with that of the kill switch.

        Raises: Refused: 403 one's own plan, 404, 409 it is too late or of no use, 412 another state, 422 the reason.
        """
        who, now_s = person(asked), self._backing.clock()
        said = checked_reason(reason)
        if len(text) != _HASH_CHARS:
            raise not_found("plan", f"{text[:80]}: a plan is approved by its whole hash")
        standing, records = self.find(text), self._backing.records
        sha256 = standing.plan.sha256
        if standing.find(who.account) is not None:
            return Done(standing=standing, is_new=False)
        try:
            check_approvable(standing, who.account, now_s=now_s)
        except NotApprovable as error:
            self._refusals.note(who, "approve", str(error), asked.address, now_s, plan=sha256)
            status = 403 if error.hindrance is Hindrance.OWN_PLAN else 409
            raise Refused(Problem(status, error.hindrance.value, str(error))) from error
        if not _same(seen, standing.fingerprint(self._backing.switch.read())):
            raise stale(f"the plan, its approvals, its runs or the kill switch: {_CHANGED}")
        records.approve(Approval(plan_sha256=sha256, by=who.account, at_s=now_s, account=who.account))
        self._tell(who, "approval told of", asked.address, now_s, plan=sha256, reason=said)
        return Done(standing=self.find(sha256), is_new=True)

    def pull(self, asked: Asked, *, reason: str) -> bool:
        """Stops everything; False: it was stopped before. Raises: Refused: 422 no reason, 500."""
        who, now_s = person(asked), self._backing.clock()
        said = checked_reason(reason, needed=True)
        try:
            is_new = self._backing.switch.pull(f"{who.account}: {said}")
        except SwitchStuck as error:
            raise Refused(Problem(500, "kill-switch", f"{error}. Make that file by hand.")) from error
        if is_new:
            self._tell(who, "kill switch pulled", asked.address, now_s, reason=said)
        return is_new

    def let_go(self, asked: Asked, *, seen: str) -> bool:
        """Lets things be done again; False: nothing was stopped. Raises: Refused: 409 it cannot be, 412 another state.

        Args: seen: the fingerprint of the switch that was shown.
        """
        who, now_s, switch = person(asked), self._backing.clock(), self._backing.switch
        stop = switch.read()
        if stop is None:
            return False
        if not _same(seen, switch_sha256(stop)):
            raise stale(f"the kill switch: {_CHANGED}")
        # Told before it is done: what cannot be written down is not let go.
        self._note(who, "kill switch let go", asked.address, now_s, said=stop)
        try:
            return switch.let_go()
        except SwitchStuck as error:
            self._tell(who, "kill switch stays", asked.address, now_s, why=str(error))
            raise Refused(Problem(409, "kill-switch", f"{error}. Remove it by hand.")) from error

    def _tell(self, who: Identity, what: str, address: str, now_s: float, **more: object) -> None:
        try:
            self._note(who, what, address, now_s, **more)
        except Exception:
            # It is done: the answer must say so.
            self._log.failure("the audit log could not be told: {who} {what}", who=who.account, what=what)

    def _note(self, who: Identity, what: str, address: str, now_s: float, **more: object) -> None:
        body = {"via": who.via.value, "address": address, **more}
        self._backing.records.note(what, body, who=who.account, now_s=now_s)


def checked_reason(text: str, *, needed: bool = False) -> str:
    """What somebody gave as a reason, without space around it. Raises: Refused, 422."""
    said = text.strip()
    if needed and not said:
        raise wrong("reason: is missing: whoever finds things stopped has to know why")
    if len(said) > MAX_REASON_CHARS or not said.isprintable():
        raise wrong(f"reason: one line of at most {MAX_REASON_CHARS} characters that can be printed")
    return said


def _same(seen: str, now: str) -> bool:
    return compare_digest(seen.encode("utf-8", "replace"), now.encode())
