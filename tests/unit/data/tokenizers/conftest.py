"""The tokenizers of `made`, each made once a session."""

from collections.abc import Callable
from pathlib import Path

import made
import pytest

from tst_megatron.data.tokenizers.description import TokenizerDescription, describe


@pytest.fixture(scope="session")
def spec_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The path of a tokenizer by its name in `made`."""
    folder = tmp_path_factory.mktemp("tokenizers")
    specs: dict[str, str] = {}

    def make(name: str) -> str:
        if name in specs:
            return specs[name]
        if name in made.SENTENCEPIECE:
            path = made.sentencepiece_model(folder / f"{name}.model", **made.SENTENCEPIECE[name])
        elif name in made.HUGGING_FACE:
            path = made.tokenizer_json(folder / f"{name}.json", name)
        elif name == "tiktoken":
            path = made.tiktoken_json(folder / "tiktoken.json")
        else:
            path = made.tiktoken_rank_file(folder / "ranks.tiktoken")
        specs[name] = str(path)
        return specs[name]

    return make


@pytest.fixture(scope="session")
def described(
    spec_of: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], TokenizerDescription]:
    """A described tokenizer by its name in `made`; of its folder's copy with Megatron's flags."""
    descriptions: dict[str, TokenizerDescription] = {}

    def make(name: str) -> TokenizerDescription:
        if name not in descriptions:
            descriptions[name] = describe(spec_of(name))
        return descriptions[name]

    return make


def folder_of(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    return tmp_path_factory.mktemp(name)
