"""Validation on the same samples every time, as bags or as tokens."""

import argparse
from collections.abc import Iterator
from typing import Any

from megatron.core.rerun_state_machine import RerunDataIterator
from megatron.training.datasets.data_samplers import build_pretraining_data_loader

from tst_megatron.trainer.datasets import DatasetsProvider
from tst_megatron.trainer.forward_step import BagIterator


class FixedValidation:
    """Validation iterators that read the same samples every time, as bags or as tokens."""

    def __init__(self, args: argparse.Namespace, provider: DatasetsProvider) -> None:
        self.args = args
        self.provider = provider
        self._datasets: dict[tuple[int, int], Any] = {}

    def iterators(
        self, bag_size: int, tokens_a_place: int, eval_iters: int, num_model_chunks: int
    ) -> Any:
        """From the first sample of the validation split.

        Args:
            bag_size: s of the objective.
            tokens_a_place: s of the data: 1 where single tokens are read.
            eval_iters: batches that will be taken.
            num_model_chunks: of this rank.

        Returns:
            One iterator, or one a model chunk where the schedule is interleaved, as Megatron's
            schedules take them.
        """
        chunks: list[BagIterator] = []
        interleaved = self.args.virtual_pipeline_model_parallel_size is not None
        for chunk in range(num_model_chunks):
            dataset = self._dataset(tokens_a_place, eval_iters, chunk if interleaved else None)
            loader = build_pretraining_data_loader(dataset, 0)
            iterator = None if loader is None else RerunDataIterator(_forever(loader))
            chunks.append(BagIterator(bag_size, iterator))
        return chunks if interleaved else chunks[0]

    def _dataset(self, tokens_a_place: int, eval_iters: int, vp_stage: int | None) -> Any:
        key = (tokens_a_place, vp_stage or 0)
        if key not in self._datasets:
            num_samples = None
            if not self.args.full_validation:
                num_samples = eval_iters * self.args.eval_global_batch_size
            self._datasets[key] = self.provider.validation(tokens_a_place, num_samples, vp_stage)
        return self._datasets[key]


def _forever(loader: Any) -> Iterator[Any]:
    while True:
        batches = 0
        for batch in loader:
            batches += 1
            yield batch
        if not batches:
            raise RuntimeError(
                "the validation split has too little text for one sample a data-parallel rank: "
                "give --split more of it"
            )
