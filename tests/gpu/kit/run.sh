#!/usr/bin/env bash
# The checks on this machine, from the folder that the kit was unpacked into, without a network.
#
#   run.sh --budget-minutes 9                    what fits nine minutes, the most valuable first
#   run.sh --budget-minutes 9 --append           the rest; again until nothing is left
#   run.sh --dry-run --only loss                 without a GPU
#
# PYTHON is the interpreter with torch (python3). The report is runs/gpu/gpu-report.json below the
# folder that this is called in, a dry run's is runs/gpu-dry-run/gpu-report.json, and logs lie beside
# it, unless --out and --work say otherwise.
set -euo pipefail

kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
path=$("$PYTHON" "$kit/project/tests/gpu/kit/paths.py" "$kit")
export PYTHONPATH="$path${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$PYTHON" -W ignore -m tests.gpu --text "$kit/text" "$@"
