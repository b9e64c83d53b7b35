"""What growth remembers, what it goes on from, and what it refuses; without a trainer."""

from argparse import ArgumentParser, Namespace

import pytest

from tst_megatron.checkpoints.steps import TRACKER
from tst_megatron.errors import UserError
from tst_megatron.methods.growth.method import METHOD
from tst_megatron.methods.growth.run import GrownRun
from tst_megatron.methods.story import Told
from tst_megatron.runs.stages import Stage
from tst_megatron.stock.layer_kinds import kinds_of
from tst_megatron.trainer.checkpoint_choice import goes_on_flags

RUN = {
    "num_layers": 4,
    "num_experts": None,
    "moe_layer_freq": 1,
    "hybrid_layer_pattern": None,
    "grow": "stack",
    "grow_width": None,
    "grow_noise": 0.0,
    "grow_optimizer": "keep",
    "hidden_size": 32,
    "seed": 1,
    "load": "small",
    "save": None,
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
}


def args(**other) -> Namespace:
    return Namespace(**RUN | other)


def saved(**other) -> Namespace:
    small = {"num_layers": 2, "consumed_train_samples": 12, "use_distributed_optimizer": False}
    return Namespace(**RUN | small | other)


def test_stages_are_the_models():
    run = GrownRun(args())
    assert [stage.name for stage in run.stages] == ["single tokens"]
    assert run.other_model(saved(), None, 3) == {"num_layers"}
    run.resume(args(), None, 3)
    small, rest = run.stages
    assert (small.name, small.samples, small.method) == ("2 layers", 12, "growth")
    assert (rest.samples, rest.facts["num_layers"]) == (28, 4)
    facts = run.saved()
    assert facts["layers"] == [2, 4]
    assert (facts["step"], facts["samples"]) == (3, 12)
    # As a checkpoint of the grown model has it, and its resume.
    again = GrownRun(args())
    assert not again.other_model(saved(num_layers=4), facts, 7)
    again.resume(args(), facts, 7)
    assert again.stages == run.stages
    assert again.load_checkpoint(print, print) is print
    # And grown once more.
    hop = GrownRun(args(num_layers=8))
    hop.other_model(saved(num_layers=4, consumed_train_samples=20), facts, 5)
    assert [(stage.name, stage.samples) for stage in hop.stages] == [
        ("2 layers", 12),
        ("4 layers", 8),
        ("single tokens", 20),
    ]


def test_a_model_of_this_size_that_has_not_grown_is_refused():
    run = GrownRun(args())
    assert not run.other_model(saved(num_layers=4), None, 3)
    with pytest.raises(UserError, match="has 4 layers as this run has, and has not grown"):
        run.resume(args(), None, 3)


def test_a_run_does_not_grow_in_its_own_folder_once_more():
    before = GrownRun(args())
    before.other_model(saved(), None, 3)
    grown = saved(num_layers=4)
    hop = GrownRun(args(num_layers=8, save="small"))
    with pytest.raises(UserError, match="where this run saves its own, is of another model"):
        hop.other_model(grown, before.saved(), 5)
    assert GrownRun(args(num_layers=8, save="else")).other_model(grown, before.saved(), 5)


def test_growth_that_is_done_stays_as_it_was():
    run = GrownRun(args(grow="interleave"))
    before = GrownRun(args())
    before.other_model(saved(), None, 3)
    with pytest.raises(UserError, match="has grown with operator stack, and growth is done"):
        run.resume(args(), before.saved(), 7)


@pytest.mark.parametrize(
    ("run", "checkpoint", "said"),
    [
        ({"num_layers": 3}, {}, "3 layers are no multiple of the checkpoint's 2"),
        ({"grow": "0,2,1,1"}, {}, "names layer 2, and the checkpoint's layers are 0 to 1"),
        (
            {"hybrid_layer_pattern": "M-*-"},
            {},
            "only one has a --hybrid-layer-pattern",
        ),
        (
            {"hybrid_layer_pattern": "*-M-"},
            {"hybrid_layer_pattern": "*-"},
            r"copies layer 0 of the checkpoint \(\*\) to layer 2 of the model \(M\)",
        ),
        (
            {"num_experts": 4, "moe_layer_freq": [0, 1, 1, 1]},
            {"num_experts": 4, "moe_layer_freq": [0, 1]},
            r"copies layer 0 of the checkpoint \(-\) to layer 2 of the model \(E\)",
        ),
        (
            {},
            {"use_distributed_optimizer": True},
            "save it once with --dist-ckpt-optim-fully-reshardable, or begin it anew",
        ),
        ({}, {"no_save_optim": True}, "was saved with --no-save-optim, so that its schedule"),
        ({}, {"ckpt_format": "torch"}, "is of --ckpt-format torch, whose layers have no names"),
    ],
)
def test_what_cannot_grow(run, checkpoint, said):
    with pytest.raises(UserError, match=said):
        GrownRun(args(**run)).other_model(saved(**checkpoint), None, 3)


def test_a_release_has_no_training_to_go_on_with():
    with pytest.raises(
        UserError,
        match=r"is a release, .* by tst-megatron checkpoint grow, and --load what that writes",
    ):
        GrownRun(args()).other_model(saved(), None, 0)


def test_a_bucketed_optimizer_can_be_left():
    run = GrownRun(args(grow_optimizer="new"))
    assert run.other_model(saved(use_distributed_optimizer=True), None, 3) == {"num_layers"}


@pytest.mark.parametrize(
    ("of", "kinds"),
    [
        ({"num_layers": 3}, "---"),
        ({"num_layers": 4, "num_experts": 2, "moe_layer_freq": 2}, "E-E-"),
        ({"num_layers": 3, "num_experts": 2, "moe_layer_freq": [0, 1, 1]}, "-EE"),
        ({"hybrid_layer_pattern": "M*-|M*-/*-/*-"}, "M*-M*-"),
        ({"num_layers": 4, "linear_attention_freq": 2}, "l-l-"),
        (
            {"num_layers": 2, "num_experts": 2, "linear_attention_freq": [1, 0]},
            "LE",
        ),
    ],
)
def test_kinds_of_layers(of, kinds):
    assert kinds_of(args(**of)) == kinds


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--grow-noise=0.1",), "--grow-noise is of --grow: add that"),
        (("--grow-optimizer=new",), "--grow-optimizer is of --grow: add that"),
        (("--grow=stack", "--grow-noise=1"), "--grow-noise 1 is no share"),
        (("--grow=stack", "--grow-noise=nan"), "--grow-noise nan is no share"),
        (("--grow-width=direct", "--grow-noise=0.1"), "--grow-noise is of --grow: add that"),
        (("--grow=twice",), "neither one of stack"),
        (("--grow=2-1",), "2-1 runs backwards"),
    ],
)
def test_flags_by_themselves(words, said):
    parser = ArgumentParser()
    METHOD.add_arguments(parser)
    with pytest.raises(UserError, match=said):
        METHOD.check(parser.parse_args(words))


@pytest.mark.parametrize(
    "words", [["--grow=0-23,8-31"], ["--grow-width=direct", "--grow-optimizer=new"]]
)
def test_a_list_or_a_width_passes_by_itself(words):
    parser = ArgumentParser()
    METHOD.add_arguments(parser)
    given = parser.parse_args(words)
    METHOD.check(given)
    assert METHOD.is_on(given)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("no_load_optim", True, "give --grow-optimizer new in its place"),
        ("finetune", True, "--grow does not go with --finetune"),
        ("ckpt_format", "torch", "of --ckpt-format torch_dist alone, not torch"),
        ("non_persistent_global_ckpt_dir", "/brief", "says which run's it is: leave it out"),
    ],
)
def test_beside_megatron_s(flag, value, said):
    given = args(**{"no_load_optim": None, "ckpt_format": "torch_dist", flag: value})
    with pytest.raises(UserError, match=said):
        METHOD.check_beside(given)


def test_its_words():
    facts = {"operator": "stack", "noise": 0.2, "optimizer": "new", "layers": [2, 8]}
    stages = ((Stage("2 layers", 25, method="growth"), 0.25),)
    told = Told(stages, facts, {})
    assert METHOD.story().words(told) == (
        "2 layers for 25 %, then stack to 8 with noise 0.2, new optimizer"
    )


WIDE = {"hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 8}
NARROW = {"hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 4}
OF_BOTH = {"normalization": "RMSNorm", "swiglu": True}


def test_width_alone_and_with_depth():
    alone = GrownRun(args(**OF_BOTH | WIDE | {"grow": None, "grow_width": "direct"}))
    narrow = saved(**OF_BOTH | NARROW | {"num_layers": 4})
    assert {"num_layers", "hidden_size", "num_query_groups"} < alone.other_model(narrow, None, 3)
    assert [stage.name for stage in alone.stages] == ["hidden size 32", "single tokens"]
    assert alone.stages[0].facts["ffn_hidden_size"] == 64
    assert alone.stages[1].facts == {
        "num_layers": 4,
        "hidden_size": 64,
        "ffn_hidden_size": 128,
        "num_attention_heads": 8,
        "num_query_groups": 8,
    }
    facts = alone.saved()
    assert (facts["operator"], facts["width"], facts["layers"]) == (None, "direct", [4, 4])
    assert facts["sizes"]["hidden_size"] == [32, 64]
    # As a checkpoint of the grown model has it, and its resume.
    again = GrownRun(args(**OF_BOTH | WIDE | {"grow": None, "grow_width": "direct"}))
    assert not again.other_model(saved(**OF_BOTH | WIDE | {"num_layers": 4}), facts, 7)
    again.resume(args(), facts, 7)
    assert again.stages == alone.stages
    both = GrownRun(args(**OF_BOTH | WIDE | {"grow_width": "direct"}))
    both.other_model(saved(**OF_BOTH | NARROW), None, 3)
    assert both.stages[0].name == "2 layers of hidden size 32"
    told = Told(((both.stages[0], 0.25),), both.saved(), {})
    assert METHOD.story().words(told) == (
        "2 layers of hidden size 32 for 25 %, then stack to 4 and hidden size 32 to 64 by direct"
    )
    told = Told(((alone.stages[0], 0.25),), facts, {})
    assert METHOD.story().words(told) == (
        "hidden size 32 for 25 %, then hidden size 32 to 64 by direct"
    )


@pytest.mark.parametrize(
    ("flags", "checkpoint", "said"),
    [
        ({"grow": None}, NARROW, "--grow-width by itself keeps the layers, and the model has 4"),
        ({}, NARROW | {"num_layers": 4}, "4 layers are not more than the 4 of the checkpoint"),
        ({}, WIDE, "hidden size 64, feed-forward size 128 and 8 heads as the wide model has"),
    ],
)
def test_what_does_not_grow_both_ways(flags, checkpoint, said):
    run = GrownRun(args(**OF_BOTH | WIDE | {"grow_width": "direct"} | flags))
    with pytest.raises(UserError, match=said):
        run.other_model(saved(**OF_BOTH | checkpoint), None, 3)


def test_a_model_as_wide_as_the_run_has_not_grown():
    run = GrownRun(args(**OF_BOTH | WIDE | {"grow": None, "grow_width": "zero"}))
    assert not run.other_model(saved(**OF_BOTH | WIDE | {"num_layers": 4}), None, 3)
    with pytest.raises(
        UserError, match=r"--grow-width zero: .* 4 layers of hidden size 64 as this run has, and"
    ):
        run.resume(args(), None, 3)


def test_a_run_goes_on_from_its_own_once_it_has_one(tmp_path):
    given = {"load": str(tmp_path / "small"), "save": str(tmp_path / "own"), "ckpt_step": None}
    off = {"tst_bag_size": None, "tst_schedule": None, "load_once": False}
    off |= {"upcycle": False, "upcycle_from": None}
    assert goes_on_flags(args(**given, **off)) == []
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / TRACKER).write_text("7")
    assert goes_on_flags(args(**given, **off)) == [f"--load={tmp_path / 'own'}"]
    started_at = given | {"ckpt_step": 3}
    assert goes_on_flags(args(**started_at, **off)) == [
        f"--load={tmp_path / 'own'}",
        "--ckpt-step=7",
    ]
    assert goes_on_flags(args(**given, **off, **{"grow": None})) == []
    assert goes_on_flags(args(**given | {"load": given["save"]}, **off)) == []
    # One that is not kept and newer is the one that Megatron loads.
    (tmp_path / "own" / "non_persistent").mkdir()
    (tmp_path / "own" / "non_persistent" / TRACKER).write_text("9")
    both = started_at | {"non_persistent_ckpt_type": "global"}
    assert goes_on_flags(args(**both, **off))[1] == "--ckpt-step=9"
    # And the run's own where there is no other.
    (tmp_path / "own" / TRACKER).unlink()
    assert goes_on_flags(args(**given, **off)) == []
    brief = {"non_persistent_ckpt_type": "global"}
    assert goes_on_flags(args(**given, **off, **brief)) == [f"--load={tmp_path / 'own'}"]
