"""The loss compiled by torch's own compiler, and what this writes for a GPU."""

import os
import re
import subprocess
import sys

import compiled_worker
import pytest
import torch


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Results of the worker, what the compiler counted, and what it writes for a GPU."""
    file = tmp_path_factory.mktemp("compiled") / "results.pt"
    environment = {k: v for k, v in os.environ.items() if k != "TORCHDYNAMO_DISABLE"}
    # Else torch forks a pool of compilers, which an older one waits for when there is no GPU.
    environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
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
    results, _, _ = compiled
    plain, ours = (results[*shape, dtype, objective, name] for name in ("eager", "compiled"))
    logits, _, _ = compiled_worker.inputs(*shape, dtype)
    assert torch.equal(ours[0], logits), "the forward pass wrote to the logits"
    assert ours[2].dtype == dtype
    assert ours[3], "the gradient is not in the logits' memory"
    torch.testing.assert_close(ours[1], plain[1], rtol=1e-6, atol=1e-6)
    # One rounding apart in bfloat16.
    rtol = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(ours[2], plain[2], rtol=rtol, atol=1e-6)


def test_it_was_compiled_a_few_times_only(compiled):
    _, counted, _ = compiled
    # Two passes, two dtypes, one number of rows and then any.
    assert 0 < counted["unique_graphs"] <= 8


def test_a_gpu_reads_the_logits_once_forward(compiled):
    _, _, source = compiled
    assert source.count("@triton.jit") == 1, "not one kernel"
    assert len(re.findall(r"\bfor \w+ in .*range\(", source)) == 1, "not one loop over a row"
    assert len(re.findall(r"tl\.load\(", source)) == 1
