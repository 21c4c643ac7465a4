"""What a fleet database that cannot be used says, in words and kinds that all programs share."""

from __future__ import annotations

import re

import sqlalchemy as sa

# What SQLAlchemy raises for a server that is away.
AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)

# No such login, no such database, not allowed to. The driver has no code for what the server said to a log-in, only its
# text; one in another language than English counts as a server that does not answer.
_REFUSING_STATES = re.compile(r"28...|3D000|42501")
_TRY_AGAIN = frozenset({"40001", "40P01"})  # PostgreSQL's serialization_failure and deadlock_detected
_REFUSING_WORDS = re.compile(
    r"authentication failed|no pg_hba\.conf entry|pg_hba\.conf rejects|no password supplied|"
    r"is not permitted to log in|permission denied for database|(?:database|role) \".*\" does not exist"
)


def is_refusal(error: BaseException) -> bool:
    """Whether the server answers and will not have us: a mistake in the settings, here or there."""
    said = getattr(error, "orig", None)
    if not isinstance(error, sa.exc.DBAPIError) or said is None:
        return False
    state = getattr(said, "sqlstate", None)
    if state is not None:
        return _REFUSING_STATES.fullmatch(state) is not None
    return isinstance(error, AWAY) and _REFUSING_WORDS.search(str(said)) is not None


def was_for_another(error: sa.exc.DBAPIError) -> bool:
    """Whether a transaction failed for another at the same time, or for an old connection: it may be tried again."""
    # The pool's connections do not know that the server was started anew until they are used.
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _TRY_AGAIN


def trouble(error: BaseException) -> str:
    """What is wrong, on one line."""
    what = "refuses" if is_refusal(error) else "does not answer"
    return f"the fleet database {what}: {one_line(error)}"


def one_line(error: BaseException | None) -> str:
    """What went wrong, without the statement, and without SQLAlchemy's advice."""
    said = getattr(error, "orig", None) or error
    return " ".join(str(said).split()) or type(error).__name__
