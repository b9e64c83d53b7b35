"""A whole training step in bags of 16 against the baseline's step at equal positions.

The step is the trainer's own: Megatron's ``train_step`` with its schedule, DDP and optimizer, and
our ``ForwardStep``. Both sides train one model, which on ``[b, L]`` runs Megatron's own embedding
and loss. The samples are made beforehand: reading them has rows of its own.
"""

import itertools
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import CPU, CUDA, Bench, Prepare, Row, memory_row, time_row
from tst_megatron.backends import FLAGS

L, BAG_SIZE, VOCABULARY = 1024, 16, 32768
LAYERS, HIDDEN, FFN, HEADS = 4, 512, 1408, 8

_FLAGS = (
    *(f"--num-layers={LAYERS}", f"--hidden-size={HIDDEN}", f"--ffn-hidden-size={FFN}"),
    *(f"--num-attention-heads={HEADS}", f"--seq-length={L}", f"--max-position-embeddings={L}"),
    *("--position-embedding-type=rope", "--normalization=RMSNorm", "--swiglu"),
    *("--disable-bias-linear", "--untie-embeddings-and-output-weights"),
    *("--attention-dropout=0", "--hidden-dropout=0", "--clip-grad=1.0"),
    *("--micro-batch-size=1", "--global-batch-size=1", "--train-iters=1000", "--lr=1e-4"),
    *("--tokenizer-type=NullTokenizer", f"--vocab-size={VOCABULARY - 1}", "--mock-data"),
    *("--no-create-attention-mask-in-dataloader", "--num-workers=0", "--eval-iters=0"),
    *(f"--tst-bag-size={BAG_SIZE}", "--tst-step-ratio=0.9"),
)

_ON_GPU = (
    *("--bf16", "--num-layers=8", "--hidden-size=1024", "--ffn-hidden-size=2816"),
    *("--num-attention-heads=16", "--seq-length=4096", "--max-position-embeddings=4096"),
    *("--micro-batch-size=2", "--global-batch-size=2", "--vocab-size=131071"),
)


def start_megatron(machine_flags: tuple[str, ...], own_flags: tuple[str, ...] = ()) -> Any:
    """Megatron's global state over this job's processes, as its trainer makes it.

    Args:
        machine_flags: Megatron's flags that this machine needs.
        own_flags: those that win over the benchmark's.

    Returns:
        Megatron's arguments.
    """
    from megatron.training import training
    from megatron.training.arguments import parse_and_validate_args

    from tst_megatron.methods.registry import add_arguments

    sys.argv = [sys.argv[0], *machine_flags, *_FLAGS, *own_flags]
    args = parse_and_validate_args(extra_args_provider=add_arguments)
    # The trainer's name for it, which the CPU backend answers.
    training.initialize_megatron()
    return args


def flags_of(bench: Bench) -> tuple[str, ...]:
    """Those of the sizes and the modules that the device has."""
    if bench.quick:
        return ("--num-layers=2", "--hidden-size=64", "--ffn-hidden-size=128", "--seq-length=64")
    if bench.device == CPU:
        return ()
    fusion = () if find_spec("apex") else ("--no-gradient-accumulation-fusion",)
    modules = fusion if find_spec("transformer_engine") else _without_gloo(FLAGS)
    return (*_ON_GPU, *modules)


def _without_gloo(flags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(flag for flag in flags if not flag.startswith("--distributed-backend"))


def rows(bench: Bench) -> Iterator[Row]:
    """Time of a step, and on a GPU its memory."""
    from megatron.training import get_args

    args = get_args()
    what = (
        f"training step, s = {BAG_SIZE}, {args.micro_batch_size * args.seq_length} positions, "
        f"{args.num_layers} layers, h = {args.hidden_size}, vocabulary {args.padded_vocab_size}"
    )
    bench.say(what)
    steps = Steps()
    ours = steps.prepare(steps.superposed, bags())
    theirs = steps.prepare(steps.ordinary, tokens())
    against, turns = "the baseline's step, same process", bench.sized(20, 20, 2)
    device = bench.device
    yield time_row(what, against, ours, theirs, turns, at_most=1.03, device=device)
    if device == CUDA:
        yield memory_row(what, against, ours, theirs, at_most=1.02, device=device)


class Steps:
    """One model and its optimizer, trained by either forward step."""

    def __init__(self) -> None:
        from megatron.core.distributed import finalize_model_grads
        from megatron.core.enums import ModelType
        from megatron.core.process_groups_config import ProcessGroupCollection
        from megatron.core.utils import get_model_config
        from megatron.training import get_args, get_timers, training
        from megatron.training.argument_utils import (
            gpt_config_from_args,
            pretrain_cfg_container_from_args,
        )

        from tst_megatron.methods.method import Ordinary
        from tst_megatron.methods.registry import run_of
        from tst_megatron.trainer.forward_step import ForwardStep

        args = get_args()
        superposed = run_of(args)
        model_config = superposed.configure_model(gpt_config_from_args(args))
        self.trainer = training
        self.model, self.optimizer, self.scheduler = training.setup_model_and_optimizer(
            ModelType.encoder_or_decoder,
            cfg_container=pretrain_cfg_container_from_args(args, model_config),
            pg_collection=ProcessGroupCollection.use_mpu_process_groups(),
        )
        for chunk in self.model:
            chunk.train()
        # What the trainer sets before its loop.
        self.config = get_model_config(self.model[0])
        self.config.grad_scale_func = self.optimizer.scale_loss
        self.config.timers = get_timers()
        self.config.finalize_model_grads_func = finalize_model_grads
        self.ordinary_run = Ordinary(args)
        self.ordinary = ForwardStep(self.ordinary_run)
        # Megatron has counted no sample yet, so every step is in the superposed stage.
        self.superposed = ForwardStep(superposed)

    def prepare(self, forward_step: Any, sample: dict[str, Tensor]) -> Prepare:
        """A step of Megatron's trainer on one batch."""
        from megatron.core.pipeline_parallel import get_forward_backward_func
        from megatron.core.rerun_state_machine import RerunDataIterator

        data = RerunDataIterator(itertools.repeat(sample))

        def step() -> Any:
            report = self.trainer.train_step(
                forward_step,
                data,
                self.model,
                self.optimizer,
                self.scheduler,
                self.config,
                get_forward_backward_func(),
                iteration=0,
            )
            name = "lm loss" if forward_step is self.ordinary else "bag loss"
            # Only the last pipeline stage has losses.
            assert not report[0] or name in report[0], f"a step of another kind: {report[0]}"
            return report

        return lambda: step


def bags() -> dict[str, Tensor]:
    """A batch as the superposed data set's loader gives it."""
    from tst_megatron.methods.superposition.phased_dataset import BAGS

    return {BAGS: _drawn(BAG_SIZE)}


def tokens() -> dict[str, Tensor]:
    """A batch as ``GPTDataset``'s loader gives it."""
    text = _drawn()
    labels = text[:, 1:].contiguous()
    return {
        "tokens": text[:, :-1].contiguous(),
        "labels": labels,
        "loss_mask": torch.ones(labels.shape),
        "position_ids": torch.arange(labels.shape[1]).expand(labels.shape).contiguous(),
    }


def _drawn(*bag: int) -> Tensor:
    """Ids ``[b, L + 1]``, or ``[b, L + 1, s]``."""
    from megatron.training import get_args

    args = get_args()
    shape = (args.micro_batch_size, args.seq_length + 1, *bag)
    return torch.randint(0, args.padded_vocab_size - 1, shape)
