"""The data sets of a run, as Megatron's trainer asks for them.

Megatron's ``train_valid_test_datasets_provider``: an ordinary run gets Megatron's own data sets, a
superposed one the phased view of them. Validation and test are next-token in both.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.core import mpu
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, MockGPTDataset
from megatron.core.datasets.utils import Split
from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
from megatron.training import get_args, print_rank_0
from megatron.training.datasets.fim_dataset import GPTFIMDataset, GPTFIMDatasetConfig
from megatron.training.datasets.sft_dataset import SFTDataset
from megatron.training.utils import get_blend_and_blend_per_split

from tst_megatron.methods.superposition.arguments import Superposition
from tst_megatron.methods.superposition.phased_dataset import (
    build_phased_dataset,
    build_validation_dataset,
    without_split,
)
from tst_megatron.trainer.batch import has_packed_documents, reads_data

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


@dataclass
class DatasetsProvider:
    """Builds the data sets of a run; Megatron calls it once a virtual pipeline stage.

    Attributes:
        superposition: how the run superposes; None for an ordinary run.
        is_distributed: tells Megatron's loader that every rank calls this.
    """

    superposition: Superposition | None
    is_distributed: bool = True

    def __call__(
        self, train_valid_test_num_samples: tuple[int, int | None, int], vp_stage: int | None = None
    ) -> tuple[Any, Any, Any]:
        """Training, validation and test data; None where this rank reads none.

        Args:
            train_valid_test_num_samples: samples of each; None for one pass over the split.
            vp_stage: virtual pipeline stage, if the schedule is interleaved.
        """
        args = get_args()
        if self.superposition is not None and self.superposition.switch is not None:
            # A checkpoint has been loaded by now, or a restart in this process has gone back to it.
            self.superposition.switch.go_back(args.iteration)
            args.tst_superposition = self.superposition.as_saved()
        config = dataset_config(args)
        num_train, num_valid, num_test = train_valid_test_num_samples
        phased = self.superposition is not None and self.superposition.reads_bags
        print_rank_0("> building train, validation, and test datasets ...")
        train, valid, test = BlendedMegatronDatasetBuilder(
            _dataset_class(args),
            [num_train, num_valid, num_test],
            is_built_on_rank(args, vp_stage),
            without_split(config, Split.train) if phased else config,
        ).build()
        if self.superposition is not None and phased:
            train = build_phased_dataset(
                self.superposition.schedule,
                config,
                is_built_on_rank(args, vp_stage),
                self.superposition.bag_boundary,
            )
        print_rank_0("> finished creating datasets ...")
        return train, valid, test

    def validation(
        self, bag_size: int, num_samples: int | None, vp_stage: int | None = None
    ) -> Any:
        """The validation split in bags (of one: as it is); must be called on all ranks.

        Returns:
            None on ranks that read no data.
        """
        args = get_args()
        return build_validation_dataset(
            bag_size,
            dataset_config(args),
            num_samples,
            is_built_on_rank(args, vp_stage),
            "any" if self.superposition is None else self.superposition.bag_boundary,
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


def _dataset_class(args: argparse.Namespace) -> Any:
    if args.sft:
        return SFTDataset
    if args.mock_data:
        return MockGPTDataset
    return GPTFIMDataset if args.fim_data else GPTDataset
