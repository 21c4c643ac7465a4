"""From a view to the page."""

from __future__ import annotations

from collections.abc import Mapping

from jinja2 import Environment

from reports.web.answers import Answer
from reports.web.views import TEMPLATES, View


class Renderer:
    """Writes views with their templates. Any thread may use it.

    Args: environment: of `reports.web.templates.make_environment`.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def page(self, view: View, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
        """The page of a view."""
        text = self._environment.get_template(TEMPLATES[type(view)]).render(view=view)
        return Answer(status=status, body=text.encode(), headers=headers or {})
