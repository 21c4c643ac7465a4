"""Who may act: how a lease is granted, and when one is stale. Pure; both kinds of records ask it.

A lease holds while `now_s` < `expires_s` and none was granted after it. Tokens only grow, restarts included.
"""

from __future__ import annotations

from orchestrate.records import Lease, StaleLease


def grant(known: Lease | None, holder: str, *, now_s: float, life_s: float) -> Lease | None:
    """The next lease; None while the newest is somebody else's and holds. Args: known: the newest."""
    if known is not None and known.holder != holder and now_s < known.expires_s:
        return None
    return Lease(holder=holder, token=1 if known is None else known.token + 1, expires_s=now_s + life_s)


def check(known: Lease | None, lease: Lease, *, now_s: float) -> Lease:
    """The newest lease, which is `lease` and holds. Raises: StaleLease."""
    if known is not None and known.token == lease.token and now_s < known.expires_s:
        return known
    if known is None or known.token == lease.token:
        raise StaleLease(f"lease {lease.token} of {lease.holder} ran out")
    raise StaleLease(f"lease {lease.token} of {lease.holder} is followed by {known.token} of {known.holder}")
