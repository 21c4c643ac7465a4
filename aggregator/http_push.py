"""A push that came whole, as our agents and a HAProxy before them write it, without a parser's callbacks. Pure.

Nearly every request is such a one, and one regular expression takes a fifth of the time of asking a general parser for
each header. It takes nothing that `aggregator.http` would refuse, and makes the same of what it takes; anything else,
and all that is only odd, is left to that.
"""

from __future__ import annotations

import re

_WORD = rb": ([!-~]+)\r\n"
_LENGTH = rb"(?:(?i:content-length): ([0-9]{1,8})\r\n)?"
# In the order in which they are written. The length comes before ours, or after them.
_match = re.compile(
    rb"POST /v1/samples HTTP/1\.1\r\n"
    rb"(?i:host): [!-~]+\r\n"
    rb"(?:(?i:accept-encoding): [!-~]+\r\n)?"
    + _LENGTH
    + rb"(?i:authorization): ([!-~]+ [!-~]+)\r\n"
    + rb"(?i:fallow-vm)"
    + _WORD
    + rb"(?i:content-type)"
    + _WORD
    + rb"(?:(?i:content-encoding)"
    + _WORD
    + rb")?(?:(?i:fallow-dropped)"
    + _WORD
    + rb")?"
    + _LENGTH
    + rb"(?:(?i:x-forwarded-for)"
    + _WORD
    + rb")?\r\n"
).match

Parts = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes]


def whole_push(data: bytes, *, head_bytes: int, body_bytes: int) -> Parts | None:
    """Takes bytes that begin where a request begins.

    Args: head_bytes, body_bytes: the most that they may have.
    Returns: Authorization, Fallow-VM, Content-Type, Content-Encoding, Fallow-Dropped and X-Forwarded-For (b"" where
        absent), and the body; None where the data are not exactly one push, or not one as above.
    """
    found = _match(data)
    if found is None:
        return None
    early, authorization, vm, content_type, encoding, dropped, late, forwarded_for = found.groups(b"")
    body_at = found.end()
    # Without one of the two, or with both, it is not for us to say how long the body is.
    if bool(early) == bool(late) or int(early or late) != len(data) - body_at:
        return None
    if body_at > head_bytes or len(data) - body_at > body_bytes:
        return None
    return authorization, vm, content_type, encoding, dropped, forwarded_for, data[body_at:]
