"""Our trainer, taking combinations that are refused until a GPU has shown that they are right.

``-m tests.gpu.unrefused_pretrain REFUSED FLAGS…``: the words with which the sentence begins.
"""

import argparse
import sys

from tst_megatron.errors import UserError
from tst_megatron.methods.superposition import combinations
from tst_megatron.stock import flags as stock_flags
from tst_megatron.trainer import pretrain

EXPERTS = "--overlap-moe-expert-parallel-comm"
DOCUMENTS = "--dataloader-inter-document-masking with --context-parallel-size"


def lift(refused: str) -> None:
    """Let the run go on where it would be refused; what is no longer refused is to be said."""
    rows = combinations._UNSUPPORTED
    if refused == DOCUMENTS:
        _lift_documents()
    elif refused in {flag for _, flag, _ in rows}:
        combinations._UNSUPPORTED = tuple(row for row in rows if row[1] != refused)
    else:
        sys.exit(f"{refused} is not refused: try it without this program")


def _lift_documents() -> None:
    check = stock_flags.check_beside

    def lenient(args: argparse.Namespace) -> None:
        try:
            check(args)
        except UserError as refusal:
            if not str(refusal).startswith(DOCUMENTS):
                raise

    stock_flags.check_beside = lenient


if __name__ == "__main__":
    lift(sys.argv[1])
    pretrain.main(sys.argv[2:])
