"""A watch over the small cloud of `control_house`, in this process and on its clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from orchestrate.control import Control, open_control
from orchestrate.owners.wakes import Wakes
from orchestrate.owners.waking import Waker
from orchestrate.records import Lease
from orchestrate.service import EndingSources, ending_control
from orchestrate.watch import Watch
from orchestrate.watch_state import WatchSettings
from tests.orchestrate.control_house import SETTINGS, House, house
from tests.reports.deliver.servers import Request
from tests.reports.fleets import Spec

OTHER_LIFE_S = 120.0


@dataclass
class Watched:
    """One watch. `is_ending` is what SIGTERM sets; `said` is its log."""

    house: House
    control: Control
    watch: Watch
    wakes: Wakes
    said: list[str] = field(default_factory=list)
    is_ending: bool = False

    def other_leads(self) -> Lease:
        """Another controller takes the lease, as soon as it can have it."""
        lease = self.control.records.acquire("other", now_s=self.house.now_s, life_s=OTHER_LIFE_S)
        assert lease is not None
        return lease

    def at_notice(self, happens: Callable[[], object]) -> None:
        """Something happens while the next notice is on its way."""
        hook = self.house.hook
        answer, pending = hook.answer, [happens]

        def answered(request: Request) -> int:
            while pending:
                pending.pop()()
            return answer(request)

        hook.answer = answered  # type: ignore[method-assign]


@contextmanager
def auto_house(folder: Path, specs: list[Spec] | None = None) -> Iterator[House]:
    """A cloud whose only group the watch may take by itself."""
    with house(folder, specs) as made:
        grace = 'stop_grace = "120s"'
        assert grace in SETTINGS
        made.write_settings(text=SETTINGS.replace(grace, f'{grace}\napprove = "auto"'))
        yield made


@contextmanager
def watched(house: House, settings: WatchSettings | None = None) -> Iterator[Watched]:
    """A watch that begins now."""
    with open_control(house.config(), clock=lambda: house.now_s, pause=house.pause) as opened:
        made: list[Watched] = []
        control = ending_control(opened, lambda: bool(made) and made[0].is_ending)
        assert isinstance(control.sources, EndingSources)
        wakes, said = Wakes(), list[str]()
        waker = Waker(control, wakes, pause=house.pause, ending=control.sources.ending, log=said.append)
        watch = Watch(control, settings or WatchSettings(), waker, log=said.append)
        made.append(Watched(house=house, control=control, watch=watch, wakes=wakes, said=said))
        yield made[0]
