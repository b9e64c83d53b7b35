#!/usr/bin/env bash
# The depths study, from nothing: some 7 hours of one core, two runs at once. The same command goes
# on where it was cut off.
#   examples/depths-study/run.sh [FLAGS OF study.py...]
set -euo pipefail
cd "$(dirname "$0")/../.."
make setup
exec .venv/bin/python examples/depths-study/study.py "$@"
