"""``tst-megatron checkpoint upcycle``: a checkpoint with experts, made of a dense model's."""

import argparse
import copy
from pathlib import Path
from typing import Any

from rich.console import Console

from tst_megatron.errors import UserError
from tst_megatron.methods.another_model import check_on_disk
from tst_megatron.methods.upcycling.experts import OF_EXPERTS, Upcycling
from tst_megatron.methods.upcycling.flags import add_details, check_details

EXAMPLES = """\
examples:
  tst-megatron checkpoint upcycle runs/dense runs/experts --num-experts 8 --moe-router-topk 2
  tst-megatron checkpoint upcycle runs/dense runs/experts --num-experts 64 --moe-router-topk 8 \\
      --moe-ffn-hidden-size 1024 --upcycle-drop 0.5 --step 20000
  tst-megatron checkpoint upcycle runs/8-experts runs/16-experts --num-experts 16

--load OUT with the flags that the command prints then goes on from it, in stock Megatron too.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "dense", type=Path, metavar="IN", help="a run's --save folder, or a step in it"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder, to --load")
    group = parser.add_argument_group("experts", "as Megatron's flags of these names")
    group.add_argument("--num-experts", type=int, required=True, metavar="N")
    group.add_argument(
        "--moe-ffn-hidden-size", type=int, metavar="F", help="units of one (default: the MLP's)"
    )
    group.add_argument("--moe-router-topk", type=int, metavar="K", help="experts a token")
    group.add_argument("--moe-layer-freq", metavar="WHERE", help="such as 2 or [0,1,1,1]")
    group.add_argument("--hybrid-layer-pattern", metavar="PATTERN", help="E for layers of experts")
    group.add_argument("--moe-router-pre-softmax", action="store_true")
    group.add_argument(
        "--moe-router-score-function", choices=("softmax", "sigmoid", "sqrtsoftplus")
    )
    group.add_argument("--moe-router-topk-scaling-factor", type=float, metavar="F")
    group.add_argument("--moe-router-enable-expert-bias", action="store_true")
    group.add_argument("--moe-shared-expert-intermediate-size", type=int, metavar="F")
    how = parser.add_argument_group("upcycling")
    add_details(how)
    parser.add_argument(
        "--seed", type=int, help="of what is drawn (default: the first model's own --seed)"
    )
    parser.add_argument("--step", type=int, metavar="N", help="default: the tracker's")


def main(args: argparse.Namespace) -> None:
    """Write the checkpoint with experts, and say what it took.

    Raises:
        UserError: it cannot be made so, or the folder cannot be written.
    """
    from tst_megatron.checkpoints.derived import check_is_free, write
    from tst_megatron.checkpoints.saved import Saved
    from tst_megatron.checkpoints.steps import step_folder
    from tst_megatron.corpora.byte_progress import ByteProgress
    from tst_megatron.methods.upcycling.plan import plan_of

    check_details(args)
    check_is_free(args.out)
    saved = Saved(step_folder(args.dense, args.step))
    check_on_disk(saved.args, args.dense, "--upcycle-from")
    model = model_args(saved.args, args)
    plan = plan_of(saved, model, Upcycling.of(args))
    with ByteProgress(Console(stderr=True), "written", plan.new_bytes) as progress:
        written = write(plan, args.out, progress.update)
    parts = [f"{written.linked:,} bytes linked", f"{written.new:,} new"]
    if written.copied:
        parts.insert(1, f"{written.copied:,} copied")
    flags = [*flags_of(model), *plan.extra_flags]
    is_exact = plan.common["args"].methods["upcycling"]["facts"]["is_exact"]
    function = "the function is the first model's" if is_exact else "the function is another"
    print(
        f"{args.out}: step {plan.step:,}, {args.num_experts} experts, {function}, "
        f"{', '.join(parts)}; load it with {' '.join(flags)}"
    )


def model_args(saved: Any, given: argparse.Namespace) -> Any:
    """Arguments of the model with experts: the first model's, and what the command is given.

    Raises:
        UserError: ``--moe-layer-freq`` is none.
    """
    model = copy.copy(saved)
    for name in OF_EXPERTS:
        if not hasattr(model, name):
            setattr(model, name, None)
        value = getattr(given, name)
        if value not in (None, False):
            setattr(model, name, value)
    if not model.moe_ffn_hidden_size:
        model.moe_ffn_hidden_size = saved.ffn_hidden_size
    model.moe_router_topk = model.moe_router_topk or 2
    model.moe_router_score_function = model.moe_router_score_function or "softmax"
    model.moe_layer_freq = _layer_freq(model.moe_layer_freq, int(saved.num_layers))
    return model


def _layer_freq(given: Any, layers: int) -> int | list[int]:
    """As Megatron's ``moe_freq_type`` reads it, without running it: a number, or a list."""
    if given is None:
        return 1
    if not isinstance(given, str):
        return list(given) if isinstance(given, list | tuple) else int(given)
    words = given.strip().strip("()").strip().removeprefix("[").removesuffix("]").split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise UserError(
            f"--moe-layer-freq {given} is neither a number nor a list such as [0,1,1,1]: write one"
        )
    numbers = [int(word) for word in words]
    if "[" not in given and len(numbers) == 1:
        if not numbers[0]:
            raise UserError("--moe-layer-freq 0 has no layer with experts: give 1 for all")
        return numbers[0]
    if len(numbers) != layers or any(number > 1 for number in numbers):
        raise UserError(
            f"--moe-layer-freq {given} is no list of {layers} numbers, 1 for a layer with experts "
            "and 0 for one without: write one a layer"
        )
    return numbers


def flags_of(model: Any) -> list[str]:
    """The flags of its experts that the new checkpoint needs."""
    flags = []
    for name in OF_EXPERTS:
        value = getattr(model, name, None)
        if value in (None, False, 0) or (name, value) == ("moe_layer_freq", 1):
            continue
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        else:
            quoted = f"'{value}'" if isinstance(value, list) or "pattern" in name else value
            flags.append(f"{flag} {quoted}".replace(", ", ","))
    return flags
