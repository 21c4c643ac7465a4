"""What an agent says when it enrols: bytes → `Enrolment`, with every bound. Pure; docs/enrolment.md has the fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from agent.identity import is_placeholder
from agent.wire import is_vm_id
from aggregator.problems import Problem, Refused

MAX_ENROLMENT_BYTES = 64 << 10
MachineValue = str | int | float | bool | None

_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Address = Annotated[str, msgspec.Meta(max_length=64)]
_Addresses = Annotated[list[_Address], msgspec.Meta(max_length=256)]
_Machine = Annotated[dict[_Text, _Text | int | float | bool | None], msgspec.Meta(max_length=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """A VM that asks for its token.

    Attributes:
        join_token: what lets it in.
        vm: the id it asks for; matches `wire.VM_ID_PATTERN` whole.
        hostname, ips, macs, machine, boot: evidence, never identity; every text is printable.
    """

    join_token: str = field(repr=False)
    vm: str
    hostname: str | None = None
    ips: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()
    machine: dict[str, MachineValue] = field(default_factory=dict)
    boot: str | None = None


class _Body(msgspec.Struct):
    join_token: _Text
    vm: str
    hostname: _Text | None = None
    ips: _Addresses | None = None
    macs: _Addresses | None = None
    machine: _Machine | None = None
    boot: _Text | None = None


_DECODER = msgspec.json.Decoder(_Body)


def decode_enrolment(body: bytes) -> Enrolment:
    """The body of `POST /v1/enroll`. Unknown fields are ignored; of a key that stands twice the last one counts.

    Raises: Refused: 413 over MAX_ENROLMENT_BYTES, 400 not well-formed JSON, 422 a wrong type, size, character or id,
        or the id is a placeholder.
    """
    if len(body) > MAX_ENROLMENT_BYTES:
        raise Refused(Problem(413, "too-large", f"the body is over {MAX_ENROLMENT_BYTES} bytes"))
    try:
        said = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        # The decoder stops at the first wrong type and has not seen whether the rest is JSON at all.
        _check_json(body)
        raise _wrong(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error
    if not is_vm_id(said.vm):
        raise _wrong(f"vm: {said.vm[:80]!r} is not a VM id")
    if is_placeholder(said.vm):
        raise Refused(Problem(422, "placeholder", f"vm: {said.vm!r} is in many machines: it names none of them"))
    enrolment = Enrolment(
        join_token=said.join_token,
        vm=said.vm,
        hostname=said.hostname,
        ips=tuple(said.ips or ()),
        macs=tuple(said.macs or ()),
        machine=dict(said.machine or {}),
        boot=said.boot,
    )
    _check_printable(enrolment)
    return enrolment


def _check_printable(enrolment: Enrolment) -> None:
    # These texts end on terminals, in logs and in CSV files: no escape sequence or line break may ride along.
    texts = [("hostname", enrolment.hostname), ("boot", enrolment.boot)]
    texts += [("ips", text) for text in enrolment.ips] + [("macs", text) for text in enrolment.macs]
    for key, value in enrolment.machine.items():
        texts.append(("machine", key))
        texts.append(("machine", value if isinstance(value, str) else None))
    for name, text in texts:
        if text is not None and not text.isprintable():
            raise _wrong(f"{name}: {text[:80]!r} holds characters that cannot be printed")


def _check_json(body: bytes) -> None:
    try:
        body.decode()
        msgspec.json.decode(body)
    except msgspec.ValidationError:
        pass
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> Refused:
    return Refused(Problem(400, "malformed", f"the body is not JSON: {error}"))


def _wrong(detail: str) -> Refused:
    return Refused(Problem(422, "invalid", detail))
