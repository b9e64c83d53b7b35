"""Which runs a plan counts: asked of parsed flags, before torch is imported and after it."""

import argparse
from collections.abc import Callable
from typing import Any

from tst_megatron.corpora.blend import DATA_FORMS
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import check_flags

# A plan is the same whatever text is read, and opens no folder: these are passed over, right or
# wrong.
_WHAT_IS_READ = (
    *(flag for form in DATA_FORMS for flag in form),
    *("--split", "--data-cache-path", "--load", "--save", "--load-once", "--exit-after-step"),
)
_NOT_COUNTED: tuple[tuple[Callable[[argparse.Namespace], Any], str], ...] = (
    (lambda a: a.use_torch_fsdp2, "--use-torch-fsdp2"),
    (lambda a: a.use_megatron_fsdp, "--use-megatron-fsdp"),
    (lambda a: a.multi_latent_attention, "--multi-latent-attention"),
    (lambda a: a.experimental_attention_variant, "--experimental-attention-variant"),
    (lambda a: a.attention_output_gate, "--attention-output-gate"),
    (lambda a: a.mtp_num_layers, "--mtp-num-layers"),
    (lambda a: a.moe_latent_size, "--moe-latent-size"),
    (
        lambda a: set(a.hybrid_layer_pattern or "") - set("*-E|"),
        "layers other than *, - and E in --hybrid-layer-pattern",
    ),
    (lambda a: a.window_size, "--window-size"),
    (lambda a: a.fp4, "--fp4-format"),
    (lambda a: a.optimizer != "adam", "--optimizer other than adam"),
    (lambda a: a.optimizer_cpu_offload, "--optimizer-cpu-offload"),
    (
        lambda a: (a.num_distributed_optimizer_instances or 1) > 1,
        "--num-distributed-optimizer-instances",
    ),
    (
        lambda a: (a.tensor_parallel_num_weight_shards or 1) > a.tensor_model_parallel_size,
        "--tensor-parallel-num-weight-shards",
    ),
    (
        lambda a: a.heterogeneous_layers_config_path or a.heterogeneous_layers_config_encoded_json,
        "--heterogeneous-layers-config-path",
    ),
    (lambda a: a.hybrid_context_parallel, "--hybrid-context-parallel"),
    (lambda a: a.use_tp_pp_dp_mapping, "--use-tp-pp-dp-mapping"),
    (lambda a: a.sft, "--sft"),
)


def check_planned(args: argparse.Namespace) -> None:
    """Check that a run's flags go together, and that all of it is counted.

    What they say of the text is taken away first.

    Args:
        args: as Megatron's parser and ours read them, before validation.

    Raises:
        UserError: they contradict one another, or a plan does not count what they ask for.
    """
    if args.yaml_cfg is not None:
        raise UserError("--yaml-cfg is not planned: give the flags on the command line")
    for flag in _WHAT_IS_READ:
        setattr(args, flag[2:].replace("-", "_"), False if flag == "--mock-data" else None)
    check_flags(args)
    for is_asked, flag in _NOT_COUNTED:
        if is_asked(args):
            raise UserError(f"the planner does not count {flag}: leave that out to plan the rest")
