# Sourced by run_tests.sh and run_demo.sh: makes the one environment of this checkout, .venv.
# shellcheck shell=bash

die() {
    printf '%s: %s\n' "$(basename "$0")" "$2" >&2
    exit "$1"
}

# find_python: name of a Python that is new enough and can make an environment. $PYTHON wins where it is set.
find_python() {
    local candidate newest=""
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        newest=${newest:-$candidate}
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            # Debian leaves ensurepip out of python3: `-m venv` is there and fails half-way.
            "$candidate" -c 'import ensurepip, venv' 2>/dev/null ||
                die 1 "$candidate cannot make an environment: install the Debian package $(venv_package "$candidate")"
            printf '%s\n' "$candidate"
            return
        fi
    done
    [ -n "$newest" ] || die 1 "no ${PYTHON:-python3} here: install the Debian packages python3 and python3-venv (3.11 or newer)"
    die 1 "$newest is $("$newest" -V 2>&1), but fallow needs Python 3.11 or newer: install it, or name it in PYTHON=..."
}

# venv_package PYTHON: the Debian package that brings venv and ensurepip for it.
venv_package() {
    case "$(basename "$1")" in
        python3.*) printf '%s-venv\n' "$(basename "$1")" ;;
        *) printf 'python3-venv\n' ;;
    esac
}

# make_environment EXTRA ROOT: .venv in ROOT with fallow[EXTRA], renewed when the dependencies or the place changed.
make_environment() {
    local extra=$1 root=$2 python stamp wanted
    stamp="$root/.venv/.fallow-$extra"
    # An environment cannot be moved: the place belongs to the stamp.
    wanted=$({ printf '%s\n' "$root"; cat "$root/setup.cfg" "$root/pyproject.toml" "$root/requirements.lock"; } | cksum)
    if [ -x "$root/.venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    python=$(find_python) || exit
    # Half an environment, or one of a Python that is gone, is made anew.
    if ! "$root/.venv/bin/python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --clear "$root/.venv" || die 1 "$python -m venv $root/.venv failed"
    fi
    printf 'installing fallow[%s] into %s ...\n' "$extra" "$root/.venv" >&2
    # The releases that are shipped are those that are tested; hashes would be asked of the checkout itself too.
    sed -e 's/ *\\$//' -e '/^ *--hash=/d' "$root/requirements.lock" >"$root/.venv/constraints.txt"
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$root/.venv/constraints.txt" --editable "$root[$extra]" >&2 ||
        die 1 "pip could not install fallow[$extra]: is there a package index? (see pip's message above)"
    printf '%s\n' "$wanted" >"$stamp"
    if [ "${extra%%,*}" = test ]; then
        printf '%s\n' "$wanted" >"$root/.venv/.fallow-all" # test holds all
    fi
}
