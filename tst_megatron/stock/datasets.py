"""Megatron's data configuration and the data sets that its own program builds."""

import argparse
import json
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

from megatron.core import mpu
from megatron.core.datasets.gpt_dataset import GPTDatasetConfig
from megatron.core.datasets.utils import Split
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
from megatron.training.datasets.fim_dataset import GPTFIMDatasetConfig
from megatron.training.datasets.sft_dataset import SFTDataset
from megatron.training.utils import get_blend_and_blend_per_split

from tst_megatron.stock.batch import has_packed_documents, reads_data
from tst_megatron.stock.caches import CorpusDataset, DatasetBuilder, FIMDataset, MockDataset

# GPTDatasetConfig's field from Megatron's argument, where the two names differ.
_ARGUMENT_OF_FIELD = {
    "random_seed": "seed",
    "sequence_length": "seq_length",
    "path_to_cache": "data_cache_path",
    "create_attention_mask": "create_attention_mask_in_dataloader",
    "fast_cache_load": "dataloader_fast_cache_load",
    "defer_npy_index_mmap": "dataloader_defer_npy_index_mmap",
    "inter_document_masking": "dataloader_inter_document_masking",
}
_SAME_NAME = (
    "multiple_validation_sets",
    "full_validation",
    "num_dataset_builder_threads",
    "mmap_bin_files",
    "reset_position_ids",
    "reset_attention_mask",
    "eod_mask_loss",
    "object_storage_cache_path",
    "mid_level_dataset_surplus",
    "allow_ambiguous_pad_tokens",
    "context_parallel_size",
    "data_parallel_size",
    "hybrid_context_parallel",
)


def is_built_on_rank(args: argparse.Namespace, vp_stage: int | None) -> Callable[[], bool]:
    """Whether this rank reads data: tensor-parallel rank 0 of the stages that need a batch."""

    def is_built() -> bool:
        if mpu.get_tensor_model_parallel_rank() != 0:
            return False
        return has_packed_documents(args) or reads_data(args, vp_stage)

    return is_built


def dataset_config(args: argparse.Namespace) -> GPTDatasetConfig:
    """Megatron's data configuration, from its arguments."""
    blend, blend_per_split = get_blend_and_blend_per_split(args)
    values: dict[str, Any] = {name: getattr(args, name) for name in _SAME_NAME}
    values |= {name: getattr(args, argument) for name, argument in _ARGUMENT_OF_FIELD.items()}
    values |= {
        "blend": blend,
        # A recipe's --split says nothing of splits that have corpora of their own.
        "split": args.split if blend_per_split is None else None,
        "blend_per_split": blend_per_split,
        "tokenizer": build_tokenizer(args),
        "sequence_parallel_size": args.tensor_model_parallel_size * args.sequence_parallel,
        "sequences_per_dataset": None,
    }
    if args.per_dataset_sequences_path is not None:
        sequences = Path(args.per_dataset_sequences_path).read_text()
        values["sequences_per_dataset"] = json.loads(sequences)
    if not args.fim_data:
        return GPTDatasetConfig(**values)
    tokens = {name: getattr(args, f"fim_{name}_token") for name in _FIM_TOKENS}
    rates = {name: getattr(args, name) for name in _FIM_SETTINGS}
    return GPTFIMDatasetConfig(**values, **rates, fim_extra_tokens=tokens)


_FIM_TOKENS = ("prefix", "middle", "suffix", "pad", "eod")
_FIM_SETTINGS = (
    "fim_rate",
    "fim_spm_rate",
    "fim_split_sample",
    "fim_fragment_rate",
    "fim_no_prefix",
)


def dataset_class(args: argparse.Namespace) -> Any:
    """Megatron's data set for the kind of data that the flags name."""
    if args.sft:
        return SFTDataset
    if args.mock_data:
        return MockDataset
    return FIMDataset if args.fim_data else CorpusDataset


def data_of_split(
    kind: Any,
    config: GPTDatasetConfig,
    split: Split,
    num_samples: int | None,
    is_built: Callable[[], bool],
) -> Any:
    """The data of one split, from its first sample; called on all ranks.

    Args:
        kind: class of the data set.
        config: the run's data configuration.
        split: which.
        num_samples: None for one pass over the split.
        is_built: whether this rank reads data.

    Returns:
        None on ranks that read no data.
    """
    sizes: list[int | None] = [0] * len(Split)
    sizes[split.value] = num_samples
    for other in Split:
        if other != split:
            config = without_split(config, other)
    return DatasetBuilder(kind, sizes, is_built, config).build()[split.value]


def without_split[Config: GPTDatasetConfig](config: Config, split: Split) -> Config:
    """A copy of a data configuration that builds nothing for one split."""
    config = copy(config)
    if config.blend_per_split is not None:
        config.blend_per_split = [
            None if i == split.value else blend for i, blend in enumerate(config.blend_per_split)
        ]
    if config.split_matrix is not None:
        config.split_matrix = [
            None if i == split.value else bounds for i, bounds in enumerate(config.split_matrix)
        ]
    return config
