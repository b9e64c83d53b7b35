"""Refusals that need no torch come before it, and are the run's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from trainer import TINY

from tst_megatron.backends import FLAGS
from tst_megatron.errors import UserError
from tst_megatron.recipes.keys import read_words
from tst_megatron.trainer import pretrain
from tst_megatron.trainer.command_line import check_at_once, check_words, words_of

# Of one process that never imports torch: what each command line says, and with which code.
_AT_ONCE = """
import contextlib, io, json, sys
from tst_megatron import cli
answers = []
for words in json.load(sys.stdin):
    said = io.StringIO()
    sys.argv[1:] = words
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        cli.main()
    answers.append((said.getvalue(), sorted({"torch", "megatron"} & sys.modules.keys())))
print(json.dumps(answers))
"""


def test_a_refusal_comes_before_torch(tmp_path: Path) -> None:
    slip, blend, text = tmp_path / "slip.yaml", tmp_path / "blend.yaml", tmp_path / "text.jsonl"
    text.write_text('{"text": "a"}\n')
    slip.write_text("extends: tiny\nnum-layer: 2\n")
    blend.write_text("sources: [{path: web, wieght: 1}]\n")
    ids = "--tokenizer-type NullTokenizer --vocab-size 9"
    empty, model = tmp_path / "empty.jsonl", tmp_path / "tokenizer.model"
    empty.write_text("\n")
    model.write_bytes(b"")
    ask = f"--evaluate-text {text}"
    asking = f"pretrain --recipe tiny --tokenizer-model {model} --evaluate-at end"
    wanted = {
        "pretrain --mirco-batch-size 2": "did you mean --micro-batch-size?",
        "pretrain --recipe tini-tst": "did you mean tiny-tst?",
        f"pretrain --recipe {slip}": "did you mean num-layers?",
        "pretrain --recipe gone.yaml": "gone.yaml cannot be read",
        f"pretrain --blend {blend}": "the key 'wieght'",
        "pretrain --lr": "expected one argument",
        "pretrain --recipe tiny-tst --lr abc": "invalid float value: 'abc'",
        "pretrain --optimizer addam": "invalid choice: 'addam'",
        "pretrain --recipe tiny --tst-bag-size 0": "bag size 0",
        "pretrain --tst-step-ratio 0.3": "add --tst-bag-size",
        "pretrain --recipe tiny-tst --sft": "--sft does not go with",
        "pretrain --recipe tiny-tst --tokenizer-model gone": "--tokenizer-model gone is missing",
        f"pretrain --recipe tiny-tst --data-path {tmp_path}/no {ids}": (
            f"the corpus {tmp_path}/no is missing"
        ),
        f"pretrain {ids} --mock-data --save x": "add --save-interval",
        "pretrain --tokenizer-type NullTokenizer": "needs a --vocab-size",
        "pretrain --yaml-cfg x": "--yaml-cfg takes the place of the command line",
        "pretrain --recipe tiny --evaluate-at end": "--evaluate-at has nothing to ask",
        f"pretrain --recipe tiny --evaluate-text {text}": "add --evaluate-at",
        f"pretrain --recipe tiny --evaluate-at soon {ask}": "--evaluate-at soon is no step",
        f"pretrain --recipe tiny --evaluate-at every:0 {ask}": "--evaluate-at every:0 is no step",
        f"pretrain --recipe tiny --train-iters 9 --evaluate-at end 10 {ask}": (
            "--evaluate-at 10 is beyond the run, which has 9 steps"
        ),
        f"pretrain --recipe tiny --train-iters 9 --evaluate-at every:10 {ask}": (
            "--evaluate-at every:10 is beyond the run"
        ),
        f"pretrain --recipe tiny --evaluate-at 1 {ask} --evaluate-limit 0": (
            "--evaluate-limit 0 is below 1"
        ),
        f"pretrain --recipe tiny --evaluate-at 1 {ask} --evaluate-batch-size -1": (
            "--evaluate-batch-size -1 is below 1"
        ),
        f"pretrain --recipe tiny --evaluate-at 1 {ask} --skip-train": "--skip-train makes none",
        f"pretrain --recipe tiny --evaluate-at 1 {ask} --sft": "a tokenizer of conversations",
        f"pretrain --recipe tiny --evaluate-at 1 {ask} --cuda-graph-impl local": (
            "--cuda-graph-impl local has graphs of one shape"
        ),
        f"pretrain {ids} --mock-data --train-iters 9 --evaluate-at 1 {ask}": (
            "--tokenizer-type NullTokenizer reads ids alone"
        ),
        f"{asking} --evaluate-text {tmp_path}/no.jsonl": f"{tmp_path}/no.jsonl",
        f"{asking} --evaluate-text {empty}": f"--evaluate-text {empty} holds no document",
        f"{asking} --evaluate-text {text} {text}": f"--evaluate-text {text} is given twice",
        f"{asking} --evaluate-tasks {tmp_path}/no.yaml": f"the task {tmp_path}/no.yaml is missing",
        "plan --recipe smollm3-3b-tst --gpu-mem 80": "did you mean --gpu-memory?",
        "plan --recipe smollm3-3b": "did you mean smollm3-3b-tst?",
        "plan --recipe smollm3-3b-tst --gpu tpu": "--gpu tpu is not in the table",
        "plan --recipe smollm3-3b-tst --gpus 0": "--gpus 0",
        f"plan --recipe {slip}": "did you mean num-layers?",
        "plan --tst-step-ratio 0.3": "add --tst-bag-size",
        "plan --recipe smollm3-3b-tst --use-torch-fsdp2": "does not count --use-torch-fsdp2",
        "recipe show tiny --lrr 3": "did you mean lr?",
        "recipe show tiny --lr abc": "lr: abc",
    }
    done = subprocess.run(
        [sys.executable, "-c", _AT_ONCE],
        input=json.dumps([words.split() for words in wanted]),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    for (words, says), (said, imported) in zip(
        wanted.items(), json.loads(done.stdout.splitlines()[-1]), strict=True
    ):
        assert not imported, (words, said[-2000:])
        assert len(said.splitlines()) == 1, (words, said)
        assert said.startswith("tst-megatron: error: "), (words, said)
        assert says in said, (words, said)


def test_nothing_of_torch_is_asked_of_a_run_that_is_fine(corpus) -> None:
    """Or it would be imported before the machine is known."""
    code = (
        "import json, sys\n"
        "from tst_megatron.trainer.command_line import check_at_once, words_of\n"
        "check_at_once(words_of(json.load(sys.stdin)))\n"
        "assert not {'torch', 'megatron'} & sys.modules.keys()\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([*TINY, *corpus.flags, "--tst-bag-size=4"]),
        text=True,
        check=True,
    )


@pytest.mark.parametrize(
    "more",
    [
        "--tst-bag-size=0",
        "--tst-bag-size=4 --reset-attention-mask",
        "--data-path=/no/where",
        "--tokenizer-model=gone.model",
        "--num-experts=4 --tensor-model-parallel-size=2",
        "--save=checkpoints",
    ],
)
def test_the_run_itself_refuses_in_the_same_words(
    corpus, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pretrain"])
    words = [*FLAGS, *TINY, *corpus.flags, *more.split()]
    refusals = []
    for parse in (read_words, pretrain._parse_with_megatron):
        with pytest.raises(UserError) as refused:
            check_words(words, parse)
        refusals.append(str(refused.value))
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize(
    "more",
    [
        "",
        "--recipe=tiny-moe-tst",
        "--moe-layer-freq=([1]*2) --attention-backend=local --num-experts=2",
        "--help --no-such-flag",
        "--transformer-impl=transformer_engine",
        "--bf16 --tst-bag-size=4 --tst-loss-implementation=kernel",
    ],
)
def test_what_only_the_run_can_tell_is_left_to_it(
    corpus, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there is a GPU, and what Megatron makes of words of its own."""
    monkeypatch.delenv("TST_MEGATRON_DEVICE", raising=False)
    check_at_once(words_of([*TINY, *corpus.flags, *more.split()]))


def test_without_a_gpu_for_certain_its_flags_are_refused_at_once(
    corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TST_MEGATRON_DEVICE", "cpu")
    check_at_once([*TINY, *corpus.flags])
    with pytest.raises(UserError, match="--transformer-impl transformer_engine needs a GPU"):
        check_at_once([*TINY, *corpus.flags, "--transformer-impl=transformer_engine"])
