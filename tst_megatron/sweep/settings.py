"""What all runs of a sweep share: the recipe with the flags of the command line, checked.

The one idea: a sweep is its settings, whole. They lie in ``sweep.json``, so that a folder is never
gone on in with others, an edited recipe among them; the grid is not one of them, and may grow.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_megatron import recipes
from tst_megatron.errors import UserError
from tst_megatron.experiments.cells import Cell
from tst_megatron.files import write_whole
from tst_megatron.sweep.grid import Config

SETTINGS_FILE = "sweep.json"
_MEGATRONS_SEED = 1234
# What the sweep itself sets.
_SCHEDULE = ("tst-bag-size", "tst-step-ratio", "tst-schedule")
# What is refused of a run without bags, so the baseline goes without.
_OF_BAGS = ("tst-superpose", "tst-bag-boundary", "tst-bag-weights", "tst-objective")
# What every cell has of its own.
_OF_A_CELL = ("save", "load", "tensorboard-dir", "ledger")
# Steps that a shorter run has its share of.
_SCALED = (
    "lr-warmup-iters",
    "lr-wsd-decay-iters",
    "lr-decay-iters",
    "eval-interval",
    "save-interval",
)


@dataclass(frozen=True)
class SweepSettings:
    """The settings of every run.

    Attributes:
        recipe: as it was asked for.
        words: flags of the command line that every run gets.
        bag_words: flags that only superposed runs get.
        values: flags and their values, the recipe's and the command line's.
    """

    recipe: str
    words: tuple[str, ...]
    bag_words: tuple[str, ...]
    values: dict[str, Any]

    @property
    def num_steps(self) -> int:
        """Steps of a whole run."""
        return int(self.values["train-iters"])

    @property
    def seed(self) -> int:
        """Where no others are asked for."""
        return int(self.values.get("seed") or _MEGATRONS_SEED)

    @property
    def reads_bags(self) -> bool:
        """Whether superposed steps read more text than others."""
        return self.values.get("tst-superpose") != "output"

    def flags(self, config: Config, seed: int, num_steps: int | None = None) -> tuple[str, ...]:
        """The command line of a run, after ``pretrain``.

        Args:
            config: bag size and share.
            seed: Megatron's.
            num_steps: of a shorter run, whose warm-up and decay are shorter likewise.
        """
        own: tuple[str, ...] = ()
        if not config.is_baseline:
            size, ratio = config.bag_size, config.step_ratio
            own = (*self.bag_words, f"--tst-bag-size={size}", f"--tst-step-ratio={ratio:g}")
        return (
            f"--recipe={self.recipe}",
            *self.words,
            *self._shorter(num_steps or self.num_steps),
            f"--seed={seed}",
            *own,
        )

    def cell(self, config: Config, seed: int, num_steps: int | None = None) -> Cell:
        """The run with its folder's name."""
        steps = num_steps or self.num_steps
        name = f"{config.name}-seed{seed}"
        if steps != self.num_steps:
            name = f"{name}-steps{steps}"
        return Cell(name, self.flags(config, seed, num_steps), steps)

    def _shorter(self, num_steps: int) -> tuple[str, ...]:
        if num_steps == self.num_steps:
            return ()
        scaled = (
            f"--{name}={max(1, round(int(self.values[name]) * num_steps / self.num_steps))}"
            for name in _SCALED
            if self.values.get(name)
        )
        return (f"--train-iters={num_steps}", *scaled)


def settings_from_flags(recipe: str, others: Sequence[str]) -> SweepSettings:
    """The settings of a sweep.

    Args:
        recipe: ``NAME[+LAYOUT][+PRECISION]`` or a file.
        others: flags of the command line that are not the sweep's.

    Raises:
        UserError: there is no such recipe, it or the command line has a schedule of its own or
            what a cell has, or they do not say how many steps a run has.
    """
    read = recipes.read(recipe)
    for name, value in read.values.items():
        if name in (*_SCHEDULE, *_OF_BAGS) and value not in (None, False):
            raise UserError(
                f"the recipe {recipe} has {name}, and every cell has bags of its own: give the "
                "recipe of an ordinary run"
                + ("" if name in _SCHEDULE else f", and --{name} on the command line")
            )
    if others and not others[0].startswith("--"):
        raise UserError(f"{others[0]} belongs to no flag: see tst-megatron sweep --help")
    words, bag_words = _parted(others)
    values = read.overridden(others, lambda key: key.replace("_", "-")).values
    given = {word.partition("=")[0].removeprefix("--") for word in others if word[:2] == "--"}
    for name in (*_SCHEDULE, *_OF_A_CELL):
        if name in given:
            instead = (
                "--bag-sizes and --step-ratios say it for all cells"
                if name in _SCHEDULE
                else "every cell has its own below --out"
            )
            raise UserError(f"--{name} is the sweep's to set, so leave it out: {instead}")
    settings = SweepSettings(recipe, words, bag_words, values)
    _check(settings)
    return settings


def begin(folder: Path, settings: SweepSettings) -> None:
    """Take a folder, or go on in it if it was begun with the same settings.

    Raises:
        UserError: it cannot be written, or holds another sweep.
    """
    file = folder / SETTINGS_FILE
    wanted = json.loads(json.dumps({"recipe": settings.recipe, "flags": settings.values}))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file.exists():
            begun = json.loads(file.read_text())
            if not isinstance(begun, dict):
                raise ValueError
            _check_same(folder, begun, wanted)
        else:
            write_whole(file, json.dumps(wanted, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{file} is not a sweep's: choose another --out") from None


def _check_same(folder: Path, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    before, now = (
        {"recipe": one.get("recipe"), **(one.get("flags") or {})} for one in (begun, wanted)
    )
    for name in (*now, *before):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{folder} holds a sweep with {name} {_in_words(before.get(name))}, and this one "
                f"has {_in_words(now.get(name))}: choose another --out, or delete the folder"
            )


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "not given" if value is None else str(value)


def _parted(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Flags with their values for all runs, and those for superposed runs."""
    shared: list[str] = []
    of_bags: list[str] = []
    current = shared
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].removeprefix("--")
            current = of_bags if name in _OF_BAGS else shared
        current.append(word)
    return tuple(shared), tuple(of_bags)


def _check(settings: SweepSettings) -> None:
    values = settings.values
    if values.get("train-samples"):
        raise UserError("a sweep counts steps: give --train-iters in place of --train-samples")
    for name in ("train-iters", *_SCALED, "eval-iters", "seed"):
        value = values.get(name)
        if value is not None and value is not False and not str(value).isdigit():
            raise UserError(f"--{name} {_in_words(value)} is no whole number: give one")
    if not int(values.get("train-iters") or 0):
        raise UserError("a sweep has to know how long a run is: add --train-iters")
    if values.get("lr-decay-style") == "WSD" and not values.get("lr-wsd-decay-iters"):
        raise UserError(
            "--lr-decay-style WSD needs to know how long it decays: add --lr-wsd-decay-iters, such "
            "as a tenth of the steps"
        )
    if values.get("eval-iters") is not None and not int(values["eval-iters"]):
        raise UserError("a sweep compares held-out losses: leave --eval-iters 0 out")
