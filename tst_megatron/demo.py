"""The method on a laptop: a baseline and a TST run on a CPU, side by side, and their report.

The steps the demo takes: read a corpus, train a tokenizer, index the corpus, fit the number of
steps to the text, train both runs as a cluster would, compare them, let both write. Each leaves its
files in the output folder, and a step whose files are there is not taken again; so the same command
goes on where it was cut off.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from tst_megatron import recipes
from tst_megatron.analysis.compare.compare import compare_so_far
from tst_megatron.analysis.compare.output.as_json import text_so_far
from tst_megatron.analysis.compare.output.as_text import print_findings
from tst_megatron.analysis.compare.output.folder import write_page
from tst_megatron.analysis.compare.result import Findings
from tst_megatron.analysis.compare.stories import vocabulary
from tst_megatron.corpora import small_corpora
from tst_megatron.errors import INTERRUPTED_EXIT_CODE, UserError
from tst_megatron.experiments.begin import begin
from tst_megatron.experiments.cells import Cell, Places, checkpoints_of, train_cells
from tst_megatron.experiments.launch import end_on_signals
from tst_megatron.experiments.text import PreparedText
from tst_megatron.experiments.words import of_length, parted
from tst_megatron.files import write_whole
from tst_megatron.methods.registry import check_own_flags
from tst_megatron.recipes.keys import read_words
from tst_megatron.runs.ledger import Ledger, LedgerError, read_ledger
from tst_megatron.runs.run import run_of_ledger
from tst_megatron.stock.megatron_flags import NotKnownError

EXAMPLES = """\
examples:
  tst-megatron demo                              both runs and the report, in runs/demo
  tst-megatron demo --quick --out runs/quick     a first look
  tst-megatron demo --corpus notes/ --steps 4000 --tst-bag-size 4 --tst-step-ratio 0.25
  tst-megatron demo --out runs/seed-2 --seed 2   any flag of Megatron's goes to both runs
"""

# The setting that gained most in the study (docs/studies/equal-loss), where no text is read twice.
BASELINE, TST = "tiny-baseline", "tiny-tst"
QUICK_STEPS = 1_200
VOCAB_SIZE = 384
_WARMUP_SHARE = 0.05
_MAX_WARMUP = 200
_STEPS_A_VALIDATION = 500
_FEWEST_VALIDATIONS = 10
_CHECKPOINTS = 8
_FEWEST_STEPS = 100
_CONFIDENCE = 0.95
# Of Python's source text: what may follow is a name, and more.
_PROMPT = "    def "
_WRITING = ("--max-new-tokens=64", "--temperature=0.7", "--seed=0", "--device=cpu")
_QUICK_NOTE = (
    "This was a quick look: so short a run favours the baseline, since the recovery from the "
    "phase switch takes thousands of steps."
)


@dataclass(frozen=True)
class Settings:
    """What makes two calls of the demo the same.

    Attributes:
        corpus: path of the user's corpus; None for the standard library's text.
        steps: of each run; None for as many as the default and the text allow.
        vocab_size: pieces of the tokenizer.
        tst_flags: the TST run's own flags.
        shared_flags: Megatron's flags for both runs.
    """

    corpus: str | None
    steps: int | None
    vocab_size: int
    tst_flags: tuple[str, ...]
    shared_flags: tuple[str, ...]


@dataclass(frozen=True)
class Folder:
    """Where everything of a demo lies."""

    root: Path

    @property
    def settings(self) -> Path:
        """What the folder was begun with."""
        return self.root / "demo.json"

    @property
    def text(self) -> PreparedText:
        """Tokenizer and index."""
        return PreparedText(self.root / "data")

    def ledger(self, run: str) -> Path:
        """A run's ledger."""
        return self.root / run / "ledger.jsonl"


RUNS = ("baseline", "tst")


def run_demo(out: Path, settings: Settings, console: Console) -> int:
    """Take every step that is not done yet.

    Args:
        out: the output folder.
        settings: as given by the user.
        console: where progress and results go.

    Returns:
        The exit code: 0, or 130 after Ctrl-C, with a report of what there is.

    Raises:
        UserError: the corpus, a flag or the folder cannot be used, or a run failed.
    """
    folder = Folder(out)
    _begin(folder, settings)
    _prepare_data(folder, settings, console)
    steps = _steps_to_train(folder, settings, console)
    console.print(
        f"Training a baseline and a TST run of {steps:,} steps each, a CPU core each. Ctrl-C "
        "leaves a report of what was done; the same command goes on from there.",
        highlight=False,
    )
    # Side by side, so that what disturbs the machine disturbs both.
    cells = [Cell(run, _flags(folder, settings, run, steps), steps) for run in RUNS]
    finished = train_cells(folder.root, cells, Places(len(cells)), console)
    print_findings(console, _report(folder, steps))
    console.print(f"Report: {out / 'report.html'}   chart: {out / 'loss.png'}", highlight=False)
    if finished:
        _let_them_write(folder, settings, console, cells)
    return 0 if finished else INTERRUPTED_EXIT_CODE


def _let_them_write(
    folder: Folder, settings: Settings, console: Console, cells: Sequence[Cell]
) -> None:
    """Show a line of text of either model, and the command that takes it elsewhere."""
    prompt = _PROMPT if settings.corpus is None else ""
    saved = {cell.name: checkpoints_of(folder.root, cell) for cell in cells}
    for run, checkpoints in saved.items():
        words = ["generate", str(checkpoints), f"--prompt={prompt}", *_WRITING]
        done = subprocess.run(
            [sys.executable, "-m", "tst_megatron", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        said = (done.stderr if done.returncode else done.stdout).strip()
        line = said.splitlines()[-1] if done.returncode and said else repr(said)
        console.print(f"The {run} run's model writes: {line}", markup=False, highlight=False)
    console.print(
        f"To take it elsewhere: tst-megatron export {saved['tst']} --output my-model",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def usual_steps() -> int:
    """Of each run, where the text is enough."""
    return int(recipes.load(BASELINE)["train-iters"])


def usual_tst_flags() -> tuple[str, ...]:
    """What the TST run's recipe adds to the baseline's."""
    baseline = recipes.load(BASELINE)
    return tuple(
        f"--{name}={value}"
        for name, value in recipes.load(TST).items()
        if baseline.get(name) != value
    )


def _begin(folder: Folder, settings: Settings) -> None:
    """Take the folder, or go on in it if it was begun with the same settings."""

    def may_start_over() -> bool:
        """Nothing is trained yet: a first call with a slip must not need another folder."""
        if any(folder.ledger(run).exists() for run in RUNS):
            return False
        shutil.rmtree(folder.text.folder, ignore_errors=True)
        return True

    begin(folder.settings, "demo", asdict(settings), "as by default", may_start_over)


def _prepare_data(folder: Folder, settings: Settings, console: Console) -> None:
    if settings.corpus is None:
        files = small_corpora.bundled_files()
    else:
        files = small_corpora.corpus_files(settings.corpus, console)
    folder.text.make(files, settings.vocab_size, console)


def _steps_to_train(folder: Folder, settings: Settings, console: Console) -> int:
    """The steps asked for, or of the default as many as repeat no text."""
    from tst_megatron.trainer.checks import repeat_free_steps

    wanted = usual_steps() if settings.steps is None else settings.steps
    flags = _flags(folder, settings, "tst", wanted)
    steps = repeat_free_steps(list(flags), wanted)
    if settings.steps is not None and steps < wanted:
        raise UserError(
            f"--steps {wanted:,} would read some of the text twice: {steps:,} steps fit, so lower "
            "--steps or give a larger --corpus"
        )
    if steps < min(wanted, _FEWEST_STEPS):
        raise UserError(
            f"the corpus is too small: it has text for {steps:,} steps, and a run worth looking at "
            f"has at least {_FEWEST_STEPS}; give a larger --corpus"
        )
    if steps < wanted:
        console.print(
            f"The corpus has text for {steps:,} of the usual {wanted:,} steps; training those.",
            highlight=False,
        )
    return steps


def _flags(folder: Folder, settings: Settings, run: str, steps: int) -> tuple[str, ...]:
    """The command line of a run, after ``pretrain``."""
    return (
        *recipes.flags(recipes.load(BASELINE)),
        *folder.text.flags,
        *of_length(
            steps,
            warmup=min(_MAX_WARMUP, round(_WARMUP_SHARE * steps)),
            steps_a_validation=min(_STEPS_A_VALIDATION, steps // _FEWEST_VALIDATIONS),
            checkpoints=_CHECKPOINTS,
        ),
        *settings.shared_flags,
        *(settings.tst_flags if run == "tst" else ()),
    )


def _ledger(folder: Folder, run: str) -> Ledger | None:
    try:
        return read_ledger(folder.ledger(run))
    except LedgerError:
        return None


def _report(folder: Folder, steps: int) -> Findings:
    """Write what there is to tell of the two runs, and return it."""
    ledgers = {run: _ledger(folder, run) for run in RUNS}
    theirs, ours = (
        [] if ledger is None else [run_of_ledger(ledger, run, vocabulary())]
        for run, ledger in ledgers.items()
    )
    findings = compare_so_far(theirs, ours, _CONFIDENCE)
    if steps <= QUICK_STEPS:
        findings = replace(findings, notes=(_QUICK_NOTE, *findings.notes))
    write_whole(folder.root / "report.json", text_so_far(findings))
    write_page(folder.root, findings)
    return findings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The demo's flags; whatever else is given goes to Megatron, for both runs."""
    parser.add_argument(
        "--out", type=Path, help="output folder (default runs/demo, or runs/quick with --quick)"
    )
    parser.add_argument(
        "--corpus",
        metavar="PATH",
        help="text of your own: a file or folder of .txt, .md, .py, .jsonl (default: the text of "
        "this Python's standard library)",
    )
    parser.add_argument("--steps", type=int, help=f"steps of each run (default {usual_steps():,})")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a first look in under 3 minutes: {QUICK_STEPS:,} steps; so short a run favours the "
        "baseline",
    )
    parser.add_argument(
        "--vocab-size", type=int, default=VOCAB_SIZE, help=f"tokenizer pieces ({VOCAB_SIZE})"
    )


def main(args: argparse.Namespace, other_flags: list[str]) -> int:
    """``tst-megatron demo``."""
    if args.quick and args.steps is not None:
        raise UserError("--quick and --steps both set the number of steps: use one")
    if args.steps is not None and args.steps < 1:
        raise UserError(f"--steps {args.steps} is below 1: use 1 or more")
    shared_flags, tst_flags = parted(other_flags, lambda name: name.startswith("tst-"))
    if not any(flag.startswith(("--tst-bag-size", "--tst-schedule")) for flag in tst_flags):
        tst_flags = (*usual_tst_flags(), *tst_flags)
    with suppress(NotKnownError):
        check_own_flags(read_words([*shared_flags, *tst_flags]))
    settings = Settings(
        corpus=None if args.corpus is None else str(Path(args.corpus).resolve()),
        steps=QUICK_STEPS if args.quick else args.steps,
        vocab_size=args.vocab_size,
        tst_flags=tst_flags,
        shared_flags=shared_flags,
    )
    out = args.out or Path("runs/quick" if args.quick else "runs/demo")
    end_on_signals()
    try:
        return run_demo(out.resolve(), settings, Console())
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
