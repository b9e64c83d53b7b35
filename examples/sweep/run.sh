#!/usr/bin/env bash
# A sweep of a very small model on a CPU: the whole grid, then halving in the same folder, so that
# its regret is known. About a quarter of an hour; the same command goes on where it was cut off.
#   examples/sweep/run.sh [FOLDER] [FLAGS OF SWEEP...]
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
OUT=${1:-runs/sweep-example}
shift || true
DATA=$OUT/data
PYTHON=${PYTHON:-python}

# The text that every Python brings along, in an order drawn once: the last documents are held out.
STDLIB=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
mkdir -p "$DATA"
mapfile -t FILES < <(find "$STDLIB" -name '*.py' -not -path '*/site-packages/*' | sort |
    shuf --random-source=<(yes 1234))
if [ ! -e "$DATA/tokenizer.model" ]; then
    "$PYTHON" -m tst_megatron tokenizer train --vocab-size 512 --format text --on-error skip \
        --output "$DATA/tokenizer" "${FILES[@]}"
fi
if [ ! -e "$DATA/corpus.manifest.json" ]; then
    "$PYTHON" -m tst_megatron index build --tokenizer "$DATA/tokenizer.model" --format text \
        --on-error skip --output "$DATA/corpus" "${FILES[@]}"
fi

SWEEP=("$PYTHON" -m tst_megatron sweep --recipe "$HERE/small.yaml" --out "$OUT"
    --bag-sizes 2 4 8 --step-ratios 0.2 0.4
    --data-path "$DATA/corpus" --tokenizer-model "$DATA/tokenizer.model" "$@")
"${SWEEP[@]}"
"${SWEEP[@]}" --halving
