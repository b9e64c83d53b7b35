"""A model with n-grams as transformers has it: the tables as a tensor, their rules as settings."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tst_megatron.methods.ngrams.run import ORDERS, ROWS
from tst_megatron.methods.own_model import OwnCode, OwnModel, OwnWeight

_HERE = Path(__file__).parent
CODE = OwnCode("ngram", "Ngrams", (_HERE / "modeling_ngrams.py", _HERE / "ngram_hashing.py"))
_TABLES = "ngram_embeddings.weight"


def own_model(before: Mapping[str, Any], args: argparse.Namespace) -> OwnModel:
    """What tables add to a family's model.

    Args:
        before: what a checkpoint remembers of the method.
        args: Megatron's, of the checkpoint, with ``tokenizer_end``.
    """
    orders = [int(one) for one in before[ORDERS].split(",")]
    shape = (len(orders) * before[ROWS], int(args.hidden_size))
    return OwnModel(
        title="hashed n-grams",
        code=CODE,
        settings={
            "ngram_rows": before[ROWS],
            "ngram_orders": orders,
            "ngram_end": args.tokenizer_end,
        },
        weights=(OwnWeight(_TABLES, shape, key=f"embedding.{_TABLES}"),),
    )
