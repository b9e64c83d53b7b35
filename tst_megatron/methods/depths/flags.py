"""The ``--mod-*`` flags, and what is wrong with them by themselves."""

import argparse
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.number_list import numbers_in

SAMPLINGS = ("predictor", "auxiliary", "threshold")
CHOICES = ("router", "random")
DEFAULT_EVERY = (
    2  # Every other block: routing all of them is worse (arXiv 2404.02258, 3.4 and 4.1).
)
_DEFAULT_COEFFICIENT = 0.01  # The paper has none; public implementations neither.
_DEFAULT_DECAY = 0.99
_DEFAULTS = {
    "mod_every": None,
    "mod_layers": None,
    "mod_sampling": "predictor",
    "mod_choice": "router",
    "mod_loss_coefficient": _DEFAULT_COEFFICIENT,
    "mod_threshold_decay": _DEFAULT_DECAY,
    "mod_warmup_steps": 0,
    "mod_parts": None,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the ``--mod-*`` group to a parser, Megatron's or a smaller one."""
    group = parser.add_argument_group(
        "mixture of depths",
        "Let blocks work on the tokens that their routers pick; the rest pass by "
        "(arXiv 2404.02258).",
    )
    group.add_argument(
        "--mod-capacity",
        metavar="C",
        help="share of the tokens that a routed block works on, such as 0.125, or one a routed "
        "block with commas between; without this flag every token takes every block",
    )
    group.add_argument(
        "--mod-every",
        type=int,
        metavar="N",
        help=f"route blocks N, 2N, 3N and so on (default {DEFAULT_EVERY})",
    )
    group.add_argument(
        "--mod-layers",
        metavar="LIST",
        help="route these blocks in place of every Nth, numbered from 1, such as 2,4,8-12",
    )
    group.add_argument(
        "--mod-sampling",
        choices=SAMPLINGS,
        default=_DEFAULTS["mod_sampling"],
        help="how a token is let in without a look at those after it, in validation, generation "
        "and exports: by a predictor of the router's choice, which the model does not feel "
        "(default); by the sign of the router's score, which an auxiliary loss trains; or by the "
        "average score of the last one chosen, in training too",
    )
    group.add_argument(
        "--mod-loss-coefficient",
        type=float,
        default=_DEFAULT_COEFFICIENT,
        metavar="X",
        help=f"weight of the predictor's or the auxiliary loss (default {_DEFAULT_COEFFICIENT:g})",
    )
    group.add_argument(
        "--mod-threshold-decay",
        type=float,
        default=_DEFAULT_DECAY,
        metavar="X",
        help="of the average in --mod-sampling threshold, a step; the first 1 / (1 - X) steps take "
        f"the highest scores (default {_DEFAULT_DECAY:g})",
    )
    group.add_argument(
        "--mod-warmup-steps",
        type=int,
        default=0,
        metavar="STEPS",
        help="begin with all tokens in every block and halve the share in equal stages of so many "
        "steps together, from where the model has routers (default 0)",
    )
    group.add_argument(
        "--mod-parts",
        type=int,
        metavar="N",
        help="choose the same number of tokens in each of N equal parts of a sequence; the default "
        "is the fewest that the layout can: 1, or as many as sequence and context parallelism cut "
        "it into. The same N is the same model in every layout",
    )
    group.add_argument(
        "--mod-choice",
        choices=CHOICES,
        default="router",
        help="random: let chance pick the tokens, as a control (default router)",
    )


def is_on(args: argparse.Namespace) -> bool:
    """With ``--mod-capacity``."""
    return getattr(args, "mod_capacity", None) is not None


def check(args: argparse.Namespace) -> None:
    """Check the flags by themselves.

    Raises:
        UserError: a value is out of range, or flags contradict one another.
    """
    if not is_on(args):
        for name, value in _DEFAULTS.items():
            if getattr(args, name) != value:
                flag = _spelled(name)
                raise UserError(f"{flag} without --mod-capacity: say the share of the tokens")
        return
    capacities(args.mod_capacity)
    if args.mod_every is not None and args.mod_layers is not None:
        raise UserError("--mod-every and --mod-layers both say which blocks: give one of them")
    for name, least in (("mod_every", 1), ("mod_parts", 1), ("mod_warmup_steps", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"{_spelled(name)} {value} is too few: give {least} or more")
    if args.mod_layers is not None:
        layers(args.mod_layers)
    if not 0 <= args.mod_loss_coefficient < float("inf"):
        raise UserError(
            f"--mod-loss-coefficient {args.mod_loss_coefficient:g} is no weight: give 0 or more"
        )
    if not 0 <= args.mod_threshold_decay < 1:
        raise UserError(
            f"--mod-threshold-decay {args.mod_threshold_decay:g} is no share: give one from 0 to "
            "below 1"
        )
    _check_used(args)


def _check_used(args: argparse.Namespace) -> None:
    """Check that no flag is given that does nothing beside the others."""
    used_by: dict[str, tuple[str, ...]] = {
        "mod_threshold_decay": ("threshold",),
        "mod_loss_coefficient": ("predictor", "auxiliary"),
    }
    for name, samplings in used_by.items():
        if getattr(args, name) != _DEFAULTS[name] and args.mod_sampling not in samplings:
            raise UserError(
                f"{_spelled(name)} does nothing beside --mod-sampling {args.mod_sampling}: leave "
                "one of them out"
            )
    if args.mod_choice == "random" and args.mod_sampling != _DEFAULTS["mod_sampling"]:
        raise UserError(
            f"--mod-sampling {args.mod_sampling} beside --mod-choice random: chance needs no rule, "
            "so leave one of them out"
        )


def capacities(text: str) -> tuple[float, ...]:
    """The shares that ``--mod-capacity`` names.

    Raises:
        UserError: one is none.
    """
    found = []
    for word in text.split(","):
        try:
            share = float(word)
        except ValueError:
            share = float("nan")
        if not 0 < share <= 1:
            raise UserError(
                f"--mod-capacity {text}: {word or 'nothing'} is no share of the tokens: give one "
                "above 0 and up to 1"
            )
        found.append(share)
    return tuple(found)


def layers(text: str) -> tuple[int, ...]:
    """The blocks that ``--mod-layers`` names, from 1, in order.

    Raises:
        UserError: it is no list of them.
    """
    write = "numbers from 1 and ranges, such as 2,4,8-12"
    return numbers_in("--mod-layers", text, "blocks", write, 1, one="block ")


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def routed(args: Any) -> dict[int, float]:
    """The routed blocks and their capacities, by their number from 1.

    Args:
        args: checked flags, with Megatron's number of layers.

    Raises:
        UserError: the model has no such block, or there are more or fewer capacities.
    """
    number = int(args.num_layers)
    if args.mod_layers is not None:
        blocks = layers(args.mod_layers)
        if blocks[-1] > number:
            raise UserError(
                f"--mod-layers {args.mod_layers} names block {blocks[-1]} of a model with "
                f"{number}: leave it out"
            )
    else:
        every = args.mod_every or DEFAULT_EVERY
        blocks = tuple(range(every, number + 1, every))
        if not blocks:
            raise UserError(
                f"--mod-every {every} routes no block of a model with {number}: give {number} or "
                "fewer"
            )
    shares = capacities(args.mod_capacity)
    if len(shares) == 1:
        shares *= len(blocks)
    if len(shares) != len(blocks):
        raise UserError(
            f"--mod-capacity {args.mod_capacity} has {len(shares)} shares and {len(blocks)} blocks "
            "are routed: give one, or one a block"
        )
    return dict(zip(blocks, shares, strict=True))
