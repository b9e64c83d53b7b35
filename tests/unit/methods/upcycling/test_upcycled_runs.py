"""What upcycling remembers, what it goes on from, and what it refuses; without a trainer."""

from argparse import ArgumentParser, Namespace

import pytest

from tst_megatron.checkpoints.steps import TRACKER
from tst_megatron.errors import UserError
from tst_megatron.methods.story import Told
from tst_megatron.methods.upcycling import checkpoint_upcycle
from tst_megatron.methods.upcycling.method import METHOD
from tst_megatron.methods.upcycling.run import UpcycledRun
from tst_megatron.runs.stages import Stage
from tst_megatron.trainer.checkpoint_choice import check_load, goes_on_flags

RUN = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 64,
    "num_experts": 4,
    "moe_ffn_hidden_size": 64,
    "moe_layer_freq": 1,
    "moe_router_topk": 2,
    "moe_router_pre_softmax": False,
    "moe_router_score_function": "softmax",
    "moe_router_topk_scaling_factor": None,
    "moe_router_enable_expert_bias": False,
    "moe_shared_expert_intermediate_size": None,
    "hybrid_layer_pattern": None,
    "mtp_num_layers": None,
    "swiglu": True,
    "upcycle_from": "dense",
    "upcycle": False,
    "upcycle_router_std": None,
    "upcycle_scale": "exact",
    "upcycle_drop": 0.0,
    "upcycle_noise": 0.0,
    "upcycle_optimizer": "new",
    "grow": None,
    "grow_width": None,
    "seed": 1,
    "load": "dense",
    "save": "experts",
    "train_iters": 10,
    "train_samples": None,
    "global_batch_size": 4,
    "rampup_batch_size": None,
    "step_batch_size_schedule": None,
    "micro_batch_size": 1,
    "data_parallel_size": 1,
    "decrease_batch_size_if_needed": False,
    "non_persistent_ckpt_type": None,
    "non_persistent_global_ckpt_dir": None,
    "tst_bag_size": None,
    "tst_schedule": None,
    "load_once": False,
    "ckpt_step": None,
    "ckpt_format": "torch_dist",
    "no_load_optim": None,
}


def args(**other) -> Namespace:
    return Namespace(**RUN | other)


def saved(**other) -> Namespace:
    dense = {"num_experts": None, "consumed_train_samples": 12, "use_distributed_optimizer": False}
    return Namespace(**RUN | dense | other)


def test_stages_are_the_models():
    run = UpcycledRun(args())
    assert [stage.name for stage in run.stages] == ["single tokens"]
    assert {"num_experts", "moe_ffn_hidden_size"} <= run.other_model(saved(), None, 3)
    run.resume(args(), None, 3)
    dense, rest = run.stages
    assert (dense.name, dense.samples, dense.method) == ("dense", 12, "upcycling")
    assert (rest.samples, rest.facts["num_experts"]) == (28, 4)
    facts = run.saved()
    assert (facts["experts"], facts["topk"], facts["is_exact"]) == ([0, 4], 2, True)
    again = UpcycledRun(args(load="experts"))
    assert not again.other_model(saved(num_experts=4), facts, 7)
    again.resume(args(), facts, 7)
    assert again.stages == run.stages
    assert again.load_checkpoint(print, print) is print
    # And more of them, in another folder.
    hop = UpcycledRun(args(num_experts=8, load="experts", save="more"))
    hop.other_model(saved(num_experts=4, consumed_train_samples=20), facts, 5)
    assert [(stage.name, stage.samples) for stage in hop.stages] == [
        *(("dense", 12), ("4 experts", 8), ("single tokens", 20))
    ]


def test_what_is_not_the_run_that_was():
    made = UpcycledRun(args())
    made.other_model(saved(), None, 3)
    facts = made.saved()
    own = {"load": "experts"}
    with pytest.raises(UserError, match="where this run saves its own, is of another model"):
        UpcycledRun(args(num_experts=8, **own)).other_model(saved(num_experts=4), facts, 5)
    for name, value in (
        ("moe_router_topk", 3),
        ("moe_router_score_function", "sigmoid"),
        ("moe_router_enable_expert_bias", True),
        ("moe_shared_expert_intermediate_size", 32),
        ("moe_layer_freq", [0, 1]),
    ):
        run = UpcycledRun(args(**own, **{name: value}))
        flag = name.replace("_", "-")
        with pytest.raises(UserError, match=f"has --{flag} .* its experts were made for the first"):
            run.other_model(saved(num_experts=4), facts, 5)
    other = UpcycledRun(args(upcycle_drop=0.5, **own))
    other.other_model(saved(num_experts=4), facts, 5)
    with pytest.raises(UserError, match=r"was upcycled with drop 0\.0, and that is done"):
        other.resume(args(), facts, 5)
    stranger = UpcycledRun(args())
    assert not stranger.other_model(saved(num_experts=4), None, 5)
    with pytest.raises(UserError, match="has 4 experts as this run has, and was not upcycled"):
        stranger.resume(args(), None, 5)


def test_an_optimizer_in_buckets_can_be_left_and_not_kept():
    buckets = saved(use_distributed_optimizer=True)
    run = UpcycledRun(args())
    assert run.reads_optimizer
    run.other_model(buckets, None, 3)
    assert not run.reads_optimizer
    with pytest.raises(UserError, match="so that no expert can keep its part"):
        UpcycledRun(args(upcycle_optimizer="keep")).other_model(buckets, None, 3)


def test_states_of_another_optimizer_are_not_kept():
    muon = saved(optimizer="muon")
    UpcycledRun(args()).other_model(muon, None, 3)
    with pytest.raises(UserError, match="was trained with --optimizer muon, of whose states none"):
        UpcycledRun(args(upcycle_optimizer="keep")).other_model(muon, None, 3)


def test_nothing_to_train_is_said(caplog):
    UpcycledRun(args(train_iters=3)).other_model(saved(), None, 3)
    assert "is to have 3 steps, which the checkpoint in dense has" in caplog.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--upcycle-drop=0.5",), "--upcycle-drop is of --upcycle-from: add that"),
        (("--upcycle-from=x", "--upcycle-drop=1.5"), "--upcycle-drop 1.5 is no share"),
        (("--upcycle-from=x", "--upcycle-drop=nan"), "--upcycle-drop nan is no share"),
        (("--upcycle", "--upcycle-router-std=-1"), "-1 is no standard deviation"),
        (("--upcycle", "--upcycle-noise=inf"), "--upcycle-noise inf is no number"),
    ],
)
def test_flags_by_themselves(words, said):
    parser = ArgumentParser()
    METHOD.add_arguments(parser)
    with pytest.raises(UserError, match=said):
        METHOD.check(parser.parse_args(words))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_experts": None}, "say how many with --num-experts"),
        ({"save": "dense"}, "--upcycle-from dense is the --save folder as well"),
        ({"load": "other"}, "--upcycle-from dense and --load other are two checkpoints"),
        ({"no_load_optim": True}, "give --upcycle-optimizer new in its place"),
        ({"finetune": True}, "--upcycle-from does not go with --finetune"),
        ({"moe_use_upcycling": True}, "does not go with --moe-use-upcycling"),
        ({"ckpt_format": "torch"}, "of --ckpt-format torch_dist alone"),
    ],
)
def test_beside_megatron_s(given, said):
    with pytest.raises(UserError, match=said):
        METHOD.check_beside(args(**given))


def test_megatron_s_own_way_is_refused_without_ours():
    off = args(upcycle_from=None, moe_use_upcycling=True)
    with pytest.raises(UserError, match=r"ends in a TypeError .* in --upcycle-from in its place"):
        METHOD.check_beside(off)
    METHOD.check_beside(args(upcycle_from=None, moe_use_upcycling=False))


def test_where_it_starts_and_where_it_goes_on(tmp_path):
    own = tmp_path / "own"
    given = {"save": str(own), "upcycle_from": "dense"}
    for load in (None, str(own)):
        assert goes_on_flags(args(**given, load=load)) == ["--load=dense"]
    own.mkdir()
    (own / TRACKER).write_text("7")
    assert goes_on_flags(args(**given, load=None, ckpt_step=4)) == [
        *(f"--load={own}", "--ckpt-step=7")
    ]
    assert goes_on_flags(args(save=None, load=None)) == ["--load=dense"]


def test_a_folder_without_a_checkpoint_is_refused_by_the_flag_that_named_it(tmp_path):
    nothing = str(tmp_path / "nothing")
    megatron = {
        **{"pretrained_checkpoint": None, "enable_msc": False, "finetune": False},
        **{"exit_on_missing_checkpoint": False, "auto_detect_ckpt_format": False},
    }
    for save in (nothing, "else"):
        given = args(load=nothing, save=save, upcycle_from=nothing, **megatron)
        with pytest.raises(UserError, match=f"--upcycle-from {nothing} holds no checkpoint"):
            check_load(given, looks_at_files=True)


def test_its_words():
    facts = {"experts": [0, 8], "topk": 2, "drop": 0.5, "optimizer": "keep", "scale": "none"}
    stages = ((Stage("dense", 25, method="upcycling"), 0.25),)
    told = Told(stages, facts, {})
    assert METHOD.story().words(told) == (
        "dense for 25 %, then 8 experts, 2 a token, drop 0.5, not scaled, moments kept"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--moe-layer-freq=x",), "neither a number nor a list"),
        (("--moe-layer-freq=[1,0,1]",), "is no list of 2 numbers"),
        (("--moe-layer-freq=0",), "has no layer with experts"),
    ],
)
def test_the_command_s_flags(words, said):
    parser = ArgumentParser()
    checkpoint_upcycle.add_arguments(parser)
    given = parser.parse_args(["in", "out", "--num-experts=8", *words])
    with pytest.raises(UserError, match=said):
        checkpoint_upcycle.model_args(saved(), given)


def test_the_command_reads_lists_and_says_what_to_load_with():
    parser = ArgumentParser()
    checkpoint_upcycle.add_arguments(parser)
    words = ("--num-experts=8", "--moe-layer-freq=([0, 1])", "--moe-router-enable-expert-bias")
    model = checkpoint_upcycle.model_args(saved(), parser.parse_args(["in", "out", *words]))
    assert model.moe_layer_freq == [0, 1]
    flags = checkpoint_upcycle.flags_of(model)
    assert "--moe-layer-freq '[0,1]'" in flags
    assert "--moe-router-enable-expert-bias" in flags
