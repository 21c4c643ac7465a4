"""The set-up scripts: clear words where something is missing, and no second installation for nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent
COMMANDS = ("basename", "cat", "chmod", "cksum", "dirname", "env", "mkdir", "sed")

# Stands for a Python: makes environments that consist of itself, and tells what was asked of it.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >>"$FAKE_LOG"
case "$*" in
    *version_info*) exit ${FAKE_TOO_OLD:-0} ;;
    *ensurepip*) exit ${FAKE_NO_ENSUREPIP:-0} ;;
    -V) echo "Python 3.9.2" ;;
    "-m venv"*)
        mkdir -p "$4/bin"
        cat "$0" >"$4/bin/python"
        chmod +x "$4/bin/python"
        ;;
    *"pip --version") exit ${FAKE_HALF_MADE:-0} ;;
    *"pip install"*) exit ${FAKE_NO_INDEX:-0} ;;
    *--check-options*) exit ${FAKE_WRONG_OPTION:-0} ;;
esac
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts alone, with what they read, in a folder of their own whose name has a blank."""
    folder = tmp_path / "a checkout"
    (folder / ".ci").mkdir(parents=True)
    read = (".ci/environment.sh", "setup.cfg", "pyproject.toml", "requirements.lock")
    for name in ("run_demo.sh", "run_tests.sh", *read):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def run(checkout: Path, tmp_path: Path) -> Run:
    """Runs a script where nothing but coreutils and the fake Python is on the PATH."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in COMMANDS:
        found = shutil.which(name)
        assert found is not None
        (commands / name).symlink_to(found)
    python = commands / "python3"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None

    def run_script(name: str, *argv: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [bash, str(checkout / name), *argv],
            cwd=tmp_path,
            env={"PATH": str(commands), "FAKE_LOG": str(tmp_path / "asked"), **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run_script


def asked(tmp_path: Path, words: str) -> list[str]:
    """What was asked of the fake Python, of those questions that hold `words`; forgotten afterwards."""
    log = tmp_path / "asked"
    found = [line for line in log.read_text().splitlines() if words in line]
    log.unlink()
    return found


@pytest.mark.parametrize("script", ["run_demo.sh", "run_tests.sh"])
def test_an_old_python_is_named(run: Run, script: str) -> None:
    """Below 3.11 the script says which version it found and which it needs."""
    ended = run(script, FAKE_TOO_OLD="1")
    assert ended.returncode == 1
    assert "python3 is Python 3.9.2, but fallow needs Python 3.11 or newer" in ended.stderr


@pytest.mark.parametrize("script", ["run_demo.sh", "run_tests.sh"])
def test_a_python_without_venv_names_the_debian_package(run: Run, script: str) -> None:
    """Where no environment can be made, the package that is missing is named."""
    ended = run(script, FAKE_NO_ENSUREPIP="1")
    assert ended.returncode == 1
    assert "install the Debian package python3-venv" in ended.stderr


def test_a_machine_without_python_is_told_what_to_install(run: Run, tmp_path: Path) -> None:
    """No Python at all is an error that names the packages."""
    (tmp_path / "bin" / "python3").unlink()
    ended = run("run_tests.sh")
    assert ended.returncode == 1
    assert "install the Debian packages python3 and python3-venv" in ended.stderr


def test_wrong_options_end_before_anything_is_installed(run: Run, checkout: Path) -> None:
    """The demo checks its options with whatever Python there is; no environment is made for a mistake."""
    ended = run("run_demo.sh", "--days", "0", FAKE_WRONG_OPTION="2")
    assert ended.returncode == 2
    assert not (checkout / ".venv").exists()


def test_the_environment_is_made_once(run: Run, checkout: Path, tmp_path: Path) -> None:
    """A second run installs nothing; a changed setup.cfg, lock or place of the checkout does. Releases are pinned."""
    assert run("run_demo.sh").returncode == 0
    constraints = checkout / ".venv" / "constraints.txt"
    assert asked(tmp_path, "pip install") == [
        f"-m pip install --quiet --disable-pip-version-check --constraint {constraints} --editable {checkout}[all]"
    ]
    pins = constraints.read_text(encoding="utf-8").splitlines()
    assert pins
    assert all("==" in pin and "--hash" not in pin and not pin.endswith("\\") for pin in pins)
    assert run("run_demo.sh").returncode == 0
    assert asked(tmp_path, "pip install") == []
    for name in ("setup.cfg", "requirements.lock"):
        with open(checkout / name, "a", encoding="utf-8") as file:
            file.write("# changed\n")
        assert run("run_demo.sh").returncode == 0
        assert len(asked(tmp_path, "pip install")) == 1


def test_half_an_environment_is_made_anew(run: Run, tmp_path: Path) -> None:
    """An environment whose pip does not work, from a run that was broken off, is replaced."""
    assert run("run_demo.sh").returncode == 0
    (tmp_path / "a checkout" / ".venv" / ".fallow-all").unlink()
    (tmp_path / "asked").unlink()
    assert run("run_demo.sh", FAKE_HALF_MADE="1").returncode == 0
    assert len(asked(tmp_path, "-m venv --clear")) == 1


def test_a_failed_installation_is_not_taken_for_done(run: Run, tmp_path: Path) -> None:
    """Without a package index the script ends with 1 and says so; the next run tries again."""
    ended = run("run_demo.sh", FAKE_NO_INDEX="1")
    assert ended.returncode == 1
    assert "is there a package index?" in ended.stderr
    (tmp_path / "asked").unlink()
    assert run("run_demo.sh").returncode == 0
    assert len(asked(tmp_path, "pip install")) == 1


def run_pytest(folder: Path, body: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a session of its own over one file of tests, under the house's conftest."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "conftest.py")
    (folder / "test_some.py").write_text(f"import pytest\n{body}\n")
    environ = {
        name: value for name, value in os.environ.items() if name != "FALLOW_CI" and not name.startswith("PYTEST")
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(folder)],
        cwd=folder,
        env={**environ, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


PASSES = "def test_passes(): pass\n"
SKIPS = [
    "def test_skips(): pytest.skip('no service here')",
    "@pytest.mark.skipif(True, reason='no service here')\ndef test_skips(): pass",
    "pytest.skip('no service here', allow_module_level=True)",
    "@pytest.fixture\ndef service(): pytest.skip('no service here')\ndef test_skips(service): pass",
]


@pytest.mark.parametrize("body", SKIPS)
def test_a_skip_fails_the_run_on_the_complete_machine(body: str, tmp_path: Path) -> None:
    """Under FALLOW_CI=1 a skip of any kind fails the session, which lists it with its reason."""
    ended = run_pytest(tmp_path, PASSES + body, FALLOW_CI="1")
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    listed = ended.stdout.partition("which FALLOW_CI=1 forbids")[2]
    assert "test_some.py" in listed
    assert "no service here" in listed


def test_elsewhere_a_skip_is_only_shown(tmp_path: Path) -> None:
    """Without FALLOW_CI the same session passes."""
    ended = run_pytest(tmp_path, PASSES + SKIPS[0])
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout
    assert "1 skipped" in ended.stdout


def test_a_complete_run_passes_on_the_complete_machine(tmp_path: Path) -> None:
    """FALLOW_CI=1 fails nothing that ran, an expected failure included."""
    expected = "@pytest.mark.xfail\ndef test_known(): assert False\n"
    assert run_pytest(tmp_path, PASSES + expected, FALLOW_CI="1").returncode == pytest.ExitCode.OK
