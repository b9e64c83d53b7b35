"""Documents inside a sequence that context parallelism splits: refused, whatever the method."""

import inspect

import pytest
from counted_corpora import parse
from megatron.core import utils
from megatron.training import arguments

from tst_megatron.errors import UserError
from tst_megatron.stock.flags import check_beside

_MASKED = "--dataloader-inter-document-masking"
_SPLIT = "--context-parallel-size=2"


@pytest.mark.parametrize("impl", ["transformer_engine", "local"])
def test_masking_between_documents_is_refused_where_the_sequence_is_split(impl: str) -> None:
    with pytest.raises(
        UserError, match=f"^{_MASKED} with --context-parallel-size has not been seen"
    ):
        check_beside(parse(_MASKED, _SPLIT, f"--transformer-impl={impl}"))
    check_beside(parse(_MASKED))
    check_beside(parse(_SPLIT))
    # Its documents are padded, and dealt out one by one.
    check_beside(parse(_MASKED, _SPLIT, "--sft"))


def test_megatron_still_splits_the_sequence_and_says_nothing() -> None:
    """When this fails, look at what Megatron does now: the refusal may have had its day."""
    splits = inspect.getsource(utils.get_batch_on_this_cp_rank)
    assert 'if use_per_sequence_balancing or batch.get("cu_seqlens") is None:' in splits
    per_document = inspect.getsource(utils._get_batch_on_this_cp_rank_per_document_balancing)
    assert "tex.thd_get_partitioned_indices(" in per_document
    assert inspect.getsource(arguments).count("dataloader_inter_document_masking") == 1
