"""The data sets of a run, as Megatron's trainer asks for them.

Megatron's ``train_valid_test_datasets_provider``: a run gets Megatron's own data sets, and a method
may make the training data in their place. Validation and test are next-token always.
"""

from dataclasses import dataclass
from typing import Any

from megatron.core.datasets.utils import Split
from megatron.training import get_args, print_rank_0

from tst_megatron.errors import user_errors_exit
from tst_megatron.methods.method import Evaluation, Run
from tst_megatron.stock.caches import CorpusDataset, DatasetBuilder
from tst_megatron.stock.datasets import (
    data_of_split,
    dataset_class,
    dataset_config,
    is_built_on_rank,
    without_split,
)
from tst_megatron.trainer.memory import remember


@dataclass
class DatasetsProvider:
    """Builds the data sets of a run; Megatron calls it once a virtual pipeline stage.

    Attributes:
        run: what the run's methods make of it.
        is_distributed: tells Megatron's loader that every rank calls this.
    """

    run: Run
    is_distributed: bool = True
    _first: tuple[int, int] | None = None

    def __call__(
        self, train_valid_test_num_samples: tuple[int, int | None, int], vp_stage: int | None = None
    ) -> tuple[Any, Any, Any]:
        """Training, validation and test data; None where this rank reads none.

        Args:
            train_valid_test_num_samples: samples of each; None for one pass over the split.
            vp_stage: virtual pipeline stage, if the schedule is interleaved.
        """
        args = get_args()
        # For a second chunk it takes the lengths of whole validation sets, in `eval_iters` by now,
        # for what was asked for: of the test set, and of samples that a run of before validated on.
        if self._first is None:
            self._first = train_valid_test_num_samples[2], args.consumed_valid_samples
        test_samples, args.consumed_valid_samples = self._first
        num_samples = [*train_valid_test_num_samples[: Split.test.value], test_samples]
        # A checkpoint has been loaded by now.
        self.run.goes_on_from(args.iteration)
        remember(args, self.run)
        config = dataset_config(args)
        for split in (Split.valid, Split.test):
            # Megatron builds what is never read, and counts epochs of an empty split for ever.
            if num_samples[split.value] == 0 and not args.full_validation:
                config = without_split(config, split)
        is_built = is_built_on_rank(args, vp_stage)
        makes = self.run.makes_training_data
        print_rank_0("> building train, validation, and test datasets ...")
        # A cache that cannot be read or written shows here.
        with user_errors_exit():
            built = without_split(config, Split.train) if makes else config
            train, valid, test = DatasetBuilder(
                dataset_class(args),
                num_samples,
                is_built,
                without_split(built, Split.valid) if args.full_validation else built,
            ).build()
            if args.full_validation:
                # Megatron asks every rank how long validation sets are, those too that read none of
                # them (build_train_valid_test_data_iterators in megatron/training/training.py).
                kind = dataset_class(args)
                valid = data_of_split(kind, config, Split.valid, None, lambda: True)
            if makes:
                train = self.run.training_data(config, is_built)
        print_rank_0("> finished creating datasets ...")
        return train, valid, test

    def held_out(
        self, evaluation: Evaluation | None, num_samples: int | None, vp_stage: int | None = None
    ) -> Any:
        """The validation split from its first sample; must be called on all ranks.

        Args:
            evaluation: whose data they are; None for the next-token loss's.
            num_samples: None for one pass over the split.
            vp_stage: virtual pipeline stage, if the schedule is interleaved.

        Returns:
            None on ranks that read no data.
        """
        args = get_args()
        config, is_built = dataset_config(args), is_built_on_rank(args, vp_stage)
        with user_errors_exit():
            if evaluation is not None and evaluation.dataset is not None:
                return evaluation.dataset(config, num_samples, is_built)
            # One of FIM data rewrites a sample anew each time that it is read.
            kind = CorpusDataset if args.fim_data else dataset_class(args)
            return data_of_split(kind, config, Split.valid, num_samples, is_built)
