"""How often a password may be tried: per account and per address, with waits that double. Pure but for a lock."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

from aggregator.addresses import group_of
from aggregator.problems import Problem, Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Of one kind of key.

    Args:
        free: failures in a row before the first wait.
        first_wait_s: doubles with each failure after that, up to `most_wait_s`.
        forget_s: without a failure for so long, all is forgotten.
    """

    free: int
    first_wait_s: float
    most_wait_s: float
    forget_s: float


# A person mistypes a few times; behind one address sit many people.
ACCOUNT = Rule(free=5, first_wait_s=2.0, most_wait_s=300.0, forget_s=3600.0)
ADDRESS = Rule(free=20, first_wait_s=2.0, most_wait_s=900.0, forget_s=3600.0)
MAX_KEYS = 20_000
# Somebody who logged in from an address so lately is not kept out by what others try elsewhere.
KNOWN_S = 30 * 86_400.0


@dataclass(slots=True)
class _Tries:
    failures: int
    last_s: float
    open_s: float


class Throttle:
    """Counts tries. Any thread may use it. A try counts as failed until `succeeded` says otherwise, so that many at
    once win nothing.

    Wrong tries cannot keep an account's owner out for ever: an account and an address that it logged in from count
    for themselves, beside all others. An address is a /64 of IPv6.

    Args: max_keys: the keys that are remembered; those longest without a try are forgotten first.
    """

    def __init__(self, *, account: Rule = ACCOUNT, address: Rule = ADDRESS, max_keys: int = MAX_KEYS) -> None:
        self._rules = {"account": account, "address": address, "known": account}
        self._max_keys = max_keys
        self._tries: dict[str, OrderedDict[str, _Tries]] = {kind: OrderedDict() for kind in self._rules}
        self._known_s: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, account: str, address: str, now_s: float) -> None:
        """One try. Raises: Refused, 429: it comes too soon; then nothing is counted, and nothing must be checked."""
        with self._lock:
            keys = self._keys(account, address, now_s)
            wait_s = max(self._wait_s(kind, key, now_s) for kind, key in keys.items())
            if wait_s > 0:
                whole_s = math.ceil(wait_s)
                raise Refused(
                    Problem(429, "throttled", f"too many wrong tries: wait {whole_s} s", retry_after_s=whole_s)
                )
            for kind, key in keys.items():
                self._count(kind, key, now_s)

    def succeeded(self, account: str, address: str, now_s: float) -> None:
        """The try was right: the account starts anew, and the address is given this one back."""
        with self._lock:
            keys = self._keys(account, address, now_s)
            self._tries["account"].pop(account, None)
            if "known" in keys:
                self._tries["known"].pop(keys["known"], None)
            else:
                self._give_back("address", keys["address"])
            pair = (account, group_of(address))
            self._known_s.pop(pair, None)
            self._known_s[pair] = now_s
            while len(self._known_s) > self._max_keys:
                self._known_s.popitem(last=False)

    def unchecked(self, account: str, address: str, now_s: float) -> None:
        """Nothing was checked, as there was no room for it: the try is given back."""
        with self._lock:
            for kind, key in self._keys(account, address, now_s).items():
                self._give_back(kind, key)

    def _keys(self, account: str, address: str, now_s: float) -> dict[str, str]:
        """What a try counts for, by kind."""
        group = group_of(address)
        known_s = self._known_s.get((account, group))
        if known_s is not None and abs(now_s - known_s) < KNOWN_S:
            return {"known": f"{account} {group}"}
        return {"account": account, "address": group}

    def _give_back(self, kind: str, key: str) -> None:
        tries = self._tries[kind].get(key)
        if tries is not None:
            tries.failures = max(0, tries.failures - 1)
            tries.open_s = 0.0

    def _wait_s(self, kind: str, key: str, now_s: float) -> float:
        tries = self._tries[kind].get(key)
        if tries is None:
            return 0.0
        # A clock that was set back must not lock anybody out for longer than the rule says.
        return min(tries.open_s - now_s, self._rules[kind].most_wait_s)

    def _count(self, kind: str, key: str, now_s: float) -> None:
        rule, known = self._rules[kind], self._tries[kind]
        tries = known.pop(key, None)
        if tries is None or now_s - tries.last_s > rule.forget_s:
            tries = _Tries(0, now_s, 0.0)
        tries.failures += 1
        tries.last_s = now_s
        over = tries.failures - rule.free
        # The exponent is bounded, as the wait is: 2.0 ** 1100 would be an error.
        tries.open_s = now_s + min(rule.first_wait_s * 2.0 ** min(over, 40), rule.most_wait_s) if over >= 0 else 0.0
        known[key] = tries
        while len(known) > self._max_keys:
            known.popitem(last=False)


class Seldom:
    """Tells of what comes by the thousand which one is worth a line. Any thread may use it.

    Args: every_s: between two of one key; max_keys: that are remembered.
    """

    def __init__(self, every_s: float, *, max_keys: int = MAX_KEYS) -> None:
        self._every_s = every_s
        self._max_keys = max_keys
        self._last_s: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def is_due(self, key: str, now_s: float) -> bool:
        """Whether this one is; the next one then is not."""
        with self._lock:
            last_s = self._last_s.get(key)
            if last_s is not None and abs(now_s - last_s) < self._every_s:
                return False
            self._last_s.pop(key, None)
            self._last_s[key] = now_s
            while len(self._last_s) > self._max_keys:
                self._last_s.popitem(last=False)
        return True
