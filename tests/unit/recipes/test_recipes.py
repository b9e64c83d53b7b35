from pathlib import Path

import pytest

from tst_megatron import demo, recipes
from tst_megatron.errors import UserError

MODELS = ("tiny", "tiny-moe", "smollm2-270m", "smollm2-600m", "smollm3-3b", "moe-10b-a1b")
_STEPS = {"train-iters", "lr-wsd-decay-iters"}


@pytest.fixture
def mine(tmp_path: Path):
    """Write a recipe of the user's, and name it."""

    def write(content: str, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.write_text(content)
        return str(path)

    return write


def _changes(one: str, other: str) -> set[str]:
    first, second = recipes.load(one), recipes.load(other)
    return {key for key in first | second if first.get(key) != second.get(key)}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_with_and_without_superposition_differs_in_that_and_in_steps(model: str) -> None:
    changes = _changes(f"{model}-baseline", f"{model}-tst")
    own = {key for key in changes if key.startswith("tst-")}
    assert own == {"tst-bag-size", "tst-step-ratio"}
    assert changes - own <= _STEPS


@pytest.mark.parametrize("kind", ["equal-loss", "equal-data"])
def test_longer_baselines_differ_in_steps(kind: str) -> None:
    assert _changes("smollm3-3b-baseline", f"smollm3-3b-baseline-{kind}") == _STEPS


def test_experts_of_the_3b_differ_from_it_in_them_and_in_layout() -> None:
    dense, experts = (recipes.load(f"{m}-baseline") for m in ("smollm3-3b", "moe-20b-a3b"))
    changes = _changes("smollm3-3b-baseline", "moe-20b-a3b-baseline")
    own = {key for key in changes if key.startswith("moe-")}
    layout = {"expert-model-parallel-size", "micro-batch-size"}
    assert changes - own == {"num-experts", *layout}
    # Eight MLPs in eighths, of which one MLP's width works on a token.
    width, mlp = experts["moe-ffn-hidden-size"], dense["ffn-hidden-size"]
    assert (experts["num-experts"] * width, experts["moe-router-topk"] * width) == (8 * mlp, mlp)


def test_the_tiny_recipes_are_the_demos_runs() -> None:
    assert (demo.BASELINE, demo.TST) == ("tiny-baseline", "tiny-tst")
    assert recipes.load("tiny-baseline").items() >= recipes.load("tiny").items()
    assert demo.usual_steps() == 14_000
    assert demo.usual_tst_flags() == ("--tst-bag-size=4", "--tst-step-ratio=0.35")


def test_flags_after_the_recipe_win(mine) -> None:
    recipe = mine("lr: 0.1\nswiglu: true\nfp16: false\nspec: [a.b, c]\nseed: null\n")
    assert recipes.expand_recipe(["--seed", "3", "--recipe", recipe, "--lr=0.2"]) == [
        *("--lr", "0.1", "--swiglu", "--spec", "a.b", "c"),
        *("--seed", "3", "--lr=0.2"),
    ]
    assert recipes.expand_recipe([f"--recipe={recipe}"])[:2] == ["--lr", "0.1"]
    assert recipes.expand_recipe(["--lr", "1"]) == ["--lr", "1"]


def test_values_are_handed_on_as_they_are_written(mine) -> None:
    """YAML 1.1 has 240.3, 8 and 1.1 here."""
    recipe = mine("tst-schedule: 4:0.3\nwandb-exp-name: 010\nwandb-project: 1.10\nlr: 1e-3\n")
    assert recipes.expand_recipe(["--recipe", recipe]) == [
        *("--tst-schedule", "4:0.3", "--wandb-exp-name", "010"),
        *("--wandb-project", "1.10", "--lr", "1e-3"),
    ]
    assert recipes.load(recipe)["lr"] == 0.001


def test_one_form_of_the_schedule_replaces_the_other(mine) -> None:
    bags = mine("tst-bag-size: 4\ntst-step-ratio: 0.3\nlr: 1\n", "bags.yaml")
    schedule = mine("tst-schedule: 4:0.3\nlr: 1\n", "schedule.yaml")
    for recipe, own in ((bags, ["--tst-schedule", "4:0.1"]), (schedule, ["--tst-bag-size=8"])):
        assert recipes.expand_recipe(["--recipe", recipe, *own]) == ["--lr", "1", *own]
    child = mine("extends: bags.yaml\ntst-schedule: 16:0.2,4:0.1\n", "child.yaml")
    assert recipes.flags(recipes.load(child)) == ["--lr", "1", "--tst-schedule", "16:0.2,4:0.1"]
    # One of a pair leaves the other as it is; both forms at once are for the checks to refuse.
    kept = recipes.expand_recipe(["--recipe", bags, "--tst-step-ratio=0.2"])
    assert kept[:4] == ["--tst-bag-size", "4", "--tst-step-ratio", "0.3"]
    both = ["--tst-bag-size=8", "--tst-schedule=4:0.1"]
    assert recipes.expand_recipe(["--recipe", bags, *both])[:2] == ["--tst-bag-size", "4"]


def test_one_form_of_the_data_replaces_the_others(mine) -> None:
    parent = mine("blend: {sources: [{path: web}]}\nlr: 1\n", "parent.yaml")
    assert recipes.load(parent) == {"blend": parent, "lr": 1}
    child = mine("extends: parent.yaml\ndata_path: code\n")
    assert recipes.flags(recipes.load(child)) == ["--lr", "1", "--data-path", "code"]
    own = ["--train-data-path", "a", "--valid-data-path=b"]
    assert recipes.expand_recipe(["--recipe", child, *own]) == ["--lr", "1", *own]
    # What is left out displaces nothing.
    without = mine("extends: parent.yaml\ntst-schedule: null\ndata-path: null\n", "without.yaml")
    assert recipes.load(without)["blend"] == parent


def test_a_later_value_takes_the_place_of_an_earlier_one(mine) -> None:
    mine(
        "about: the parent\nlr: 1\nseed: 1\nswiglu: true\n"
        "layout: 2xcpu\n"
        "layouts: {2xcpu: {seed: 2, split: '1'}, 8xh100: {about: eight, seed: 3}}\n"
        "precisions: {low: {seed: 4, only-on: [h100]}, high: {seed: 5}}\n",
        "parent.yaml",
    )
    recipe = mine(
        "extends: parent.yaml\nswiglu: false\nnum_layers: 2\n"
        "layouts: {2xcpu: {lr: 3}, 4xcpu: {lr: 4}}\n"
    )
    assert recipes.load(recipe) == {
        **{"lr": 3, "seed": 2, "swiglu": False, "num-layers": 2, "split": "1"}
    }
    assert recipes.load(f"{recipe}+4xcpu")["lr"] == 4
    assert recipes.load(f"{recipe}+high")["seed"] == 5
    found = recipes.read(f"{recipe}+8xh100+low")
    assert found.settings == recipes.read(f"{recipe}+low+8xh100").settings
    assert (found.about, found.machine) == ("the parent", (8, "h100"))
    given = [(one.value, Path(one.source).name) for one in found.settings["seed"]]
    assert given == [
        *((1, "parent.yaml"), (3, "parent.yaml, 8xh100"), (4, "parent.yaml, low")),
    ]


def test_overrides_are_seen_with_what_they_override() -> None:
    recipe = recipes.read("smollm3-3b-tst")
    names = {"learning-rate": "lr"}
    words = ["--learning-rate", "0.1", "--tst-schedule=4:0.1", "--data-path", "0.5", "a", "--bf16"]
    given = recipe.overridden(words, lambda key: names.get(key, key))
    assert [one.value for one in given.settings["lr"]] == [2e-4, "0.1"]
    assert given.values["data-path"] == ["0.5", "a"]
    assert given.values["bf16"] is True
    assert (given.values["tst-bag-size"], given.values["tst-schedule"]) == (None, "4:0.1")
    assert {s[-1].source for s in given.settings.values() if len(s) > 1} >= {recipes.COMMAND_LINE}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--recipe", "nope"], "there is no recipe 'nope': use one of .*tiny"),
        (["--recipe", "smollm3-3b"], "did you mean smollm3-3b-tst"),
        (["--recipe", "_cluster/../tiny"], "there is no recipe"),
        (["--recipe", "gone.yaml"], "gone.yaml cannot be read"),
        (["--recipe"], "--recipe needs a name"),
        (["--recipe", "tiny", "--recipe=tiny"], "given twice"),
        (["--recipe", "tiny+8xh100"], "tiny has no layout or precision '8xh100': leave it out"),
        (["--recipe", "tiny-moe-tst+2xgpu"], "no layout or precision '2xgpu': did you mean 2xcpu"),
        (["--recipe", "smollm3-3b-tst+8xh100+64xh100"], "two layouts, 8xh100 and 64xh100"),
        (["--recipe", "smollm3-3b-tst+bf16+bf16"], "two precisions"),
        (["--recipe", "smollm3-3b-tst+8xh100+mxfp8"], "mxfp8 needs b200 or .* is for h100"),
        (["--recipe", "tiny+"], "no layout or precision ''"),
    ],
)
def test_a_bad_recipe_is_named(argv: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        recipes.expand_recipe(argv)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [", "is not YAML"),
        ("swiglu: yes\n", "has yes on line 1, .*: write true or false"),
        ("- a\n- b\n", "not a mapping"),
        ("just text", "not a mapping"),
        ("lr: 1\nlr: 2\n", "the key lr twice"),
        ("num_layers: 1\nnum-layers: 2\n", "num_layers and num-layers, two spellings of one key"),
        ("layouts: {8xh100: {lr: 1, lr: 2}}", "the key lr twice"),
        ("? [a, b]\n: 1\n", "a key that is no word"),
        ("lr: {a: 1}\n", "values inside values"),
        ("extends: 3\n", "has 3 as extends"),
        ("extends: tiny-tsd\n", "extends 'tiny-tsd', which is not there: did you mean tiny-tst"),
        ("extends: gone.yaml\n", "extends 'gone.yaml', which is not there"),
        ("extends: mine.yaml\n", "extends mine.yaml, which extends it in turn"),
        ("layouts: 3\n", "layouts that are no mapping"),
        ("layouts: {8xh100: 3}\n", "layouts 8xh100, is not a mapping"),
        ("layouts: {large: {lr: 1}}\n", "a layout 'large': name it after its GPUs"),
        ("layout: 8xh100\n", "'8xh100' as its layout and none of that name"),
        ("precisions: {bf16: {only-on: h100}}\n", "a list of GPUs as only-on"),
    ],
)
def test_a_broken_recipe_is_named(mine, content: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        recipes.expand_recipe(["--recipe", mine(content)])
    assert "mine.yaml" in str(raised.value)


def test_a_recipe_that_is_not_text_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"mine\.yaml cannot be read: it is not text in UTF-8"):
        recipes.load(str(recipe))


def test_two_recipes_that_extend_each_other_are_named(mine) -> None:
    mine("extends: second.yaml\n", "first.yaml")
    second = mine("extends: first.yaml\n", "second.yaml")
    with pytest.raises(UserError, match="which extends it in turn"):
        recipes.load(second)


def test_a_file_may_have_a_plus_in_its_name(mine) -> None:
    recipe = mine("layouts: {2xcpu: {lr: 1}}\n", "a+b.yaml")
    assert recipes.load(recipe) == {}
    assert recipes.load(f"{recipe}+2xcpu") == {"lr": 1}
