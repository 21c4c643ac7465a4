#!/usr/bin/env bash
# What fallow is installed from: pinned, hashed, listed and looked up. docs/dependencies.md tells when to run what.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'HELP'
usage: deploy/supply-chain.sh COMMAND

  lock    writes requirements.lock and requirements-agent.lock anew: the newest release of everything that
          setup.cfg asks for, each with its hashes
  sbom    installs requirements.lock into an empty environment, hashes checked, and lists what came
          (deploy/sbom.cdx.json, CycloneDX)
  audit   asks the Python advisory database about every line of requirements.lock

Tools are fetched into a temporary directory. lock and audit need the network; exit code 69 where it does not answer.
HELP
}

tools() {
    workshop=$(mktemp -d)
    trap 'rm -rf "$workshop"' EXIT
    python3 -m venv "$workshop/tools"
    "$workshop/tools/bin/pip" install --quiet --disable-pip-version-check "$@"
}

lock() {
    tools 'uv>=0.9'
    local make=("$workshop/tools/bin/uv" pip compile "$root/setup.cfg" --quiet --upgrade --universal --python-version 3.11
        --generate-hashes --no-annotate --no-header)
    "${make[@]}" --extra all --extra postgresql --output-file "$root/requirements.lock"
    "${make[@]}" --output-file "$root/requirements-agent.lock"
}

sbom() {
    tools 'uv>=0.9' 'cyclonedx-bom>=7'
    # Without pip: what is listed is what fallow runs with.
    python3 -m venv --without-pip "$workshop/installed"
    "$workshop/tools/bin/uv" pip install --quiet --python "$workshop/installed/bin/python" --require-hashes --no-deps \
        --requirement "$root/requirements.lock"
    "$workshop/tools/bin/cyclonedx-py" environment --output-reproducible --output-format JSON \
        --output-file "$root/deploy/sbom.cdx.json" "$workshop/installed/bin/python"
}

audit() {
    tools 'pip-audit>=2.10'
    local answer="$workshop/answer.json"
    "$workshop/tools/bin/pip-audit" --requirement "$root/requirements.lock" --require-hashes --disable-pip \
        --format json --output "$answer" || [ -s "$answer" ] || exit 69
    # A mirror of packages alone knows of no advisories: that is no clean bill of health.
    "$workshop/tools/bin/python" - "$answer" <<'PYTHON'
import json
import sys

found = json.load(open(sys.argv[1], encoding="utf-8"))["dependencies"]
unknown = [each["name"] for each in found if "skip_reason" in each]
weak = [(each["name"], each["version"], each["vulns"]) for each in found if each.get("vulns")]
for name, version, advisories in weak:
    for advisory in advisories:
        print(f"{name} {version}: {advisory['id']}, mended in {', '.join(advisory['fix_versions']) or 'no release'}")
print(f"{len(found)} packages: {len(found) - len(unknown)} looked up, {len(weak)} with advisories")
if unknown:
    print(f"not looked up: {', '.join(unknown)}", file=sys.stderr)
sys.exit(1 if weak else 69 if unknown else 0)
PYTHON
}

case "${1:-}" in
    lock | sbom | audit) "$1" ;;
    -h | --help) usage ;;
    *)
        usage >&2
        exit 2
        ;;
esac
