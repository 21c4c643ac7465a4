"""`fallow-report user`: accounts, API tokens and the record of both.

argon2, SQLAlchemy and rich load when a command needs them, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

from agent.settings import ConfigError, parse_count, parse_duration_s, read_secret
from reports.people.roles import Role, Scope, parse_role, parse_scope
from reports.program import DONE, FAILED, complain
from reports.report_cli import option
from reports.source_options import add_source_options

if TYPE_CHECKING:
    import sqlalchemy as sa

    from reports.config import ReportConfig
    from reports.people.administration import Actor, Administration

DEFAULT_LIFE_S = 90 * 86_400.0
DEFAULT_EVENTS = 50
DEFAULT_URL = "http://127.0.0.1:8901"
_PROGRAM = "fallow-report: user"
_STDIN = "-"
_EXAMPLES = """\
examples:
  fallow-report user add ann --role admin                        asks for a password
  fallow-report user add ci --role operator --no-password        for programs alone
  fallow-report user add bob --role viewer --password-file - < file
  fallow-report user list --json
  fallow-report user role bob approver
  fallow-report user password bob
  fallow-report user link bob --url https://fallow.example.org   bob sets it himself
  fallow-report user disable bob
  fallow-report user log --account bob --last 20
  fallow-report user token add ci --label "nightly export" --scope read --life 365d
  fallow-report user token list ci
  fallow-report user token revoke 3f9c2b1e
"""

Open = Callable[[str | None, Path], "sa.Engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """Where a command talks to people.

    Args:
        inp: passwords are read from it where that is asked for.
        prompt: asks for a password without showing it; None where nobody sits there.
        whoami: the name of the one who does this; may raise what `getpass.getuser` does.
        width, colour: of tables.
    """

    out: TextIO
    err: TextIO
    inp: TextIO
    prompt: Callable[[str], str] | None
    whoami: Callable[[], str] = getpass.getuser
    width: int | None = None
    colour: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one command is given."""

    people: Administration
    by: Actor
    terminal: Terminal


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the commands below `user`, each with the options that say where the fleet is."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter

    def command(kinds: Any, name: str, does: Callable[..., str], summary: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = kinds.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=_examples_of(f"user {name}" if kinds is actions else f"user token {name}"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        # Where they stand before the command's name too, the later ones count.
        add_source_options(made, default=argparse.SUPPRESS)
        made.set_defaults(does=does)
        return made

    actions = parser.add_subparsers(metavar="COMMAND", required=True)
    added = command(actions, "add", _add, "add an account")
    added.add_argument("name")
    added.add_argument("--role", type=option(parse_role), required=True, help=", ".join(Role))
    given = added.add_mutually_exclusive_group()
    _password_option(given)
    given.add_argument("--no-password", action="store_true", help="no password opens it: tokens, or a link later")
    _json_option(command(actions, "list", _list, "list the accounts"))
    changed = command(actions, "role", _role, "give an account another role; its sessions end")
    changed.add_argument("name", type=_name)
    changed.add_argument("role", type=option(parse_role), help=", ".join(Role))
    password = command(actions, "password", _password, "give an account another password; its sessions end")
    password.add_argument("name", type=_name)
    _password_option(password)
    link = command(actions, "link", _link, "make a link by which somebody sets a password, once, within a day")
    link.add_argument("name", type=_name)
    link.add_argument(
        "--url", type=option(_parse_url), default=DEFAULT_URL, help=f"of the pages (default: {DEFAULT_URL})"
    )
    disabled = command(actions, "disable", _disable, "let an account in no more; its sessions end")
    disabled.add_argument("name", type=_name)
    command(actions, "enable", _enable, "let an account in again").add_argument("name", type=_name)
    log = command(actions, "log", _log, "show who logged in, who was refused, and what was changed")
    log.add_argument("--account", type=_name, metavar="NAME", help="of this account alone")
    log.add_argument(
        "--last", type=option(parse_count), default=DEFAULT_EVENTS, metavar="N", help=f"(default: {DEFAULT_EVENTS})"
    )
    _json_option(log)
    token = actions.add_parser("token", help="API tokens: add, list, revoke", allow_abbrev=False)
    tokens = token.add_subparsers(metavar="COMMAND", required=True)
    made = command(tokens, "add", _token_add, "make an API token and print it, this once")
    made.add_argument("name", type=_name, help="of the account whose it is")
    made.add_argument("--label", required=True, metavar="TEXT", help="what it is for")
    made.add_argument(
        "--scope", type=option(parse_scope), default=Scope.READ, help=f"{', '.join(Scope)} (default: read)"
    )
    made.add_argument(
        "--life", type=option(parse_duration_s), default=DEFAULT_LIFE_S, metavar="TIME", help="(default: 90d)"
    )
    _json_option(made)
    listed = command(tokens, "list", _token_list, "list API tokens")
    listed.add_argument("name", nargs="?", type=_name, help="of one account (default: of all)")
    _json_option(listed)
    command(tokens, "revoke", _token_revoke, "make an API token open nothing any more").add_argument("id")


def run(
    options: argparse.Namespace,
    config: ReportConfig,
    terminal: Terminal,
    *,
    clock: Callable[[], float],
    opener: Open | None = None,
) -> int:
    """Does what `options`, of a parser with `add_options`, say. 0 done; 1 it cannot be as things are.

    Args: opener: URL and data directory -> engine; `reports.schema.open_report_db` unless told.

    Raises:
        ConfigError: a name or a password that cannot be; or of the opener.
        sqlalchemy.exc.DBAPIError: of the fleet database.
    """
    from reports.people.accounts import PeopleRefused, Unfit  # noqa: PLC0415
    from reports.people.administration import Actor  # noqa: PLC0415
    from reports.people.gate import open_gate  # noqa: PLC0415
    from reports.schema import open_report_db  # noqa: PLC0415

    engine = (opener or open_report_db)(config.fleet_url, config.data_dir)
    try:
        gate = open_gate(engine, life=config.login.life)
        by = Actor(name=_user(terminal.whoami), now_s=clock())
        terminal.out.write(options.does(options, Task(people=gate.people, by=by, terminal=terminal)))
    except Unfit as error:
        raise ConfigError(f"user: {error}") from error
    except PeopleRefused as error:
        return complain(terminal.err, _PROGRAM, FAILED, error)
    finally:
        engine.dispose()
    return DONE


def open_terminal(out: TextIO, err: TextIO, *, width: int | None, colour: bool) -> Terminal:
    """That of this process."""
    prompt = getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None
    return Terminal(out=out, err=err, inp=sys.stdin, prompt=prompt, width=width, colour=colour)


def _add(options: argparse.Namespace, task: Task) -> str:
    password = None if options.no_password else _read_password(options, task.terminal)
    added = task.people.add(options.name, options.role, password, task.by)
    return f"added {added.name} as {added.role}\n"


def _list(options: argparse.Namespace, task: Task) -> str:
    from reports.people.user_words import accounts_json, accounts_text  # noqa: PLC0415

    found = task.people.accounts()
    if options.json:
        return accounts_json(found)
    return accounts_text(found, width=task.terminal.width, colour=task.terminal.colour)


def _role(options: argparse.Namespace, task: Task) -> str:
    task.people.set_role(options.name, options.role, task.by)
    return f"{options.name} is {options.role} now; its sessions have ended\n"


def _password(options: argparse.Namespace, task: Task) -> str:
    # Before anything is typed.
    task.people.account(options.name)
    task.people.set_password(options.name, _read_password(options, task.terminal), task.by)
    return f"{options.name} has another password now; its sessions have ended\n"


def _link(options: argparse.Namespace, task: Task) -> str:
    return f"{options.url.rstrip('/')}/password/{task.people.make_password_link(options.name, task.by)}\n"


def _disable(options: argparse.Namespace, task: Task) -> str:
    task.people.disable(options.name, task.by)
    return f"{options.name} is let in no more; its sessions have ended\n"


def _enable(options: argparse.Namespace, task: Task) -> str:
    task.people.enable(options.name, task.by)
    return f"{options.name} is let in again\n"


def _log(options: argparse.Namespace, task: Task) -> str:
    from reports.people.user_words import events_json, events_text  # noqa: PLC0415

    found = task.people.events(limit=options.last, who=options.account)
    if options.json:
        return events_json(found)
    return events_text(found, width=task.terminal.width, colour=task.terminal.colour)


def _token_add(options: argparse.Namespace, task: Task) -> str:
    from reports.people.user_words import token_json  # noqa: PLC0415

    token, text = task.people.make_token(options.name, options.label, options.scope, options.life, task.by)
    return token_json(token, text, task.by.now_s) if options.json else f"{text}\n"


def _token_list(options: argparse.Namespace, task: Task) -> str:
    from reports.people.user_words import tokens_json, tokens_text  # noqa: PLC0415

    if options.name is not None:
        task.people.account(options.name)
    found = task.people.tokens(options.name)
    if options.json:
        return tokens_json(found, task.by.now_s)
    return tokens_text(found, task.by.now_s, width=task.terminal.width, colour=task.terminal.colour)


def _token_revoke(options: argparse.Namespace, task: Task) -> str:
    revoked = task.people.revoke_token(options.id, task.by)
    return f"revoked {revoked.id} of {revoked.account}: {revoked.label}\n"


def _read_password(options: argparse.Namespace, terminal: Terminal) -> str:
    """Never from the command line, which other users of the machine can read. Raises: ConfigError."""
    if options.password_file == _STDIN:
        return terminal.inp.readline().rstrip("\r\n")
    if options.password_file is not None:
        return read_secret(Path(options.password_file))
    if terminal.prompt is None:
        raise ConfigError("user: nobody is there to type a password: use --password-file FILE, or - for stdin")
    try:
        password = terminal.prompt("password: ")
        again = terminal.prompt("the same again: ")
    except EOFError as error:
        raise ConfigError("user: no password was typed") from error
    if again != password:
        raise ConfigError("user: the two passwords are not the same")
    return password


def _name(text: str) -> str:
    """As names are kept: people write them in capitals too. One that cannot be is the name of no account."""
    return text.strip().lower()


def _parse_url(text: object) -> str:
    parts = urlsplit(str(text))
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not the address of pages (such as https://fallow.example.org)")
    return str(text)


def _password_option(parser: Any) -> None:
    parser.add_argument(
        "--password-file",
        metavar="FILE",
        help="has the password, and is readable by its owner alone; - is stdin (default: asks at the terminal)",
    )


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _examples_of(command: str) -> str:
    lines = [line for line in _EXAMPLES.splitlines() if line.startswith(f"  fallow-report {command}")]
    return "\n".join(["examples:" if len(lines) > 1 else "example:", *lines]) if lines else ""


def _user(whoami: Callable[[], str]) -> str:
    try:
        return f"{whoami()} (command line)"
    except (OSError, KeyError):
        return "command line"  # in a container the user may have no name
