"""``--multiple-validation-sets``: each set by itself, and all of them as one set of all their text;
with bags, whose loss is measured on each, with a test set after it, and in layouts that Megatron
alone fails over.
"""

import math
from pathlib import Path

import pytest
from rich.console import Console
from trainer import TINY, Job, Result, attempt, run, run_all

from tst_megatron.corpora.small_corpora import index_documents
from tst_megatron.runs.evaluations import BITS_A_BYTE, NATS_A_TOKEN
from tst_megatron.runs.run import run_of_ledger

FLAGS = (
    *(flag for flag in TINY if not flag.startswith(("--split", "--num-layers"))),
    *("--num-layers=4", "--full-validation"),
    *("--eval-micro-batch-size=1", "--eval-global-batch-size=1", "--eval-iters=1"),
    *("--train-iters=4", "--lr-wsd-decay-iters=1", "--eval-interval=2"),
    *("--tst-bag-size=2", "--tst-step-ratio=0.5"),
)
SETS, FIXED = "--multiple-validation-sets", "--fixed-validation"
LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "together": (1, (FIXED,)),
    "one rank": (1, (SETS, FIXED)),
    # On Megatron's own iterators, with names, and read twice: it takes as many steps as a set has
    # sequences, each of two micro-batches of one.
    "named": (1, (SETS, "--validation-set-names", "one", "other", "--eval-global-batch-size=2")),
    "tensor parallel": (2, (SETS, FIXED, "--tensor-model-parallel-size=2", "--sequence-parallel")),
    "interleaved": (
        2,
        (
            *(SETS, "--pipeline-model-parallel-size=2", "--eval-global-batch-size=2"),
            "--num-layers-per-virtual-pipeline-stage=1",
        ),
    ),
}
READ = {"tensor parallel": 1, "interleaved": 2}
"""How often a layout goes through a set."""


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory) -> tuple[str, ...]:
    """Two sets of unlike sizes beside the text to train on."""
    folder = tmp_path_factory.mktemp("sets")
    shortest = sorted((one for one in corpus.documents if len(one) > 500), key=len)[:3]
    parts = {"few": shortest[:1], "more": shortest[1:]}
    for name, documents in parts.items():
        index_documents(documents, corpus.tokenizer, folder / name, Console(quiet=True))
    cache = folder / "cache"
    return (
        *(f"--tokenizer-model={corpus.tokenizer}", f"--data-cache-path={cache}"),
        *(f"--train-data-path={corpus.prefix}", f"--test-data-path={corpus.prefix}"),
        *("--valid-data-path", *(str(folder / name) for name in parts)),
    )


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("runs")
    jobs = [
        Job(folder / name, (*FLAGS, *data, *flags), ranks)
        for name, (ranks, flags) in LAYOUTS.items()
    ]
    # Cut off before the first validation, and resumed.
    save = tuple(f"--{one}={folder / 'saved'}" for one in ("save", "load"))
    cut = (*FLAGS, *data, *LAYOUTS["interleaved"][1], *save, "--save-interval=1")
    run(Job(folder / "cut", (*cut, "--exit-interval=1"), 2))
    found = dict(zip(LAYOUTS, run_all(jobs), strict=True))
    return found | {"resumed": run(Job(folder / "resumed", cut, 2))}


def test_all_sets_are_one_of_all_their_text(runs) -> None:
    together, ours = (runs[name].ledger.validations for name in ("together", "one rank"))
    assert [line["step"] for line in ours] == [line["step"] for line in together] == [2, 4]
    for one, other in zip(ours, together, strict=True):
        # Sums of the same losses in another order, in float32.
        assert one["next_token_loss"] == pytest.approx(other["next_token_loss"], rel=1e-5)
        assert (one["tokens"], one["bytes"]) == (other["tokens"], other["bytes"])
    held_out = [runs[name].ledger.header["held_out"] for name in ("together", "one rank")]
    assert held_out[0] == held_out[1]


def test_each_set_is_told_by_its_name(runs) -> None:
    lines = runs["one rank"].ledger.validations
    for line in lines:
        few, more = line["sets"]["few"], line["sets"]["more"]
        assert few["tokens"] < more["tokens"]
        assert few["next_token_loss"] != more["next_token_loss"]
        for name in ("tokens", "bytes"):
            assert few[name] + more[name] == line[name]
        for name in ("next_token_loss",):
            mean = sum(one["tokens"] / line["tokens"] * one[name] for one in (few, more))
            assert line[name] == pytest.approx(mean, rel=1e-6)
        assert more["next_token_loss_stderr"] > 0
    # Of each, in bags, while the run is trained on them.
    of_bags = [set(one["losses"]) for one in lines[0]["sets"].values()]
    assert of_bags[0] == of_bags[1] == set(lines[0]["losses"]) != set()
    output = runs["one rank"].output
    assert " validation-few loss at iteration 2" in output
    assert " of few" in output
    assert " validation loss at iteration 4 on test set" in output.replace("  ", " ")
    named = runs["named"].ledger.validations
    assert [list(line["sets"]) for line in named] == [["one", "other"]] * 2
    for name, other in (("one", "few"), ("other", "more")):
        ours, theirs = named[-1]["sets"][name], lines[-1]["sets"][other]
        assert ours["tokens"] == 2 * theirs["tokens"]
        assert ours["next_token_loss"] == pytest.approx(theirs["next_token_loss"], rel=1e-5)
        # Of the sequences that there are: a variance in float32, of numbers near 5; of twice the
        # sequences it would be 0.71.
        errors = [of["next_token_loss_stderr"] for of in (ours, theirs)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-2)


@pytest.mark.parametrize("layout", ["tensor parallel", "interleaved"])
def test_a_layout_reads_the_same_sets(runs, layout: str) -> None:
    one, several = (runs[name].ledger.validations for name in ("one rank", layout))
    assert [line["step"] for line in several] == [line["step"] for line in one]
    for mine, theirs in zip(several, one, strict=True):
        assert list(mine["sets"]) == list(theirs["sets"])
        for name, of_set in mine["sets"].items():
            other = theirs["sets"][name]
            # Layouts draw their own weights, so that losses are near and no more.
            assert of_set["next_token_loss"] == pytest.approx(other["next_token_loss"], rel=0.1)
            for count in ("tokens", "bytes"):
                assert of_set[count] == READ[layout] * other[count]


def test_a_run_that_is_resumed_before_it_has_validated_validates(runs) -> None:
    unbroken, resumed = (runs[name].ledger.validations for name in ("interleaved", "resumed"))
    assert [line["step"] for line in resumed] == [2, 4]
    for ours, theirs in zip(resumed, unbroken, strict=True):
        assert ours["sets"] == theirs["sets"]


def test_a_comparison_has_each_set(runs) -> None:
    recorded = run_of_ledger(runs["one rank"].ledger, "run")
    last = [one for one in recorded.evaluations if one.step == 4]
    assert [one.task for one in last] == ["validation set few", "validation set more"]
    told = runs["one rank"].ledger.validations[-1]["sets"]["more"]
    bits, nats = (last[1].scores[metric] for metric in (BITS_A_BYTE, NATS_A_TOKEN))
    assert nats.value == told["next_token_loss"]
    wanted = told["next_token_loss"] * told["tokens"] / told["bytes"] / math.log(2)
    assert bits.value == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("--validation-set-names", "a"), "--validation-set-names without --multiple-validation-"),
        ((SETS, "--validation-set-names", "a"), "names 1, and --valid-data-path has 2"),
        ((SETS, "--validation-set-names", "a", "a"), "has a twice"),
        ((SETS, "no full"), "--multiple-validation-sets is of whole sets in Megatron: add --full"),
        ((SETS, "weights"), "leave its weights out"),
        ((SETS, "split"), "name them with --valid-data-path"),
    ],
)
def test_what_cannot_be_is_one_sentence(data, corpus, tmp_path: Path, changes, says) -> None:
    flags = [*FLAGS, *data]
    own = [one for one in changes if one.startswith("--") or len(one) == 1]
    if "no full" in changes:
        flags.remove("--full-validation")
    if "weights" in changes:
        places = flags[-2:]
        flags[-2:] = ["1", places[0], "2", places[1]]
    if "split" in changes:
        flags = [*FLAGS, *corpus.flags, "--split=90,10,0"]
    refused = attempt(tmp_path, (*flags, *own))
    assert refused.code == 2, refused.output[-2000:]
    assert says in refused.output, refused.output[-2000:]
