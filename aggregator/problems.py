"""Answers to what cannot be taken: RFC 9457 problem details. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request was refused.

    Args:
        status: HTTP status.
        reason: short name; the counter's label and the last part of `type`.
        detail: what is wrong and where, for a person.
        retry_after_s: when to come back, for 429 and 503.
        close: framing is broken or the peer abuses: close the connection after the answer.
    """

    status: int
    reason: str
    detail: str
    retry_after_s: int | None = None
    close: bool = False

    def body(self) -> bytes:
        """The `application/problem+json` document."""
        return json.dumps(
            {
                "type": f"urn:fallow:problem:{self.reason}",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": self.detail,
            }
        ).encode()


class Refused(Exception):
    """Carries a `Problem` out of the depths to the door that answers it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)
