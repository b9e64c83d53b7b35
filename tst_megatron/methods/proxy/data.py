"""The training data of a run in forms: one data set, indexed by Megatron's global sample number.

The steps a sample takes:

1. the rates say which form the sample index reads, and how many of that form came before it;
2. every form has one data set of Megatron's own kind, over documents of its own, so that no text is
   read in two forms but where it is a pair.

The one idea: a sample is a function of its index, so there is no state to save or restore.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from megatron.core.datasets.gpt_dataset import GPTDatasetConfig
from megatron.core.datasets.utils import Split
from torch import Tensor

from tst_megatron.corpora.parts import TextPart, document_parts
from tst_megatron.methods.forms import Forms
from tst_megatron.stock.datasets import data_of_split
from tst_megatron.stock.parts_of_corpora import PartDataset, PartDatasetConfig, values_of


class DataInForms(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The samples of a whole run, in the order of training.

    Args:
        forms: of every sample.
        of_form: a data set for every form that is read.
    """

    split = Split.train
    """Megatron's loader reads this to tell training from validation batches."""

    def __init__(self, forms: Forms, of_form: Mapping[str, Any]) -> None:
        self.forms = forms
        self.of_form = of_form

    def __len__(self) -> int:
        # One more than is trained on: Megatron's sampler refuses a data set with no sample left,
        # and a finished run may be started again, to be validated.
        return self.forms.num_samples + 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The sample of a global index, as Megatron's data set of its form has it."""
        form = self.forms.at(index)
        dataset = self.of_form[form]
        # A blend without weights may hold fewer samples than a run with --allow-repeats reads.
        return dict(dataset[self.forms.count(form, [(0, index)]) % len(dataset)])


def build(
    forms: Forms,
    parts: Sequence[TextPart],
    config: GPTDatasetConfig,
    is_built_on_rank: Callable[[], bool],
) -> DataInForms | None:
    """The training data of a run; must be called on all ranks, as Megatron's builder must.

    Args:
        forms: of every sample.
        parts: of the run's text, one for every form.
        config: the run's data configuration.
        is_built_on_rank: whether this rank reads data.

    Returns:
        None on ranks that read no data.
    """
    built = {}
    for part, documents in zip(parts, document_parts(parts), strict=True):
        of_part = PartDatasetConfig(**values_of(config), document_part=documents)
        built[part.form] = data_of_split(
            PartDataset, of_part, Split.train, part.samples, is_built_on_rank
        )
    if any(dataset is None for dataset in built.values()):
        return None
    return DataInForms(forms, built)
