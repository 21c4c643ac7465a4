"""The lease under any order of doings: one leader at a time, tokens that only grow, nothing written by the others."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import mkdtemp

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from orchestrate.database import SqlRecords
from orchestrate.memory import MemoryRecords
from orchestrate.plan import PlanKind
from orchestrate.records import Lease, Records, Run, StaleLease
from tests.orchestrate.databases import open_copy
from tests.orchestrate.fakes import NOW_S, a_step

HOLDERS = st.sampled_from(["a", "b", "c"])
LIFE_S = st.sampled_from([1.0, 10.0, 60.0])


class Leases(RuleBasedStateMachine):
    """Three controllers, each with every lease it was ever granted, under clocks that are not quite the same."""

    def __init__(self) -> None:
        super().__init__()
        self.records = self.make()
        self.now_s = NOW_S
        self.granted: list[Lease] = []
        # What holds by the rules: the newest token and when it ends.
        self.ends_s = 0.0
        self.runs = 0

    def make(self) -> Records:
        return MemoryRecords()

    def holds(self, lease: Lease, now_s: float) -> bool:
        return lease.token == len(self.granted) and now_s < self.ends_s

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 9.0, 30.0, 60.0, 1e6, -5.0]))
    def time_passes(self, seconds: float) -> None:
        """Or is set back."""
        self.now_s += seconds

    @rule(holder=HOLDERS, life_s=LIFE_S, skew_s=st.sampled_from([0.0, -0.5, 0.5]))
    def acquire(self, holder: str, life_s: float, skew_s: float) -> None:
        now_s = self.now_s + skew_s
        is_free = not self.granted or self.granted[-1].holder == holder or now_s >= self.ends_s
        lease = self.records.acquire(holder, now_s=now_s, life_s=life_s)
        assert (lease is not None) is is_free
        if lease is not None:
            assert lease == Lease(holder=holder, token=len(self.granted) + 1, expires_s=now_s + life_s)
            self.granted.append(lease)
            self.ends_s = lease.expires_s

    @rule(data=st.data(), life_s=LIFE_S)
    def renew(self, data: st.DataObject, life_s: float) -> None:
        if (lease := self.any_lease(data)) is None:
            return
        if self.holds(lease, self.now_s):
            renewed = self.records.renew(lease, now_s=self.now_s, life_s=life_s)
            self.ends_s = self.now_s + life_s
            assert (renewed.token, renewed.expires_s) == (lease.token, self.ends_s)
        else:
            with pytest.raises(StaleLease):
                self.records.renew(lease, now_s=self.now_s, life_s=life_s)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if (lease := self.any_lease(data)) is None:
            return
        if self.holds(lease, self.now_s):
            self.ends_s = self.now_s
        self.records.release(lease, now_s=self.now_s)

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        """An intent is written under the lease that holds, and under no other."""
        if (lease := self.any_lease(data)) is None:
            return
        before = len(self.records.unsettled())
        if self.holds(lease, self.now_s):
            if not self.runs:
                run = Run(run_id="r", plan_sha256="a" * 64, kind=PlanKind.RELIEF, by="ann", begun_s=self.now_s)
                self.records.begin_run(run, lease, now_s=self.now_s)
                self.runs = 1
            self.records.intend("r", a_step(), lease, now_s=self.now_s)
            before += 1
        else:
            with pytest.raises(StaleLease):
                self.records.intend("r", a_step(), lease, now_s=self.now_s)
        assert len(self.records.unsettled()) == before

    @invariant()
    def the_newest_is_known(self) -> None:
        """Whoever asks sees the newest lease and its end."""
        leader = self.records.leader()
        if self.granted:
            assert leader is not None
            assert (leader.token, leader.holder) == (len(self.granted), self.granted[-1].holder)
            assert leader.expires_s == self.ends_s
        else:
            assert leader is None

    def any_lease(self, data: st.DataObject) -> Lease | None:
        return data.draw(st.sampled_from(self.granted)) if self.granted else None


class LeasesOnSqlite(Leases):
    """The same in a database, which is opened anew now and then."""

    def make(self) -> Records:
        self.folder = Path(mkdtemp())
        self.engine = open_copy(self.folder)
        return SqlRecords(self.engine)

    @rule()
    def restart(self) -> None:
        self.engine.dispose()

    def teardown(self) -> None:
        self.engine.dispose()
        shutil.rmtree(self.folder)


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=150, stateful_step_count=40)
TestLeasesOnSqlite = LeasesOnSqlite.TestCase
TestLeasesOnSqlite.settings = settings(max_examples=10, stateful_step_count=25)
