#!/usr/bin/env bash
# The growth study, from nothing: some 11 hours of one core, two runs at once. The same command goes
# on where it was cut off.
#   examples/growth-study/run.sh [FLAGS OF study.py...]
set -euo pipefail
cd "$(dirname "$0")/../.."
make setup
exec .venv/bin/python examples/growth-study/study.py "$@"
