import numpy as np
import pytest
import torch

from tst_megatron.trainer.sample_spread import spread_of, take_stderrs


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
    again = dict(found)
    stderrs = take_stderrs(found, 6)
    exact = losses.double().numpy().reshape(24, 16)
    weights = mask.double().numpy().reshape(24, 16)
    means = (exact * weights).sum(1) / weights.sum(1)
    assert stderrs["lm loss"] == pytest.approx(np.std(means, ddof=1) / np.sqrt(24), rel=1e-2)
    assert set(found) == {"lm loss"}
    # The same held-out text, read three times over.
    most = take_stderrs(again, 6, most=8)["lm loss"]
    assert most == pytest.approx(stderrs["lm loss"] * np.sqrt(23 / 7), rel=1e-4)


def test_packed_sequences_count_as_what_is_measured() -> None:
    losses = 3 + 0.3 * torch.randn(50, 2, 16)
    mask = torch.ones(1, 32)
    found = reduced([spread_of("lm loss", one.view(-1), mask) for one in losses])
    means = losses.double().numpy().reshape(50, 32).mean(1)
    expected = np.std(means, ddof=1) / np.sqrt(50)
    assert take_stderrs(found, 50)["lm loss"] == pytest.approx(expected, rel=1e-2)


def test_one_sequence_has_no_error() -> None:
    found = reduced([spread_of("lm loss", torch.ones(1, 8), torch.ones(1, 8))])
    assert take_stderrs(found, 1) == {}
    assert found == {}
