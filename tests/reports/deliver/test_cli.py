"""`fallow-report schedule` as it is called."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.fleet_db import open_fleet
from reports.deliver import cli
from reports.deliver.document import Document, Form, MakeDocument
from reports.deliver.runner import Runner
from reports.deliver.runs import Deliveries, report_key
from reports.deliver.targets import DirectoryTarget, Plan, WebhookTarget
from tests.reports.deliver.values import DUE_S, document, mail_target, plan, table

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A fleet database, and an empty directory `reports` beside it."""
    (tmp_path / "reports").mkdir()
    with table(tmp_path):
        yield tmp_path


def plans(folder: Path) -> list[Plan]:
    archive = DirectoryTarget(path=folder / "reports", forms=(Form.CSV,), keep=3)
    return [plan("weekly", "0 7 * * 1", mail_target()), plan("archive", "30 6 * * *", archive)]


def schedule(
    folder: Path,
    *words: str,
    serve: Callable[[Sequence[Plan], Runner, tzinfo], bool] | None = None,
    configured: Sequence[Plan] | None = None,
    zone: tzinfo = BERLIN,
    width: int | None = None,
    config: str | None = "report.toml",
    make: MakeDocument = document,
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one call."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    cli.add_options(parser)
    out, err = io.StringIO(), io.StringIO()
    code = cli.run(
        parser.parse_args([*(["--config", config] if config else []), *words]),
        plans(folder) if configured is None else configured,
        zone=zone,
        open_engine=lambda: open_fleet(None, folder),
        make_document=make,
        serve=serve or (lambda *_: pytest.fail("it was served")),
        clock=lambda: DUE_S,
        out=out,
        err=err,
        width=width,
    )
    return code, out.getvalue(), err.getvalue()


def failed(folder: Path) -> None:
    """Yesterday's `archive` failed for good, this Monday's `weekly` waits for its second try."""
    engine = open_fleet(None, folder)
    deliveries = Deliveries(engine)
    for name, due_s, retry in (("archive", DUE_S - 5400, False), ("weekly", DUE_S - 30, True)):
        run = deliveries.begin(name, "x", "y", due_s, report_key(due_s), now_s=due_s)
        assert run is not None
        deliveries.record_failure(run, "no room\x1b[2J left", retry=retry, now_s=due_s + 1)
    engine.dispose()


def test_a_list_and_a_delivery_are_two_wishes() -> None:
    """argparse ends it with 2."""
    parser = argparse.ArgumentParser()
    cli.add_options(parser)
    with pytest.raises(SystemExit) as raised:
        parser.parse_args(["--list", "--once", "weekly"])
    assert raised.value.code == 2


@pytest.mark.parametrize(
    ("words", "configured", "problem"),
    [
        (["--once", "monthly"], None, r"--once: 'monthly' is not a delivery \(weekly, archive\)"),
        (["--once", "monthly"], [], "'monthly' is not a delivery .none is configured"),
        (["--json"], None, "--json goes with --list"),
        ([], [], r"report\.toml: report\.deliveries: is missing"),
    ],
)
def test_what_cannot_be_done_is_a_mistake_of_the_settings(
    tmp_path: Path, words: list[str], configured: list[Plan] | None, problem: str
) -> None:
    """Found before the database is opened."""
    with pytest.raises(ConfigError, match=problem):
        schedule(tmp_path / "absent", *words, configured=configured)


def test_the_service_is_given_what_it_serves(folder: Path) -> None:
    """All deliveries, the zone, and a runner that delivers; one line says what comes next."""
    served: list[tuple[list[str], tzinfo]] = []

    def serve(given: Sequence[Plan], runner: Runner, zone: tzinfo) -> bool:
        served.append(([one.name for one in given], zone))
        assert runner.once(given[1]).subject == document().headline
        return True

    code, out, err = schedule(folder, serve=serve)
    assert (code, out) == (0, "")
    assert served == [(["weekly", "archive"], BERLIN)]
    assert err.splitlines() == [
        "fallow-report: 2 deliveries, the next is archive, 2026-11-22 06:30 CET",
        f"fallow-report: archive: sent to {folder / 'reports'} (due 2026-11-21T07:00:00Z, try 1)",
    ]


def test_a_try_that_was_cut_off_is_told(folder: Path) -> None:
    """Whoever stopped the service knows that something is still to come; that is no failure."""
    code, _, err = schedule(folder, serve=lambda *_: False)
    assert code == 0
    assert err.splitlines()[-1] == "fallow-report: a delivery was cut off; it is tried again after the next start"


def test_one_can_be_delivered_at_once(folder: Path) -> None:
    """Whatever the time; 0 when it arrived."""
    code, out, err = schedule(folder, "--once", "archive")
    assert (code, out) == (0, "")
    assert err.startswith("fallow-report: archive: sent to ")
    assert [path.name for path in (folder / "reports").iterdir()] == ["fallow-2026-11-21T070000Z.csv"]


def test_one_that_fails_ends_with_1(folder: Path) -> None:
    """With the problem on stderr."""
    (folder / "reports").rmdir()
    code, out, err = schedule(folder, "--once", "archive")
    assert (code, out) == (1, "")
    assert err.endswith("No such file or directory; given up\n")


def hooked(folder: Path) -> list[Plan]:
    """Those of `plans`, and one whose secret is absent."""
    hook = WebhookTarget(url="https://x.example.org/", secret_file=folder / "gone", form=Form.JSON)
    return [*plans(folder), plan("chat", "0 7 * * 1", hook)]


@pytest.mark.parametrize("words", [[], ["--once", "chat"]])
def test_a_secret_that_cannot_be_used_is_a_mistake_of_the_settings(folder: Path, words: list[str]) -> None:
    """Of the service, and of the delivery that is asked for: nothing is begun."""
    with pytest.raises(ConfigError, match=r"report\.toml: delivery chat: webhook\.secret_file: .*gone: No such file"):
        schedule(folder, *words, configured=hooked(folder))


@pytest.mark.parametrize("words", [["--list"], ["--once", "archive"]])
def test_secrets_that_are_not_needed_are_not_read(folder: Path, words: list[str]) -> None:
    """A list, and another delivery, go on without."""
    assert schedule(folder, *words, configured=hooked(folder))[0] == 0


def test_the_service_begins_without_a_directory(folder: Path) -> None:
    """It may be mounted later: a line says so, and the service serves."""
    (folder / "reports").rmdir()
    code, _, err = schedule(folder, serve=lambda *_: True)
    assert code == 0
    assert err.splitlines()[0] == (
        f"fallow-report: archive: {folder / 'reports'} is not a directory: until it is, the delivery fails"
    )


def test_one_that_is_interrupted_ends_with_1(folder: Path) -> None:
    """Control-C is told and recorded, without a traceback."""

    def interrupt(_now_s: float, _since_s: float | None) -> Document:
        raise KeyboardInterrupt

    code, out, err = schedule(folder, "--once", "archive", make=interrupt)
    assert (code, out) == (1, "")
    assert err.endswith("interrupted; given up\n")


def test_without_settings_nothing_is_known(folder: Path) -> None:
    """Deliveries stand in a file alone."""
    with pytest.raises(ConfigError, match="--config FILE is missing"):
        schedule(folder, "--list", config=None)


def test_the_list_for_people(folder: Path) -> None:
    """Each delivery with its next time in the zone and what became of the last; nothing moves the cursor."""
    failed(folder)
    code, out, err = schedule(folder, "--list")
    assert (code, err) == (0, "")
    header, weekly, archive = out.splitlines()
    assert header.split() == ["name", "kind", "target", "cron", "next", "last", "result"]
    assert "2026-11-23 07:00 CET" in weekly
    assert "ops@example.org, boss@example.org by 127.0.0.1:25" in weekly
    assert weekly.endswith("pending (try 1), next try 2026-11-21 08:00 CET: no room�[2J left")
    assert "2026-11-22 06:30 CET" in archive
    assert archive.endswith("failed 2026-11-21 06:30 CET: no room�[2J left")


def test_the_list_fits_a_terminal(folder: Path) -> None:
    """Cells are folded, nothing is lost."""
    failed(folder)
    _, out, _ = schedule(folder, "--list", width=80)
    assert max(map(len, out.splitlines())) <= 80
    assert "archive" in out


def test_the_list_for_programs(folder: Path) -> None:
    """The same as JSON, with the newest runs of all names."""
    failed(folder)
    code, out, _ = schedule(folder, "--list", "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["timezone"] == "Europe/Berlin"
    weekly, archive = answer["deliveries"]
    assert (weekly["name"], weekly["kind"], weekly["cron"]) == ("weekly", "mail", "0 7 * * 1")
    assert (weekly["next"], weekly["next_s"]) == ("2026-11-23T07:00:00+01:00", DUE_S + 2 * 86_400 - 3600)
    assert weekly["last"]["state"] == "pending"
    assert weekly["last"]["next_attempt_s"] == DUE_S + 31
    assert archive["last"]["problem"] == "no room\x1b[2J left"
    assert archive["last"]["finished_s"] == DUE_S - 5399
    assert [run["name"] for run in answer["recent"]] == ["weekly", "archive"]


def test_lists_of_nothing(folder: Path) -> None:
    """No deliveries, or none that ran yet, is no error."""
    assert schedule(folder, "--list", configured=[]) == (0, "No deliveries are configured.\n", "")
    _, out, _ = schedule(folder, "--list", zone=UTC)
    assert all(line.endswith(" -") for line in out.splitlines()[1:])
    assert "2026-11-23 07:00 UTC" in out


def test_a_database_that_is_away_is_the_callers_to_tell(tmp_path: Path) -> None:
    """The error comes through as it is, and nothing stays open."""
    with pytest.raises(sa.exc.OperationalError):
        schedule(tmp_path, "--list", configured=[plan()])
