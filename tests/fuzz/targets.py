"""What may be fuzzed: each target takes any bytes, and raises when a promise of the code under it is broken.

A promise is mostly of this kind: a result whose parts fit together, or the one exception that the docstring names.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from agent.config import parse_config
from agent.connection import BadAnswerError, parse_head
from agent.push import retry_after_s
from agent.settings import ConfigError
from agent.traces import TraceError, read_csv
from agent.wire import is_vm_id
from aggregator.config import AggregatorConfig
from aggregator.decode import decode_push
from aggregator.enrolment import decode_enrolment
from aggregator.http import HttpLimits, Interim, Request, RequestParser
from aggregator.inventory import parse_inventory_csv
from aggregator.journal_format import MARKER, JournalError, record_head, segment_header, segment_name
from aggregator.node_proof import Question, fits, make_proof, parse_proof, proof_key
from aggregator.problems import Problem, Refused
from aggregator.record import RecordError, decode_record, encode_record
from aggregator.rows import ROW_BYTES, row_ts
from aggregator.vms_csv import parse_vms_csv
from orchestrate.audit import GENESIS, anchor_of, parse_anchor, seal, verify
from orchestrate.config import OrchestrateConfig
from orchestrate.drivers.libvirt_uri import parse_uri
from orchestrate.owners.links import LinkKey, LinkRefused, Purpose
from orchestrate.plan import decode_plan, encode_plan
from orchestrate.records import AuditEntry
from reports.config import ReportConfig
from reports.deliver.cron import next_due_s, parse_cron
from reports.own_policies import read_policies, to_toml
from tests.aggregator.journal_fakes import DIRECTORY, MemoryFiles, opened, record
from tests.fuzz.draw import Draw, changed

NOW_S: Final = 1_790_000_000.0
Target = Callable[[bytes], None]
_ZONE: Final = ZoneInfo("Europe/Berlin")
_SOURCE: Final = "fuzzed"
_LIMITS: Final = HttpLimits(head_bytes=2_000, body_bytes=4_000)


def push(data: bytes) -> None:
    """A push is rows that fit together and survive the journal's record, or is refused with 400, 413, 415 or 422."""
    draw = Draw(data)
    encoding = draw.pick((None, None, "gzip", "identity", "br"))
    try:
        found = decode_push(draw.rest(), content_encoding=encoding, now_s=NOW_S)
    except Refused as refused:
        _check(refused.problem.status in (400, 413, 415, 422), f"refused with {refused.problem.status}")
        json.loads(refused.problem.body())
        return
    _check(is_vm_id(found.vm), "not a VM id")
    times = [row_ts(found.rows, index) for index in range(found.count)]
    _check(len(found.rows) == found.count * ROW_BYTES and found.count > 0, "rows and count differ")
    _check((min(times), max(times)) == (found.oldest_ts, found.newest_ts), "times and rows differ")
    again, received_s = decode_record(encode_record(found, NOW_S))
    _check(
        (again.vm, again.boot, again.rows, received_s) == (found.vm, found.boot, found.rows, NOW_S), "record differs"
    )


def enrolment(data: bytes) -> None:
    """An enrolment is printable and of a VM id, or is refused with 400, 413 or 422."""
    try:
        found = decode_enrolment(data)
    except Refused as refused:
        _check(refused.problem.status in (400, 413, 422), f"refused with {refused.problem.status}")
        json.loads(refused.problem.body())
        return
    _check(is_vm_id(found.vm), "not a VM id")
    _check(all(text.isprintable() for text in (*found.ips, *found.macs, found.hostname or "")), "not printable")


def http(data: bytes) -> None:
    """However the bytes are cut, the parser tells the same."""
    draw = Draw(data)
    sizes = [draw.number(64) + 1 for _ in range(draw.number(8) + 1)]
    stream = draw.rest()
    whole, cut = RequestParser(_LIMITS), RequestParser(_LIMITS)
    expected = [_told(event) for event in whole.feed(stream)]
    found, at, turn = [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        found += [_told(event) for event in cut.feed(stream[at : at + size])]
        at, turn = at + size, turn + 1
    _check(found == expected, f"whole {expected}, in pieces of {sizes} {found}")
    _check(whole.ended == cut.ended and whole.between == cut.between, "another state")


def _told(event: Request | Problem | Interim) -> object:
    # What a broken frame is blamed on may depend on how much of it came at once; that it is broken may not.
    return (event.status, event.reason, event.close) if isinstance(event, Problem) else event


def answer(data: bytes) -> None:
    """The agent reads any answer's head, or says that it is none."""
    try:
        head = parse_head(data)
    except BadAnswerError:
        return
    _check(0 <= head.status <= 999 and (head.length is None or head.length >= 0), "out of range")
    text = data.decode("latin-1")
    _check(0 <= retry_after_s(text, now_s=NOW_S) <= 3600, "a wait out of range")


def journal(data: bytes) -> None:
    """Whatever a segment holds, recovery gives records that stand there, in order, or says what is wrong."""
    draw = Draw(data)
    kind = draw.number(4)
    content = draw.rest() if kind == 0 else _damaged_segment(draw)
    files = MemoryFiles({DIRECTORY / segment_name(7): content})
    try:
        segments, recovery = opened(files)
        payloads = [payload for number in recovery.segments for payload in segments.replay(number)]
    except JournalError:
        return
    at = 0
    for payload in payloads:
        at = content.find(record_head(payload) + payload, at)
        _check(at >= 0, "a record that nobody wrote")
        at += len(MARKER)
    segments.close()
    _check(files.open_files == 0, "a file is left open")
    for payload in payloads:
        try:
            decode_record(payload)
        except RecordError:
            continue


def _damaged_segment(draw: Draw) -> bytes:
    content = bytearray(segment_header())
    for _ in range(draw.number(5)):
        content += record(draw.piece(40))
    for _ in range(draw.number(4)):
        at = draw.number(len(content) + 1)
        content[at : at + draw.number(6)] = draw.piece(6)
    return bytes(content[: draw.number(len(content) + 1) or len(content)])


def configuration(data: bytes) -> None:
    """Settings of each program, with values changed anywhere, are a configuration or ConfigError."""
    draw = Draw(data)
    name, parse = draw.pick(tuple(_PROGRAMS.items()))
    table = changed(tomllib.loads(_example(name)), draw)
    _parsed(parse, table)


def toml(data: bytes) -> None:
    """Any text as the file of each program is a configuration or ConfigError."""
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return
    except ValueError:  # a number of more digits than Python reads: `load_toml` has to name it, see test_fuzz.py
        return
    for parse in _PROGRAMS.values():
        _parsed(parse, table)


def _parsed(parse: Callable[[Mapping[str, Any]], object], table: Mapping[str, Any]) -> None:
    try:
        parse(table)
    except ConfigError as error:
        _check(bool(error.problems) and all(problem.strip() for problem in error.problems), "no words")


_PROGRAMS: Final[Mapping[str, Callable[[Mapping[str, Any]], object]]] = {
    "agent.toml": lambda table: parse_config(table, source=_SOURCE, options={}),
    "aggregator.toml": lambda table: AggregatorConfig.parse(table, source=_SOURCE),
    "report.toml": lambda table: ReportConfig.parse(table, source=_SOURCE),
    "orchestrate.toml": lambda table: OrchestrateConfig.parse(table, source=_SOURCE),
}


def policies(data: bytes) -> None:
    """Own policies, with values changed anywhere, are policies that can be written down again, or mistakes."""
    draw = Draw(data)
    table = changed(tomllib.loads(_example("policies.toml")), draw)
    found, problems = read_policies(table, source=_SOURCE)
    _check(all(isinstance(problem, str) and problem for problem in problems), "no words")
    for name, policy in found.items():
        written = tomllib.loads(to_toml(policy))["report"]["policies"]
        again, mistakes = read_policies(written, source=_SOURCE)
        _check(not mistakes and again[name].idle_when == policy.idle_when, f"{name} cannot be written down again")


def plan(data: bytes) -> None:
    """A plan is one that can be written down again, or ValueError; whatever is changed in it."""
    draw = Draw(data)
    if draw.number(2):
        text = draw.rest().decode("utf-8", "replace")
    else:
        text = json.dumps(changed(json.loads(_example("plan.json")), draw), default=str)
    try:
        found = decode_plan(text)
    except ValueError:
        return
    _check(decode_plan(encode_plan(found)) == found, "it cannot be written down again")


def link(data: bytes) -> None:
    """A link that nobody signed is refused."""
    key = LinkKey(b"k" * 32)
    try:
        key.read(data.decode("latin-1"), purpose=Purpose.KEEP, now_s=NOW_S)
    except LinkRefused:
        return
    raise AssertionError("a link that nobody signed")


def csv(data: bytes) -> None:
    """Any text as a CSV of VMs, of an inventory or of a trace is rows, or the mistakes in it."""
    text = data.decode("utf-8", "replace")
    for parse in (parse_vms_csv, parse_inventory_csv):
        try:
            for row in parse(text, source=_SOURCE):
                vm = row["vm_id"] if isinstance(row, Mapping) else row.vm
                _check(vm is not None and is_vm_id(vm), "not a VM id")
        except ConfigError as error:
            _check(bool(error.problems), "no words")
    try:
        for recording in read_csv(text.splitlines(), where=_SOURCE):
            _check(is_vm_id(recording.vm), "not a VM id")
    except TraceError:
        return


def cron(data: bytes) -> None:
    """A cron line comes at some time after now, in any zone, or is none."""
    draw = Draw(data)
    if draw.number(2):
        text = draw.rest().decode("utf-8", "replace")
    else:
        text = " ".join("".join(draw.pick(_CRON_PARTS) for _ in range(draw.number(3) + 1)) for _ in range(5))
    try:
        line = parse_cron(text)
    except ValueError:
        return
    due_s = next_due_s(line, _ZONE, NOW_S)
    _check(due_s is None or due_s > NOW_S, "it was due before")


_CRON_PARTS: Final = ("*", "/2", "0", "5", "31", "12", "-", ",", "1-5", "mon", "sun", "59", "/0", "7", "L", "?", "60")


def audit(data: bytes) -> None:
    """A log that was changed anywhere is found out, and an anchor is one or ValueError."""
    draw = Draw(data)
    entries: list[AuditEntry] = []
    last = GENESIS
    for number in range(draw.number(4) + 2):
        entries.append(seal(last, at_s=NOW_S + number, who="ann", what="plan", body=json.dumps({"n": number})))
        last = anchor_of(entries[-1])
    _check(verify(entries) is None, "a sound log is called broken")
    _check(verify(_tampered(entries, draw)) is not None, "a change was not seen")
    try:
        parse_anchor(draw.rest().decode("utf-8", "replace"))
    except ValueError:
        return


def _tampered(entries: Sequence[AuditEntry], draw: Draw) -> list[AuditEntry]:
    """The log with one field of one line changed, or a line removed or moved, but for the end cut off."""
    found = list(entries)
    # The last line cannot be missed by its followers, so it is not the one that goes.
    at = draw.number(len(found) - 1)
    match draw.number(4):
        case 0:
            del found[at]
        case 1:
            found[at], found[at + 1] = found[at + 1], found[at]
        case 2:
            found[at] = replace(found[at], who=found[at].who + draw.text(3) + "x")
        case _:
            found[at] = replace(found[at], at_s=found[at].at_s + 1 + draw.number(200))
    return found


def uri(data: bytes) -> None:
    """An address of a hypervisor is of a scheme that is allowed, or ValueError."""
    text = data.decode("utf-8", "replace")
    try:
        found = parse_uri(text, allow_plain=False)
    except ValueError:
        return
    _check(found.text.lower().startswith(("qemu:", "qemu+unix:", "qemu+ssh:", "qemu+tls:", "test:")), "another scheme")
    _check("169.254." not in (found.host or "") and not (found.host or "").startswith("fe80"), "link-local")


def proof(data: bytes) -> None:
    """A text is the one way to write its proof or is none, and fits the question it was made for alone."""
    draw = Draw(data)
    asked, other = (
        Question(draw.text(4), draw.text(4), draw.text(4), draw.text(4), draw.text(4), draw.piece(3)) for _ in range(2)
    )
    key = proof_key(draw.text(3))
    made = make_proof(key, asked, now_s=NOW_S, nonce="0" * 32)
    _check(fits(key, asked, made) and fits(key, other, made) == (asked == other), "fits another question")
    text = draw.rest().decode("utf-8", "replace")
    found = parse_proof(text)
    _check(found is None or found.text == text, "written otherwise")


def _check(holds: bool, words: str) -> None:
    if not holds:
        raise AssertionError(words)


def _example(name: str) -> str:
    return (CORPUS / "examples" / name).read_text(encoding="utf-8")


CORPUS: Final = Path(__file__).parents[1] / "data" / "corpus"
TARGETS: Final[Mapping[str, Target]] = {
    target.__name__: target
    for target in (
        push,
        enrolment,
        http,
        answer,
        journal,
        configuration,
        toml,
        policies,
        plan,
        link,
        csv,
        cron,
        audit,
        uri,
        proof,
    )
}


def corpus_of(name: str) -> list[Path]:
    """Inputs kept for a target: what found something once, and what leads deep into the code."""
    return sorted((CORPUS / name).glob("*"))
