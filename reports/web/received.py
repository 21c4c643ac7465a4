"""A request of twisted.web as plain values, and what its parameters, form or document say."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from twisted.web.server import Request

from aggregator.addresses import Proxies
from aggregator.problems import Problem, Refused
from reports.web.answers import wrong
from reports.web.routes import Kind

_MAX_FIELDS = 100
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a thread needs of a request, which it must not touch.

    Attributes:
        address: of the client, for whom a trusted proxy may speak.
        cookie, authorization: headers; they hold secrets, as the address and the body may.
    """

    method: str
    path: bytes = field(repr=False)
    target: str = field(repr=False)
    query: bytes = field(repr=False)
    body: bytes = field(repr=False)
    host: str | None
    address: str
    content_type: str
    origin: str | None
    site: str | None
    csrf: str = field(repr=False)
    if_match: str | None
    cookie: str | None = field(repr=False)
    authorization: str | None = field(repr=False)

    def parameters(self, kind: Kind) -> dict[str, str]:
        """Those of the address. Raises: Refused, 422."""
        # A form sends its empty fields too; a program that sends one means it.
        return {name: value for name, value in _fields(self.query).items() if value or kind is Kind.API}

    def form(self) -> dict[str, str]:
        """The fields that a page posted. Raises: Refused: 415, 422."""
        if self.content_type != _FORM:
            raise Refused(Problem(415, "media-type", f"a form is sent as {_FORM}"))
        return _fields(self.body)

    def document(self) -> object:
        """The JSON that a program posted. Raises: Refused: 415, 400."""
        # Another site's page cannot send this type without asking first, which is never granted.
        if self.content_type != "application/json":
            raise Refused(Problem(415, "media-type", "the body has to be application/json"))
        try:
            return json.loads(self.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise Refused(Problem(400, "json", "the body is not JSON")) from error


def receive(request: Request, csrf_header: str, proxies: Proxies) -> Received:
    """Reads a request, in the reactor's thread.

    Args: csrf_header: in which a program with a cookie sends what a form has in a field.
    """
    plain: Any = request  # partly without types
    peer = getattr(plain.getClientAddress(), "host", "")
    forwarded = ",".join(request.requestHeaders.getRawHeaders("x-forwarded-for") or [])
    return Received(
        method=request.method.decode("latin-1"),
        path=request.path,
        target=request.uri.decode("latin-1"),
        query=request.uri.partition(b"?")[2],
        body=plain.content.read(),
        host=header(request, b"host"),
        address=proxies.client(peer, forwarded),
        content_type=(header(request, b"content-type") or "").partition(";")[0].strip().lower(),
        origin=header(request, b"origin"),
        site=header(request, b"sec-fetch-site"),
        csrf=header(request, csrf_header.encode()) or "",
        if_match=header(request, b"if-match"),
        cookie=header(request, b"cookie"),
        authorization=header(request, b"authorization"),
    )


def header(request: Request, name: bytes) -> str | None:
    """A header that stands there once."""
    values = request.requestHeaders.getRawHeaders(name)
    if values and len(values) > 1 and name == b"authorization":
        # Two of them are nobody's, and not the cookie's owner's either.
        return ""
    # A header that stands twice is read in two ways by two programs: neither counts.
    return values[0].decode("latin-1") if values and len(values) == 1 else None


def _fields(text: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            text.decode("ascii", "replace"), keep_blank_values=True, errors="replace", max_num_fields=_MAX_FIELDS
        )
    except ValueError as error:
        raise wrong(f"more than {_MAX_FIELDS} parameters") from error
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name in fields:
            raise wrong(f"{name[:80]}: stands twice")
        fields[name] = value
    return fields


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
