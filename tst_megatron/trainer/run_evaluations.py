"""What a run's model scores while it trains: ``--evaluate-at``.

The one idea: rank 0 asks between two steps, before a checkpoint of the first, and all ranks answer
(`megatron_answerer`). So whoever goes on from that checkpoint has the scores, and whoever goes on
from the one before asks again. What goes wrong is said and costs the scores, not the run.
"""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tst_megatron.evaluation.asked import Asked, Walker
from tst_megatron.evaluation.results import Evaluated, for_ledger, items_text
from tst_megatron.evaluation.tasks import reason
from tst_megatron.files import write_whole
from tst_megatron.methods.events import Progress
from tst_megatron.runs.evaluations import Score
from tst_megatron.runs.ledger import LedgerError, read_ledger
from tst_megatron.stock.evaluation_steps import evaluation_steps
from tst_megatron.trainer.megatron_answerer import MegatronAnswerer, from_first, only_reading
from tst_megatron.trainer.run_ledger import ledger_path
from tst_megatron.trainer.run_text import RunText

FOLDER = "evaluations"
"""Beside the ledger: files with an item a line."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Questions:
    """What rank 0 asks.

    Attributes:
        asked: tasks and texts.
        text: with the run's tokenizer.
    """

    asked: Asked
    text: RunText


def questions_of(args: argparse.Namespace, tokenizer: Any) -> Questions | None:
    """Read what the run will ask and walk through it, before any process group.

    Args:
        args: Megatron's validated arguments.
        tokenizer: of the run, as Megatron builds it.

    Returns:
        None on ranks that do not ask, and of a run without evaluations.

    Raises:
        UserError: something cannot be asked.
    """
    if not args.evaluate_at or args.rank != 0:
        return None
    text = RunText(tokenizer)
    asked = Asked(args.evaluate_tasks or (), args.evaluate_text or (), args.evaluate_limit)
    asked.walk_through(Walker("the run", args.seq_length, text.document_start, text.ids))
    return Questions(asked, text)


class RunEvaluations:
    """Asks at the steps of ``--evaluate-at``; every rank calls it alike.

    Args:
        args: Megatron's validated arguments, with ``--evaluate-at``.
        questions: of `questions_of`.
    """

    def __init__(self, args: argparse.Namespace, questions: Questions | None) -> None:
        self._args = args
        self._questions = questions
        self._steps = evaluation_steps(args)

    def are_after(self, step: int) -> bool:
        """Whether the model is asked after a step."""
        return self._steps.has(step)

    def are_at_start(self, step: int) -> bool:
        """Whether it is asked as the run starts: the ledger does not have it of that step.

        Args:
            step: that the run goes on from.
        """
        if not self._steps.has(step):
            return False
        return not from_first(self._questions is not None and self._are_known(step))

    def _are_known(self, step: int) -> bool:
        path = ledger_path(self._args)
        if path is None or self._questions is None:
            return False
        try:
            lines = read_ledger(path).evaluations
        except LedgerError:
            return False
        known = {name for line in lines if line["step"] == step for name in line["evaluations"]}
        return known.issuperset(self._questions.asked.names)

    def ask(self, model: list[Any], progress: Progress) -> tuple[Mapping[str, Any], list[str]]:
        """Ask everything, between two steps.

        Args:
            model: this rank's chunks.
            progress: of the run.

        Returns:
            The table ``evaluations`` of the ledger's line, and lines for the log; on all ranks.
        """
        told: tuple[Mapping[str, Any], list[str]] = ({}, [])
        with only_reading(model):
            if self._questions is None:
                MegatronAnswerer(self._args, model, None).serve()
            else:
                answerer = MegatronAnswerer(self._args, model, self._questions.text)
                try:
                    results = dict(self._questions.asked.ask(answerer))
                finally:
                    answerer.let_go()
                told = self._told(results, progress)
        found: tuple[Mapping[str, Any], list[str]] = from_first(told)
        return found

    def _told(
        self, results: Mapping[str, Evaluated | Exception], progress: Progress
    ) -> tuple[Mapping[str, Any], list[str]]:
        evaluated = [one for one in results.values() if isinstance(one, Evaluated)]
        where = f"step {progress.step:,}"
        if progress.stage.method:
            where += f", in the stage of {progress.stage.name}"
        lines = [
            f"tst-megatron: {where}: {line}"
            for name, one in results.items()
            for line in _lines(name, one)
        ]
        return for_ledger(evaluated, *self._kept(evaluated, progress.step)), lines

    def _kept(self, evaluated: Sequence[Evaluated], step: int) -> tuple[str | None, str | None]:
        """Write the items: path from the ledger's folder, and SHA-256; None where there is none."""
        ledger = ledger_path(self._args)
        if ledger is None or not evaluated:
            return None, None
        content = items_text(evaluated).encode()
        folder = ledger.parent / FOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = _free(folder, step, content)
            write_whole(path, content)
        except OSError as error:
            logger.warning("Items of step %d cannot be written: %s.", step, error)
            return None, None
        return f"{FOLDER}/{path.name}", sha256(content).hexdigest()


def _free(folder: Path, step: int, content: bytes) -> Path:
    """A name that holds nothing, or the very same: another run's ledger, or an earlier line of this
    one, may name what is there."""
    path, number = folder / f"step_{step}.items.jsonl", 1
    while path.exists() and path.read_bytes() != content:
        number += 1
        path = folder / f"step_{step}.{number}.items.jsonl"
    return path


def _lines(name: str, found: Evaluated | Exception) -> Iterator[str]:
    if isinstance(found, Exception):
        yield f"{name} was not asked: {reason(found)}"
        return
    scores = ", ".join(_in_words(metric, score) for metric, score in found.scores.items())
    yield f"{name}: {scores} ({len(found.items):,} items)"
    yield from found.notes


def _in_words(metric: str, score: Score) -> str:
    if score.value is None:
        return f"{metric} unknown"
    error = "" if score.stderr is None else f" ± {score.stderr:.4f}"
    chance = "" if score.chance is None else f", chance {score.chance:.4f}"
    return f"{metric} {score.value:.4f}{error}{chance}"
