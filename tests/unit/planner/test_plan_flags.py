"""What a plan is refused for, in one sentence; and which flags need nothing of this machine."""

import pytest
from launch_flags import gpt2_files
from planned import DENSE, MOE, recipe_flags

from tst_megatron.errors import UserError
from tst_megatron.planner.flags import planned_args
from tst_megatron.planner.hardware import GPUS, gpu_named
from tst_megatron.planner.plan import make_plan

_REFUSED = [
    (
        DENSE,
        6,
        "--tensor-model-parallel-size=4",
        "--gpus 6 does not divide by .* use --gpus 4 or 8",
    ),
    (DENSE, 24, "--tensor-model-parallel-size=3", "--num-attention-heads 4 .* use .* 3 or 6"),
    (DENSE, 5, "", "--global-batch-size 64 does not divide by .*, 10: use .* 60 or 70"),
    (MOE, 24, "--expert-model-parallel-size=3", "--num-experts 8 does not divide by .* 6 or 9"),
    (DENSE, 4, "--expert-model-parallel-size=2", "--expert-model-parallel-size needs experts"),
    (DENSE, 3, "--context-parallel-size=3", "--seq-length 128 does not divide by .*, 6: "),
    (DENSE, 3, "--pipeline-model-parallel-size=3 --global-batch-size=66", "Megatron .*divisible"),
    (DENSE, 1, "--mirco-batch-size=1", "--mirco-batch-size is no flag .* --micro-batch-size"),
    (DENSE, 1, "--zzz", "--zzz is no flag of Megatron's or ours: leave it out"),
    (DENSE, 1, "--num-layers=two", "Megatron does not take these flags: .*--num-layers.*'two'"),
    (DENSE, 1, "--multi-latent-attention", "does not count --multi-latent-attention"),
    (DENSE, 1, "--use-torch-fsdp2", "does not count --use-torch-fsdp2"),
    (DENSE, 1, "--optimizer=sgd", "does not count --optimizer other than adam"),
    (DENSE, 1, "--hybrid-layer-pattern=M-*-", "does not count layers other than .*, - and E"),
    (DENSE, 1, "--yaml-cfg=a.yaml", "--yaml-cfg is not planned"),
    (DENSE, 1, "--tst-step-ratio=0.3", "--tst-step-ratio needs a bag size"),
    (DENSE, 1, "--rampup-batch-size 2 2 9", "does nothing .* as --step-batch-size-schedule '0:"),
    (DENSE, 1, "--bf16 --fp16", "Megatron refuses these flags: "),
    (DENSE, 1, "--checkpoint-activations", "is gone from Megatron: use --recompute-activations"),
    (DENSE, 1, "--attention-backend=local", "Megatron refuses .* only supported with --spec"),
]


@pytest.mark.parametrize(("flags", "num_gpus", "more", "why"), _REFUSED)
def test_one_sentence(flags, num_gpus, more, why) -> None:
    with pytest.raises(UserError, match=why) as refused:
        make_plan((*flags, *more.split()), num_gpus, GPUS["h100"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("left_out", "why"),
    [
        ("--padded-vocab-size", "size of the vocabulary is not known: add --vocab-size"),
        ("--train-iters", "length of the run is not known: add --train-iters"),
    ],
)
def test_what_a_plan_needs(left_out: str, why: str) -> None:
    flags = [flag for flag in DENSE if not flag.startswith(left_out)]
    with pytest.raises(UserError, match=why):
        make_plan(flags, 1, GPUS["h100"])


@pytest.mark.parametrize(
    "data",
    [
        "--mock-data --split=99,1,0",
        "--mock-data --data-path /nowhere/a --train-data-path /nowhere/b",
        "--data-path 1 /nowhere/a 2 --split=90,,10 --data-cache-path=/nowhere/cache",
        "--data-args-path=/nowhere/list --blend=/nowhere/blend.yaml",
        "--per-split-data-args-path=/nowhere/lists",
    ],
)
def test_what_is_read_is_not_asked(data: str) -> None:
    bags = (*DENSE, "--tst-bag-size=4")
    plan = make_plan((*bags, *data.split()), 1, GPUS["h100"])
    assert plan.as_json() == make_plan(bags, 1, GPUS["h100"]).as_json()


def test_a_tokenizer_that_is_not_here() -> None:
    flags = [flag for flag in DENSE if not flag.startswith("--padded-vocab-size")]
    tokenizer = ("--tokenizer-type=SentencePieceTokenizer", "--tokenizer-model=missing.model")
    with pytest.raises(UserError, match=r"missing.model cannot be read here .* add --vocab-size"):
        make_plan((*flags, *tokenizer), 1, GPUS["h100"])
    with planned_args((*flags, *tokenizer, "--vocab-size=300"), 1, GPUS["h100"]) as args:
        assert args.padded_vocab_size == 384


def test_a_tokenizer_that_is_broken(tmp_path) -> None:
    flags = [flag for flag in DENSE if not flag.startswith("--padded-vocab-size")]
    (tmp_path / "broken.model").write_bytes(b"no model")
    model = f"--tokenizer-model={tmp_path / 'broken.model'}"
    broken = (*flags, "--tokenizer-type=SentencePieceTokenizer", model, "--vocab-size=300")
    with pytest.raises(UserError, match=r"broken.model cannot be read here .* --vocab-size alone"):
        make_plan(broken, 1, GPUS["h100"])


@pytest.mark.parametrize("beside", [(), ("--vocab-size=1000",)], ids=["alone", "beside a size"])
def test_a_vocabulary_from_its_tokenizer(corpus, beside) -> None:
    flags = [flag for flag in DENSE if not flag.startswith("--padded-vocab-size")]
    tokenizer = ("--tokenizer-type=SentencePieceTokenizer", f"--tokenizer-model={corpus.tokenizer}")
    # Training takes the tokenizer's size, whatever --vocab-size says.
    with planned_args((*flags, *tokenizer, *beside), 1, GPUS["h100"]) as args:
        assert args.padded_vocab_size == 384
    with pytest.raises(UserError, match="--vocab-size 300 is below the tokenizer's 384 tokens"):
        make_plan((*flags, *tokenizer, "--vocab-size=300"), 1, GPUS["h100"])


def test_gpt2s_vocabulary(corpus, tmp_path) -> None:
    flags = [flag for flag in DENSE if not flag.startswith("--padded-vocab-size")]
    gone = ("--vocab-file=gone.json", "--merge-file=gone.txt")
    plan = make_plan((*flags, *gone), 1, GPUS["h100"])
    # 50,257 tokens, in multiples of 128.
    assert plan.parameters.embedding == 50304 * 64
    assert any("50,257" in note for note in plan.notes)
    files = gpt2_files(tmp_path, corpus.documents[:20])
    here = (f"--vocab-file={files.vocab}", f"--merge-file={files.merges}")
    with planned_args((*flags, *here), 1, GPUS["h100"]) as args:
        assert args.padded_vocab_size == 512


def test_flags_that_say_nothing_about_the_plan() -> None:
    """What is not opened, written, measured or told to anybody changes no figure."""
    aside = (
        *("--profile", "--profile-step-start=4", "--use-pytorch-profiler", "--nvtx-ranges"),
        *("--tensorboard-dir=/nowhere", "--log-memory-to-tensorboard", "--log-throughput"),
        *("--wandb-project=mine", "--wandb-exp-name=one", "--one-logger-run-name=mine"),
        *("--save=/nowhere", "--load=/nowhere", "--save-interval=10", "--log-energy"),
        *("--data-path=/nowhere", "--split=99,1,0", "--num-workers=1", "--no-mmap-bin-files"),
        *("--manual-gc", "--empty-unused-memory-level=1", "--exit-duration-in-mins=235"),
        *("--enable-ft-package", "--non-persistent-ckpt-type=global"),
        *("--attention-backend=fused", "--apply-layernorm-1p", "--run-workload-inspector-server"),
    )
    plain = make_plan(DENSE, 1, GPUS["h100"]).as_json()
    assert make_plan((*DENSE, *aside), 1, GPUS["h100"]).as_json() == plain
    mock = make_plan((*DENSE, "--mock-data"), 1, GPUS["h100"]).as_json()
    assert mock == plain


def test_an_unknown_gpu() -> None:
    with pytest.raises(UserError, match="--gpu v100 is not in the table: use one of a100, h100"):
        gpu_named("v100")
    assert gpu_named("B200") is GPUS["b200"]


@pytest.mark.parametrize("precision", ["bf16", "fp8-delayed", "fp8-tensorwise", "mxfp8"])
@pytest.mark.parametrize("model", ["smollm2-270m-tst", "moe-10b-a1b-tst"])
def test_recipes_need_neither_gpu_nor_files(model: str, precision: str) -> None:
    flags = recipe_flags(f"{model}+8xb200+{precision}", "--data-path=missing", "--save=/missing")
    plan = make_plan(flags, 8, GPUS["b200"])
    assert plan.fits
    assert ("fp8" in plan.layout["precision"]) == (precision != "bf16")


def test_nothing_is_printed(capsys) -> None:
    make_plan(DENSE, 1, GPUS["h100"])
    assert capsys.readouterr().out == ""
