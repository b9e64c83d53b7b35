"""How much text every cell reads, and whether the corpus has it: as `index budget` counts it."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from tst_megatron.corpora.blend import expand_blend, is_remote
from tst_megatron.corpora.budget import Budget, check_files, check_no_empty_stage
from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.errors import UserError
from tst_megatron.recipes import expand_recipe
from tst_megatron.sweep.grid import BASELINE, Config, Grid
from tst_megatron.sweep.settings import SweepSettings
from tst_megatron.trainer.commands import index_budget
from tst_megatron.trainer.reading import check_validation, reading_from_args


@dataclass(frozen=True)
class Text:
    """What a run reads.

    Attributes:
        data_tokens: in all its steps.
        epochs: how often its most-read stage reads its documents; None of text elsewhere.
        repeats: whether that is more often than its source allows.
    """

    data_tokens: int
    epochs: float | None
    repeats: bool


def text_of_grid(settings: SweepSettings, grid: Grid) -> dict[Config, Text]:
    """What every cell reads, the baseline first; seeds read as much as one another.

    Raises:
        UserError: the data flags are wrong, the corpus is missing, or a cell would repeat text and
            ``--allow-repeats`` is not given.
    """
    found = {}
    for config in (BASELINE, *grid.configs):
        args = _parsed(settings.flags(config, grid.seeds[0]))
        check_files([prefix for prefix in all_prefixes(args) if not is_remote(prefix)])
        check_validation(args)
        found[config] = _text(args)
    repeating = [c for c, text in found.items() if text.repeats and not c.is_baseline]
    if repeating and not settings.values.get("allow-repeats"):
        most = max(repeating, key=lambda c: found[c].epochs or 0.0)
        raise UserError(
            f"{len(repeating)} of the {len(grid.configs)} cells would read text twice (most of all "
            f"{most}, {found[most].epochs:.2f} times): lower --train-iters or the grid's largest "
            "values, take a larger corpus, or add --allow-repeats"
        )
    return found


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tst-megatron sweep", allow_abbrev=False)
    index_budget.add_arguments(parser)
    return parser.parse_known_args(expand_blend(expand_recipe(list(words))))[0]


def _text(args: argparse.Namespace) -> Text:
    reading = reading_from_args(args)
    data_tokens = sum(part.data_tokens for part in reading.parts(reading.train_iters))
    if any(source.is_remote for source in reading.sources):
        return Text(data_tokens, None, False)
    budget = Budget(reading)
    check_no_empty_stage(budget.stages)
    return Text(data_tokens, max(stage.epochs for stage in budget.stages), not budget.is_met)
