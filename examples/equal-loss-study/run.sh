#!/usr/bin/env bash
# The study of equal loss, from nothing: some eight hours of one core, two runs at once. The same
# command goes on where it was cut off.
#   examples/equal-loss-study/run.sh [FLAGS OF study.py...]
set -euo pipefail
cd "$(dirname "$0")/../.."
make setup
exec .venv/bin/python examples/equal-loss-study/study.py "$@"
