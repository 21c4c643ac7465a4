"""A database that refuses is told from one that does not answer, whatever the driver knows of it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from aggregator.fleet_errors import is_refusal, one_line, trouble


class Said(Exception):
    """What a driver raises. `sqlstate`: None where the server said no to a log-in."""

    def __init__(self, text: str, sqlstate: str | None = None) -> None:
        self.sqlstate = sqlstate
        super().__init__(text)


def away(text: str, sqlstate: str | None = None) -> sa.exc.OperationalError:
    return sa.exc.OperationalError("SELECT 1", {}, Said(text, sqlstate))


AT = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    "error",
    [
        away(AT + 'FATAL:  password authentication failed for user "fallow"'),
        away(AT + 'FATAL:  Peer authentication failed for user "fallow"'),
        away(AT + 'FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "fallow", database "fallow", no encryption'),
        away(AT + "fe_sendauth: no password supplied"),
        away(AT + 'FATAL:  database "fallow" does not exist'),
        away(AT + 'FATAL:  role "fallow" does not exist'),
        away(AT + 'FATAL:  role "fallow" is not permitted to log in'),
        away("whatever it says", "28P01"),
        away("whatever it says", "3D000"),
        sa.exc.ProgrammingError("CREATE TABLE x", {}, Said("permission denied for schema public", "42501")),
    ],
    ids=str,
)
def test_a_server_that_says_no_refuses(error: Exception) -> None:
    """No login, no database, no right: something to be set right, not to be waited for."""
    assert is_refusal(error)
    assert trouble(error).startswith("the fleet database refuses: ")


@pytest.mark.parametrize(
    "error",
    [
        away(AT + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?"),
        away(AT + "FATAL:  the database system is starting up"),
        away(AT + "FATAL:  sorry, too many clients already"),
        away('connection to server on socket "/run/x" failed: No such file or directory'),
        away("password authentication failed", "57P03"),
        away("terminating connection due to administrator command", "57P01"),
        away("database is locked"),
        sa.exc.TimeoutError("QueuePool limit"),
        ConnectionError('FATAL:  role "fallow" does not exist'),
    ],
    ids=str,
)
def test_a_server_that_is_away_does_not_refuse(error: Exception) -> None:
    """It may answer later; and what is no error of the database is none."""
    assert not is_refusal(error)
    assert trouble(error).startswith("the fleet database does not answer: ")


def test_trouble_is_one_line() -> None:
    """Neither the statement nor SQLAlchemy's advice, no line breaks, and never nothing."""
    assert one_line(away("refused\n\tIs it running?")) == "refused Is it running?"
    assert one_line(ConnectionError()) == "ConnectionError"
