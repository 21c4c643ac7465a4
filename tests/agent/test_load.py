"""Many VMs over few connections: order, retries, counts and bounds."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from agent.connection import Address, parse_address
from agent.load import Identity, Load, LoadError, UnreachableError, backoff_s
from agent.sample import Sample
from agent.wire import encode_sample
from tests.agent.fake_aggregator import DROP, FakeAggregator, Pauses, Request, answer, listening

BUSY = answer(503, {"detail": "journal is full"}, "Retry-After: 7")


def text(ts: int) -> str:
    return encode_sample(Sample(ts=ts, cpu_busy_ratio=0.5, mem_total_bytes=4096, mem_used_bytes=1024))


def load_for(fake: FakeAggregator, pauses: Pauses | None = None, **parts: object) -> Load:
    pauses = pauses or Pauses()
    given_parts = {"connections": 2, "clock": pauses.clock, "sleep": pauses.sleep, "now": lambda: 5_000.25} | parts
    address = parse_address(fake.url)
    return Load(address, join_token="join", boot="b00t", source=random.Random(1), **given_parts)  # type: ignore[arg-type]


def deliver(fake: FakeAggregator, produce: Callable[[Load], Awaitable[None]], **parts: object) -> Load:
    """Runs `produce` against the fake and returns the load with its tally."""

    async def main() -> Load:
        async with listening(fake):
            load = load_for(fake, **parts)  # type: ignore[arg-type]
            assert await load.deliver(produce)
            return load

    return asyncio.run(main())


async def one_vm_two_batches(load: Load) -> None:
    await load.enrol(Identity(vm="a", hostname="a"))
    await load.push("a", [text(60), text(120)], 60)
    await load.push("a", [text(180)], 60)


def times(requests: list[Request], vm: str) -> list[int]:
    return [
        sample.ts for request in requests if request.headers["fallow-vm"] == vm for sample in request.batch().samples
    ]


@pytest.mark.real
def test_each_vm_enrols_and_its_batches_arrive_in_order() -> None:
    """More VMs than connections: all enrol with what they are, push with their own token, and keep their order."""
    vms = [f"vm-{number}" for number in range(7)]

    async def produce(load: Load) -> None:
        for vm in vms:
            await load.enrol(Identity(vm=vm, hostname=vm, ips=("10.0.0.1",), macs=("02:00",), machine={"system": "L"}))
        for ts in range(60, 660, 60):
            for vm in vms:
                await load.push(vm, [text(ts)], 60)

    fake = FakeAggregator()
    load = deliver(fake, produce)
    assert sorted(json.loads(request.body)["vm"] for request in fake.enrolments) == vms
    assert json.loads(fake.enrolments[0].body) == {
        "join_token": "join",
        "vm": vms[0],
        "hostname": vms[0],
        "ips": ["10.0.0.1"],
        "macs": ["02:00"],
        "machine": {"system": "L"},
        "boot": "b00t",
    }
    for vm in vms:
        assert times(fake.pushes, vm) == list(range(60, 660, 60))
    for request in fake.pushes:
        batch = request.batch()
        assert request.headers["authorization"] == f"Bearer token-{batch.vm}"
        assert request.headers["content-type"] == "application/json"
        assert (batch.vm, batch.boot, batch.sent_s, batch.interval_s) == (
            request.headers["fallow-vm"],
            "b00t",
            5000.25,
            60,
        )
    assert [request.batch().seq for request in fake.pushes if request.batch().vm == "vm-3"] == list(range(1, 11))
    assert fake.connections == 2
    assert (load.tally.vms, load.tally.samples, load.tally.stored) == (7, 70, 70)


@pytest.mark.real
def test_busy_aggregator_is_given_the_time_it_asks_for() -> None:
    """After 503 and 429 the same batch comes again, not before Retry-After, and later batches wait behind it."""
    pauses = Pauses()
    fake = FakeAggregator(script=[BUSY, answer(429, {}, "Retry-After: 3")])
    load = deliver(fake, one_vm_two_batches, pauses=pauses)
    assert times(fake.pushes, "a") == [60, 120, 60, 120, 60, 120, 180]
    assert len(pauses.slept_s) == 2
    assert pauses.slept_s[0] >= 7
    assert pauses.slept_s[1] >= 3
    assert (load.tally.stored, load.tally.retries) == (3, 2)


@pytest.mark.real
def test_time_of_sending_is_that_of_the_attempt() -> None:
    """A batch that waits out a 503 says the time of its second sending: an old one would look like a wrong clock."""
    pauses = Pauses()
    fake = FakeAggregator(script=[BUSY])
    deliver(fake, one_vm_two_batches, pauses=pauses, now=pauses.clock)
    first, second = (request.batch().sent_s for request in fake.pushes[:2])
    assert second - first >= 7


@pytest.mark.real
def test_dropped_connection_is_dialled_again() -> None:
    """A batch whose answer was lost is sent again on a new connection, once."""
    fake = FakeAggregator(script=[DROP])
    load = deliver(fake, one_vm_two_batches)
    assert times(fake.pushes, "a") == [60, 120, 60, 120, 180]
    assert [request.connection for request in fake.pushes] == [0, 1, 1]
    assert load.tally.stored == 3


@pytest.mark.real
def test_answers_are_counted() -> None:
    """Stored, duplicate and rejected samples are added up as the aggregator tells them."""
    rejected = [{"ts": 60, "reason": "too_old"}]
    fake = FakeAggregator(script=[answer(200, {"stored": 0, "duplicate": 1, "rejected": rejected})])
    tally = deliver(fake, one_vm_two_batches).tally
    assert (tally.samples, tally.stored, tally.duplicate, tally.rejected) == (3, 1, 1, 1)
    assert tally.refused_batches == 0


@pytest.mark.real
def test_refused_batch_is_counted_and_does_not_stop_the_fleet(caplog: pytest.LogCaptureFixture) -> None:
    """A 422 is not retried: its samples count as rejected, the log says why, the next batch goes on."""
    fake = FakeAggregator(script=[answer(422, {"detail": "cpu_busy_ratio: 7 is out of range"})])
    tally = deliver(fake, one_vm_two_batches).tally
    assert (tally.samples, tally.stored, tally.rejected, tally.refused_batches) == (3, 1, 2, 1)
    assert "cpu_busy_ratio: 7" in caplog.text


@pytest.mark.real
def test_refused_enrolment_ends_everything_and_says_why() -> None:
    """A wrong join token is wrong for every VM: the first refusal is the end, with the aggregator's own words."""
    fake = FakeAggregator(enrol_script=[answer(401, {"detail": "join token expired"})])
    with pytest.raises(LoadError, match="enrolment of a refused: 401 join token expired"):
        deliver(fake, one_vm_two_batches)
    assert fake.pushes == []


@pytest.mark.real
@pytest.mark.parametrize("body", [{}, {"token": 1, "stored": 1}, []])
def test_answers_that_make_no_sense_are_errors(body: object) -> None:
    """A 200 that does not say what was stored must not be taken for success."""
    with pytest.raises(LoadError, match="does not say what was stored"):
        deliver(FakeAggregator(script=[answer(200, body)]), one_vm_two_batches)


@pytest.mark.real
def test_nobody_listening_is_told_at_once() -> None:
    """Before the first connection a refusal is a wrong address: no waiting, and the address is in the text."""
    pauses = Pauses()

    async def main() -> None:
        async with listening(FakeAggregator()) as fake:
            pass
        with pytest.raises(UnreachableError, match=f"127.0.0.1:{fake.port}"):
            await load_for(fake, pauses).deliver(one_vm_two_batches)

    asyncio.run(main())
    assert pauses.slept_s == []


@pytest.mark.real
def test_aggregator_that_is_away_for_a_while_is_waited_for() -> None:
    """Once it has answered, a refused connection is an outage: nothing is lost when it comes back on its port."""
    fake = FakeAggregator(script=[DROP])

    async def main() -> Load:
        server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
        fake.port = server.sockets[0].getsockname()[1]
        attempts = 0

        async def sleep(seconds: float) -> None:
            nonlocal server, attempts
            attempts += 1
            if attempts == 1:
                server.close()
            if attempts == 4:
                server = await asyncio.start_server(fake.serve, "127.0.0.1", fake.port)
            await asyncio.sleep(0)

        load = load_for(fake, sleep=sleep, connections=1)
        assert await load.deliver(one_vm_two_batches)
        server.close()
        return load

    load = asyncio.run(main())
    assert load.tally.stored == 3
    assert load.tally.retries == 4


@pytest.mark.real
def test_patience_ends() -> None:
    """An aggregator that only ever puts off is unreachable once the patience is used up, and not before."""
    pauses = Pauses()
    fake = FakeAggregator(script=[BUSY] * 100)
    with pytest.raises(UnreachableError, match="journal is full"):
        deliver(fake, one_vm_two_batches, pauses=pauses, patience_s=60.0)
    assert 30 < sum(pauses.slept_s) <= 60


@pytest.mark.real
def test_producer_waits_while_lanes_are_full() -> None:
    """With an aggregator that does not answer, only a few batches a lane are ever held."""
    made = 0

    async def main() -> None:
        nonlocal made
        fake = FakeAggregator(hold=asyncio.Event())

        async def produce(load: Load) -> None:
            nonlocal made
            await load.enrol(Identity(vm="a", hostname="a"))
            for ts in range(60, 60_000, 60):
                await load.push("a", [text(ts)], 60)
                made += 1

        async with listening(fake):
            load = load_for(fake, connections=1)
            running = asyncio.create_task(load.deliver(produce))
            while not fake.requests:
                await asyncio.sleep(0)
            for _ in range(1_000):
                await asyncio.sleep(0)
            held = made
            assert fake.hold is not None
            fake.hold.set()
            await running
            assert 1 <= held <= 3
            assert made == load.tally.stored == 999

    asyncio.run(main())


@pytest.mark.real
def test_stop_ends_production_and_sends_what_is_queued() -> None:
    """After `stop` nothing new is made, and what was handed over before is still answered."""

    async def main() -> None:
        handed_over = 0

        async def produce(load: Load) -> None:
            nonlocal handed_over
            await load.enrol(Identity(vm="a", hostname="a"))
            while True:
                await load.push("a", [text(60)], 60)
                handed_over += 1
                if handed_over == 5:
                    load.stop()

        async with listening(FakeAggregator()) as fake:
            load = load_for(fake)
            assert await load.deliver(produce) is False
            assert load.tally.stored == handed_over >= 5

    asyncio.run(main())


@pytest.mark.real
def test_stop_does_not_wait_for_an_aggregator_that_never_answers(caplog: pytest.LogCaptureFixture) -> None:
    """Pushes without an answer are given up after the grace, and the log says so."""

    async def produce(load: Load) -> None:
        await load.enrol(Identity(vm="a", hostname="a"))
        load.stop()
        await load.push("a", [text(60)], 60)
        await asyncio.Event().wait()

    async def main() -> None:
        async with listening(FakeAggregator(hold=asyncio.Event())) as fake:
            assert await load_for(fake, stop_grace_s=0.05).deliver(produce) is False

    asyncio.run(main())
    assert "has not answered" in caplog.text


@pytest.mark.real
def test_error_of_the_producer_comes_through() -> None:
    """What `produce` raises is raised as it is, not wrapped, so that a command can name it."""

    async def produce(load: Load) -> None:
        raise KeyError("trace")

    with pytest.raises(KeyError, match="trace"):
        deliver(FakeAggregator(), produce)


@pytest.mark.real
def test_compressed_batches_say_so() -> None:
    """With compression the body is gzip and the header tells; the samples are the same."""
    fake = FakeAggregator()
    deliver(fake, one_vm_two_batches, compress=True)
    assert {request.headers["content-encoding"] for request in fake.pushes} == {"gzip"}
    assert times(fake.pushes, "a") == [60, 120, 180]


@given(st.integers(0, 1_000), st.none() | st.floats(0, 1e4), st.integers())
def test_backoff_is_at_least_what_was_asked_and_bounded(attempt: int, asked_s: float | None, seed: int) -> None:
    """Never sooner than Retry-After, never more than ten seconds later."""
    pause_s = backoff_s(attempt, asked_s, random.Random(seed))
    assert (asked_s or 0.0) <= pause_s <= (asked_s or 0.0) + 10.0


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that vouches for itself: its file, and a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return cert_file, context


@pytest.mark.real
def test_tls_needs_a_certificate_it_can_verify(tmp_path: Path) -> None:
    """The trusted certificate works; unknown, or for another name, it is refused at once and nothing is sent."""
    ca, server_side = certificate(tmp_path)

    def load_to(address: Address) -> Load:
        return Load(address, join_token="join", boot="b", source=random.Random(1), sleep=Pauses().sleep)

    async def main() -> None:
        async with listening(FakeAggregator(), server_side) as fake:
            url = f"https://localhost:{fake.port}"
            assert await load_to(parse_address(url, ca=ca)).deliver(one_vm_two_batches)
            assert len(fake.pushes) == 2
            for wrong in (parse_address(url), parse_address(f"https://127.0.0.1:{fake.port}", ca=ca)):
                with pytest.raises(UnreachableError, match="certificate"):
                    await load_to(wrong).deliver(one_vm_two_batches)
            assert len(fake.requests) == 3

    asyncio.run(main())
