"""Megatron's pre-training program with the methods in it: ``python -m tst_megatron pretrain``.

Everything that can be refused is refused before ``megatron.training.pretrain`` makes a process
group. Without a method's flag what is left is Megatron's own ``pretrain_gpt.py`` or, with
``--hybrid-layer-pattern``, its ``pretrain_hybrid.py``.
"""

import argparse
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from tst_megatron.backends import prepare_backend
from tst_megatron.errors import NO_STEP_EXIT_CODE, UserError, exit_with, user_errors_exit
from tst_megatron.noise import OF_MEGATRON_ALONE, leave_out
from tst_megatron.stock.flags import DRY_RUN
from tst_megatron.trainer.step_clock import OnDevice, StepClock

EXAMPLES = """\
examples:
  torchrun --nproc-per-node 8 -m tst_megatron pretrain $YOUR_MEGATRON_FLAGS \\
      --tst-bag-size 6 --tst-step-ratio 0.3
  tst-megatron pretrain --dry-run 64xh100 $YOUR_MEGATRON_FLAGS
  torchrun --nproc-per-node 1 -m tst_megatron pretrain --recipe tiny-tst \\
      --tokenizer-model tokenizer.model --data-path corpus --tst-schedule 4:0.2,2:0.1

Every other flag is Megatron's, and keeps its meaning.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags that are not Megatron's own; its own parser is given the same."""
    from tst_megatron.methods import registry

    parser.add_argument("--recipe", help="flags from a recipe, or a .yaml file of your own")
    registry.add_arguments(parser)


def main(argv: list[str]) -> None:
    """Train; ``argv`` are Megatron's flags, ours, and a ``--recipe``.

    Leaves with code 2 and one sentence where the flags, files or their combination cannot run, and
    with code 3 where Megatron leaves without one before the first step.
    """
    started = time.time()
    clock = StepClock(started)
    with _silent_stops_fail(clock):
        _run(argv, started, clock)


def _run(argv: list[str], started: float, clock: StepClock) -> None:
    from tst_megatron.recipes import named_recipe
    from tst_megatron.trainer.command_line import check_at_once, words_of

    with user_errors_exit():
        words = words_of(argv)
        _check_is_no_dry_run(words)
        flags = check_at_once(words)
        if flags is not None and _has_ended(flags):
            return
        _be_the_only_rank()
        leave_out(OF_MEGATRON_ALONE)
        machine_flags = prepare_backend()
        if not machine_flags:
            import torch

            clock.follow(OnDevice(torch.cuda))
        recipe, overrides = named_recipe(argv)
        args, run = _parse(
            [*machine_flags, *words],
            on_gpu=not machine_flags,
            is_checked=flags is not None,
            recipe=None if recipe is None else {"name": recipe, "overrides": overrides},
        )
        if _has_ended(args):
            return
        config = _config(args, run)
        questions = _questions(args)
        _say_what_it_will_do(args, run)
    try:
        _train(config, args, run, started, clock, questions)
    finally:
        if questions is not None:
            questions.asked.close()


def _check_is_no_dry_run(words: Sequence[str]) -> None:
    """Of a command line's own word the run would not have come here (`tst_megatron.cli`)."""
    if any(word.partition("=")[0] == DRY_RUN for word in words):
        raise UserError(f"{DRY_RUN} is for the command line, and no key of a recipe: leave it out")


@contextmanager
def _silent_stops_fail(clock: StepClock) -> Iterator[None]:
    """Before the first step, let Megatron's ``sys.exit()`` be the failure that it means.

    It has several of them, for what it cannot load or find. Their code is 0, which a scheduler
    takes for a run that is finished.
    """
    try:
        yield
    except SystemExit as stop:
        if stop.code is None and not clock.has_started:
            exit_with(
                "error: Megatron stopped before the first step, and says why above",
                NO_STEP_EXIT_CODE,
            )
        raise


def _has_ended(args: argparse.Namespace) -> bool:
    """Whether there is nothing to train, which is said."""
    from tst_megatron.trainer.checkpoint_choice import has_ended

    if not has_ended(args):
        return False
    if os.environ.get("RANK", "0") == "0":
        print(f"tst-megatron: step {args.exit_after_step} is in {args.save}: nothing to do")
    return True


def _be_the_only_rank() -> None:
    """Without torchrun or another launcher, run as a job of one process."""
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _is_last_rank() -> bool:
    """Whether this process is the rank that has Megatron's log line and its trackers."""
    return os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)


def _parse(
    words: list[str], on_gpu: bool, is_checked: bool, recipe: dict[str, Any] | None = None
) -> tuple[argparse.Namespace, Any]:
    from megatron.training import get_tokenizer
    from megatron.training.arguments import parse_and_validate_args

    from tst_megatron.methods.registry import add_arguments, check_flags, run_of
    from tst_megatron.stock.refusals import refusals_as_sentences
    from tst_megatron.trainer import checks
    from tst_megatron.trainer.command_line import check_words, defaults_of
    from tst_megatron.trainer.gpt2_tokenizer import read_gpt2_from_its_files
    from tst_megatron.trainer.machine import check_machine
    from tst_megatron.trainer.memory import keep_vocabulary, remember
    from tst_megatron.trainer.mlflow_place import check_is_there
    from tst_megatron.trainer.same_tokenizer import end_of_documents, remember_tokenizer
    from tst_megatron.trainer.validation_sets import name_sets

    # Twice, because Megatron's validation opens files and so fails in its own ways first.
    flags = check_words(words, _parse_with_megatron)
    check_machine(flags, on_gpu)
    if not is_checked:
        checks.check_checkpoint(flags)
    # Once a node, so that all of a job's nodes end with the sentence.
    if flags.mlflow_experiment and (_is_last_rank() or os.environ.get("LOCAL_RANK", "0") == "0"):
        check_is_there(flags)
    read_gpt2_from_its_files()
    with refusals_as_sentences():
        args = parse_and_validate_args(
            extra_args_provider=add_arguments, args_defaults=defaults_of(flags)
        )
    args.recipe = recipe
    tokenizer = get_tokenizer()
    tokens = int(tokenizer.vocab_size)
    keep_vocabulary(args, flags.padded_vocab_size, tokens)
    remember_tokenizer(args, tokens, end_of_documents(tokenizer))
    # Again: Megatron's validation turns old spellings of flags into new ones.
    check_flags(args)
    name_sets(args)
    run = run_of(args)
    checks.check_after_validation(args, run, tokens)
    remember(args, run)
    return args, run


def _parse_with_megatron(words: Sequence[str]) -> argparse.Namespace:
    from megatron.training.arguments import parse_args

    from tst_megatron.methods.registry import add_arguments
    from tst_megatron.stock.refusals import refusals_as_sentences

    # Megatron parses sys.argv; so does every library it hands the command line on to.
    sys.argv[1:] = words
    with refusals_as_sentences():
        flags: argparse.Namespace = parse_args(add_arguments)
        return flags


def _questions(args: argparse.Namespace) -> Any:
    """What the model is asked while it trains; None where this rank asks nothing."""
    if not args.evaluate_at:
        return None
    from megatron.training import get_tokenizer

    from tst_megatron.trainer.run_evaluations import questions_of

    return questions_of(args, get_tokenizer())


def _say_what_it_will_do(args: argparse.Namespace, run: Any) -> None:
    from tst_megatron.trainer.opening import opening

    if args.rank == 0:
        print(*opening(args, run), sep="\n", flush=True)


def _config(args: argparse.Namespace, run: Any) -> Any:
    """Megatron's of the whole run, which asserts of flags what their validation does not."""
    from megatron.training.argument_utils import pretrain_cfg_container_from_args

    from tst_megatron.stock.refusals import refusals_as_sentences

    with refusals_as_sentences():
        return pretrain_cfg_container_from_args(args, model_config(args, run))


def _train(
    config: Any,
    args: argparse.Namespace,
    run: Any,
    started: float,
    clock: StepClock,
    questions: Any,
) -> None:
    from megatron.core.enums import ModelType
    from megatron.training import (
        get_tensorboard_writer,
        pretrain,
        set_startup_timestamps,
    )

    from tst_megatron.trainer import expert_optimizers, other_rates
    from tst_megatron.trainer.checkpoint_choice import is_converted
    from tst_megatron.trainer.datasets import DatasetsProvider
    from tst_megatron.trainer.forward_step import ForwardStep
    from tst_megatron.trainer.held_out_bytes import HeldOutBytes
    from tst_megatron.trainer.hooks import install_hooks
    from tst_megatron.trainer.mlflow_run import MlflowRun

    set_startup_timestamps(program_start=started, main_entry=time.time())
    provider = DatasetsProvider(run)
    forward_step = ForwardStep(run)
    forward_step.clock = clock
    forward_step.held_out = held_out = HeldOutBytes(args)
    expert_optimizers.install()
    # Outside of that, which looks for groups by their rates, too.
    other_rates.install(args)

    tracking = MlflowRun(args) if args.mlflow_experiment and _is_last_rank() else None
    listeners = (held_out,) if tracking is None else (tracking, held_out)
    install_hooks(args, run, provider, clock, started, questions, listeners)
    try:
        with nullcontext() if tracking is None else tracking.at_work():
            pretrain(
                config,
                provider,
                ModelType.encoder_or_decoder,
                forward_step,
                get_embedding_ranks=(
                    _get_embedding_ranks if args.hybrid_layer_pattern is None else None
                ),
            )
        # Megatron flushes before its last evaluation, which would be lost with the writer's thread.
        if (writer := get_tensorboard_writer()) is not None:
            writer.flush()
    except SystemExit as stop:
        if stop.code is None and is_converted(args):
            sys.exit(0)
        raise


def model_config(args: argparse.Namespace, run: Any) -> Any:
    """The stock model's configuration, as the run's methods change it."""
    from megatron.training.argument_utils import gpt_config_from_args, hybrid_config_from_args

    hybrid = args.hybrid_layer_pattern is not None
    from_args = hybrid_config_from_args if hybrid else gpt_config_from_args
    return run.configure_model(from_args(args))


def _get_embedding_ranks(pp_ranks: list[int]) -> list[int]:
    """Pipeline ranks that hold word embeddings (as Megatron's ``pretrain_gpt.py``)."""
    from megatron.core.transformer.multi_token_prediction import get_mtp_ranks
    from megatron.training import get_args
    from megatron.training.arguments import core_transformer_config_from_args

    args = get_args()
    ranks = {pp_ranks[0]}
    if len(pp_ranks) > 1:
        if not args.untie_embeddings_and_output_weights:
            ranks.add(pp_ranks[-1])
        ranks.update(get_mtp_ranks(pp_ranks, core_transformer_config_from_args(args)))
    return sorted(ranks)
