"""What every cell is run with, what is refused before, and a folder that belongs to one sweep."""

import re
from functools import partial
from pathlib import Path

import pytest
from surfaces import SEARCH

from tst_megatron.errors import UserError
from tst_megatron.experiments.begin import begin
from tst_megatron.methods.superposition.axes import BASELINE, Pair
from tst_megatron.recipes import expand_recipe
from tst_megatron.runs.outcomes import AtRate
from tst_megatron.sweep.settings import SETTINGS_FILE, SweepSettings
from tst_megatron.sweep.settings import settings_from_flags as settings_of

settings_from_flags = partial(settings_of, SEARCH)
DATA = ("--data-path", "corpus", "--tokenizer-model=tokenizer.model")


def of_tiny(*others: str) -> SweepSettings:
    return settings_from_flags("tiny-baseline", (*DATA, *others))


def value(words: tuple[str, ...], flag: str) -> str | None:
    """The value that holds: the last one."""
    line = expand_recipe(list(words))
    found = None
    for i, word in enumerate(line):
        name, equals, text = word.partition("=")
        if name == f"--{flag}":
            found = text if equals else line[i + 1]
    return found


def test_a_cell_has_its_bags_and_its_seed_and_everything_else_is_shared() -> None:
    settings = of_tiny("--lr", "1e-3")
    cell = settings.cell(Pair(4, 0.25), 7)
    assert (cell.name, cell.num_steps) == ("s4-r0.25-seed7", 14_000)
    assert value(cell.flags, "tst-bag-size") == "4"
    assert value(cell.flags, "tst-step-ratio") == "0.25"
    assert value(cell.flags, "seed") == "7"
    baseline = settings.cell(BASELINE, 7)
    assert baseline.name == "baseline-seed7"
    assert [w for w in cell.flags if not w.startswith("--tst-")] == list(baseline.flags)
    assert value(baseline.flags, "lr") == "1e-3"
    assert value(baseline.flags, "data-path") == "corpus"


def test_flags_of_bags_go_to_superposed_cells_alone() -> None:
    settings = of_tiny("--tst-bag-weights", "power", "--fixed-validation")
    superposed = settings.flags(Pair(4, 0.25), 1)
    baseline = settings.flags(BASELINE, 1)
    assert value(superposed, "tst-bag-weights") == "power"
    assert not any("bag-weights" in word or word == "power" for word in baseline)
    assert "--fixed-validation" in baseline
    assert SEARCH.limit(1, 1, settings.values).reads_bags
    assert not SEARCH.limit(1, 1, of_tiny("--tst-superpose=output").values).reads_bags


def test_a_shorter_run_is_shorter_in_all_its_parts() -> None:
    cell = of_tiny("--lr-warmup-iters=100").cell(Pair(4, 0.25), 1, 1750)
    assert cell.name == "s4-r0.25-seed1-steps1750"
    assert cell.num_steps == 1750
    expected = {"train-iters": 1750, "lr-warmup-iters": 12, "lr-wsd-decay-iters": 175}
    expected |= {"eval-interval": 62, "save-interval": 62}
    assert {name: int(value(cell.flags, name) or 0) for name in expected} == expected
    assert value(cell.flags, "tst-step-ratio") == "0.25"


@pytest.mark.parametrize(
    ("recipe", "others", "says"),
    [
        ("tiny-tst", (), "the recipe tiny-tst has tst-bag-size"),
        ("tinny", (), "tinny"),
        ("tiny-baseline", ("--tst-bag-size", "4"), "--tst-bag-size is the sweep's to set"),
        ("tiny-baseline", ("--tst-schedule=4:0.2",), "--tst-schedule is the sweep's to set"),
        ("tiny-baseline", ("--save", "here"), "--save is the sweep's to set"),
        ("tiny-baseline", ("4",), "4 belongs to no flag"),
        ("tiny", (), "add --train-iters"),
        ("tiny", ("--train-iters", "100"), "add --lr-wsd-decay-iters"),
        ("tiny", ("--train-samples", "100"), "--train-iters in place of --train-samples"),
        ("tiny-baseline", ("--train-iters", "many"), "--train-iters many is no whole number"),
        ("tiny-baseline", ("--eval-iters", "0"), "leave --eval-iters 0 out"),
        ("tiny-baseline", ("--eval-iters", "many"), "--eval-iters many is no whole number"),
    ],
)
def test_bad_settings_are_one_sentence(recipe: str, others, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        settings_from_flags(recipe, others)


def begin_sweep(folder: Path, settings: SweepSettings) -> None:
    kept = {"recipe": settings.recipe, "flags": settings.values}
    begin(folder / SETTINGS_FILE, "sweep", kept)


def test_a_folder_is_gone_on_in_with_the_same_settings_alone(tmp_path: Path) -> None:
    begin_sweep(tmp_path / "out", of_tiny())
    begin_sweep(tmp_path / "out", of_tiny())
    with pytest.raises(UserError, match=r"lr 0.0005, and this one has 1e-3: choose another --out"):
        begin_sweep(tmp_path / "out", of_tiny("--lr=1e-3"))
    for content in ("{", "[]"):
        (tmp_path / "out" / "sweep.json").write_text(content)
        with pytest.raises(UserError, match=r"sweep\.json is not a sweep's"):
            begin_sweep(tmp_path / "out", of_tiny())
    with pytest.raises(UserError, match="cannot be written"):
        begin_sweep(Path("/dev/null/out"), of_tiny())


def test_an_edited_recipe_is_another_sweep(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: tiny-baseline\nlr: 1.0e-3\n")
    begin_sweep(tmp_path / "out", settings_from_flags(str(recipe), DATA))
    recipe.write_text("extends: tiny-baseline\nlr: 4.0e-3\n")
    with pytest.raises(UserError, match=r"holds a sweep with lr 0\.001"):
        begin_sweep(tmp_path / "out", settings_from_flags(str(recipe), DATA))


def test_a_rate_is_the_cells_own_and_the_lowest_follows() -> None:
    settings = of_tiny("--min-lr", "2e-4")
    peak = float(settings.values["lr"])
    for choice in (BASELINE, Pair(4, 0.25)):
        cell = settings.cell(AtRate(choice, peak / 8), 7)
        assert cell.name.endswith(f"-lr{peak / 8:g}-seed7")
        assert float(value(cell.flags, "lr") or 0) == peak / 8
        assert float(value(cell.flags, "min-lr") or 0) == pytest.approx(2e-4 / 8)
    # Of a lowest rate of 0 there is no share.
    assert not any("min-lr" in word for word in of_tiny().flags(AtRate(BASELINE, 1e-3), 7))
