"""Each line of the rules for bad input has a test that carries its words; those of the command lines are here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import agent.__main__
import aggregator.__main__
import orchestrate.__main__
import reports.__main__
from aggregator.fleet_db import migrate, open_fleet

REPOSITORY = Path(__file__).parents[2]
PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "fallow-agent": agent.__main__.main,
    "fallow-aggregator": aggregator.__main__.main,
    "fallow-report": reports.__main__.main,
    "fallow-orchestrate": orchestrate.__main__.main,
}
DOOR = "tests/aggregator/test_bad_input.py"
HERE = "tests/e2e/test_rows_of_bad_input.py"
CLI = "tests/aggregator/test_cli.py"
INGEST = {
    "no or bad token 401": (DOOR, "test_no_token_401 test_bad_token_401"),
    "token of A with data of B 403": (DOOR, "test_token_of_a_with_data_of_b_403"),
    "revoked 401": (DOOR, "test_revoked_401"),
    "body over 1 MiB, sized or chunked 413": (DOOR, "test_body_over_1_mib_sized_413 test_body_over_1_mib_chunked_413"),
    "gzip bomb 413": (DOOR, "test_gzip_bomb_413"),
    "unknown Content-Encoding or -Type 415": (DOOR, "test_unknown_content_encoding_415 test_unknown_content_type_415"),
    "broken or truncated JSON 400": (DOOR, "test_broken_or_truncated_json_400"),
    "NaN, Infinity, a lone surrogate 400": (DOOR, "test_nan_infinity_400 test_lone_surrogate_400"),
    "duplicate keys": (DOOR, "test_duplicate_keys_last_wins"),
    "nesting 400": (DOOR, "test_nesting_100000_400"),
    "1e400, 5,000 digits, over 2^63 422": (DOOR, "test_1e400_5000_digits_and_2_63_are_422"),
    "bool or string for a number 422": (DOOR, "test_bool_or_string_for_a_number_422"),
    "cpu -1 or a billion % 422": (DOOR, "test_cpu_minus_one_or_a_billion_percent_422"),
    "timestamp ahead or before 2000 422": (DOOR, "test_timestamp_over_24_h_ahead_422 test_timestamp_before_2000_422"),
    "too old in a 200": (DOOR, "test_older_than_raw_retention_is_too_old_in_a_200"),
    "unknown schema version 422": (DOOR, "test_unknown_schema_version_422_naming_those_supported"),
    "more than N samples 413": (DOOR, "test_more_than_n_samples_a_batch_413"),
    "VM ids that are paths or SQL 422": (
        DOOR,
        "test_vm_ids_that_are_paths_or_sql_422 test_vm_ids_that_are_paths_or_sql_in_the_header_422",
    ),
    "broken framing 400": (DOOR, "test_broken_framing_400_and_closed"),
    "headers over 16 KiB 431": (DOOR, "test_headers_over_16_kib_431"),
    "Fallow-VM differs from the body 403": (DOOR, "test_fallow_vm_differs_from_body_403"),
    "wrong method 405": (DOOR, "test_wrong_method_405"),
    "forged PROXY or X-Forwarded-For": (DOOR, "test_forged_proxy_line_400 test_forged_x_forwarded_for_ignored"),
}
COMMAND_LINES = {
    "unknown key exit 2 naming it": (HERE, "test_unknown_key_is_exit_2_naming_it"),
    "interval 0, negative or 5 parsecs": (HERE, "test_interval_0_negative_or_5_parsecs_is_exit_2"),
    "world-readable secret refused": (
        HERE,
        "test_world_readable_secret_is_exit_2 test_world_readable_secret_of_every_reader_is_refused",
    ),
    "world-readable secret of the aggregator": (CLI, "test_a_world_readable_secret_is_2"),
    "driver URL": (HERE, "test_driver_url_file_link_local_or_not_allowed_is_refused"),
    "'*' without --all": (HERE, "test_vm_star_without_all_is_exit_2"),
    "range": (HERE, "test_range_that_ends_before_it_starts_or_spans_100_years_is_exit_2"),
    "a second daemon exit 1": (CLI, "test_a_second_daemon_on_the_same_data_directory_is_1"),
}
SHOWN = {
    "CSV of the report": ("tests/reports/test_render.py", "test_csv_runs_no_formula"),
    "CSV of the comparison": ("tests/reports/test_compare.py", "test_csv_is_a_row_a_policy_and_safe"),
    "<script> on every page": ("tests/reports/web/test_pages.py", "test_evil_names_are_shown_as_text"),
    "<script> in the report as a page and a mail": ("tests/reports/test_html.py", "test_names_are_text"),
    "<script> in the owners' pages": ("tests/orchestrate/owners/test_site.py", "test_names_are_escaped"),
}
ROWS = {**INGEST, **COMMAND_LINES, **SHOWN}


@pytest.mark.parametrize(("path", "names"), ROWS.values(), ids=list(ROWS))
def test_each_row_has_its_test(path: str, names: str) -> None:
    """The tests of a row exist under the names that carry its words."""
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    for name in names.split():
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), name


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status and stderr of a program, of which nothing may be on stdout."""
    try:
        status = PROGRAMS[words[0]](list(words[1:]))
    except SystemExit as error:
        status = int(error.code or 0)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return status, err


def settings_file(folder: Path, text: str) -> str:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("words", "text", "named"),
    [
        (("fallow-agent", "run"), 'colour = "red"', "colour"),
        (("fallow-agent", "run"), 'spool.colour = "red"', "spool.colour"),
        (("fallow-aggregator", "run"), "flush.speed = 3", "flush.speed"),
        (("fallow-report",), "[report]\ncolour = 1", "report.colour"),
        (("fallow-report",), "[report.serve]\ncolour = 1", "report.serve.colour"),
        (("fallow-orchestrate", "status"), "[orchestrate]\ncolour = 1", "orchestrate.colour"),
        (("fallow-orchestrate", "status"), "[orchestrate.limits]\ncolour = 1", "colour"),
        (("fallow-orchestrate", "status"), "colour = 1", "colour"),
    ],
)
def test_unknown_key_is_exit_2_naming_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], text: str, named: str
) -> None:
    """Unknown key: exit 2, and it is named with its file, in every program."""
    status, err = run(capsys, *words, "--config", settings_file(tmp_path, text))
    assert status == 2
    assert named in err
    assert "settings.toml" in err


@pytest.mark.parametrize("value", ["0s", "-5s", "5 parsecs", "0", "s", "1e3s", "9" * 400 + "d"])
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("fallow-agent", "run"), 'interval = "{}"'),
        (("fallow-agent", "run"), 'timeout = "{}"'),
        (("fallow-aggregator", "run"), '[flush]\ninterval = "{}"'),
        (("fallow-aggregator", "run"), '[retention]\nraw = "{}"'),
        (("fallow-report",), '[report.serve]\njudge_every = "{}"'),
        (("fallow-orchestrate", "status"), '[orchestrate.watch]\nevery = "{}"'),
    ],
)
def test_interval_0_negative_or_5_parsecs_is_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], text: str, value: str
) -> None:
    """An interval that is none: exit 2, in every program."""
    status, err = run(capsys, *words, "--config", settings_file(tmp_path, text.format(value)))
    assert status == 2
    assert "settings.toml" in err


def test_world_readable_secret_is_exit_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A join token that others may read: exit 2, naming the file and not what is in it."""
    secret = tmp_path / "join.token"
    secret.write_text("the-secret-itself\n")
    secret.chmod(0o644)
    status, err = run(
        capsys,
        *("fallow-agent", "enroll", "--aggregator", "http://127.0.0.1:1", "--state", str(tmp_path / "state")),
        *("--vm-id", "web-1", "--join-token-file", str(secret)),
    )
    assert status == 2
    assert f"{secret}: readable by others" in err
    assert "the-secret-itself" not in err


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o666])
def test_world_readable_secret_of_every_reader_is_refused(tmp_path: Path, mode: int) -> None:
    """Keys of tokens and of links, the admin token: the group is one of the others too."""
    from agent.settings import ConfigError
    from aggregator.admin import load_or_create_admin_token
    from aggregator.tokens import TokenKeys
    from orchestrate.owners.links import LinkKey

    readers: Sequence[Callable[[Path], object]] = (
        TokenKeys.load_or_create,
        LinkKey.load_or_create,
        load_or_create_admin_token,
    )
    for number, read in enumerate(readers):
        path = tmp_path / f"secret-{number}"
        read(path)
        kept = path.read_text()
        path.chmod(mode)
        with pytest.raises(ConfigError, match="readable by others") as caught:
            read(path)
        assert kept.strip() not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "qemu+tls://169.254.169.254/system",
        "qemu+ssh://root@[fe80::1]/system",
        "qemu+tls://[::ffff:169.254.169.254]/system",
        "qemu+tcp://hv1/system",
        "qemu+ext://hv1/system?command=/bin/sh",
        "qemu+ssh://hv1/system?no_verify=1",
        "http://hv1/",
    ],
)
def test_driver_url_file_link_local_or_not_allowed_is_refused(url: str) -> None:
    """A hypervisor's address that reads a file, is link-local or of a kind that is not allowed."""
    from agent.settings import ConfigError
    from orchestrate.drivers.libvirt_settings import parse_settings
    from orchestrate.drivers.registry import DriverConfig

    with pytest.raises(ConfigError, match=r"hosts\[1\]"):
        parse_settings(
            DriverConfig(name="lab", kind="libvirt", settings={"hosts": ["qemu+ssh://root@hv1/system", url]})
        )


@pytest.mark.parametrize(
    "words",
    [
        ("fallow-aggregator", "vms", "forget", "*"),
        ("fallow-aggregator", "vms", "forget", "*", "web-1", "--all"),
    ],
)
def test_vm_star_without_all_is_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Every VM is meant only by `'*' --all` and nothing else: exit 2, nothing is done."""
    fleet(tmp_path)
    status, err = run(capsys, *words, "--data", str(tmp_path))
    assert status == 2
    assert "--all" in err or "'*'" in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("fallow-agent", "simulate", "--aggregator", "http://127.0.0.1:1", "--days", "36500"), "--days"),
        (("fallow-agent", "simulate", "--aggregator", "http://127.0.0.1:1", "--days", "-1"), "--days"),
        (("fallow-report", "--window", "36500d"), "--window"),
        (("fallow-report", "--since", "36500d"), "--since"),
        (("fallow-report", "keep", "--name", "w-*", "--until", "36500d", "--reason", "x", "--owner", "ann"), "until"),
        (
            ("fallow-report", "keep", "--name", "w-*", "--until", "2001-01-01", "--reason", "x", "--owner", "ann"),
            "until",
        ),
        (("fallow-orchestrate", "simulate", "--days", "36500"), "--days"),
        (("fallow-orchestrate", "simulate", "--days", "-1"), "--days"),
    ],
)
def test_range_that_ends_before_it_starts_or_spans_100_years_is_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], named: str
) -> None:
    """A span of time that nobody can mean: exit 2, naming it."""
    fleet(tmp_path)
    place = () if words[0] == "fallow-agent" else ("--data", str(tmp_path))
    status, err = run(capsys, *words, *place)
    assert status == 2
    assert named in err


def fleet(data_dir: Path) -> None:
    """A fleet database without a VM."""
    engine = open_fleet(None, data_dir)
    migrate(engine)
    engine.dispose()
