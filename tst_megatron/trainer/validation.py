"""Validation on the same samples every time, of the next-token loss or of a method's own."""

import argparse
from collections.abc import Iterator
from typing import Any

from megatron.core.rerun_state_machine import RerunDataIterator
from megatron.training.datasets.data_samplers import build_pretraining_data_loader

from tst_megatron.methods.method import Evaluation
from tst_megatron.runs.stages import ordinary_stage
from tst_megatron.trainer.datasets import DatasetsProvider
from tst_megatron.trainer.forward_step import StageIterator


class FixedValidation:
    """Validation iterators that read the same samples every time.

    Args:
        args: Megatron's validated arguments.
        provider: of the run's data.
    """

    def __init__(self, args: argparse.Namespace, provider: DatasetsProvider) -> None:
        self.args = args
        self.provider = provider
        self._datasets: dict[tuple[str, int, int], Any] = {}

    def iterators(
        self,
        evaluation: Evaluation | None,
        eval_iters: int,
        num_model_chunks: int,
        place: int = 0,
    ) -> Any:
        """From the first sample of the validation split, or of one of its sets.

        Args:
            evaluation: whose loss is measured; None for the next-token loss.
            eval_iters: batches that will be taken.
            num_model_chunks: of this rank.
            place: of the set among several (``--multiple-validation-sets``).

        Returns:
            One iterator, or one a model chunk where the schedule is interleaved, as Megatron's
            schedules take them.
        """
        stage = ordinary_stage(0) if evaluation is None else evaluation.stage
        chunks: list[StageIterator] = []
        interleaved = self.args.virtual_pipeline_model_parallel_size is not None
        for chunk in range(num_model_chunks):
            dataset = self._dataset(evaluation, eval_iters, chunk if interleaved else None)
            if isinstance(dataset, list):
                dataset = dataset[place]
            loader = build_pretraining_data_loader(dataset, 0)
            iterator = None if loader is None else RerunDataIterator(_forever(loader))
            chunks.append(StageIterator(stage, iterator))
        return chunks if interleaved else chunks[0]

    def _dataset(self, evaluation: Evaluation | None, eval_iters: int, vp_stage: int | None) -> Any:
        is_own = evaluation is not None and evaluation.dataset is not None
        key = (evaluation.loss, evaluation.tokens_a_position) if evaluation and is_own else ("", 1)
        place = (*key, vp_stage or 0)
        if place not in self._datasets:
            num_samples = None
            if not self.args.full_validation:
                num_samples = eval_iters * self.args.eval_global_batch_size
            self._datasets[place] = self.provider.held_out(evaluation, num_samples, vp_stage)
        return self._datasets[place]


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
