"""`fallow-orchestrate`: says that it has no commands yet, rather than pretending."""

from __future__ import annotations

import sys


def main() -> int:
    """Entry point; always a usage error until the first command exists."""
    print("fallow-orchestrate: no commands yet; fallow-report lists what could be reclaimed", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
