"""What the body of a push may hold at the agents' door: kinds of input, each with the answer it must get."""

from __future__ import annotations

import json
from typing import Final

from agent.sample import FIELDS
from agent.wire import MAX_SAMPLES_PER_BATCH
from aggregator.decode import MAX_AHEAD_S, OLDEST_TS
from bench.bad_input_maker import MUTANT_VM, Kind, Maker

_REQUIRED: Final = ("ts", *(field.name for field in FIELDS if field.required))
_RAW_RETENTION_S: Final = 14 * 86_400


def _broken_json(m: Maker) -> bytes:
    body = m.push()
    at = m.draw.randrange(len(body))
    return m.request(
        m.draw.choice(
            (
                body[:at],
                body + m.one("}", "]", "x", '"', ",").encode(),
                body.replace(b":", m.one(";", "=", "").encode(), 1),
                body.replace(b"{", m.one("{,", "{x", "{{").encode(), 1),
                body.replace(b'"boot"', b'"bo\xff\xfeot"'),
                body.replace(b"}", b",}", 1),
                body.replace(b'"v"', b"'v'"),
                b"\xff\xfe" + body,
                b"",
            )
        )
    )


def _no_number(m: Maker) -> bytes:
    literal = m.one("NaN", "Infinity", "-Infinity", "nan", "+1", "01", ".5", "1.", "0x1", "1e", "--1", "1_0", "None")
    return m.request(m.push({m.figure(): literal}) if m.draw.random() < 0.8 else m.push(seq=literal))


def _lone_surrogate(m: Maker) -> bytes:
    escape = f"\\ud{m.draw.randrange(0x800, 0x1000):03x}"
    text = f'"{m.word()}{escape}{m.word()}"'
    return m.request(m.push({"note": text}) if m.draw.random() < 0.5 else m.push(boot=text))


def _broken_gzip(m: Maker) -> bytes:
    packed = m.shared.packed
    at = m.draw.randrange(len(packed))
    body = m.draw.choice((packed[:at], packed + b"x", packed + packed, b"x" + packed, m.push()))
    return m.request(body, content_encoding="gzip")


def _twice_the_last_counts(m: Maker) -> bytes:
    return m.request(m.push({"users": f'{m.draw.randrange(9)}, "users": {m.draw.randrange(9)}'}))


def _twice_the_last_is_wrong(m: Maker) -> bytes:
    return m.request(m.push({"users": '7, "users": -1'}))


def _deep(m: Maker) -> bytes:
    # Mostly shallow ones of those that are too deep: 100,000 levels each time would be a bench of memcpy.
    depth = m.draw.randrange(2_000, 4_000) if m.draw.random() < 0.95 else 100_000
    opening, closing = m.draw.choice((("[", "]"), ('{"a":', "}")))
    nested = opening * depth + "1" + (closing * depth if m.draw.random() < 0.5 else "")
    return m.request(m.push({"note": nested}) if m.draw.random() < 0.5 else nested.encode())


def _huge_number(m: Maker) -> bytes:
    literal = m.one(
        "1e400", "-1e400", "9" * m.draw.randrange(400, 5001), str(2**63 + m.draw.randrange(2**70)), str(-(2**63) - 1)
    )
    if m.draw.random() < 0.7:
        return m.request(m.push({m.draw.choice((*(field.name for field in FIELDS), "ts")): literal}))
    return m.request(m.push(**{m.one("v", "seq", "sent_s", "interval_s"): literal}))


def _wrong_type(m: Maker) -> bytes:
    literal = m.one("true", "false", f'"{m.draw.random():.3f}"', "[]", "{}")
    if m.draw.random() < 0.7:
        return m.request(m.push({m.draw.choice((m.figure(), "ts")): literal}))
    name, text = m.draw.choice(
        (("v", '"1"'), ("v", "true"), ("vm", "5"), ("boot", "1"), ("seq", "true"), ("sent_s", '"1"'), ("samples", "{}"))
    )
    return m.request(m.push(**{name: text}))


def _missing(m: Maker) -> bytes:
    if m.draw.random() < 0.5:
        name = m.one(*_REQUIRED)
        return m.request(m.push({name: m.draw.choice((None, "null"))}))
    return m.request(m.push(**{m.one("v", "vm", "boot", "seq", "sent_s", "samples"): m.draw.choice((None, "null"))}))


def _out_of_range(m: Maker) -> bytes:
    field = m.draw.choice(FIELDS)
    above = repr(field.maximum * (1.001 + 1e9 * m.draw.random() ** 4))
    return m.request(m.push({field.name: m.one("-1", f"-{m.draw.random() + 1e-9!r}", above)}))


def _more_used_than_there_is(m: Maker) -> bytes:
    total = m.draw.randrange(1, 2**40)
    return m.request(m.push({"mem_total_bytes": str(total), "mem_used_bytes": str(total + m.draw.randrange(1, 2**40))}))


def _wrong_head_value(m: Maker) -> bytes:
    name, text = m.draw.choice(
        (
            ("boot", '""'),
            ("boot", f'"{"b" * 65}"'),
            ("seq", "-1"),
            ("seq", str(2**53 + 1)),
            ("sent_s", "-0.5"),
            ("sent_s", "1e11"),
            ("interval_s", m.one("0", "-60", "7", "3601", "1.5")),
            ("samples", "[]"),
            ("samples", "[null]"),
        )
    )
    return m.request(m.push(**{name: text}))


def _impossible_time(m: Maker) -> bytes:
    ahead = (int(m.shared.now_s) + MAX_AHEAD_S) // 60 * 60 + 7200 + 60 * m.draw.randrange(10**6)
    before = m.draw.randrange(0, OLDEST_TS // 60) * 60
    odd = m.ts + m.draw.randrange(1, 60)
    return m.request(m.push({"ts": str(m.draw.choice((ahead, before, odd, -m.ts, 2**32, f"{m.ts}.5")))}))


def _too_old(m: Maker) -> bytes:
    newest = int(m.shared.now_s) - _RAW_RETENTION_S - 3600
    return m.request(m.push({"ts": str(m.draw.randrange(OLDEST_TS // 60 + 1, newest // 60) * 60)}))


def _unknown_version(m: Maker) -> bytes:
    return m.request(m.push(v=str(m.draw.choice((0, 2, -1, m.draw.randrange(2, 10**9))))))


def _too_many_samples(m: Maker) -> bytes:
    extra = m.shared.minute * m.draw.randrange(1, 100)
    return m.request(m.push(samples=f"[{m.shared.minute * MAX_SAMPLES_PER_BATCH}{extra}".rstrip(", ") + "]"))


def _bad_id_in_the_body(m: Maker) -> bytes:
    return m.request(m.push(vm=json.dumps(m.bad_id())))


def _bad_id_in_the_header(m: Maker) -> bytes:
    while True:
        vm = m.bad_id().strip()
        # An empty one is missing, and what no header may hold is broken framing: other kinds.
        if vm and vm.isprintable() and not m.is_id(vm):
            return m.request(fallow_vm=vm)


def _mutated(m: Maker) -> bytes:
    # What is still a push after that must not take the minute of a valid one.
    m.vm = MUTANT_VM
    data = bytearray(m.request())
    for _ in range(m.draw.randrange(1, 6)):
        at = m.draw.randrange(len(data))
        size = m.draw.randrange(5)
        data[at : at + m.draw.randrange(5)] = m.draw.randbytes(size)
    return bytes(data)


def _garbage(m: Maker) -> bytes:
    return m.draw.randbytes(m.draw.randrange(1, 400))


BODIES: Final = (
    Kind("broken or truncated JSON", ((400,),), _broken_json, weight=2.0),
    Kind("broken gzip", ((400,),), _broken_gzip),
    Kind("NaN, Infinity and other words", ((400,),), _no_number),
    Kind("a lone surrogate", ((400,),), _lone_surrogate),
    Kind("duplicate keys", ((204,),), _twice_the_last_counts, stored=1),
    Kind("duplicate keys, the last wrong", ((422,),), _twice_the_last_is_wrong),
    Kind("nested too deeply", ((400,),), _deep, weight=0.2),
    Kind("1e400, 5,000 digits, over 2^63", ((422,),), _huge_number),
    Kind("bool or text for a number", ((422,),), _wrong_type, weight=2.0),
    Kind("missing or null", ((422,),), _missing),
    Kind("figure out of range", ((422,),), _out_of_range, weight=2.0),
    Kind("more used than there is", ((422,),), _more_used_than_there_is),
    Kind("wrong value beside the samples", ((422,),), _wrong_head_value),
    Kind("impossible time", ((422,),), _impossible_time),
    Kind("too old", ((200,),), _too_old, holds=b'"too_old"'),
    Kind("unknown schema version", ((422,),), _unknown_version, holds=b"supported: 1"),
    Kind("too many samples", ((413,),), _too_many_samples, weight=0.01),
    Kind("VM id that is a path or SQL, in the body", ((422,),), _bad_id_in_the_body),
    Kind("VM id that is a path or SQL, in the header", ((422,),), _bad_id_in_the_header),
    Kind("mutated bytes", (), _mutated, weight=4.0),
    Kind("random bytes", (), _garbage),
)
