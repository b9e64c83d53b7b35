#!/usr/bin/env bash
# FP8 on one node: the finest scales that its GPUs compute with at full speed.
#
#   RECIPE=moe-10b-a1b-tst+8xb200 RUN=/shared/runs/moe-fp8 examples/fp8/train.sh \
#       --data-path /shared/data/fineweb --data-cache-path /shared/cache
#
# A recipe's precisions: mxfp8 (Blackwell), fp8-blockwise (Hopper), fp8-tensorwise and fp8-delayed
# (both, for coarser scales and less work), bf16. `tst-megatron recipe show RECIPE` says what each
# trades. PRECISION chooses one. A run keeps its precision: begin another in a folder of its own.
set -euo pipefail

RECIPE=${RECIPE:?the recipe with its layout; flags of your own go to examples/single-node, --fp8-format too}
RUN=${RUN:?the folder of this run: checkpoints, logs, ledger}
GPUS_PER_NODE=${GPUS_PER_NODE:-$(nvidia-smi --list-gpus | wc -l)}
if [ -z "${PRECISION:-}" ]; then
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | sed -n 1p)
    case $capability in
        9.*) PRECISION=fp8-blockwise ;;
        10.*) PRECISION=mxfp8 ;;
        *) echo "no FP8 of this recipe's for compute capability $capability: set PRECISION" >&2; exit 2 ;;
    esac
fi
RECIPE=$RECIPE+$PRECISION

export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}

exec torchrun \
    --standalone --nproc-per-node "$GPUS_PER_NODE" --max-restarts 3 \
    --log-dir "$RUN/logs" --tee 3 --local-ranks-filter 0 \
    -m tst_megatron pretrain --recipe "$RECIPE" \
    --save "$RUN/checkpoints" --load "$RUN/checkpoints" --tensorboard-dir "$RUN/tensorboard" \
    --distributed-timeout-seconds-after-init 600 "$@"
