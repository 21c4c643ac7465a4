"""What the pages' server is asked and what it answers, as plain values. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aggregator.problems import Problem, Refused
from reports.people.identity import Identity

HTML = "text/html; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request that has passed every check of `reports.web.security`.

    Attributes:
        ids: what stands in the path where its route has `{...}`, decoded.
        query: parameters of the address; on a page an empty one counts as absent.
        form: fields of a form that was posted.
        document: of a JSON body, None without one.
        csrf: for the forms of a page that answers.
        target: path and query as they came, to come back to.
        who: is logged in, None on a route that is open to everybody and asked by nobody known.
        address: of the client, of whom a proxy speaks where the settings trust it.
        origin: of this server as the client reaches it, such as `https://fallow.example.org`.
        cookie: the header Cookie, for those who end sessions; None without one.
        browser: what this browser alone sends before anybody is logged in, None where it has sent nothing yet.
        if_match: the header If-Match: what a program has seen of what it changes; None without one.
    """

    method: str = "GET"
    # Links that open once stand in addresses, passwords in forms: none of it in a log.
    ids: tuple[str, ...] = field(default=(), repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] = field(default_factory=dict, repr=False)
    document: object = field(default=None, repr=False)
    csrf: str = field(default="", repr=False)
    target: str = field(default="/", repr=False)
    who: Identity | None = None
    address: str = ""
    origin: str = ""
    cookie: str | None = field(default=None, repr=False)
    browser: str | None = field(default=None, repr=False)
    if_match: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One response."""

    status: int = 200
    body: bytes = b""
    content_type: str = HTML
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Asked], Answer]
"""Makes one answer; it may block, and raises `aggregator.problems.Refused` where there is none to give."""


def json_answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """A value as JSON. Raises: ValueError: it holds a number that JSON has no word for."""
    body = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return Answer(status=status, body=body, content_type=JSON, headers=headers or {})


def problem_answer(problem: Problem, headers: Mapping[str, str] | None = None) -> Answer:
    """An error of the API."""
    retry = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    return Answer(
        status=problem.status,
        body=problem.body(),
        content_type="application/problem+json",
        headers={**retry, **(headers or {})},
    )


def see_other(href: str, headers: Mapping[str, str] | None = None) -> Answer:
    """After a form was taken: the page to go on with, so that reloading it posts nothing again."""
    return Answer(status=303, headers={"Location": href, **(headers or {})})


def wrong(detail: str) -> Refused:
    """A request that is well-formed and asks for what cannot be."""
    return Refused(Problem(422, "invalid", detail))


def stale(detail: str) -> Refused:
    """A form of a page that shows what is no longer so."""
    return Refused(Problem(412, "stale", detail))


def not_found(reason: str, detail: str) -> Refused:
    """Something that is not there."""
    return Refused(Problem(404, reason, detail))
