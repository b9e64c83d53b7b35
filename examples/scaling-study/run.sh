#!/usr/bin/env bash
# The scaling study, from nothing: some 22 hours of one core, two runs at once. The same command goes
# on where it was cut off.
#   examples/scaling-study/run.sh [FLAGS OF study.py...]
set -euo pipefail
cd "$(dirname "$0")/../.."
make setup
exec .venv/bin/python examples/scaling-study/study.py "$@"
