"""libvirt's errors → those of `orchestrate.driver`."""

from __future__ import annotations

from typing import Any

from orchestrate.driver import Busy, DriverError, NotFound, Refused, Unreachable

# Part of libvirt's ABI: codes (virErrorNumber) and the one domain that tells of connections (virErrorDomain).
_NO_SUPPORT, _RPC, _NO_DOMAIN, _OPERATION_INVALID = 3, 39, 42, 55
_AUTH_FAILED, _AUTH_CANCELLED, _AUTH_UNAVAILABLE = 45, 79, 94
_OPERATION_TIMEOUT, _OPERATION_UNSUPPORTED, _RESOURCE_BUSY = 68, 84, 87
_FROM_RPC = 7

_CONNECTION = frozenset({_RPC, _AUTH_FAILED, _AUTH_CANCELLED, _AUTH_UNAVAILABLE})
# Another job has the domain, and libvirt waited for it in vain.
_BUSY = frozenset({_OPERATION_TIMEOUT, _RESOURCE_BUSY})


def is_gone(error: Any) -> bool:
    """A libvirtError: there is no such domain (any more)."""
    return bool(error.get_error_code() == _NO_DOMAIN)


def is_busy(error: Any) -> bool:
    """A libvirtError: another job has the domain."""
    return error.get_error_code() in _BUSY


def says_no(error: Any) -> bool:
    """A libvirtError: this hypervisor does not tell that, or not now."""
    return error.get_error_code() in {_NO_SUPPORT, _OPERATION_INVALID}


def is_arriving(error: Any) -> bool:
    """A libvirtError, asked for a domain's job: it is being migrated to here, which its source alone tells about."""
    return bool(error.get_error_code() == _OPERATION_UNSUPPORTED)


def is_of_connection(error: Any) -> bool:
    """A libvirtError: of the connection, and not of what was asked over it."""
    return error.get_error_code() in _CONNECTION or error.get_error_domain() == _FROM_RPC


def translated(error: Any, *, host_id: str, uuid: str | None = None, is_alive: bool = True) -> DriverError:
    """The error of an attempt that changed nothing.

    Args: error: a libvirtError. is_alive: the connection still stood after it.
    """
    code, words = error.get_error_code(), words_of(error)
    kind: type[DriverError]
    if not is_alive or is_of_connection(error):
        kind = Unreachable
    elif code in _BUSY:
        kind = Busy
    elif code == _NO_DOMAIN:
        kind = NotFound
    else:
        kind = Refused
    return kind(f"{host_id}: {words}", host_id=host_id, uuid=uuid)


def words_of(error: Any) -> str:
    """libvirt's own words, on one line."""
    return " ".join((error.get_error_message() or str(error)).split())
