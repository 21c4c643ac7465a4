"""The admin door answers what openapi.json says, to those who have its token alone."""

from __future__ import annotations

import http.client
import json
import stat
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThread

from agent.settings import ConfigError
from aggregator.admin import load_or_create_admin_token, make_admin_site
from aggregator.admin_routes import MAX_SAMPLES
from aggregator.admin_site import MAX_BODY_BYTES, REQUEST_DEADLINE_S
from aggregator.catalogue import Catalogue, Labels
from aggregator.enrolment import Enrolment
from aggregator.fleet_db import migrate, open_fleet
from aggregator.nodes import Nodes
from aggregator.problems import Problem, Refused
from aggregator.store_files import StoreError
from tests.aggregator.admin_fakes import AUTHORISED, NOW_S, TOKEN, House, new_failure, parse
from tests.aggregator.node_fakes import node


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    engine = open_fleet(None, tmp_path)
    migrate(engine)
    catalogue = Catalogue(engine)
    token = catalogue.mint_join_token(now_s=NOW_S, ttl_s=60.0, uses=5, labels=Labels(owner="web"))
    for vm_id in ("a", "b", "c"):
        catalogue.enroll(Enrolment(join_token=token, vm=vm_id, hostname=f"host-{vm_id}"), now_s=NOW_S)
    yield House(tmp_path, catalogue)
    engine.dispose()


# Who may ask, and what.


def test_health_is_open(house: House) -> None:
    """A load balancer needs no token."""
    answer = house.ask("GET", "/healthz", "Authorization: none")
    assert (answer.status, answer.json) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN[:-1]}", "Bearer \xff"],
)
@pytest.mark.parametrize("target", ["/metrics", "/v1/vms", "/openapi.json", "/nowhere"])
def test_without_the_token_all_else_is_401(house: House, target: str, authorization: str) -> None:
    """No path but /healthz says anything, not even that it is none, without the exact token."""
    answer = house.ask("GET", target, f"Authorization: {authorization}")
    assert (answer.status, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.body.decode()


def test_the_scheme_of_the_token_may_be_in_any_case(house: House) -> None:
    """`bearer` is a scheme as good as `Bearer`."""
    assert house.ask("GET", "/v1/vms", f"authorization: bEARER {TOKEN}").status == 200


def test_an_unknown_path_is_404(house: House) -> None:
    """Paths are matched whole."""
    for target in ("/", "/v1", "/v1/vms/a/samples/x", "/v1/vmss", "/v1/vms/a%2Fsamples/x"):
        answer = house.ask("GET", target)
        assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json"), target


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", "/v1/vms", "GET, HEAD"),
        ("PUT", "/v1/vms/a", "DELETE, GET, HEAD"),
        ("GET", "/v1/flush", "POST"),
        ("DELETE", "/healthz", "GET, HEAD"),
        ("get", "/v1/vms", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_405(house: House, method: str, target: str, allow: str) -> None:
    """405 names the methods that there are; looking never acts."""
    answer = house.ask(method, target)
    assert (answer.status, answer.headers["allow"]) == (405, allow)


def test_head_is_get_without_its_body(house: House) -> None:
    """The length is that of the GET."""
    got, headed = house.ask("GET", "/v1/vms"), house.ask("HEAD", "/v1/vms")
    assert (headed.status, headed.body) == (200, b"")
    assert headed.headers["content-length"] == str(len(got.body))


@pytest.mark.parametrize(
    "vm_id", ["..%2F..%2Fx", "%2Fetc%2Fpasswd", "a%00", "a%0A", "A", "a'%20OR%201=1", "%ff", "x" * 65]
)
def test_ids_that_are_none_are_422(house: House, vm_id: str) -> None:
    """Nothing that is not a VM id reaches the database or a file name."""
    for target in (f"/v1/vms/{vm_id}", f"/v1/vms/{vm_id}/samples", f"/v1/vms/{vm_id}/series"):
        assert house.ask("GET", target).status == 422
    assert house.ask("DELETE", f"/v1/vms/{vm_id}").status == 422
    assert house.forgotten == []


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("/v1/vms?limit=0", "limit"),
        ("/v1/vms?limit=10001", "limit"),
        ("/v1/vms?limit=1e3", "limit"),
        ("/v1/vms?limit=%C2%B2", "limit"),
        ("/v1/vms?limit=1&limit=2", "limit"),
        ("/v1/vms?after=..", "after"),
        ("/v1/vms?color=red", "color"),
        ("/v1/vms/a?x=1", "x"),
        ("/v1/live?since=-1", "since"),
        ("/v1/live?since=soon", "since"),
        ("/v1/live?limit=0", "limit"),
        ("/v1/live?vm=../x", "vm"),
        ("/v1/live?after=A", "after"),
        ("/v1/vms/a/samples?from=10&to=10", "from"),
        ("/v1/vms/a/samples?from=20&to=10", "from"),
        ("/v1/vms/a/samples?from=0&to=34560001", "from"),
        ("/v1/vms/a/samples?from=0&to=3155760000", "from"),
        ("/v1/vms/a/samples?to=99999999999", "to"),
        ("/v1/vms/a/samples?step=0", "step"),
        ("/v1/vms/a/samples?step=NaN", "step"),
        ("/v1/vms/a/series?from=10&to=10", "from"),
        ("/v1/vms/a/series?from=0&to=34560001", "from"),
        ("/v1/vms/a/series?from=0&to=3155760000", "from"),
        ("/v1/vms/a/series?points=1", "points"),
        ("/v1/vms/a/series?points=2001", "points"),
        ("/v1/vms/a/series?step=60", "step"),
    ],
)
def test_parameters_out_of_range_are_422(house: House, target: str, named: str) -> None:
    """Each mistake is named; a range that ends before it starts or spans 100 years is one."""
    answer = house.ask("GET", target)
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
    assert named in answer.json["detail"]


# The routes.


def test_metrics_are_text(house: House) -> None:
    """Prometheus gets what the aggregator's registry printed."""
    answer = house.ask("GET", "/metrics")
    assert answer.body == b"fallow_pushes_total 1.0\n"
    assert answer.headers["content-type"].startswith("text/plain; version=")


def test_vms_come_by_the_page(house: House) -> None:
    """`next` leads from page to page and is null on the last."""
    first = house.ask("GET", "/v1/vms?limit=2").json
    assert [found["vm"] for found in first["vms"]] == ["a", "b"]
    second = house.ask("GET", f"/v1/vms?limit=2&after={first['next']}").json
    assert ([found["vm"] for found in second["vms"]], second["next"]) == (["c"], None)
    assert house.ask("GET", "/v1/vms?limit=3").json["next"] is None


def test_one_vm(house: House) -> None:
    """Its record as JSON; 404 for one nobody knows."""
    found = house.ask("GET", "/v1/vms/a").json
    assert (found["vm"], found["owner"], found["hostname"], found["tags"]) == ("a", "web", "host-a", [])
    assert house.ask("GET", "/v1/vms/nobody").status == 404


def test_samples_of_a_span(house: House) -> None:
    """Those whose interval ends after `from` and not after `to`; the default is the last day."""
    house.samples = [{"ts": ts, "cpu_busy_ratio": 0.5} for ts in range(0, 600, 60)]
    answer = house.ask("GET", "/v1/vms/a/samples?from=60&to=180").json
    assert answer == {
        "vm": "a",
        "from_s": 60,
        "to_s": 180,
        "step_s": None,
        "samples": [{"ts": 120, "cpu_busy_ratio": 0.5}, {"ts": 180, "cpu_busy_ratio": 0.5}],
    }
    default = house.ask("GET", "/v1/vms/a/samples").json
    assert (default["from_s"], default["to_s"]) == (NOW_S - 86_400, NOW_S)
    assert house.ask("GET", "/v1/vms/nobody/samples").status == 404


def test_samples_by_the_step(house: House) -> None:
    """One mean a step, with how many samples it is over."""
    house.samples = [{"ts": ts, "cpu_busy_ratio": ts / 1000} for ts in (60, 120, 180)]
    found = house.ask("GET", "/v1/vms/a/samples?from=0&to=240&step=120").json["samples"]
    means = [(mean["ts"], mean["samples"], round(mean["cpu_busy_ratio"], 9)) for mean in found]
    assert means == [(120, 2, 0.09), (240, 1, 0.18)]


def test_an_answer_that_would_be_too_long_is_refused(house: House) -> None:
    """More than MAX_SAMPLES is 422 and says what to ask for instead; a step makes it short enough."""
    house.samples = [{"ts": ts + 1, "cpu_busy_ratio": 0.5} for ts in range(MAX_SAMPLES + 1)]
    answer = house.ask("GET", "/v1/vms/a/samples?from=0&to=86400")
    assert (answer.status, "step" in answer.json["detail"]) == (422, True)
    assert house.ask("GET", "/v1/vms/a/samples?from=0&to=86400&step=60").status == 200


def test_series_of_a_span(house: House) -> None:
    """Columns of least, mean and largest values, by the default of a day; 404 for a VM that nobody knows."""
    figures = {"interval_s": 60, "mem_used_bytes": 1 << 29, "mem_total_bytes": 1 << 30, "users": 0}
    house.buffered = [{"ts": NOW_S - 60 * n, "cpu_busy_ratio": n / 10, **figures} for n in range(4)]
    answer = house.ask("GET", f"/v1/vms/a/series?from={NOW_S - 180}&to={NOW_S}").json
    ends_s = [NOW_S - 120, NOW_S - 60, NOW_S]
    assert {name: answer[name] for name in ("vm", "from_s", "to_s", "step_s", "ends_s")} == {
        "vm": "a",
        "from_s": NOW_S - 180,
        "to_s": NOW_S,
        "step_s": 60,
        "ends_s": ends_s,
    }
    assert answer["series"]["cpu_busy_ratio"] == {"min": [0.2, 0.1, 0], "mean": [0.2, 0.1, 0], "max": [0.2, 0.1, 0]}
    assert answer["series"]["mem_used_ratio"]["mean"] == [0.5] * 3
    assert answer["series"]["net_rx_bytes_per_s"]["max"] == [None] * 3
    two = house.ask("GET", f"/v1/vms/a/series?from={NOW_S - 300}&to={NOW_S}&points=2").json
    assert (two["ends_s"], two["series"]["cpu_busy_ratio"]["max"]) == ([-(-NOW_S // 300) * 300], [0.3])
    default = house.ask("GET", "/v1/vms/a/series").json
    assert (default["from_s"], default["to_s"], len(default["ends_s"])) == (NOW_S - 86_400, NOW_S, 4)
    assert house.ask("GET", "/v1/vms/nobody/series").status == 404


def test_series_of_a_store_that_cannot_be_read(house: House) -> None:
    """500 without a path in it, as for samples."""
    (house.data_dir / "a.db").write_bytes(b"this is no database" * 1000)
    answer = house.ask("GET", "/v1/vms/a/series")
    assert (answer.status, answer.json["type"]) == (500, "urn:fallow:problem:store-unreadable")
    assert "a.db" not in answer.body.decode()


def test_live_comes_from_memory(house: House) -> None:
    """`since` reaches the source; the answer has the clock it was made by."""
    answer = house.ask("GET", "/v1/live?since=7").json
    assert answer == {
        "now_s": NOW_S,
        "next": None,
        "vms": [{"vm": "a", "last_seen_s": 5.0, "skew_s": 0.1, "flags": [], "samples": []}],
    }
    house.ask("GET", "/v1/live")
    assert house.since == [7, 0]


def test_live_comes_in_pages(house: House) -> None:
    """`limit` asks for one more than it gives, to know of a next page; `vm` and `after` reach the source."""
    assert house.ask("GET", "/v1/live?limit=1").json["next"] is None
    assert house.ask("GET", "/v1/live?vm=a&after=b&limit=10000").status == 200
    assert house.pages == [{"vm": None, "after": "", "limit": 2}, {"vm": "a", "after": "b", "limit": 10_001}]


def test_a_flush_is_answered_when_it_is_done(house: House) -> None:
    """The request waits for the flush and gives its figures."""
    done: Deferred[Mapping[str, object]] = Deferred()
    house.flush = lambda: done
    channel, transport = house.connect()
    channel.dataReceived(f"POST /v1/flush HTTP/1.1\r\nHost: x\r\n{AUTHORISED}\r\nContent-Length: 0\r\n\r\n".encode())
    assert transport.value() == b""
    done.callback({"vms": 5, "seconds": 0.5})
    assert parse(transport.value()).json == {"vms": 5, "seconds": 0.5}


def test_a_peer_that_leaves_early_harms_nothing(house: House) -> None:
    """An answer to nobody is thrown away, and the next request is served."""
    done: Deferred[Mapping[str, object]] = Deferred()
    house.flush = lambda: done
    channel, _ = house.connect()
    channel.dataReceived(f"POST /v1/flush HTTP/1.1\r\nHost: x\r\n{AUTHORISED}\r\nContent-Length: 0\r\n\r\n".encode())
    channel.connectionLost(new_failure(ConnectionError()))
    done.callback({})
    assert house.ask("GET", "/healthz").status == 200


def test_forgetting_deletes_the_rows_and_tells_the_rest(house: House) -> None:
    """Rows go, whoever drops the rest is told; other VMs stay; a second time is 404."""
    answer = house.ask("DELETE", "/v1/vms/a")
    assert (answer.status, answer.body) == (204, b"")
    assert house.forgotten == ["a"]
    assert [found.vm for found in house.catalogue.vms()] == ["b", "c"]
    assert house.ask("DELETE", "/v1/vms/a").status == 404
    assert house.forgotten == ["a"]


def test_a_store_that_outlives_a_forgetting_is_told(house: House) -> None:
    """202 and no path: the rows are gone, what is on the disk not yet."""
    house.store_stays = True
    answer = house.ask("DELETE", "/v1/vms/a")
    assert (answer.status, answer.json["vm"], "could not be deleted" in answer.json["problem"]) == (202, "a", True)
    assert house.ask("DELETE", "/v1/vms/a").status == 404


def test_aggregators_that_know_no_lives_hold_a_forgetting_up(house: House) -> None:
    """409 with their names, and nothing is deleted here either."""
    Nodes(house.catalogue._engine).register(node("agg-old", revision="0003"), None)
    answer = house.ask("DELETE", "/v1/vms/a")
    assert (answer.status, answer.json["type"]) == (409, "urn:fallow:problem:older-nodes")
    assert "agg-old (0003)" in answer.json["detail"]
    assert (house.forgotten, house.ask("GET", "/v1/vms/a").status) == ([], 200)


# Trouble.


def test_a_refusal_of_a_source_is_its_answer(house: House) -> None:
    """A flush that cannot run now says when to come back."""
    house.flush = lambda: fail(Refused(Problem(503, "stopping", "it stops", retry_after_s=7)))
    answer = house.ask("POST", "/v1/flush")
    assert (answer.status, answer.headers["retry-after"], answer.json["detail"]) == (503, "7", "it stops")


def test_a_store_that_cannot_be_read_costs_one_answer(house: House) -> None:
    """500 without a path in it; the door serves on."""
    house.failure = StoreError("/secret/place: disk I/O error", corrupt=False)
    answer = house.ask("GET", "/v1/vms/a/samples")
    assert (answer.status, answer.json["type"]) == (500, "urn:fallow:problem:store-unreadable")
    assert "place" not in answer.body.decode()
    assert house.ask("GET", "/v1/vms/a").status == 200


def test_a_bug_costs_one_answer(house: House) -> None:
    """Whatever a source raises is logged and answered 500, without its text."""
    house.failure = ZeroDivisionError("secret")
    answer = house.ask("GET", "/v1/vms/a/samples")
    assert (answer.status, answer.json["type"]) == (500, "urn:fallow:problem:internal")
    assert "secret" not in answer.body.decode()


def test_a_database_that_does_not_answer_is_503(house: House) -> None:
    """A reader hears 503 and when to come back."""
    for path in house.data_dir.glob("fleet.db*"):
        path.unlink()
    (house.data_dir / "fleet.db").mkdir()
    house.catalogue._engine.dispose()
    answer = house.ask("GET", "/v1/vms")
    assert (answer.status, int(answer.headers["retry-after"]) > 0) == (503, True)


# What twisted.web leaves open.


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(house: House, chunked: bool) -> None:
    """Sized or chunked, it is refused once, the connection ends, and the request does not act."""
    house.flush = lambda: fail(AssertionError("it acted"))
    channel, transport = house.connect()
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {2 * MAX_BODY_BYTES}"
    channel.dataReceived(f"POST /v1/flush HTTP/1.1\r\nHost: x\r\n{AUTHORISED}\r\n{length}\r\n\r\n".encode())
    piece = b"x" * 1024
    for _ in range(2 * MAX_BODY_BYTES // len(piece)):
        channel.dataReceived(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    if chunked:
        channel.dataReceived(b"0\r\n\r\n")
    answer = parse(transport.value())
    assert (answer.status, answer.json["status"]) == (413, 413)
    assert transport.disconnecting


def test_a_body_up_to_the_limit_is_ignored(house: House) -> None:
    """A form or a file with a request changes nothing: no field of it becomes a parameter."""
    form = "Content-Type: application/x-www-form-urlencoded"
    assert house.ask("POST", "/v1/flush", form, body=b"limit=3").status == 200
    multipart = "Content-Type: multipart/form-data; boundary=x"
    assert house.ask("POST", "/v1/flush", multipart, body=b"garbage").status == 200
    assert house.ask("POST", "/v1/flush", body=b"x" * MAX_BODY_BYTES).status == 200


def test_a_request_has_one_deadline_however_slowly_it_trickles(house: House) -> None:
    """A byte every 10 s does not keep a connection open: it ends when the deadline is over."""
    channel, transport = house.connect()
    for _ in range(REQUEST_DEADLINE_S // 10):
        channel.dataReceived(b"G")
        house.clock.advance(9)
        assert not transport.disconnecting
    house.clock.advance(9)
    assert transport.disconnecting


def test_a_connection_serves_one_request_after_another(house: House) -> None:
    """Keep-alive: each request has the whole deadline for itself."""
    channel, transport = house.connect()
    for _ in range(3):
        house.clock.advance(REQUEST_DEADLINE_S - 1)
        transport.clear()
        channel.dataReceived(f"GET /v1/vms HTTP/1.1\r\nHost: x\r\n{AUTHORISED}\r\n\r\n".encode())
        assert parse(transport.value()).status == 200
    assert not transport.disconnecting


# The token's file.


def test_the_token_file_is_made_once_and_private(tmp_path: Path) -> None:
    """The first start makes a token with mode 0600, later ones read the same."""
    path = tmp_path / "admin.token"
    token = load_or_create_admin_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_admin_token(path) == token
    assert len(token) >= 32


@pytest.mark.parametrize("text", ["short\n", "ü" * 20])
def test_a_token_that_is_too_weak_is_refused(tmp_path: Path, text: str) -> None:
    """A token of a few characters, or one that no header can hold, is a ConfigError naming the file."""
    path = tmp_path / "admin.token"
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"admin\.token: is not at least 16 ASCII"):
        load_or_create_admin_token(path)


def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A world-readable secret is a ConfigError."""
    path = tmp_path / "admin.token"
    load_or_create_admin_token(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="readable by others"):
        load_or_create_admin_token(path)


# Once with everything real.


@pytest.mark.real
@pytest_twisted.inlineCallbacks
def test_the_door_over_a_socket(house: House) -> Generator[Any, Any, None]:
    """With the real reactor, its threads and a socket, reading and forgetting work."""
    loop: Any = reactor
    port = loop.listenTCP(0, make_admin_site(house.sources, token=TOKEN, reactor=loop), interface="127.0.0.1")

    def ask(method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port.getHost().port, timeout=60)
        try:
            connection.request(method, target, body, {"Authorization": f"Bearer {TOKEN}"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    try:
        status, body = yield deferToThread(ask, "GET", "/v1/vms?limit=1")
        assert (status, json.loads(body)["vms"][0]["vm"]) == (200, "a")
        assert (yield deferToThread(ask, "DELETE", "/v1/vms/a")) == (204, b"")
        assert house.forgotten == ["a"]
        status, body = yield deferToThread(ask, "POST", "/v1/flush", b"x" * (MAX_BODY_BYTES + 1))
        assert (status, json.loads(body)["status"]) == (413, 413)
    finally:
        yield port.stopListening()
