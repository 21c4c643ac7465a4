"""Settings of the agent: a TOML file, overruled by the command line, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from agent.enroll import is_interval_s
from agent.link import DEFAULT_TIMEOUT_S
from agent.server import DEFAULT_PORT, Server, parse_server
from agent.settings import (
    ConfigError,
    SettingsReader,
    parse_count,
    parse_duration_s,
    parse_flag,
    parse_size_bytes,
    parse_text,
)
from agent.spool import DEFAULT_MAX_BYTES
from agent.wire import VM_ID_PATTERN, is_vm_id

T = TypeVar("T")

# Command-line option → setting of the file.
OPTIONS: Mapping[str, str] = {
    "--aggregator": "aggregator",
    "--insecure-plain": "insecure_plain",
    "--ca": "ca",
    "--state": "state",
    "--vm-id": "vm_id",
    "--join-token-file": "join_token_file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Everything that can be set; each default stands here.

    Attributes:
        aggregator: where to push.
        insecure_plain: plain HTTP to another machine is wanted: tokens and figures are readable on the way.
        ca: PEM certificates to trust instead of the system's.
        tls_cert, tls_key: the VM's own certificate, where the aggregator asks for one.
        state: folder of the credential, the spool, the quarantine and the status.
        vm_id: overrules what `agent.identity` finds.
        interval_s: length of a sample; None: what enrolment said, else 60.
        join_token_file: what `run` enrols with while it has no token.
        rotate_every_s: between two exchanges of the token.
        timeout_s: of each wait for the aggregator.
        spool_max_bytes, spool_max_age_s: bounds of the spool; the age is kept as a number of samples.
        quarantine_max_files: refused samples kept for a person to look at.
    """

    aggregator: Server = field(default=Server(tls=False, host="127.0.0.1", port=DEFAULT_PORT))
    insecure_plain: bool = False
    ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    state: Path = Path("/var/lib/fallow-agent")
    vm_id: str | None = None
    interval_s: int | None = None
    join_token_file: Path | None = None
    rotate_every_s: float = 30 * 86400.0
    timeout_s: float = DEFAULT_TIMEOUT_S
    spool_max_bytes: int = DEFAULT_MAX_BYTES
    spool_max_age_s: float = 7 * 86400.0
    quarantine_max_files: int = 100

    @property
    def credential_path(self) -> Path:
        return self.state / "token.json"

    @property
    def status_path(self) -> Path:
        return self.state / "status.json"

    @property
    def lock_path(self) -> Path:
        return self.state / "lock"

    @property
    def quarantine_path(self) -> Path:
        return self.state / "quarantine"

    def spool_path(self, vm: str) -> Path:
        """Folder of one VM's spools: a cloned disk must not push its original's samples as its own."""
        return self.state / "spool" / vm


def parse_config(table: Mapping[str, Any], *, source: str, options: Mapping[str, object]) -> AgentConfig:
    """The settings of a TOML table and of the command line, which overrules it.

    Args:
        table: as read from the file.
        source: its name, for messages.
        options: by name as in OPTIONS; absent where not given.

    Raises: ConfigError: every mistake of both, unknown keys included.
    """
    file = SettingsReader(table, source=source)
    line = SettingsReader(options, source="command line")
    by_key = {key: option for option, key in OPTIONS.items()}
    default = AgentConfig()

    def take(key: str, parse: Any, fallback: T) -> T:
        value: T = file.take(key, parse, fallback)
        return line.take(by_key[key], parse, value) if key in by_key else value

    config = AgentConfig(
        aggregator=take("aggregator", parse_server, default.aggregator),
        insecure_plain=take("insecure_plain", parse_flag, default.insecure_plain),
        ca=take("ca", _parse_path, default.ca),
        tls_cert=take("tls.cert", _parse_path, default.tls_cert),
        tls_key=take("tls.key", _parse_path, default.tls_key),
        state=take("state", _parse_path, default.state),
        vm_id=take("vm_id", _parse_vm_id, default.vm_id),
        interval_s=take("interval", _parse_interval_s, default.interval_s),
        join_token_file=take("join_token_file", _parse_path, default.join_token_file),
        rotate_every_s=take("rotate_every", parse_duration_s, default.rotate_every_s),
        timeout_s=take("timeout", parse_duration_s, default.timeout_s),
        spool_max_bytes=take("spool.max_size", parse_size_bytes, default.spool_max_bytes),
        spool_max_age_s=take("spool.max_age", parse_duration_s, default.spool_max_age_s),
        quarantine_max_files=take("quarantine.max_files", parse_count, default.quarantine_max_files),
    )
    server = config.aggregator
    if not server.tls and not server.is_loopback and not config.insecure_plain:
        reader, key = (line, "--aggregator") if "--aggregator" in options else (file, "aggregator")
        reader.reject(key, f"{server} is plain HTTP to another machine: use https:// (or --insecure-plain)")
    if (config.tls_cert is None) != (config.tls_key is None):
        file.reject("tls.cert", "tls.cert and tls.key: one needs the other")
    elif config.tls_cert is not None and not server.tls:
        file.reject("tls.cert", f"{server} is plain HTTP: there a certificate is shown to nobody")
    _finish(file, line)
    return config


def _finish(*readers: SettingsReader) -> None:
    problems: list[str] = []
    for reader in readers:
        try:
            reader.finish()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _parse_path(value: object) -> Path:
    text = parse_text(value)
    if "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    return Path(text)


def _parse_vm_id(value: object) -> str:
    text = parse_text(value)
    if not is_vm_id(text):
        raise ValueError(f"{text!r} is not a VM id ({VM_ID_PATTERN})")
    return text


def _parse_interval_s(value: object) -> int:
    seconds = parse_duration_s(value)
    if seconds != int(seconds) or not is_interval_s(int(seconds)):
        raise ValueError(f"{value!r} is not whole seconds that divide an hour")
    return int(seconds)
