#!/usr/bin/env bash
# Slurm: a chain of runs, a job a link, one behind the other, each on as many nodes as it needs.
#
#   CHAIN=stacked.yaml OUT=/shared/runs/stacked NODES="1 8" examples/slurm/chain.sh --time=12:00:00
#
# NODES are the links', in their order; without them all have those of train.sbatch. A link's layout
# stands in its flags in the file. Words here go to sbatch. A link that saves and goes back into the
# queue keeps the others waiting, and one that fails leaves them there: cancel them and submit again.
# Links that are done end at once.
set -euo pipefail

CHAIN=${CHAIN:?the file of the chain, which every node sees}
OUT=${OUT:?the folder of the chain, which every node sees}
read -r -a nodes <<< "${NODES:-}"
here=$(dirname "${BASH_SOURCE[0]}")

links=$(tst-megatron chain show "$CHAIN" --names)
job='' number=0
for link in $links; do
    words=$(tst-megatron chain show "$CHAIN" --out "$OUT" --link "$link" --flags)
    mapfile -t flags <<< "$words"
    job=$(RECIPE='' RUN=$OUT/links/$link sbatch --parsable --job-name="$link" \
        ${nodes[number]:+--nodes="${nodes[number]}"} ${job:+--dependency="afterok:$job"} \
        "$@" "$here/train.sbatch" "${flags[@]}")
    job=${job%%;*} number=$((number + 1))
    echo "$link: job $job"
done
