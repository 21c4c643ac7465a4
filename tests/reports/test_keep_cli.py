"""`fallow-report keep` as it is called."""

from __future__ import annotations

import argparse
import io
import json
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.fleet import vm
from aggregator.fleet_db import migrate, open_fleet
from reports.config import ReportConfig
from reports.keep_cli import add_options, run

NOW_S = datetime(2026, 11, 20, 3, tzinfo=UTC).timestamp()
DAY_S = 86_400
KEEP = ("--until", "30d", "--reason", "audit", "--owner", "ann")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A fleet of three VMs, two of which share a name."""
    engine = open_fleet(None, tmp_path)
    migrate(engine)
    with engine.begin() as connection:
        for vm_id, name, tags in (("vm-a", "web", "[]"), ("vm-b", "db", '["production"]'), ("vm-c", "db", "[]")):
            connection.execute(sa.insert(vm).values(vm_id=vm_id, name=name, tags=tags))
    engine.dispose()
    return tmp_path


@dataclass(frozen=True)
class Shell:
    """Calls the command on one data directory at one time."""

    data_dir: Path
    now_s: float = NOW_S
    zone: tzinfo = UTC
    whoami: Callable[[], str] = lambda: "root"

    def __call__(self, *words: str, **changes: Any) -> str:
        """What it prints; it must succeed."""
        code, out, err = self.result(*words, **changes)
        assert (code, err) == (0, "")
        return out

    def result(self, *words: str, **changes: Any) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser("fallow-report keep")
        add_options(parser)
        out, err = io.StringIO(), io.StringIO()
        code = run(
            parser.parse_args(words),
            ReportConfig(data_dir=self.data_dir),
            clock=lambda: self.now_s,
            zone=self.zone,
            out=out,
            err=err,
            whoami=self.whoami,
            **changes,
        )
        return code, out.getvalue(), err.getvalue()

    def listed(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self("list", "--json", *words))["exemptions"]
        return found

    def problems(self, *words: str) -> list[str]:
        """What is wrong with the options, of which none may be done."""
        with pytest.raises(ConfigError) as caught:
            self.result(*words)
        return caught.value.problems


@pytest.fixture
def keep(data_dir: Path) -> Shell:
    return Shell(data_dir)


def test_a_vm_is_kept_listed_renewed_and_ended(keep: Shell) -> None:
    """The whole life of one: each command says what it did, and the list shows it."""
    said = keep("vm-a", *KEEP)
    (one,) = keep.listed()
    assert said == f"kept {one['id']}: vm-a, until 2026-12-20 03:00 UTC\n"
    assert (one["kind"], one["subject"], one["owner"], one["reason"]) == ("vm", "vm-a", "ann", "audit")
    assert (one["created_s"], one["until_s"], one["state"]) == (NOW_S, NOW_S + 30 * DAY_S, "in force")
    assert keep("renew", one["id"], "--until", "60d") == f"renewed {one['id']}: vm-a, until 2027-01-19 03:00 UTC\n"
    assert keep.listed()[0]["until_s"] == NOW_S + 60 * DAY_S
    assert keep("end", one["id"]) == f"ended {one['id']}: vm-a\n"
    assert keep.listed() == []
    (ended,) = keep.listed("--all")
    assert (ended["state"], ended["ended_s"], ended["ended_by"]) == ("ended", NOW_S, "root")


@pytest.mark.parametrize("order", ["words first", "options first"])
def test_a_vm_goes_by_its_name_too(keep: Shell, order: str) -> None:
    """A name that one VM has is that VM, wherever it stands; keeping it again renews."""
    words = ("web", *KEEP) if order == "words first" else (*KEEP, "web")
    assert keep(*words).startswith("kept ")
    assert keep(*words).startswith("renewed ")
    assert [one["subject"] for one in keep.listed()] == ["vm-a"]
    keep("renew", "web", "--until", "90d")
    keep("end", "web", "--by", "bob")
    assert [one["ended_by"] for one in keep.listed("--all")] == ["bob"]


@pytest.mark.parametrize(("option", "kind"), [("--tag", "tag"), ("--name", "name")])
def test_tags_and_names_are_kept(keep: Shell, option: str, kind: str) -> None:
    """The sentence says which kind it is; that no VM fits yet is told as well."""
    code, out, err = keep.result(option, "build-*", *KEEP)
    assert (code, err) == (0, f"fallow-report: keep: no VM fits {kind} build-* now\n")
    assert f": {kind} build-*, until" in out
    assert out.endswith(" (0 VMs now)\n")
    assert [(one["kind"], one["subject"]) for one in keep.listed()] == [(kind, "build-*")]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("vm-x", *KEEP), "vm-x: no such VM"),
        (("db", *KEEP), "db: is the name of 2 VMs (vm-b, vm-c): say which by its id"),
        (("renew", "vm-a", "--until", "1d"), "vm-a: has no exemption of its own"),
        (("end", "0badc0de"), "0badc0de: no such VM"),
        (("end", "bad\x1b[31m"), "bad\N{REPLACEMENT CHARACTER}[31m: no such VM"),
    ],
)
def test_what_is_not_there_is_a_failure(keep: Shell, words: tuple[str, ...], problem: str) -> None:
    """Exit code 1, one line on stderr that cannot move the cursor, and nothing is kept."""
    assert keep.result(*words) == (1, "", f"fallow-report: keep: {problem}\n")
    assert keep.listed("--all") == []


def test_an_unknown_vm_is_kept_by_who_means_it(keep: Shell) -> None:
    """--allow-unknown takes an id that is to come, and still finds a known VM by its name."""
    keep("vm-x", "--allow-unknown", *KEEP)
    keep("web", "--allow-unknown", *KEEP)
    assert sorted(one["subject"] for one in keep.listed()) == ["vm-a", "vm-x"]
    assert keep.problems("Not an id", "--allow-unknown", *KEEP) == ["keep: vm: 'Not an id' is not a VM id"]


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (("vm-a",), ["keep: needs --until", "keep: needs --reason", "keep: needs --owner"]),
        (KEEP, ["keep: needs a VM, --tag or --name, and one alone"]),
        (("vm-a", "vm-b", *KEEP), ["keep: needs a VM, --tag or --name, and one alone"]),
        (("vm-a", "--tag", "x", *KEEP), ["keep: takes no 'vm-a'"]),
        (("vm-a", "--json", "--all", *KEEP), ["keep: takes no --all", "keep: takes no --json"]),
        (("list", "vm-a", "--until", "1d"), ["keep list: takes no --until", "keep list: takes no 'vm-a'"]),
        (("renew", "--until", "1d"), ["keep renew: needs an id or a VM, and one alone"]),
        (("renew", "vm-a"), ["keep renew: needs --until"]),
        (("end", "vm-a", "--until", "1d"), ["keep end: takes no --until"]),
        (("vm-a", *KEEP[2:], "--until", "soon"), ["keep: --until: 'soon' is not a date (2026-12-31), a time"]),
        (("vm-a", *KEEP[2:], "--until", "2026-11-19"), ["keep: until: 2026-11-19 23:59 UTC is past"]),
        (("vm-a", *KEEP[2:], "--until", "2062-11-19"), ["keep: until: 2062-11-19 23:59 UTC is more than ten years"]),
        (("vm-a", *KEEP, "--reason", " "), ["keep: reason: is empty"]),
        (("vm-a", *KEEP, "--owner", ""), ["keep: owner: is empty"]),
    ],
)
def test_options_that_cannot_be_done_are_named(keep: Shell, words: tuple[str, ...], problems: list[str]) -> None:
    """All that is wrong at once, as a mistake of usage; nothing is kept."""
    found = keep.problems(*words)
    assert len(found) == len(problems)
    assert all(said.startswith(problem) for said, problem in zip(found, problems, strict=True))
    assert keep.listed("--all") == []


def test_mistakes_in_options_touch_no_database(data_dir: Path) -> None:
    """What cannot be done is refused before the report's tables are made."""
    Shell(data_dir).problems("vm-a", *KEEP[2:], "--until", "soon")
    connection = sqlite3.connect(data_dir / "fleet.db")
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert "exemption" not in names


def test_a_day_ends_where_the_report_is_read(data_dir: Path) -> None:
    """A date is a day of the zone handed in, up to its last second."""
    keep = Shell(data_dir, zone=ZoneInfo("Europe/Berlin"))
    keep("vm-a", "--until", "2026-12-31", *KEEP[2:])
    keep("vm-b", "--until", "2026-12-31T18:00", *KEEP[2:])
    keep("vm-c", "--until", "2026-12-31T18:00Z", *KEEP[2:])
    untils = {one["subject"]: datetime.fromtimestamp(one["until_s"], UTC) for one in keep.listed()}
    assert untils == {
        "vm-a": datetime(2026, 12, 31, 22, 59, 59, tzinfo=UTC),
        "vm-b": datetime(2026, 12, 31, 17, tzinfo=UTC),
        "vm-c": datetime(2026, 12, 31, 18, tzinfo=UTC),
    }


def line_of(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


def test_the_list_shows_what_is_kept_and_how_long(data_dir: Path) -> None:
    """The next to expire first; with --all then what was ended or has expired, and by whom."""
    keep = Shell(data_dir)
    keep("vm-a", *KEEP)
    keep("--tag", "production", "--until", "5d", "--reason", "people decide", "--owner", "ops team")
    keep("vm-b", "--until", "2h", *KEEP[2:])
    keep("vm-c", *KEEP)
    keep("end", "vm-c")
    later = replace(keep, now_s=NOW_S + DAY_S)
    short = later("list")
    assert [line.split()[1] for line in short.splitlines()] == ["keeps", "tag", "vm-a"]
    tagged = line_of(short, "production")
    assert tagged.split("  ")[1:] == ["tag production", "ops team", "people decide", "2026-11-25 03:00 UTC", "4 d"]
    everything = later("list", "--all")
    assert line_of(everything, "vm-b").endswith("expired 22 h ago")
    assert line_of(everything, "vm-c").endswith("ended 2026-11-20 03:00 UTC by root")
    states = [one["state"] for one in later.listed("--all")]
    assert sorted(states[:2]) == ["in force", "in force"]
    assert sorted(states[2:]) == ["ended", "expired"]


@pytest.mark.parametrize(
    ("option", "subject", "count"),
    [("--tag", "production", "1 VM"), ("--name", "D*", "2 VMs"), ("--name", "*", "3 VMs")],
)
def test_how_many_vms_are_kept_is_said(keep: Shell, option: str, subject: str, count: str) -> None:
    """As many as fit now, also when it is kept again."""
    for done in ("kept", "renewed"):
        said = keep(option, subject, *KEEP)
        assert said.startswith(done)
        assert said.endswith(f", until 2026-12-20 03:00 UTC ({count} now)\n")


def test_columns_are_level(keep: Shell) -> None:
    """Every cell of a column begins where its header does."""
    keep("vm-a", *KEEP)
    keep.result("--name", "a-long-pattern-*", "--until", "3d", "--reason", "releases", "--owner", "o")
    header, *rows = keep("list").splitlines()
    for word, cells in (("keeps", ["name a-long", "vm-a"]), ("owner", ["o ", "ann"]), ("left", ["3 d", "30 d"])):
        assert [row[header.index(word) :][: len(cell)] for row, cell in zip(rows, cells, strict=True)] == cells


def test_a_narrow_terminal_cuts_nothing(keep: Shell) -> None:
    """Lines stay within the width, and ids and subjects are all there."""
    keep.result("--name", "x" * 100, "--until", "3d", "--reason", "releases " * 10, "--owner", "the team")
    text = keep("list", width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.count("x") == 100
    assert "\x1b" not in text


def test_what_people_wrote_cannot_colour_a_terminal(keep: Shell, data_dir: Path) -> None:
    """Even where something else than this program wrote the row, and rich's own markup is plain text."""
    keep("vm-a", "--until", "3d", "--reason", "[red]audit[/red]", "--owner", "ann")
    connection = sqlite3.connect(data_dir / "fleet.db")
    connection.execute("UPDATE exemption SET owner = 'ann' || char(27) || '[31m', subject = 'vm' || char(10) || 'b'")
    connection.commit()
    connection.close()
    text = keep("list", "--all")
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2
    assert "[red]audit[/red]" in text
    assert "ann\N{REPLACEMENT CHARACTER}[31m" in text


def test_without_exemptions_the_list_says_so(keep: Shell) -> None:
    """On a database that the report has never written to, too; as JSON the list is empty."""
    assert keep("list") == "No exemption is in force.\n"
    assert keep("list", "--all") == "There has been no exemption yet.\n"
    assert json.loads(keep("list", "--json")) == {
        "generated_at_s": NOW_S,
        "generated_at": "2026-11-20T03:00:00Z",
        "exemptions": [],
    }


def test_listing_writes_nothing(keep: Shell) -> None:
    """The list opens the database for reading: it works where the tables are not there, and makes none."""

    def open_to_write(_url: str | None, _data: Path) -> sa.Engine:
        raise AssertionError("opened to write")

    assert keep("list", open_to_write=open_to_write) == "No exemption is in force.\n"


@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("no user")])
def test_a_user_without_a_name_may_end_one(data_dir: Path, error: Exception) -> None:
    """Who ended it is then not known, and no traceback tells that."""

    def whoami() -> str:
        raise error

    keep = Shell(data_dir, whoami=whoami)
    keep("vm-a", *KEEP)
    keep("end", "vm-a")
    assert keep.listed("--all")[0]["ended_by"] is None


def test_no_fleet_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    """The error of the opening reaches the caller, and nothing is made in the folder."""
    with pytest.raises(ConfigError, match="there is no fleet database"):
        Shell(tmp_path).result("vm-a", *KEEP)
    assert list(tmp_path.iterdir()) == []


def test_help_shows_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    """The usage names the program as it was called, and the examples are those of its forms."""
    parser = argparse.ArgumentParser("prog keep")
    add_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    for form in ("VM --until", "(--tag TAG", "list [--all]", "renew ID|VM", "end ID|VM"):
        assert f"prog keep {form}" in text
    assert "fallow-report keep list --all" in text


def test_examples_can_be_called(keep: Shell) -> None:
    """Every example of --help is a command that the options allow."""
    parser = argparse.ArgumentParser("fallow-report keep")
    add_options(parser)
    assert parser.epilog is not None
    for line in parser.epilog.splitlines()[1:]:
        words = shlex.split(line)[2:]
        try:
            code, _, err = keep.result(*words)
        except ConfigError as error:
            pytest.fail(f"{line}: {error}")
        assert code == 0 or "no such VM" in err


@pytest.mark.real
def test_options_come_without_anything_heavy() -> None:
    """The command line is read without SQLAlchemy and rich."""
    code = "import sys, reports.keep_cli; print(*{'sqlalchemy', 'rich', 'twisted', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b""
