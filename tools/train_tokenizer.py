#!/usr/bin/env python
"""A SentencePiece tokenizer from text files: ``tst-megatron tokenizer train`` as a file to run."""

import sys

from tst_megatron.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["tokenizer", "train"]
    main()
