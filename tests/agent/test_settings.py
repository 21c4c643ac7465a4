"""Durations, sizes, addresses and tables: what is right is read, what is wrong is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import (
    ConfigError,
    SettingsReader,
    load_toml,
    parse_count,
    parse_duration_s,
    parse_flag,
    parse_host_port,
    parse_size_bytes,
    parse_text,
    read_secret,
)

PARSERS: list[Callable[[object], object]] = [
    parse_count,
    parse_duration_s,
    parse_flag,
    parse_host_port,
    parse_size_bytes,
    parse_text,
]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("15min", 900), ("15m", 900), ("2h", 7200), ("1.5h", 5400), ("14d", 1209600), ("2w", 1209600),
     ("500ms", 0.5), (" 5 s ", 5)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    """A number with its unit."""
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["0s", "-5s", "5 parsecs", "", "s", "30", "1e3s", "5S", "1h30m", "٣s", "5s\n5", "0.0000s", "1" * 400 + "d", 30, 1.5,
     None, True, []],
)  # fmt: skip
def test_durations_that_are_none(text: object) -> None:
    """Zero, negative, without a unit, with one that does not exist, or more than a float holds."""
    with pytest.raises(ValueError, match="is not"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 << 20), ("512 KiB", 512 << 10), ("1GB", 10**9), ("1gib", 1 << 30), ("7", 7), (7, 7), ("1.5KiB", 1536),
     ("9B", 9)],
)  # fmt: skip
def test_sizes(text: object, size: int) -> None:
    """Binary and decimal units, any case, or plain bytes."""
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["0", 0, -1, "-1MiB", "MiB", "64 parsecs", "", "0.4", 1.5, True, None, "1TiB"])
def test_sizes_that_are_none(text: object) -> None:
    """Zero, negative, less than a byte, unknown units, other types."""
    with pytest.raises(ValueError, match="is not"):
        parse_size_bytes(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8899", ("127.0.0.1", 8899)), ("[::1]:0", ("::1", 0)), ("host.example:65535", ("host.example", 65535))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """Host and port; port 0 is any free one."""
    assert parse_host_port(text) == address


@pytest.mark.parametrize("text", ["8899", ":8899", "h:", "h:65536", "h:-1", "h:http", "h:٣", "[]:1", "", 8899, None])
def test_addresses_that_are_none(text: object) -> None:
    """Both parts are needed, and the port is one."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_host_port(text)


@pytest.mark.parametrize("value", [0, -1, "0", "-1", "1.0", 1.5, "two", "", True, None, "٣"])
def test_counts_that_are_none(value: object) -> None:
    """At least one, whole, and no bool."""
    with pytest.raises(ValueError, match="is not"):
        parse_count(value)


@pytest.mark.parametrize("value", [-3, "-3"])
def test_a_count_below_one_is_told_what_is_wrong(value: object) -> None:
    """It is whole, but too small; as text too."""
    with pytest.raises(ValueError, match=r"\A-3 is not at least 1\Z"):
        parse_count(value)


def test_counts_texts_and_flags() -> None:
    """Numbers also as text, as the command line has them; texts are not empty; flags are bools."""
    assert (parse_count(3), parse_count("3")) == (3, 3)
    assert parse_text("a") == "a"
    assert (parse_flag(True), parse_flag(False)) == (True, False)
    for parse, value in ((parse_text, ""), (parse_text, 5), (parse_flag, "true"), (parse_flag, 1)):
        with pytest.raises(ValueError, match="is n"):
            parse(value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(values, st.sampled_from(PARSERS))
def test_no_value_raises_anything_but_value_error(value: object, parse: Callable[[object], object]) -> None:
    """A mistake in a file is a message, never a traceback; what passes is within its bounds."""
    try:
        found = parse(value)
    except ValueError:
        return
    if isinstance(found, int | float) and not isinstance(found, bool):
        assert 0 < found < math.inf


tables = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 9), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.integers(1, 9) | inner, max_size=3),
    max_leaves=6,
)


def leaves(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@given(tables)
def test_a_reader_finds_every_setting_under_its_dotted_name(table: dict[str, Any]) -> None:
    """What was asked for is given; what nobody asked for is reported, each once."""
    known = leaves(table)
    reader = SettingsReader(table, source="f")
    for key, value in list(known.items())[::2]:
        assert reader.take(key, parse_count, 0) == value
    assert reader.take("absent", parse_count, 77) == 77
    unasked = list(known)[1::2]
    problems: list[str] = []
    try:
        reader.finish()
    except ConfigError as error:
        problems = error.problems
    reported = [line for line in problems if line.split(": ")[1] in known]
    assert reported == [f"f: {key}: unknown setting" for key in sorted(unasked)]


def test_a_reader_reports_everything_at_the_end() -> None:
    """Wrong values, contradictions and unknown keys together; a wrong value gives its default meanwhile."""
    reader = SettingsReader({"flush": {"interval": "0s", "x": 1}, "n": 3}, source="a.toml")
    assert reader.take("flush.interval", parse_duration_s, 900.0) == 900.0
    assert reader.take("n", parse_count, 1) == 3
    reader.reject("n", "does not go with m")
    with pytest.raises(ConfigError) as caught:
        reader.finish()
    assert caught.value.problems == [
        "a.toml: flush.interval: '0s' is not more than zero",
        "a.toml: n: does not go with m",
        "a.toml: flush.x: unknown setting",
    ]
    assert str(caught.value).splitlines() == caught.value.problems


def test_toml_files(tmp_path: Path) -> None:
    """Tables as they are; a file that is absent, a folder, no TOML or no UTF-8 is named."""
    path = tmp_path / "a.toml"
    path.write_text('[flush]\ninterval = "5min"\n')
    assert load_toml(path) == {"flush": {"interval": "5min"}}
    (tmp_path / "bad.toml").write_text("a = = 1")
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe4"')
    for bad in (tmp_path, tmp_path / "absent.toml", tmp_path / "bad.toml", tmp_path / "latin.toml"):
        with pytest.raises(ConfigError, match=str(bad)):
            load_toml(bad)


def test_a_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    """Its path, and what the system says of it."""
    path = tmp_path / "absent"
    for read in (load_toml, read_secret):
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert str(caught.value) == f"{path}: No such file or directory"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o601])
def test_a_world_readable_secret_is_refused(tmp_path: Path, mode: int) -> None:
    """Not for the group, not for others, in no way; the message names file, mode and remedy."""
    path = tmp_path / "join.token"
    path.write_text("s3cret\n")
    path.chmod(mode)
    with pytest.raises(
        ConfigError, match=rf"join\.token: readable by others \(mode {mode:04o}\): run chmod 600"
    ) as caught:
        read_secret(path)
    assert "s3cret" not in str(caught.value)
    path.chmod(0o600)
    assert read_secret(path) == "s3cret"
    path.chmod(0o400)
    assert read_secret(path) == "s3cret"


def test_a_credential_of_systemd_is_read_from_its_directory(tmp_path: Path) -> None:
    """Also where an access list shows as a group's right; its name alone appears in settings and errors."""
    (tmp_path / "smtp").write_text("s3cret\n")
    (tmp_path / "smtp").chmod(0o440)
    given = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    path = Path("$CREDENTIALS_DIRECTORY/smtp")
    assert read_secret(path, given) == "s3cret"
    with pytest.raises(ConfigError, match=r"^\$CREDENTIALS_DIRECTORY/other: No such file"):
        read_secret(Path("$CREDENTIALS_DIRECTORY/other"), given)
    with pytest.raises(ConfigError, match="give the unit a LoadCredential=smtp:FILE"):
        read_secret(path, {})


def test_a_secret_that_is_absent_empty_or_no_text_is_named(tmp_path: Path) -> None:
    """A file with nothing in it is no secret."""
    path = tmp_path / "join.token"
    with pytest.raises(ConfigError, match=r"join\.token"):
        read_secret(path)
    path.touch(mode=0o600)
    path.chmod(0o600)
    for content in (b"", b" \n", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"join\.token"):
            read_secret(path)
