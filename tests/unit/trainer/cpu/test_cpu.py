from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tst_megatron.trainer.cpu import patches as cpu

SITE = Path(find_spec("megatron.core").origin).parents[2]


@pytest.mark.parametrize("entry", cpu.ENTRIES, ids=lambda entry: entry.target)
def test_every_entry_is_still_needed(entry: cpu.Entry) -> None:
    assert entry.line in (SITE / entry.file).read_text(), (
        f"{entry.file} no longer holds {entry.line!r}: is {entry.target} still needed?"
    )


@pytest.mark.parametrize("entry", cpu.ENTRIES, ids=lambda entry: entry.target)
def test_every_entry_has_its_target(entry: cpu.Entry) -> None:
    owner, name = cpu._resolve(entry.target)
    assert hasattr(owner, name)


def test_tensors_for_a_gpu_are_made_here() -> None:
    for made in (
        torch.zeros(2, device="cuda"),
        torch.tensor([1.0], device=torch.cuda.current_device()),
        torch.rand(2, device=torch.device("cuda")),
        torch.ones(3).cuda(),
    ):
        assert made.device.type == "cpu"


def test_a_device_as_a_context_holds_for_them() -> None:
    """transformers asks so whether a model is being made without memory."""
    with torch.device("meta"):
        for made in (torch.tensor([]), torch.zeros(2), torch.empty(2), torch.ones(2)):
            assert made.device.type == "meta"


def test_types_are_named_as_on_a_gpu() -> None:
    assert torch.zeros(1).type() == "torch.cuda.FloatTensor"
    assert torch.zeros(1).type(torch.int64).dtype == torch.int64


def test_random_states_are_the_cpus() -> None:
    torch.cuda.manual_seed(7)
    state = torch.cuda.get_rng_state()
    drawn = torch.rand(3)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3), drawn)


def test_installing_twice_changes_nothing() -> None:
    before = torch.cuda.current_device
    cpu.install()
    assert torch.cuda.current_device is before
