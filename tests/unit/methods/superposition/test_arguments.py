"""Flags: what they mean, and that every one that cannot work is told in a sentence."""

import argparse
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from megatron.training.arguments import add_megatron_arguments
from saved import save_arguments

from tst_megatron.errors import UserError
from tst_megatron.methods.registry import add_arguments, check_flags, run_of
from tst_megatron.methods.superposition import combinations
from tst_megatron.methods.superposition.combinations import (
    _UNSUPPORTED,
    _UNSUPPORTED_BY_CHUNKS,
)
from tst_megatron.methods.superposition.settings import Superposition
from tst_megatron.runs.stages import data_tokens
from tst_megatron.trainer import memory


def parse(*flags: str) -> argparse.Namespace:
    parser = add_arguments(add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False)))
    args = parser.parse_args(["--train-iters=100", "--global-batch-size=8", *flags])
    args.step_batch_size_schedule = None
    return args


def superposition_from_args(args: argparse.Namespace) -> Superposition:
    (run,) = run_of(args).parts
    return run.superposition


def stages(*flags: str) -> list[tuple[int, int]]:
    args = parse(*flags)
    check_flags(args)
    superposition = superposition_from_args(args)
    return [(stage.bag_size, stage.num_samples) for stage in superposition.schedule.stages]


def refusal(*flags: str) -> str:
    with pytest.raises(UserError) as refused:
        stages(*flags)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_the_two_forms_of_a_schedule() -> None:
    assert stages("--tst-bag-size=6") == [(6, 30 * 8), (1, 70 * 8)]
    assert stages("--tst-bag-size=6", "--tst-step-ratio=0.25") == [(6, 25 * 8), (1, 75 * 8)]
    assert stages("--tst-schedule=16:0.2,4:0.1") == [(16, 160), (4, 80), (1, 560)]
    assert stages("--tst-schedule=4:1.0") == [(4, 800), (1, 0)]


def test_lengths_in_steps_and_tokens() -> None:
    assert stages("--tst-schedule=16:0.2,4:25steps") == [(16, 160), (4, 200), (1, 440)]
    # A step of bags of 4 reads 8 · 16 · 4 tokens; with output alone superposed, single ones.
    tokens = ("--tst-schedule=4:10Ktokens", "--seq-length=16")
    assert stages(*tokens) == [(4, 20 * 8), (1, 80 * 8)]
    assert stages(*tokens, "--tst-superpose=output") == [(4, 78 * 8), (1, 22 * 8)]
    assert "add --seq-length" in refusal("--tst-schedule=4:10Ktokens")
    assert "4:20000steps ends after the 100 steps" in refusal("--tst-schedule=4:20000steps")


def test_a_step_ratio_is_a_share(capsys) -> None:
    with pytest.raises(SystemExit):
        parse("--tst-bag-size=4", "--tst-step-ratio=6000steps")
    said = capsys.readouterr().err
    assert "'6000steps' is no share of the steps: write for example 0.3, or steps" in said


def test_tokens_that_are_no_whole_steps_are_told(caplog) -> None:
    for schedule, told in (("4:10Ktokens", 1), ("4:10240tokens", 0), ("4:20steps", 0)):
        args = parse(f"--tst-schedule={schedule}", "--seq-length=16")
        args.rank = 0
        caplog.clear()
        run_of(args).check(args)
        assert len(caplog.records) == told
        if told:
            assert "4:10000tokens is no whole number of steps" in caplog.text
            assert "reads 10,240 tokens in 160 samples" in caplog.text


def test_a_switch_left_to_measurement() -> None:
    validated = ("--eval-interval=5", "--eval-iters=2")
    # Superposed as long as may be, until it is decided.
    assert stages("--tst-schedule=auto:4", *validated) == [(4, 400), (1, 400)]
    assert stages("--tst-schedule=auto:4:0.2,0.3", *validated) == [(4, 240), (1, 560)]
    assert "write for example auto:4:0.1,0.5" in refusal("--tst-schedule=auto:4:0.1", *validated)
    assert "use one" in refusal("--tst-schedule=auto:4", "--tst-step-ratio=0.3", *validated)
    for flags, says in (
        (("--eval-interval=5", "--eval-iters=0"), "held-out bag loss"),
        (("--eval-iters=2",), "add --eval-interval"),
        ((*validated, "--ckpt-format=torch_dcp"), "--ckpt-format other than torch_dist"),
        ((*validated, "--non-persistent-ckpt-type=local"), "last persistent checkpoint"),
        ((*validated, "--load=msc://bucket/run"), "--load from object storage"),
    ):
        assert says in refusal("--tst-schedule=auto:4", *flags)


def test_a_batch_size_that_changes_is_refused_for_auto() -> None:
    args = parse("--tst-schedule=auto:4", "--eval-interval=5", "--eval-iters=2", "--seq-length=8")
    args.step_batch_size_schedule = "0:4 320:8"
    with pytest.raises(UserError, match="--step-batch-size-schedule does not go with"):
        check_flags(args)


def test_samples_instead_of_steps() -> None:
    args = parse("--tst-bag-size=4", "--train-samples=805")
    args.train_iters = None
    superposition = superposition_from_args(args)
    assert [s.num_samples for s in superposition.schedule.stages] == [30 * 8, 70 * 8]


def test_a_run_without_a_number_of_steps_is_refused() -> None:
    args = parse("--tst-bag-size=4")
    args.train_iters = None
    with pytest.raises(UserError, match="add --train-iters"):
        superposition_from_args(args)


def test_no_flag_is_an_ordinary_run() -> None:
    args = parse()
    check_flags(args)
    run = run_of(args)
    assert run.parts == ()
    assert [(stage.name, stage.samples, stage.loss) for stage in run.stages] == [
        ("single tokens", 800, "lm loss")
    ]


def test_output_superposition_reads_single_tokens() -> None:
    args = parse("--tst-bag-size=4", "--tst-superpose=output")
    superposition = superposition_from_args(args)
    assert not superposition.reads_bags
    assert superposition.predicts_bags
    assert {stage.bag_size for stage in superposition.data_schedule.stages} == {1}
    assert data_tokens(run_of(args).stages, 800, 16) == 800 * 16


def test_a_run_of_no_steps_is_an_ordinary_one() -> None:
    """Evaluation alone, with --skip-train."""
    args = parse()
    args.train_iters = 0
    assert [stage.samples for stage in run_of(args).stages] == [0]


OF_DOCUMENTS = ("--tst-bag-size=4", "--tst-bag-boundary=document")


@pytest.mark.parametrize(
    "flag",
    [
        "--reset-attention-mask",
        "--reset-position-ids",
        "--eod-mask-loss",
        "--dataloader-inter-document-masking",
    ],
)
def test_documents_are_kept_apart_in_bags_of_their_own(flag: str) -> None:
    assert "add --tst-bag-boundary document" in refusal("--tst-bag-size=4", flag)
    check_flags(parse(*OF_DOCUMENTS, flag))


def test_what_cannot_keep_documents_apart_is_named() -> None:
    no_mask = "--no-create-attention-mask-in-dataloader"
    message = refusal(*OF_DOCUMENTS, "--reset-attention-mask", no_mask)
    assert "--dataloader-inter-document-masking" in message
    packed = (*OF_DOCUMENTS, "--dataloader-inter-document-masking")
    check_flags(parse(*packed, "--reset-attention-mask", no_mask))
    stages = "--pipeline-model-parallel-size=2"
    assert "--micro-batch-size" in refusal(*packed, stages, "--micro-batch-size=2")
    check_flags(parse(*packed, stages, "--micro-batch-size=1"))


def test_where_empty_places_are() -> None:
    def reads(*flags: str) -> bool:
        return superposition_from_args(parse(*flags)).reads_empty_places

    assert not reads("--tst-bag-size=4")
    assert reads(*OF_DOCUMENTS)
    assert reads(*OF_DOCUMENTS, "--tst-superpose=input")
    assert not reads(*OF_DOCUMENTS, "--tst-superpose=output")


@pytest.mark.parametrize("named", [None, "kernel", "eager"])
def test_the_model_is_told_how_the_loss_is_computed(named: str | None) -> None:
    flags = () if named is None else (f"--tst-loss-implementation={named}",)
    run = run_of(parse("--tst-bag-size=4", *flags))
    (hook,) = run.configure_model(SimpleNamespace(pre_wrap_hooks=[])).pre_wrap_hooks
    assert hook.keywords["loss_implementation"] == named


def test_a_run_goes_on_with_another_loss_implementation(tmp_path: Path) -> None:
    before = run_of(parse("--tst-bag-size=4", "--tst-loss-implementation=kernel"))
    args = parse(save_arguments(tmp_path, tst_superposition=before.saved()))
    memory.check_resume(args, run_of(parse("--tst-bag-size=4", "--tst-loss-implementation=eager")))


def test_a_checkpoint_knows_the_boundary(tmp_path: Path) -> None:
    """One saved before there was a choice was trained on bags of the running text."""
    saved = run_of(parse("--tst-bag-size=4")).saved()
    assert saved.pop("bag_boundary") == "any"
    args = parse(save_arguments(tmp_path, tst_superposition=saved))
    memory.check_resume(args, run_of(parse("--tst-bag-size=4")))
    with pytest.raises(UserError, match=r'"any".*"document"'):
        memory.check_resume(args, run_of(parse(*OF_DOCUMENTS)))


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--tst-bag-boundary=document",), ("--tst-bag-boundary", "add --tst-bag-size")),
        (("--tst-bag-size=0",), ("--tst-bag-size", "0", "below 1")),
        (("--tst-bag-size=-3",), ("-3", "below 1")),
        (("--tst-bag-size=4", "--tst-step-ratio=0"), ("share 0", "not above 0")),
        (("--tst-bag-size=4", "--tst-step-ratio=-0.5"), ("-0.5", "not above 0")),
        (("--tst-bag-size=4", "--tst-step-ratio=nan"), ("nan", "not above 0")),
        (("--tst-bag-size=4", "--tst-step-ratio=1.5"), ("1.5", "past 1")),
        (("--tst-schedule=4:0.7,2:0.5",), ("1.2", "past 1")),
        (("--tst-schedule=4:0.001",), ("4:0.001", "0 of 100 steps")),
        (("--tst-schedule=four:0.1",), ("four:0.1", "BAG_SIZE:SHARE")),
        (("--tst-schedule=",), ("BAG_SIZE:SHARE",)),
        (("--tst-schedule=4:6000stpes",), ("4:6000stpes", "BAG_SIZE:Nsteps", "BAG_SIZE:Ntokens")),
        (("--tst-schedule=4:6000",), ("past 1", "6000steps")),
        (("--tst-schedule=4:0.3", "--tst-bag-size=4"), ("--tst-schedule", "--tst-bag-size")),
        (("--tst-step-ratio=0.3",), ("--tst-step-ratio", "add --tst-bag-size")),
        (("--tst-objective=mce-alt",), ("--tst-objective", "add --tst-bag-size")),
        (
            ("--tst-loss-implementation=eager",),
            ("--tst-loss-implementation", "add --tst-bag-size"),
        ),
        (
            ("--tst-bag-size=4", "--tst-objective=mce-alt", "--tst-bag-weights=power"),
            ("mce-alt", "weights"),
        ),
        (
            ("--tst-bag-size=4", "--tst-superpose=input", "--tst-bag-weights=power"),
            ("--tst-superpose input",),
        ),
        (
            ("--tst-bag-size=4", "--tst-superpose=input", "--tst-loss-implementation=eager"),
            ("--tst-superpose input", "--tst-loss-implementation"),
        ),
        (("--tst-logits-chunk-size=8",), ("--tst-logits-chunk-size", "add --tst-bag-size")),
        (("--tst-bag-size=4", "--tst-logits-chunk-size=-1"), ("-1 is no number of rows",)),
    ],
)
def test_bad_values_are_named(flags: tuple[str, ...], names: tuple[str, ...]) -> None:
    message = refusal(*flags)
    for name in names:
        assert name in message


@pytest.mark.parametrize(
    "flag",
    [
        "--reset-attention-mask",
        "--reset-position-ids",
        "--eod-mask-loss",
        "--dataloader-inter-document-masking",
        "--cuda-graph-impl full_iteration",
        "--fim-data",
        "--sft",
        "--position-embedding-type mrope",
        "--dataloader-type cyclic",
        "--iterations-to-skip 3",
        "--phase-transition-iterations 5",
        "--tensor-parallel-num-weight-shards 4",
        "--hybrid-context-parallel",
        "--logits-load-dir somewhere",
        "--decrease-batch-size-if-needed",
        "--overlap-moe-expert-parallel-comm",
    ],
)
def test_what_bags_cannot_go_with_is_named(flag: str) -> None:
    words = flag.split()
    assert words[0] in refusal("--tst-bag-size=4", *words)
    # And it is bags that it does not go with.
    check_flags(parse(*words))


@pytest.mark.parametrize(
    "flag",
    [
        "--use-torch-fsdp2",
        "--use-megatron-fsdp",
        "--use-mup",
        "--fp8-output-proj",
        "--defer-embedding-wgrad-compute",
        "--logits-save-dir somewhere",
        "--save-dgrads-interval 5",
        "--config-logger-dir somewhere",
    ],
)
def test_what_logits_in_chunks_cannot_go_with_is_named(flag: str) -> None:
    words = ("--tst-bag-size=4", *flag.split())
    message = refusal(*words, "--tst-logits-chunk-size=8")
    assert flag.split()[0] in message
    assert "--tst-logits-chunk-size" in message
    check_flags(parse(*words))


def test_chunks_do_not_go_with_logits_of_a_type_of_their_own() -> None:
    """A flag of the next Megatron's, which parses it to that."""
    args = parse("--tst-bag-size=4", "--tst-logits-chunk-size=8")
    args.logit_dtype = torch.float32
    with pytest.raises(UserError, match=r"--output-logit-dtype does not go with --tst-logits-chu"):
        check_flags(args)
    args.tst_logits_chunk_size = 0
    check_flags(args)


def test_chunks_do_not_go_with_the_experts_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bags do, as under `tests.gpu.unrefused_pretrain`."""
    experts = "--overlap-moe-expert-parallel-comm"
    others = tuple(row for row in combinations._UNSUPPORTED if row[1] != experts)
    monkeypatch.setattr(combinations, "_UNSUPPORTED", others)
    check_flags(parse("--tst-bag-size=4", experts))
    message = refusal("--tst-bag-size=4", experts, "--tst-logits-chunk-size=8")
    assert f"{experts} does not go with --tst-logits-chunk-size" in message


def test_single_targets_of_chunks_have_an_implementation() -> None:
    """Of whole logits the loss of single targets is Megatron's."""
    input_alone = ("--tst-bag-size=4", "--tst-superpose=input", "--tst-loss-implementation=eager")
    assert "leave --tst-bag-weights, " in refusal(*input_alone)
    check_flags(parse(*input_alone, "--tst-logits-chunk-size=8"))


def test_a_run_goes_on_with_other_chunks(tmp_path: Path) -> None:
    saved = run_of(parse("--tst-bag-size=4")).saved()
    args = parse(save_arguments(tmp_path, tst_superposition=saved))
    memory.check_resume(args, run_of(parse("--tst-bag-size=4", "--tst-logits-chunk-size=8")))


def test_every_flag_in_the_list_is_megatrons() -> None:
    known = add_megatron_arguments(argparse.ArgumentParser())._option_string_actions
    flags = {flag.split()[0] for _, flag, _ in (*_UNSUPPORTED, *_UNSUPPORTED_BY_CHUNKS)}
    # But one, of the next Megatron's.
    assert flags - set(known) == {"--output-logit-dtype"}
