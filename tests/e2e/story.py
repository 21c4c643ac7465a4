"""What happens to three real guests, told once for all tests: owners are told, one keeps hers, the others sleep.

The tests of the ladder, of relief and of undoing look at it from their sides. Each part is a fixture of the session in
`tests/e2e/conftest.py`, and is asked for by what rests on it.
"""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.cloud import GRACE_S, Cloud, open_cloud
from tests.rig.guests import GuestSpec
from tests.rig.rig import Rig
from tests.rig.shell import wait_for

SLEEPER, NAPPER, KEPT = "sleeper", "napper", "kept"
TAGS = ("env:lab",)
OWNER = "ada"
# A loaded machine must not cost a sample.
INTERVAL_S = 10
WHY_KEPT = "the nightly build"

Notices = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slept:
    """A run that suspended guests.

    Args:
        run: as `apply --json` told it.
        asked_s, at_s: monotonic, before it began and when it had ended.
        up_s: how long each guest had been up at `asked_s`, by name.
    """

    run: dict[str, Any]
    asked_s: float
    at_s: float
    up_s: dict[str, float]


@contextmanager
def three_guests(rig: Rig, folder: Path) -> Iterator[Cloud]:
    """Three idle guests with a day's past, at rest: one on the first host, two on the second."""
    with open_cloud(rig, folder) as cloud:
        for host, names in zip(rig.hosts, ((SLEEPER,), (NAPPER, KEPT)), strict=True):
            cloud.start(host, *map(_spec, names))
        for guest in cloud.guests.values():
            cloud.wait_for_calm(guest)
        yield cloud


def tell_owners(cloud: Cloud) -> Notices:
    """Plans, has it approved and applies it; the notices by the guests' names."""
    planned = cloud.read("plan", "--by", "ann")
    sha256 = cloud.approve(planned, *((verb, name) for name in cloud.guests for verb in ("mark", "notify")))
    assert "approved by ann" in cloud.ok("show", sha256)
    applied = cloud.read("apply", sha256, "--by", "ann")
    assert {each["outcome"] for each in applied["actions"]} == {"done"}, applied
    return cloud.notices()


def suspend(cloud: Cloud, pages: str, told: Notices) -> Slept:
    """The owner of one guest keeps it; the grace of the others passes and they are suspended."""
    form = {"until": "", "reason": WHY_KEPT, "owner": OWNER}
    assert WHY_KEPT in follow(pages, told[KEPT]["keep_url"], form)
    until_s = time.monotonic() + GRACE_S
    wait_for(lambda: time.monotonic() > until_s, "the end of the grace", within_s=2 * GRACE_S)
    planned = cloud.read("plan", "--by", "ann")
    sha256 = cloud.approve(planned, ("suspend", SLEEPER), ("suspend", NAPPER))
    asked_s = time.monotonic()
    up_s = {name: guest.uptime_s() or 0.0 for name, guest in cloud.guests.items()}
    run = cloud.read("apply", sha256, "--by", "ann")
    return Slept(run=run, asked_s=asked_s, at_s=time.monotonic(), up_s=up_s)


def wake(pages: str, told: Notices, name: str) -> dict[str, Any]:
    """Its owner has a guest back by the link; what the page says of it at the end."""
    link = told[name]["resume_url"]
    follow(pages, link, {})

    def ended() -> dict[str, Any] | None:
        document: dict[str, Any] = json.loads(follow(pages, f"{link}/state"))
        return document if document["ended"] else None

    return wait_for(ended, f"{name} awake", within_s=180)


def follow(pages: str, link: str, form: dict[str, str] | None = None) -> str:
    """The page behind a link as a browser shows it; with a form, what is shown once that was sent.

    Args: pages: where they really are, whatever address the link was made with.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    body = None if form is None else urllib.parse.urlencode(form).encode()
    with direct.open(urllib.parse.urljoin(pages, urllib.parse.urlsplit(link).path), data=body, timeout=60) as answer:
        return str(answer.read(), "utf-8")


def state(cloud: Cloud, name: str) -> str:
    """As its hypervisor's own tool says, and whether there is a saved memory."""
    guest = cloud.guests[name]
    (told,) = (vm for vm in cloud.read("inventory")["vms"] if vm["name"] == name)
    host = next(host for host in cloud.rig.hosts if host.name == told["host"])
    about = cloud.rig.virsh(host, "dominfo", guest.uuid)
    saved = next(line.split()[-1] for line in about.splitlines() if line.startswith("Managed save"))
    return f"{cloud.rig.state(host, guest)}, saved: {saved}"


def _spec(name: str) -> GuestSpec:
    mail = f"{OWNER}@example.org"
    return GuestSpec(name=name, owner=OWNER, mail=mail, tags=TAGS, interval_s=INTERVAL_S, takes_load=name != SLEEPER)
