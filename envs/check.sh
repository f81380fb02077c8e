#!/usr/bin/env bash
# What must hold before anything is installed; says in words what is missing.
set -u
# The environment takes 3 GB, its download as much for a while; results of the demo less than 1.
[ -e .venv/installed ] && need_gb=1 || need_gb=8
fail() { echo "error: $1" >&2; exit 1; }

command -v "$PYTHON" > /dev/null ||
  fail "no $PYTHON on the PATH: install Python 3.11 with its venv module, or name yours: make PYTHON=/path/to/python3.11 …"
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || fail "$PYTHON is Python $version; the locked packages need 3.11: make PYTHON=/path/to/python3.11 …"
"$PYTHON" -c 'import venv, ensurepip' 2> /dev/null ||
  fail "$PYTHON has no venv module: install it (Debian: apt-get install python3.11-venv)"
command -v cc > /dev/null || command -v gcc > /dev/null ||
  fail "no C compiler: install one (Debian: apt-get install build-essential)"
free_gb=$(( $(df --output=avail -k . | tail -n 1) / 1024 / 1024 ))
[ "$free_gb" -ge $need_gb ] || fail "$free_gb GB free in $PWD; this needs $need_gb GB: free some space"
