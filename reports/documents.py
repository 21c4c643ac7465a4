"""One report in every form in which it is delivered, made from the fleet database."""

from __future__ import annotations

from aggregator.fleet_db import open_fleet_read_only
from reports.config import ReportConfig
from reports.deliver.document import Document
from reports.fleet_report import make_report
from reports.html import to_html
from reports.mail import subject, to_mail
from reports.render import to_csv, to_json
from reports.report import Question


def make_document(config: ReportConfig, now_s: float, since_s: float | None = None) -> Document:
    """The configured report, judged anew unless fresh verdicts are stored.

    Args: since_s: of the report before: tells what has changed from then on.

    Raises: ConfigError, sqlalchemy.exc.DBAPIError: of the fleet database.
    """
    engine = open_fleet_read_only(config.fleet_url, config.data_dir)
    try:
        question = Question(policy=config.policy, settings=config.settings, now_s=now_s, top=config.top)
        report = make_report(engine, question, fresh_s=config.serve.fresh_for_s, since_s=since_s)
    finally:
        engine.dispose()
    return Document(
        subject=subject(report),
        text=to_mail(report),
        html=to_html(report, zone=config.zone),
        json=to_json(report),
        csv=to_csv(report),
        generated_s=now_s,
    )
