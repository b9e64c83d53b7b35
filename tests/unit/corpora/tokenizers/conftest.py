"""The tokenizers of `made_tokenizers`, each made once a session; Megatron's own by their flags."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_tokenizers as made
import pytest

from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe


@pytest.fixture(scope="session")
def spec_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The path of a tokenizer by its name in `made_tokenizers`."""
    folder = tmp_path_factory.mktemp("made")
    specs: dict[str, str] = {}

    def spec_of(name: str) -> str:
        if name not in specs:
            specs[name] = str(made.tokenizer(folder, name))
        return specs[name]

    return spec_of


@pytest.fixture(scope="session")
def described(spec_of: Callable[[str], str]) -> Callable[[str], TokenizerDescription]:
    """A tokenizer of `made_tokenizers`, described."""
    descriptions: dict[str, TokenizerDescription] = {}

    def described(name: str) -> TokenizerDescription:
        if name not in descriptions:
            descriptions[name] = describe(spec_of(name))
        return descriptions[name]

    return described


@pytest.fixture
def megatrons(tmp_path: Path) -> Callable[[TokenizerDescription], Any]:
    """Megatron's tokenizer for a description: its files, copied, and its flags."""
    from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
    from megatron.training.arguments import add_megatron_arguments

    def megatrons(description: TokenizerDescription) -> Any:
        folder = tmp_path / "tokenizer"
        description.copy_to(folder)
        flags = [flag.replace("{folder}", str(folder)) for flag in description.megatron_flags]
        parser = add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False))
        args = parser.parse_args(flags)
        args.pad_vocab_size = False
        return build_tokenizer(args)

    return megatrons
