"""When the fleet is judged, and whether a page may read what was stored, judge by itself, or has to wait."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import sqlalchemy as sa

from aggregator.fleet_db import reading
from aggregator.problems import Problem, Refused
from reports.events import read_changes
from reports.fleet import snapshot
from reports.fleet_report import make_report
from reports.judging import scope_of, settings_sha256
from reports.policy import Policy
from reports.report import Question, Report
from reports.tables import judging, verdict
from reports.verdict_table import Stored, read_stored
from reports.verdicts import Settings
from reports.web.background import State, Task
from reports.web.backing import Backing
from reports.web.comparing import Waiting, is_small
from reports.web.listing import list_page
from reports.web.ranked import MAX_VMS, Ranked, read_ranked
from reports.web.remembered import Remembered

# Verdicts by a policy that nobody asked for in so long are forgotten; those of the settings never are.
_FORGET_AFTER_S = 7 * 86_400.0
# Few enough that the aggregator never waits long for its turn to write.
_FORGET_VMS = 5_000
_TRY_AGAIN_S = 60.0
# What holds depends on the time too: who is silent, which exemption is over.
_ANSWER_FOR_S = 10.0
# An answer takes some 10 kB a VM.
_ANSWERS = 32
_ANSWERED_VMS = 100
_OTHER_SETTINGS = (
    "the fleet was judged, but the verdicts were stored with other settings than this server's: its configuration file "
    "has changed since it was started. Restart fallow-report serve."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a page gets its verdicts from.

    Attributes:
        stored: the run to read; None: the fleet is small and is judged for the page.
        is_stale: it is older than the settings call fresh.
        problem: why the newest judging failed, None where it did not.
    """

    stored: Stored | None = None
    is_stale: bool = False
    problem: str | None = None


class JudgingRuns:
    """Has the fleet judged, and finds the verdicts. Any thread may use it; it blocks."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        # A run or two beside that of the settings, for who compares policies.
        self._ranked = Remembered[tuple[str, str, float], Ranked](most=3)
        self._answers = Remembered[tuple[object, ...], Report](most=_ANSWERS)
        self._hashes = Remembered[tuple[Policy, Settings], str](most=_ANSWERS)

    def judge_default(self) -> None:
        """Has the fleet judged by the policy of the settings, and forgets what nobody asks for any more."""
        config = self._backing.config
        self._ask(config.policy, config.window_days)
        self._forget_old()

    def judge_again(self) -> None:
        """Something that verdicts depend on has changed: those of a large fleet are to follow soon."""
        backing = self._backing
        with reading(backing.fleet.reader) as connection:
            small = is_small(connection, backing.on_the_spot_vms)
        if not small:
            self._ask(backing.config.policy, backing.config.window_days, anew=True)

    def next_due_s(self) -> float:
        """When the policy of the settings is to judge next: at once where nothing is stored."""
        config, now_s = self._backing.config, self._backing.clock()
        stored = self._stored(config.policy, config.settings)
        return now_s if stored is None else max(stored.run.judged_s + config.serve.judge_every_s, now_s)

    def find(self, policy: Policy, window_days: int) -> Standing | Waiting:
        """Where the verdicts of a policy are; has them made where they are absent or old.

        Raises: Refused, 503: they are absent, and making them failed a moment ago, or made those of other settings.
        """
        backing = self._backing
        with reading(backing.fleet.reader) as connection:
            if is_small(connection, backing.on_the_spot_vms):
                return Standing()
        settings = replace(backing.config.settings, window_days=window_days)
        # The task first: what it stored before it ended is then seen below.
        task = backing.tasks.find(_key(policy, window_days))
        stored = self._stored(policy, settings)
        now_s = backing.clock()
        is_stale = stored is not None and now_s - stored.run.judged_s > backing.config.serve.fresh_for_s
        failed = task is not None and task.state is State.FAILED
        if (stored is None or is_stale) and not (task is not None and _ended_just_now(task, now_s)):
            task = self._ask(policy, window_days)
        problem = task.problem if task is not None and failed else None
        if stored is not None:
            return Standing(stored=stored, is_stale=is_stale, problem=problem)
        if task is not None and task.state is State.FAILED:
            raise Refused(Problem(503, "judging", f"the fleet could not be judged: {task.problem}", 10))
        if task is not None and task.state is State.DONE:
            raise Refused(Problem(503, "settings", _OTHER_SETTINGS, int(_TRY_AGAIN_S)))
        return Waiting(
            text=f"The fleet is being judged by {policy.name} over {window_days} days: "
            "verdicts on a large fleet are made beforehand, and these were not asked for lately."
        )

    def report(self, question: Question, *, since_s: float | None = None) -> tuple[Report, Standing] | Waiting:
        """The answer to a question, and where its verdicts come from; `since_s` as for `make_report`.

        The same question is answered from memory for a few seconds, while nobody has written to the fleet database.
        """
        standing = self.find(question.policy, question.settings.window_days)
        if isinstance(standing, Waiting):
            return standing
        version = self._backing.fleet.version()
        if version is None or question.top is None or question.top > _ANSWERED_VMS:
            return self._answer(question, standing.stored, since_s), standing
        ago_s = None if since_s is None else round(question.now_s - since_s)
        report = self._answers.find(
            (version, replace(question, now_s=0.0), ago_s),
            question.now_s,
            _ANSWER_FOR_S,
            lambda: self._answer(question, standing.stored, since_s),
        )
        return report, standing

    def _answer(self, question: Question, stored: Stored | None, since_s: float | None) -> Report:
        engine = self._backing.fleet.reader
        if stored is None or stored.totals.vms > MAX_VMS:
            fresh_s = 0.0 if stored is None else math.inf
            return make_report(engine, question, fresh_s=fresh_s, since_s=since_s)
        with snapshot(engine) as connection:
            key = (stored.run.scope, stored.run.settings_sha256, stored.run.judged_s)
            ranked = self._ranked.find(key, question.now_s, math.inf, lambda: read_ranked(connection, stored))
            page = ranked.page(question)
            changes = None if since_s is None else read_changes(connection, since_s, settings=question.settings)
            return Report(
                question=question,
                judged_s=stored.run.judged_s,
                totals=stored.totals,
                listed=list_page(connection, question, page),
                matching=page.matching,
                changes=changes,
            )

    def _stored(self, policy: Policy, settings: Settings) -> Stored | None:
        # A hash of the same is the same for ever, and takes a twentieth of what a list takes.
        sha256 = self._hashes.find((policy, settings), 0.0, math.inf, lambda: settings_sha256(policy, settings))
        with reading(self._backing.fleet.reader) as connection:
            return read_stored(connection, scope_of(policy, settings), sha256)

    def _ask(self, policy: Policy, window_days: int, *, anew: bool = False) -> Task:
        backing = self._backing
        arguments = ("judge", "--store", "--policy", policy.name, "--window", f"{window_days}d", *backing.arguments)
        return backing.tasks.ask(_key(policy, window_days), arguments, anew=anew)

    def _forget_old(self) -> None:
        config = self._backing.config
        kept = scope_of(config.policy, config.settings)
        engine = self._backing.fleet.writer
        with reading(engine) as connection:
            old = connection.scalars(
                sa.select(judging.c.scope).where(
                    judging.c.scope != kept, judging.c.began_s < self._backing.clock() - _FORGET_AFTER_S
                )
            ).all()
        for scope in old:
            _forget(engine, scope)


def _forget(engine: sa.Engine, scope: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.delete(judging).where(judging.c.scope == scope))
    while True:
        with engine.begin() as connection:
            some = sa.select(verdict.c.vm_id).where(verdict.c.scope == scope).order_by(verdict.c.vm_id)
            last = connection.scalar(sa.select(sa.func.max(some.limit(_FORGET_VMS).subquery().c.vm_id)))
            if last is None:
                return
            connection.execute(sa.delete(verdict).where(verdict.c.scope == scope, verdict.c.vm_id <= last))


def _key(policy: Policy, window_days: int) -> str:
    return f"judging by {policy.name} over {window_days} days"


def _ended_just_now(task: Task, now_s: float) -> bool:
    return not task.is_under_way and task.finished_s is not None and now_s - task.finished_s < _TRY_AGAIN_S
