"""Who asks at the agents' door, and the frame it comes in: kinds of input, each with the answer it must get."""

from __future__ import annotations

import json
from typing import Final

from agent.wire import MAX_BODY_BYTES
from aggregator.enrolment import MAX_ENROLMENT_BYTES
from bench.bad_input_maker import CLONED_VM, OTHER_VM, REVOKED_VM, Kind, Maker

_TOKEN_CHARS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_CHUNK: Final = b"10000\r\n" + b" " * 65536 + b"\r\n"
_PROXY_2: Final = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\1\x7f\0\0\1\x1f\x90\x1f\x90"


# Who asks.


def _no_token(m: Maker) -> bytes:
    value = m.draw.choice((None, "Bearer", "Basic dTpw", f"{m.word()} {m.word()}", m.shared.tokens[m.vm]))
    return m.request(authorization=value)


def _bad_token(m: Maker) -> bytes:
    token = m.shared.tokens[m.vm]
    at = m.draw.randrange(len(token))
    other = m.draw.choice([char for char in _TOKEN_CHARS if char != token[at]])
    changed = m.one(
        token[:at] + other + token[at + 1 :],
        token[:at],
        token + other,
        token[:at] + token[at + 1 :],
        other * 5000,
        f"{token}\xff",
    )
    return m.request(authorization=f"Bearer {changed}")


def _bad_rotation(m: Maker) -> bytes:
    return m.request(b"", path="/v1/token", authorization=f"Bearer {m.word()}.1.{m.word()}")


def _as(m: Maker, vm: str, body: bytes | None = None) -> bytes:
    return m.request(body, authorization=f"Bearer {m.shared.tokens[vm]}", fallow_vm=vm)


def _forged_forwarding(m: Maker) -> bytes:
    address = ".".join(str(m.draw.randrange(256)) for _ in range(4))
    return m.request(x_forwarded_for=m.one(address, f"{address}, 127.0.0.1", m.word()), forwarded=f"for={address}")


# The frame.


def _too_large_in_chunks(m: Maker) -> bytes:
    head = m.head(
        "POST",
        "/v1/samples",
        {
            "host": "a",
            "authorization": f"Bearer {m.shared.tokens[m.vm]}",
            "fallow-vm": m.vm,
            "content-type": "application/json",
            "transfer-encoding": "chunked",
        },
    )
    return head + _CHUNK * 17


def _bad_length(m: Maker) -> bytes:
    digits = str(m.draw.randrange(1, 1000))
    text = m.one(f"+{digits}", f"-{digits}", f"0x{digits}", f"{digits}.0", f"{digits}, {digits}", m.word(), "9" * 30)
    return m.request(content_length=text)


def _two_framings(m: Maker) -> bytes:
    data = m.request(content_encoding=None, content_length="3", transfer_encoding=None)
    extra = m.one("transfer-encoding: chunked", f"content-length: {m.draw.randrange(9)}", "content-length: 3")
    return _with_line(m, data, extra)


def _with_line(m: Maker, data: bytes, line: str) -> bytes:
    """The request with one more header, somewhere."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    lines.insert(m.draw.randrange(1, len(lines) + 1), line.encode("latin-1"))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _broken_head(m: Maker) -> bytes:
    line = m.one(
        f"x: {m.word()}\r{m.word()}",
        f"x: {m.word()}\0",
        f"{m.word()} : {m.word()}",
        f" {m.word()}: folded",
        f"no colon {m.word()}",
        f": {m.word()}",
        f"x\x7f{m.word()}: y",
        f"fallow-vm: {m.vm}",
    )
    return _with_line(m, m.request(), line)


def _bad_chunk(m: Maker) -> bytes:
    data = m.request(b"", content_length=None, transfer_encoding="chunked")
    return data + m.one(f"x{m.word()}\r\n", "-1\r\n", "+5\r\nhello\r\n", "1\r\nxyz", f"{'f' * 20}\r\n").encode()


def _large_head(m: Maker) -> bytes:
    size = m.draw.randrange(17_000, 60_000)
    if m.draw.random() < 0.5:
        return m.request(x_long="y" * size)
    return _with_line(m, m.request(), "\r\n".join([f"x-{m.word()}: {'y' * 40}"] * (size // 40)))


def _unknown_coding(m: Maker) -> bytes:
    return m.request(content_encoding=m.one("br", "deflate", "zstd", "gzip, gzip", f"x{m.word()}"))


def _unknown_type(m: Maker) -> bytes:
    return m.request(content_type=m.one("text/plain", "application/jsonx", "", "json", f"{m.word()}/{m.word()}"))


def _wrong_method(m: Maker) -> bytes:
    path, methods = m.draw.choice(
        (
            ("/v1/samples", ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")),
            ("/v1/enroll", ("GET", "PUT", "DELETE")),
            ("/v1/token", ("GET", "PUT")),
            ("/healthz", ("POST", "PUT", "DELETE")),
            ("/readyz", ("POST", "OPTIONS")),
        )
    )
    return m.head(m.one(*methods), path, {"host": "a", "content-length": "0"})


def _unknown_path(m: Maker) -> bytes:
    word = m.word()
    path = m.one("/", "/v1", "/v1/samples/", "//v1/samples", "/v1/../v1/samples", "*", f"/{word}", f"/%2e/{word}")
    return m.request(path=path)


def _not_our_protocol(m: Maker) -> bytes:
    texts = ("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", f"{m.word()} / HTTP/1.1\r\n", "GET / FTP/1.1\r\n", "\x16\x03\x01")
    return m.draw.choice((m.one(*texts).encode("latin-1"), _PROXY_2)) + m.request()


def _odd_transfer(m: Maker) -> bytes:
    coding = m.one("gzip", "identity", "chunked, gzip", "xchunked", m.word())
    return m.request(b"", content_length=None, transfer_encoding=coding)


# Enrolment.


def _enrolment(m: Maker, **changes: object) -> bytes:
    known: dict[str, object] = {"join_token": m.word(), "vm": m.vm, "hostname": m.word()}
    return m.request(json.dumps(known | changes).encode(), path="/v1/enroll", authorization=None, fallow_vm=None)


def _enrolment_of_wrong_type(m: Maker) -> bytes:
    name, value = m.draw.choice(
        (
            ("join_token", 5),
            ("join_token", "x" * 257),
            ("vm", m.bad_id()),
            ("vm", None),
            ("hostname", "x\x1b[31m"),
            ("ips", ["x" * 65]),
            ("macs", "aa:bb"),
            ("machine", {"key": ["nested"]}),
        )
    )
    return _enrolment(m, **{name: value})


def _broken_enrolment(m: Maker) -> bytes:
    body = m.one("", "{", '{"join_token": NaN}', f'{{"vm": "{m.word()}', '{"x": ' * m.draw.randrange(2000, 3000))
    return m.request(body.encode(), path="/v1/enroll")


def _nothing_but_brackets(m: Maker) -> bytes:
    return m.request(b"[" * m.draw.randrange(2000, 3000), path="/v1/enroll")


STRANGERS: Final = (
    Kind("valid", ((204,),), lambda m: m.request(), weight=3.0, stored=1),
    Kind("valid, then the same again", ((204,), (200,)), lambda m: m.request() * 2, stored=1, holds=b'"duplicate": 1'),
    Kind("no token", ((401,),), _no_token),
    Kind("bad token", ((401,),), _bad_token),
    Kind("token of A with data of B", ((403,),), lambda m: m.request(m.push(vm=f'"{OTHER_VM}"'))),
    Kind("Fallow-VM differs from the body", ((403,),), lambda m: _as(m, OTHER_VM)),
    Kind("token of A with Fallow-VM of B", ((401,),), lambda m: m.request(fallow_vm=OTHER_VM)),
    Kind("revoked", ((401,),), lambda m: _as(m, REVOKED_VM)),
    Kind("identity in conflict", ((409,),), lambda m: _as(m, CLONED_VM)),
    Kind("no Fallow-VM", ((400,),), lambda m: m.request(fallow_vm=None)),
    Kind("rotation with a bad token", ((401,),), _bad_rotation),
    Kind("forged X-Forwarded-For", ((204,),), _forged_forwarding, stored=1),
    Kind("a stranger enrols", ((401, 429),), _enrolment, weight=0.05),
    Kind("enrolment of a wrong type", ((422, 429),), _enrolment_of_wrong_type, weight=0.5),
    Kind("broken enrolment", ((400, 429),), _broken_enrolment, weight=0.5),
    Kind("enrolment broken and of a wrong type", ((400, 429),), _nothing_but_brackets, weight=0.1),
    Kind(
        "enrolment too large",
        ((413, 429),),
        lambda m: _enrolment(m, hostname="x" * MAX_ENROLMENT_BYTES),
        weight=0.1,
    ),
)

FRAMES: Final = (
    Kind(
        "body over 1 MiB, sized",
        ((413,),),
        lambda m: m.request(b"", content_length=str(m.draw.randrange(MAX_BODY_BYTES + 1, 2**62))),
    ),
    Kind("body over 1 MiB, chunked", ((413,),), _too_large_in_chunks, weight=0.02),
    Kind(
        "gzip bomb",
        ((413,),),
        lambda m: m.request(m.draw.choice(m.shared.bombs), content_encoding="gzip"),
        weight=0.05,
    ),
    Kind("unknown Content-Encoding", ((415,),), _unknown_coding),
    Kind("unknown Content-Type", ((415,),), _unknown_type),
    Kind("two framings", ((400,),), _two_framings),
    Kind("bad Content-Length", ((400,),), _bad_length),
    Kind("bad chunk", ((400,),), _bad_chunk),
    Kind("broken head", ((400,),), _broken_head, weight=2.0),
    Kind("no Host", ((400,),), lambda m: m.request(host=m.draw.choice((None, "")))),
    Kind("headers over 16 KiB", ((431,),), _large_head, weight=0.3),
    Kind("path over 16 KiB", ((431,),), lambda m: m.request(path="/" + "a" * 20_000), weight=0.3),
    Kind("wrong method", ((405,),), _wrong_method),
    Kind("unknown path", ((404,),), _unknown_path),
    Kind("forged PROXY, other protocols", ((400,),), _not_our_protocol),
    Kind("another Transfer-Encoding", ((400, 501),), _odd_transfer),
    Kind("another expectation", ((417,),), lambda m: m.request(expect=m.word())),
)
