"""HTTP responses of the agents' door as bytes. Pure; those of every push are made once."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from aggregator.problems import Problem

JSON: Final = b"application/json"
_PROBLEM_JSON: Final = b"application/problem+json"
_CLOSE: Final = b"Connection: close\r\n"
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


def render(
    status: int,
    body: bytes = b"",
    *,
    content_type: bytes = JSON,
    close: bool = False,
    headers: Mapping[bytes, bytes] | None = None,
    head_only: bool = False,
) -> bytes:
    """One response. `close` announces that the connection ends; `head_only` answers a HEAD."""
    lines = [_STATUS_LINES[status]]
    if status != HTTPStatus.NO_CONTENT:
        lines.append(b"Content-Type: %b\r\nContent-Length: %d\r\n" % (content_type, len(body)))
    for name, value in (headers or {}).items():
        lines.append(b"%b: %b\r\n" % (name, value))
    if close:
        lines.append(_CLOSE)
    lines.append(b"\r\n")
    if not head_only:
        lines.append(body)
    return b"".join(lines)


def render_problem(
    problem: Problem, *, close: bool = False, headers: Mapping[bytes, bytes] | None = None, head_only: bool = False
) -> bytes:
    """The answer to what was refused, with the headers its status asks for."""
    found = dict(headers or {})
    if problem.status == HTTPStatus.UNAUTHORIZED:
        found[b"WWW-Authenticate"] = b'Bearer realm="fallow"'
    if problem.retry_after_s is not None:
        found[b"Retry-After"] = b"%d" % problem.retry_after_s
    return render(
        problem.status,
        problem.body(),
        content_type=_PROBLEM_JSON,
        close=close or problem.close,
        headers=found,
        head_only=head_only,
    )


# A 204 has no body and no length.
STORED: Final = render(204)
STORED_CLOSE: Final = render(204, close=True)
