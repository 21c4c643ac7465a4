"""Asking the aggregator that runs on a data directory, for commands that end by themselves."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

from agent.settings import ConfigError, parse_host_port, read_secret
from aggregator.problems import Problem, Refused

ADDRESS_FILE_NAME = "admin.address"
_ANSWER_TIMEOUT_S = 60.0
_MAX_DETAIL_BYTES = 64 << 10


def ask_daemon(data_dir: Path, method: str, target: str, *, of: frozenset[int]) -> int | None:
    """The status that its admin door answers; None: no aggregator runs on this directory.

    Args: of: statuses that are an answer.

    Raises:
        ConfigError: its address or its token cannot be read.
        Refused: it does not answer, or with another status.
    """
    address_file = data_dir / ADDRESS_FILE_NAME
    try:
        address = address_file.read_text(encoding="ascii").strip()
        host, port = parse_host_port(address)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{address_file}: {error}") from error
    token = read_secret(data_dir / "admin.token")
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_TIMEOUT_S)
    try:
        connection.request(method, target, headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        status, body = response.status, response.read(_MAX_DETAIL_BYTES)
    except ConnectionRefusedError:
        return None  # the address outlived a daemon that was killed
    except (OSError, http.client.HTTPException) as error:
        # It may be at work on what was asked.
        raise Refused(Problem(503, "no-answer", f"the aggregator at {address} did not answer: {error}")) from error
    finally:
        connection.close()
    if status not in of:
        detail = f"the aggregator at {address} answered {status} to {method} {target}{_why(body)}"
        raise Refused(Problem(status, "refused", detail))
    return status


def _why(body: bytes) -> str:
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
    return f": {detail}"
