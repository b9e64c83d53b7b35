"""The flags of Megatron-LM's own launch scripts go through the trainer and the planner.

The files have all of a script's flags, those too that no CPU can follow: these are named in one
sentence, and everything else is done.
"""

from pathlib import Path

import pytest
from counted_corpora import parse
from launch_flags import Gpt2Files, flags_of, gpt2_files, without
from trainer import Job, run_all

from tst_megatron.backends import FLAGS
from tst_megatron.errors import UserError
from tst_megatron.planner.hardware import GPUS
from tst_megatron.planner.plan import make_plan
from tst_megatron.trainer import machine

# What the sentence on a CPU names.
_NEEDS_GPU = {
    "gpt3": (),
    "llama3_fp8": ("--fp8-format", "--fp8-param-gather", "--profile"),
    "mixtral": (),
}
# No GPU's business: a flag that Megatron parses and ignores, and a service.
_ASIDE = {
    "gpt3": ("--rampup-batch-size",),
    "llama3_fp8": (),
    "mixtral": ("--wandb-project", "--wandb-exp-name"),
}
_GPUS = {"gpt3": 4, "llama3_fp8": 8, "mixtral": 4}
_ONE_RANK = (
    "--tensor-model-parallel-size=1",
    "--pipeline-model-parallel-size=1",
    "--expert-model-parallel-size=1",
)
_BESIDE = {
    "gpt3": ("--tst-bag-size=2",),
    # Where the tokenizer has a size of its own, as in the Llama script's other half.
    "mixtral": ("--vocab-size=999",),
}

# Hidden 64, heads of 16. GPT-3: biases everywhere, 512 pieces after padding, tied.
_GPT3_LAYER = 12 * 64 * 64 + 13 * 64
_LLAMA_ATTENTION = 2 * 64 * 64 + 2 * 32 * 64
_PARAMETERS = {
    "gpt3": 4 * _GPT3_LAYER + 2 * 64 + (512 + 32) * 64,
    "llama3_fp8": 2 * (_LLAMA_ATTENTION + 3 * 64 * 160 + 4 * 64) + 2 * 64 + 2 * 512 * 64,
    "mixtral": 4 * (_LLAMA_ATTENTION + 4 * 3 * 64 * 160 + 4 * 64 + 2 * 64) + 64 + 2 * 384 * 64,
}


@pytest.fixture(scope="module")
def gpt2(corpus, tmp_path_factory: pytest.TempPathFactory) -> Gpt2Files:
    # Of a split 949,50,1 the last part has a document from 500 on.
    pieces = [text[at : at + 500] for text in corpus.documents for at in range(0, len(text), 500)]
    return gpt2_files(tmp_path_factory.mktemp("gpt2"), tuple(pieces))


def words(script: str, corpus, gpt2: Gpt2Files, folder: Path) -> list[str]:
    paths = {"vocab": gpt2.vocab, "merges": gpt2.merges, "data": gpt2.data}
    return flags_of(script, **paths, tokenizer=corpus.tokenizer, folder=folder)


@pytest.mark.parametrize("script", _GPUS)
def test_each_is_planned_whole(script: str, corpus, gpt2, tmp_path: Path) -> None:
    flags = without(words(script, corpus, gpt2, tmp_path), "--rampup-batch-size")
    plan = make_plan(flags, _GPUS[script], GPUS["h100"])
    assert plan.parameters.total == _PARAMETERS[script]
    assert sum(step.steps for step in plan.steps) == 50
    assert not list(tmp_path.iterdir())


def test_what_a_cpu_cannot_do_is_one_sentence(corpus, gpt2, tmp_path: Path) -> None:
    for script, flags in _NEEDS_GPU.items():
        kept = without(words(script, corpus, gpt2, tmp_path), *_ASIDE[script])
        asked = parse(*FLAGS, *kept)
        if not flags:
            machine.check_machine(asked, on_gpu=False)
            continue
        with pytest.raises(UserError) as refused:
            machine.check_machine(asked, on_gpu=False)
        assert all(flag in str(refused.value) for flag in flags)
        machine.check_machine(parse(*FLAGS, *without(kept, *flags)), on_gpu=False)


def test_each_trains(corpus, gpt2, tmp_path: Path) -> None:
    jobs = []
    for script, left_out in _NEEDS_GPU.items():
        out = tmp_path / script
        flags = without(words(script, corpus, gpt2, out), *left_out, *_ASIDE[script])
        jobs.append(Job(out, (*flags, *_ONE_RANK, *_BESIDE.get(script, ()), "--exit-interval=2")))
    results = run_all(jobs)
    for job, result in zip(jobs, results, strict=True):
        assert len(result.losses) == 2
        # Of a model that knows nothing yet: about the logarithm of its vocabulary.
        assert all(4 < loss < 8 for loss in result.losses)
        assert (job.out / "checkpoints/iter_0000002/.metadata").is_file()
    mixtral = results[-1]
    assert "--vocab-size 999 is not used: the tokenizer has 384 tokens" in mixtral.output
    assert mixtral.ledger.header["flags"]["padded_vocab_size"] == 384
