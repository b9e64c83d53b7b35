"""Growth in depth as a method; what needs torch or Megatron is imported when asked for."""

import argparse

from tst_megatron.errors import UserError
from tst_megatron.methods.growth import flags
from tst_megatron.methods.growth.run import GrownRun
from tst_megatron.methods.growth.story import GrowthStory
from tst_megatron.methods.growth.terms import GrowthTerms
from tst_megatron.methods.method import Method, Run

_ALONE = (
    *("finetune", "pretrained_checkpoint", "use_checkpoint_args", "ckpt_convert_format"),
    *("use_megatron_fsdp", "use_torch_fsdp2"),
)
"""Flags that have a checkpoint read in another way, or begin anew."""


class GrowthMethod(Method):
    """A small model's layers, repeated, and training goes on (arXiv 2405.15319 and others)."""

    name = "growth"
    flag_prefix = "grow"
    starts_from_another = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The ``--grow`` group."""
        flags.add_arguments(parser)

    def check(self, args: argparse.Namespace) -> None:
        """As `flags.check`."""
        flags.check(args)

    def check_beside(self, args: argparse.Namespace) -> None:
        """Growth reads Megatron's own format, and goes on in the run that it reads."""
        if not self.is_on(args):
            return
        if args.no_load_optim:
            # Megatron would forget the learning rate's schedule with it.
            raise UserError("--grow with --no-load-optim: give --grow-optimizer new in its place")
        for flag in _ALONE:
            if getattr(args, flag, None):
                raise UserError(
                    f"--grow does not go with --{flag.replace('_', '-')}: leave one of them out"
                )
        if args.ckpt_format != "torch_dist":
            raise UserError(
                f"--grow reads checkpoints of --ckpt-format torch_dist alone, not "
                f"{args.ckpt_format}: convert the small one with --ckpt-convert-format"
            )

    def is_on(self, args: argparse.Namespace) -> bool:
        """With ``--grow``."""
        return args.grow is not None

    def run(self, args: argparse.Namespace) -> Run:
        """As `GrownRun`."""
        return GrownRun(args)

    def terms(self) -> GrowthTerms:
        """As `GrowthTerms`."""
        return GrowthTerms()

    def story(self) -> GrowthStory:
        """In layers."""
        return GrowthStory(self.name)


METHOD = GrowthMethod()
