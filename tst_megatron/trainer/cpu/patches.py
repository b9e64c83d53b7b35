"""Megatron's trainer on a CPU: every place where it takes a GPU for granted, answered.

The one idea: a list. Each entry replaces one thing for one reason, and names the line of Megatron
that needs it; ``tests/unit/trainer/cpu`` fails when that line is gone. Nothing else in the package
knows about this, and on a machine with GPUs nothing of it is imported.

No entry costs Python on every tensor operation: the literal ``device="cuda"`` is answered in the
few functions that make tensors, not by a mode that sees each call.
"""

import contextlib
import copy
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, wraps
from typing import Any

import torch
from torch.utils._device import _device_constructors

from tst_megatron.noise import WITHOUT_A_GPU, leave_out
from tst_megatron.trainer.cpu.norms import ZERO_CENTERED

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Entry:
    """One answer to one assumption.

    Attributes:
        target: dotted name of what is replaced.
        replacement: made from the original, which it may call.
        file: file of the installed packages that needs it.
        line: text that stands in that file for as long as it does.
    """

    target: str
    replacement: Callable[[Any], Any]
    file: str
    line: str


def _returns(value: Any) -> Callable[[Any], Any]:
    """Replace by a function that returns this, whatever it is given."""
    return lambda original: lambda *args, **kwargs: value


def _is_cuda(device: Any) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, str) and device.startswith("cuda")


def _on_cpu(original: Any) -> Any:
    """A function that makes tensors, with ``device="cuda"`` read as the CPU, in ordinary memory."""

    @wraps(original)
    def make(*args: Any, **kwargs: Any) -> Any:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = _CPU
        kwargs.pop("pin_memory", None)
        return original(*args, **kwargs)

    return make


def _typed_as_on_gpu(original: Any) -> Any:
    """``Tensor.type()`` with the name that the same tensor would have on a GPU."""

    @wraps(original)
    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        name = original(self, *args, **kwargs)
        return name.replace("torch.", "torch.cuda.", 1) if isinstance(name, str) else name

    return type_


class _Inert:
    """A CUDA event, stream or their context, where work is done by the time a call returns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __enter__(self) -> "_Inert":
        return self

    def __exit__(self, *args: Any) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None

    def query(self) -> bool:
        return True

    def record_event(self, *args: Any) -> "_Inert":
        return _Inert()


def _numpy_if_asked(original: Any) -> Any:
    """``maybe_move_tensor_to_cpu`` of a tensor that is there: split sizes as numpy all the same."""

    @wraps(original)
    def move(tensor: Any, as_numpy: bool = False, **kwargs: Any) -> Any:
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    return move


def _uneven_all_gather(original: Any) -> Any:
    """``all_gather`` of parts of several sizes, which gloo lacks: each rank broadcasts its own."""

    @wraps(original)
    def all_gather(
        parts: list[torch.Tensor], mine: torch.Tensor, group: Any = None, async_op: bool = False
    ) -> Any:
        if async_op or len({part.shape for part in parts}) == 1:
            return original(parts, mine, group=group, async_op=async_op)
        parts[torch.distributed.get_rank(group)].copy_(mine)
        for rank, part in enumerate(parts):
            torch.distributed.broadcast(part, group=group, group_src=rank)

    return all_gather


def _uneven_reduce_scatter(original: Any) -> Any:
    """``reduce_scatter`` of parts of several sizes, which gloo lacks: each is reduced to a rank."""

    @wraps(original)
    def reduce_scatter(
        mine: torch.Tensor, parts: list[torch.Tensor], *args: Any, **kwargs: Any
    ) -> Any:
        # Of anything but a plain sum, gloo's own answer.
        if len({part.shape for part in parts}) == 1 or args or set(kwargs) != {"group"}:
            return original(mine, parts, *args, **kwargs)
        group = kwargs["group"]
        for rank, part in enumerate(parts):
            summed = part.clone()
            torch.distributed.reduce(summed, group=group, group_dst=rank)
            if rank == torch.distributed.get_rank(group):
                mine.copy_(summed)

    return reduce_scatter


def _state_before_the_first_step(original: Any) -> Any:
    """The distributed optimizer's ``state_dict``, before torch's Adam has made its state.

    Megatron asks for it to load a checkpoint into. Transformer Engine's and Apex's Adam have their
    step in the parameter groups; torch's makes its state, step included, at the first step.
    """

    @wraps(original)
    def state_dict(self: Any) -> Any:
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                state = self.optimizer.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state |= {key: torch.zeros_like(parameter) for key in self.optimizer_state_keys}
        return original(self)

    return state_dict


def _with_torchs_adam(original: Any) -> Any:
    """``_set_main_param_and_optimizer_states`` without the step, which comes with the groups."""

    @wraps(original)
    def set_states(self: Any, model_param: Any, tensors: dict[str, Any]) -> None:
        with torch.no_grad():
            original(self, model_param, tensors | {"step": None})

    return set_states


def _a_step_each(original: Any) -> Any:
    """The distributed optimizer's ``load_state_dict``: torch's Adam counts a step up in place."""

    @wraps(original)
    def load_state_dict(self: Any, state_dict: Any) -> None:
        original(self, state_dict)
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] = state["step"].clone()

    return load_state_dict


def _mesh_on_cpu(original: Any) -> Any:
    """``DeviceMesh.from_group`` of CPUs."""

    @wraps(original)
    def from_group(group: Any, device_type: str, *args: Any, **kwargs: Any) -> Any:
        return original(group, "cpu", *args, **kwargs)

    return from_group


def _no_pinning(original: Any) -> Any:
    """``DataLoader`` without pinned memory, which needs a GPU."""

    @wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs["pin_memory"] = False
        original(self, *args, **kwargs)

    return init


def _norm_with_all_settings(original: Any) -> Any:
    """``WrappedTorchNorm``, also of a split sequence, and with its weight's distance from 1 kept.

    A norm works on every position by itself; all it needs of a sequence that is split across
    tensor-parallel ranks is that its parameters are marked, so that Megatron sums their gradients.
    """

    def new(cls: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
        plain = copy.copy(config)
        plain.sequence_parallel = False
        plain.layernorm_zero_centered_gamma = False
        norm = original(cls, plain, *args, **kwargs)
        if config.layernorm_zero_centered_gamma:
            norm = ZERO_CENTERED[type(norm)](norm.normalized_shape, eps=norm.eps)
        if config.sequence_parallel:
            for parameter in norm.parameters():
                parameter.sequence_parallel = True
        return norm

    return new


def _a_class(original: Any) -> Any:
    """A class that nothing is an instance of, in a mock's place."""
    return original if isinstance(original, type) else type("NotThere", (), {})


def _cpu_layers() -> Any:
    # Imports Megatron's models, which must see the entries before it.
    from tst_megatron.trainer.cpu import layers as cpu_layers

    return cpu_layers


def _fused(spec: Any) -> Any:
    return _cpu_layers().with_fused_attention(spec)


ENTRIES: list[Entry] = [
    # Devices.
    Entry(
        "torch.cuda.current_device",
        _returns(_CPU),
        "megatron/core/tensor_parallel/layers.py",
        "device=torch.cuda.current_device()",
    ),
    Entry(
        "torch.cuda.device_count",
        _returns(1),
        "megatron/training/initialize.py",
        "if device_count > 0 and not skip_model_parallel_init:",
    ),
    Entry(
        "torch.cuda.set_device",
        _returns(None),
        "megatron/training/initialize.py",
        "torch.cuda.set_device(args.local_rank)",
    ),
    # From Blackwell, 10, Megatron asks for no environment variable of CUDA's.
    Entry(
        "megatron.training.arguments.get_device_arch_version",
        _returns(10),
        "megatron/training/arguments.py",
        "and get_device_arch_version() < 10",
    ),
    # Grouped products are made one by one in Megatron's local layers, which ask for nothing.
    Entry(
        "torch.cuda.get_device_capability",
        _returns((10, 0)),
        "megatron/training/arguments.py",
        "dc = torch.cuda.get_device_capability()",
    ),
    Entry(
        "torch.Tensor.cuda",
        lambda original: lambda self, *args, **kwargs: self,
        "megatron/core/models/common/language_module/language_module.py",
        "weight.data = weight.data.cuda()",
    ),
    Entry(
        "torch.Tensor.type",
        _typed_as_on_gpu,
        "megatron/core/optimizer/clip_grads.py",
        "param.grad.type() == 'torch.cuda.FloatTensor'",
    ),
    *(
        Entry(f"torch.{name}", _on_cpu, file, line)
        for name, file, line in (
            (
                "tensor",
                "megatron/training/training.py",
                "torch.tensor([0.0], dtype=torch.float, device='cuda')",
            ),
            (
                "zeros",
                "megatron/core/pipeline_parallel/schedules.py",
                'torch.zeros([], dtype=torch.int, device="cuda")',
            ),
            (
                "ones",
                "megatron/core/transformer/utils.py",
                'torch.ones(sq, sq, device="cuda")',
            ),
            (
                "empty",
                "megatron/core/dist_checkpointing/exchange_utils.py",
                'torch.empty(0, dtype=dtype, device="cuda")',
            ),
            (
                "empty_like",
                "megatron/core/dist_checkpointing/exchange_utils.py",
                'torch.empty_like(tensor, device="cuda")',
            ),
            (
                "rand",
                "megatron/training/initialize.py",
                'torch.rand((args.hidden_size), dtype=dtype, device="cuda")',
            ),
        )
    ),
    # Streams, events and their contexts.
    *(
        Entry(f"torch.cuda.{name}", lambda original: _Inert, file, line)
        for name, file, line in (
            ("Stream", "megatron/core/pipeline_parallel/utils.py", "torch.cuda.Stream("),
            (
                "Event",
                "megatron/core/models/common/model_chunk_schedule_plan.py",
                "torch.cuda.Event(",
            ),
            ("stream", "megatron/core/pipeline_parallel/utils.py", "torch.cuda.stream("),
            (
                "current_stream",
                "megatron/core/pipeline_parallel/utils.py",
                "torch.cuda.current_stream()",
            ),
        )
    ),
    Entry(
        "torch.cuda.synchronize",
        _returns(None),
        "megatron/core/timers.py",
        "torch.cuda.synchronize()",
    ),
    # Collectives.
    Entry(
        "torch.distributed.all_gather",
        _uneven_all_gather,
        "megatron/core/tensor_parallel/mappings.py",
        "torch.distributed.all_gather(output_tensor_list, input_, group=group)",
    ),
    Entry(
        "torch.distributed.reduce_scatter",
        _uneven_reduce_scatter,
        "megatron/core/tensor_parallel/mappings.py",
        "torch.distributed.reduce_scatter(output, input_tensor_list, group=group)",
    ),
    Entry(
        "torch.distributed.device_mesh.DeviceMesh.from_group",
        _mesh_on_cpu,
        "megatron/core/distributed/torch_fully_sharded_data_parallel.py",
        'DeviceMesh.from_group(self.process_group, "cuda")',
    ),
    # Random numbers: the CPU's generator stands for the GPU's.
    Entry(
        "torch.cuda.manual_seed",
        lambda original: lambda seed: torch.default_generator.manual_seed(int(seed)) and None,
        "megatron/core/tensor_parallel/random.py",
        "torch.cuda.manual_seed(seed)",
    ),
    Entry(
        "torch.cuda.get_rng_state",
        lambda original: lambda *args, **kwargs: torch.get_rng_state(),
        "megatron/training/checkpointing.py",
        "torch.cuda.get_rng_state()",
    ),
    Entry(
        "torch.cuda.set_rng_state",
        lambda original: lambda state, *args, **kwargs: torch.set_rng_state(state),
        "megatron/training/checkpointing.py",
        "torch.cuda.set_rng_state(",
    ),
    Entry(
        "megatron.core.tensor_parallel.random._get_cuda_rng_state",
        lambda original: lambda *args, **kwargs: torch.get_rng_state(),
        "megatron/core/tensor_parallel/random.py",
        "def _get_cuda_rng_state(",
    ),
    Entry(
        "megatron.core.tensor_parallel.random._set_cuda_rng_state",
        lambda original: lambda state, *args, **kwargs: torch.set_rng_state(state),
        "megatron/core/tensor_parallel/random.py",
        "def _set_cuda_rng_state(",
    ),
    # Without Transformer Engine its layers are mocks, and so are the classes that are made of them;
    # from 0.20 heads of multi-token prediction ask whether a layer is one of these.
    *(
        Entry(
            f"megatron.core.tensor_parallel.inference_layers.{name}",
            _a_class,
            "megatron/core/tensor_parallel/inference_layers.py",
            f"class {name}(TE",
        )
        for name in ("InferenceColumnParallelLinear", "InferenceLayerNormColumnParallelLinear")
    ),
    # Start-up.
    Entry(
        "megatron.training.training.initialize_megatron",
        lambda original: partial(original, allow_no_cuda=True),
        "megatron/training/initialize.py",
        'assert torch.cuda.is_available(), "Megatron requires CUDA."',
    ),
    Entry(
        "megatron.core.datasets.utils.compile_helpers",
        _returns(None),
        "megatron/training/initialize.py",
        "from megatron.core.datasets.utils import compile_helpers",
    ),
    Entry(
        "megatron.core.optimizer.distrib_optimizer.DistributedOptimizer.state_dict",
        _state_before_the_first_step,
        "megatron/core/optimizer/distrib_optimizer.py",
        'steps = list(set([s["step"].item() for s in inner_state_dict["state"].values()]))',
    ),
    Entry(
        "megatron.core.optimizer.distrib_optimizer.DistributedOptimizer.load_state_dict",
        _a_step_each,
        "megatron/core/optimizer/distrib_optimizer.py",
        's["step"] = step',
    ),
    Entry(
        "megatron.core.optimizer.distrib_optimizer.DistributedOptimizer"
        "._set_main_param_and_optimizer_states",
        _with_torchs_adam,
        "megatron/core/optimizer/distrib_optimizer.py",
        "if not isinstance(tensors[key], torch.Tensor):",
    ),
    # A spawned process imports torch again, which takes longer than a small checkpoint; without a
    # GPU's context a fork is as good.
    Entry(
        "megatron.core.dist_checkpointing.strategies.filesystem_async.get_write_results_queue",
        lambda original: partial(original, mp_mode="fork"),
        "megatron/core/dist_checkpointing/strategies/filesystem_async.py",
        "def get_write_results_queue(mp_mode: str = 'spawn')",
    ),
    # Layers.
    Entry(
        "megatron.training.models.gpt.default_layer_spec",
        lambda original: lambda *args, **kwargs: _fused(original(*args, **kwargs)),
        "megatron/training/models/gpt.py",
        "transformer_layer_spec = default_layer_spec(self._model_config, vp_stage)",
    ),
    Entry(
        "megatron.training.models.gpt.mtp_block_spec",
        lambda original: lambda *args, **kwargs: _fused(original(*args, **kwargs)),
        "megatron/training/models/gpt.py",
        "mtp_spec = mtp_block_spec(self._model_config, transformer_layer_spec, vp_stage=vp_stage)",
    ),
    Entry(
        "megatron.training.models.hybrid.default_hybrid_stack_spec",
        lambda original: _cpu_layers().hybrid_stack_spec,
        "megatron/training/models/hybrid.py",
        "hybrid_stack_spec = default_hybrid_stack_spec",
    ),
    Entry(
        "megatron.core.transformer.torch_norm.WrappedTorchNorm.__new__",
        _norm_with_all_settings,
        "megatron/core/transformer/torch_norm.py",
        'assert not config.sequence_parallel, f"sequence parallel not supported',
    ),
    Entry(
        "megatron.core.models.hybrid.hybrid_block.TENorm",
        lambda original: _cpu_layers().WrappedTorchNorm,
        "megatron/core/models/hybrid/hybrid_block.py",
        "self.final_norm = TENorm(",
    ),
    # Of queries and keys in a hybrid model, whose layers do not name one.
    Entry(
        "megatron.core.transformer.attention.TENorm",
        lambda original: original or _cpu_layers().WrappedTorchNorm,
        "megatron/core/transformer/attention.py",
        "q_norm_cls = submodules.q_layernorm or TENorm",
    ),
    Entry(
        "megatron.core.transformer.moe.token_dispatcher.maybe_move_tensor_to_cpu",
        _numpy_if_asked,
        "megatron/core/transformer/moe/moe_utils.py",
        "if torch.is_tensor(tensor) and tensor.is_cuda:",
    ),
    Entry(
        "torch.utils.data.DataLoader.__init__",
        _no_pinning,
        "megatron/training/datasets/data_samplers.py",
        "pin_memory=True",
    ),
]


@cache
def install() -> None:
    """Answer every entry, once a process; later calls do nothing."""
    leave_out(WITHOUT_A_GPU)
    # Megatron compiles small functions with torch, which takes longer here than they do.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    # What ``with torch.device(...)`` makes elsewhere, torch lists once: with the functions that it
    # will see, not those that stand before them. Else transformers, which builds models on the meta
    # device, leaves what it computes itself, such as rotary frequencies, as memory happened to be.
    _device_constructors()
    for entry in ENTRIES:
        owner, name = _resolve(entry.target)
        setattr(owner, name, entry.replacement(getattr(owner, name)))


def _resolve(target: str) -> tuple[Any, str]:
    """The object that holds a dotted name, importing the longest module in it."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            owner: Any = importlib.import_module(".".join(parts[:cut]))
            for part in parts[cut:-1]:
                owner = getattr(owner, part)
            return owner, parts[-1]
    raise ModuleNotFoundError(target)
