"""Folders of transformers: models of a few KB with random weights, and a tokenizer of bytes."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
MAX_LENGTH = 48


def tokenizer(ends_documents: bool = True, merges: int = 0) -> PreTrainedTokenizerFast:
    """Every byte a token, so that any text has ids; the last id ends a document.

    Args:
        ends_documents: whether the tokenizer says so.
        merges: of neighbouring letters, so that another tokenizer has fewer tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(one, other) for one in "etaoin" for other in "nrst "[: max(0, merges)]]
    pairs = [(one, other) for one, other in pairs if other != " "][:merges]
    vocabulary = {one: place for place, one in enumerate([*alphabet, *map("".join, pairs)])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END])
    named = {"eos_token": END} if ends_documents else {}
    return PreTrainedTokenizerFast(tokenizer_object=made, **named)


def model(vocabulary: int, seed: int = 0, scale: float = 0.3) -> LlamaForCausalLM:
    """A Llama whose weights are large enough that its answers differ.

    Args:
        vocabulary: number of ids.
        seed: of the weights.
        scale: of their spread.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=scale,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def folder_of(
    folder: Path,
    seed: int = 0,
    facts: dict[str, Any] | None = None,
    ends_documents: bool = True,
    merges: int = 0,
) -> Path:
    """Such a model and tokenizer on disk; ``facts`` is what an export says of its run."""
    made = tokenizer(ends_documents, merges)
    made.save_pretrained(folder)
    model(len(made), seed).save_pretrained(folder)
    if facts is not None:
        (folder / "tst-megatron.json").write_text(json.dumps(facts))
    return folder
