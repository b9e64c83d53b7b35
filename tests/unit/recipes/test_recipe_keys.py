from pathlib import Path

import pytest

from tst_megatron import recipes
from tst_megatron.errors import UserError
from tst_megatron.recipes.keys import check_keys, check_together, main_name, read_words
from tst_megatron.stock.megatron_flags import NotKnownError

_OF_RECIPES = ("extends", "about", "layout", "layouts", "precision", "precisions", "only-on")


def _whole(name: str) -> list[recipes.Recipe]:
    """A recipe with each of its layouts and precisions."""
    plain = recipes.read(name)
    parts = [f"{name}+{part}" for part in plain.layouts]
    for precision, part in plain.precisions.items():
        layout = next(
            one
            for one in plain.layouts
            if not part.only_on or one.partition("x")[2] in part.only_on
        )
        parts.append(f"{name}+{layout}+{precision}")
    return [plain, *map(recipes.read, parts)]


@pytest.mark.parametrize("name", recipes.names())
def test_every_key_is_a_flag_that_takes_its_value(name: str) -> None:
    for recipe in _whole(name):
        check_keys(recipe)


@pytest.mark.parametrize("key", _OF_RECIPES)
def test_a_key_of_recipes_is_no_flag(key: str) -> None:
    """Megatron may have one some day, which a recipe could then not give."""
    with pytest.raises(UserError, match="no flag"):
        check_keys(recipes.read("tiny").overridden([f"--{key}", "1"], str))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("num-layer: 3", "has the key num-layer, .*: did you mean num-layers?"),
        ("tst-bagsize: 3", "did you mean tst-bag-size?"),
        ("zzzz: 3", "zzzz, which is no flag of Megatron's or ours: take it out"),
        ("swiglu: 3", "swiglu: 3, and the flag takes no value: write true"),
        ("num-layers: [1, 2]", r"num-layers: \[1, 2\], and the flag takes one value"),
        ("lr: abc", "lr: abc, and the flag does not take that: invalid float"),
        ("lr: true", "lr: true, and the flag does not take that: expected one argument"),
        ("optimizer: addam", "optimizer: addam, .* invalid choice"),
        # Also where another value takes its place.
        ("lr: abc\nlayout: 2xcpu\nlayouts: {2xcpu: {lr: 1}}", "lr: abc"),
        ("layout: 2xcpu\nlayouts: {2xcpu: {lrr: 1}}", r"mine\.yaml, 2xcpu has the key lrr"),
    ],
)
def test_a_slip_is_named_with_its_file(tmp_path: Path, content: str, says: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(content)
    with pytest.raises(UserError, match=says) as raised:
        check_keys(recipes.read(str(recipe)))
    assert f"the recipe {recipe}" in str(raised.value)


def test_a_slip_on_the_command_line_is_named() -> None:
    with pytest.raises(UserError, match=r"the command line has the key lrr, .* did you mean lr\?"):
        check_keys(recipes.read("tiny").overridden(["--lrr", "1"], main_name))


def test_a_flag_has_one_name_in_recipes() -> None:
    assert main_name("disable-tp-comm-overlap-ag") == "no-tp-comm-overlap-ag"
    assert main_name("lr") == "lr"
    assert main_name("no-such-flag") == "no-such-flag"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "--mirco-batch-size 2",
            "--mirco-batch-size is no flag .*: did you mean --micro-batch-siz",
        ),
        ("--tst-bagsize=4", "--tst-bagsize is no flag .*: did you mean --tst-bag-size?"),
        ("--gpu-mem 80", "did you mean --gpu-memory?"),
        ("--zzz", "--zzz is no flag of Megatron's or ours: leave it out"),
        ("--seq-len 3", "--seq-len is no flag .* did you mean --seq-length?"),
        (
            "--micro-batch-size 2 4",
            "the word '4' belongs to no flag: leave it out, or put its flag",
        ),
        ("--lr", "cannot be read: argument --lr: expected one argument"),
        ("--lr abc", "argument --lr: invalid float value: 'abc'"),
        ("--tst-superpose none", "argument --tst-superpose: invalid choice: 'none'"),
        ("--bf16=1", "argument --bf16: ignored explicit argument '1'"),
    ],
)
def test_a_slip_in_a_command_line_is_one_sentence(words: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        read_words(words.split(), ["--gpu-memory"])
    assert "\n" not in str(raised.value)


def test_a_command_line_is_read() -> None:
    flags = read_words(["--lr=1e-3", "--data-path", "0.5", "a", "--seed", "-1"])
    assert (flags.lr, flags.data_path, flags.seed) == (1e-3, ["0.5", "a"], -1)
    with pytest.raises(NotKnownError):
        read_words(["--lr", "1", "--help"])


def test_flags_that_contradict_one_another_are_named() -> None:
    check_together(["--recipe=tiny-tst", "--moe-layer-freq=2"])
    with pytest.raises(UserError, match=r"--tst-schedule and .* two forms"):
        check_together(["--tst-schedule=4:0.1", "--tst-bag-size=2"])
