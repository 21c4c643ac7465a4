"""The programs as a user starts them: mistakes are named on stderr, with the exit status that the contract says."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.e2e.house import House

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("fallow-aggregator", "run", "--flush-interval", "5 parsecs"), "--flush-interval"),
        (("fallow-aggregator", "run", "--flush-interval", "0s"), "--flush-interval"),
        (("fallow-aggregator", "run", "--flush-workers", "-1"), "--flush-workers"),
        (("fallow-aggregator", "run", "--no-such-option"), "--no-such-option"),
        (("fallow-aggregator", "run", "--listen", "nowhere"), "--listen"),
        (("fallow-aggregator", "run", "--tls-cert", "cert.pem"), "tls.key"),
        (("fallow-agent", "run", "--no-such-option"), "--no-such-option"),
        (("fallow-agent", "run", "--aggregator", "ftp://x"), "--aggregator"),
        (("fallow-agent", "run", "--aggregator", "http://fallow.example:8899"), "--aggregator"),
        (("fallow-agent", "run", "--vm-id", "../../x"), "--vm-id"),
        (("fallow-agent", "simulate", "--aggregator", "http://127.0.0.1:1", "--vms", "0"), "--vms"),
        (("fallow-report", "--window", "5 parsecs"), "--window"),
        (("fallow-report", "--policy", "none"), "--policy"),
        (("fallow-report", "--no-such-option"), "--no-such-option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_option_is_exit_2_and_named(house: House, argv: tuple[str, ...], named: str) -> None:
    """An unknown option or a value that cannot be used: exit 2, the option on stderr, nothing on stdout."""
    done = house.run(*argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "text", "named"),
    [
        (("fallow-aggregator", "run"), "[flush]\ninterval = '0s'\nspeed = 3\n", ("flush.interval", "flush.speed")),
        (("fallow-agent", "run"), "interval = '7s'\ncolour = 'red'\n", ("interval", "colour")),
        (("fallow-report",), "[report]\npolicy = 'none'\ncolour = 'red'\n", ("report.policy", "report.colour")),
        (("fallow-aggregator", "run"), "not toml", ("settings.toml",)),
    ],
    ids=["aggregator", "agent", "report", "not-toml"],
)
def test_every_mistake_of_a_settings_file_is_named(
    house: House, argv: tuple[str, ...], text: str, named: tuple[str, ...]
) -> None:
    """Unknown keys and wrong values of a file are reported together, with exit 2."""
    path = house.folder / "settings.toml"
    path.write_text(text)
    done = house.run(*argv, "--config", str(path))
    assert done.returncode == 2
    assert all(name in done.stderr for name in named), done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_exit_1(house: House) -> None:
    """A daemon that cannot listen ends with 1 and names the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = house.run(
            *("fallow-aggregator", "run", "--data", str(house.folder / "data")),
            *("--listen", address, "--admin", "127.0.0.1:0"),
        )
    assert done.returncode == 1
    assert address.rpartition(":")[2] in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_at_the_address_is_exit_69(house: House) -> None:
    """Commands whose other side is away end with 69."""
    join_token = house.folder / "join.token"
    join_token.touch(mode=0o600)
    join_token.write_text("x\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    for argv in (
        ("fallow-agent", "enroll", "--aggregator", url, "--state", str(house.folder / "state"), "--vm-id", "a"),
        ("fallow-agent", "simulate", "--aggregator", url, "--vms", "1", "--days", "1"),
        ("fallow-agent", "replay", "tests/data/fleet.csv", "--aggregator", url),
    ):
        done = house.run(*argv, "--join-token-file", str(join_token))
        assert done.returncode == 69, (argv, done.stderr)
        assert "Traceback" not in done.stderr


def test_a_data_directory_that_cannot_be_used_is_exit_2(house: House) -> None:
    """A data directory below a file names --data."""
    (house.folder / "file").write_text("")
    done = house.run("fallow-aggregator", "run", "--data", str(Path(house.folder, "file", "data")))
    assert done.returncode == 2
    assert "--data" in done.stderr
    assert "Traceback" not in done.stderr
