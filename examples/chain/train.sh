#!/usr/bin/env bash
# A chain of runs, link after link, on one node or on several.
#
#   CHAIN=stacked.yaml OUT=/shared/runs/stacked examples/chain/train.sh
#   HEAD=node-1 NNODES=8 JOB=stacked CHAIN=/shared/stacked.yaml OUT=/shared/runs/stacked \
#       examples/chain/train.sh    # on each node
#
# A link's layout stands in its flags in the file; words here go to every link, and win. Run it
# again after anything that stopped it: a link that is done ends at once, one that is not goes on from
# its last checkpoint, and none begins before the last step of the one before is saved.
set -euo pipefail

CHAIN=${CHAIN:?the file of the chain, which every node sees}
OUT=${OUT:?the folder of the chain, which every node sees}
launcher=single-node
[ -z "${HEAD:-}" ] || launcher=multi-node-torchrun
here=$(dirname "${BASH_SOURCE[0]}")

links=$(tst-megatron chain show "$CHAIN" --names)
port=${PORT:-29500}
for link in $links; do
    words=$(tst-megatron chain show "$CHAIN" --out "$OUT" --link "$link" --flags)
    mapfile -t flags <<< "$words"
    # A port and a name for every link, so that an agent that is late does not meet the next one's.
    RECIPE='' RUN=$OUT/links/$link PORT=$port JOB=${JOB:-chain}-$link \
        "$here/../$launcher/train.sh" "${flags[@]}" "$@"
    port=$((port + 1))
done
