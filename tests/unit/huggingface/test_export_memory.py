"""An export needs the memory of its largest tensor, whatever the model is.

The checkpoints are whole, with the shapes of the recipes' models; their chunks are many names of
one chunk on disk, so that a model of 20 GB is written in seconds and read as any other.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from tst_megatron.checkpoints.derived import Made, NewTensor, Piece, Plan, write
from tst_megatron.checkpoints.saved import Saved
from tst_megatron.checkpoints.steps import step_folder
from tst_megatron.huggingface import export, importing
from tst_megatron.huggingface.families import family_of
from tst_megatron.huggingface.shape import Experts, Layer, Shape

DENSE = Shape(
    layers=(Layer(),) * 4,
    hidden_size=512,
    heads=8,
    groups=2,
    head_size=64,
    ffn_size=1408,
    experts=None,
    vocab_size=65536,
    ties_embeddings=False,
    has_qk_norm=False,
    has_qkv_bias=False,
    norm_epsilon=1e-5,
    rotary_base=5e5,
    has_rope_scaling=False,
    max_positions=4096,
    init_std=0.02,
)
# Shapes of recipes/smollm3-3b-baseline.yaml and recipes/moe-10b-a1b-baseline.yaml.
DENSE_3B = Shape(
    **vars(DENSE)
    | {
        "layers": (Layer(),) * 36,
        "hidden_size": 2048,
        "heads": 16,
        "groups": 4,
        "head_size": 128,
        "ffn_size": 11008,
        "vocab_size": 128256,
    }
)
EXPERTS_10B = Shape(
    **vars(DENSE_3B)
    | {
        "layers": (Layer(has_experts=True),) * 32,
        "hidden_size": 1536,
        "ffn_size": 512,
        "experts": Experts(128, 8, 512, True, 1e-3),
        "vocab_size": 151936,
        "has_qk_norm": True,
    }
)
PARAMETERS = {"dense": 78_385_664, "3B": 3_337_766_912, "10B-A1B": 10_388_481_536}


def checkpoint(shape: Shape, out: Path) -> Path:
    """A checkpoint of such a model, in bfloat16."""
    folder = SimpleNamespace(shape=shape, family=family_of(shape))
    target = importing.Target(shape.vocab_size, torch.bfloat16, {})

    def chunk(sizes: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(sizes))
        return torch.randn(sizes, generator=generator).to(torch.bfloat16)

    def filled(tensor: NewTensor) -> NewTensor:
        pieces = tuple(
            Piece(one.offsets, one.sizes, Made(lambda sizes=one.sizes: chunk(sizes), one.sizes))
            for one in tensor.pieces
        )
        return NewTensor(tensor.key, tensor.properties, tensor.size, pieces)

    tensors = tuple(map(filled, importing._tensors(folder, target)))
    common = {"args": importing._args(shape, target), "iteration": 0}
    write(Plan(None, None, tensors, {}, common), out)
    return step_folder(out)


@pytest.fixture
def peak() -> SimpleNamespace:
    """The most memory since ``begin``, beside what there was then."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kilobytes(name: str) -> int:
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])

    try:
        reset.write_text("5")
    except OSError:
        pytest.skip("the kernel does not count the most memory anew")

    def begin() -> None:
        reset.write_text("5")
        found.before = kilobytes("VmRSS")

    found = SimpleNamespace(begin=begin, bytes=lambda: 1024 * (kilobytes("VmHWM") - found.before))
    return found


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dense", DENSE),
        pytest.param("3B", DENSE_3B, marks=pytest.mark.large),
        pytest.param("10B-A1B", EXPERTS_10B, marks=pytest.mark.large),
    ],
)
def test_memory_is_that_of_the_largest_tensor(name, shape, tmp_path, peak) -> None:
    model = export.model_of(Saved(checkpoint(shape, tmp_path / "model")), None)
    shards = export.shards_of(model, torch.bfloat16, 5 * 10**9 if name != "dense" else 10**8)
    weights = [weight for shard in shards for weight in shard.weights]
    assert sum(math.prod(weight.shape) for weight in weights) == PARAMETERS[name]
    largest = 2 * max(math.prod(weight.shape) for weight in weights)
    out = tmp_path / "out"
    out.mkdir()
    peak.begin()
    export.write_weights(model, out, torch.bfloat16, shards)
    assert peak.bytes() < 2 * largest
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * PARAMETERS[name]
    for shard in shards:
        with safe_open(out / shard.name, framework="pt") as opened:
            for weight in shard.weights[-2:]:
                assert tuple(opened.get_slice(weight.name).get_shape()) == weight.shape
