"""`fallow-aggregator token …`: what an admin types does what it says, and mistakes are named with their exit code."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from aggregator.enrolment import Enrolment
from aggregator.problems import Refused
from aggregator.tokens import KEY_FILE_NAME, TokenKeys
from aggregator.waits import State
from tests.aggregator.shell_fakes import NOW_S, Shell


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def printed(shell: Shell, *words: str) -> Any:
    """The JSON that a command prints."""
    code, out, err = shell.run(*words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def ask(shell: Shell, vm_id: str, mac: str, token: str = "") -> None:
    """An enrolment that must wait: another machine has the id already."""
    token = token or shell.run("token", "mint", "--uses", "9")[1].strip()
    request = Enrolment(join_token=token, vm=vm_id, hostname="web", macs=(mac,))
    with pytest.raises(Refused) as caught:
        shell.with_catalogue(lambda catalogue: catalogue.enroll(request, now_s=NOW_S + 1e4, peer="10.0.0.9"))
    assert caught.value.problem.reason == "enrolment-waits"


def enrolled(shell: Shell, vm_id: str) -> None:
    """A VM that has enrolled with a MAC."""
    token = shell.run("token", "mint")[1].strip()
    request = Enrolment(join_token=token, vm=vm_id, macs=("52:54:00:00:00:01",))
    shell.with_catalogue(lambda catalogue: catalogue.enroll(request, now_s=NOW_S))


def refused(shell: Shell, vm_id: str, generation: int) -> str | None:
    """Why a generation of a VM's token is refused."""
    reason: str | None = shell.with_catalogue(lambda one: one.revocations().refuses(vm_id, generation))
    return reason


# Minting


@pytest.mark.parametrize("words", [("join-token",), ("token", "mint")])
def test_mint_prints_the_token_alone(shell: Shell, words: tuple[str, ...]) -> None:
    """Stdout is the token and nothing else, on a data directory that is still empty too; both names are one command."""
    code, out, err = shell.run(*words)
    assert (code, err) == (0, "")
    assert shell.enroll(out.removesuffix("\n"), "a") == 1


def test_a_join_token_has_the_uses_and_labels_asked_for(shell: Shell) -> None:
    """--uses, --owner, --mail, --name and --tag reach the VM that enrols."""
    labels = ("--owner", "web", "--mail", "w@x.org", "--name", "Shop", "--tag", "b", "--tag", "a", "--tag", "b")
    token = shell.run("token", "mint", "--uses", "2", *labels)[1].strip()
    assert [shell.enroll(token, vm_id) for vm_id in ("a", "b")] == [1, 1]
    record = shell.record("b")
    assert record is not None
    assert (record.owner, record.mail, record.name, record.tags) == ("web", "w@x.org", "Shop", ("a", "b"))
    with sqlite3.connect(shell.data_dir / "fleet.db") as connection:
        assert connection.execute("SELECT uses_left FROM join_token").fetchall() == [(0,)]
    connection.close()


@pytest.mark.parametrize(("ttl", "seconds"), [((), 86_400), (("--ttl", "90min"), 5_400)])
def test_a_join_token_lives_as_long_as_asked(shell: Shell, ttl: tuple[str, ...], seconds: float) -> None:
    """A day by default, else --ttl."""
    shell.run("token", "mint", *ttl)
    with sqlite3.connect(shell.data_dir / "fleet.db") as connection:
        assert connection.execute("SELECT expires_s - created_s FROM join_token").fetchall() == [(seconds,)]
    connection.close()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--ttl", "5 parsecs"), "--ttl"),
        (("--ttl", "0s"), "--ttl"),
        (("--ttl", "-1h"), "--ttl"),
        (("--ttl", "36500d"), "--ttl"),
        (("--uses", "0"), "--uses"),
        (("--uses", "many"), "--uses"),
        (("--uses", "1000001"), "--uses"),
        (("--mail", "nobody"), "--mail"),
        (("--owner", "\x1b[31m"), "--owner"),
        (("--tag", "a;b"), "--tag"),
        (("--tag", ""), "--tag"),
        (("--color", "red"), "--color"),
        (("--vm", "../x"), "--vm"),
        (("--vm", "a\n"), "--vm"),
        (("--network", "10.0.0.1/8"), "--network"),
        (("--network", "everywhere"), "--network"),
        (("--pool", " "), "--pool"),
        (("--pool", "a", "--vm", "b"), "--vm"),
    ],
)
def test_options_that_cannot_be_are_exit_2(shell: Shell, words: tuple[str, ...], named: str) -> None:
    """The option is named, and nothing is made."""
    code, out, err = shell.run("token", "mint", *words)
    assert (code, out) == (2, "")
    assert named in err
    assert list(shell.data_dir.iterdir()) == []


def test_a_minted_token_can_be_found_again_without_its_text(shell: Shell) -> None:
    """--json gives token and id; the list shows id, state, uses, binding and who, and never the text."""
    minted = printed(shell, "token", "mint", "--uses", "3", "--network", "10.1.0.0/16")
    (known,) = printed(shell, "token", "list")
    assert (known["id"], known["state"], known["uses_left"]) == (minted["id"], "good", 3)
    assert known["bound"] == {"kind": "network", "value": "10.1.0.0/16"}
    assert known["created_by"]
    code, out, _ = shell.run("token", "list")
    assert code == 0
    assert out.splitlines()[1].split()[:5] == [minted["id"], "good", "3", "of", "3"]
    assert minted["token"] not in out
    assert minted["token"] not in json.dumps(known)


def test_a_revoked_join_token_lets_nobody_in(shell: Shell) -> None:
    """`revoke-join` is at once and stays; an id that nobody knows is exit 1, the others are revoked all the same."""
    minted = printed(shell, "token", "mint", "--uses", "3")
    code, out, err = shell.run("token", "revoke-join", "00000000", minted["id"])
    assert (code, out) == (1, f"revoked {minted['id']}\n")
    assert "00000000: no such join token" in err
    with pytest.raises(Refused, match="was revoked") as caught:
        shell.enroll(minted["token"], "a")
    assert (caught.value.problem.status, caught.value.problem.reason) == (401, "join-token-revoked")
    assert printed(shell, "token", "list")[0]["state"] == "revoked"
    assert shell.run("token", "revoke-join", minted["id"])[0] == 0


# Revoking VMs


def test_a_revoked_vm_must_enrol_again(shell: Shell) -> None:
    """Every token of the VM is refused, those of others are not; who is not enrolled is exit 1."""
    for vm_id in ("a", "b"):
        enrolled(shell, vm_id)
    code, out, err = shell.run("token", "revoke", "a", "nobody", "a")
    assert (code, out) == (1, "revoked a\n")
    assert "nobody: no such VM that enrolled" in err
    assert (refused(shell, "a", 1), refused(shell, "b", 1)) == ("revoked", None)


@pytest.mark.parametrize("words", [("*",), ("a", "--all"), ("*", "a", "--all"), ("A",), ("../x",)])
def test_revoking_in_doubt_is_exit_2(shell: Shell, words: tuple[str, ...]) -> None:
    """`--vm '*'` without `--all` exit 2: nothing is revoked."""
    enrolled(shell, "a")
    code, out, err = shell.run("token", "revoke", *words)
    assert (code, out) == (2, "")
    assert "token revoke" in err
    assert refused(shell, "a", 1) is None


def test_every_vm_can_be_revoked(shell: Shell) -> None:
    """`'*' --all` is all that enrolled; what a CSV alone knows is no failure."""
    for vm_id in ("a", "b"):
        enrolled(shell, vm_id)
    shell.add("c")
    assert shell.run("token", "revoke", "*", "--all") == (0, "revoked a\nrevoked b\n", "")


# Waiting


def test_what_waits_is_shown_with_its_evidence(shell: Shell) -> None:
    """Who asks, from where, with which MACs, and why it waits."""
    enrolled(shell, "a")
    ask(shell, "a", "52:54:00:00:00:02")
    (wait,) = printed(shell, "token", "pending")
    assert (wait["vm"], wait["state"], wait["evidence"]["peer"]) == ("a", "waiting", "10.0.0.9")
    line = shell.run("token", "pending")[1].splitlines()[1]
    for text in ("a", wait["request"], "10.0.0.9", "web", "52:54:00:00:00:02", "MACs that this id enrolled with"):
        assert text in line


def test_an_approved_machine_gets_in_and_another_does_not(shell: Shell) -> None:
    """The approval is for the machine that was shown, once."""
    enrolled(shell, "a")
    token = shell.run("token", "mint", "--uses", "9")[1].strip()
    ask(shell, "a", "52:54:00:00:00:02", token)
    code, out, _ = shell.run("token", "approve", "a")
    assert (code, out.startswith("approved a ")) == (0, True)
    ask(shell, "a", "52:54:00:00:00:03", token)
    request = Enrolment(join_token=token, vm="a", hostname="web", macs=("52:54:00:00:00:02",))
    assert shell.with_catalogue(lambda catalogue: catalogue.enroll(request, now_s=NOW_S + 2e4)) == 2
    assert [wait["state"] for wait in printed(shell, "token", "pending")] == ["waiting"]
    assert printed(shell, "token", "list")[0]["uses_left"] == 8


def test_of_several_machines_one_must_be_named(shell: Shell) -> None:
    """Two machines that ask for one id: without --request nothing is decided, exit 1, and both are named."""
    enrolled(shell, "a")
    for mac in ("52:54:00:00:00:02", "52:54:00:00:00:03"):
        ask(shell, "a", mac)
    requests = [wait["request"] for wait in printed(shell, "token", "pending")]
    code, out, err = shell.run("token", "approve", "a")
    assert (code, out) == (1, "")
    assert all(request in err for request in requests)
    assert shell.run("token", "approve", "a", "--request", requests[1])[0] == 0
    assert shell.run("token", "refuse", "a", "--request", requests[0])[0] == 0
    states = {wait["request"]: wait["state"] for wait in printed(shell, "token", "pending")}
    assert states == {requests[0]: "refused", requests[1]: "approved"}


def test_a_refused_machine_stays_out_until_told_otherwise(shell: Shell) -> None:
    """It is 403 at every try; `--again` lets it wait anew, `approve` lets it in."""
    enrolled(shell, "a")
    token = shell.run("token", "mint", "--uses", "9")[1].strip()
    ask(shell, "a", "52:54:00:00:00:02", token)
    request = Enrolment(join_token=token, vm="a", hostname="web", macs=("52:54:00:00:00:02",))

    def outcome() -> object:
        try:
            return shell.with_catalogue(lambda catalogue: catalogue.enroll(request, now_s=NOW_S + 2e4))
        except Refused as error:
            return error.problem.reason

    assert shell.run("token", "refuse", "a")[0] == 0
    assert [outcome(), outcome()] == ["enrolment-refused"] * 2
    assert shell.run("token", "refuse", "a", "--again")[0] == 0
    assert outcome() == "enrolment-waits"
    assert shell.run("token", "refuse", "a")[0] == 0
    shell.with_catalogue(lambda catalogue: catalogue.decide("a", State.APPROVED, by="me", now_s=NOW_S + 2e4))
    assert outcome() == 2


@pytest.mark.parametrize("words", [("approve", "a"), ("refuse", "a"), ("refuse", "a", "--again")])
def test_deciding_on_nobody_is_exit_1(shell: Shell, words: tuple[str, ...]) -> None:
    """A mistyped id is told, and nothing is noted."""
    enrolled(shell, "a")
    code, out, err = shell.run("token", *words)
    assert (code, out) == (1, "")
    assert "a: no request to enrol" in err


# Keys


def test_keys_are_changed_one_after_the_other(shell: Shell) -> None:
    """A new first line, mode 0600, signs once the others know it; a third is refused; the last one stays."""
    path = shell.data_dir / KEY_FILE_NAME
    before = TokenKeys.load_or_create(path).make("a", 1)
    path.chmod(0o600)
    assert shell.run("token", "new-key") == (0, "k2\n", "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert printed(shell, "token", "keys") == [{"kid": "k2", "role": "signs soon"}, {"kid": "k1", "role": "signs"}]
    code, _, err = shell.run("token", "new-key")
    assert (code, "drop one first" in err) == (2, True)
    keys = TokenKeys.load_or_create(path)
    assert (keys.verify("a", before.encode()), keys.signs_with) == (1, "k2")
    assert shell.run("token", "drop-key", "k1") == (0, "", "")
    assert TokenKeys.load_or_create(path).verify("a", before.encode()) is None
    code, _, err = shell.run("token", "drop-key", "k2")
    assert (code, "the only key" in err) == (2, True)
    code, _, err = shell.run("token", "drop-key", "k7")
    assert (code, "holds no key k7" in err) == (2, True)
    assert printed(shell, "token", "keys") == [{"kid": "k2", "role": "signs"}]


def test_no_command_shows_a_key(shell: Shell) -> None:
    """What is listed and what is complained of never holds the text of a key."""
    path = shell.data_dir / KEY_FILE_NAME
    TokenKeys.load_or_create(path)
    key = path.read_text().strip().partition(":")[2]
    said = "".join(
        "".join(map(str, shell.run("token", *words))) for words in (("keys",), ("new-key",), ("drop-key", "k9"))
    )
    path.write_text(f"k1:{key}zz\n")
    said += "".join(map(str, shell.run("token", "keys")))
    assert "line 1" in said
    assert key not in said


# All of them

COMMANDS = (
    *(("token", name) for name in ("mint", "list", "revoke-join", "revoke", "pending", "approve", "refuse")),
    *(("token", name) for name in ("keys", "new-key", "drop-key")),
    *(("inventory", name) for name in ("import", "list")),
    ("join-token",),
)
ARGUMENTS = {
    "revoke-join": ["1"],
    "revoke": ["a"],
    "approve": ["a"],
    "refuse": ["a"],
    "drop-key": ["k1"],
    "import": ["x"],
}


@pytest.mark.parametrize("words", COMMANDS)
def test_help_has_an_example(shell: Shell, words: tuple[str, ...]) -> None:
    """Every command explains itself with a line that can be typed."""
    code, out, _ = shell.run(*words, "--help", data=False)
    assert code == 0
    assert f"\n  fallow-aggregator {' '.join(words)}" in out


@pytest.mark.parametrize("words", COMMANDS)
def test_a_data_directory_that_is_absent_is_exit_2(shell: Shell, words: tuple[str, ...]) -> None:
    """It is named, and never made."""
    shell.data_dir /= "nowhere"
    code, out, err = shell.run(*words, *ARGUMENTS.get(words[-1], []))
    assert (code, out) == (2, "")
    assert f"--data: {shell.data_dir} is not a directory" in err
    assert not shell.data_dir.exists()


@pytest.mark.parametrize(
    "words", [words for words in COMMANDS if words[-1] not in {"keys", "new-key", "drop-key", "import"}]
)
def test_a_database_that_does_not_answer_is_exit_69(shell: Shell, words: tuple[str, ...]) -> None:
    """A server that takes no connection is the other side, unreachable."""
    pytest.importorskip("psycopg")
    url = "postgresql+psycopg://127.0.0.1:1/fallow"
    code, out, err = shell.run(*words, *ARGUMENTS.get(words[-1], []), "--fleet-url", url)
    assert (code, out) == (69, "")
    assert "does not answer" in err
