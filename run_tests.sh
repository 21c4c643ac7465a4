#!/usr/bin/env bash
# Makes .venv if need be and runs every check: ruff, mypy, pytest.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=.ci/environment.sh
. "$root/.ci/environment.sh"

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<'HELP'
usage: ./run_tests.sh [PYTEST OPTIONS]

Makes .venv in the checkout if need be, then runs ruff, mypy and every test.
With options or paths for pytest, those reach pytest as they are.

examples:
  ./run_tests.sh
  ./run_tests.sh tests/agent -k spool
  ./run_tests.sh -m 'not real'        without the tests that start programs
HELP
    exit 0
fi

extra=test
# libvirt-python is built on the spot: only where what it is built with is there.
if command -v gcc >/dev/null && command -v pkg-config >/dev/null && pkg-config --exists libvirt python3; then
    extra=test,libvirt
fi
make_environment "$extra" "$root"
cd "$root"
bin="$root/.venv/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
exec "$bin/python" -m pytest "$@"
