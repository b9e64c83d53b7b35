#!/usr/bin/env bash
# One node, all of its GPUs.
#
#   RUN=/shared/runs/mine examples/single-node/train.sh $YOUR_MEGATRON_FLAGS --tst-bag-size 6
#   RECIPE=moe-10b-a1b-tst+8xb200 RUN=/shared/runs/moe examples/single-node/train.sh \
#       --data-path /shared/data/fineweb --data-cache-path /shared/cache
#
# Flags go to Megatron, and win over the recipe's and over those below. Run it again after anything
# that stopped it: it goes on from the last checkpoint. Before renting a node, see docs/cluster.md.
set -euo pipefail

[ $# -gt 0 ] || : "${RECIPE:?the recipe, as in tst-megatron recipe list, or give flags}"
RUN=${RUN:?the folder of this run: checkpoints, logs, ledger}
GPUS_PER_NODE=${GPUS_PER_NODE:-$(nvidia-smi --list-gpus | wc -l)}

# What NCCL warns of; INFO says which links and which network it took.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# Megatron wants it before Blackwell, for a collective to start before the product it runs beside.
export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}
# Less memory lost between blocks, which grow in place.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}

# A process that fails ends the others, and all start again, up to --max-restarts times.
# The console has rank 0; logs/RUN_ID_*/attempt_N/RANK has every rank's.
exec torchrun \
    --standalone --nproc-per-node "$GPUS_PER_NODE" --max-restarts 3 \
    --log-dir "$RUN/logs" --tee 3 --local-ranks-filter 0 \
    -m tst_megatron pretrain ${RECIPE:+--recipe "$RECIPE"} \
    --save "$RUN/checkpoints" --load "$RUN/checkpoints" --tensorboard-dir "$RUN/tensorboard" \
    --distributed-timeout-seconds-after-init 600 "$@"
