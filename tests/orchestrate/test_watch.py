"""The watch's turns: what is applied and what waits, two watches, and everything that may be away or end on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from aggregator.admission import Bound, Kind
from aggregator.catalogue import Catalogue, Labels
from aggregator.enrolment import Enrolment
from aggregator.inventory import Inventory as KnownVms
from aggregator.problems import Refused
from orchestrate.driver import NotFound, Order, Unreachable, Verb
from orchestrate.inventory import Vm, VmRef, VmState
from orchestrate.owners.wakes import WakeState
from orchestrate.owners.waking import BUSY, GONE, NOT_DONE, NOT_OURS, OCCUPIED, STOPPED, UNREACHABLE
from orchestrate.plan import Mark, PlanKind
from orchestrate.records import Approval, Outcome, Run, Rung
from orchestrate.sites import Look
from orchestrate.watch import BY
from orchestrate.watch_state import STATUS_FILE_NAME, Status, Turn, TurnEnd, WatchSettings, write_status
from tests.orchestrate.control_house import GRACE_S, IDLE, House, house, idle_vms
from tests.orchestrate.fakes import a_plan, a_step
from tests.orchestrate.watch_house import OTHER_LIFE_S, Watched, auto_house, watched

pytestmark = pytest.mark.real

REF = VmRef("lab", IDLE)
OFTEN = WatchSettings(every_s=60.0, reclaim_every_s=60.0, retry_s=300.0)


@pytest.fixture
def auto(tmp_path: Path) -> Iterator[House]:
    """A cloud whose only group the watch may take by itself."""
    with auto_house(tmp_path) as made:
        yield made


@pytest.fixture
def manual(tmp_path: Path) -> Iterator[House]:
    """A cloud in which a person says yes."""
    with house(tmp_path) as made:
        yield made


def approve_newest(seen: Watched) -> str:
    plan = seen.control.records.plans(limit=1)[0]
    seen.control.records.approve(Approval(plan_sha256=plan.sha256, by="ann", at_s=seen.house.now_s))
    return plan.sha256


@contextmanager
def away(made: House) -> Iterator[None]:
    """The aggregator answers nothing that can be used."""
    made.push = lambda: None  # type: ignore[method-assign]
    made.door.answers[:] = [(503, b"{}")]
    yield
    del made.push
    made.push()


def rung(seen: Watched) -> Rung | None:
    entry = seen.control.records.find_entry(REF)
    return None if entry is None else entry.rung


def until_heard(seen: Watched) -> None:
    while (wake := seen.wakes.find(REF)) is not None and wake.state is WakeState.AWAKE:
        time.sleep(0.01)


def test_what_the_settings_allow_goes_down_the_ladder_by_itself(auto: House) -> None:
    """Told in one turn, suspended in another once the grace is over, and not before."""
    with watched(auto, OFTEN) as seen:
        first = seen.watch.turn()
        assert (first.end, first.problem, len(first.runs)) == (TurnEnd.DONE, None, 1)
        assert [json.loads(each.body)["vm"]["name"] for each in auto.hook.requests] == ["build-7"]
        auto.pause(GRACE_S - 1)
        assert seen.watch.turn().runs == ()
        assert auto.state(IDLE) is VmState.RUNNING
        auto.pause(60)
        assert len(seen.watch.turn().runs) == 1
        assert auto.state(IDLE) is VmState.SUSPENDED
        assert {run.by for run in seen.control.records.runs()} == {BY}


def test_between_turns_nobody_leads(auto: House) -> None:
    """A person's command has its chance, and a watch that was stopped leaves nothing to wait for."""
    with watched(auto) as seen:
        seen.watch.turn()
        seen.other_leads()


def test_a_turn_with_nothing_to_do_leaves_no_trace(manual: House) -> None:
    """The log of what was done does not fill with turns."""
    with watched(manual, OFTEN) as seen:
        seen.watch.turn()
        before = seen.control.records.audit()
        manual.pause(60)
        assert seen.watch.turn().end is TurnEnd.DONE
        assert seen.control.records.audit() == before


def test_what_another_left_open_is_cleared_up(auto: House) -> None:
    """First of all: by what the hypervisor shows."""
    with watched(auto, OFTEN) as seen:
        records, lease = seen.control.records, seen.other_leads()
        one = a_plan(replace(a_step(), ref=REF))
        run = Run(run_id="r1", plan_sha256=records.add_plan(one), kind=one.kind, by="other", begun_s=auto.now_s)
        records.begin_run(run, lease, now_s=auto.now_s)
        records.intend("r1", one.steps[0], lease, now_s=auto.now_s)
        assert seen.watch.turn().end is TurnEnd.STANDBY
        assert len(records.unsettled()) == 1
        auto.pause(OTHER_LIFE_S)
        assert seen.watch.turn().end is TurnEnd.DONE
        assert [action.outcome for action in records.actions("r1")] != [None]
        ended = records.find_run("r1")
        assert ended is not None
        assert ended.ended_s is not None


def test_idle_vms_are_not_looked_for_at_every_turn(auto: House) -> None:
    """Only so often as the settings say: the owner is told in the first turn, and then nothing till the next look."""
    with watched(auto, WatchSettings(reclaim_every_s=600)) as seen:
        seen.watch.turn()
        auto.pause(500)
        assert seen.watch.turn().runs == ()
        auto.pause(101)
        assert len(seen.watch.turn().runs) == 1


def test_what_a_person_has_to_allow_is_proposed_once(manual: House) -> None:
    """The plan waits to be found and approved, and the same one is not made again; nothing is done."""
    with watched(manual, OFTEN) as seen:
        turn = seen.watch.turn()
        assert turn.runs == ()
        assert "waits for somebody's yes" in " ".join(turn.words)
        manual.pause(60)
        assert seen.watch.turn().words == ()
        (plan,) = seen.control.records.plans()
        assert [step.verb for step in plan.steps] == [Mark.MARK, Mark.NOTIFY]
        assert manual.hook.requests == []


def test_an_approved_plan_is_applied_once(manual: House) -> None:
    """In the turn after somebody's yes, and never again."""
    with watched(manual, OFTEN) as seen:
        seen.watch.turn()
        sha256 = approve_newest(seen)
        manual.pause(60)
        (run_id,) = seen.watch.turn().runs
        run = seen.control.records.find_run(run_id)
        assert run is not None
        assert run.plan_sha256 == sha256
        assert rung(seen) is Rung.NOTIFY
        manual.pause(30)
        assert seen.watch.turn().runs == ()


def test_an_expired_plan_is_not_applied(manual: House) -> None:
    """A yes does not outlive its plan."""
    with watched(manual) as seen:
        seen.watch.turn()
        approve_newest(seen)
        (plan,) = seen.control.records.plans()
        manual.now_s = plan.expires_s
        manual.push()
        assert seen.watch.turn().runs == ()
        assert rung(seen) is None


def test_an_approved_plan_that_may_not_be_applied_is_held(manual: House) -> None:
    """It is told why, leaves no run behind, and goes out once what stood against it is over."""
    with watched(manual) as seen:
        seen.watch.turn()
        approve_newest(seen)
        with away(manual):
            turn = seen.watch.turn()
            assert turn.runs == ()
            assert turn.problem is not None
            assert "the approved plan" in turn.problem
            assert seen.control.records.runs() == []
            # Not looked at again at once, and told of all the same.
            asked = len(manual.door.asked)
            assert seen.watch.turn().problem == turn.problem
            assert len(manual.door.asked) == asked
        manual.pause(WatchSettings().retry_s)
        ended = seen.watch.turn()
        assert (ended.problem, len(ended.runs)) == (None, 1)


def test_two_watches_do_not_act_beside_each_other(auto: House) -> None:
    """The second stands by while the first is at work, and takes over after it."""
    with watched(auto, OFTEN) as first, watched(auto, OFTEN) as second:
        turns: list[Turn] = []
        first.at_notice(lambda: turns.append(second.watch.turn()))
        assert first.watch.turn().end is TurnEnd.DONE
        (standby,) = turns
        assert standby.end is TurnEnd.STANDBY
        assert standby.problem is None
        assert first.control.holder in standby.words[0]
        auto.pause(GRACE_S + 1)
        assert len(second.watch.turn().runs) == 1
        assert auto.state(IDLE) is VmState.SUSPENDED


def test_a_lease_lost_on_the_way_ends_the_run(tmp_path: Path) -> None:
    """Nobody is told after it, and whoever leads by then is left alone."""
    with auto_house(tmp_path, idle_vms(2)) as made, watched(made, OFTEN) as seen:

        def lose() -> None:
            made.now_s += 300
            seen.other_leads()

        seen.at_notice(lose)
        turn = seen.watch.turn()
        assert len(made.hook.requests) == 1
        assert "lease" in " ".join((*turn.words, turn.problem or ""))
        leader = seen.control.records.leader()
        assert leader is not None
        assert (leader.holder, leader.expires_s) == ("other", made.now_s + OTHER_LIFE_S)


def test_without_the_aggregator_nothing_is_reclaimed(auto: House) -> None:
    """The turn says so, and looks again sooner than usual."""
    with watched(auto, WatchSettings(reclaim_every_s=3600, retry_s=60)) as seen:
        with away(auto):
            turn = seen.watch.turn()
        assert (turn.end, turn.runs) == (TurnEnd.DONE, ())
        assert "nothing is reclaimed" in (turn.problem or "")
        auto.pause(60)
        assert len(seen.watch.turn().runs) == 1


def test_without_its_hypervisor_a_vm_is_left_alone(auto: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn names who does not answer."""
    with watched(auto, OFTEN) as seen:

        def no_answer(_timeout_s: float) -> None:
            raise Unreachable("no route to host")

        monkeypatch.setattr(seen.control.sites.drivers["lab"], "inventory", no_answer)
        turn = seen.watch.turn()
        assert turn.runs == ()
        assert "lab does not answer: no route to host" in (turn.problem or "")


def test_a_database_that_fails_does_not_end_the_watch(auto: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn failed, in words; the next one is as any other."""
    with watched(auto, OFTEN) as seen:
        with monkeypatch.context() as patch:
            patch.setattr(seen.control.records, "runs", lambda **_: 1 / 0)
            turn = seen.watch.turn()
            assert turn.end is TurnEnd.FAILED
            assert "division by zero" in (turn.problem or "")
        assert seen.watch.turn().end is TurnEnd.DONE


def test_the_aggregator_is_told_which_vms_exist(auto: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody enrols as one that does not; a site that is away takes nothing back."""
    with watched(auto, OFTEN) as seen:
        seen.watch.turn()
        engine = seen.control.report_engine
        known = {row.vm: row for row in KnownVms(engine).rows()}
        assert IDLE in known
        assert (known[IDLE].source, known[IDLE].pool) == (REF.driver, REF.driver)
        assert why_not_in(engine, str(UUID(int=7)), (), now_s=auto.now_s) == "enrolment-waits"
        assert why_not_in(engine, IDLE, known[IDLE].macs, now_s=auto.now_s) is None
        monkeypatch.setattr(seen.control.sites, "look", lambda: Look(inventories=()))
        auto.pause(3600)
        seen.watch.turn()
        assert {row.vm for row in KnownVms(engine).rows()} == known.keys()


def why_not_in(engine: sa.Engine, vm_id: str, macs: tuple[str, ...], *, now_s: float) -> str | None:
    """Why a machine with a join token for this VM does not get in as it; None: it does."""
    catalogue = Catalogue(engine)
    bound = Bound(Kind.VM, vm_id)
    join_token = catalogue.mint(now_s=now_s, ttl_s=600, uses=1, labels=Labels(), bound=bound).token
    try:
        catalogue.enroll(Enrolment(join_token=join_token, vm=vm_id, macs=macs), now_s=now_s)
    except Refused as refused:
        return refused.problem.reason
    return None


def test_the_kill_switch_stops_all_of_it(auto: House) -> None:
    """No lease, no look, no notice; and whoever wants a VM back is told."""
    with watched(auto, OFTEN) as seen:
        switch = seen.control.config.kill_switch
        switch.parent.mkdir(exist_ok=True)
        switch.write_text("moving house\n")
        seen.wakes.ask(REF, IDLE, now_s=auto.now_s)
        turn = seen.watch.turn()
        assert (turn.end, turn.runs) == (TurnEnd.STOPPED, ())
        assert "moving house" in turn.words[0]
        assert auto.hook.requests == []


def test_an_end_comes_between_two_steps(tmp_path: Path) -> None:
    """The notice under way goes out, what follows it does not, and the lease is given up."""
    with auto_house(tmp_path, idle_vms(2)) as made, watched(made, OFTEN) as seen:
        seen.at_notice(lambda: setattr(seen, "is_ending", True))
        turn = seen.watch.turn()
        assert turn.end is TurnEnd.STOPPED
        assert len(made.hook.requests) == 1
        outcomes = [action.outcome for action in seen.control.records.actions(turn.runs[0])]
        assert outcomes == [Outcome.DONE, Outcome.DONE, Outcome.SKIPPED, Outcome.SKIPPED]
        seen.other_leads()


def suspended(seen: Watched) -> None:
    """The idle VM of the house sleeps, and its agent is silent."""
    seen.watch.turn()
    seen.house.pause(GRACE_S + 1)
    seen.watch.turn()
    assert seen.house.state(IDLE) is VmState.SUSPENDED
    seen.house.awake.discard(IDLE)
    seen.house.push()


def test_a_wake_is_seen_to_at_once_and_its_time_is_told(auto: House) -> None:
    """Without waiting for a turn; from the call to the guest's next sample."""
    with watched(auto, OFTEN) as seen:
        suspended(seen)
        asked = seen.wakes.ask(REF, IDLE, now_s=auto.now_s)
        auto.awake.add(IDLE)
        seen.watch.see_to_wakes()
        until_heard(seen)
        wake = seen.wakes.find(REF)
        assert wake is not None
        assert wake.state is WakeState.HEARD
        assert auto.state(IDLE) is VmState.RUNNING
        assert wake.heard_after_s == auto.now_s - asked.asked_s
        assert rung(seen) is None
        assert seen.control.records.runs(limit=1)[0].kind == PlanKind.WAKE


def test_a_wake_is_seen_to_between_the_steps_of_a_run(tmp_path: Path) -> None:
    """An owner does not wait for the end of a long run."""
    with auto_house(tmp_path, idle_vms(3)) as made, watched(made, OFTEN) as seen:
        ref = VmRef("lab", made.specs[0].vm_id)
        seen.at_notice(lambda: seen.wakes.ask(ref, made.specs[0].vm_id, now_s=made.now_s))
        told: list[WakeState] = []
        answer = made.hook.answer

        def look(request: object) -> int:
            wake = seen.wakes.find(ref)
            told.extend([] if wake is None else [wake.state])
            return answer(request)  # type: ignore[arg-type]

        made.hook.answer = look  # type: ignore[method-assign]
        seen.watch.turn()
        # It ran: there was nothing to do, which was found out before the second notice.
        assert told == [WakeState.RUNNING, WakeState.RUNNING]


def test_a_wake_waits_for_another_controller(auto: House) -> None:
    """It is told so, and seen to once the other has ended."""
    with watched(auto, OFTEN) as seen:
        suspended(seen)
        other = seen.other_leads()
        seen.wakes.ask(REF, IDLE, now_s=auto.now_s)
        seen.watch.see_to_wakes()
        wake = seen.wakes.find(REF)
        assert wake is not None
        assert (wake.state, wake.words) == (WakeState.WAITING, BUSY)
        seen.control.records.release(other, now_s=auto.now_s)
        auto.awake.add(IDLE)
        seen.watch.see_to_wakes()
        until_heard(seen)
        assert auto.state(IDLE) is VmState.RUNNING


def raising(error: Exception) -> Callable[[str, float], Vm]:
    def find(_uuid: str, _timeout_s: float) -> Vm:
        raise error

    return find


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotFound("no domain of that UUID on hv1.internal"), GONE),
        (Unreachable("hv1.internal: no route"), UNREACHABLE),
        (RuntimeError("a bug at hv1.internal"), NOT_DONE),
    ],
)
def test_an_owner_is_told_nothing_of_the_cloud(
    auto: House, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    """What went wrong inside stands in the log; the wake has ended, and may be asked for again."""
    with watched(auto, OFTEN) as seen:
        monkeypatch.setattr(seen.control.sites.drivers["lab"], "find", raising(error))
        seen.wakes.ask(REF, IDLE, now_s=auto.now_s)
        seen.watch.see_to_wakes()
        wake = seen.wakes.find(REF)
        assert wake is not None
        assert (wake.state, wake.words) == (WakeState.FAILED, words)
        assert "hv1.internal" in seen.said[-1]
        assert seen.control.records.runs() == []


def test_a_vm_of_a_driver_that_is_gone(auto: House) -> None:
    """A link outlives the settings."""
    with watched(auto, OFTEN) as seen:
        ref = VmRef("former", IDLE)
        seen.wakes.ask(ref, IDLE, now_s=auto.now_s)
        seen.watch.see_to_wakes()
        wake = seen.wakes.find(ref)
        assert wake is not None
        assert (wake.state, wake.words) == (WakeState.FAILED, GONE)


def test_a_link_does_not_wake_what_somebody_else_put_to_sleep(auto: House) -> None:
    """An admin who suspends a VM by hand, maybe to keep it away from the network, is not undone by an old mail."""
    with watched(auto, OFTEN) as seen:
        driver = seen.control.sites.drivers["lab"]
        assert driver.begin(Order(verb=Verb.SUSPEND, uuid=IDLE), 5.0).wait(600.0)
        seen.wakes.ask(REF, IDLE, now_s=auto.now_s)
        seen.watch.see_to_wakes()
        wake = seen.wakes.find(REF)
        assert wake is not None
        assert (wake.state, wake.words) == (WakeState.FAILED, NOT_OURS)
        assert auto.state(IDLE) is VmState.SUSPENDED
        assert seen.control.records.runs() == []


def test_a_vm_that_is_being_changed_is_left_alone(auto: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two orders at once would be one too many."""
    with watched(auto, OFTEN) as seen:
        driver = seen.control.sites.drivers["lab"]
        changing = replace(driver.find(IDLE, 5.0), state=VmState.CHANGING)
        monkeypatch.setattr(driver, "find", lambda _uuid, _timeout_s: changing)
        seen.wakes.ask(REF, IDLE, now_s=auto.now_s)
        seen.watch.see_to_wakes()
        wake = seen.wakes.find(REF)
        assert wake is not None
        assert (wake.state, wake.words) == (WakeState.FAILED, OCCUPIED)


def test_a_database_that_is_away_keeps_wakes_waiting(auto: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are seen to once it is back."""
    with watched(auto, OFTEN) as seen:
        seen.wakes.ask(REF, IDLE, now_s=auto.now_s)
        with monkeypatch.context() as patch:
            patch.setattr(seen.control.records, "acquire", lambda *_, **__: 1 / 0)
            seen.watch.see_to_wakes()
        assert seen.wakes.has_waiting()
        seen.watch.see_to_wakes()
        wake = seen.wakes.find(REF)
        assert wake is not None
        assert wake.state is WakeState.RUNNING


def test_the_kill_switch_stops_wakes_too(auto: House) -> None:
    """The owner is told in plain words; nothing is asked of the hypervisor."""
    with watched(auto, OFTEN) as seen:
        suspended(seen)
        seen.control.config.kill_switch.write_text("")
        seen.wakes.ask(REF, IDLE, now_s=auto.now_s)
        seen.watch.see_to_wakes()
        wake = seen.wakes.find(REF)
        assert wake is not None
        assert (wake.state, wake.words) == (WakeState.FAILED, STOPPED)
        assert auto.state(IDLE) is VmState.SUSPENDED


@contextmanager
def hot(folder: Path, more: str) -> Iterator[Watched]:
    """Twenty VMs that keep 32 cores of one host busy, beside a host with nothing to do."""
    told = f"[orchestrate.hotspots]\ncpu_overcommit = 8\n{more}"
    with house(folder, idle_vms(20), more=told) as made:
        park = folder / "park.toml"
        park.write_text(park.read_text(encoding="utf-8").replace("= 0.003", "= 0.75"), encoding="utf-8")
        made.minute, made.minutes = {"cpu_busy_ratio": 0.75}, 10
        made.push()
        with watched(made) as seen:
            yield seen


def test_a_hot_host_is_relieved_where_the_settings_allow_it(tmp_path: Path) -> None:
    """In the same turn in which it is seen, by moves alone."""
    with hot(tmp_path, 'up_to = "migrate"\napprove = "auto"') as seen:
        turn = seen.watch.turn()
        assert any(words.startswith("h1 is hot: ") for words in turn.words)
        (run_id,) = turn.runs
        run, actions = seen.control.records.find_run(run_id), seen.control.records.actions(run_id)
        assert run is not None
        assert run.kind == PlanKind.RELIEF
        assert {(action.step.verb, action.outcome) for action in actions} == {(Verb.MIGRATE_LIVE, Outcome.DONE)}


def test_moves_wait_for_a_person(tmp_path: Path) -> None:
    """One plan is made and not a second while it waits; after somebody's yes it is applied."""
    with hot(tmp_path, 'up_to = "migrate"') as seen:
        assert seen.watch.turn().runs == ()
        seen.house.pause(60)
        assert seen.watch.turn().runs == ()
        (plan,) = [one for one in seen.control.records.plans() if one.kind is PlanKind.RELIEF]
        seen.control.records.approve(Approval(plan_sha256=plan.sha256, by="ann", at_s=seen.house.now_s))
        seen.house.pause(60)
        assert len(seen.watch.turn().runs) == 1


def test_hosts_are_left_alone_where_moves_are_not_allowed(tmp_path: Path) -> None:
    """The default: no plan, and no look for one."""
    with hot(tmp_path, "") as seen:
        assert seen.watch.turn().runs == ()
        assert PlanKind.RELIEF not in {plan.kind for plan in seen.control.records.plans()}


def test_the_status_is_replaced_whole(tmp_path: Path) -> None:
    """As JSON for its owner alone, with nothing left beside it."""
    turn = Turn(began_s=1.0, ended_s=2.0, end=TurnEnd.DONE, words=("x",))
    for site in ("http://127.0.0.1:8902/", None):
        write_status(tmp_path, Status(holder="h", pid=1, started_s=0.0, turn=turn, next_s=61.0, led_s=2.0, site=site))
    file = tmp_path / STATUS_FILE_NAME
    told = json.loads(file.read_text())
    assert (told["turn"]["end"], told["site"]) == ("done", None)
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_settings_that_never_rest_are_refused() -> None:
    """A turn every 0 s would be all the time."""
    with pytest.raises(ValueError, match="more often"):
        WatchSettings(every_s=0)
