"""What every page of the controller is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from jinja2 import Environment

from orchestrate.config import OrchestrateConfig
from orchestrate.database import SqlRecords
from orchestrate.pages.switch import KillSwitch
from orchestrate.pages.views import TEMPLATES, View
from orchestrate.records import Records
from reports.web.answers import Answer, Asked
from reports.web.parts import frame
from reports.web.views import Frame, Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """What pages are made from.

    Args:
        engine: gives that of `orchestrate.schema.open_orchestrate_db` to use now.
        environment: of `orchestrate.pages.files.page_environment`.
        clock: Unix seconds.
    """

    config: OrchestrateConfig
    engine: Callable[[], sa.Engine]
    environment: Environment
    clock: Callable[[], float]

    @property
    def records(self) -> Records:
        return SqlRecords(self.engine())

    @property
    def switch(self) -> KillSwitch:
        return KillSwitch(path=self.config.kill_switch, makes_folder=self.config.kill_switch_file is None)

    @property
    def two_persons_above(self) -> int | None:
        return self.config.reclaim.two_persons_above

    def frame(
        self,
        asked: Asked,
        title: str,
        section: str,
        *,
        notices: Iterable[Notice | None] = (),
        stop: str | None = None,
    ) -> Frame:
        """What is round a page. Args: stop: what the kill switch says, which stands above everything else."""
        stopped = (
            None if stop is None else Notice(kind="warning", text=_stopped(stop), href="/stop", link="Kill switch")
        )
        return frame(
            asked,
            title,
            section,
            zone=self.config.report.zone,
            now_s=self.clock(),
            notices=(stopped, *notices),
        )

    def page(self, view: View, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
        """The page of a view."""
        text = self.environment.get_template(TEMPLATES[type(view)]).render(view=view)
        return Answer(status=status, body=text.encode(), headers=headers or {})


def _stopped(stop: str) -> str:
    return f"Nothing is done at present: {stop}."
