"""`python -m tests.fuzz TARGET --seconds N`: fuzzes one target under atheris, which follows the code's branches.

Needs the package `atheris`, which nothing else needs. What fails is written to the current directory and said; after
the mend it goes into tests/data/corpus/TARGET, from where tests/fuzz/test_fuzz.py asks it for ever.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_PACKAGES = ["agent", "aggregator", "reports", "orchestrate"]


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzzes until the time is up (0) or something fails (77, libFuzzer's own); 2 for usage or without atheris."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", metavar="TARGET", help="name of a function of tests/fuzz/targets.py, or `list`")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="how long (default 60)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the mutations; 0 draws one")
    options = parser.parse_args(argv)
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("python -m tests.fuzz: needs atheris: pip install atheris", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=_PACKAGES):
        from tests.fuzz.targets import CORPUS, TARGETS, corpus_of
    if options.target not in TARGETS:
        print("targets: " + ", ".join(TARGETS), file=sys.stderr)
        return 0 if options.target == "list" else 2
    with tempfile.TemporaryDirectory(prefix="fallow-fuzz-") as grown:
        kept = [str(CORPUS / options.target)] if corpus_of(options.target) else []
        limits = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-timeout=20", "-rss_limit_mb=2048"]
        prefix = f"-artifact_prefix={Path.cwd()}/"
        atheris.Setup([sys.argv[0], *limits, prefix, grown, *kept], TARGETS[options.target])
        atheris.Fuzz()  # ends the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
