"""What a run asks its model again and again while it trains: tasks and texts, read once.

The one idea: whoever asks has walked through all of it before the run began, with answers that mean
nothing. What is wrong with a task, a template or a document is a sentence by then; and what is
asked later is what was read then, though the files be gone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tst_megatron.corpora.reading.chunks import read_documents
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.errors import UserError
from tst_megatron.evaluation.answerer import Answer, Row, Scorer
from tst_megatron.evaluation.held_out import evaluate_text, find_texts
from tst_megatron.evaluation.results import Evaluated
from tst_megatron.evaluation.tasks import (
    check_harness,
    forbid_downloads,
    load_tasks,
    reason,
    scratch_folder,
)

TASKS_FLAG, TEXT_FLAG = "--evaluate-tasks", "--evaluate-text"
FIELD = "text"
"""Of records, that has the text."""


@dataclass
class Walker:
    """A `Scorer` that knows nothing: every row has the same answer.

    Attributes:
        name, max_length, document_start: as of `Scorer`.
        ids: of a text, as `Scorer.encode` gives them.
    """

    name: str
    max_length: int
    document_start: int | None
    ids: Callable[[str, bool], list[int]]

    def encode(self, text: str, adds_special: bool = False) -> list[int]:
        """As of `Scorer`."""
        return self.ids(text, adds_special)

    def score(self, rows: Sequence[Row]) -> list[Answer]:
        """As of `Scorer`."""
        return [Answer(-1.0 * row.scored, False) for row in rows]


class Asked:
    """Tasks and texts of one run.

    Args:
        tasks: as ``evaluate`` takes them.
        texts: files, folders or globs, each a text.
        limit: items of a task and documents of a text; None for all.

    Raises:
        UserError: one is not there, cannot be read, or is not one that is scored.
    """

    def __init__(self, tasks: Sequence[str], texts: Sequence[str], limit: int | None) -> None:
        self._limit = limit
        self._scratch: TemporaryDirectory[str] = scratch_folder()
        self._tasks: dict[str, Any] = {}
        if tasks:
            check_harness(TASKS_FLAG, TEXT_FLAG)
            forbid_downloads()
            self._tasks = load_tasks(tasks, None, Path(self._scratch.name))
        self._texts = {
            name: tuple(islice(read_documents(files, ReadOptions(field=FIELD)), limit))
            for name, files in find_texts(texts, FIELD, TEXT_FLAG)[0].items()
        }
        twice = sorted({*self._tasks} & {*self._texts})
        if twice:
            raise UserError(f"a task and a text are both called {twice[0]}: rename one of them")
        self._keep()

    def _keep(self) -> None:
        if not self._tasks:
            return
        from tst_megatron.evaluation.harness import keep_requests

        for name, task in self._tasks.items():
            if task.OUTPUT_TYPE == "generate_until":
                raise UserError(
                    f"the task {name} wants text to be made, which takes a forward pass a token: "
                    f"leave it out of {TASKS_FLAG}, and ask the checkpoints with tst-megatron "
                    "evaluate"
                )
            keep_requests(task)

    @property
    def names(self) -> tuple[str, ...]:
        """Of tasks, then of texts."""
        return (*self._tasks, *self._texts)

    def walk_through(self, walker: Walker) -> None:
        """Ask everything without a model.

        Args:
            walker: with the run's tokenizer.

        Raises:
            UserError: something cannot be asked.
        """
        for name, ask in self._each(walker):
            try:
                ask()
            # Templates, functions and metrics of a task are anybody's.
            except Exception as error:
                raise UserError(f"{name} cannot be asked: {reason(error)}") from None

    def ask(self, scorer: Scorer) -> Iterator[tuple[str, Evaluated | Exception]]:
        """Ask everything, each for itself.

        Args:
            scorer: who is asked.

        Returns:
            By name what came of it, or what went wrong.
        """
        for name, ask in self._each(scorer):
            try:
                yield name, ask()
            except Exception as error:  # As above; what is asked next may do.
                yield name, error

    def _each(self, scorer: Scorer) -> Iterator[tuple[str, Callable[[], Evaluated]]]:
        for name, task in self._tasks.items():
            yield name, partial(self._asked_task, name, task, scorer)
        for name, documents in self._texts.items():
            yield name, partial(evaluate_text, name, documents, scorer)

    def _asked_task(self, name: str, task: Any, scorer: Scorer) -> Evaluated:
        from tst_megatron.evaluation.harness import run_tasks

        # Drawing items again and again takes minutes, for which all ranks would wait.
        (found,) = run_tasks({name: task}, scorer, self._limit, resamples=0)
        return found

    def close(self) -> None:
        """Remove what was made of the tasks' data."""
        self._scratch.cleanup()
