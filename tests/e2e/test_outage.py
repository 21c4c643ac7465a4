"""Agents outlive the aggregator: they spool, come back with jitter, and everything arrives once."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.agents import RealAgent
from tests.e2e.house import Aggregator, House

pytestmark = pytest.mark.real


def two_agents(house: House, aggregator: Aggregator) -> list[RealAgent]:
    """Two enrolled agents that have pushed."""
    agents = [RealAgent(house, f"agent-{number}", aggregator.url) for number in (1, 2)]
    for agent in agents:
        assert agent.enrol(house.join_token(aggregator.data)) == 0, agent.said
        agent.start()
    for agent in agents:
        agent.wait_for("a first push", samples_acked_total=1)
    return agents


def assert_all_arrived(aggregator: Aggregator, agent: RealAgent, spooled: set[int]) -> None:
    """Every spooled sample is stored, and as many rows as were acknowledged to an agent that was stopped in peace."""
    stored, status = aggregator.stored(agent.vm), agent.status()
    assert spooled <= stored.keys()
    # What is under way at SIGTERM may be stored without an ack.
    assert 0 <= len(stored) - status.samples_acked_total <= status.spool_depth


def test_fault_08_agents_spool_while_the_aggregator_is_stopped(house: House) -> None:
    """SIGSTOP of the aggregator: agents wait with what they have; after SIGCONT all of it arrives, once."""
    aggregator = house.aggregator()
    agents = two_agents(house, aggregator)
    os.kill(aggregator.pid, signal.SIGSTOP)
    before = [agent.wait_for("a spool", spool_depth=3) for agent in agents]
    spooled = [agent.spooled_ts() for agent in agents]
    assert all(status.trouble for status in before)
    os.kill(aggregator.pid, signal.SIGCONT)
    for agent, status in zip(agents, before, strict=True):
        after = agent.wait_until_drained(status.samples_acked_total)
        assert after.samples_dropped_total == 0
        assert agent.stop() == 0
    aggregator.flush()
    for agent, there in zip(agents, spooled, strict=True):
        assert_all_arrived(aggregator, agent, there)


def test_fault_34_agents_killed_during_an_outage_keep_their_spool(house: House) -> None:
    """The aggregator is gone and so, with kill -9, are the agents: what they spooled arrives once both are back."""
    first = house.aggregator()
    agents = two_agents(house, first)
    first.kill()
    before = [agent.wait_for("a spool", spool_depth=3) for agent in agents]
    for agent in agents:
        agent.kill()
    spooled = [agent.spooled_ts() for agent in agents]
    second = house.aggregator(listen=first.doors.agents)
    for agent in agents:
        agent.start()
    for agent, status in zip(agents, before, strict=True):
        agent.wait_until_drained(status.samples_acked_total)
        assert agent.stop() == 0
    second.flush()
    for agent, there in zip(agents, spooled, strict=True):
        stored = second.stored(agent.vm)
        # An ack that the kill kept from the status file is an ack all the same.
        assert there <= stored.keys()
        assert len(stored) >= agent.status().samples_acked_total
        assert agent.status().samples_dropped_total == 0


def test_fault_34_an_agent_stopped_and_started_sends_nothing_twice(house: House) -> None:
    """SIGTERM during an outage ends the agent with 0; its next life sends what is left, and only that."""
    aggregator = house.aggregator()
    agent = two_agents(house, aggregator)[0]
    os.kill(aggregator.pid, signal.SIGSTOP)
    before = agent.wait_for("a spool", spool_depth=2)
    assert agent.stop() == 0
    spooled = agent.spooled_ts()
    os.kill(aggregator.pid, signal.SIGCONT)
    agent.start()
    agent.wait_until_drained(before.samples_acked_total)
    assert agent.stop() == 0
    aggregator.flush()
    assert_all_arrived(aggregator, agent, spooled)
