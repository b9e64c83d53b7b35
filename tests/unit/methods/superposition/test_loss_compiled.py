"""What ``--cross-entropy-loss-fusion`` asks for: the loss compiled by torch's own compiler."""

import os
import subprocess
import sys

import compiled_worker
import pytest
import torch


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Results of the worker, and what the compiler counted."""
    file = tmp_path_factory.mktemp("compiled") / "results.pt"
    environment = {k: v for k, v in os.environ.items() if k != "TORCHDYNAMO_DISABLE"}
    subprocess.run(
        [sys.executable, "-W", "ignore", compiled_worker.__file__, str(file)],
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        timeout=600,
    )
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("objective", compiled_worker.OBJECTIVES)
@pytest.mark.parametrize("dtype", compiled_worker.DTYPES)
@pytest.mark.parametrize("shape", compiled_worker.SHAPES)
def test_it_is_the_same_loss(shape, dtype, objective, compiled):
    results, _ = compiled
    plain, ours = (results[*shape, dtype, objective, flag] for flag in (False, True))
    logits, _, _ = compiled_worker.inputs(*shape, dtype)
    assert torch.equal(ours[0], logits), "the forward pass wrote to the logits"
    assert ours[2].dtype == dtype
    assert ours[3], "the gradient is not in the logits' memory"
    torch.testing.assert_close(ours[1], plain[1], rtol=1e-6, atol=1e-6)
    # One rounding apart in bfloat16.
    rtol = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(ours[2], plain[2], rtol=rtol, atol=1e-6)


def test_it_was_compiled_a_few_times_only(compiled):
    _, counted = compiled
    # Two passes, two dtypes, one number of rows and then any.
    assert 0 < counted["unique_graphs"] <= 8
