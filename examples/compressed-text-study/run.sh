#!/usr/bin/env bash
# The compressed text study, from nothing: some 3 hours of one core, two runs at once. The same
# command goes on where it was cut off.
#   examples/compressed-text-study/run.sh [FLAGS OF study.py...]
set -euo pipefail
cd "$(dirname "$0")/../.."
make setup
exec .venv/bin/python examples/compressed-text-study/study.py "$@"
