#!/usr/bin/env bash
# usage: airflow/lock.sh [--upgrade]
# Resolves airflow/requirements.in for the fleet's Python and platform. Its last line ties the lock to its input,
# so that preflight can tell an edited requirements.in from a locked one without resolving anything.
set -euo pipefail
cd "$(dirname "$0")"
uv pip compile --quiet "$@" --python-version 3.13 --python-platform x86_64-manylinux_2_40 \
  --generate-hashes --only-binary :all: --custom-compile-command 'make lock' \
  --output-file requirements.txt requirements.in
printf '# sha256 of requirements.in: %s\n' "$(sha256sum requirements.in | cut -d' ' -f1)" >>requirements.txt
