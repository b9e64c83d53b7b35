"""The laptop's recipes through the real trainer, the one with experts on two ranks."""

import math
from pathlib import Path

import pytest
from ledgers import bag_size
from trainer import Job, Result, run, run_all

# A whole run of ten steps, instead of the recipe's 14,000, on less text.
SHORT = (
    "--split=900,100,0",
    *("--train-iters=10", "--lr-warmup-iters=2", "--lr-wsd-decay-iters=1"),
    *("--eval-interval=5", "--eval-iters=1", "--log-interval=1"),
)
RECIPES = {
    "tiny-tst": 1,
    "tiny-moe-baseline+2xcpu": 2,
    "tiny-moe-tst+2xcpu": 2,
    "tiny-moe-tst+2xcpu+hybrid": 2,
}


@pytest.fixture(scope="module")
def results(corpus, tmp_path_factory) -> dict[str, Result]:
    root = tmp_path_factory.mktemp("recipes")
    jobs = [
        Job(root / recipe, (f"--recipe={recipe}", *corpus.flags, *SHORT), num_ranks)
        for recipe, num_ranks in RECIPES.items()
    ]
    return dict(zip(RECIPES, run_all(jobs), strict=True))


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_trains(results, recipe: str) -> None:
    result = results[recipe]
    bag_sizes = [bag_size(line) for line in result.ledger.steps]
    assert bag_sizes == ([4] * 4 + [1] * 6 if "tst" in recipe else [1] * 10)
    assert len(result.losses) == 10
    assert all(math.isfinite(loss) for loss in (*result.losses, *result.grad_norms))
    assert result.losses[-1] < result.losses[0]


def test_experts_are_on_two_ranks(results) -> None:
    for recipe in ("tiny-moe-baseline+2xcpu", "tiny-moe-tst+2xcpu"):
        flags = results[recipe].ledger.header["flags"]
        assert (flags["expert_model_parallel_size"], flags["num_experts"]) == (2, 8)


def test_a_hybrid_models_losses_are_its_twins(results) -> None:
    ours, theirs = (results[f"tiny-moe-tst+2xcpu{which}"] for which in ("+hybrid", ""))
    assert ours.ledger.header["flags"]["hybrid_layer_pattern"] == "*E*E"
    assert ours.losses == theirs.losses
    assert [line["flops"] for line in ours.ledger.steps] == [
        line["flops"] for line in theirs.ledger.steps
    ]
    assert ours.ledger.header["parameters"] == theirs.ledger.header["parameters"]


def test_a_slip_in_a_recipe_of_ones_own_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: tiny-tst\nlr-warmup-iter: 10\n")
    result = run(Job(tmp_path, (f"--recipe={recipe}",), torchrun=False), check=False)
    assert result.code == 2
    assert (
        f"tst-megatron: error: the recipe {recipe} has the key lr-warmup-iter, which is no flag of "
        "Megatron's or ours: did you mean lr-warmup-iters?"
    ) in result.output
