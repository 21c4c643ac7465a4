"""What the documents show is there: commands, their options, files, dependencies."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from bench.__main__ import NAMES

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    {ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")}
)
PROGRAMS = {
    "fallow-agent": "agent",
    "fallow-aggregator": "aggregator",
    "fallow-report": "reports",
    "fallow-orchestrate": "orchestrate",
}
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")


@dataclass(frozen=True)
class Shown:
    """One command of ours as a document shows it: the program and its words."""

    document: str
    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {shlex.join((self.program, *self.words))}"


def commands(text: str) -> Iterator[tuple[str, ...]]:
    """Each simple command of the sh blocks in a Markdown text, without prompt, redirections and assignments."""
    for language, block in FENCE.findall(text):
        if language not in ("sh", "bash", "console"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            yield from _simple_commands(line.strip().removeprefix("$ "))


def _simple_commands(line: str) -> Iterator[tuple[str, ...]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for token in lexer:
        if set(token) <= set("<>"):
            redirected = True
        elif set(token) <= set("();|&"):
            yield tuple(words)
            words = []
        elif redirected:
            redirected = False
        elif words or not ASSIGNMENT.fullmatch(token):
            words.append(token)
    yield tuple(words)


def ours(words: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """Program and arguments of a command of ours; None for anybody else's."""
    rest = list(words)
    if rest[:1] == ["sudo"]:
        rest = rest[3:] if rest[1:2] == ["-u"] else rest[1:]
    if not rest:
        return None
    name = Path(rest[0]).name
    if name in PROGRAMS or name in ("run_demo.sh", "run_tests.sh"):
        return name, tuple(rest[1:])
    if name.startswith("python") and rest[1:3] == ["-m", "bench"]:
        return "bench", tuple(rest[3:])
    return None


def shown() -> list[Shown]:
    found = []
    for document in DOCUMENTS:
        for words in commands(document.read_text(encoding="utf-8")):
            command = ours(words)
            if command is not None:
                found.append(Shown(str(document.relative_to(ROOT)), *command))
    return found


def options(words: Sequence[str]) -> list[str]:
    """The long options among the words, without their values."""
    return [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]


@cache
def usage(program: str, words: tuple[str, ...]) -> tuple[int, str]:
    """Status and text of `program WORDS --help`."""
    script = ROOT / program
    argv = [str(script)] if script.is_file() else [sys.executable, "-m", PROGRAMS.get(program, program)]
    done = subprocess.run(
        [*argv, *words, "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def positionals(words: Sequence[str]) -> tuple[str, ...]:
    """The words before the first option: subcommands and what they work on."""
    first = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    return tuple(words[:first])


def test_the_documents_show_every_program() -> None:
    """The README shows each program that has commands, both scripts, and a benchmark."""
    here = {command.program for command in shown() if command.document == "README.md"}
    assert here >= {"fallow-agent", "fallow-aggregator", "fallow-report", "run_demo.sh", "run_tests.sh", "bench"}


@pytest.mark.real
@pytest.mark.parametrize("command", [command for command in shown() if command.program != "run_tests.sh"], ids=str)
def test_commands_in_the_documents_exist(command: Shown) -> None:
    """A command that a document shows has a --help, which names every option that is shown with it."""
    status, text = usage(command.program, positionals(command.words))
    assert status == 0, text
    known = set(re.findall(r"--[a-z][a-z0-9-]*", text))
    assert [option for option in options(command.words) if option not in known] == []


def test_commands_are_found_however_they_are_written() -> None:
    """Continued lines, pipes, prompts, substitutions, redirections and sudo do not hide a command."""
    text = """
```sh
A=1 .venv/bin/fallow-report --data d \\
  --json | jq . > out.json   # for later
$ sudo -u fallow fallow-agent status && echo done
TOKEN=$(fallow-aggregator join-token --data d)
python -m bench sink --json
systemctl start fallow-agent
```
```
fallow-agent not-a-shell-block
```
"""
    assert [found for words in commands(text) if (found := ours(words))] == [
        ("fallow-report", ("--data", "d", "--json")),
        ("fallow-agent", ("status",)),
        ("fallow-aggregator", ("join-token", "--data", "d")),
        ("bench", ("sink", "--json")),
    ]


def test_links_to_files_resolve() -> None:
    """Every relative link of a document leads to a file or folder of the checkout."""
    broken = [
        f"{document.relative_to(ROOT)}: {link}"
        for document in DOCUMENTS
        for link in LINK.findall(document.read_text(encoding="utf-8"))
        if ":" not in link and not link.startswith("#")
        if not (document.parent / link.partition("#")[0]).exists()
    ]
    assert broken == []


def test_every_dependency_is_explained() -> None:
    """Each requirement in setup.cfg has its line in docs/dependencies.md, and each line a requirement."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    # Raw: a %(extra)s only repeats what another extra lists.
    lists = [setup["options"]["install_requires"], *dict(setup.items("options.extras_require", raw=True)).values()]
    lines = [line.strip() for text in lists for line in text.splitlines()]
    required = {re.split(r"[\[<>=!~; ]", line)[0] for line in lines if line and not line.startswith("%(")}
    rows = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").splitlines()
    explained = {row.split("|")[1].strip() for row in rows if row.startswith("| ")} - {"package"}
    assert explained == required


def test_every_benchmark_has_its_bars() -> None:
    """docs/performance.md shows the command of each benchmark; the sink is measured inside `ingest`."""
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    measured = set(re.findall(r"python -m bench ([\w-]+)", text))
    assert measured == set(NAMES) - {"sink"}


def test_decisions_are_numbered_and_have_a_status() -> None:
    """Each ADR is NNNN-title.md, no number is taken twice, and each says whether it holds."""
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"))
    numbers = [re.fullmatch(r"(\d{4})-[a-z0-9-]+\.md", path.name) for path in decisions]
    assert all(numbers)
    assert len({number[1] for number in numbers if number}) == len(decisions)
    assert [path.name for path in decisions if not re.search(r"^(#+ )?Status\b", path.read_text(), re.MULTILINE)] == []
