"""What the libvirt driver is told: hosts, how long a guest may take to go down, how VMs migrate. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.settings import SettingsReader, parse_count, parse_duration_s, parse_flag, parse_text
from orchestrate.drivers.libvirt_uri import HypervisorUri, parse_uri
from orchestrate.drivers.registry import DriverConfig

# Post-copy is not among them: when the link breaks in its middle the VM is lost. Nor is copying of disks, which would
# leave a second disk behind.
MIGRATE_FLAGS = frozenset({"auto-converge", "compressed", "tls", "tunnelled", "unsafe"})
_HOST_KEYS = frozenset({"uri", "name", "migrate_uri", "accepts", "tags"})
_LOCAL_NAME = "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """One host.

    Args:
        host_id: its name in all that the driver tells.
        migrate_uri: the address under which other hosts reach its libvirt; None: VMs cannot move there.
        accepts: VMs may be brought there.
    """

    host_id: str
    uri: HypervisorUri
    migrate_uri: HypervisorUri | None = None
    accepts: bool = True
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtSettings:
    """One site.

    Args:
        stop_within_s: how long a guest may take from the power button to being off.
        migrate_flags: out of MIGRATE_FLAGS.
        migrate_mib_per_s: at most; None leaves it to libvirt.
    """

    hosts: tuple[HostSettings, ...]
    stop_within_s: float = 120.0
    migrate_flags: frozenset[str] = frozenset()
    migrate_mib_per_s: int | None = None

    @property
    def migrates(self) -> bool:
        """VMs can move from each host to each other one."""
        return len(self.hosts) > 1 and all(host.migrate_uri is not None for host in self.hosts)


def parse_settings(config: DriverConfig) -> LibvirtSettings:
    """The settings. Raises: ConfigError: every mistake in them, each with its place."""
    reader = SettingsReader(config.settings, source=config.source)
    allow_plain = reader.take("allow_plain", parse_flag, False)
    stop_within_s = reader.take("stop_within", parse_duration_s, 120.0)
    flags = reader.take("migrate_flags", _flags, frozenset[str]())
    mib_per_s = reader.take("migrate_mib_per_s", parse_count, 0)
    tables = reader.take("hosts", _tables, None)
    hosts: dict[str, HostSettings] = {}
    for number, table in enumerate(tables or ()):
        try:
            host = _host(table, allow_plain)
        except ValueError as error:
            reader.reject(f"hosts[{number}]", str(error))
            continue
        if host.host_id in hosts:
            reader.reject(f"hosts[{number}]", f"another host is called {host.host_id!r}: give each its own name")
        hosts[host.host_id] = host
    if tables is None and "hosts" not in config.settings:
        reader.reject("hosts", 'is missing (such as ["qemu+ssh://root@hv1/system"])')
    reader.finish()
    return LibvirtSettings(
        hosts=tuple(hosts.values()),
        stop_within_s=stop_within_s,
        migrate_flags=flags,
        migrate_mib_per_s=mib_per_s or None,
    )


def _tables(value: object) -> list[Mapping[str, object]]:
    if not isinstance(value, list) or not value:
        raise ValueError("is not a list of hosts")
    tables: list[Mapping[str, object]] = []
    for each in value:
        if not isinstance(each, str | Mapping):
            raise ValueError(f"{each!r} is neither an address nor a table with `uri`")
        tables.append({"uri": each} if isinstance(each, str) else each)
    return tables


def _host(table: Mapping[str, object], allow_plain: bool) -> HostSettings:
    unknown = sorted(table.keys() - _HOST_KEYS)
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown setting")
    if "uri" not in table:
        raise ValueError("uri: is missing")
    uri = parse_uri(table["uri"], allow_plain=allow_plain)
    return HostSettings(
        host_id=parse_text(table.get("name", uri.host or _LOCAL_NAME)),
        uri=uri,
        migrate_uri=_migrate_uri(table, uri, allow_plain),
        accepts=parse_flag(table.get("accepts", True)),
        tags=_texts(table.get("tags", [])),
    )


def _migrate_uri(table: Mapping[str, object], uri: HypervisorUri, allow_plain: bool) -> HypervisorUri | None:
    """As told; else the address that we use ourselves, where that means something on another machine too."""
    if "migrate_uri" not in table:
        return uri if uri.host is not None else None
    if uri.is_test:
        raise ValueError("migrate_uri: libvirt's test driver moves no VM")
    try:
        told = parse_uri(table["migrate_uri"], allow_plain=allow_plain)
    except ValueError as error:
        raise ValueError(f"migrate_uri: {error}") from error
    if told.host is None:
        raise ValueError(f"migrate_uri: {told.text!r} names no host: from another one it leads nowhere")
    return told


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list of texts")
    return tuple(parse_text(each) for each in value)


def _flags(value: object) -> frozenset[str]:
    flags = frozenset(_texts(value))
    if not flags <= MIGRATE_FLAGS:
        raise ValueError(f"{min(flags - MIGRATE_FLAGS)!r} is none of {', '.join(sorted(MIGRATE_FLAGS))}")
    return flags
