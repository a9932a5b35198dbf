# Sourced by the other scripts: finds a Python from 3.11 on and makes the virtual environment .venv.
#   setup_venv EXTRAS   e.g. setup_venv "" or setup_venv "[dev]"
#   need COMMAND...     installs the Debian packages of commands that are missing; COMMAND=PACKAGE where names differ

root=$(cd "$(dirname "$0")/.." && pwd)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        echo "this needs root once: $*" >&2
        exit 1
    fi
}

# A package may bring a service: it must not start, only its command is wanted (invoke-rc.d asks policy-rc.d).
install() {
    echo "installing $* ..." >&2
    # shellcheck disable=SC2016 # the other shell expands it
    as_root env DEBIAN_FRONTEND=noninteractive sh -c '
        policy=/usr/sbin/policy-rc.d
        if [ ! -e $policy ]; then
            trap "rm -f $policy" EXIT
            printf "#!/bin/sh\nexit 101\n" >$policy && chmod 755 $policy
        fi
        apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null' install "$@" >&2
}

need() {
    missing=
    for wanted in "$@"; do command -v "${wanted%%=*}" >/dev/null || missing="$missing ${wanted#*=}"; done
    # shellcheck disable=SC2086 # one argument a package
    [ -z "$missing" ] || install $missing
}

find_python() {
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "$python"
            return
        fi
    done
}

setup_venv() {
    python=$(find_python)
    [ -n "$python" ] || { install python3 && python=$(find_python); }
    [ -n "$python" ] || { echo "backupd needs Python 3.11 or later" >&2; exit 1; }
    wanted="$1 $(cksum <"$root/pyproject.toml") $("$python" -V) $root"
    [ "$(cat "$root/.venv/made-for" 2>/dev/null)" != "$wanted" ] || return 0
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        install "$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"
    echo "preparing .venv ..." >&2
    "$python" -m venv --clear "$root/.venv"
    # compat: a path, no hook that each process has to import first
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat \
        --editable "$root$1" >&2
    "$root/.venv/bin/python" -m compileall -q "$root/backupd"
    echo "$wanted" >"$root/.venv/made-for"
}
