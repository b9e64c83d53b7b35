"""Whether a layout divides, in the flags' own names."""

from argparse import Namespace
from typing import Any

import pytest

from tst_megatron.errors import UserError
from tst_megatron.stock.layout import check_layout

# As Megatron's parser leaves what nobody has given, and a run of 4 samples a step.
GIVEN: dict[str, Any] = {
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "context_parallel_size": 1,
    "expert_model_parallel_size": 1,
    "expert_tensor_parallel_size": None,
    "num_experts": None,
    "num_attention_heads": 4,
    "group_query_attention": False,
    "num_query_groups": None,
    "seq_length": 16,
    "step_batch_size_schedule": None,
    "decrease_batch_size_if_needed": False,
    "global_batch_size": 4,
    "micro_batch_size": 2,
    "eval_global_batch_size": None,
    "eval_micro_batch_size": None,
}


def check(ranks: int, flag: str | None = None, **given: Any) -> None:
    check_layout(Namespace(**(GIVEN | given)), ranks, flag)


@pytest.mark.parametrize(
    ("ranks", "given", "says"),
    [
        (
            4,
            {},
            "--global-batch-size 4 does not divide by --micro-batch-size 2 x 4 data-parallel "
            "ranks, 8: use --global-batch-size 8",
        ),
        (
            2,
            {"eval_micro_batch_size": 32, "eval_global_batch_size": 32},
            "--eval-global-batch-size 32 does not divide by --eval-micro-batch-size 32 x 2 "
            "data-parallel ranks, 64: use --eval-global-batch-size 64",
        ),
        (
            3,
            {"tensor_model_parallel_size": 2},
            "the launcher started 3 ranks, which do not divide by tensor x pipeline x context "
            "parallel size, 2: start 2 or 4",
        ),
        (
            1,
            {"pipeline_model_parallel_size": 2},
            "the launcher started 1 rank, which does not divide by .*: start 2",
        ),
        (
            2,
            {"num_experts": 4, "expert_model_parallel_size": 4},
            "the launcher started 2 ranks, which .* expert x pipeline parallel size, 4: start 4",
        ),
        (2, {"tensor_model_parallel_size": 0}, "--tensor-model-parallel-size 0 is no number of"),
        (2, {"num_attention_heads": 3, "tensor_model_parallel_size": 2}, "--num-attention-heads 3"),
        (2, {"context_parallel_size": 2, "seq_length": 6}, "--seq-length 6 .* use .* 4 or 8"),
    ],
)
def test_what_does_not_divide_is_one_sentence(ranks: int, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check(ranks, **given)


def test_what_divides_passes() -> None:
    check(2)
    check(8, "--gpus", tensor_model_parallel_size=4)
    # A batch that Megatron lowers or schedules is its own to check.
    check(4, decrease_batch_size_if_needed=True)
    check(4, step_batch_size_schedule="0:4,10:8")
    check(2, eval_micro_batch_size=1)


def test_a_flags_number_is_named_by_it() -> None:
    with pytest.raises(UserError, match=r"--gpus 6 does not divide by .*, 4: use --gpus 4 or 8"):
        check(6, "--gpus", tensor_model_parallel_size=4)
