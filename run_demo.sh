#!/usr/bin/env bash
# Shows the whole path: makes .venv if need be, then runs a small fleet and prints its report.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=.ci/environment.sh
. "$root/.ci/environment.sh"

# The driver is found wherever the user stands, and -P keeps what lies there out of its imports.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

# Help and mistakes come before anything is installed: the driver's options need no package.
python="$root/.venv/bin/python"
[ -x "$python" ] || python=$(find_python)
case " $* " in
    *" --help "* | *" -h "*) exec "$python" -P -m bench.demo --help ;;
esac
"$python" -P -m bench.demo --check-options "$@"

make_environment all "$root"
exec "$root/.venv/bin/python" -P -m bench.demo "$@"
