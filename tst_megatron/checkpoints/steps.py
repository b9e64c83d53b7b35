"""The steps of a run's folder of checkpoints, as Megatron keeps them: a folder each, and a tracker.

The one idea: the tracker, one number in a file, is what Megatron goes by, whatever folders are
there; so it is what names a step here, unless the user does.
"""

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tst_megatron.checkpoints.wholeness import CONFIG, METADATA, fault_of, has_file_a_rank
from tst_megatron.errors import UserError

TRACKER = "latest_checkpointed_iteration.txt"
RELEASE = "release"
_MOST_NAMED = 3  # Whole steps that a sentence lists, the newest first.


@dataclass(frozen=True)
class Checkpoint:
    """One step in a folder of them.

    Attributes:
        root: folder of all steps.
        step: its number; None for a release, whose weights alone are taken.
        is_pretrained: whether ``--pretrained-checkpoint`` names it; likewise.
    """

    root: Path
    step: int | None
    is_pretrained: bool = False

    @property
    def folder(self) -> Path:
        """As ``get_checkpoint_name`` names it."""
        return self.root / (RELEASE if self.step is None else f"iter_{self.step:07d}")


def read_tracker(root: Path) -> str | None:
    """What a tracker says: digits or ``release``; None where there is none.

    Raises:
        UserError: it says something else, or cannot be read.
    """
    tracker = root / TRACKER
    try:
        text = tracker.read_bytes().decode(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(
            f"{tracker} cannot be read: {error.strerror}; see to its permissions"
        ) from None
    # Python's int, which Megatron asks, also takes signs, underscores and other scripts' digits.
    if text == RELEASE or (text.isascii() and text.isdigit()):
        return text
    says = f"says {text[:40]!r}" if text else "is empty"
    raise UserError(
        f"{tracker} {says}, where the number of a step should be: {way_on(root, by_flag=False)}"
    )


def step_folder(folder: Path, step: int | None = None) -> Path:
    """The folder of one step that a user means.

    Args:
        folder: of all steps, whose tracker names one, or a step's own.
        step: the step, in place of the tracker's.

    Raises:
        UserError: there is none.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: name a run's --save folder, or a step in it")
    if _is_step(folder):
        if step is not None:
            raise UserError(
                f"--step {step} beside {folder}, which is a step itself: leave the flag out, or "
                "name the folder above"
            )
        return folder
    if step is None:
        named = read_tracker(folder)
        if named is None:
            raise UserError(f"{folder} has no {TRACKER}: {_named_instead(folder)}")
        found = Checkpoint(folder, None if named == RELEASE else int(named)).folder
    else:
        found = Checkpoint(folder, step).folder
    if not found.is_dir():
        what = f"--step {step}" if step is not None else f"the step that {TRACKER} names"
        raise UserError(f"{what} is not in {folder}: {_named_steps(folder)}")
    return found


def _is_step(folder: Path) -> bool:
    """By its name or, of one that was given another, by what is in it."""
    if re.fullmatch(rf"iter_\d+|{RELEASE}", folder.name):
        return True
    return (folder / METADATA).exists() or (folder / CONFIG).exists() or has_file_a_rank(folder)


def _named_instead(folder: Path) -> str:
    """What a user may have meant by a folder that has no tracker."""
    below = sorted(tracker.parent for tracker in folder.glob(f"*/{TRACKER}"))
    if below:
        return f"name {' or '.join(map(str, below[:_MOST_NAMED]))}, whose steps are there"
    if (folder / "config.json").is_file():
        return "it is a model of Hugging Face's, and no run; name the run's --save folder"
    return _named_steps(folder)


def _named_steps(folder: Path) -> str:
    steps = whole_steps(folder, _MOST_NAMED)
    if not steps:
        return "no step there is whole, so name another folder"
    return f"name a step with --step, such as {', '.join(map(str, steps))}"


def whole_steps(root: Path, most: int) -> list[int]:
    """The newest steps that are whole.

    Args:
        root: folder of all steps.
        most: that are looked for.
    """
    numbers = (path.name.removeprefix("iter_") for path in root.glob("iter_*"))
    newest = sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)
    whole = (step for step in newest if fault_of(Checkpoint(root, step).folder) is None)
    return list(islice(whole, most))


def way_on(root: Path, by_flag: bool) -> str:
    """What to do about a folder, by the steps in it that are whole.

    Args:
        root: folder of all steps.
        by_flag: whether the step was named by ``--ckpt-step``, and not by the tracker.
    """
    steps = whole_steps(root, _MOST_NAMED)
    if not steps:
        return f"no step there is whole: name another folder, or move {root} away to begin anew"
    whole = f"{'step' if len(steps) == 1 else 'steps'} {', '.join(map(str, steps))} of it "
    whole += "is whole" if len(steps) == 1 else "are whole"
    if by_flag:
        return f"{whole}: go on with --ckpt-step {steps[0]}"
    return f"{whole}: write {steps[0]} into {root / TRACKER} to go on from there"
