"""`fallow-orchestrate` as it is called, from a plan to its undoing: simulated hypervisors, a real fleet database."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from aggregator.fleet_db import open_fleet_read_only, reading
from orchestrate.__main__ import main
from orchestrate.commands import COMMANDS
from orchestrate.inventory import VmState
from orchestrate.watch_state import Status, Turn, TurnEnd, write_status
from reports.events import read_events
from reports.exemption_table import Exemptions
from reports.exemptions import ExemptionKind
from reports.people.administration import Actor
from reports.people.gate import open_gate
from reports.people.roles import Role, Scope
from reports.schema import open_report_db
from tests.orchestrate.control_house import BUSY_ID, GRACE_S, IDLE, LONE, House, house, idle_vms
from tests.reports.people.persons import quick_hasher

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as made:
        yield made


def verbs(document: dict[str, object]) -> list[str]:
    plan = document["plan"]
    assert isinstance(plan, dict)
    return [step["verb"] for step in plan["steps"]]


def outcomes(run: dict[str, object]) -> list[tuple[str, str]]:
    actions = run["actions"]
    assert isinstance(actions, list)
    return [(action["step"]["verb"], action["outcome"]) for action in actions]


def test_the_whole_way_down_and_back(cloud: House) -> None:
    """Marked and told first, suspended after the grace, brought back by an undo, each told to the report."""
    first = cloud.run()
    assert outcomes(first) == [("mark", "done"), ("notify", "done")]
    assert cloud.state(IDLE) is VmState.RUNNING
    (notice,) = cloud.hook.requests
    assert json.loads(notice.body)["vm"]["name"] == "build-7"
    early = cloud.read("plan")
    assert (verbs(early), [each["next"] for each in early["waiting"]]) == ([], ["suspend"])
    cloud.now_s += GRACE_S
    second = cloud.run()
    assert outcomes(second) == [("suspend", "done")]
    assert (cloud.state(IDLE), cloud.state(BUSY_ID)) == (VmState.SUSPENDED, VmState.RUNNING)
    out = cloud.ok("undo", str(second["run_id"]), "--by", "ann")
    assert "resume build-7" in out
    assert cloud.state(IDLE) is VmState.RUNNING
    engine = open_fleet_read_only(None, cloud.folder)
    with reading(engine) as connection:
        events = read_events(connection, IDLE)
    engine.dispose()
    assert [(event.kind.value, event.by) for event in events] == [("returned", "ann"), ("reclaimed", "ann")]
    assert events[1].vcpus == 4.0
    assert cloud.read("status")["ladder"] == []


def test_the_last_rung_wakes_a_vm_only_to_shut_it_down(tmp_path: Path) -> None:
    """After the second wait it is off, and an undo starts it; the report is told of no return in between."""
    with house(tmp_path, up_to="stop") as cloud:
        cloud.suspend()
        cloud.awake.discard(IDLE)
        cloud.now_s += 2 * GRACE_S
        run = cloud.run()
        assert outcomes(run) == [("resume", "done"), ("stop", "done")]
        assert cloud.state(IDLE) is VmState.OFF
        cloud.ok("undo", str(run["run_id"]))
        assert cloud.state(IDLE) is VmState.RUNNING


def test_a_plan_shows_its_evidence_and_what_to_type_next(cloud: House) -> None:
    """Steps with figures beside limits, what undoes them, what is left out, the next command."""
    out = cloud.ok("plan", "--by", "ann")
    assert "mark: build-7" in out
    assert "highest CPU in 14 d: 0.3%, limit < 5%" in out
    assert "undone by: unmark" in out
    assert "nothing was done" in out
    digits = cloud.read("plans")["plans"][0]["sha256"][:12]
    assert f"Next: fallow-orchestrate approve {digits} --config {cloud.settings}" in out
    shown = cloud.ok("show", digits)
    assert "mark: build-7" in shown
    assert f"fallow-orchestrate approve {digits}" in shown
    cloud.ok("approve", digits, "--by", "eve")
    assert "approved by eve" in cloud.ok("show", digits)
    assert "approved by eve" in cloud.ok("plans")


def test_a_plan_does_nothing_to_anybody(cloud: House) -> None:
    """No order, no notice, no rung: only the plan is kept."""
    cloud.ok("plan")
    assert cloud.hook.requests == []
    assert cloud.read("status")["ladder"] == []
    assert cloud.state(IDLE) is VmState.RUNNING


def test_what_is_shown_is_what_the_hash_is_over(cloud: House) -> None:
    """The JSON of a plan is the canonical one: whoever has it can compute the hash."""
    import hashlib

    document = cloud.read("plan")
    text = json.dumps(document["plan"], sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == document["sha256"]
    again = cloud.read("show", document["sha256"])
    assert again["plan"] == document["plan"]
    assert again["runs"] == []


def test_no_plan_is_applied_without_a_yes(cloud: House) -> None:
    """Refused whole, exit 1, and nobody was told anything."""
    sha256 = cloud.read("plan")["sha256"]
    code, out, _ = cloud.call("apply", sha256)
    assert code == 1
    assert "nobody has approved" in out
    assert cloud.hook.requests == []
    cloud.ok("approve", sha256)
    cloud.ok("apply", sha256)


def test_a_plan_runs_once(cloud: House) -> None:
    """A second apply is refused."""
    first = cloud.run()
    code, _, err = cloud.call("apply", str(first["plan_sha256"]))
    assert code == 1
    assert "applied" in err


TWO = "[orchestrate.approval]\ntwo_persons_above = 0"


@contextmanager
def large(folder: Path) -> Iterator[tuple[House, str]]:
    """A cloud with a plan by ann that takes something, which two people have to approve; its hash."""
    with house(folder, more=TWO) as cloud:
        cloud.run()
        cloud.now_s += GRACE_S
        yield cloud, str(cloud.read("plan", "--by", "ann")["sha256"])


def token_of(cloud: House, name: str, role: Role, scope: Scope = Scope.APPROVE) -> Path:
    """A file with an API token of an account, made where there is none."""
    engine = open_report_db(None, cloud.folder)
    people, by = open_gate(engine, hasher=quick_hasher()).people, Actor(name="a test", now_s=cloud.now_s)
    if name not in {one.name for one in people.accounts()}:
        people.add(name, role, None, by)
    _, text = people.make_token(name, "a test", scope, 3600.0, by)
    engine.dispose()
    file = cloud.folder / f"{name}-{scope}.token"
    file.touch(mode=0o600)
    file.write_text(f"{text}\n", encoding="utf-8")
    return file


def test_two_tokens_approve_what_one_does_not(tmp_path: Path) -> None:
    """`plan`, `show` and `plans` say how many are needed and which count; the second checked yes is enough."""
    with large(tmp_path) as (cloud, sha256):
        assert "two people who log in have to approve it, other than ann" in cloud.ok("plan", "--by", "ann")
        said = cloud.ok("approve", sha256, "--api-token-file", token_of(cloud, "eve", Role.APPROVER))
        assert f"approved {sha256[:12]}: reclaim, 1 step, by eve" in said
        assert "1 of 2, so far eve" in said
        assert "Next:" not in said
        assert cloud.call("apply", sha256)[0] == 1
        assert "(1 of 2, so far eve)" in cloud.ok("show", sha256)
        assert ", 1 of 2 approvals, approved by eve" in cloud.ok("plans")
        assert "approve" in cloud.ok("show", sha256).splitlines()[-1]
        said = cloud.ok("approve", sha256, "--api-token-file", token_of(cloud, "bob", Role.ADMIN))
        assert "Approved by eve and bob" in said
        assert "Next: fallow-orchestrate apply" in said
        shown = cloud.read("show", sha256)
        assert (shown["approvals_needed"], shown["approvals_counting"]) == (2, ["eve", "bob"])
        assert [each["account"] for each in shown["approvals"]] == ["eve", "bob"]
        cloud.ok("apply", sha256)


def test_the_environment_names_the_token(tmp_path: Path) -> None:
    """$FALLOW_API_TOKEN_FILE will do; the token itself stands in no argument and in no answer."""
    with large(tmp_path) as (cloud, sha256):
        file = token_of(cloud, "eve", Role.APPROVER)
        out, err = io.StringIO(), io.StringIO()
        words = ["approve", "--config", str(cloud.settings), sha256]
        environ = {"FALLOW_API_TOKEN_FILE": str(file)}
        assert main(words, clock=lambda: cloud.now_s, environ=environ, out=out, err=err) == 0
        assert "by eve" in out.getvalue()
        assert file.read_text(encoding="utf-8").strip() not in out.getvalue() + err.getvalue()
        assert main([*words, "--by", "ann"], clock=lambda: cloud.now_s, environ=environ, out=out, err=err) == 2
        assert "--by: a token says who approves" in err.getvalue()


def test_ones_own_plan_is_not_approved_by_token(tmp_path: Path) -> None:
    """Exit 1, no approval, and it is written down."""
    with large(tmp_path) as (cloud, sha256):
        code, out, err = cloud.call("approve", sha256, "--api-token-file", token_of(cloud, "ann", Role.ADMIN))
        assert (code, out) == (1, "")
        assert "ann made this plan: somebody else has to approve it" in err
        assert cloud.read("show", sha256)["approvals"] == []
        (line,) = [each for each in cloud.read("audit")["entries"] if each["what"] == "refused"]
        assert (line["who"], json.loads(line["body"])["plan"]) == ("ann", sha256)


@pytest.mark.parametrize(
    ("role", "scope", "words"),
    [(Role.APPROVER, Scope.WRITE, "goes as far as operator"), (Role.VIEWER, Scope.READ, "goes as far as viewer")],
)
def test_a_token_that_goes_less_far_approves_nothing(tmp_path: Path, role: Role, scope: Scope, words: str) -> None:
    """Neither by its scope nor by its account's role."""
    with large(tmp_path) as (cloud, sha256):
        code, _, err = cloud.call("approve", sha256, "--api-token-file", token_of(cloud, "eve", role, scope))
        assert code == 1
        assert words in err
        assert cloud.read("show", sha256)["approvals"] == []


def test_what_is_no_token_approves_nothing(tmp_path: Path) -> None:
    """Wrong: exit 1. Readable by others, or not there: exit 2."""
    with large(tmp_path) as (cloud, sha256):
        file = token_of(cloud, "eve", Role.APPROVER)
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(text[-4], "0" if text[-4] != "0" else "1"), encoding="utf-8")
        code, _, err = cloud.call("approve", sha256, "--api-token-file", file)
        assert (code, "the token is wrong, over or revoked" in err) == (1, True)
        file.chmod(0o644)
        code, _, err = cloud.call("approve", sha256, "--api-token-file", file)
        assert (code, "readable by others" in err) == (2, True)
        assert cloud.call("approve", sha256, "--api-token-file", tmp_path / "none")[0] == 2


def test_an_expired_plan_is_neither_approved_nor_applied(cloud: House) -> None:
    """A day later the world is another."""
    sha256 = cloud.read("plan")["sha256"]
    cloud.ok("approve", sha256)
    cloud.now_s += 86_400.0
    code, out, _ = cloud.call("apply", sha256)
    assert code == 1
    assert "expired" in out
    code, _, err = cloud.call("approve", sha256)
    assert code == 1
    assert "expired" in err


def test_other_settings_refuse_an_approved_plan(cloud: House) -> None:
    """Somebody withdrew what the plan rests on."""
    sha256 = cloud.read("plan")["sha256"]
    cloud.ok("approve", sha256)
    cloud.write_settings(up_to="report")
    code, out, _ = cloud.call("apply", sha256)
    assert code == 1
    assert "settings have changed" in out


def test_the_kill_switch_stops_everything(cloud: House) -> None:
    """While the file is there no step is done; status tells its words."""
    sha256 = cloud.read("plan")["sha256"]
    cloud.ok("approve", sha256)
    switch = cloud.folder / "control" / "STOP"
    switch.parent.mkdir(mode=0o700, exist_ok=True)
    switch.write_text("maintenance by bob\n", encoding="utf-8")
    code, out, _ = cloud.call("apply", sha256)
    assert code == 1
    assert "maintenance by bob" in out
    assert cloud.hook.requests == []
    assert "STOPPED, nothing is done: " in cloud.ok("status")
    switch.unlink()
    cloud.ok("apply", sha256)


def test_over_a_limit_nothing_at_all_is_done(tmp_path: Path) -> None:
    """Four VMs on one host where three may be suspended: the plan says so, apply does none of it."""
    with house(tmp_path, idle_vms(4)) as cloud:
        cloud.run()
        cloud.now_s += GRACE_S
        planned = cloud.read("plan")
        assert verbs(planned) == ["suspend"] * 4
        assert [each["rule"] for each in planned["refusals"]] == ["exceeds a limit"]
        told = cloud.ok("plan")
        assert "refused whole" in told
        assert "Next:" not in told
        assert planned["next"] is None
        cloud.ok("approve", planned["sha256"])
        run = cloud.read("apply", planned["sha256"], code=1)
        assert run["actions"] == []
        assert {cloud.state(spec.vm_id) for spec in cloud.specs} == {VmState.RUNNING}
        assert outcomes(cloud.run("--top", "3")) == [("suspend", "done")] * 3


def test_an_outage_stops_the_look(cloud: House) -> None:
    """The aggregator does not answer: exit 1, the reason, no plan."""
    cloud.write_settings()
    text = cloud.settings.read_text(encoding="utf-8").replace(cloud.door.url, "http://127.0.0.1:1")
    cloud.settings.write_text(text, encoding="utf-8")
    code, out, _ = cloud.call("plan")
    assert code == 1
    assert "never acts in an outage" in out
    assert cloud.read("plans")["plans"] == []


def test_silence_of_many_is_an_outage(cloud: House) -> None:
    """Half of the fleet is silent at once: nothing is planned."""
    cloud.awake.discard(BUSY_ID)
    planned = cloud.read("plan", code=1)
    assert [each["rule"] for each in planned["stopped"]] == ["acts in an outage"]


def test_a_vm_that_woke_up_is_left_alone_though_the_plan_was_approved(cloud: House) -> None:
    """Just before the step its last minute shows a user: skipped, and the VM runs."""
    cloud.run()
    cloud.now_s += GRACE_S
    planned = cloud.read("plan")
    cloud.ok("approve", planned["sha256"])
    cloud.minute = {"users": 1}
    run = cloud.read("apply", planned["sha256"], code=1)
    assert outcomes(run) == [("suspend", "skipped")]
    assert cloud.state(IDLE) is VmState.RUNNING
    assert "woke up" in cloud.ok("audit") or "logged in" in cloud.ok("audit")
    cloud.ok("plan")
    assert cloud.read("status")["ladder"] == []


def test_an_owner_who_keeps_the_vm_is_heard_at_once(cloud: House) -> None:
    """An exemption that came after the plan keeps the step from being done."""
    cloud.run()
    cloud.now_s += GRACE_S
    planned = cloud.read("plan")
    cloud.ok("approve", planned["sha256"])
    engine = open_report_db(None, cloud.folder)
    until_s = cloud.now_s + 86_400
    Exemptions(engine).add(ExemptionKind.VM, IDLE, reason="mine", owner="ann", until_s=until_s, now_s=cloud.now_s - 1)
    engine.dispose()
    run = cloud.read("apply", planned["sha256"], code=1)
    assert outcomes(run) in ([], [("suspend", "skipped")])
    assert cloud.state(IDLE) is VmState.RUNNING


def test_a_notice_that_cannot_be_sent_leaves_the_vm_on_its_mark(cloud: House) -> None:
    """Nobody is suspended who was not told: the next plan tries the notice again."""
    cloud.hook.answers = [500]
    planned = cloud.read("plan")
    cloud.ok("approve", planned["sha256"])
    run = cloud.read("apply", planned["sha256"], code=1)
    assert outcomes(run)[:2] == [("mark", "done"), ("notify", "failed")]
    cloud.hook.answers = [200]
    cloud.now_s += GRACE_S
    assert verbs(cloud.read("plan")) == ["notify"]


def test_wake_gives_a_vm_back_at_once(cloud: House) -> None:
    """By name, without approval, in an outage too; there is nothing to wake of a VM that runs."""
    cloud.suspend()
    cloud.awake.clear()
    out = cloud.ok("wake", "build-7", "--by", "ann", "--no-wait")
    assert "resume build-7" in out
    assert "Undo:" not in out, "an undo takes nothing"
    assert cloud.state(IDLE) is VmState.RUNNING
    code, _, err = cloud.call("wake", "build-7")
    assert code == 1
    assert "nothing to wake" in err


def test_wake_tells_how_long_the_guest_took_to_be_heard_of(cloud: House) -> None:
    """From the call to its next sample, in words and as a figure."""
    cloud.suspend()
    found = cloud.read("wake", IDLE)
    assert outcomes(found) == [("resume", "done")]
    assert 0 < found["heard_after_s"] <= 70
    run_id = cloud.suspend()
    assert run_id
    assert "its next sample came" in cloud.ok("wake", "build-7")


def test_an_undo_can_be_looked_at_first_and_is_done_once(cloud: House) -> None:
    """A dry run does nothing; after the undo there is nothing left to bring back."""
    run_id = cloud.suspend()
    assert "resume: build-7" in cloud.ok("undo", run_id, "--dry-run")
    assert cloud.state(IDLE) is VmState.SUSPENDED
    cloud.ok("undo", run_id)
    code, _, err = cloud.call("undo", run_id)
    assert code == 1
    assert "nothing to bring back" in err


def test_an_order_whose_outcome_nobody_knows_waits_for_a_person(cloud: House) -> None:
    """The run ends there, status asks for somebody, and resolve clears it up."""
    cloud.run()
    cloud.now_s += GRACE_S
    more = cloud.settings.read_text(encoding="utf-8").replace("pace = 0", "pace = 0\nfaults = {lost-after = 1.0}")
    cloud.settings.write_text(more, encoding="utf-8")
    planned = cloud.read("plan")
    cloud.ok("approve", planned["sha256"])
    cloud.call("apply", planned["sha256"])
    waiting = cloud.read("status")["unsettled"]
    if not waiting:  # the live state told what came of it
        assert cloud.state(IDLE) in {VmState.SUSPENDED, VmState.RUNNING}
        return
    (action,) = waiting
    code, _, err = cloud.call("resolve", "999", "done", "--reason", "x")
    assert (code, "there is none" in err) == (1, True)
    said = cloud.ok("resolve", str(action["action_id"]), "done", "--by", "ann", "--reason", "it sleeps")
    assert "ann says so: it sleeps" in said
    assert cloud.read("status")["unsettled"] == []


def test_the_inventory_says_which_agent_runs_where(cloud: House) -> None:
    """Hosts, VMs with their agents and by what they were matched, and those without."""
    document = cloud.read("inventory")
    by_name = {vm["name"]: vm for vm in document["vms"]}
    assert (by_name["build-7"]["agent"], by_name["build-7"]["matched_by"]) == (IDLE, "uuid")
    assert (by_name["build-7"]["verdict"], by_name["build-7"]["owner"]) == ("idle", "ann")
    assert (by_name["lone"]["agent"], by_name["lone"]["vm"]) == (None, f"lab/{LONE}")
    assert [host["host"] for host in document["hosts"]] == ["h1", "h2"]
    text = cloud.ok("inventory")
    assert "build-7" in text
    assert "uuid" in text


def test_the_audit_log_tells_who_did_what_and_proves_it(cloud: House) -> None:
    """Each change is a line; verify finds it whole, and a line that never was missing."""
    cloud.run()
    lines = cloud.read("audit")["entries"]
    assert [entry["number"] for entry in lines] == list(range(1, len(lines) + 1))
    assert {"plan"} <= {entry["what"] for entry in lines}
    assert cloud.read("audit", "list", "--after", "1", "--limit", "2")["entries"] == lines[1:3]
    assert cloud.read("audit", "list", "--limit", "1")["entries"] == lines[-1:]
    found = cloud.read("audit", "verify")
    assert (found["broken"], found["lines"]) == (None, lines[-1]["number"])
    head = found["head"]
    cloud.ok("audit", "verify", "--expect", head)
    code, _, err = cloud.call("audit", "verify", "--expect", f"{lines[-1]['number'] + 5}:{'0' * 64}")
    assert code == 1
    assert "missing" in err


def test_vms_are_chosen_by_name_uuid_id_or_pattern(tmp_path: Path) -> None:
    """Only those that are named are planned for."""
    with house(tmp_path, idle_vms(3)) as cloud:
        for said in (["idle-1"], [cloud.specs[1].vm_id], [f"lab/{cloud.specs[1].vm_id}"], ["IDLE-1"], ["*-1"]):
            options = [word for text in said for word in ("--vm", text)]
            steps = cloud.read("plan", *options)["plan"]["steps"]
            assert {step["name"] for step in steps} == {"idle-1"}, said
        everything = cloud.read("plan", "--vm", "*", "--all")["plan"]["steps"]
        assert {step["name"] for step in everything} == {"idle-0", "idle-1", "idle-2"}
        code, _, err = cloud.call("plan", "--vm", "*l*")
        assert (code, "--all" in err) == (2, True), "it fits every VM, as * does"
        code, _, err = cloud.call("plan", "--vm", "nobody")
        assert (code, "nobody" in err) == (1, True)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["plan", "--vm", "*"], "--all"),
        (["plan", "--vm", "?*"], "--all"),
        (["audit", "verify", "--after", "3"], "takes no --after"),
        (["audit", "list", "--expect", "1:00"], "takes no --expect"),
        (["audit", "verify", "--expect", "x"], "NUMBER:HASH"),
        (["resolve", "1", "done", "--reason", " "], "--reason"),
    ],
)
def test_options_that_do_not_go_together_are_exit_2(cloud: House, argv: list[str], words: str) -> None:
    """Named on stderr, nothing done."""
    code, out, err = cloud.call(*argv)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    "argv",
    [
        ["plan", "--top", "0"],
        ["plan", "--top", "3", "--all"],
        ["plan", "--kind", "undo"],
        ["show", "xyz"],
        ["show", "abc"],
        ["apply"],
        ["approve", "abcdef", "--by", ""],
        ["resolve", "1", "maybe", "--reason", "x"],
        ["resolve", "1", "done"],
    ],
)
def test_options_that_cannot_be_are_exit_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As argparse tells them."""
    with pytest.raises(SystemExit) as caught:
        main(argv, environ={})
    assert caught.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("argv", [["show", "abcdef"], ["approve", "abcdef"], ["apply", "abcdef"], ["undo", "nope"]])
def test_what_is_not_there_is_exit_1(cloud: House, argv: list[str]) -> None:
    """A plan or run that nobody knows."""
    code, out, err = cloud.call(*argv)
    assert (code, out) == (1, "")
    assert argv[1] in err


def test_a_configuration_without_hypervisors_says_so(cloud: House) -> None:
    """Exit 2 naming the table that is missing."""
    cloud.write_settings(text='[report]\ndata = "{data}"\n')
    code, _, err = cloud.call("plan")
    assert code == 2
    assert "[[orchestrate.drivers]]" in err


def test_no_fleet_database_is_a_mistake_of_the_configuration(cloud: House) -> None:
    """Exit 2 naming the file."""
    (cloud.folder / "fleet.db").unlink()
    code, _, err = cloud.call("status")
    assert code == 2
    assert "fleet.db" in err


def test_hypervisors_that_do_not_answer_are_told(cloud: House) -> None:
    """Status, inventory and a plan end with 69 and name them; their VMs are left alone."""
    text = cloud.settings.read_text(encoding="utf-8").replace("pace = 0", "pace = 0\nfaults = {read = 1.0}")
    cloud.settings.write_text(text, encoding="utf-8")
    code, out, _ = cloud.call("status")
    assert (code, "does not answer" in out) == (69, True)
    assert cloud.read("inventory", code=69)["unread"].keys() == {"lab"}
    planned = cloud.read("plan", code=69)
    assert (verbs(planned), planned["unread"].keys()) == ([], {"lab"})
    code, out, _ = cloud.call("plan")
    assert (code, "lab: does not answer" in out) == (69, True)


def test_two_controllers_do_not_act_beside_each_other(cloud: House) -> None:
    """While somebody else's lease holds, apply does nothing."""
    from orchestrate.control import open_records

    planned = cloud.read("plan")
    cloud.ok("approve", planned["sha256"])
    with open_records(cloud.config()) as records:
        lease = records.acquire("another:1", now_s=cloud.now_s, life_s=60.0)
        assert lease is not None
    code, _, err = cloud.call("apply", planned["sha256"])
    assert (code, "another:1 leads" in err) == (1, True)
    assert cloud.hook.requests == []
    assert cloud.read("status")["leader"]["holds"]
    cloud.now_s += 60.0
    cloud.ok("apply", planned["sha256"])


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What it does, where the fleet is, an example, and what its end means."""
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"], environ={})
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for part in (f"fallow-orchestrate {name}", "--config", "examples:", "exit codes:"):
        assert part in text


def bare(*argv: str) -> tuple[int, str, str]:
    """A call without a configuration."""
    out, err = io.StringIO(), io.StringIO()
    return main(list(argv), environ={}, out=out, err=err), out.getvalue(), err.getvalue()


def test_help_names_every_command() -> None:
    """Whoever asks for help finds the rest."""
    code, text, err = bare("--help")
    assert (code, err) == (0, "")
    assert all(f"  {name}" in text for name in COMMANDS)


@pytest.mark.parametrize("argv", [[], ["reclaim"], ["-x"]])
def test_an_unknown_command_is_exit_2(argv: list[str]) -> None:
    """The commands there are, on stderr."""
    code, out, err = bare(*argv)
    assert (code, out) == (2, "")
    assert "plan" in err


def test_nothing_printed_moves_a_cursor(tmp_path: Path) -> None:
    """A VM may be called anything."""
    specs = idle_vms(1)
    with house(tmp_path, specs) as cloud:
        park = cloud.folder / "park.toml"
        park.write_text(park.read_text(encoding="utf-8").replace('"idle-0"', '"evil\\u001b[2J"'), encoding="utf-8")
        for command in ("plan", "inventory"):
            assert "\x1b" not in cloud.ok(command)


MOVES = '[orchestrate.hotspots]\nup_to = "{}"\ncpu_overcommit = 8'


def hot_host(tmp_path: Path, up_to: str) -> AbstractContextManager[House]:
    """Twenty VMs that keep 32 cores of one host busy, beside a host with nothing to do."""
    specs = idle_vms(20)
    made = house(tmp_path, specs, more=MOVES.format(up_to))
    park = tmp_path / "park.toml"

    @contextmanager
    def heated() -> Iterator[House]:
        with made as cloud:
            park.write_text(park.read_text(encoding="utf-8").replace("= 0.003", "= 0.75"), encoding="utf-8")
            cloud.minute, cloud.minutes = {"cpu_busy_ratio": 0.75}, 10
            yield cloud

    return heated()


def test_a_hot_host_is_relieved_by_moves(tmp_path: Path) -> None:
    """The plan names the hot host, its moves are approved and done, and the VMs run elsewhere."""
    with hot_host(tmp_path, "migrate") as cloud:
        planned = cloud.read("plan", "--kind", "relief")
        assert {each["host_id"] for each in planned["hot"]} == {"h1"}
        assert set(verbs(planned)) == {"migrate-live"}
        assert planned["refusals"] == []
        cloud.ok("approve", planned["sha256"])
        run = cloud.read("apply", planned["sha256"])
        assert {outcome for _, outcome in outcomes(run)} == {"done"}
        moved = [action["step"]["ref"]["uuid"] for action in run["actions"]]
        driver = cloud.driver()
        assert {driver.find(uuid, 5.0).host_id for uuid in moved} == {"h2"}
        cloud.ok("undo", str(run["run_id"]))
        assert {driver.find(uuid, 5.0).host_id for uuid in moved} == {"h1"}


def test_moves_are_only_told_where_the_settings_do_not_allow_them(tmp_path: Path) -> None:
    """The default is a report: the plan says what would help, and apply refuses it."""
    with hot_host(tmp_path, "report") as cloud:
        planned = cloud.read("plan", "--kind", "relief")
        assert verbs(planned)
        assert {each["rule"] for each in planned["refusals"]} == {"acts by default"}
        cloud.ok("approve", planned["sha256"])
        assert cloud.read("apply", planned["sha256"], code=1)["actions"] == []


def test_a_cool_cloud_has_no_moves(cloud: House) -> None:
    """No move helps is an answer."""
    assert "No move helps." in cloud.ok("plan", "--kind", "relief")
    code, _, err = cloud.call("plan", "--kind", "relief", "--top", "3")
    assert (code, "reclaim" in err) == (2, True)


def test_the_service_takes_a_turn_on_demand(cloud: House) -> None:
    """One turn of it applies what somebody approved, and status shows the run."""
    planned = cloud.read("plan")
    cloud.ok("approve", planned["sha256"])
    assert "turn: done" in cloud.ok("watch", "--once")
    assert [run["plan_sha256"] for run in cloud.read("status")["runs"]] == [planned["sha256"]]


def test_status_tells_of_the_service(cloud: House) -> None:
    """Its last turn in words, and that it is late; without a note that it has not run."""
    assert "The service has not run." in cloud.ok("status")
    turn = Turn(began_s=cloud.now_s, ended_s=cloud.now_s, end=TurnEnd.STANDBY, words=("odd\x1b",), problem="a lease")
    status = Status(holder="h:1", pid=1, started_s=0.0, turn=turn, next_s=cloud.now_s + 60, led_s=None, site=None)
    folder = cloud.config().data_dir
    folder.mkdir(mode=0o700, exist_ok=True)
    write_status(folder, status)
    out = cloud.ok("status")
    assert "service h:1: last turn" in out
    assert "problem: a lease" in out
    assert "\x1b" not in out
    assert "late" not in out
    cloud.now_s += 3600
    assert "late: its next turn was due" in cloud.ok("status")


def test_a_new_vm_is_placed_and_its_room_held(cloud: House) -> None:
    """The host that fits is told, and held for a while."""
    found = cloud.read("place", "--vcpus", "4", "--memory", "8GiB", "--hold", "15min", "--name", "new-1")
    assert found["host_id"] in {"h1", "h2"}
    code, out, _ = cloud.call("place", "--vcpus", "4", "--memory", "1024GiB")
    assert code == 1
    assert out


def test_status_and_plans_tell_what_became_of_a_plan(cloud: House) -> None:
    """How many steps were done, on which rung a VM stands, and which run applied the plan."""
    run_id = cloud.suspend()
    told = cloud.ok("status")
    assert f"run {run_id}: reclaim, by ann" in told
    assert ": 1 done" in told
    assert "suspended " in told
    applied = [line for line in cloud.ok("plans").splitlines() if f"applied by run {run_id}" in line]
    assert len(applied) == 1


def test_a_vm_that_comes_off_the_ladder_is_told_with_its_reason(cloud: House) -> None:
    """A look says whom it dropped and why, once."""
    cloud.run()
    cloud.minute = {"users": 1}
    told = cloud.ok("plan")
    assert "Taken off the ladder:" in told
    assert "somebody was logged in" in told
    assert told.count("idle VM") <= 1


@pytest.mark.parametrize(("columns", "is_table"), [(None, True), (400, True), (60, False)])
def test_an_inventory_that_is_too_wide_is_told_in_sentences(cloud: House, columns: int | None, is_table: bool) -> None:
    """A table where there is room for it; no word is broken over lines in either form."""
    code, out, _ = cloud.call("inventory", columns=columns)
    assert code == 0
    assert ("matched by" in out) is is_table
    assert "build-7" in out


def test_an_unknown_kind_is_told_beside_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """As words that can be typed."""
    with pytest.raises(SystemExit):
        main(["plan", "--kind", "foo"], environ={})
    assert "(choose from 'reclaim', 'relief', 'consolidate')" in capsys.readouterr().err


def test_a_plan_says_that_no_owner_can_be_told(cloud: House) -> None:
    """Where the settings have no way to owners: what is marked would stay so for ever."""
    assert "No owner can be told" not in cloud.ok("plan")
    lines = cloud.settings.read_text(encoding="utf-8").splitlines()
    start = lines.index("[orchestrate.notify.webhook]")
    cloud.settings.write_text("\n".join(lines[:start] + lines[start + 3 :]), encoding="utf-8")
    assert "No owner can be told" in cloud.ok("plan")
