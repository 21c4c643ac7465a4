"""What fallow is installed from: every package pinned, hashed, wanted and listed; its files as they were published."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
AGENT_LOCK = ROOT / "requirements-agent.lock"
SHIPPED = ("all", "postgresql")
# Comes with every environment, in whatever release.
PIP = "pip"
# Apache-2.0 by the file LICENSE of its sources, which its metadata do not repeat.
SILENT_OF_LICENCE = ["sqlite-fts4"]
SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of a lock file."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (only,) = self.requirement.specifier
        assert only.operator == "==", f"{self.requirement} is not pinned"
        return only.version

    @property
    def is_for_here(self) -> bool:
        marker = self.requirement.marker
        return marker is None or marker.evaluate()


def pins(path: Path) -> list[Pin]:
    """A lock file; a package stands in it once for each kind of machine."""
    found: list[Pin] = []
    for logical in re.sub(r"\\\n", " ", path.read_text(encoding="utf-8")).splitlines():
        text, *hashes = logical.split("--hash=")
        if not text.strip():
            continue
        found.append(Pin(Requirement(text.strip()), tuple(each.strip() for each in hashes)))
    return found


def pins_here(path: Path) -> dict[str, Pin]:
    """Those for this machine, by package."""
    found: dict[str, Pin] = {}
    for pin in pins(path):
        if pin.is_for_here:
            assert pin.name not in found, f"{pin.name} stands twice"
            found[pin.name] = pin
    return found


def asked_for(extras: tuple[str, ...]) -> Iterator[Requirement]:
    """What setup.cfg wants for the base install and these extras."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
    for text in texts:
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                yield Requirement(line)


def closure(extras: tuple[str, ...]) -> dict[str, list[Requirement]]:
    """Everything that these bring with them here, by package, with what is asked of its version."""
    found: dict[str, list[Requirement]] = {}
    done: set[tuple[str, frozenset[str]]] = set()
    waiting = list(asked_for(extras))
    while waiting:
        wanted = waiting.pop()
        name, key = canonicalize_name(wanted.name), (canonicalize_name(wanted.name), frozenset(wanted.extras))
        found.setdefault(name, []).append(wanted)
        if key in done:
            continue
        done.add(key)
        for text in distribution(name).requires or ():
            needed = Requirement(text)
            extras_asked = ("", *wanted.extras)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras_asked):
                waiting.append(needed)
    return found


@pytest.mark.parametrize(("path", "extras"), [(LOCK, SHIPPED), (AGENT_LOCK, ())])
def test_the_lock_holds_what_is_asked_for_and_nothing_else(path: Path, extras: tuple[str, ...]) -> None:
    """Every package that setup.cfg brings is pinned to a release that it allows, with hashes; no other is."""
    pinned, wanted = pins_here(path), closure(extras)
    assert sorted(wanted.keys() - pinned.keys()) == [], "missing: run deploy/supply-chain.sh lock"
    assert sorted(pinned.keys() - wanted.keys()) == []
    for pin in pins(path):
        assert pin.hashes, f"{pin.name} has no hash"
        assert all(SHA256.fullmatch(each) for each in pin.hashes), pin.name
        for requirement in wanted.get(pin.name, ()):
            assert requirement.specifier.contains(pin.version, prereleases=True), f"{requirement}: {pin.version}"


def test_the_list_of_parts_is_that_of_the_lock() -> None:
    """The SBOM names every package of the lock for Linux with its version and licence, and no other."""
    bom = json.loads((ROOT / "deploy" / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert bom["bomFormat"] == "CycloneDX"
    listed = {canonicalize_name(each["name"]): each["version"] for each in bom["components"]}
    assert listed == {name: pin.version for name, pin in pins_here(LOCK).items()}
    unlicensed = [each["name"] for each in bom["components"] if not each.get("licenses")]
    assert unlicensed == SILENT_OF_LICENCE


def test_the_tests_run_with_the_releases_that_are_shipped() -> None:
    """Otherwise they would say nothing of what is installed."""
    different = {
        name: (distribution(name).version, pin.version)
        for name, pin in pins_here(LOCK).items()
        if name != PIP and distribution(name).version != pin.version
    }
    assert different == {}


def altered(installed: Distribution) -> list[str]:
    """Files of a package that are not as its own list of hashes has them."""
    found = []
    for file in installed.files or ():
        if file.hash is None:
            continue
        path = Path(str(file.locate()))
        if not path.is_file() or not _is_as_published(path, file.hash.mode, file.hash.value):
            found.append(str(file))
    return found


def _is_as_published(path: Path, algorithm: str, value: str) -> bool:
    digest = hashlib.new(algorithm, path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == value


def test_no_installed_file_was_altered() -> None:
    """The check that needs no network: what lies in the environment is what the packages brought."""
    found = {name: altered(distribution(name)) for name in pins_here(LOCK) if name != PIP}
    assert {name: files for name, files in found.items() if files} == {}


def test_an_altered_file_is_found(tmp_path: Path) -> None:
    """One byte is enough, and so is a file that is gone."""
    info = tmp_path / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (tmp_path / "toy.py").write_bytes(b"x = 1\n")
    empty = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    (info / "RECORD").write_text(f"toy.py,{empty},0\ntoy-1.0.dist-info/RECORD,,\n")
    toy = Distribution.at(info)
    assert altered(toy) == ["toy.py"]
    (tmp_path / "toy.py").write_bytes(b"")
    assert altered(toy) == []
    (tmp_path / "toy.py").unlink()
    assert altered(toy) == ["toy.py"]


@pytest.mark.real
def test_an_empty_machine_installs_from_the_lock(tmp_path: Path) -> None:
    """Hashes checked, nothing beside them; then each program tells its options."""
    python = tmp_path / "fallow" / "bin" / "python"
    run([sys.executable, "-m", "venv", str(tmp_path / "fallow")])
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "install", "--require-hashes", "--no-deps", "--requirement", str(LOCK)])
    # From a copy: building in the checkout would leave files there.
    run([*pip, "install", "--no-deps", "--no-index", "--find-links", str(wheel(tmp_path)), "fallow"])
    run([*pip, "check"])
    for program in ("fallow-agent", "fallow-aggregator", "fallow-report", "fallow-orchestrate"):
        assert "usage" in run([str(python.with_name(program)), "--help"])


def wheel(folder: Path) -> Path:
    """A directory with fallow's own wheel."""
    made, source = folder / "wheels", folder / "source"
    for package in ("agent", "aggregator", "reports", "orchestrate"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    run([sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--wheel-dir", str(made), str(source)])
    return made


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
