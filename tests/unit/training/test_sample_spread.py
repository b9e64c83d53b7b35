import numpy as np
import pytest
import torch

from tst_megatron.training.sample_spread import spread_of, take_stderrs


def reduced(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """As Megatron's ``evaluate`` reduces what micro-batches report."""
    totals = {name: sum(batch[name] for batch in batches) for name in batches[0]}
    return {name: total[0] / total[1] for name, total in totals.items()}


def test_the_error_is_that_of_the_mean_over_sequences() -> None:
    generator = torch.Generator().manual_seed(torch.seed() % 2**32)
    losses = 3 + 0.3 * torch.randn(6, 4, 16, generator=generator)
    mask = (torch.rand(6, 4, 16, generator=generator) < 0.8).float()
    mask[..., 0] = 1
    batches = [
        spread_of("lm loss", one.view(-1), weights.view(4, 16))
        for one, weights in zip(losses, mask, strict=True)
    ]
    found = reduced(batches) | {"lm loss": torch.tensor(3.0)}
    stderrs = take_stderrs(found, 24)
    exact = losses.double().numpy().reshape(24, 16)
    weights = mask.double().numpy().reshape(24, 16)
    means = (exact * weights).sum(1) / weights.sum(1)
    assert stderrs["lm loss"] == pytest.approx(np.std(means, ddof=1) / np.sqrt(24), rel=1e-2)
    assert set(found) == {"lm loss"}


def test_one_sequence_has_no_error() -> None:
    found = reduced([spread_of("lm loss", torch.ones(1, 8), torch.ones(1, 8))])
    assert take_stderrs(found, 1) == {}
    assert found == {}
