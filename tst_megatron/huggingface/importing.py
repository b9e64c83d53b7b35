"""A folder of Hugging Face's as a checkpoint of Megatron's.

The one idea: it is a *release*, which Megatron reads the weights of and nothing else, in any
layout: so a plain ``--load`` starts a run at step 0 from it, and there is no optimizer to leave
out. A chunk is a layer's, or an expert's, put together from rows as `weights` says; one is in
memory at a time.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.metadata import TensorProperties

from tst_megatron.backends import prepare_to_import
from tst_megatron.checkpoints.derived import Made, NewTensor, Piece, Plan
from tst_megatron.checkpoints.keys import Shard
from tst_megatron.errors import UserError
from tst_megatron.huggingface.export import INDEX
from tst_megatron.huggingface.families import Family, shape_of_config
from tst_megatron.huggingface.folder import CONFIG
from tst_megatron.huggingface.shape import Shape, flags_of
from tst_megatron.huggingface.weights import EMBEDDING, OUTPUT, Weight, weights_of

_ONE_FILE = "model.safetensors"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Buffers that some folders carry, and that are computed.
_COMPUTED = ("rotary_emb.inv_freq",)
_CHECKPOINT_VERSION = 3.0
_LAYERS = "decoder.layers."
_EXPERTS = "mlp.experts.experts."
_FUSED_NORM, _OWN_NORM = "mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"
# What transformers saves of a tokenizer, and the files that its older classes are read from.
_OF_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
_TOKENIZER_SUFFIXES = (".model", ".tiktoken")
# Modules with a state of their own, which says nothing here: of Megatron's layers or of
# Transformer Engine's.
_OF_ATTENTION = ("linear_qkv", "linear_proj", "core_attention", "q_layernorm", "k_layernorm")
_OUTSIDE = ("decoder.final_layernorm", "output_layer")


class Folder:
    """A folder of Hugging Face's, by its configuration and the tables of its files.

    Args:
        path: of the folder.

    Raises:
        UserError: it is none, or of no family that is known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape, self.family = self._described()

    def _described(self) -> tuple[Shape, Family]:
        file = self.path / CONFIG
        if not file.is_file():
            raise UserError(
                f"{self.path} has no {CONFIG}: name a folder that transformers' save_pretrained "
                "wrote"
            )
        try:
            found = json.loads(file.read_bytes())
        except ValueError as error:
            raise UserError(f"{file} is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise UserError(f"{file} is no configuration: it holds no object")
        return shape_of_config(found, str(file))

    @cached_property
    def tensors(self) -> Mapping[str, tuple[Path, tuple[int, ...], torch.dtype]]:
        """File, shape and dtype of each tensor.

        Raises:
            UserError: a file is missing or damaged.
        """
        found = {}
        for file in self._files():
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118  # No mapping.
                        part = opened.get_slice(name)
                        dtype = _DTYPES.get(part.get_dtype())
                        if dtype is None:
                            raise UserError(
                                f"{name} in {file} is of {part.get_dtype()}, and weights are "
                                f"read in {', '.join(_DTYPES)}: save the model in one of them"
                            )
                        found[name] = (file, tuple(part.get_shape()), dtype)
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"{file} cannot be read ({' '.join(str(error).split())[:200]}): fetch it again"
                ) from None
        return found

    def _files(self) -> list[Path]:
        index = self.path / INDEX
        if not index.is_file():
            one = self.path / _ONE_FILE
            if one.is_file():
                return [one]
            others = "; its weights in another format are not read: save them with "
            others += "save_pretrained(..., safe_serialization=True)"
            has_others = any(self.path.glob("pytorch_model*")) or any(self.path.glob("*.gguf"))
            raise UserError(
                f"{self.path} has neither {_ONE_FILE} nor {INDEX}"
                f"{others if has_others else ': fetch the weights, too'}"
            )
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{index} is no index of weights: fetch it again") from None
        files = [self.path / str(name) for name in sorted(names)]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise UserError(
                f"{self.path} is not whole: {index.name} lists {missing[0]}, which is not there"
            )
        return files

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of the embedding."""
        return self.tensors["model.embed_tokens.weight"][2]

    def check(self) -> None:
        """Check that every weight is there in the shape that the configuration says, and no other.

        Raises:
            UserError: one is not.
        """
        wanted = set()
        for weight in weights_of(self.shape, self.family.spelling):
            wanted.add(weight.name)
            found = self.tensors.get(weight.name)
            if found is None:
                raise UserError(
                    f"{self.path} has no {weight.name}, which its {CONFIG} says that the model "
                    "has: it is not whole, or its weights have other names"
                )
            if found[1] != weight.shape:
                raise UserError(
                    f"{weight.name} in {found[0]} is of {list(found[1])}, and {CONFIG} says "
                    f"{list(weight.shape)}: one of them is another model's"
                )
        for name in self.tensors:
            is_tied = name == "lm_head.weight" and self.shape.ties_embeddings
            if name not in wanted and not is_tied and not name.endswith(_COMPUTED):
                raise UserError(
                    f"{self.path} has {name}, which a {self.family.title} of its {CONFIG} has not: "
                    "it would be lost, so it is not read"
                )

    def read(self, weight: Weight) -> torch.Tensor:
        """A weight."""
        file, _, _ = self.tensors[weight.name]
        with safe_open(file, framework="pt") as opened:
            found = opened.get_tensor(weight.name)
        assert isinstance(found, torch.Tensor)
        return found


@dataclass(frozen=True)
class Target:
    """What a model will be in Megatron.

    Attributes:
        rows: of its embedding, padded.
        dtype: of its weights.
        tokenizer: Megatron's flags for it, in recipes' spelling.
        tokens: that the tokenizer has; None where there is none.
        sha256: of the tokenizer, as runs remember it; likewise.
    """

    rows: int
    dtype: torch.dtype
    tokenizer: Mapping[str, Any]
    tokens: int | None = None
    sha256: str | None = None


def plan_of(folder: Folder, target: Target) -> Plan:
    """The checkpoint that a folder becomes.

    Args:
        folder: checked.
        target: of the model.

    Raises:
        UserError: Megatron's models cannot have it.
    """
    args = _args(folder.shape, target)
    return Plan(
        None,
        None,
        tuple(_tensors(folder, target)),
        dict.fromkeys(_objects(folder.shape)),
        {"args": args, "checkpoint_version": _CHECKPOINT_VERSION, "iteration": 0},
    )


def recipe_of(folder: Folder, target: Target) -> dict[str, Any]:
    """Flags of a run that goes on from the checkpoint, as a recipe has them.

    Raises:
        UserError: Megatron's models cannot have it.
    """
    return {
        **flags_of(folder.shape),
        "padded-vocab-size": target.rows,
        **target.tokenizer,
        "attention-dropout": 0.0,
        "hidden-dropout": 0.0,
    }


def _args(shape: Shape, target: Target) -> Namespace:
    """Megatron's arguments of the model, for those who ask the checkpoint for them."""
    prepare_to_import()
    from megatron.training.arguments import parse_args

    words = []
    flags = {**flags_of(shape), "padded-vocab-size": target.rows, **target.tokenizer}
    for name, value in flags.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        args: Namespace = parse_args(ignore_unknown_args=False)
    finally:
        sys.argv = before
    args.params_dtype = target.dtype
    args.tokenizer_tokens = target.tokens
    args.tokenizer_sha256 = target.sha256
    args.seq_length = args.seq_length or args.max_position_embeddings
    for name in ("consumed_train_samples", "consumed_valid_samples", "skipped_train_samples"):
        setattr(args, name, 0)
    return args


def _tensors(folder: Folder, target: Target) -> Iterator[NewTensor]:
    """Megatron's tensors, each with a chunk a layer and an expert."""
    shape = folder.shape
    is_stacked = len({layer.has_experts for layer in shape.layers}) == 1
    found: dict[str, dict[tuple[int, ...], list[Weight]]] = {}
    for weight in weights_of(shape, folder.family.spelling):
        for own in _names(weight):
            key = own
            offsets: tuple[int, ...] = ()
            if weight.layer is not None:
                key = f"{_LAYERS}{own}" if is_stacked else f"{_LAYERS}{weight.layer}.{own}"
                offsets = (weight.layer,) if is_stacked else ()
            if weight.expert is not None:
                offsets = (*offsets, weight.expert)
            found.setdefault(key, {}).setdefault(offsets, []).append(weight)
    for key, chunks in found.items():
        yield _tensor(folder, target, key, chunks)


def _names(weight: Weight) -> Sequence[str]:
    """Megatron's names of a weight: a norm before experts has one for its own layers and another
    for Transformer Engine's (``gpt_layer_specs.py`` in megatron/core/models/gpt), as both are to
    load it.
    """
    return (_OWN_NORM, _FUSED_NORM) if weight.own == _OWN_NORM else (weight.own,)


def _tensor(
    folder: Folder, target: Target, key: str, chunks: Mapping[tuple[int, ...], Sequence[Weight]]
) -> NewTensor:
    one = next(iter(chunks.values()))
    rows = max(end for weight in one for _, end in weight.rows)
    if key in (EMBEDDING, OUTPUT):
        rows = target.rows
    own = (rows, *one[0].shape[1:])
    lead = len(next(iter(chunks)))
    sizes = tuple(max(offsets[axis] for offsets in chunks) + 1 for axis in range(lead))
    zeros, box = (0,) * len(own), (*(1,) * lead, *own)
    pieces = tuple(
        Piece(
            (*offsets, *zeros),
            box,
            Made(partial(_made, folder, target.dtype, tuple(weights), box)),
        )
        for offsets, weights in chunks.items()
    )
    return NewTensor(key, TensorProperties(dtype=target.dtype), (*sizes, *own), pieces)


def _made(
    folder: Folder, dtype: torch.dtype, weights: Sequence[Weight], shape: tuple[int, ...]
) -> torch.Tensor:
    """A chunk; rows that no weight has are padding of the vocabulary, and zero."""
    found = torch.zeros(shape[-max(1, len(weights[0].shape)) :], dtype=dtype)
    for weight in weights:
        values = folder.read(weight)
        done = 0
        for begin, end in weight.rows:
            found[begin:end] = values[done : done + end - begin]
            done += end - begin
    return found.reshape(shape)


def _objects(shape: Shape) -> Iterator[str]:
    """Keys of the states that modules ask for."""
    layers = len(shape.layers)
    is_stacked = len({layer.has_experts for layer in shape.layers}) == 1
    for number, layer in enumerate(shape.layers):
        modules = [*(f"self_attention.{name}" for name in _OF_ATTENTION)]
        modules += ["input_layernorm", "pre_mlp_layernorm"]
        if not layer.has_experts:
            modules += ["mlp.linear_fc1", "mlp.linear_fc2"]
        place = ((number,), (layers,)) if is_stacked else ((), ())
        before = _LAYERS if is_stacked else f"{_LAYERS}{number}."
        for module in modules:
            yield _object(f"{before}{module}", *place)
        if not layer.has_experts:
            continue
        assert shape.experts is not None
        for expert in range(shape.experts.number):
            for name in ("linear_fc1", "linear_fc2"):
                offset, grid = (
                    (*one, other)
                    for one, other in zip(place, (expert, shape.experts.number), strict=True)
                )
                yield _object(f"{before}{_EXPERTS}{name}", offset, grid)
    for module in _OUTSIDE:
        yield _object(module, (), ())


def _object(module: str, offset: tuple[int, ...], grid: tuple[int, ...]) -> str:
    return str(Shard(f"{module}._extra_state", offset or (0,), grid or (1,)))


def padded(vocab_size: int, divisor: int) -> int:
    """Rows of an embedding for so many tokens, as Megatron pads it."""
    return -(-vocab_size // divisor) * divisor


def tokenizer_files_in(folder: Path) -> list[Path]:
    """What of a model's folder belongs to its tokenizer, by the names that transformers gives."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and (path.name in _OF_TOKENIZER or path.suffix in _TOKENIZER_SUFFIXES)
    )
