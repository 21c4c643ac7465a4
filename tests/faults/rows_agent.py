"""Rows 8, 34 and 41: what real agents do while the aggregator stands still, their disk is full, a certificate ends."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.settings import parse_host_port
from bench.demo import Doors, open_doors
from bench.kill_lives import Lives, flush
from bench.programs import Program
from tests.faults.agents import Agent, make_join_token, stored_rows, tally_agents
from tests.faults.authority import make_authority, tls_options
from tests.faults.caller import QUIET, end_in_peace, metric, must
from tests.faults.proxy import Proxy
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.tally import Tally

_WITHIN_S = 120.0
_TRIES = 3
_SHORT_LIFE_S = 12.0  # longer than the aggregator takes to notice a new file


def stop_the_aggregator(place: Surroundings) -> Tally:
    """SIGSTOP of the aggregator: agents keep what they have, try again at different times, and then all of it comes."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start(QUIET)
    address = parse_host_port(doors.agents)
    token = make_join_token(place.programs, lives.data, place.home / "token")
    with Proxy(address, place.draw) as first, Proxy(address, place.draw) as second:
        proxies = (first, second)
        agents = [
            Agent(programs=place.programs, home=place.home, vm=f"patient-{number}", url=proxy.url, join_token=token)
            for number, proxy in enumerate(proxies)
        ]
        for salt, agent in enumerate(agents):
            agent.backlog(600, salt=salt, now_s=time.time())
            agent.start()
        for agent in agents:
            agent.drain()
        struck = 0
        rhythms: list[tuple[float, ...]] = []
        while struck < place.injections:
            os.kill(program.process.pid, signal.SIGSTOP)
            try:
                before = [len(proxy.begun_s) for proxy in proxies]
                place.programs.wait_until(
                    partial(_pushed_again, proxies, before),
                    running=[],
                    within_s=_WITHIN_S,
                    what="pushes again",
                )
                waiting = [agent.until("a spool", lambda status: status.spool_depth > 1) for agent in agents]
                must(all(status.trouble for status in waiting), "agents do not say that nobody answers")
            finally:
                os.kill(program.process.pid, signal.SIGCONT)
            for proxy, begin in zip(proxies, before, strict=True):
                begun_s = proxy.begun_s[begin:]
                rhythms.append(tuple(round(later - one, 1) for one, later in pairwise(begun_s)))
                for _ in begun_s[: place.injections - struck]:
                    place.advance()
                struck += len(begun_s)
            for agent in agents:
                agent.drain()
        must(len(set(rhythms)) == len(rhythms), f"agents try again in step: {rhythms}")
        for agent in agents:
            agent.stop()
    end_in_peace(place.programs, program, doors)
    return tally_agents(lives.data, agents, injections=struck, notes=f"{struck} pushes without an answer")


def _pushed_again(proxies: Sequence[Proxy], before: Sequence[int]) -> bool | None:
    """Whether each agent has tried a few times since it had made so many requests."""
    made = (len(proxy.begun_s) - begin for proxy, begin in zip(proxies, before, strict=True))
    return all(count > _TRIES for count in made) or None


def fill_the_agents_disk(place: Surroundings) -> Tally:
    """The agent's disk is full and it is killed again and again: what is gone is counted, and told with a push."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start(QUIET)
    with Proxy(parse_host_port(doors.agents), place.draw) as proxy:
        agent = Agent(
            programs=place.programs,
            home=place.home,
            vm="crammed",
            url=proxy.url,
            join_token=make_join_token(place.programs, lives.data, place.home / "token"),
        )
        with small_disk(agent.state):
            agent.backlog(100, salt=5, now_s=time.time())
            agent.start()
            agent.drain()
            proxy.refusing = True
            proxy.cut()
            ballast = agent.state / "ballast"
            _fill(ballast)
            struck = 0
            while struck < place.injections:
                before = _noted_gone(agent)
                place.programs.wait_until(
                    partial(_more_is_gone, agent, before),
                    running=[agent.running],
                    within_s=_WITHIN_S,
                    what="a sample that the disk does not take",
                )
                agent.kill()
                struck += 1
                place.advance()
                agent.start()
            ballast.unlink()
            proxy.refusing = False
            back_s = time.time()
            agent.until("pushes of new samples", lambda status: (status.sample_ts or 0) > back_s + 3)
            gone = agent.drain().samples_dropped_total
            agent.stop()
            flush(doors)
            told = metric(doors, "fallow_agents_dropped_samples_total")
            found = sorted(row[0] for row in stored_rows(lives.data, agent.vm) if row[0] not in agent.rows)
            missing = found[-1] - found[0] + 1 - len(found)
            must(struck <= gone <= missing, f"{struck} kills, {missing} samples missing, and {gone} counted")
            must(told == gone, f"the agent counts {gone} samples that are gone, the aggregator was told {told}")
            end_in_peace(place.programs, program, doors)
            # Those are the very ones that the tally is not to call given up.
            return tally_agents(
                lives.data, [agent], injections=struck, notes=f"{gone} samples given up, all told", given_up=gone
            )


def _more_is_gone(agent: Agent, before: int) -> bool | None:
    return _noted_gone(agent) > before or None


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of a megabyte at `folder`."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        # Lazily: where a scenario fails, its programs are ended only after this.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(ballast: Path) -> None:
    """Takes all the room there is."""
    with suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _noted_gone(agent: Agent) -> int:
    """How many samples would be gone if the agent were killed now, as its spool notes."""
    return int((agent.live_spool / "acked").read_bytes().split()[2])


def change_certificates(place: Surroundings) -> Tally:
    """The certificate ends, then comes one of another authority, which agents know too: they wait, and lose nothing."""
    old, new = make_authority(place.home / "old"), make_authority(place.home / "new")
    both = place.home / "both.pem"
    both.write_bytes(old.path.read_bytes() + new.path.read_bytes())
    cert, key = place.home / "cert.pem", place.home / "key.pem"
    old.issue(cert, key)
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program = lives.begin((*QUIET, *tls_options(cert, key)))
    doors = open_doors(place.programs, program, lives.data)
    token = make_join_token(place.programs, lives.data, place.home / "token")
    with Proxy(parse_host_port(doors.agents), place.draw) as proxy:
        agent = Agent(
            programs=place.programs,
            home=place.home,
            vm="trusting",
            url=proxy.url.replace("http://", "https://"),
            join_token=token,
            ca=both,
        )
        agent.backlog(600, salt=4, now_s=time.time())
        agent.start()
        agent.drain()
        struck = 0
        while struck < place.injections:
            authority = (new, old)[struck % 2]
            # One that ends soon, and that agents meet once it has ended.
            authority.issue(cert, key, life_s=_SHORT_LIFE_S)
            ends_s = _until_in_use(place, program, doors, cert)
            time.sleep(max(0.0, ends_s - time.time()) + 0.1)
            proxy.cut()
            agent.until("distrust", lambda status: "certificate" in (status.trouble or "") and status.spool_depth > 1)
            authority.issue(cert, key)
            _until_in_use(place, program, doors, cert)
            agent.drain()
            struck += 1
            place.advance()
        agent.stop()
    end_in_peace(place.programs, program, doors)
    return tally_agents(lives.data, [agent], injections=struck)


def _until_in_use(place: Surroundings, program: Program, doors: Doors, cert: Path) -> float:
    """Waits until handshakes are answered with the certificate in the file. Returns: when it ends, Unix time."""
    wanted = x509.load_pem_x509_certificate(cert.read_bytes())
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE

    def shown() -> bool | None:
        with (
            socket.create_connection(parse_host_port(doors.agents), timeout=_WITHIN_S) as plain,
            anybody.wrap_socket(plain) as secured,
        ):
            found = secured.getpeercert(binary_form=True)
        return found == wanted.public_bytes(serialization.Encoding.DER) or None

    place.programs.wait_until(shown, running=[program], within_s=_WITHIN_S, what="the new certificate")
    return wanted.not_valid_after_utc.timestamp()


SCENARIOS = (
    Scenario(rows=(41,), name="certificates", needs=(), run=change_certificates, quick=1, whole=10),
    Scenario(rows=(34,), name="agents-disk-full", needs=("root",), run=fill_the_agents_disk, quick=1, whole=20),
    Scenario(rows=(8,), name="aggregator-stopped", needs=(), run=stop_the_aggregator, quick=6, whole=60),
)
