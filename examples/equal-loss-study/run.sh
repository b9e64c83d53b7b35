#!/usr/bin/env bash
# The study of equal loss, from nothing: about seven hours of two cores. The same command goes on.
#   examples/equal-loss-study/run.sh [FLAGS OF study.py...]
set -euo pipefail
cd "$(dirname "$0")/../.."
make setup
exec .venv/bin/python examples/equal-loss-study/study.py "$@"
