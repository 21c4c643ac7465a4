"""`fallow-report user`: what it does, what it prints, and how it ends."""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.settings import ConfigError
from reports.__main__ import main
from reports.commands import COMMANDS, Command, Surroundings
from reports.config import ReportConfig
from reports.people import user_cli
from reports.people.gate import open_gate
from reports.people.roles import Role
from reports.schema import open_report_db
from tests.reports.fleets import write_fleet
from tests.reports.people.persons import PASSWORD

DONE, FAILED, USAGE = 0, 1, 2
NOW_S = 1_800_000_000.0


class Shell:
    """Runs commands over one fleet. `typed`: what a person types at prompts; None: nobody sits there."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.typed: list[str] | None = None
        self.stdin = ""
        self.now_s = NOW_S
        self.out = self.err = ""

    def __call__(self, *argv: str) -> int:
        out, err = io.StringIO(), io.StringIO()

        def run(options: argparse.Namespace, config: ReportConfig, around: Surroundings) -> int:
            prompt: Callable[[str], str] | None = None
            if self.typed is not None:
                typed = iter(self.typed)

                def ask(_asked: str) -> str:
                    try:
                        return next(typed)
                    except StopIteration:
                        raise EOFError from None

                prompt = ask
            terminal = user_cli.Terminal(
                out=out, err=err, inp=io.StringIO(self.stdin), prompt=prompt, whoami=lambda: "root"
            )
            return user_cli.run(options, config, terminal, clock=lambda: self.now_s)

        commands: dict[str, Command] = {**COMMANDS, "user": replace(COMMANDS["user"], run=run)}
        arguments = ["user", *argv, "--data", str(self.data_dir)]
        try:
            return main(arguments, clock=lambda: self.now_s, environ={}, out=out, err=err, commands=commands)
        finally:
            self.out, self.err = out.getvalue(), err.getvalue()

    def json(self, *argv: str) -> dict[str, list[dict[str, object]]]:
        assert self(*argv, "--json") == DONE
        found: dict[str, list[dict[str, object]]] = json.loads(self.out)
        return found


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    write_fleet(tmp_path, [])
    made = Shell(tmp_path)
    made.stdin = f"{PASSWORD}\n"
    return made


def added(shell: Shell, name: str = "ann", role: str = "admin") -> None:
    assert shell("add", name, "--role", role, "--password-file", "-") == DONE, shell.err


def test_account_is_added_by_every_way_of_a_password(shell: Shell, tmp_path: Path) -> None:
    """Typed twice, from stdin, from a file of its owner's; or none at all. Each opens what it should."""
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text(f"{PASSWORD}\n")
    added(shell, "ann")
    shell.typed = [PASSWORD, PASSWORD]
    assert shell("add", "Bob", "--role", "viewer") == DONE
    assert shell.out == "added bob as viewer\n"
    assert shell("add", "cleo", "--role", "operator", "--password-file", str(secret)) == DONE
    assert shell("add", "ci", "--role", "approver", "--no-password") == DONE
    listed = shell.json("list")["accounts"]
    assert [(one["name"], one["role"], one["has_password"]) for one in listed] == [
        *(("ann", "admin", True), ("bob", "viewer", True), ("ci", "approver", False), ("cleo", "operator", True))
    ]
    assert {one["created_by"] for one in listed} == {"root (command line)"}
    engine = open_report_db(None, tmp_path)
    gate = open_gate(engine)
    for name, role in (("ann", Role.ADMIN), ("bob", Role.VIEWER), ("cleo", Role.OPERATOR)):
        assert gate.log_in(name, PASSWORD, "192.0.2.1", NOW_S).role is role
    engine.dispose()


@pytest.mark.parametrize(
    ("argv", "typed", "stdin", "why"),
    [
        (("add", "bob", "--role", "boss"), None, "", "viewer, operator, approver, admin"),
        (("add", "no name", "--role", "viewer", "--no-password"), None, "", "is no name for an account"),
        (("add", "bob", "--role", "viewer", "--password-file", "-"), None, "short\n", "5 characters"),
        (("add", "bob", "--role", "viewer", "--password-file", "-"), None, "passwordpassword\n", "tried first"),
        (("add", "a.long.name.it.is", "--role", "viewer"), ["a.long.name.it.is"] * 2, "", "the account's name"),
        (("add", "bob", "--role", "viewer"), ["one that is long", "another"], "", "not the same"),
        (("add", "bob", "--role", "viewer"), None, "", "--password-file"),
        (("add", "bob", "--role", "viewer", "--password-file", "/nowhere"), None, "", "/nowhere"),
        (("role", "ann", "boss"), None, "", "viewer, operator, approver, admin"),
        (("token", "add", "ann", "--label", "x", "--scope", "all"), None, "", "read, write, approve, admin"),
        (("token", "add", "ann", "--label", "x", "--life", "5 parsecs"), None, "", "is not a duration"),
        (("token", "add", "ann", "--label", ""), None, "", "needs a label"),
        (("token", "add", "ann", "--label", "x", "--life", "9999d"), None, "", "five years"),
        (("log", "--last", "0"), None, "", "at least 1"),
        ((), None, "", "COMMAND"),
    ],
)
def test_what_cannot_be_is_usage(
    shell: Shell,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    typed: list[str] | None,
    stdin: str,
    why: str,
) -> None:
    """Exit code 2, and what is wrong; nothing is changed, and no password is repeated."""
    added(shell)
    shell.typed, shell.stdin = typed, stdin
    try:
        code = shell(*argv)
    except SystemExit as ended:
        code = int(str(ended.code))
    said = shell.err + capsys.readouterr().err
    assert code == USAGE
    assert why in said
    assert "short\n" not in said
    assert "passwordpassword" not in said
    shell.stdin = f"{PASSWORD}\n"
    assert [one["name"] for one in shell.json("list")["accounts"]] == ["ann"]


def test_open_password_file_is_refused(shell: Shell, tmp_path: Path) -> None:
    """A file that others may read holds no secret."""
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    assert shell("add", "bob", "--role", "viewer", "--password-file", str(secret)) == USAGE
    assert str(secret) in shell.err


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("add", "ann", "--role", "viewer", "--no-password"), "ann: there is such an account already"),
        (("role", "bob", "admin"), "bob: no such account"),
        (("role", "ann", "approver"), "ann: is the last admin"),
        (("disable", "ann"), "ann: is the last admin"),
        (("enable", "bob"), "bob: no such account"),
        (("password", "bob", "--password-file", "-"), "bob: no such account"),
        (("link", "bob"), "bob: no such account"),
        (("token", "add", "bob", "--label", "x"), "bob: no such account"),
        (("token", "add", "viewer", "--label", "x", "--scope", "write"), "viewer: is viewer"),
        (("token", "list", "bob"), "bob: no such account"),
        (("token", "revoke", "00000000"), "00000000: no such token"),
    ],
)
def test_what_is_not_so_fails(shell: Shell, argv: tuple[str, ...], why: str) -> None:
    """Exit code 1, and whom or what it is about."""
    added(shell)
    added(shell, "viewer", "viewer")
    assert shell(*argv) == FAILED
    assert shell.err.startswith(f"fallow-report: user: {why}")
    assert shell.out == ""


def test_account_lives(shell: Shell) -> None:
    """Another role, another password, a link, out, and in again; the record tells all of it, the newest first."""
    added(shell)
    added(shell, "bob", "viewer")
    assert shell("role", "bob", "operator") == DONE
    shell.stdin = "another that is long\n"
    assert shell("password", "bob", "--password-file", "-") == DONE
    assert shell("link", "bob", "--url", "https://fallow.example.org/") == DONE
    assert re.fullmatch(r"https://fallow\.example\.org/password/[A-Za-z0-9_-]{43}\n", shell.out)
    assert shell("disable", "bob") == DONE
    assert shell.json("list")["accounts"][1]["enabled"] is False
    assert shell("list") == DONE
    assert "disabled" in shell.out
    assert shell("enable", "bob") == DONE
    events = shell.json("log", "--last", "5")["events"]
    assert [event["what"] for event in events] == [
        *("enabled", "disabled", "password link made", "password changed", "role changed")
    ]
    assert {(event["who"], event["address"]) for event in events} == {("root (command line)", "")}
    assert shell("log", "--account", "bob") == DONE
    assert shell.out == "Nothing has happened yet.\n"
    assert shell("log") == DONE
    assert "bob to operator" in shell.out


def test_token_is_printed_once(shell: Shell) -> None:
    """Alone on stdout, so that it goes into a file; lists show all of it but the secret; revoked, it says so."""
    added(shell)
    assert shell("token", "add", "ann", "--label", "nightly export", "--scope", "write", "--life", "30d") == DONE
    assert re.fullmatch(r"fallow_[0-9a-f]{8}_[0-9a-f]{64}\n", shell.out)
    secret = shell.out.strip().rpartition("_")[2]
    (token,) = shell.json("token", "list", "ann")["tokens"]
    assert (token["label"], token["scope"], token["state"]) == ("nightly export", "write", "in force")
    assert token["until_s"] == NOW_S + 30 * 86_400
    assert secret not in shell.out
    assert shell("token", "list") == DONE
    assert "nightly export" in shell.out
    assert shell("token", "revoke", str(token["id"])) == DONE
    assert shell.json("token", "list")["tokens"][0]["state"] == "revoked"
    shell.now_s += 1
    assert shell("token", "add", "ann", "--label", "x", "--json") == DONE
    assert json.loads(shell.out)["token"].startswith("fallow_")
    shell.now_s += 91 * 86_400
    assert [one["state"] for one in shell.json("token", "list")["tokens"]] == ["expired", "revoked"]


def test_empty_lists_say_so(shell: Shell) -> None:
    """And what to do."""
    assert shell("list") == DONE
    assert "no account yet" in shell.out
    assert shell("token", "list") == DONE
    assert shell.out == "There is no token.\n"
    assert shell.json("list") == {"accounts": []}


def test_place_of_the_fleet_may_stand_before_or_after(shell: Shell, tmp_path: Path) -> None:
    """`user --data DIR list` and `user list --data DIR` are the same; of two the later one counts."""
    out = io.StringIO()
    assert main(["user", "--data", str(tmp_path), "list"], environ={}, out=out) == DONE
    assert main(["user", "--data", "/nowhere", "list", "--data", str(tmp_path)], environ={}, out=out) == DONE
    assert main(["user", "list", "--data", "/nowhere"], environ={}, out=out, err=out) == USAGE


@pytest.mark.parametrize("argv", [(), ("add",), ("list",), ("log",), ("token", "add"), ("token", "revoke"), ("link",)])
def test_help_shows_examples(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command shows how it is called."""
    with pytest.raises(SystemExit) as ended:
        main(["user", *argv, "--help"])
    assert ended.value.code == DONE
    assert f"fallow-report user {' '.join(argv)}".rstrip() in capsys.readouterr().out.partition("example")[2]


def test_nobody_without_a_name_is_fine(tmp_path: Path) -> None:
    """In a container the user may have none."""
    write_fleet(tmp_path, [])

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1000")

    out = io.StringIO()
    terminal = user_cli.Terminal(out=out, err=out, inp=io.StringIO(), prompt=None, whoami=nameless)
    parser = argparse.ArgumentParser()
    user_cli.add_options(parser)
    options = parser.parse_args(["add", "ann", "--role", "viewer", "--no-password"])
    config = ReportConfig(data_dir=tmp_path)
    assert user_cli.run(options, config, terminal, clock=lambda: NOW_S) == DONE
    with pytest.raises(ConfigError):
        user_cli.run(parser.parse_args(["password", "ann"]), config, terminal, clock=lambda: NOW_S)


def test_names_may_be_typed_in_capitals(shell: Shell) -> None:
    """An account that was added as Ann is found as Ann, by every command."""
    added(shell, "Ann")
    added(shell, "Bob", "viewer")
    for argv in (
        *(("role", "Bob", "operator"), ("password", " BOB", "--password-file", "-"), ("link", "Bob")),
        *(("disable", "Bob"), ("enable", "Bob"), ("token", "add", "Bob", "--label", "x"), ("token", "list", "Bob")),
    ):
        assert shell(*argv) == DONE, (argv, shell.err)
    assert shell("log", "--account", "Ann", "--json") == DONE


def test_end_of_input_at_a_prompt_is_no_bug(shell: Shell) -> None:
    """Control-D instead of a password."""
    shell.typed = []
    assert shell("add", "ann", "--role", "admin") == USAGE
    assert "no password was typed" in shell.err


@pytest.mark.parametrize("argv", [("role", "\udcff", "viewer"), ("token", "list", "\udcff")])
def test_bytes_that_are_no_text_are_nobody(shell: Shell, argv: tuple[str, ...]) -> None:
    """What a terminal of another alphabet sends is told plainly."""
    assert shell(*argv) == FAILED
    assert "no such account" in shell.err


@pytest.mark.parametrize("url", ["evil", "ftp://host", "https://", "https://host/?a=1", "javascript:alert(1)"])
def test_link_is_made_for_addresses_of_pages(shell: Shell, url: str) -> None:
    """An address that no browser would open makes no link, which would end the one before."""
    added(shell)
    with pytest.raises(SystemExit) as ended:
        shell("link", "ann", "--url", url)
    assert ended.value.code == USAGE
