#!/usr/bin/env bash
# Several nodes without a scheduler: the same command on each, over ssh, say.
#
#   HEAD=node-1 NNODES=8 JOB=moe RECIPE=moe-10b-a1b-tst+64xb200 RUN=/shared/runs/moe \
#       examples/multi-node-torchrun/train.sh --data-path /shared/data/fineweb \
#       --data-cache-path /shared/cache
#
# or with flags of your own in place of RECIPE, or beside it: they go to Megatron and win.
#
# HEAD is any one of the nodes, by the name that all of them know it by. The agents meet there and
# number the nodes. A node that is lost: start the same command on another one of its name, or of any
# other, and it joins those that wait. HEAD itself lost: the others end; start all of them again.
set -euo pipefail

HEAD=${HEAD:?the node where the agents meet}
NNODES=${NNODES:?how many nodes}
JOB=${JOB:?a name for the job, the same on every node}
[ $# -gt 0 ] || : "${RECIPE:?the recipe, as in tst-megatron recipe list, or give flags}"
RUN=${RUN:?the folder of this run, which every node sees}
GPUS_PER_NODE=${GPUS_PER_NODE:-$(nvidia-smi --list-gpus | wc -l)}

# NCCL finds GPUs, NVLink and InfiniBand by itself. It needs help where a node has several networks:
#   NCCL_SOCKET_IFNAME=eth0   the interface for finding each other (and all else, without InfiniBand)
#   NCCL_IB_HCA=mlx5_0,...    the adapters to use; without it, all
#   NCCL_IB_GID_INDEX=3       RoCE only: which address of an adapter, as show_gids lists them
# NCCL_DEBUG=INFO says what it took: look for "via NET/IB" and "GDRDMA", NET/Socket is the slow way.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# Checkpoints and some of Megatron's small messages go over gloo, which must take the same interface.
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-${NCCL_SOCKET_IFNAME:-}}
[ -n "$GLOO_SOCKET_IFNAME" ] || unset GLOO_SOCKET_IFNAME
# torchrun's agents share a store, and never tell an agent that joins later where it is: a node that
# takes another's place would wait for a minute and give up. So the workers make a store of their own.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}

# After the first step, ranks that are silent for 600 s are taken for lost: their peers' processes
# end, and their agents wait for join_timeout seconds for the number of nodes to be whole again.
exec torchrun \
    --nnodes "$NNODES" --nproc-per-node "$GPUS_PER_NODE" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29500}" --rdzv-id "$JOB" \
    --rdzv-conf join_timeout=1800 \
    --log-dir "$RUN/logs/$(hostname)" --tee 3 --local-ranks-filter 0 \
    -m tst_megatron pretrain ${RECIPE:+--recipe "$RECIPE"} \
    --save "$RUN/checkpoints" --load "$RUN/checkpoints" --tensorboard-dir "$RUN/tensorboard" \
    --distributed-timeout-seconds-after-init 600 "$@"
