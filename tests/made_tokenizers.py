"""Real tokenizers of every kind, each trained on a little text in a second."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

_WORDS = "Ünïcödé naïve 漢字 かな привет мир שלום 1234 3.14 l'été 한국어 🧑‍🚀"
TEXT = (
    *(
        line
        for path in sorted(Path(json.__file__).parent.glob("*.py"))
        for line in path.read_text().split("\n")
    ),
    *(_WORDS.split(" ") * 20),
)

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
END = "<|endoftext|>"


def tokenizer(folder: Path, name: str) -> Path:
    """Make a tokenizer by its name: of `SENTENCEPIECE`, of `HUGGING_FACE`, or a tiktoken one."""
    if name in SENTENCEPIECE:
        return sentencepiece_model(folder / f"{name}.model", **SENTENCEPIECE[name])
    if name in HUGGING_FACE:
        return tokenizer_json(folder / f"{name}.json", name)
    make = {"tiktoken": tiktoken_json, "tiktoken-ranks": tiktoken_rank_file}[name]
    return make(folder / f"{name}.json")


def sentencepiece_model(path: Path, **settings: Any) -> Path:
    defaults: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 600,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "allow_whitespace_only_pieces": True,
        "minloglevel": 2,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in TEXT if line.strip()]),
        model_writer=model,
        **defaults | settings,
    )
    path.write_bytes(model.getvalue())
    return path


SENTENCEPIECE: dict[str, dict[str, Any]] = {
    "sp-as-ours": {"user_defined_symbols": ["\n", "\t"]},
    "sp-leading-space": {"add_dummy_prefix": True},
    "sp-leading-space-symbols": {
        "add_dummy_prefix": True,
        "user_defined_symbols": ["\n", "<|im_start|>"],
    },
    "sp-normalised": {
        "normalization_rule_name": "nmt_nfkc",
        "remove_extra_whitespaces": True,
        "add_dummy_prefix": True,
    },
    "sp-stripped": {"remove_extra_whitespaces": True, "add_dummy_prefix": True},
    "sp-unigram": {"model_type": "unigram"},
    "sp-without-bytes": {"byte_fallback": False},
    "sp-without-eos": {"eos_id": -1},
}


def _byte_level(
    split: str | None = None, normalizer: Any = None, **settings: Any
) -> tuple[Tokenizer, list[str]]:
    tokenizer = Tokenizer(models.BPE(**settings))
    if split is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, [END, "<|begin|>"]


def _framed() -> tuple[Tokenizer, list[str]]:
    tokenizer, special = _byte_level(LLAMA3_SPLIT, ignore_merges=True)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", 1)]),
        ]
    )
    return tokenizer, special


def _roberta() -> tuple[Tokenizer, list[str]]:
    tokenizer, special = _byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.RobertaProcessing((END, 0), ("<|begin|>", 1))
    return tokenizer, special


def _split_by_string() -> tuple[Tokenizer, list[str]]:
    tokenizer, special = _byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("e", "isolated"),
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer, special


def _unsplit() -> tuple[Tokenizer, list[str]]:
    tokenizer, special = _byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer, special


def _own_split() -> tuple[Tokenizer, list[str]]:
    return _byte_level(r"\w+|[^\w\s]+|\s+")


def _word_piece() -> tuple[Tokenizer, list[str]]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, ["[UNK]", END]


def _lower() -> tuple[Tokenizer, list[str]]:
    return _byte_level(normalizer=normalizers.Lowercase())


def _nfc() -> tuple[Tokenizer, list[str]]:
    return _byte_level(QWEN2_SPLIT, normalizers.NFC())


def _byte_fallback() -> tuple[Tokenizer, list[str]]:
    """As Llama 2's: SentencePiece's ways in Hugging Face's terms."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer, ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]


HUGGING_FACE: dict[str, Callable[[], tuple[Tokenizer, list[str]]]] = {
    "hf-gpt2": _byte_level,
    "hf-llama3": _framed,
    "hf-qwen2": _nfc,
    "hf-roberta": _roberta,
    "hf-llama2": _byte_fallback,
    "hf-split-by-string": _split_by_string,
    "hf-unsplit": _unsplit,
    "hf-own-split": _own_split,
    "hf-lower": _lower,
    "hf-wordpiece": _word_piece,
}


def tokenizer_json(path: Path, name: str) -> Path:
    tokenizer, special = HUGGING_FACE[name]()
    if isinstance(tokenizer.model, models.WordPiece):
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=600, special_tokens=special, show_progress=False
        )
    else:
        trainer = trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=special,
            initial_alphabet=[] if name == "hf-llama2" else pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(TEXT, trainer)
    if name == "hf-llama2":
        content = json.loads(tokenizer.to_str())
        content["added_tokens"] = content["added_tokens"][:3]
        tokenizer = Tokenizer.from_str(json.dumps(content))
    # The user's own, which swallows the space before it; and one whose text may be anywhere.
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True), AddedToken("hello_world")])
    tokenizer.save(str(path))
    return path


def tiktoken_ranks() -> list[bytes]:
    """The 256 bytes and merges after them, as tiktoken ranks them."""
    tokenizer, _ = _byte_level()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    vocabulary = tokenizer.get_vocab()
    in_order = sorted(vocabulary, key=lambda token: vocabulary[token])
    to_byte = dict(zip(_alphabet(), range(256), strict=True))
    merged = [bytes(to_byte[c] for c in token) for token in in_order if len(token) > 1]
    return [bytes([byte]) for byte in range(256)] + merged


def _alphabet() -> list[str]:
    """GPT-2's characters for the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in range(256)]


def tiktoken_json(path: Path) -> Path:
    entries = [
        {
            "rank": rank,
            "token_bytes": base64.b64encode(token).decode(),
            "token_str": token.decode(errors="replace"),
        }
        for rank, token in enumerate(tiktoken_ranks())
    ]
    path.write_text(json.dumps(entries))
    return path


def tiktoken_rank_file(path: Path) -> Path:
    ranks = enumerate(tiktoken_ranks())
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in ranks))
    return path


EVERY = (*SENTENCEPIECE, *HUGGING_FACE, "tiktoken", "tiktoken-ranks")
FAST = (
    *("sp-as-ours", "sp-leading-space", "sp-leading-space-symbols", "sp-normalised"),
    *("sp-stripped", "sp-without-eos"),
    *("hf-gpt2", "hf-llama3", "hf-qwen2", "hf-roberta", "hf-llama2", "tiktoken"),
)
"""Those that gigatoken is proven on."""
