#!/usr/bin/env python
"""Text files to Megatron's ``.bin`` and ``.idx``: ``tst-megatron index build`` as a file to run."""

import sys

from tst_megatron.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["index", "build"]
    main()
