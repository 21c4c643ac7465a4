"""`stores`, `check`, `backup` and `restore` as an admin types them."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.sample import Sample
from agent.wire import encode_batch, encode_sample
from aggregator.__main__ import main
from aggregator.data_lock import lock_data_directory
from aggregator.fleet import node as nodes
from aggregator.fleet import vm_summary
from aggregator.fleet_db import migrate, open_fleet
from aggregator.store import Store
from aggregator.store_files import store_path
from aggregator.store_schema import template
from aggregator.tokens import KEY_FILE_NAME, TokenKeys
from aggregator.worker import FlushWorker
from tests.aggregator import store_fakes
from tests.aggregator.store_fakes import START_S, change, fill, minutes, settings, share

VMS = ("vm-1", "vm-2")
NEWEST_S = START_S + 130 * 60
_DEADLINE_S = 60.0


class Shell:
    """Runs command lines on one data directory, in this process."""

    def __init__(self, data_dir: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self._capture = capture

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        self._capture.readouterr()
        try:
            status = main([words[0], "--data", str(self.data_dir), *words[1:]])
        except SystemExit as stopped:
            status = int(str(stopped.code))
        return status, *self._capture.readouterr()


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell on a data directory with two sound stores and their summaries."""
    data_dir = tmp_path / "data"
    for vm_id in VMS:
        fill(data_dir, vm_id, minutes(START_S + 60, 130))
    write_summaries(data_dir, dict.fromkeys(VMS, NEWEST_S))
    return Shell(data_dir, capsys)


NODE = {"node": "agg-2", "version": "1", "revision": "0003", "state": "up"}


def write_summaries(data_dir: Path, newest: dict[str, int]) -> None:
    engine = open_fleet(None, data_dir)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.delete(vm_summary))
        for vm_id, newest_s in newest.items():
            values = {"oldest_s": START_S, "newest_s": newest_s, "received_s": 0.0, "skew_s": 0.0, "interval_s": 60}
            connection.execute(sa.insert(vm_summary).values(vm_id=vm_id, conflicts=0, updated_s=0.0, **values))
    engine.dispose()


def test_stores_are_listed_with_what_they_hold(shell: Shell) -> None:
    """One line a store with its path, rows, times and schema, then the totals."""
    status, out, err = shell.run("stores")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["VM", *VMS, "total:"]
    assert str(store_path(shell.data_dir, "vm-1")) in lines[1]
    assert "2023-11-13 00:01:00Z" in lines[1]
    assert "2 stores" in lines[-1]
    assert "260 rows, 6 hours, 0 conflicts" in lines[-1]


def test_stores_print_json(shell: Shell) -> None:
    """One object with units in its keys; `--vm` picks."""
    status, out, _ = shell.run("stores", "--json", "--vm", "vm-2")
    listing = json.loads(out)
    assert status == 0
    assert [store["vm"] for store in listing["stores"]] == ["vm-2"]
    assert listing["stores"][0]["rows"] == listing["totals"]["rows"] == 130
    assert listing["totals"]["size_bytes"] == store_path(shell.data_dir, "vm-2").stat().st_size
    assert listing["unreadable"] == {}


def test_a_store_that_cannot_be_read_is_named(shell: Shell) -> None:
    """The others are listed, and the exit says that something failed."""
    store_path(shell.data_dir, "vm-1").write_bytes(b"garbage" * 1000)
    status, out, err = shell.run("stores")
    assert status == 1
    assert "vm-2" in out
    assert "vm-1" in err
    status, _, err = shell.run("stores", "--vm", "vm-9")
    assert status == 1
    assert "vm-9" in err


def test_a_sound_directory_passes_the_check(shell: Shell) -> None:
    """Nothing wrong: one line, exit 0."""
    status, out, err = shell.run("check")
    assert (status, err) == (0, "")
    assert out.startswith("checked 2 stores, 0 with problems; journal: 0 segments")


def test_the_check_names_what_is_wrong(shell: Shell) -> None:
    """A wrong store, a wrong summary, a summary without a store and a misplaced store: each VM with its problem."""
    store_path(shell.data_dir, "vm-1").write_bytes(b"garbage" * 1000)
    elsewhere = shell.data_dir / "stores" / "00" / "00"
    elsewhere.mkdir(parents=True)
    (elsewhere / "vm-3.db").write_bytes(store_path(shell.data_dir, "vm-2").read_bytes())
    write_summaries(shell.data_dir, {"vm-2": NEWEST_S - 60, "gone": NEWEST_S})
    status, out, _ = shell.run("check")
    assert status == 1
    lines = out.splitlines()
    for words in ("vm-1: cannot be read", "vm-2: the newest row is of", "gone: there is no store", "vm-3: lies at"):
        assert any(line.startswith(words) for line in lines), words
    status, out, _ = shell.run("check", "vm-1", "--json", "--quick")
    report = json.loads(out)
    assert status == 1
    assert (report["sound"], report["stores"], list(report["problems"])) == (False, 1, ["vm-1"])
    assert report["journal"]["segments"] == 0


def test_row_35_a_vm_without_a_home_is_this_nodes_by_its_store_alone(shell: Shell) -> None:
    """Once a node is given up, no other misses a store of its VMs; before there are nodes, all VMs are this one's."""
    write_summaries(shell.data_dir, {"vm-1": NEWEST_S, "vm-2": NEWEST_S - 60, "gone": NEWEST_S})
    _, out, _ = shell.run("check")
    assert "gone: there is no store" in out
    engine = open_fleet(None, shell.data_dir)
    with engine.begin() as connection:
        connection.execute(sa.insert(nodes).values(**dict.fromkeys(("started_s", "seen_s", "vms", "owed"), 0), **NODE))
    engine.dispose()
    status, out, _ = shell.run("check")
    assert status == 1
    assert "gone" not in out
    assert "vm-2: the newest row is of" in out
    path = store_path(shell.data_dir, "gone")
    Store(path, "gone", template()).commit()
    assert path.exists()
    _, out, _ = shell.run("check", "gone")
    assert "no readable rows" not in out
    path.unlink()


def test_a_summary_that_is_owed_is_no_problem(shell: Shell) -> None:
    """While the fleet database was away, what it lacks is noted, and the check knows."""
    write_summaries(shell.data_dir, {"vm-1": NEWEST_S})
    assert shell.run("check")[0] == 1
    (shell.data_dir / "summaries.pending").write_text("vm-2")
    assert shell.run("check")[0] == 0


def test_without_a_fleet_database_stores_are_still_checked(shell: Shell) -> None:
    """Where the fleet database lies elsewhere, that is said and no problem."""
    (shell.data_dir / "fleet.db").unlink()
    status, out, err = shell.run("check")
    assert status == 0
    assert "2 stores" in out
    assert "--fleet-url" in err


def test_backup_and_restore_say_what_they_did(shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A backup that is restored lists the same stores."""
    status, out, _ = shell.run("backup", str(tmp_path / "backup"))
    assert status == 0
    assert out.startswith("copied 2 stores, 4 files")
    other = Shell(tmp_path / "restored", capsys)
    status, out, _ = other.run("restore", str(tmp_path / "backup"))
    assert status == 0
    assert out.startswith("restored 2 stores, 4 files")
    assert other.run("check")[0] == 0


def test_a_restore_where_a_daemon_runs_fails(shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 and no traceback, naming the directory."""
    assert shell.run("backup", str(tmp_path / "backup"))[0] == 0
    descriptor = lock_data_directory(tmp_path / "restored")
    status, _, err = Shell(tmp_path / "restored", capsys).run("restore", str(tmp_path / "backup"))
    os.close(descriptor)
    assert status == 1
    assert f"{tmp_path / 'restored'} is in use" in err


def test_a_backup_that_lacks_a_store_fails_and_says_so(shell: Shell, tmp_path: Path) -> None:
    """What could be copied is there, and the exit is 1."""
    store_path(shell.data_dir, "vm-1").write_bytes(b"garbage" * 1000)
    status, out, err = shell.run("backup", str(tmp_path / "backup"))
    assert status == 1
    assert "copied 1 store, 3 files" in out
    assert "vm-1.db" in err
    status, _, err = shell.run("backup", str(tmp_path / "backup"))
    assert status == 1
    assert "is not empty" in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("stores", "--vm", "../../x"), "--vm"),
        (("check", "UPPER"), "VM"),
        (("backup",), "DIR"),
        (("restore",), "BACKUP"),
        (("check", "--fleet-url", "mysql://x"), "mysql"),
    ],
)
def test_mistakes_of_usage_are_exit_2_and_named(shell: Shell, words: tuple[str, ...], named: str) -> None:
    """A wrong option is named; nothing is done."""
    status, out, err = shell.run(*words)
    assert (status, out) == (2, "")
    assert named in err


@pytest.mark.parametrize("command", ["stores", "check", "backup"])
def test_a_data_directory_that_is_none_is_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """The option is named, and no directory is made."""
    words = (command, str(tmp_path / "backup")) if command == "backup" else (command,)
    status, _, err = Shell(tmp_path / "none", capsys).run(*words)
    assert status == 2
    assert "--data" in err
    assert not (tmp_path / "none").exists()


def test_the_handbook_names_every_metric() -> None:
    """docs/operations.md says what each figure of /metrics means."""
    root = Path(__file__).parents[2]
    handbook = (root / "docs" / "operations.md").read_text(encoding="utf-8")
    exported = set(re.findall(r'"(fallow_\w+)"', (root / "aggregator" / "metrics.py").read_text(encoding="utf-8")))
    known = {name.removesuffix("_total") for name in re.findall(r"fallow_\w+", handbook)}
    assert exported - known == set()
    assert exported


@contextmanager
def daemon(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An aggregator that listens, until the block ends; killed if it does not stop by itself."""
    words = ["run", "--data", str(data_dir), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with subprocess.Popen([sys.executable, "-m", "aggregator", *words], stderr=subprocess.DEVNULL) as process:
        try:
            deadline_s = time.monotonic() + _DEADLINE_S
            while not (data_dir / "admin.address").exists() or request(data_dir, "agents", "GET", "/readyz") != 200:
                assert process.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            yield process
            process.send_signal(signal.SIGTERM)
            process.wait(_DEADLINE_S)
        finally:
            process.kill()


def request(data_dir: Path, door: str, method: str, path: str, body: bytes = b"", **headers: str) -> int:
    """The status of one answer."""
    host, port = (data_dir / f"{door}.address").read_text().strip().rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=_DEADLINE_S)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def push(data_dir: Path, vm_id: str, first_ts: int, count: int) -> None:
    """Pushes some minutes of a VM; they are acknowledged when this returns."""
    samples = [
        encode_sample(Sample(ts=first_ts + 60 * step, cpu_busy_ratio=0.1, mem_total_bytes=1 << 30, mem_used_bytes=1))
        for step in range(count)
    ]
    body = encode_batch(vm=vm_id, boot="b", seq=1, sent_s=time.time(), interval_s=60, samples=samples)
    token = TokenKeys.load_or_create(data_dir / KEY_FILE_NAME).make(vm_id, 1)
    headers = {"Authorization": f"Bearer {token}", "Fallow_VM": vm_id, "Content_Type": "application/json"}
    assert request(data_dir, "agents", "POST", "/v1/samples", body, **headers) == 204


def flush(data_dir: Path) -> None:
    token = (data_dir / "admin.token").read_text().strip()
    assert request(data_dir, "admin", "POST", "/v1/flush", Authorization=f"Bearer {token}") == 200


@pytest.mark.real
def test_a_backup_of_a_running_daemon_holds_all_that_it_acknowledged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples in stores and samples in the journal alone come back, and the restored daemon stores and sums them."""
    data_dir, restored = tmp_path / "data", tmp_path / "restored"
    first_ts = int(time.time()) // 60 * 60 - 3600
    with daemon(data_dir):
        for vm_id in VMS:
            push(data_dir, vm_id, first_ts, 20)
        flush(data_dir)
        push(data_dir, "vm-2", first_ts + 1200, 5)
        push(data_dir, "vm-3", first_ts, 7)
        shell = Shell(data_dir, capsys)
        assert shell.run("check")[0] == 0
        assert shell.run("backup", str(tmp_path / "backup"))[0] == 0
    other = Shell(restored, capsys)
    assert other.run("restore", str(tmp_path / "backup"))[0] == 0
    with daemon(restored):
        flush(restored)
        status, out, _ = other.run("check")
        assert (status, out.splitlines()[-1].partition(";")[0]) == (0, "checked 3 stores, 0 with problems")
        listing = json.loads(other.run("stores", "--json")[1])
    assert {store["vm"]: store["rows"] for store in listing["stores"]} == {"vm-1": 20, "vm-2": 25, "vm-3": 7}


def test_row_17_a_damaged_store_is_named_by_check_and_backup(shell: Shell, tmp_path: Path) -> None:
    """Both name the VM, the table and the hour, and exit 1; the copy is made all the same."""
    change(store_path(shell.data_dir, "vm-1"), f"UPDATE sample SET load1 = 7 WHERE ts = {START_S + 600}")
    words = "vm-1: {}rows: hour 2023-11-13T00:00Z: its rows are not those that were written"
    status, out, _ = shell.run("check")
    assert status == 1
    assert words.format("") in out
    status, out, err = shell.run("backup", str(tmp_path / "copy"))
    assert status == 1
    assert words.format("copied, but damaged: ") in err
    assert "copied 2 stores" in out


def test_row_18_a_person_can_accept_a_store_that_was_begun_anew(shell: Shell) -> None:
    """`stores --accept` takes the mark back, of the VMs named, and says so where there is none; never of all."""
    path = store_path(shell.data_dir, "vm-1")
    path.unlink()
    taken = share("vm-1", minutes(NEWEST_S + 60, 1), had_history=True)
    machine = FlushWorker(settings(shell.data_dir))
    assert store_fakes.flush(machine, taken).summaries[0].flags == ["store_replaced"]
    assert shell.run("stores", "--accept")[0] == 2
    assert shell.run("stores", "--vm", "vm-1", "--accept")[0] == 0
    status, _, err = shell.run("stores", "--vm", "vm-1", "--accept")
    assert status == 0
    assert "nothing to accept" in err
    assert store_fakes.flush(machine, taken).summaries[0].flags == []
    assert shell.run("check", "--quick", "vm-1")[0] == 1  # its summary here is of the lost rows
    status, _, err = shell.run("stores", "--vm", "vm-9", "--accept")
    assert status == 1
    assert "vm-9: there is no store" in err
