"""Does this machine have what the flags ask for: a GPU, packages, FP8 or FP4?

Megatron finds out late: in a traceback of every rank, in a warning after which it goes on without,
or not at all. The one idea: two tables, asked before a process group exists, and one sentence for
all that is lacking, so that nobody meets it one start at a time.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from operator import attrgetter
from typing import Any

from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.errors import UserError
from tst_megatron.methods.method import NeedsGpu
from tst_megatron.methods.registry import needs_gpu

type Asked = Callable[[argparse.Namespace], Any]
type Row = tuple[Asked, str, str]

_LEAVE_OUT = NeedsGpu("").instead


def check_machine(args: argparse.Namespace, on_gpu: bool) -> None:
    """Check the flags against this machine.

    Args:
        args: all of Megatron's and ours, before Megatron's validation.
        on_gpu: whether the run will have GPUs.

    Raises:
        UserError: something is lacking.
    """
    check_lacking(args, on_gpu)
    _check_attention_variables(args)
    if on_gpu:
        _check_transformer_engine(args)
        check_quantization(args)


def check_lacking(args: argparse.Namespace, on_gpu: bool) -> None:
    """Check for the GPU and the packages that the flags ask for, which needs no torch.

    Args:
        args: as `check_machine`.
        on_gpu: whether the run will have GPUs, or may.

    Raises:
        UserError: something is lacking.
    """
    of_gpu = [] if on_gpu else _asked_of_gpu(args)
    lacking = [_without_gpu(of_gpu)] if of_gpu else []
    refused = {one.flag for one in of_gpu}
    lacking += [
        f"{one.flag} needs {one.package}, which is not installed here: {one.instead}"
        for one in _PACKAGES
        if one.is_asked(args) and one.flag not in refused and find_spec(one.module) is None
    ]
    if lacking:
        raise UserError("; ".join(lacking))


def _asked_of_gpu(args: argparse.Namespace) -> list[NeedsGpu]:
    asked = [
        NeedsGpu(flag.format_map(vars(args)), instead)
        for is_asked, flag, instead in _NEEDS_GPU
        if is_asked(args)
    ]
    return [*asked, *needs_gpu(args)]


def _without_gpu(asked: Sequence[NeedsGpu]) -> str:
    """A sentence of all that needs one."""
    flags = _listed([one.flag for one in asked])
    needs = "needs" if len(asked) == 1 else "need"
    return f"{flags} {needs} a GPU, and there is none here: {_instead(asked)}"


def _instead(asked: Sequence[NeedsGpu]) -> str:
    if len(asked) == 1:
        return asked[0].instead
    left_out = [one.flag for one in asked if one.instead == _LEAVE_OUT]
    if len(left_out) == len(asked):
        return "leave them out"
    others = [f"for {one.flag} {one.instead}" for one in asked if one.instead != _LEAVE_OUT]
    return _listed([f"leave out {_listed(left_out)}", *others] if left_out else others)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _left_out(*flags: str) -> tuple[Row, ...]:
    """Rows of flags whose arguments have their names, and that the run can do without."""
    return tuple((attrgetter(flag[2:].replace("-", "_")), flag, _LEAVE_OUT) for flag in flags)


# (Is it asked for, the flag with arguments of the run in it, what to do without a GPU.) What only
# says how something is computed or sent is not here, as it is computed and sent all the same:
# --attention-backend, --moe-grouped-gemm, --overlap-grad-reduce, settings of NCCL.
_NEEDS_GPU: tuple[Row, ...] = (
    (
        lambda a: a.transformer_impl != "local",
        "--transformer-impl {transformer_impl}",
        "use --transformer-impl local",
    ),
    (
        lambda a: a.distributed_backend != "gloo",
        "--distributed-backend {distributed_backend}",
        "use --distributed-backend gloo",
    ),
    # Numbers that Transformer Engine makes.
    (lambda a: a.fp8, "--fp8-format", _LEAVE_OUT),
    *_left_out("--fp8-param-gather"),
    (lambda a: a.fp4, "--fp4-format", _LEAVE_OUT),
    *_left_out(
        "--fp4-param-gather",
        "--te-precision-config-file",
        "--use-precision-aware-optimizer",
        "--qk-clip",
        "--log-max-attention-logit",
        "--te-rng-tracker",
    ),
    # Its kernels; Megatron's local layers have no other for these flags.
    *_left_out(
        "--use-te-activation-func",
        "--use-transformer-engine-op-fuser",
        "--moe-permute-fusion",
        "--moe-router-fusion",
    ),
    (
        lambda a: a.num_experts and a.moe_token_dispatcher_type == "flex",
        "--moe-token-dispatcher-type flex",
        "use --moe-token-dispatcher-type alltoall",
    ),
    (
        lambda a: set(a.hybrid_layer_pattern or "") - set("*-E|/"),
        "layers other than *, - and E in --hybrid-layer-pattern",
        "use recipes of attention and MLP",
    ),
    *_left_out("--experimental-attention-variant"),
    # Streams, graphs, memory and links of a GPU.
    (lambda a: a.cuda_graph_impl != "none", "--cuda-graph-impl", _LEAVE_OUT),
    *_left_out(
        "--enable-cuda-graph",
        "--external-cuda-graph",
        "--optimizer-cuda-graph",
        "--cpu-offloading-num-layers",
        "--optimizer-cpu-offload",
        "--fine-grained-activation-offloading",
        "--delay-wgrad-compute",
        "--tp-comm-overlap",
    ),
    (lambda a: a.use_megatron_fsdp, "--use-megatron-fsdp", "use --use-torch-fsdp2"),
    (lambda a: a.nccl_ub, "--use-nccl-ub", _LEAVE_OUT),
    *_left_out("--use-sharp"),
    # Instruments.
    (
        lambda a: a.profile and not a.use_pytorch_profiler,
        "--profile",
        "add --use-pytorch-profiler",
    ),
    *_left_out(
        "--record-memory-history",
        "--log-memory-to-tensorboard",
        "--log-device-memory-used",
        "--log-energy",
        "--log-straggler",
        "--gpu-sniff-test-interval",
    ),
    # What the attention of the CPU backend does not know (trainer/cpu/attention.py).
    (
        lambda a: a.context_parallel_size > 1 and a.create_attention_mask_in_dataloader,
        "--context-parallel-size with the attention mask of the data loader",
        "add --no-create-attention-mask-in-dataloader",
    ),
    (
        lambda a: a.context_parallel_size > 1 and a.window_size is not None,
        "--context-parallel-size with --window-size",
        "leave one of them out",
    ),
    (
        lambda a: a.context_parallel_size > 1 and a.softmax_type != "vanilla",
        "--context-parallel-size with --softmax-type",
        "leave one of them out",
    ),
    (
        # Its worker takes a GPU and dies without one (PersistentAsyncCaller.async_loop), and the
        # trainer waits for it for ever.
        lambda a: _saves_asynchronously(a, "mcore"),
        "--async-save with --async-strategy mcore",
        "leave it out",
    ),
)


def _saves_asynchronously(args: argparse.Namespace, strategy: str) -> bool:
    # Without the worker Megatron saves as ever, and warns.
    return bool(
        args.async_save and args.use_persistent_ckpt_worker and args.async_strategy == strategy
    )


@dataclass(frozen=True)
class Package:
    """A package that Megatron imports late, for one flag.

    Attributes:
        is_asked: whether the run asks for it.
        flag: that does.
        module: to be imported.
        package: its name where it is installed from.
        instead: what to do.
    """

    is_asked: Asked
    flag: str
    module: str
    package: str
    instead: str = "install it, or leave the flag out"


_PACKAGES = (
    Package(
        lambda a: a.wandb_project,
        "--wandb-project",
        "wandb",
        "wandb",
        "pip install wandb, or leave the flag out",
    ),
    Package(
        lambda a: a.mlflow_experiment,
        "--mlflow-experiment",
        "mlflow",
        "mlflow",
        "pip install tst-megatron[mlflow], or leave the flag out",
    ),
    Package(lambda a: a.tensorboard_dir, "--tensorboard-dir", "tensorboard", "tensorboard"),
    Package(
        lambda a: a.enable_one_logger and (a.one_logger_run_name or a.one_logger_async),
        "--one-logger-run-name or --one-logger-async",
        "one_logger",
        "one_logger",
        "add --no-one-logger",
    ),
    Package(
        lambda a: a.run_workload_inspector_server,
        "--run-workload-inspector-server",
        "workload_inspector",
        "workload_inspector",
    ),
    Package(
        lambda a: a.enable_ft_package,
        "--enable-ft-package",
        "nvidia_resiliency_ext",
        "nvidia-resiliency-ext",
    ),
    Package(
        lambda a: a.non_persistent_ckpt_type == "local",
        "--non-persistent-ckpt-type local",
        "nvidia_resiliency_ext",
        "nvidia-resiliency-ext",
    ),
    Package(
        lambda a: _saves_asynchronously(a, "nvrx"),
        "--async-save",
        "nvidia_resiliency_ext",
        "nvidia-resiliency-ext",
    ),
    Package(
        lambda a: a.optimizer not in ("adam", "sgd"),
        "--optimizer other than adam and sgd",
        "emerging_optimizers",
        "emerging-optimizers",
        "install it, or use --optimizer adam",
    ),
    Package(lambda a: a.log_energy, "--log-energy", "pynvml", "nvidia-ml-py"),
    Package(lambda a: a.log_straggler, "--log-straggler", "pynvml", "nvidia-ml-py"),
    Package(
        lambda a: a.log_device_memory_used, "--log-device-memory-used", "pynvml", "nvidia-ml-py"
    ),
    Package(
        lambda a: any(prefix.startswith("s3://") for prefix in all_prefixes(a)),
        "text in s3://",
        "boto3",
        "boto3",
        "install it, or copy the text here",
    ),
)


ATTENTION_VARIABLES = ("NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN")
"""Of the environment, from which Transformer Engine takes what ``--attention-backend`` asks for."""
_ATTENTION = {
    "local": (0, 0, 0),
    "flash": (1, 0, 0),
    "fused": (0, 1, 0),
    "unfused": (0, 0, 1),
    "auto": (1, 1, 1),
}


def _check_attention_variables(args: argparse.Namespace) -> None:
    """Megatron sets them as it builds the model, and asserts that nobody has set them otherwise."""
    backend = args.attention_backend.name
    for name, wanted in zip(ATTENTION_VARIABLES, _ATTENTION[backend], strict=True):
        if os.environ.get(name, str(wanted)) != str(wanted):
            raise UserError(
                f"{name}={os.environ[name]} in the environment contradicts --attention-backend "
                f"{backend}: unset it"
            )


def _check_transformer_engine(args: argparse.Namespace) -> None:
    if args.transformer_impl == "transformer_engine" and find_spec("transformer_engine") is None:
        raise UserError(
            "--transformer-impl transformer_engine, which is Megatron's default, needs Transformer "
            "Engine, and none is installed here: run in the GPU image, or use --transformer-impl "
            "local"
        )


# What Transformer Engine has to say of a recipe, as it asks itself (quantization.py,
# FP8GlobalStateManager.autocast_enter); of the others, custom ones too, whether there is FP8.
_AVAILABLE = {
    "mxfp8": "is_mxfp8_available",
    "blockwise": "is_fp8_block_scaling_available",
    "nvfp4": "is_nvfp4_available",
}


def check_quantization(args: argparse.Namespace) -> None:
    """Check what ``--fp8-format`` or ``--fp4-format`` ask of this GPU and of Transformer Engine.

    Megatron would find out in the first forward pass, on every rank.

    Raises:
        UserError: either lacks what the recipe needs.
    """
    for kind in ("fp8", "fp4"):
        if getattr(args, kind) is not None:
            _check_recipe(kind, getattr(args, f"{kind}_recipe"))


def _check_recipe(kind: str, recipe: str) -> None:
    asked = f"--{kind}-recipe {recipe}"
    try:
        from transformer_engine.pytorch.quantization import FP8GlobalStateManager

        is_available = getattr(FP8GlobalStateManager, _AVAILABLE.get(recipe, "is_fp8_available"))
    except (ImportError, AttributeError):
        raise UserError(
            f"{asked} needs a Transformer Engine that has it, and none is installed here: run in "
            f"the GPU image, or leave --{kind}-format out"
        ) from None
    available, reason = is_available()
    if not available:
        raise UserError(
            f"{asked} does not run on this GPU: {reason.rstrip('.')}; use another "
            f"--{kind}-recipe, or leave --{kind}-format out"
        )
