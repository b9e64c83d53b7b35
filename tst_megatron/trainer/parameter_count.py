"""Parameters of the whole model, counted on the models that the ranks hold.

The one idea: each rank knows of what its numbers are a part (`tst_megatron.stock.experts`).
"""

import argparse
from typing import Any

import torch
from megatron.core import mpu
from megatron.core.utils import get_attr_wrapped_model

from tst_megatron.methods.method import Run
from tst_megatron.stock.experts import copies, is_experts


def count_parameters(args: argparse.Namespace, run: Run, model: list[Any]) -> dict[str, int] | None:
    """Count the model; one all-reduce of ``[2]`` float64 over the pipeline-parallel group.

    Args:
        args: Megatron's validated arguments.
        run: what its methods make of it.
        model: this rank's model chunks, wrapped for data parallelism or not.

    Returns:
        ``total``, and ``active``: those that work on one position, which are the experts it goes
        to, the LM head, and not the input embedding; on average, where a method lets some pass by.
        None where parameters are cut up otherwise (Megatron-FSDP).
    """
    if args.use_megatron_fsdp:
        return None
    total, active = 0, 0.0
    for chunk in model:
        pre_process = get_attr_wrapped_model(chunk, "pre_process")
        shares = run.shares_at_work(chunk)
        for name, parameter in chunk.named_parameters():
            number = parameter.numel() * copies(args, name, parameter)
            is_embedding = "embedding." in name
            is_head = "output_layer." in name
            tied = not args.untie_embeddings_and_output_weights
            # A tied table stands on the first and on the last stage, and works as the head.
            if (is_embedding and not pre_process) or (is_head and tied):
                continue
            total += number
            if is_embedding:
                active += number if tied and "word_embeddings" in name else 0
            elif is_experts(name):
                active += number * args.moe_router_topk / args.num_experts * shares.get(name, 1.0)
            else:
                active += number * shares.get(name, 1.0)
    # Whole numbers up to 2^53 are exact.
    counts = torch.tensor([total, active], dtype=torch.float64, device=torch.cuda.current_device())
    if mpu.get_pipeline_model_parallel_world_size() > 1:
        torch.distributed.all_reduce(counts, group=mpu.get_pipeline_model_parallel_group())
    return {"total": int(counts[0]), "active": round(float(counts[1]))}
