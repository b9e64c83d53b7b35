"""``pretrain --dry-run``: all that is checked before a process group, the plan, and no training.

The one idea: what would refuse the run is asked in the order in which the run asks it, on a machine
that need not be the run's. A refusal does not end the questions: what can still be told is told,
and the refusals come last. Nothing is written.
"""

import argparse
import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tst_megatron.errors import UserError, exit_with
from tst_megatron.planner.hardware import GPUS, Gpu, gpu_named
from tst_megatron.recipes import named_recipe, read
from tst_megatron.stock.flags import DRY_RUN
from tst_megatron.trainer.command_line import check_words, words_of

_DEFAULT_GPU = "h100"
_MARK = "tst-megatron:"
_REFUSED_EXIT_CODE = 2


def main(argv: list[str]) -> None:
    """Say what the run would be and need, and what it would be refused for.

    Args:
        argv: the command line of ``pretrain``. Of several ranks the first one speaks.

    Raises:
        UserError: ``--dry-run`` names no GPUs, or there is no such recipe.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    words = words_of(argv)
    num_gpus, gpu = _machine(argv, words)
    # As a launcher would have it, whatever this process was started by.
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(num_gpus)}
    # Before Megatron, which looks for a GPU as it is imported; also where there is one.
    from tst_megatron.trainer.cpu import gpu_packages
    from tst_megatron.trainer.cpu import patches as cpu

    # What is asked are Megatron's own modules; kernels of a GPU would only take time to import.
    gpu_packages.hide()
    cpu.install()
    refusals: list[UserError] = []
    print(f"{_MARK} a dry run on {num_gpus} x {gpu.name}: nothing is trained or written")
    with _kept(refusals):
        _check_first(words)
    with _kept(refusals):
        _check_run(words, num_gpus, gpu)
    with _kept(refusals):
        _plan(words, num_gpus, gpu, refusals)
    if refusals:
        for refusal in refusals:
            print(f"{_MARK} would be refused: {refusal}", flush=True)
        exit_with("error: the run would not begin, for what is said above", _REFUSED_EXIT_CODE)
    print(f"{_MARK} nothing that is asked before training would refuse the run", flush=True)


@contextmanager
def _kept(refusals: list[UserError]) -> Iterator[None]:
    """Keep a refusal, once; the same is met in several places."""
    try:
        yield
    except UserError as refusal:
        if str(refusal) not in map(str, refusals):
            refusals.append(refusal)


def _machine(argv: Sequence[str], words: Sequence[str]) -> tuple[int, Gpu]:
    """GPUs and their kind: those that ``--dry-run`` names, the recipe's, or the launcher's.

    Raises:
        UserError: they are none.
    """
    asked = _value(words)
    name, _ = named_recipe(list(argv))
    machine = None if name is None else read(name).machine
    number, kind = machine or (None, _DEFAULT_GPU)
    if asked:
        text, by, named = asked.partition("x")
        if not text.isdecimal() or not int(text) or (by and named not in GPUS):
            raise UserError(
                f"{DRY_RUN} {asked} names no GPUs: write how many there are, such as 64, or "
                f"64xh100 (of {', '.join(GPUS)})"
            )
        number, kind = int(text), named or kind
    elif "WORLD_SIZE" in os.environ:
        number = int(os.environ["WORLD_SIZE"])
    if kind not in GPUS:
        raise UserError(f"a {kind} is no GPU: give {DRY_RUN} 8xh100, or another number and kind")
    gpu = gpu_named(kind)
    return number or gpu.gpus_per_node, gpu


def _value(words: Sequence[str]) -> str:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(DRY_RUN, nargs="?", const="", default="")
    given, _ = parser.parse_known_args(list(words))
    return str(given.dry_run)


def _check_first(words: Sequence[str]) -> None:
    """Flags, files and the checkpoint, as before Megatron's validation.

    Raises:
        UserError: the run would be refused.
    """
    from tst_megatron.planner.flags import read_as_run
    from tst_megatron.trainer.checks import check_checkpoint

    check_checkpoint(check_words(words, read_as_run))


def _check_run(words: Sequence[str], num_gpus: int, gpu: Gpu) -> None:
    """What the run's methods, its data and its checkpoint are held against; then it is told.

    Raises:
        UserError: the run would be refused.
    """
    from megatron.training.argument_utils import pretrain_cfg_container_from_args

    from tst_megatron.methods.registry import check_flags, run_of
    from tst_megatron.planner.fake_ranks import without_gpu
    from tst_megatron.planner.flags import quiet, read_as_run, run_args, tokenizer_of
    from tst_megatron.stock.refusals import refusals_as_sentences
    from tst_megatron.trainer.checkpoint_choice import has_ended
    from tst_megatron.trainer.checks import check_after_validation
    from tst_megatron.trainer.memory import keep_vocabulary
    from tst_megatron.trainer.opening import opening
    from tst_megatron.trainer.pretrain import model_config
    from tst_megatron.trainer.run_evaluations import questions_of
    from tst_megatron.trainer.same_tokenizer import remember_tokenizer

    flags = check_words(words, read_as_run)
    with run_args(flags, num_gpus, gpu) as args:
        args.recipe = None
        keep_vocabulary(args, flags.padded_vocab_size, args.num_tokens)
        remember_tokenizer(args, args.num_tokens, end=None)
        check_flags(args)
        run = run_of(args)
        check_after_validation(args, run, args.num_tokens)
        with quiet(), refusals_as_sentences():
            anywhere = without_gpu(args)
            pretrain_cfg_container_from_args(anywhere, model_config(anywhere, run))
        if args.evaluate_at and (questions := questions_of(args, tokenizer_of(args))) is not None:
            questions.asked.close()
        if has_ended(args):
            print(f"{_MARK} step {args.exit_after_step} is in {args.save}: there is nothing to do")
        print(*opening(args, run), sep="\n")


def _plan(words: Sequence[str], num_gpus: int, gpu: Gpu, refusals: Sequence[UserError]) -> None:
    """Memory and hours; of a run that is not counted, why, unless that has refused it.

    Raises:
        UserError: it does not fit.
    """
    from tst_megatron.planner import as_text
    from tst_megatron.planner.plan import make_plan

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            plan = make_plan(words, num_gpus, gpu)
    except UserError as error:
        if str(error) not in map(str, refusals):
            print(f"{_MARK} no plan: {error}")
        return
    print(f"{_MARK} {as_text.verdict(plan)}")
    print(
        f"{_MARK} {plan.work.total:.4g} FLOPs, about {plan.gpu_hours:,.3g} GPU hours at "
        f"{plan.assumptions.mfu:.0%} of the peak; tst-megatron plan has the rest"
    )
    if not plan.fits:
        raise UserError(as_text.does_not_fit(plan))
