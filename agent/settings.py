"""Reading settings: durations, sizes, addresses and TOML tables, with every mistake reported at once."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

CREDENTIALS = "CREDENTIALS_DIRECTORY"

_DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE_UNITS_BYTES = {
    "": 1,
    "B": 1,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*\Z")


class ConfigError(Exception):
    """Settings that cannot be used. `problems` names each mistake and where it is."""

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def parse_duration_s(text: object) -> float:
    """Seconds of `30s`, `15min`, `1.5h`, `14d`; always more than zero.

    Raises: ValueError: anything else; a bare number too, since its unit would be a guess.
    """
    match = _NUMBER_AND_UNIT.match(text) if isinstance(text, str) else None
    unit_s = _DURATION_UNITS_S.get(match[2]) if match else None
    if match is None or unit_s is None:
        raise ValueError(f"{text!r} is not a duration (such as 30s, 15min, 2h, 14d)")
    seconds = float(match[1]) * unit_s
    if not 0 < seconds < math.inf:
        raise ValueError(f"{text!r} is not more than zero")
    return seconds


def parse_size_bytes(text: object) -> int:
    """Bytes of `64MiB`, `512KiB`, `1GB` or a bare whole number; always more than zero.

    Raises: ValueError: anything else.
    """
    match = _NUMBER_AND_UNIT.match(str(text)) if isinstance(text, str | int) and not isinstance(text, bool) else None
    unit_bytes = _SIZE_UNITS_BYTES.get(match[2].upper()) if match else None
    if match is None or unit_bytes is None:
        raise ValueError(f"{text!r} is not a size (such as 64MiB)")
    size = float(match[1]) * unit_bytes
    if not 1 <= size < math.inf:
        raise ValueError(f"{text!r} is not more than zero")
    return int(size)


def parse_host_port(text: object) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8899` or `[::1]:8899`; port 0 asks for any free one.

    Raises: ValueError: no host, no port, or a port outside 0..65535.
    """
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def parse_count(text: object) -> int:
    """A whole number of at least one. Raises: ValueError."""
    if isinstance(text, int) and not isinstance(text, bool):
        value = text
    elif isinstance(text, str) and text.isascii() and text.removeprefix("-").isdigit():
        value = int(text)
    else:
        raise ValueError(f"{text!r} is not a whole number")
    if value < 1:
        raise ValueError(f"{value} is not at least 1")
    return value


def parse_text(text: object) -> str:
    """A non-empty string. Raises: ValueError."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"{text!r} is not a text")
    return text


def parse_flag(value: object) -> bool:
    """true or false. Raises: ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


class SettingsReader:
    """Takes settings out of nested tables and remembers every mistake until `finish`.

    >>> reader = SettingsReader({"flush": {"interval": "15min"}}, source="aggregator.toml")
    >>> reader.take("flush.interval", parse_duration_s, 900.0)
    900.0
    >>> reader.finish()
    """

    def __init__(self, table: Mapping[str, Any], *, source: str) -> None:
        self._source = source
        self._values = dict(_flatten(table))
        self._known: set[str] = set()
        self._problems: list[str] = []

    def take(self, key: str, parse: Callable[[object], T], default: T) -> T:
        """The value of `key` (dotted), or `default` where it is absent or wrong."""
        self._known.add(key)
        if key not in self._values:
            return default
        try:
            return parse(self._values[key])
        except ValueError as error:
            self._problems.append(f"{self._source}: {key}: {error}")
            return default

    def reject(self, key: str, problem: str) -> None:
        """Notes a mistake that only several settings together show."""
        self._problems.append(f"{self._source}: {key}: {problem}")

    def finish(self) -> None:
        """Raises ConfigError: any mistake so far, or a key nobody asked for."""
        for key in sorted(self._values.keys() - self._known):
            self._problems.append(f"{self._source}: {key}: unknown setting")
        if self._problems:
            raise ConfigError(self._problems)


def _flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            pairs.extend(_flatten(value, f"{prefix}{key}."))
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def load_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigError: unreadable or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error
    except ValueError as error:  # not UTF-8, not TOML, or a number of more digits than Python reads
        raise ConfigError(f"{path}: {error}") from error


def secret_path(path: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Where a secret lies: a path that begins with `$CREDENTIALS_DIRECTORY/` is one that systemd hands over.

    Raises ConfigError: systemd has handed over nothing.
    """
    if path.parts[:1] != (f"${CREDENTIALS}",):
        return path
    folder = environment.get(CREDENTIALS)
    if not folder:
        raise ConfigError(f"{path}: there is no {CREDENTIALS}: give the unit a LoadCredential={path.name}:FILE")
    return Path(folder, *path.parts[1:])


def read_secret(path: Path, environment: Mapping[str, str] = os.environ) -> str:
    """The text of a file that only its owner may read, or of a credential (`secret_path`).

    Raises ConfigError: absent, empty, or readable by others.
    """
    place = secret_path(path, environment)
    try:
        mode = place.stat().st_mode
        text = place.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    # Of a credential the directory says who may: systemd may grant a user access by a list, which shows as a group's.
    if mode & 0o077 and place == path:
        raise ConfigError(f"{path}: readable by others (mode {mode & 0o777:04o}): run chmod 600 {path}")
    if not text:
        raise ConfigError(f"{path}: is empty")
    return text
