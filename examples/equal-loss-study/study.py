"""The study of equal loss at the demo's scale: real runs, several seeds, one command.

    python examples/equal-loss-study/study.py --out runs/equal-loss-study

It trains the cells below, two side by side, in an order in which what is done first can be
compared first, and then writes reports: of the dense runs, of the longer ones, of those with
experts. It can be cut off at any point: the same command goes on. A cell whose compressed ledger
lies in ``--ledgers`` is not trained again; ``--report`` trains nothing.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tst_megatron import recipes
from tst_megatron.analysis.compare.compare import compare_paths
from tst_megatron.analysis.compare.output.folder import write_folder
from tst_megatron.analysis.compare.result import Prices
from tst_megatron.corpora import small_corpora
from tst_megatron.errors import INTERRUPTED_EXIT_CODE, UserError, user_errors_exit
from tst_megatron.experiments.cells import Cell, Places, train_cells
from tst_megatron.experiments.kept import Kept
from tst_megatron.experiments.launch import end_on_signals
from tst_megatron.experiments.text import PreparedText
from tst_megatron.experiments.words import of_length

# The text of the standard library is 21.5 M tokens at this vocabulary, so that bags of 8 for a
# quarter of these steps (19.7 M) read nothing twice; at 512, the demo's, they would.
VOCAB_SIZE = 384
STEPS = 14_000
LONG_STEPS = 21_000
LONGEST_STEPS = 31_500
# The one length that reads text twice: all there is makes 41,000 steps without bags.
FURTHEST_STEPS = 63_000
MOE_STEPS = 7_000
# The recipe's, when the study was made. It suits bags, and not the baseline.
LEARNING_RATE = 2e-3
_WARMUP = 200
_STEPS_A_VALIDATION = 350
_CHECKPOINTS = 10
SEEDS = (1, 2, 3)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Variant:
    """What sets cells apart but for their seeds."""

    name: str
    flags: tuple[str, ...] = ()
    recipe: str = "tiny"
    steps: int = STEPS


def _bags(size: int, share: float, *more: str) -> tuple[str, ...]:
    return (f"--tst-bag-size={size}", f"--tst-step-ratio={share}", *more)


BASELINE = Variant("baseline")
LONG = Variant("baseline-long", steps=LONG_STEPS)
LONGEST = Variant("baseline-longest", steps=LONGEST_STEPS)
FURTHEST = Variant("baseline-furthest", steps=FURTHEST_STEPS)
S2_LONG = Variant("s2-r0.25-long", _bags(2, 0.25), steps=LONG_STEPS)
S2, S4, S8 = (Variant(f"s{size}-r0.25", _bags(size, 0.25)) for size in (2, 4, 8))
S4_SHORT, S4_LONG = (Variant(f"s4-r{share}", _bags(4, share)) for share in (0.15, 0.35))
S4_AUTO = Variant("s4-auto", ("--tst-schedule=auto:4",))
MOE, MOE_S4 = (
    Variant("moe-baseline", recipe="tiny-moe-baseline", steps=MOE_STEPS),
    Variant("moe-s4-r0.25", _bags(4, 0.25), recipe="tiny-moe-baseline", steps=MOE_STEPS),
)
ONCE = (
    Variant("s4-r0.25-output", _bags(4, 0.25, "--tst-superpose=output")),
    # A share at which bags of 16 read no text twice.
    Variant("s16-r0.12-uniform", _bags(16, 0.12)),
    Variant("s16-r0.12-power", _bags(16, 0.12, "--tst-bag-weights=power")),
    Variant("s8-then-s2", ("--tst-schedule=8:0.15,2:0.15",)),
)


def cells_in_order() -> list[tuple[Variant, int]]:
    """Every variant and seed; a baseline beside each of its rivals, so that they share weather."""
    order = [(variant, seed) for seed in SEEDS for variant in (BASELINE, S2)]
    order += [(variant, seed) for seed in SEEDS for variant in (LONG, S2_LONG)]
    order += [(LONGEST, SEEDS[0])]
    order += [(FURTHEST, seed) for seed in SEEDS]
    order += [(variant, seed) for seed in SEEDS for variant in (S4, S8)]
    order += [(variant, seed) for seed in SEEDS for variant in (S4_SHORT, S4_LONG)]
    order += [(S4_AUTO, seed) for seed in SEEDS]
    order += [(variant, SEEDS[0]) for variant in ONCE]
    order += [(variant, seed) for seed in SEEDS for variant in (MOE, MOE_S4)]
    return order


def cell_of(root: Path, variant: Variant, seed: int) -> Cell:
    """A variant with a seed, as a run."""
    flags = (
        *recipes.flags(recipes.load(variant.recipe)),
        *PreparedText(root / "data").flags,
        *of_length(variant.steps, _WARMUP, _STEPS_A_VALIDATION, _CHECKPOINTS),
        f"--lr={LEARNING_RATE}",
        f"--seed={seed}",
        *variant.flags,
    )
    return Cell(f"{variant.name}-seed{seed}", flags, variant.steps)


def check_ledgers(ledgers: Kept) -> None:
    """Refuse to report on what is not there: a slip in the folder's name.

    Raises:
        UserError: there is no folder, or no ledger of a cell in it.
    """
    folder = ledgers.folder
    if not folder.is_dir():
        raise UserError(f"--ledgers {folder} is no folder: --report needs one with ledgers in it")
    names = [f"{variant.name}-seed{seed}" for variant, seed in cells_in_order()]
    if not any(map(ledgers.has, names)):
        raise UserError(
            f"--ledgers {folder} holds no ledger of the study, such as "
            f"{ledgers.path(names[0]).name}: train without --report, or give the folder that keeps "
            "them"
        )


def write_reports(out: Path, ledgers: Kept, console: Console) -> int:
    """A folder for each question of which a baseline and a rival have ended; how many."""
    order = cells_in_order()
    written = 0
    lengths = {BASELINE, LONG, LONGEST, FURTHEST}
    dense = {variant for variant, _ in order if variant.recipe == BASELINE.recipe}
    for name, baseline, candidates in (
        # All lengths of the baseline: whole runs, each with a decay of its own.
        ("dense", lengths, dense - lengths - {S2_LONG}),
        ("long", lengths, {S2_LONG}),
        ("moe", {MOE}, {MOE_S4}),
    ):
        sides = [
            [
                ledgers.path(cell)
                for variant, seed in order
                if variant in side and ledgers.has(cell := f"{variant.name}-seed{seed}")
            ]
            for side in (baseline, candidates)
        ]
        if all(sides):
            write_folder(out / name, compare_paths(*sides, CONFIDENCE, False, Prices()))
            console.print(f"Report: {out / name / 'report.html'}", highlight=False)
            written += 1
    return written


def main() -> int:
    """Train what is not trained yet, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/equal-loss-study"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, a core each (2)")
    parser.add_argument("--ledgers", type=Path, help="compressed ledgers (default OUT/ledgers)")
    parser.add_argument("--report", action="store_true", help="report on what is done")
    args = parser.parse_args()
    end_on_signals()
    console = Console()
    root = args.out.resolve()
    ledgers = Kept((args.ledgers or root / "ledgers").resolve())
    if args.report:
        check_ledgers(ledgers)
        if not write_reports(root, ledgers, console):
            raise UserError(f"--ledgers {ledgers.folder} holds no baseline with a rival of it yet")
        return 0
    ledgers.make()
    PreparedText(root / "data").make(small_corpora.bundled_files(), VOCAB_SIZE, console)
    cells = [cell_of(root, variant, seed) for variant, seed in cells_in_order()]
    ledgers.take_finished(root, cells)
    waiting = [cell for cell in cells if not ledgers.has(cell.name)]
    finished = train_cells(
        root, waiting, Places(args.jobs), console, lambda cell: ledgers.take(root, cell)
    )
    write_reports(root, ledgers, console)
    return 0 if finished else INTERRUPTED_EXIT_CODE


if __name__ == "__main__":
    with user_errors_exit():
        sys.exit(main())
