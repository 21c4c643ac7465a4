"""What the parameters of an address ask for, and addresses that ask for something else. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

from reports.policy import Policy
from reports.quantities import parse_window_days
from reports.ranking import RISING
from reports.report import Question, Sort
from reports.verdicts import Settings, Verdict
from reports.web.answers import wrong

PAGE_VMS = 50
MAX_SEARCH_CHARS = 200
MAX_PAGE = 1_000_000
RECLAIMABLE, EVERY = "reclaimable", "all"
USUAL, REVERSE = "usual", "reverse"
LIST_NAMES = ("search", "verdict", "owner", "policy", "window", "sort", "order")


def verdict_key(verdict: Verdict) -> str:
    """A verdict in an address, such as `insufficient-data`."""
    return verdict.value.replace(" ", "-")


_VERDICTS: Mapping[str, Verdict] = {verdict_key(verdict): verdict for verdict in Verdict}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing:
    """By what a page judges: what is asked for, and what is meant where nothing is.

    Args:
        policies: every policy by name.
        windows_days: those that the aggregator keeps.
        default_policy, default_days: of the settings.
    """

    policies: Mapping[str, Policy]
    windows_days: tuple[int, ...]
    default_policy: str
    default_days: int

    def read(self, query: Mapping[str, str]) -> tuple[Policy, int]:
        """The policy and the window. Raises: Refused, 422: there is no such policy or window."""
        name = query.get("policy", self.default_policy)
        if name not in self.policies:
            raise wrong(f"policy: {name[:80]!r} is not one of {', '.join(self.policies)}")
        text = query.get("window", f"{self.default_days}d")
        try:
            days = parse_window_days(text)
        except ValueError as error:
            raise wrong(f"window: {error}") from error
        if days not in self.windows_days:
            kept = ", ".join(f"{each}d" for each in self.windows_days)
            raise wrong(f"window: the aggregator keeps no window of {days}d (choose from {kept})")
        return self.policies[name], days

    def parameters(self, policy: str, days: int) -> dict[str, str]:
        """What an address needs to ask for it again."""
        found = {} if policy == self.default_policy else {"policy": policy}
        return found if days == self.default_days else {**found, "window": f"{days}d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListAsked:
    """What is asked of the list of VMs.

    Attributes:
        verdict: one of `reclaimable`, `all` and the keys of verdicts.
        is_reversed: the other way round than usual for `sort`.
        page: from 1.
    """

    policy: Policy
    window_days: int
    search: str = ""
    verdict: str = RECLAIMABLE
    owner: str | None = None
    sort: Sort = Sort.SCORE
    is_reversed: bool = False
    page: int = 1

    @property
    def is_filtered(self) -> bool:
        return bool(self.search or self.owner is not None or self.verdict != RECLAIMABLE)

    @property
    def is_ascending(self) -> bool:
        return self.is_reversed != (self.sort in RISING)

    def question(
        self, settings: Settings, now_s: float, *, top: int | None = PAGE_VMS, offset: int | None = None
    ) -> Question:
        """The same for the fleet database; `top` VMs of the page unless told otherwise."""
        return Question(
            policy=self.policy,
            settings=replace(settings, window_days=self.window_days),
            now_s=now_s,
            verdict=_VERDICTS.get(self.verdict),
            reclaimable=self.verdict == RECLAIMABLE,
            search=self.search,
            owner=self.owner,
            sort=self.sort,
            ascending=self.is_reversed,
            offset=(self.page - 1) * PAGE_VMS if offset is None else offset,
            top=top,
        )

    def parameters(self, choosing: Choosing) -> dict[str, str]:
        """What an address needs to ask for it again; what is usual stays away."""
        found = choosing.parameters(self.policy.name, self.window_days)
        if self.search:
            found["search"] = self.search
        if self.verdict != RECLAIMABLE:
            found["verdict"] = self.verdict
        if self.owner is not None:
            found["owner"] = self.owner
        if self.sort is not Sort.SCORE:
            found["sort"] = self.sort.value
        if self.is_reversed:
            found["order"] = REVERSE
        if self.page > 1:
            found["page"] = str(self.page)
        return found


def read_list(query: Mapping[str, str], choosing: Choosing) -> ListAsked:
    """The list that the parameters of an address ask for. Raises: Refused, 422: one cannot be."""
    policy, days = choosing.read(query)
    verdict = query.get("verdict", RECLAIMABLE)
    if verdict not in {RECLAIMABLE, EVERY} and verdict not in _VERDICTS:
        raise wrong(f"verdict: {verdict[:80]!r} is not one of {', '.join((RECLAIMABLE, EVERY, *_VERDICTS))}")
    order = query.get("order", USUAL)
    if order not in {USUAL, REVERSE}:
        raise wrong(f"order: {order[:80]!r} is neither {USUAL} nor {REVERSE}")
    owner = query.get("owner")
    return ListAsked(
        policy=policy,
        window_days=days,
        search=read_text(query, "search"),
        verdict=verdict,
        owner=None if owner is None else read_text(query, "owner"),
        sort=_sort(query),
        is_reversed=order == REVERSE,
        page=read_whole(query, "page", 1, 1, MAX_PAGE),
    )


def read_text(query: Mapping[str, str], name: str) -> str:
    """A text without space around it; empty where it is absent. Raises: Refused, 422: too long, or not printable."""
    text = query.get(name, "").strip()
    if len(text) > MAX_SEARCH_CHARS:
        raise wrong(f"{name}: is longer than {MAX_SEARCH_CHARS} characters")
    if not text.isprintable():
        raise wrong(f"{name}: holds characters that cannot be printed")
    return text


def read_whole(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number. Raises: Refused, 422."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise wrong(f"{name}: {text[:80]!r} is not a whole number from {least} to {most}")
    return int(text)


def check_names(query: Mapping[str, str], *known: str) -> None:
    """Raises: Refused, 422: a parameter that the API does not know here, and so would do nothing."""
    for name in query:
        if name not in known:
            raise wrong(f"{name[:80]!r} is not a parameter here (parameters: {', '.join(known) or 'none'})")


def href(path: str, parameters: Mapping[str, str] | None = None) -> str:
    """An address. `path` is taken as it is."""
    return f"{path}?{urlencode(parameters)}" if parameters else path


def vm_path(vm_id: str) -> str:
    """The page of a VM."""
    return f"/vms/{quote(vm_id, safe='')}"


def host_path(host: str) -> str:
    """The page of a host."""
    return f"/hosts/{quote(host, safe='')}"


def _sort(query: Mapping[str, str]) -> Sort:
    text = query.get("sort", Sort.SCORE.value)
    try:
        return Sort(text)
    except ValueError:
        raise wrong(f"sort: {text[:80]!r} is not one of {', '.join(sort.value for sort in Sort)}") from None
