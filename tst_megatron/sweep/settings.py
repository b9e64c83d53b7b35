"""What all runs of a sweep share: the recipe with the flags of the command line, checked.

The one idea: a sweep is its settings, whole, an edited recipe among them; the grid is not one of
them, and may grow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tst_megatron import recipes
from tst_megatron.errors import UserError
from tst_megatron.experiments.cells import Cell
from tst_megatron.experiments.text import TextRead, text_read
from tst_megatron.experiments.words import STEPS_OF_A_PART, at_rate, parted, shortened
from tst_megatron.methods.search import Search
from tst_megatron.runs.flag_roles import Role
from tst_megatron.runs.outcomes import AtRate, Choice, without_rate

SETTINGS_FILE = "sweep.json"
_MEGATRONS_SEED = 1234
# What every cell has of its own.
_OF_A_CELL = tuple(name.replace("_", "-") for name in Role.OUTPUT.value)


@dataclass(frozen=True)
class SweepSettings:
    """The settings of every run.

    Attributes:
        search: of the method's settings.
        recipe: as it was asked for.
        words: flags of the command line that every run gets.
        own_words: flags that only runs with the method get.
        values: flags and their values, the recipe's and the command line's.
    """

    search: Search
    recipe: str
    words: tuple[str, ...]
    own_words: tuple[str, ...]
    values: dict[str, Any]

    @property
    def num_steps(self) -> int:
        """Steps of a whole run."""
        return int(self.values["train-iters"])

    @property
    def seed(self) -> int:
        """Where no others are asked for."""
        return int(self.values.get("seed") or _MEGATRONS_SEED)

    def flags(self, choice: Choice, seed: int, num_steps: int | None = None) -> tuple[str, ...]:
        """The command line of a run, after ``pretrain``.

        Args:
            choice: of the method's settings, with a learning rate or at the recipe's.
            seed: Megatron's.
            num_steps: of a shorter run, whose warm-up and decay are shorter likewise.
        """
        of_method = without_rate(choice)
        own = () if choice.is_baseline else (*self.own_words, *self.search.flags(of_method))
        return (
            f"--recipe={self.recipe}",
            *self.words,
            *(at_rate(self.values, choice.learning_rate) if isinstance(choice, AtRate) else ()),
            *shortened(self.values, num_steps or self.num_steps, self.num_steps),
            f"--seed={seed}",
            *own,
        )

    def cell(self, choice: Choice, seed: int, num_steps: int | None = None) -> Cell:
        """The run with its folder's name."""
        steps = num_steps or self.num_steps
        name = f"{choice.name}-seed{seed}"
        if steps != self.num_steps:
            name = f"{name}-steps{steps}"
        return Cell(name, self.flags(choice, seed, num_steps), steps)


def settings_from_flags(search: Search, recipe: str, others: Sequence[str]) -> SweepSettings:
    """The settings of a sweep.

    Args:
        search: of the method's settings.
        recipe: ``NAME[+LAYOUT][+PRECISION]`` or a file.
        others: flags of the command line that are not the sweep's.

    Raises:
        UserError: there is no such recipe, it or the command line has a schedule of its own or
            what a cell has, or they do not say how many steps a run has.
    """
    read = recipes.read(recipe)
    for name, value in read.values.items():
        if name in (*search.sets, *search.own_flags) and value not in (None, False):
            raise UserError(
                f"the recipe {recipe} has {name}, and every cell has {search.words.own}: give the "
                "recipe of an ordinary run"
                + ("" if name in search.sets else f", and --{name} on the command line")
            )
    if others and not others[0].startswith("--"):
        raise UserError(f"{others[0]} belongs to no flag: see tst-megatron sweep --help")
    words, own_words = parted(others, lambda name: name in search.own_flags)
    values = read.overridden(others, lambda key: key.replace("_", "-")).values
    given = {word.partition("=")[0].removeprefix("--") for word in others if word[:2] == "--"}
    for name in (*search.sets, *_OF_A_CELL):
        if name in given:
            instead = (
                f"{' and '.join(axis.flag for axis in search.axes)} say it for all cells"
                if name in search.sets
                else "every cell has its own below --out"
            )
            raise UserError(f"--{name} is the sweep's to set, so leave it out: {instead}")
    settings = SweepSettings(search, recipe, words, own_words, values)
    _check(settings)
    return settings


def text_of_choices(
    settings: SweepSettings, choices: Sequence[Choice], seed: int
) -> dict[Choice, TextRead]:
    """What every choice reads, the baseline first; seeds read as much as one another.

    Raises:
        UserError: the data flags are wrong, the corpus is missing, or a cell would repeat text and
            ``--allow-repeats`` is not given.
    """
    every = (settings.search.baseline, *choices)
    found = {choice: text_read(settings.flags(choice, seed)) for choice in every}
    repeating = [c for c, text in found.items() if text.repeats and not c.is_baseline]
    if repeating and not settings.values.get("allow-repeats"):
        most = max(repeating, key=lambda c: found[c].epochs or 0.0)
        raise UserError(
            f"{len(repeating)} of the {len(choices)} cells would read text twice (most of all "
            f"{most}, {found[most].epochs:.2f} times): lower --train-iters or the grid's largest "
            "values, take a larger corpus, or add --allow-repeats"
        )
    return found


def _check(settings: SweepSettings) -> None:
    values = settings.values
    if values.get("train-samples"):
        raise UserError("a sweep counts steps: give --train-iters in place of --train-samples")
    for name in ("train-iters", *STEPS_OF_A_PART, "eval-iters", "seed"):
        value = values.get(name)
        if value is not None and value is not False and not str(value).isdigit():
            said = " ".join(map(str, value)) if isinstance(value, list) else value
            raise UserError(f"--{name} {said} is no whole number: give one")
    if not int(values.get("train-iters") or 0):
        raise UserError("a sweep has to know how long a run is: add --train-iters")
    if values.get("lr-decay-style") == "WSD" and not values.get("lr-wsd-decay-iters"):
        raise UserError(
            "--lr-decay-style WSD needs to know how long it decays: add --lr-wsd-decay-iters, such "
            "as a tenth of the steps"
        )
    if values.get("eval-iters") is not None and not int(values["eval-iters"]):
        raise UserError("a sweep compares held-out losses: leave --eval-iters 0 out")
