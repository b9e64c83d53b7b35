"""What a checkpoint's own arguments decide before a process group: vocabulary, shape, layout."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from counted_corpora import parse
from saved import save_arguments
from torch.distributed import checkpoint as dcp

from tst_megatron.checkpoints.steps import TRACKER, Checkpoint
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import run_of
from tst_megatron.trainer.memory import check_resume, keep_vocabulary, saved_state

PADDED = 8064
MODEL = ("--num-layers=2", "--hidden-size=32", "--num-attention-heads=4")


def kept(*flags: str, now: int = 8192, given: int | None = None, tokens: int = 8000) -> int:
    args = parse(*flags)
    args.padded_vocab_size = now if given is None else given
    keep_vocabulary(args, given, tokens)
    return args.padded_vocab_size


@pytest.mark.parametrize("more", [(), ("--finetune",), ("--tensor-model-parallel-size=2",)])
def test_the_vocabulary_stays_as_it_was_padded(tmp_path: Path, caplog, more) -> None:
    load = save_arguments(tmp_path, padded_vocab_size=PADDED)
    assert kept(load, *more) == PADDED
    assert f"stays padded to {PADDED}, as in the checkpoint in {tmp_path}" in caplog.text


def test_that_of_a_pretrained_one_too(tmp_path: Path) -> None:
    load = save_arguments(tmp_path, padded_vocab_size=PADDED)
    assert kept(load.replace("--load", "--pretrained-checkpoint")) == PADDED


def test_without_a_saved_size_it_is_padded_as_ever(tmp_path: Path) -> None:
    assert kept() == 8192
    assert kept(save_arguments(tmp_path)) == 8192


def test_a_size_that_this_run_cannot_have(tmp_path: Path) -> None:
    load = save_arguments(tmp_path, padded_vocab_size=PADDED)
    with pytest.raises(UserError, match=r"8064 rows, which --tensor-model-parallel-size 5 cannot"):
        kept(load, "--tensor-model-parallel-size=5")
    with pytest.raises(UserError, match=r"8064 rows and the tokenizer 8100 tokens"):
        kept(load, tokens=8100)


def test_a_size_that_is_asked_for_is_taken_with_a_word(tmp_path: Path, caplog) -> None:
    load = save_arguments(tmp_path, padded_vocab_size=PADDED)
    assert kept(load, given=8192) == 8192
    assert "--padded-vocab-size 8192: the vocabulary of the checkpoint" in caplog.text
    caplog.clear()
    assert kept(load, given=PADDED) == PADDED
    assert not caplog.text


def test_a_model_of_another_shape(tmp_path: Path) -> None:
    load = save_arguments(tmp_path, num_layers=4, hidden_size=32, num_attention_heads=4)
    args = parse(load, *MODEL)
    with pytest.raises(UserError, match="num_layers 4 and this run has 2"):
        check_resume(args, run_of(args))
    finetuned = parse(load, *MODEL, "--finetune")
    check_resume(finetuned, run_of(finetuned))


# What was saved and what the flags say now, where Megatron's validation has filled in the rest.
OTHERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "add_position_embedding": ({}, ("--no-position-embedding", "--position-embedding-type=rope")),
    "max_position_embeddings": ({"max_position_embeddings": 16}, ("--vocab-file=vocab.json",)),
    "make_vocab_size_divisible_by": (
        {"make_vocab_size_divisible_by": 64},
        ("--vocab-file=vocab.json", "--make-vocab-size-divisible-by=128"),
    ),
    "tokenizer_type": (
        {"tokenizer_type": "GPT2BPETokenizer"},
        ("--vocab-file=vocab.json", "--tokenizer-type=NullTokenizer"),
    ),
    "ffn_hidden_size": ({"ffn_hidden_size": 64}, ("--ffn-hidden-size=128",)),
    "moe_ffn_hidden_size": (
        {"moe_ffn_hidden_size": 64},
        ("--num-experts=4", "--moe-ffn-hidden-size=128"),
    ),
    "num_experts": ({"num_experts": 8}, ("--num-experts=4",)),
    "num_query_groups": (
        {"group_query_attention": True, "num_query_groups": 2},
        ("--num-query-groups=2",),
    ),
    "kv_channels": ({"kv_channels": 8}, ("--kv-channels=16",)),
    "swiglu": ({"swiglu": True}, ()),
    "untie_embeddings_and_output_weights": (
        {"untie_embeddings_and_output_weights": False},
        ("--untie-embeddings-and-output-weights",),
    ),
}


def test_experts_are_no_dense_layers(tmp_path: Path) -> None:
    for saved, flags, says in (
        ({"num_experts": None}, ("--num-experts=4",), "num_experts 0 and this run has 4"),
        ({"num_experts": 4}, (), "num_experts 4 and this run has 0"),
    ):
        load = save_arguments(tmp_path / str(len(flags)), num_attention_heads=4, **saved)
        args = parse(load, *MODEL, "--position-embedding-type=rope", *flags)
        with pytest.raises(UserError, match=says):
            check_resume(args, run_of(args))


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_decides_a_models_shape(tmp_path: Path, name: str) -> None:
    saved, flags = OTHERS[name]
    load = save_arguments(tmp_path, num_attention_heads=4, **saved)
    args = parse(load, *MODEL, "--max-position-embeddings=32", *flags)
    with pytest.raises(UserError, match=f"is of a model with {name} .* and this run has"):
        check_resume(args, run_of(args))


def test_what_this_model_does_not_read_decides_nothing(tmp_path: Path) -> None:
    load = save_arguments(
        tmp_path,
        num_attention_heads=4,
        # Of a learned position, of grouped queries and of a dense MLP.
        max_position_embeddings=16,
        num_query_groups=1,
        ffn_hidden_size=64,
        moe_ffn_hidden_size=32,
        # Of a layout that another can read.
        tensor_model_parallel_size=2,
        num_experts=None,
    )
    for more in (
        ("--num-query-groups=2", "--ffn-hidden-size=64"),
        ("--hybrid-layer-pattern=M*M*",),
        ("--num-experts=4", "--moe-use-upcycling"),
    ):
        args = parse(load, *MODEL, "--position-embedding-type=rope", "--ffn-hidden-size=128", *more)
        check_resume(args, run_of(args))


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("tensor_model_parallel_size", "--tensor-model-parallel-size=1"),
        ("pipeline_model_parallel_size", "--pipeline-model-parallel-size=1"),
        ("expert_model_parallel_size", "--expert-model-parallel-size=1"),
        ("padded_vocab_size", "--padded-vocab-size=8192"),
    ],
)
def test_a_file_a_rank_is_of_one_layout(tmp_path: Path, name: str, flag: str) -> None:
    for rank in ("mp_rank_00_000", "mp_rank_01_000"):
        folder = Checkpoint(tmp_path, 10).folder / rank
        folder.mkdir(parents=True)
        torch.save({"args": Namespace(**{name: 2})}, folder / "model_optim_rng.pt")
    (tmp_path / TRACKER).write_text("10")
    args = parse(f"--load={tmp_path}", *MODEL, "--ckpt-format=torch", flag)
    with pytest.raises(UserError, match=f"is of a model with {name} 2 and this run has"):
        check_resume(args, run_of(args))


def test_an_optimizer_that_is_cut_for_another_layout(tmp_path: Path) -> None:
    content = {"distrib_optim_sharding_type": "dp_reshardable"}
    load = save_arguments(
        tmp_path,
        content_metadata=content,
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1,
    )
    flags = (load, *MODEL, "--use-distributed-optimizer", "--tensor-model-parallel-size=2")
    args = parse(*flags)
    with pytest.raises(UserError, match=r"parallelism 1 x 1 and this run has 2 x 1: save it once"):
        check_resume(args, run_of(args))
    for more in ("--no-load-optim", "--tensor-model-parallel-size=1"):
        args = parse(*flags, more)
        check_resume(args, run_of(args))


def test_a_file_a_rank_tells_without_its_tensors(tmp_path: Path) -> None:
    folder = Checkpoint(tmp_path, 10).folder / "mp_rank_00"
    folder.mkdir(parents=True)
    state = {"args": Namespace(padded_vocab_size=PADDED), "model": torch.ones(10)}
    torch.save(state, folder / "model_optim_rng.pt")
    saved = saved_state(Checkpoint(tmp_path, 10))
    assert saved["args"].padded_vocab_size == PADDED


def test_torchs_own_format_tells_too(tmp_path: Path) -> None:
    state = {"args": Namespace(padded_vocab_size=PADDED), "weight": torch.ones(10)}
    dcp.save(state, checkpoint_id=Checkpoint(tmp_path, 10).folder, no_dist=True)
    assert saved_state(Checkpoint(tmp_path, 10))["args"].padded_vocab_size == PADDED


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    save_arguments(tmp_path)
    (Checkpoint(tmp_path, 10).folder / "common.pt").write_bytes(b"garbled")
    with pytest.raises(UserError, match=r"iter_0000010 cannot be read: .*; name another with"):
        saved_state(Checkpoint(tmp_path, 10))
