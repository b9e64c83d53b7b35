"""Whose model is evaluated: its folder, the run and the step that it is of, and the run's ledger.

The one idea: an exported folder says which run it is of, and a score goes into that run's ledger or
into none. What the user names himself has to be right; a ledger that is found by itself and is not
right is left alone, with a sentence.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.huggingface.folder import CONFIG, model_folder, read_facts
from tst_megatron.runs.ledger import LedgerError, read_ledger


@dataclass(frozen=True)
class Subject:
    """A model on disk.

    Attributes:
        folder: that transformers loads.
        source: as the user named it.
        facts: what the folder says of its run; empty for a model from elsewhere.
    """

    folder: Path
    source: Path
    facts: Mapping[str, Any]

    @property
    def step(self) -> int | None:
        """Of its run; None where that is not known."""
        step = self.facts.get("step")
        return step if isinstance(step, int) else None

    @property
    def document_start(self) -> int | None:
        """The id that its documents' text came after in training; None where not known."""
        told = self.facts.get("document_start")
        return told if isinstance(told, int) else None

    @property
    def name(self) -> str:
        """For people."""
        return str(self.source) if self.step is None else f"{self.source}, step {self.step:,}"


@contextmanager
def subject_at(source: Path, step: int | None) -> Iterator[Subject]:
    """The model at a path: a folder of transformers, or a checkpoint, exported for as long.

    Args:
        source: of it.
        step: of a checkpoint's; None for its last.

    Raises:
        UserError: there is none, or not of that step.
    """
    if not source.exists():
        raise UserError(
            f"{source} is not there: give a folder of transformers, or a run's checkpoints"
        )
    if not source.is_dir():
        raise UserError(f"{source} is a file: give the folder of a model")
    if (source / CONFIG).is_file():
        subject = Subject(source, source, read_facts(source))
        if step is not None and subject.step not in (None, step):
            raise UserError(
                f"{source} is of step {subject.step:,}, not {step:,}: leave out --step, or give "
                "the run's checkpoints"
            )
        known = {} if step is None else {"step": step}
        yield Subject(source, source, {**subject.facts, **known})
        return
    with model_folder(source, step) as folder:
        yield Subject(folder, source, read_facts(folder))


def ledger_of(subject: Subject, named: Path | None, wanted: bool) -> tuple[Path | None, str]:
    """The ledger that scores go into.

    Args:
        subject: whose scores they are.
        named: by the user; None to take the run's own, if it is there.
        wanted: whether any is.

    Returns:
        It, or None; and why there is none, in a sentence, where one might be expected.

    Raises:
        UserError: the one that is named does not fit.
    """
    if not wanted:
        return None, ""
    told = subject.facts.get("ledger")
    if named is None and not isinstance(told, str):
        return None, ""
    # The folder's own is relative to it, so that both can move.
    path = named or _shown((subject.folder / str(told)).resolve())
    why = _why_not(path, subject)
    if why and named is not None:
        raise UserError(f"--ledger {why}")
    return (None, f"No ledger has the scores, as {why}.") if why else (path, "")


def _shown(path: Path) -> Path:
    """A path without ways round, from the working folder where it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _why_not(path: Path, subject: Subject) -> str:
    """Why a ledger cannot take a score of the model's; nothing where it can."""
    if not path.is_file():
        return f"{path} is not there: give the run's ledger.jsonl with --ledger"
    if path.suffix == ".gz":
        return f"{path} is compressed: unpack it first"
    try:
        ledger = read_ledger(path)
    except LedgerError as error:
        return str(error)
    own, theirs = subject.facts.get("run_id"), ledger.header.get("run_id")
    if own is not None and theirs is not None and own != theirs:
        return f"{path} is of another run than {subject.source}: give that run's own"
    if subject.step is None:
        return f"{path} needs to know of which step {subject.source} is: give --step"
    last = ledger.last
    if last is None or last["step"] < subject.step:
        return (
            f"{path} ends at step {0 if last is None else last['step']:,}, before step "
            f"{subject.step:,} of {subject.source}: give the run's own"
        )
    return ""
