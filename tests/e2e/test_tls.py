"""The agents' door under TLS: an agent speaks to an aggregator that it can verify, and to no other."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.agents import RealAgent
from tests.e2e.house import Aggregator, House

pytestmark = pytest.mark.real

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A CA of the test's own, below one folder."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def path(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, name: str, *, address: str = "127.0.0.1", age: datetime.timedelta = DAY / 2) -> list[str]:
        """Options of an aggregator with a certificate for `address`, valid for a day from `age` ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        host = x509.IPAddress(ipaddress.ip_address(address))
        certificate = (
            builder(name, self.certificate.subject, key, begins=datetime.datetime.now(datetime.UTC) - age)
            .add_extension(x509.SubjectAlternativeName([host]), False)
            .sign(self.key, hashes.SHA256())
        )
        cert_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.touch(mode=0o600)
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return ["--tls-cert", str(cert_path), "--tls-key", str(key_path)]


def builder(
    name: str, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey, *, begins: datetime.datetime
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + DAY)
    )


def make_authority(folder: Path) -> Authority:
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        builder(folder.name, None, key, begins=datetime.datetime.now(datetime.UTC) - DAY / 2)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(folder, key, certificate)


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ours")


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "foreign")


def https(aggregator: Aggregator) -> str:
    return f"https://{aggregator.doors.agents}"


def test_an_agent_with_the_right_ca_pushes_and_one_with_a_wrong_ca_keeps_its_data(
    house: House, ours: Authority, foreign: Authority
) -> None:
    """With the wrong CA nothing leaves the VM and nothing is dropped; with the right one again, all of it arrives."""
    aggregator = house.aggregator(*ours.issue("server"))
    agent = RealAgent(house, "agent-tls", https(aggregator), ca=ours.path)
    assert agent.enrol(house.join_token(aggregator.data)) == 0, agent.said
    agent.start()
    agent.wait_for("a first push", samples_acked_total=1)
    assert agent.stop() == 0

    agent.point_at(https(aggregator), ca=foreign.path)
    acked = agent.status().samples_acked_total
    pushes = aggregator.metric("fallow_pushes_total")
    agent.start()
    status = agent.wait_for("a spool", spool_depth=2)
    assert status.samples_acked_total == acked
    assert status.trouble is not None
    assert "certificate" in status.trouble
    assert agent.stop() == 0
    assert aggregator.metric("fallow_pushes_total") == pushes
    spooled = agent.spooled_ts()

    agent.point_at(https(aggregator), ca=ours.path)
    agent.start()
    drained = agent.wait_until_drained(acked)
    assert drained.samples_dropped_total == 0
    assert agent.stop() == 0
    aggregator.flush()
    stored, status = aggregator.stored(agent.vm), agent.status()
    assert spooled <= stored.keys()
    # What is under way at SIGTERM may be stored without an ack.
    assert 0 <= len(stored) - status.samples_acked_total <= status.spool_depth


@pytest.mark.parametrize(
    ("issued", "why"),
    [({"age": 3 * DAY}, "expired"), ({"age": -DAY}, "not yet valid"), ({"address": "127.0.0.2"}, "not valid for")],
    ids=["expired", "not-yet-valid", "wrong-host"],
)
def test_a_certificate_that_does_not_hold_is_refused(
    house: House,
    ours: Authority,
    issued: dict[str, datetime.timedelta | str],
    why: str,
) -> None:
    """Expired, not yet valid, or of another host: no agent gives a join token or samples to it; exit 69 says why."""
    options = ours.issue("server", **issued)  # type: ignore[arg-type]
    aggregator = house.aggregator(*options)
    agent = RealAgent(house, "agent-tls", https(aggregator), ca=ours.path)
    assert agent.enrol(house.join_token(aggregator.data)) == 69
    assert why in agent.said
    done = house.run(
        *("fallow-agent", "simulate", "--aggregator", https(aggregator), "--ca", str(ours.path), "--vms", "1"),
        *("--days", "1", "--join-token-file", str(house.join_token(aggregator.data))),
    )
    assert done.returncode == 69
    assert why in done.stderr
    assert "Traceback" not in agent.said + done.stderr
    assert aggregator.metric("fallow_enrolments_total") == 0


def test_simulate_and_replay_need_the_right_ca_too(house: House, ours: Authority, foreign: Authority) -> None:
    """Who sends for many VMs verifies as an agent does: exit 69 for a stranger's certificate, 0 for the right one."""
    aggregator = house.aggregator(*ours.issue("server"))
    join_token = house.join_token(aggregator.data)
    trace = Path("tests") / "data" / "fleet.csv"
    for command in (("simulate", "--vms", "1", "--days", "1"), ("replay", str(trace))):
        argv = ["fallow-agent", *command, "--aggregator", https(aggregator), "--join-token-file", str(join_token)]
        refused = house.run(*argv, "--ca", str(foreign.path))
        assert refused.returncode == 69
        assert "certificate" in refused.stderr
        taken = house.run(*argv, "--ca", str(ours.path))
        assert taken.returncode == 0, taken.stderr
    assert aggregator.metric("fallow_pushes_total") > 0


def test_plain_http_is_not_answered_on_a_tls_door(house: House, ours: Authority) -> None:
    """An agent without TLS gets nothing from a door with TLS, and says that nobody answered."""
    aggregator = house.aggregator(*ours.issue("server"))
    agent = RealAgent(house, "agent-plain", aggregator.url)
    assert agent.enrol(house.join_token(aggregator.data)) == 69
    assert "Traceback" not in agent.said


def test_a_key_that_others_may_read_is_refused(house: House, ours: Authority) -> None:
    """A private key with mode 0644 is exit 2, naming the file; nothing listens."""
    options = ours.issue("server")
    Path(options[3]).chmod(0o644)
    done = house.run("fallow-aggregator", "run", "--data", str(house.folder / "data"), *options)
    assert done.returncode == 2
    assert options[3] in done.stderr
    assert "Traceback" not in done.stderr
