"""Two aggregators that share fleet database and key file: what an admin says of tokens counts on both, unasked."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.e2e.agents import RealAgent
from tests.e2e.house import Aggregator, House, Load

pytestmark = pytest.mark.real

EFFECTIVE_WITHIN_S = 60.0


def pair(house: House) -> tuple[Aggregator, Aggregator, tuple[str, str]]:
    """Both, and the option that names the database they share."""
    fleet = ("--fleet-url", f"sqlite:///{house.folder}/shared.db")
    first = house.aggregator(*fleet, data=house.folder / "first")
    second_data = house.folder / "second"
    second_data.mkdir()
    for name in ("token.key", "admin.token"):
        (second_data / name).symlink_to(first.data / name)
    return first, house.aggregator(*fleet, data=second_data), fleet


def admin(house: House, *words: str) -> str:
    """What a command prints that succeeds."""
    done = house.run("fallow-aggregator", *words)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def enrol(aggregator: Aggregator, join_token: str, vm: str) -> str:
    """The VM's token."""
    body = json.dumps({"join_token": join_token, "vm": vm}).encode()
    answer = aggregator.request("POST", "/v1/enroll", body, {"Content-Type": "application/json"})
    assert answer.status == 201, answer
    return str(json.loads(answer.body)["token"])


def token_of(agent: RealAgent) -> str:
    """The token that a real agent holds."""
    return str(json.loads((agent.state / "token.json").read_text())["token"])


def test_revocation_and_a_new_key_reach_every_aggregator_by_themselves(house: House, tmp_path: Path) -> None:
    """Revoked 401 on both within 60 s; a new key is taken up by both without a restart, and a real agent exchanges its
    token of the old one with no push refused; when the old key is dropped its tokens are refused on both."""
    first, second, fleet = pair(house)
    data = ("--data", str(first.data))
    join_token = admin(house, "token", "mint", *data, *fleet, "--uses", "9").strip()
    join_file = tmp_path / "join.token"
    join_file.touch(mode=0o600)
    join_file.write_text(join_token)
    agent = RealAgent(house, "agent-1", first.url)
    assert agent.enrol(join_file) == 0, agent.said
    agent.start()
    now_s = time.time()
    loads = [Load(vm, salt, now_s) for salt, vm in enumerate(("revoked", "kept"))]
    for load in loads:
        token = enrol(first, join_token, load.vm)
        for aggregator in (first, second):
            house._tokens[aggregator.data, load.vm] = token
            assert aggregator.push(load, [1]).acknowledged

    def refused(load: Load) -> bool:
        return [one.push(load, [2]).status for one in (first, second)] == [401, 401]

    def outdated(load: Load) -> bool:
        answers = [one.push(load, [3]) for one in (first, second)]
        assert all(answer.acknowledged for answer in answers)
        return all(b'"token": "rotate"' in answer.body for answer in answers)

    assert admin(house, "token", "revoke", *data, *fleet, "revoked") == "revoked revoked\n"
    assert admin(house, "token", "new-key", *data) == "k2\n"
    # As if it had been made two minutes ago: until then the old key would go on to sign.
    os.utime(first.data / "token.key", (now_s - 120.0, now_s - 120.0))
    running = [first.program, second.program]
    house.until(lambda: refused(loads[0]), "the revocation", running=running, within_s=EFFECTIVE_WITHIN_S)
    house.until(lambda: outdated(loads[1]), "the new key", running=running, within_s=EFFECTIVE_WITHIN_S)
    assert enrol(second, join_token, "later").startswith("k2.")
    house.until(lambda: token_of(agent).startswith("k2."), "the agent's exchange", running=running)
    status = agent.wait_for("a push with the new token", samples_acked_total=1)
    assert (status.enrolment_needed, status.trouble) == (False, None)
    admin(house, "token", "drop-key", *data, "k1")
    house.until(lambda: refused(loads[1]), "the end of the old key", running=running, within_s=EFFECTIVE_WITHIN_S)
    acked = agent.status().samples_acked_total
    assert not agent.wait_for("pushes after it", samples_acked_total=acked + 2).enrolment_needed
    assert agent.stop() == 0


def test_an_enrolment_that_waits_gets_in_by_itself_once_approved(house: House, tmp_path: Path) -> None:
    """The whole way with the real programs: the inventory does not know the VM, `fallow-agent` says so and fails; an
    admin sees and approves it, and the same command succeeds with the one use of its join token."""
    aggregator = house.aggregator()
    data = ("--data", str(aggregator.data))
    inventory = tmp_path / "vms.csv"
    inventory.write_text("vm,macs\nsomebody-else,\n")
    assert admin(house, "inventory", "import", *data, str(inventory)) == "csv: 1 VM\n"
    join_token = tmp_path / "join.token"
    join_token.touch(mode=0o600)
    join_token.write_text(admin(house, "token", "mint", *data))
    agent = RealAgent(house, "agent-1", aggregator.url)
    assert agent.enrol(join_token) == 1
    assert "an admin must approve" in agent.said
    (wait,) = json.loads(admin(house, "token", "pending", *data, "--json"))
    assert (wait["vm"], wait["state"], wait["evidence"]["peer"]) == (agent.vm, "waiting", "127.0.0.1")
    admin(house, "token", "approve", *data, agent.vm)
    assert agent.enrol(join_token) == 0, agent.said
    (known,) = json.loads(admin(house, "token", "list", *data, "--json"))
    assert (known["state"], known["uses_left"]) == ("used up", 0)
