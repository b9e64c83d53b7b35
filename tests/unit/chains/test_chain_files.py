"""What a chain's file says, and what is wrong with one, before anything starts."""

from pathlib import Path

import pytest

from tst_megatron.chains.chain import Chain, chain_of, out_of
from tst_megatron.chains.file import read_chain
from tst_megatron.errors import UserError

FLAGS = "train-iters: 1000, lr-wsd-decay-iters: 100, vocab-size: 384"
SMALL = "{name: small, until: 25%, flags: {num-layers: 2}}"
GROWN = "{name: grown, start: grow, flags: {grow: stack, num-layers: 8}}"


def read(
    folder: Path, *links: str, flags: str = FLAGS, more: str = "recipe: tiny", name: str = "stacked"
) -> Chain:
    file = folder / "chain.yaml"
    listed = "".join(f"  - {link}\n" for link in links)
    file.write_text(f"name: {name}\n{more}\nflags: {{{flags}}}\nlinks:\n{listed}")
    chain = read_chain(file)
    return chain_of(chain, out_of(chain, folder / "out"))


def value(words: tuple[str, ...], flag: str) -> str:
    (found,) = (word.partition("=")[2] for word in words if word.partition("=")[0] == flag)
    return found


def test_links_end_where_they_are_told_to_and_the_last_has_the_rest(tmp_path: Path) -> None:
    chain = read(
        tmp_path,
        SMALL,
        "{name: longer, steps: 100}",
        "{name: read, tokens: 51.2K}",
        "{name: rest}",
    )
    assert [link.last for link in chain.links] == [250, 350, 450, 1000]
    # 4 samples of 128 tokens a step.
    assert [link.data_tokens for link in chain.links] == [n * 512 for n in (250, 100, 100, 550)]
    assert not any(link.rounded for link in chain.links)


def test_whole_steps_are_said_to_be_rounded(tmp_path: Path) -> None:
    chain = read(
        tmp_path,
        "{name: a, until: 33.33%}",
        "{name: b, tokens: 1000}",
        "{name: c}",
    )
    assert [link.last for link in chain.links] == [333, 335, 1000]
    assert chain.links[0].rounded == "33.33% of 1,000 steps is 333.30"
    assert chain.links[1].rounded == "tokens 1000 is 1,024 tokens in whole steps"


def test_each_goes_on_from_the_one_before_at_its_last_step(tmp_path: Path) -> None:
    chain = read(tmp_path, SMALL, GROWN)
    small, grown = (link.words for link in chain.links)
    assert value(small, "--load") == value(small, "--save") == value(grown, "--load")
    assert value(grown, "--save") == str(tmp_path / "out/links/2-grown")
    assert value(small, "--exit-after-step") == value(grown, "--ckpt-step") == "250"
    assert "--load-once" in grown
    assert "--load-once" not in small
    assert value(small, "--ledger") == value(grown, "--ledger") == str(chain.ledger)
    assert not any(word.startswith("--exit-after-step") for word in grown)


def test_what_a_link_says_holds_until_another_says_otherwise(tmp_path: Path) -> None:
    chain = read(
        tmp_path,
        "{name: small, until: 25%, flags: {num-layers: 2, tst-bag-size: 4, tst-step-ratio: 0.25}}",
        "{name: grown, until: 50%, start: grow, flags: {grow: stack, num-layers: 4}}",
        "{name: more, until: 75%, flags: {micro-batch-size: 2}}",
        "{name: most, start: grow, flags: {grow: interleave, num-layers: 8}}",
    )
    assert [link.args.num_layers for link in chain.links] == [2, 4, 4, 8]
    assert [link.args.micro_batch_size for link in chain.links] == [4, 4, 2, 2]
    assert [link.args.grow for link in chain.links] == [None, "stack", "stack", "interleave"]
    stages = [(stage.name, stage.samples // 4) for stage in chain.links[-1].run.stages]
    assert stages == [
        ("bags of 4, 2 layers", 250),
        ("4 layers", 500),
        ("single tokens", 250),
    ]
    assert [link.data_tokens for link in chain.links] == [n * 512 for n in (1000, 250, 250, 250)]


def test_a_link_may_grow_in_width_after_one_in_depth(tmp_path: Path) -> None:
    sizes = "hidden-size: 256, ffn-hidden-size: 768, num-attention-heads: 8"
    width = f"{{grow: false, grow-width: direct, {sizes}}}"
    deeper = "{name: deeper, until: 50%, start: grow, flags: {grow: stack, num-layers: 4}}"
    chain = read(tmp_path, SMALL, deeper, f"{{name: wider, start: grow, flags: {width}}}")
    stages = [(stage.name, stage.samples // 4) for stage in chain.links[-1].run.stages]
    assert stages == [("2 layers", 250), ("hidden size 128", 250), ("single tokens", 500)]
    kept = width.replace("grow: false, ", "")
    with pytest.raises(UserError, match="--grow stack makes a model deeper, and 4 layers are not"):
        read(tmp_path, SMALL, deeper, f"{{name: wider, start: grow, flags: {kept}}}")
    with pytest.raises(UserError, match="link a, has grow-width in its flags: add start: grow"):
        read(tmp_path, f"{{name: a, flags: {width}}}")


def test_bags_are_counted_in_a_budget_of_tokens(tmp_path: Path) -> None:
    flags = f"{FLAGS}, tst-bag-size: 4, tst-step-ratio: 0.1"
    chain = read(tmp_path, "{name: a, tokens: 256000}", "{name: b}", flags=flags)
    # 100 steps of bags of 4, and as many again of single tokens.
    assert chain.links[0].last == 200


def test_a_schedule_of_its_own_is_taken_from_where_it_stands(tmp_path: Path) -> None:
    chain = read(
        tmp_path, SMALL, "{name: cooled, schedule: own, flags: {lr: 1e-4, lr-decay-style: cosine}}"
    )
    assert "--override-opt_param-scheduler" in chain.links[1].words
    assert "--override-opt_param-scheduler" not in chain.links[0].words


def test_without_a_recipe_and_with_a_default_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "chain.yaml"
    file.write_text("name: one\nlinks:\n  - name: only\n")
    chain = read_chain(file)
    assert out_of(chain, None) == tmp_path / "runs/one"
    with pytest.raises(UserError, match="link only, the length of the run is not known"):
        chain_of(chain, tmp_path)


REFUSED = {
    "a link without a name": (("{until: 25%}", GROWN), "a link without a name, number 1"),
    "twice": ((SMALL, SMALL.replace("25", "50"), "{name: c}"), "two links of the name small"),
    "an unknown key": (("{name: a, untill: 25%}", GROWN), "the key untill, which is none: did you"),
    "an unknown flag": (
        ("{name: a, until: 25%, flags: {num-layer: 2}}", GROWN),
        "link a, has the key num-layer, which is no flag",
    ),
    "no value of a flag": (
        ("{name: a, until: 25%, flags: {num-layers: two}}", GROWN),
        "link a, has num-layers: two, and the flag does not take that",
    ),
    "grow alone": (
        (SMALL, GROWN.replace("start: grow, ", "")),
        "link grown, has grow in its flags: add start: grow",
    ),
    "start alone": (
        (SMALL, GROWN.replace("grow: stack, ", "")),
        "link grown, has start: grow, and no grow or grow-width in its flags",
    ),
    "grow first": (
        (GROWN.replace("name", "until: 10%, name"), "{name: b}"),
        "no link is before it",
    ),
    "start": (
        (SMALL, GROWN.replace("start: grow", "start: shrink")),
        "link grown, has start: shrink, which is none: there are continue, grow, upcycle",
    ),
    "upcycle": (
        (SMALL, GROWN.replace("start: grow", "start: upcycle")),
        "link grown, has grow in its flags: add start: grow",
    ),
    "no multiple": (
        (SMALL, GROWN.replace("8", "5")),
        "link grown, --grow stack repeats whole models, and 5 layers are no multiple",
    ),
    "fewer layers": (
        (SMALL.replace("2}", "8}"), GROWN.replace("8", "2")),
        "link grown, --grow stack makes a model deeper, and 2 layers are not more than the 8",
    ),
    "more layers without growth": (
        (SMALL, "{name: b, flags: {num-layers: 8}}"),
        "link b, has num-layers 8, and link small before it 2",
    ),
    "another width": (
        (SMALL, GROWN.replace("num-layers", "hidden-size: 256, num-layers")),
        "link grown, has hidden-size 256, and link small before it 128",
    ),
    "another tokenizer": (
        (
            "{name: a, until: 25%, flags: {tokenizer-model: a.model}}",
            "{name: b, flags: {tokenizer-type: HuggingFaceTokenizer, tokenizer-model: it}}",
        ),
        "link b, goes on from link a, which is trained with another tokenizer (of the type Senten",
    ),
    "a rate": (
        (SMALL, GROWN.replace("num-layers", "lr: 1e-3, num-layers")),
        "link grown, has lr, which is the chain's, as one schedule goes over all links",
    ),
    "a length": (
        (SMALL, "{name: b, schedule: own, flags: {train-iters: 5}}"),
        "link b, has train-iters, which is the whole chain's",
    ),
    "a batch": (
        (SMALL, "{name: b, flags: {global-batch-size: 8}}"),
        "link b, has global-batch-size, which is the chain's",
    ),
    "a place": (
        (SMALL, "{name: b, flags: {save: here}}"),
        "link b, has save, which is the chain's",
    ),
    "no budget": (("{name: a}", GROWN), "link a, does not say how long it is"),
    "two budgets": (("{name: a, steps: 5, until: 5%}", GROWN), "has until and steps, and one says"),
    "no share": (
        ("{name: a, until: 0.25}", GROWN),
        "has until: 0.25, which is none: write such as",
    ),
    "half a step": (("{name: a, steps: 2.5}", GROWN), "has steps: 2.5, and steps are whole"),
    "hours": (
        ("{name: a, gpu_hours: 3}", GROWN),
        "has gpu_hours, and how many steps they are is not known before it runs",
    ),
    "nothing left": (
        ("{name: a, steps: 1000}", GROWN),
        "link a, would end after step 1,000 of the chain's 1,000",
    ),
    "backwards": (
        (SMALL, "{name: b, until: 20%}", "{name: c}"),
        "link b, would end after step 200, and the links before it are 250 steps",
    ),
    "something left": (
        (SMALL, "{name: b, until: 50%}"),
        "link b, ends after step 500 of the chain's 1,000, and is the last",
    ),
    "bags that go": (
        (
            "{name: a, until: 25%, flags: {tst-bag-size: 4, tst-step-ratio: 0.2}}",
            "{name: b, flags: {tst-bag-size: false, tst-step-ratio: false}}",
        ),
        "link b, leaves out what link a has of superposition",
    ),
    "other bags": (
        (
            "{name: a, until: 25%, flags: {tst-bag-size: 4, tst-step-ratio: 0.2}}",
            "{name: b, flags: {tst-bag-size: 8}}",
        ),
        "link b, the checkpoint in",
    ),
    "an open end": (
        (
            "{name: a, tokens: 1M, flags: {tst-schedule: 'auto:4:0.1,0.5'}}",
            "{name: b}",
        ),
        "has a budget in tokens, and where its stages end is decided as it runs",
    ),
    "what a recipe has": (
        ("{name: a, until: 25%, flags: {swiglu: false}}", "{name: b}"),
        "link a, leaves out swiglu, which the recipe tiny has",
    ),
    "a name that is no folder": (("{name: a/b, until: 25%}", GROWN), "has the name 'a/b'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_one_sentence(what: str, tmp_path: Path) -> None:
    links, says = REFUSED[what]
    with pytest.raises(UserError) as refused:
        read(tmp_path, *links)
    said = str(refused.value)
    assert said.startswith(f"the chain {tmp_path / 'chain.yaml'}")
    assert says in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"flags": f"{FLAGS}, grow: stack"}, "has grow, which is a link's"),
        ({"flags": f"{FLAGS}, ledger: here"}, "has ledger, which is the chain's to set"),
        ({"flags": "lr: 1e-3"}, "the length of the run is not known"),
        ({"more": "receipt: tiny"}, "the key receipt, which is none: did you mean recipe?"),
        ({"name": "a b"}, "has the name 'a b'"),
    ],
)
def test_so_is_what_all_links_cannot_share(given: dict[str, str], says: str, tmp_path) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path, SMALL, GROWN, **given)
    assert says in str(refused.value)
