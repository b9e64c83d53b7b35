"""The name of an expert's parameter against Megatron's mark on it, in layouts of all kinds."""

import pytest
from planned import MOE, built

from tst_megatron.planner.fake_ranks import as_rank, build, on_meta_device
from tst_megatron.stock.experts import copies, is_experts


@pytest.mark.parametrize(
    ("tp", "etp", "ep"),
    [(1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 1, 2), (1, 2, 1), (4, 2, 2)],
)
def test_the_name_says_what_the_mark_says(tp: int, etp: int, ep: int) -> None:
    """``allreduce`` is not set where experts are spread as the rest is: then nothing differs."""
    flags = (
        *(*MOE, "--moe-shared-expert-intermediate-size=80"),
        *(f"--tensor-model-parallel-size={tp}", f"--expert-tensor-parallel-size={etp}"),
        *(f"--expert-model-parallel-size={ep}", *(["--sequence-parallel"] if tp > 1 else [])),
    )
    with built(flags, 8) as (args, _), as_rank(args, 0), on_meta_device():
        (model,) = build(args)
    named = dict(model.named_parameters())
    experts = {name for name in named if is_experts(name)}
    assert len(experts) == 4 * 2 * 8 // ep
    marked = {name for name, value in named.items() if not getattr(value, "allreduce", True)}
    assert marked == (experts if ep > 1 or etp != tp else set())
    for name, value in named.items():
        is_split = getattr(value, "tensor_model_parallel", False)
        spread = etp * ep if name in marked else tp
        expected = spread if is_split else (ep if name in marked else 1)
        assert copies(args, name, value) == expected
