"""What became of the reports that were to be delivered."""

from __future__ import annotations

from collections.abc import Mapping

from reports.deliver.runs import Deliveries, Run
from reports.web.answers import Answer, Asked, Handler
from reports.web.backing import Backing
from reports.web.parts import frame
from reports.web.renderer import Renderer
from reports.web.views import DeliveriesView, DeliveryLine

SHOWN_RUNS = 100


class DeliveryPages:
    """`/deliveries`."""

    def __init__(self, backing: Backing, renderer: Renderer) -> None:
        self._backing = backing
        self._renderer = renderer

    def handlers(self) -> Mapping[str, Handler]:
        """By the names of routes."""
        return {"deliveries": self.show}

    def show(self, asked: Asked) -> Answer:
        """The newest runs."""
        config = self._backing.config
        view = DeliveriesView(
            frame=frame(asked, "Deliveries", "deliveries", zone=config.zone, now_s=self._backing.clock()),
            rows=tuple(map(_line, recent_runs(self._backing))),
            configured=len(config.deliveries),
        )
        return self._renderer.page(view)


def recent_runs(backing: Backing) -> list[Run]:
    """The newest runs of all deliveries, the newest first."""
    return Deliveries(backing.fleet.reader).recent(SHOWN_RUNS)


def _line(run: Run) -> DeliveryLine:
    return DeliveryLine(
        name=run.name,
        kind=run.kind,
        target=run.target,
        state=run.state.value,
        due_s=run.due_s,
        attempt=run.attempt,
        next_attempt_s=run.next_attempt_s,
        finished_s=run.finished_s,
        problem=run.problem,
        subject=run.subject,
    )
