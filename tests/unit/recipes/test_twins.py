"""Every recipe's twin: a HybridModel of the same blocks, planned to the same figures."""

from pathlib import Path

import pytest
from counted_corpora import parse

from tst_megatron import recipes
from tst_megatron.errors import UserError
from tst_megatron.recipes.files import names
from tst_megatron.recipes.recipe import expand_recipe

WITHOUT = [name for name in names() if name.endswith("-mod")]
"""A routed block is attention and an MLP together."""


@pytest.mark.parametrize("name", [name for name in names() if name not in WITHOUT])
def test_it_has_a_pattern_for_its_layers(name: str) -> None:
    own, twin = recipes.read(name).values, recipes.read(f"{name}+hybrid").values
    pattern = twin["hybrid-layer-pattern"]
    assert len(pattern) == 2 * own["num-layers"]
    assert set(pattern) == {"*", "E" if own.get("num-experts") else "-"}
    assert twin["num-layers"] is None
    same = set(own) - {"num-layers", "hybrid-layer-pattern", "moe-layer-freq"}
    for key in same - {key for key in own if "num-layers" in key}:
        assert twin[key] == own[key], key
    for key in ("num-layers-at-start-in-bf16", "recompute-num-layers"):
        assert twin.get(key) == (2 * own[key] if own.get(key) else own.get(key))


@pytest.mark.parametrize("name", WITHOUT)
def test_routed_blocks_have_none(name: str) -> None:
    with pytest.raises(UserError, match=rf"the recipe {name} has mod-capacity, which is of a GPT"):
        recipes.read(f"{name}+hybrid")


def mine(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_experts_in_some_layers_are_where_they_were(tmp_path: Path) -> None:
    for frequency, pattern in (("[0, 1, 1]", "*-*E*E"), ("2", "*E*-*E"), ("1", "*E*E*E")):
        text = f"num-layers: 3\nnum-experts: 4\nmoe-layer-freq: {frequency}\n"
        found = recipes.load(f"{mine(tmp_path, text)}+hybrid")
        assert found["hybrid-layer-pattern"] == pattern


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hidden-size: 8", "has no num-layers"),
        ("hybrid-layer-pattern: '*-'", "is a HybridModel's already: leave"),
        ("num-layers: 2\nmtp-num-layers: 1", "has mtp-num-layers, which is of a GPTModel's"),
        ("num-layers: 4\nno-rope-freq: 4", "has no-rope-freq, which is of a GPTModel's"),
        ("num-layers: 4\nmulti-latent-attention: true", "has multi-latent-attention, which is"),
        ("num-layers: 2\nnum-experts: 2\nmoe-layer-freq: '([0]*1+[1]*1)'", "or as a list of 2"),
    ],
)
def test_what_has_no_twin_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        recipes.load(f"{mine(tmp_path, text)}+hybrid")


def test_a_size_on_the_command_line_is_not_passed_over() -> None:
    for flag in ("--num-layers=8", "--num-experts=4", "--no-rope-freq=4", "--mod-capacity=0.5"):
        with pytest.raises(UserError, match=r"give --hybrid-layer-pattern with it, such as"):
            expand_recipe(["--recipe=tiny+hybrid", flag])
    assert "--num-experts=4" in expand_recipe(["--recipe=tiny-moe-tst+hybrid", "--num-experts=4"])
    words = expand_recipe(["--recipe=tiny+hybrid", "--hybrid-layer-pattern=*-"])
    assert parse(*words).hybrid_layer_pattern == "*-"
    assert "--num-layers" not in words
