"""Settings of the aggregator: one frozen value, every default stated once, every mistake reported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
)
from aggregator.addresses import Network, parse_networks
from aggregator.admission import Check, parse_check
from aggregator.listen_settings import ListenSettings, TlsFiles, plain_problem
from aggregator.node_name import parse_node_name, parse_node_url
from aggregator.summary import WINDOWS_DAYS

_DAY_S = 86400.0
_MAX_WINDOW_DAYS = 50  # sums of bytes over a window fit 64 bits at the largest rate the wire allows
_MAX_WINDOWS = 16
_MAX_DURATION_S = 100 * 365 * _DAY_S
_MAX_BATCH_SAMPLES = 20_000  # what is acknowledged must fit into one record of the journal, 2 MiB


def parse_windows(value: object) -> tuple[int, ...]:
    """Whole days of `1d,7d,14d` (or a list of such), rising. Raises: ValueError."""
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"{value!r} is not a list of days (such as 1d,7d,14d)")
    days: set[int] = set()
    for text in texts:
        length_s = parse_duration_s(text)
        if length_s % _DAY_S or length_s > _MAX_WINDOW_DAYS * _DAY_S:
            raise ValueError(f"{text!r} is not a whole number of days, at most {_MAX_WINDOW_DAYS}")
        days.add(int(length_s // _DAY_S))
    if len(days) > _MAX_WINDOWS:
        raise ValueError(f"{len(days)} windows are more than {_MAX_WINDOWS}")
    return tuple(sorted(days))


def _path(value: object) -> Path:
    text = parse_text(value)
    if "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    return Path(text)


def _flag(value: object) -> bool:
    """Of a file, or of the command line, where an option that is given is true."""
    return parse_flag({"true": True, "false": False}.get(value, value) if isinstance(value, str) else value)


def _duration_s(value: object) -> float:
    seconds = parse_duration_s(value)
    if seconds > _MAX_DURATION_S:
        raise ValueError(f"{value!r} is longer than 100 years")
    return seconds


def _batch_samples(value: object) -> int:
    count = parse_count(value)
    if count > _MAX_BATCH_SAMPLES:
        raise ValueError(f"{count} is more than {_MAX_BATCH_SAMPLES}")
    return count


def default_data_dir() -> Path:
    """`FALLOW_DATA`, else /var/lib/fallow."""
    return Path(os.environ.get("FALLOW_DATA") or "/var/lib/fallow")


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorConfig:
    """Everything that can be set. `metadata["key"]` is the dotted name in TOML.

    Attributes:
        listen, admin: host and port of the two doors; port 0 takes a free one.
        tls_cert, tls_key: PEM files; both or neither.
        tls_client_ca: agents must have a certificate of one of these authorities.
        plain_behind_proxy: plain text to other machines is wanted: a proxy ends TLS.
        proxies: whose `X-Forwarded-For` is believed.
        enrolment_check: what VMs that enrol are held against.
        fleet_url: of the fleet database; None is fleet.db in the data directory.
        node_name: of this aggregator among those of its fleet; None: made once, and kept in the data directory.
        node_url: where the others and the report ask its admin door; None: as it listens.
        node_ca: PEM authorities of the others' admin doors; None: the system's.
        join_interval_s, join_after_s: how often parts of histories that others hold are looked for, and how long a
            large one is left where it is.
        flush_turns: each VM's samples are stored by every so manieth flush.
        buffer_samples: unstored samples held in memory before pushes are answered 503.
    """

    data_dir: Path = field(default_factory=default_data_dir, metadata={"key": "data", "parse": _path})
    listen: tuple[str, int] = field(default=("127.0.0.1", 8899), metadata={"key": "listen", "parse": parse_host_port})
    admin: tuple[str, int] = field(default=("127.0.0.1", 8900), metadata={"key": "admin", "parse": parse_host_port})
    tls_cert: Path | None = field(default=None, metadata={"key": "tls.cert", "parse": _path})
    tls_key: Path | None = field(default=None, metadata={"key": "tls.key", "parse": _path})
    tls_client_ca: Path | None = field(default=None, metadata={"key": "tls.client_ca", "parse": _path})
    plain_behind_proxy: bool = field(default=False, metadata={"key": "plain_behind_proxy", "parse": _flag})
    proxies: tuple[Network, ...] = field(default=(), metadata={"key": "proxies", "parse": parse_networks})
    enrolment_check: Check = field(default=Check.AUTO, metadata={"key": "enrolment.check", "parse": parse_check})
    fleet_url: str | None = field(default=None, repr=False, metadata={"key": "fleet.url", "parse": parse_text})
    node_name: str | None = field(default=None, metadata={"key": "node.name", "parse": parse_node_name})
    node_url: str | None = field(default=None, metadata={"key": "node.url", "parse": parse_node_url})
    node_ca: Path | None = field(default=None, metadata={"key": "node.ca", "parse": _path})
    join_interval_s: float = field(default=60.0, metadata={"key": "join.interval", "parse": _duration_s})
    join_after_s: float = field(default=3600.0, metadata={"key": "join.after", "parse": _duration_s})
    flush_interval_s: float = field(default=900.0, metadata={"key": "flush.interval", "parse": _duration_s})
    flush_turns: int = field(default=4, metadata={"key": "flush.turns", "parse": parse_count})
    flush_workers: int = field(default=1, metadata={"key": "flush.workers", "parse": parse_count})
    windows_days: tuple[int, ...] = field(
        default=WINDOWS_DAYS, metadata={"key": "summary.windows", "parse": parse_windows}
    )
    raw_retention_s: float = field(default=14 * _DAY_S, metadata={"key": "retention.raw", "parse": _duration_s})
    hour_retention_s: float = field(default=400 * _DAY_S, metadata={"key": "retention.hours", "parse": _duration_s})
    buffer_samples: int = field(default=4_000_000, metadata={"key": "buffer.samples", "parse": parse_count})
    segment_bytes: int = field(default=64 << 20, metadata={"key": "journal.segment", "parse": parse_size_bytes})
    connections: int | None = field(default=None, metadata={"key": "limits.connections", "parse": parse_count})
    per_address: int | None = field(default=None, metadata={"key": "limits.per_address", "parse": parse_count})
    per_token: int | None = field(default=None, metadata={"key": "limits.per_token", "parse": parse_count})
    batch_samples: int | None = field(default=None, metadata={"key": "limits.batch_samples", "parse": _batch_samples})
    body_bytes: int | None = field(default=None, metadata={"key": "limits.body", "parse": parse_size_bytes})
    header_bytes: int | None = field(default=None, metadata={"key": "limits.headers", "parse": parse_size_bytes})
    request_s: float | None = field(default=None, metadata={"key": "limits.request_time", "parse": _duration_s})

    @property
    def listening(self) -> ListenSettings:
        """How the doors listen."""
        tls = None
        if self.tls_cert is not None and self.tls_key is not None:
            tls = TlsFiles(cert=self.tls_cert, key=self.tls_key, client_ca=self.tls_client_ca)
        return ListenSettings(tls=tls, plain_behind_proxy=self.plain_behind_proxy, proxies=self.proxies)

    @classmethod
    def parse(
        cls, table: Mapping[str, Any], *, source: str, options: Mapping[str, str] | None = None
    ) -> AggregatorConfig:
        """Settings from TOML tables and, over them, command-line options by dotted key.

        Raises: ConfigError: every unknown key, wrong value and contradiction, each named.
        """
        reader = SettingsReader(table, source=source)
        values: dict[str, Any] = {}
        base = cls()
        for item in fields(cls):
            values[item.name] = reader.take(item.metadata["key"], item.metadata["parse"], getattr(base, item.name))
        problems: list[str] = []
        for item in fields(cls):
            text = (options or {}).get(item.metadata["key"])
            if text is not None:
                try:
                    values[item.name] = item.metadata["parse"](text)
                except ValueError as error:
                    problems.append(f"{option_name(item.metadata['key'])}: {error}")
        config = cls(**values)
        if (config.tls_cert is None) != (config.tls_key is None):
            problems.append("tls.cert and tls.key: one needs the other")
        else:
            for key, address in (("listen", config.listen), ("admin", config.admin)):
                problem = plain_problem(address, config.listening, key=key)
                problems += [] if problem is None else [problem]
        if config.tls_client_ca is not None and config.tls_cert is None:
            problems.append("tls.client_ca: certificates of agents need tls.cert and tls.key")
        if config.hour_retention_s < max(config.windows_days) * _DAY_S:
            problems.append("retention.hours: shorter than the longest of summary.windows")
        try:
            reader.finish()
        except ConfigError as error:
            problems = [*error.problems, *problems]
        if problems:
            raise ConfigError(problems)
        return config


def load_config(path: Path | None, options: Mapping[str, str]) -> AggregatorConfig:
    """The settings of a file, if there is one, and over them options of the command line by dotted key.

    Raises: ConfigError: as `AggregatorConfig.parse`; the file cannot be read, or holds a password that others may read.
    """
    table = {} if path is None else load_toml(path)
    config = AggregatorConfig.parse(table, source="settings" if path is None else str(path), options=options)
    if path is not None and "fleet.url" not in options:
        refuse_open_password(path, config.fleet_url)
    return config


def refuse_open_password(path: Path, fleet_url: str | None) -> None:
    """Raises ConfigError: `fleet_url`, out of the file at `path`, holds a password, and others may read the file."""
    try:
        has_password = fleet_url is not None and urlsplit(fleet_url).password is not None
    except ValueError:
        has_password = True
    mode = path.stat().st_mode
    if has_password and mode & 0o077:
        raise ConfigError(
            f"{path}: fleet.url: holds a password, and others may read it (mode {mode & 0o777:04o}): "
            f"run chmod 600 {path}"
        )


def option_name(key: str) -> str:
    """The command-line option of a dotted key: `flush.interval` → `--flush-interval`."""
    return "--" + key.removeprefix("summary.").replace(".", "-").replace("_", "-")
