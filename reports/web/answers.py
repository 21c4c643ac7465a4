"""What the pages' server is asked and what it answers, as plain values. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aggregator.problems import Problem, Refused

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
    """

    method: str = "GET"
    ids: tuple[str, ...] = ()
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    document: object = None
    csrf: str = ""
    target: str = "/"


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


def see_other(href: str) -> Answer:
    """After a form was taken: the page to go on with, so that reloading it posts nothing again."""
    return Answer(status=303, headers={"Location": href})


def wrong(detail: str) -> Refused:
    """A request that is well-formed and asks for what cannot be."""
    return Refused(Problem(422, "invalid", detail))


def not_found(reason: str, detail: str) -> Refused:
    """Something that is not there."""
    return Refused(Problem(404, reason, detail))
