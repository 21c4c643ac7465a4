"""Rows 24, 25 and 26: packets that are lost, answers that are lost, batches that come in another order."""

from __future__ import annotations

import threading
import time

from agent.settings import parse_host_port
from bench.demo import open_doors
from bench.kill_lives import Lives, flush
from tests.faults.agents import Agent, make_join_token, tally_agents
from tests.faults.authority import make_authority, tls_options
from tests.faults.caller import QUIET, Caller, NoAnswerError, finish, must
from tests.faults.netns import lossy_net
from tests.faults.proxy import Fate, Proxy
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.tally import Tally

_LOSS_PERCENT = 30
_HOLD_WITHIN_S = 60.0
_IN_FLIGHT = 8


def lose_packets(place: Surroundings) -> Tally:
    """Real agents behind a network that drops 30 % of all packets, both ways: everything arrives, once."""
    ours = make_authority(place.home / "ours")
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    with lossy_net(place.draw) as net:
        cert, key = place.home / "cert.pem", place.home / "key.pem"
        ours.issue(cert, key, address=net.outside)
        program = lives.begin((*QUIET, *tls_options(cert, key), "--listen", f"{net.outside}:0"))
        doors = open_doors(place.programs, program, lives.data)
        token = make_join_token(place.programs, lives.data, place.home / "token")
        agents = [
            Agent(
                programs=place.programs,
                home=place.home,
                vm=f"lossy-{number}",
                url=f"https://{doors.agents}",
                join_token=token,
                under=net.under,
                ca=ours.path,
                settings=('timeout = "10s"',),
            )
            for number in range(2)
        ]
        net.lose(_LOSS_PERCENT)
        for salt, agent in enumerate(agents):
            agent.backlog(500 + place.injections, salt=salt, now_s=time.time())
            agent.start()
        while (lost := net.lost()) < place.injections:
            for agent in agents:
                agent.until("a life", lambda _status: True)
            time.sleep(0.1)
        for _ in range(min(lost, place.injections)):
            place.advance()
        for agent in agents:
            agent.drain(within_s=600.0)
        lost = net.lost()
        net.lose(0)
        for agent in agents:
            agent.stop()
        flush(doors)
        program.process.terminate()
        place.programs.finish(program, within_s=30.0)
    return tally_agents(lives.data, agents, injections=lost, notes=f"{lost} packets dropped")


def lose_answers(place: Surroundings) -> Tally:
    """Answers that never come, after the samples were made durable: the same push again is a success, and no second."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start(QUIET)
    lives.enrol(doors, 4)
    losing = (Fate.LOSE_REPLY, Fate.HALF_REPLY, Fate.SWALLOW_REPLY, Fate.HALF_REQUEST)
    fates: list[Fate] = []
    with Proxy(parse_host_port(doors.agents), place.draw, fate=lambda: fates.pop() if fates else Fate.PASS) as proxy:
        caller = Caller(proxy.address, timeout_s=0.2)
        duplicates = 0
        for number in range(place.injections):
            ledger = lives.ledgers[number % len(lives.ledgers)]
            ledger.choose(place.draw)
            fate = losing[number % len(losing)]
            fates.append(fate)
            try:
                answer = caller.push(ledger)
                # The status of half an answer is true all the same.
                must(fate is Fate.HALF_REPLY and not ledger.pending, f"{fate.name}: an answer came: {answer}")
                continue
            except NoAnswerError:
                pass
            finally:
                # A connection that was kept may be dead by now, and would meet no fate.
                caller.close()
                place.advance()
            # Patience is short only while nothing is to come.
            patient = Caller(proxy.address)
            pending = len(ledger.pending)
            again = patient.push(ledger)
            patient.close()
            must(again.taken(pending), f"{fate.name}: the push again was answered {again}")
            if fate is not Fate.HALF_REQUEST:
                must(again.status == 200 and again.figure("duplicate") == pending, f"{fate.name}: {again}")
                duplicates += pending
            # So that what comes again is met in the stores too, and not in memory alone.
            if place.draw.random() < 0.1:
                flush(doors)
        struck = sum(proxy.struck.values())
    return finish(
        place.programs, lives, program, doors, injections=struck, notes=f"{duplicates} samples told to be duplicates"
    )


def reorder(place: Surroundings) -> Tally:
    """Batches of each VM that are held up and let go in any order: all stored, and no gap stays."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start(QUIET)
    lives.enrol(doors, 2)
    rounds = 0
    with Proxy(parse_host_port(doors.agents), place.draw, fate=lambda: Fate.HOLD) as proxy:
        while proxy.struck[Fate.HOLD] < place.injections:
            for ledger in lives.ledgers:
                before = proxy.struck[Fate.HOLD]
                requests = []
                batches = []
                for _ in range(_IN_FLIGHT):
                    ledger.choose(place.draw)
                    batches.append(ledger.pending)
                    requests.append(ledger.request(time.time()))
                    ledger.pending = ()
                outcomes: list[bool] = []
                threads = [
                    threading.Thread(target=_ask, args=(proxy, request, len(batch), outcomes), daemon=True)
                    for request, batch in zip(requests, batches, strict=True)
                ]
                for thread in threads:
                    thread.start()
                place.programs.wait_until(
                    lambda: proxy.held == _IN_FLIGHT or None, running=[program], within_s=_HOLD_WITHIN_S, what="a hold"
                )
                proxy.release()
                for thread in threads:
                    thread.join(_HOLD_WITHIN_S)
                must(outcomes == [True] * _IN_FLIGHT, f"held batches were not all taken: {outcomes}")
                for batch in batches:
                    ledger.pending = batch
                    ledger.acknowledge()
                rounds += 1
                for _ in range(proxy.struck[Fate.HOLD] - before):
                    place.advance()
                if place.draw.random() < 0.3:
                    flush(doors)
        struck = proxy.struck[Fate.HOLD]
    # That no gap stays is what the comparison of each window with its raw rows says.
    return finish(place.programs, lives, program, doors, injections=struck, notes=f"{rounds} rounds of {_IN_FLIGHT}")


def _ask(proxy: Proxy, request: bytes, count: int, outcomes: list[bool]) -> None:
    caller = Caller(proxy.address)
    try:
        outcomes.append(caller.ask(request).taken(count))
    except NoAnswerError:
        outcomes.append(False)
    finally:
        caller.close()


SCENARIOS = (
    Scenario(rows=(24,), name="packets-lost", needs=("root", "ip", "nft"), run=lose_packets, quick=60, whole=1_000),
    Scenario(rows=(25,), name="answers-lost", needs=(), run=lose_answers, quick=24, whole=200),
    Scenario(rows=(26,), name="out-of-order", needs=(), run=reorder, quick=48, whole=320),
)
