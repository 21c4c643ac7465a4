"""Imports point one way, stay within what each program installs, and do nothing.

`agent` ← `aggregator` ← `reports` ← `orchestrate`: each may import itself and what stands left of it.
"""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PACKAGES = ("agent", "aggregator", "reports", "orchestrate")
# The extra of setup.cfg that a program is installed with; the agent has the base install alone.
EXTRAS = {"agent": "", "aggregator": "aggregator", "reports": "report", "orchestrate": "orchestrate"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules(package: str) -> Mapping[str, Path]:
    """Importable modules by name. Alembic's scripts are none: it runs them itself, in a context of its own."""
    return {
        module_name(path): path
        for path in sorted((ROOT / package).rglob("*.py"))
        if all((folder / "__init__.py").exists() for folder in path.parents if folder.is_relative_to(ROOT / package))
    }


@cache
def ours() -> Mapping[str, Path]:
    return {name: path for package in PACKAGES for name, path in modules(package).items()}


def imports(source: str, module: str) -> Iterator[tuple[str, bool]]:
    """Each module that `source` names in an import, inside functions too, and whether the module body does it."""
    tree = ast.parse(source)
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in inner
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import hides where it points"
            for alias in node.names:
                # `from a.b import c` may take a module or a name of one.
                yield f"{node.module}.{alias.name}", node not in inner


def target(name: str) -> str | None:
    """The module of ours that an imported dotted name belongs to; None for others' modules."""
    while name:
        if name in ours():
            return name
        name = name.rpartition(".")[0]
    return None


@cache
def imported(module: str) -> frozenset[str]:
    return frozenset(name for name, _ in imports(ours()[module].read_text(encoding="utf-8"), module))


def upward(package: str, names: frozenset[str]) -> list[str]:
    """What a module of `package` must not import: what stands right of it, the tests and the benchmarks."""
    forbidden = {*PACKAGES[PACKAGES.index(package) + 1 :], "tests", "bench"}
    return sorted(name for name in names if name.partition(".")[0] in forbidden)


def test_imports_point_one_way() -> None:
    """No module imports a package that stands right of its own, nor tests or benchmarks."""
    wrong = {module: found for module in ours() if (found := upward(module.partition(".")[0], imported(module)))}
    assert wrong == {}


def test_an_upward_import_would_be_found() -> None:
    """The check above sees every form of import, also one inside a function."""
    source = (
        "import reports.query\ndef f():\n    from aggregator import store\n    import bench\nfrom agent import wire\n"
    )
    found = frozenset(name for name, _ in imports(source, "aggregator.x"))
    assert upward("aggregator", found) == ["bench", "reports.query"]
    assert upward("agent", found) == ["aggregator.store", "bench", "reports.query"]


def test_no_module_imports_itself_through_others() -> None:
    """The modules of the four packages have an order: no cycles, late imports counted too."""
    graph = {module: {found for name in imported(module) if (found := target(name))} - {module} for module in ours()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert set(order) == set(ours())


# Two programs have so many commands that what puts them together stands beside their `__main__`.
ROOTS = {*(f"{package}.__main__" for package in PACKAGES), "reports.commands", "orchestrate.commands"}


def test_only_a_root_imports_the_reactor_or_a_service() -> None:
    """Programs are put together in their roots: nothing else takes the global reactor or a service."""
    wrong = [
        f"{module} imports {name}"
        for module in ours()
        if module not in ROOTS
        for name in imported(module)
        if name == "twisted.internet.reactor" or (target(name) or "").endswith(".service")
    ]
    assert wrong == []


def distributions(extra: str) -> set[str]:
    """Everything that installing fallow with `extra` brings, by normal name."""
    found: set[str] = set()
    pending: list[tuple[str, str]] = [("fallow", extra)]
    done: set[tuple[str, str]] = set()
    while pending:
        name, wanted = pending.pop()
        if (name, wanted) in done:
            continue
        done.add((name, wanted))
        found.add(normal(name))
        for text in requires(name):
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                pending.extend((requirement.name, inner) for inner in {"", *requirement.extras})
    return found


def requires(name: str) -> list[str]:
    """Requirements of a distribution; fallow's own come from setup.cfg, since its metadata may be older."""
    if name == "fallow":
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg", encoding="utf-8")
        base = setup["options"]["install_requires"].split("\n")
        extras = [
            f"{line}; extra == '{extra}'"
            for extra, lines in setup["options.extras_require"].items()
            for line in lines.split("\n")
            if line
        ]
        return [*filter(None, base), *extras]
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # for another system or Python


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def reachable(package: str) -> set[str]:
    """Modules of ours that running anything of `package` may load."""
    found: set[str] = set()
    pending = list(modules(package))
    while pending:
        module = pending.pop()
        if module not in found:
            found.add(module)
            pending.extend(inner for name in imported(module) if (inner := target(name)))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_each_program_installs_what_it_imports(package: str) -> None:
    """Whatever a program can come to import, through our other packages too, its extra brings."""
    # `reports.people.openid` loads only where a provider is configured.
    brought = distributions(EXTRAS[package]) | distributions("oidc")
    owners = importlib.metadata.packages_distributions()
    missing = {
        f"{module} imports {name}"
        for module in reachable(package)
        for name in imported(module)
        if (top := name.partition(".")[0]) not in {*sys.stdlib_module_names, *PACKAGES}
        if not any(normal(owner) in brought for owner in owners.get(top, ()))
    }
    assert missing == set()


def test_the_agent_needs_psutil_alone() -> None:
    """The base install, which every VM carries, is psutil and nothing else."""
    assert distributions("") == {"fallow", "psutil"}


# Runs in a fresh interpreter: imports everything named and tells what that did.
PROBE = """
import importlib, json, os, sys, threading
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({
    "loaded": sorted({name.partition(".")[0] for name in set(sys.modules) - before}),
    "threads": [thread.name for thread in threading.enumerate()],
    "children": open(f"/proc/self/task/{os.getpid()}/children").read().split(),
    "reactor": "twisted.internet.reactor" in sys.modules,
    "sockets": [
        link for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(path := f"/proc/self/fd/{fd}") and (link := os.readlink(path)).startswith("socket:")
    ],
}))
"""


def probe(names: list[str], folder: Path) -> dict[str, object]:
    """What importing `names` did, standing in `folder`; the imports must print nothing and succeed."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *names],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "HOME": str(folder), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.real
def test_importing_does_nothing(tmp_path: Path) -> None:
    """Importing every module starts no thread, process or reactor, opens no socket, writes no file, prints nothing."""
    everything = [*ours(), *modules("bench")]
    answer = probe(everything, tmp_path)
    answer.pop("loaded")
    assert answer == {"threads": ["MainThread"], "children": [], "reactor": False, "sockets": []}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_importing_the_agent_loads_nothing_heavy(tmp_path: Path) -> None:
    """All of the agent's modules together load the standard library, psutil and themselves."""
    loaded = probe(list(modules("agent")), tmp_path)["loaded"]
    assert isinstance(loaded, list)
    assert set(loaded) - sys.stdlib_module_names - {"agent", "psutil", "_psutil_linux"} == set()


@pytest.mark.real
@pytest.mark.parametrize(
    ("package", "needed"),
    # The options of the report name its policies, and those are numpy.
    [("aggregator", set()), ("reports", {"numpy"}), ("orchestrate", set())],
)
def test_help_waits_for_nothing_heavy(package: str, needed: set[str], tmp_path: Path) -> None:
    """A program's `__main__` leaves servers, numpy and the database to the command that needs them."""
    loaded = probe([f"{package}.__main__"], tmp_path)["loaded"]
    assert isinstance(loaded, list)
    heavy = {"twisted", "numpy", "sqlalchemy", "alembic", "apscheduler", "jinja2", "rich", "plotly"}
    assert set(loaded) & heavy == needed
