"""GPT-2's tokenizer from its ``vocab.json`` and ``merges.txt``, without a hub.

Megatron reads the two files with Hugging Face's tokenizer of the name ``gpt2``, and asks the hub
for its class and special tokens. Both stand in ``gpt2/``, beside this module, so that machines
without a network read the files, and read those files alone.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from tst_megatron.errors import UserError

GPT2 = "GPT2BPETokenizer"
DEFAULT_TOKENIZER = GPT2
"""Megatron's own, in its ``pretrain_gpt.py``."""
GPT2_VOCABULARY = 50257

_FOLDER = Path(__file__).parent / "gpt2"
_FILES = (("vocab_file", "--vocab-file"), ("merge_file", "--merge-file"))


def check_gpt2_files(args: argparse.Namespace) -> None:
    """Check that the two files are here, or that Megatron can download them.

    Raises:
        UserError: they are not.
    """
    for name, flag in _FILES:
        file = getattr(args, name)
        if file is not None and not Path(file).is_file():
            raise UserError(f"{flag} {file} is missing: no such file")
        if file is None and find_spec("wget") is None:
            raise UserError(
                f"--tokenizer-type {GPT2}, which is Megatron's default, needs a {flag}: add it, or "
                "name another tokenizer"
            )


def read_gpt2_from_its_files() -> None:
    """Let Megatron find the class of GPT-2's tokenizer here."""
    from megatron.core.tokenizers.text.libraries import megatron_hf_tokenizer

    megatron_hf_tokenizer.MEGATRON_CONFIG_MAP[GPT2]["tokenizer_name"] = str(_FOLDER)
