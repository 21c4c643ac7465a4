"""`fallow-aggregator token …` and `join-token`: who may enrol, whose token counts, and the keys that sign them.

SQLAlchemy and the rest load when a command needs them, so that `--help` and the daemon's workers stay light.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.settings import parse_count, parse_duration_s
from aggregator.admission import Bound, Kind, parse_bound
from aggregator.cli import (
    EXIT_FAILED,
    Command,
    add_command,
    add_fleet_url,
    complain,
    existing_data_dir,
    parse_vm,
    say,
    say_table,
    time_text,
    typed,
)
from aggregator.vms_cli import all_vms, chosen_vms, readable, writable
from aggregator.vms_csv import parse_mail, parse_text

if TYPE_CHECKING:
    from aggregator.join_tokens import JoinToken
    from aggregator.waits import Wait

MAX_TTL_S = 366 * 86_400.0
MAX_USES = 1_000_000
_A_VM = "6f9c2b1e-0c52-4bd5-a8f5-7cbb1d7f5a01"


def add_parsers(subparsers: Any) -> None:
    """Adds `token` and `join-token` to what `argparse.ArgumentParser.add_subparsers` returned.

    Each leaf sets `command`: parsed options → exit code.
    """
    token = subparsers.add_parser("token", help="who may enrol, whose token counts, and the keys").add_subparsers(
        dest="token_command", required=True, metavar="COMMAND"
    )
    _add_mint(token, "mint", "fallow-aggregator token mint")
    _add_mint(subparsers, "join-token", "fallow-aggregator join-token")
    _add_join_tokens(token)
    _add_waits(token)
    _add_keys(token)


def _add_mint(subparsers: Any, name: str, program: str) -> None:
    mint = _add(
        subparsers,
        name,
        _mint,
        "print a join token: with it agents enrol",
        f"{program} --uses 20 --ttl 2h --owner web-team --mail web@example.org --tag shop",
        f"{program} --vm {_A_VM}",
        f"{program} --uses 200 --network 10.1.0.0/16",
    )
    mint.add_argument("--uses", type=typed(_parse_uses), default=1, metavar="N", help="enrolments it is good for (1)")
    mint.add_argument("--ttl", type=typed(_parse_ttl_s), default="24h", help="how long it lives (24h)")
    mint.add_argument("--name", type=typed(parse_text), help="display name of the VM that uses it")
    mint.add_argument("--owner", type=typed(parse_text), help="owner of the VMs that use it")
    mint.add_argument("--mail", type=typed(parse_mail), help="where their owner is written to")
    mint.add_argument("--tag", type=typed(_parse_tag), action="append", default=[], help="a tag for them; may repeat")
    only = mint.add_mutually_exclusive_group()
    only.add_argument("--vm", metavar="VM", type=typed(_bound_to(Kind.VM)), dest="bound", help="for this VM alone")
    only.add_argument(
        "--pool",
        metavar="POOL",
        type=typed(_bound_to(Kind.POOL)),
        dest="bound",
        help="for VMs of this pool of the inventory, or with this tag",
    )
    only.add_argument(
        "--network",
        metavar="CIDR",
        type=typed(_bound_to(Kind.NETWORK)),
        dest="bound",
        help="for connections from this network",
    )
    mint.add_argument("--json", action="store_true", help="print a JSON object: token, id, when it expires")


def _add_join_tokens(token: Any) -> None:
    listing = _add(token, "list", _list, "list join tokens, without their text", "fallow-aggregator token list --json")
    listing.add_argument("--json", action="store_true", help="print a JSON list")
    revoke_join = _add(
        token,
        "revoke-join",
        _revoke_join,
        "let nobody in with a join token",
        "fallow-aggregator token revoke-join 1f0c9a3e",
    )
    revoke_join.add_argument("ids", metavar="ID", nargs="+", help="as `token list` shows them")
    revoke = _add(
        token,
        "revoke",
        _revoke,
        "refuse every token of VMs; they must enrol again",
        f"fallow-aggregator token revoke {_A_VM}",
        "fallow-aggregator token revoke '*' --all",
    )
    revoke.add_argument("vms", metavar="VM", nargs="+", help="ids; '*' with --all is every VM that enrolled")
    revoke.add_argument("--all", action="store_true", help="mean it: '*' is every VM")


def _add_waits(token: Any) -> None:
    pending = _add(
        token, "pending", _pending, "list machines that wait to enrol", "fallow-aggregator token pending --json"
    )
    pending.add_argument("--json", action="store_true", help="print a JSON list, those already decided on too")
    approve = _add(
        token, "approve", _approve, "let a machine in that waits", f"fallow-aggregator token approve {_A_VM}"
    )
    refuse = _add(
        token,
        "refuse",
        _refuse,
        "keep a machine out that waits",
        f"fallow-aggregator token refuse {_A_VM}",
        f"fallow-aggregator token refuse {_A_VM} --again",
    )
    refuse.add_argument("--again", action="store_true", help="take it back: the machine may ask again")
    for parser in (approve, refuse):
        parser.add_argument("vm", metavar="VM", type=typed(parse_vm))
        parser.add_argument("--request", metavar="ID", help="which one, where several machines ask for the id")


def _add_keys(token: Any) -> None:
    keys = add_command(token, "keys", _keys, "list the keys that sign tokens", "fallow-aggregator token keys")
    keys.add_argument("--json", action="store_true", help="print a JSON list")
    add_command(token, "new-key", _new_key, "sign with a new key from now on", "fallow-aggregator token new-key")
    drop = add_command(
        token, "drop-key", _drop_key, "refuse what a key has signed", "fallow-aggregator token drop-key k1"
    )
    drop.add_argument("kid", metavar="KID", help="as `token keys` shows it")


def _add(subparsers: Any, name: str, command: Command, summary: str, *examples: str) -> argparse.ArgumentParser:
    parser = add_command(subparsers, name, command, summary, *examples)
    add_fleet_url(parser)
    return parser


def _mint(options: argparse.Namespace) -> int:
    from aggregator.join_tokens import Labels  # noqa: PLC0415

    labels = Labels(name=options.name, owner=options.owner, mail=options.mail, tags=tuple(sorted(set(options.tag))))
    with writable(options) as catalogue:
        minted = catalogue.mint(
            now_s=time.time(),
            ttl_s=options.ttl,
            uses=options.uses,
            labels=labels,
            bound=options.bound,
            created_by=_who(),
        )
    say(json.dumps(asdict(minted)) if options.json else minted.token)
    return 0


def _list(options: argparse.Namespace) -> int:
    now_s = time.time()
    with readable(options) as catalogue:
        found = catalogue.join_tokens()
    if options.json:
        say(json.dumps([asdict(token) | {"state": token.state(now_s)} for token in found]))
    else:
        say_table(
            ("ID", "STATE", "USES LEFT", "EXPIRES", "FOR", "MINTED BY"), [_cells(token, now_s) for token in found]
        )
    return 0


def _revoke_join(options: argparse.Namespace) -> int:
    with writable(options) as catalogue:
        return _each(
            options.ids,
            lambda token_id: catalogue.revoke_join_token(token_id, now_s=time.time()),
            done="revoked",
            unknown="no such join token",
        )


def _revoke(options: argparse.Namespace) -> int:
    from aggregator.catalogue import UnknownVmError  # noqa: PLC0415

    existing_data_dir(options)
    chosen = chosen_vms("token revoke", options.vms, everything=options.all)
    with writable(options) as catalogue:
        if chosen is None:
            chosen = [record.vm for record in all_vms(catalogue) if record.enrolled_s is not None]

        def revoke(vm_id: str) -> bool:
            try:
                catalogue.revoke(vm_id, "revoked", now_s=time.time())
            except UnknownVmError:
                return False
            return True

        return _each(chosen, revoke, done="revoked", unknown="no such VM that enrolled")


def _pending(options: argparse.Namespace) -> int:
    with readable(options) as catalogue:
        found = catalogue.waits()
    if options.json:
        say(json.dumps([asdict(wait) for wait in found]))
    else:
        say_table(
            ("VM", "REQUEST", "SINCE", "FROM", "HOST NAME", "MACS", "WHY"),
            [_wait_cells(wait) for wait in found if wait.state == "waiting"],
        )
    return 0


def _approve(options: argparse.Namespace) -> int:
    return _decide(options, "approved")


def _refuse(options: argparse.Namespace) -> int:
    return _decide(options, "waiting" if options.again else "refused")


def _decide(options: argparse.Namespace, state: str) -> int:
    from aggregator.waits import State, UnknownWaitError  # noqa: PLC0415

    with writable(options) as catalogue:
        try:
            request = catalogue.decide(options.vm, State(state), by=_who(), now_s=time.time(), request=options.request)
        except UnknownWaitError as error:
            complain(str(error))
            return EXIT_FAILED
    say(f"{state} {options.vm} {request}")
    return 0


def _keys(options: argparse.Namespace) -> int:
    from aggregator.key_file import read_keys  # noqa: PLC0415

    keys = read_keys(_key_file(options), now_s=time.time())
    roles = {kid: "signs" if kid == keys.signs_with else "accepted" for kid in keys.kids}
    if keys.signs_with != keys.kids[0]:
        roles[keys.kids[0]] = "signs soon"
    if options.json:
        say(json.dumps([{"kid": kid, "role": role} for kid, role in roles.items()]))
    else:
        say_table(("KEY", "ROLE"), list(roles.items()))
    return 0


def _new_key(options: argparse.Namespace) -> int:
    from aggregator.key_file import add_key  # noqa: PLC0415

    say(add_key(_key_file(options)))
    return 0


def _drop_key(options: argparse.Namespace) -> int:
    from aggregator.key_file import drop_key  # noqa: PLC0415

    drop_key(_key_file(options), options.kid)
    return 0


def _key_file(options: argparse.Namespace) -> Path:
    from aggregator.tokens import KEY_FILE_NAME  # noqa: PLC0415

    return existing_data_dir(options) / KEY_FILE_NAME


def _each(names: Sequence[str], work: Any, *, done: str, unknown: str) -> int:
    code = 0
    for name in dict.fromkeys(names):
        if work(name):
            say(f"{done} {name}")
        else:
            complain(f"{name}: {unknown}")
            code = EXIT_FAILED
    return code


def _who() -> str:
    """Who says so, as the shell knows it: a note for those who read it later, no proof."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _cells(token: JoinToken, now_s: float) -> tuple[str, ...]:
    bound = "any VM" if token.bound is None else f"{token.bound.kind} {token.bound.value}"
    left = f"{token.uses_left} of {token.uses}"
    return token.id, token.state(now_s), left, time_text(token.expires_s), bound, token.created_by or "-"


def _wait_cells(wait: Wait) -> tuple[str, ...]:
    said = wait.evidence
    macs = ", ".join(said.get("macs") or ()) or "-"
    since = time_text(wait.asked_s)
    return wait.vm, wait.request, since, said.get("peer") or "-", said.get("hostname") or "-", macs, wait.why


def _bound_to(kind: Kind) -> Any:
    def parse(text: str) -> Bound:
        return parse_bound(kind, text)

    return parse


def _parse_uses(text: str) -> int:
    uses = parse_count(text)
    if uses > MAX_USES:
        raise ValueError(f"{uses} is more than {MAX_USES}")
    return uses


def _parse_ttl_s(text: str) -> float:
    ttl_s = parse_duration_s(text)
    if ttl_s > MAX_TTL_S:
        raise ValueError(f"{text!r} is more than {MAX_TTL_S / 86_400:g}d")
    return ttl_s


def _parse_tag(text: str) -> str:
    tag = parse_text(text)
    if tag is None or ";" in tag:
        raise ValueError(f"{text!r} is not a tag")
    return tag
