"""The policies by name. Who adds one adds it here and to docs/verdicts.md; the contract test covers it from then on."""

from __future__ import annotations

from collections.abc import Mapping

from reports.fallow_policy import DEFAULT_STRICTNESS, STRICTNESS, fallow
from reports.policy import Policy
from reports.published import PUBLISHED

_OURS = {f"fallow-{strictness}": fallow(strictness) for strictness in STRICTNESS}
POLICIES: Mapping[str, Policy] = {**_OURS, **{policy.name: policy for policy in (make() for make in PUBLISHED)}}
DEFAULT_POLICY = f"fallow-{DEFAULT_STRICTNESS}"


def find_policy(name: object, own: Mapping[str, Policy] | None = None) -> Policy:
    """The policy of that name; `fallow` alone is the default strictness.

    Args: own: an admin's policies, looked at first.

    Raises: ValueError: there is none; it names those that exist.
    """
    known = {**POLICIES, "fallow": POLICIES[DEFAULT_POLICY], **(own or {})}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{name!r} is not a policy ({', '.join(known)})")
    return known[name]
