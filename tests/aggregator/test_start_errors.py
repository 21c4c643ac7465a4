"""Why `fallow-aggregator run` could not begin: one exit status a kind, in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.__main__ import _explain, main
from aggregator.data_lock import DataDirectoryBusyError
from aggregator.journal import JournalError
from aggregator.nodes import NodeNameTakenError
from aggregator.problems import Problem, Refused
from tests.aggregator.node_fakes import node

AWAY = sa.exc.OperationalError("SELECT 1", {}, Exception("connection refused\n\tIs the server running?"))

REFUSED = sa.exc.OperationalError("SELECT 1", {}, Exception("FATAL:  no pg_hba.conf entry for host"))


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ConfigError("listen: wrong"), 2, "listen: wrong"),
        (DataDirectoryBusyError("in use by another fallow-aggregator"), 1, "in use by another"),
        (JournalError("cannot be read"), 1, "cannot be read"),
        (NodeNameTakenError(node()), 1, "another aggregator runs as agg-1, at https://agg-1:8900"),
        (AWAY, 69, "the fleet database does not answer: connection refused Is the server running?"),
        (sa.exc.TimeoutError("QueuePool limit"), 69, "does not answer"),
        (REFUSED, 2, "the fleet database refuses: FATAL: no pg_hba.conf entry for host"),
        (Refused(Problem(503, "database-unavailable", "the fleet database does not answer")), 69, "does not answer"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_reason_has_its_status(
    error: Exception, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named on stderr, on one line each, without a traceback."""
    assert _explain(error) == status
    err = capsys.readouterr().err
    assert said in err
    assert all(line.startswith("fallow-aggregator: ") for line in err.splitlines())


def test_a_mistake_of_our_own_is_not_hidden() -> None:
    """It ends with its traceback."""
    with pytest.raises(ZeroDivisionError):
        _explain(ZeroDivisionError())


def test_a_wrong_name_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is made."""
    assert main(["run", "--data", str(tmp_path / "data"), "--node-name", "Agg 1"]) == 2
    assert "--node-name: 'Agg 1' is not a name" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
