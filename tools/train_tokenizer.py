#!/usr/bin/env python
"""A SentencePiece tokenizer from text files: ``tst-megatron tokenizer train`` as a file to run."""

import argparse

from tst_megatron.data.commands import tokenizer_train
from tst_megatron.errors import user_errors_exit

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=tokenizer_train.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    tokenizer_train.add_arguments(parser)
    with user_errors_exit():
        tokenizer_train.main(parser.parse_args())
