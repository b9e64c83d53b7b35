#!/usr/bin/env python
"""Text files to Megatron's ``.bin`` and ``.idx``: ``tst-megatron index build`` as a file to run."""

import argparse

from tst_megatron.data.commands import index_build
from tst_megatron.errors import user_errors_exit

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=index_build.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    index_build.add_arguments(parser)
    with user_errors_exit():
        index_build.main(parser.parse_args())
