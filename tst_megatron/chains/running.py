"""Train a chain on this machine, link after link, so that it can be cut off at any point.

The one idea: what lies in a link's folder says whether it is done. The same call, made again,
passes over links that are, and goes on in the one that is not.
"""

import os
from pathlib import Path

from rich.console import Console

from tst_megatron.chains.chain import Chain, Link
from tst_megatron.checkpoints.steps import TRACKER
from tst_megatron.errors import UserError
from tst_megatron.experiments.bars import Bars
from tst_megatron.experiments.begin import begin
from tst_megatron.experiments.cells import Places, stop
from tst_megatron.experiments.launch import Process
from tst_megatron.recipes.keys import read_words
from tst_megatron.runs.ledger import read_ledger
from tst_megatron.stock.megatron_flags import NotKnownError
from tst_megatron.trainer.command_line import check_words, words_of

_SETTINGS = "link.json"
_POLL_S = 1.0


def is_done(chain: Chain, link: Link) -> bool:
    """Whether a link has its last checkpoint, and the chain's last one its last validation.

    One that a later link has gone on from is done though its checkpoints be deleted.

    Raises:
        UserError: it has the checkpoint, and the ledger cannot be read.
    """
    if any(saved_step(later) for later in chain.links[link.number :]):
        return True
    if saved_step(link) != link.last:
        return False
    if not link.is_last or not link.args.eval_iters:
        return True
    validations = read_ledger(chain.ledger).validations
    return bool(validations) and bool(validations[-1]["step"] >= link.last)


def saved_step(link: Link) -> int:
    """The step of its last checkpoint; 0 before there is one."""
    try:
        return int((link.folder / TRACKER).read_text())
    except (OSError, ValueError):
        return 0


def check_begun(chain: Chain) -> None:
    """Check that links which have begun are as they were; later ones may have changed.

    Raises:
        UserError: one is not.
    """
    for link in chain.links:
        if saved_step(link):
            _begin(link)


def train_chain(chain: Chain, places: Places, console: Console) -> bool:
    """Train what is left of a chain.

    Args:
        chain: with its steps.
        places: where its links are put, one at a time.
        console: where progress goes.

    Returns:
        True if all is done; False if the user cut it short, after the link has saved.

    Raises:
        UserError: a link that has begun was changed, a flag or a file is wrong, or a link failed.
    """
    check_begun(chain)
    left = [link for link in chain.links if not is_done(chain, link)]
    for link in left:
        _check_files(link)
    for link in chain.links:
        if link not in left:
            console.print(f"{_of(chain, link)} is done: step {link.last:,}.", highlight=False)
    running: list[Process] = []
    try:
        with Bars(console) as bars:
            for link in left:
                _begin(link)
                console.print(f"{_of(chain, link)} goes to step {link.last:,}.", highlight=False)
                process = places.start([*link.words], link.log)
                running.append(process)
                bars.add(link.name, chain.ledger, link.last)
                bars.wait(lambda one=process: one.has_ended, _POLL_S)  # type: ignore[misc]
                bars.end(link.name)
                running.remove(process)
                _check_ended(chain, link, process)
    except KeyboardInterrupt:
        console.print("Stopping: the link is saving a checkpoint.", highlight=False)
        return False
    finally:
        stop(running)
    return True


def _of(chain: Chain, link: Link) -> str:
    return f"Link {link.number} of {len(chain.links)}, {link.name},"


def _begin(link: Link) -> None:
    """Take a link's folder, or go on in it if it was begun as it is now, or has saved nothing."""
    settings = {
        "start": link.file.start,
        "schedule": "own" if link.file.own_schedule else "the chain's",
        "steps": f"{link.first} to {link.last}",
        "flags": dict(link.values),
    }
    begin(
        link.folder / _SETTINGS,
        f"link {link.name}",
        settings,
        may_start_over=lambda: saved_step(link) == 0,
    )


def _check_files(link: Link) -> None:
    """Refuse what the link would be refused for by itself, before another one trains for it."""
    try:
        check_words(words_of([*link.words]), read_words)
    except NotKnownError:
        return  # The run itself will know.
    except UserError as error:
        raise UserError(f"link {link.name}: {error}") from None


def _check_ended(chain: Chain, link: Link, process: Process) -> None:
    # One that broke after its last checkpoint has done its work.
    if is_done(chain, link):
        return
    if process.torchrun.returncode != 0:
        raise UserError(f"link {link.name} failed: {process.error()}")
    raise UserError(
        f"link {link.name} ended after step {saved_step(link):,}, before its last, {link.last:,}: "
        "the same command goes on; leave out flags that end a run early, such as "
        "--exit-duration-in-mins"
    )


def relative(path: Path) -> str:
    """A path as it is shorter to read, from here."""
    return min(str(path), os.path.relpath(path), key=len)
