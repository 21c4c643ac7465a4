"""Bounds of the agents' door, out of the settings and of what the system allows."""

from __future__ import annotations

import resource

from aggregator.addresses import per_address_of
from aggregator.config import AggregatorConfig
from aggregator.decode import DecodeLimits
from aggregator.door_parts import DoorLimits, connections_for
from aggregator.http import HttpLimits

_LINGER_S = 2.0  # of the five seconds that SIGTERM gives


def raise_descriptor_limit() -> int:
    """Takes all the descriptors the hard limit allows; returns how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def door_limits(config: AggregatorConfig, descriptors: int) -> DoorLimits:
    """What the settings say, else what so many descriptors allow, else what is usual."""
    base = DoorLimits()
    connections = config.connections or connections_for(descriptors)
    return DoorLimits(
        connections=connections,
        per_address=config.per_address or per_address_of(connections),
        per_token=config.per_token or base.per_token,
        request_s=config.request_s or base.request_s,
        linger_s=_LINGER_S,
        http=HttpLimits(
            head_bytes=config.header_bytes or base.http.head_bytes, body_bytes=config.body_bytes or base.http.body_bytes
        ),
        decode=DecodeLimits(
            body_bytes=config.body_bytes or base.decode.body_bytes, samples=config.batch_samples or base.decode.samples
        ),
    )
