"""SentencePiece and tiktoken tokenizers as the ``tokenizer.json`` that means the same.

The one idea: a conversion follows what the library does to a text, step by step, and not what its
converters elsewhere assume of a model: whether a space goes before a document, what is normalised,
which pieces text can become at all. What Hugging Face's library cannot do in the same way is left
for `tokenizer_files` to find out and to name.
"""

import re
from typing import Any

import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tst_megatron.errors import UserError

_SPACE = "▁"  # As SentencePiece writes it.
_UNIGRAM, _BPE = 1, 2  # sentencepiece_model.proto: TrainerSpec.ModelType
_NORMAL, _UNKNOWN, _CONTROL, _USERS = 1, 2, 3, 4  # ModelProto.SentencePiece.Type
_UNKNOWN_PENALTY = 10.0  # Of either library, below the least score of a piece.
# The user's own symbols while text is normalised: private characters that no text is seen to have.
_FIRST_STAND_IN = 0x10F800


def from_sentencepiece(source: str, content: bytes) -> Tokenizer:
    """A SentencePiece model's pieces, scores and ways with text.

    Control pieces are marked as special; they are text to SentencePiece, and so they are to
    transformers under ``split_special_tokens``.

    Args:
        source: names the model in errors.
        content: of the ``.model`` file.

    Raises:
        UserError: the model is of a kind that Hugging Face's library has no likeness of.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(content)
    _check_kind(source, model)
    tokenizer = Tokenizer(
        _pairs_merged(model) if model.trainer_spec.model_type == _BPE else _likeliest(model)
    )
    tokenizer.normalizer = normalizers.Sequence(_normalization(model))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if model.normalizer_spec.add_dummy_prefix else []),
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken(one.piece, normalized=one.type == _USERS, special=one.type == _CONTROL)
            for one in model.pieces
            if one.type in (_CONTROL, _USERS)
        ]
    )
    return tokenizer


def _check_kind(source: str, model: Any) -> None:
    kind = model.trainer_spec.model_type
    if kind not in (_UNIGRAM, _BPE):
        what = f"of the model type {model.trainer_spec.ModelType.Name(kind).lower()}"
    elif model.trainer_spec.treat_whitespace_as_suffix:
        what = "with treat_whitespace_as_suffix"
    elif not model.normalizer_spec.escape_whitespaces:
        what = "without escape_whitespaces"
    else:
        return
    raise UserError(
        f"the tokenizer {source} is a SentencePiece model {what}, and Hugging Face's libraries "
        "have none of that kind: leave the tokenizer out, and encode with sentencepiece itself"
    )


def _unknown(model: Any) -> str:
    return next(str(one.piece) for one in model.pieces if one.type == _UNKNOWN)


def _pairs_merged(model: Any) -> models.BPE:
    """Pairs are merged by the score of what they make, and never into what no text becomes."""
    score = {one.piece: one.score for one in model.pieces if one.type == _NORMAL}
    merges = [
        (left, right)
        for piece in sorted(score, key=lambda piece: -score[piece])
        for cut in range(1, len(piece))
        if (left := piece[:cut]) in score and (right := piece[cut:]) in score
    ]
    return models.BPE(
        {one.piece: number for number, one in enumerate(model.pieces)},
        merges,
        unk_token=_unknown(model),
        fuse_unk=True,
        byte_fallback=model.trainer_spec.byte_fallback,
    )


def _likeliest(model: Any) -> models.Unigram:
    """Scores as they are; of what no text becomes, less than any way of spelling it.

    Hugging Face's library takes every piece for text, with the score of 0 that SentencePiece gives
    to control pieces and bytes, the best there is.
    """
    least = min(one.score for one in model.pieces if one.type == _NORMAL) - _UNKNOWN_PENALTY
    return models.Unigram(
        [
            (
                one.piece,
                one.score if one.type in (_NORMAL, _USERS) else least * (len(one.piece) + 1),
            )
            for one in model.pieces
        ],
        unk_id=next(i for i, one in enumerate(model.pieces) if one.type == _UNKNOWN),
        byte_fallback=model.trainer_spec.byte_fallback,
    )


def _normalization(model: Any) -> list[Any]:
    """SentencePiece's steps, in its order (normalizer.cc), on a whole document.

    The user's own symbols go through unchanged, and are found in what comes out.
    """
    spec = model.normalizer_spec
    symbols = sorted((one.piece for one in model.pieces if one.type == _USERS), key=len)[::-1]
    seen = dict(zip(symbols, symbols, strict=True))
    before: list[Any] = []
    after: list[Any] = []
    if spec.precompiled_charsmap:
        seen = {symbol: chr(_FIRST_STAND_IN + i) for i, symbol in enumerate(symbols)}
        before = [normalizers.Replace(symbol, stand_in) for symbol, stand_in in seen.items()]
        after = [normalizers.Replace(stand_in, symbol) for symbol, stand_in in seen.items()]
        mapped = normalizers.Precompiled(spec.precompiled_charsmap)
        # One character to the eye, of which the library would lose the second.
        ending = "".join(map(mapped.normalize_str, "\r\n"))
        before += [normalizers.Replace("\r\n", ending), mapped]
    if spec.remove_extra_whitespaces:
        before += [
            normalizers.Replace(Regex(r"\A +"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
        after.insert(0, normalizers.Replace(Regex(rf"{_SPACE}+\z"), ""))
    if spec.add_dummy_prefix:
        before.append(_leading_space(list(seen.values())))
    return [*before, normalizers.Replace(" ", _SPACE), *after]


def _leading_space(symbols: list[str]) -> Any:
    """A space before any text but a symbol by itself.

    The library normalises each symbol in this way as well, to look for what becomes of it.
    """
    if not symbols:
        return normalizers.Prepend(_SPACE)
    alone = "|".join(map(re.escape, symbols))
    return normalizers.Replace(Regex(rf"\A(?!(?:{alone})\z)(?=(?m:.))"), _SPACE)


def from_tiktoken(
    source: str, encoding: tiktoken.Encoding, special_tokens: tuple[str, ...]
) -> Tokenizer:
    """A tiktoken vocabulary's ranks, its pattern and the special tokens before them.

    Args:
        source: names the vocabulary in errors.
        encoding: tiktoken's object, with the ids of special tokens first.
        special_tokens: in the order of their ids.

    Raises:
        UserError: a rank spells a special token, and names of tokens stand once.
    """
    shown = dict(zip(range(256), _characters_of_bytes(), strict=True))
    ranked = [
        encoding.decode_single_token_bytes(one)
        for one in range(len(special_tokens), encoding.n_vocab)
    ]
    names = {token: "".join(map(shown.__getitem__, token)) for token in ranked}
    if both := set(names.values()) & set(special_tokens):
        raise UserError(
            f"the tokenizer {source} has a rank that spells its special token {min(both)}, and a "
            "tokenizer.json has each name once: use another vocabulary, or leave the tokenizer out"
        )
    merges = [
        (names[left], names[right])
        for token in ranked
        for cut in range(1, len(token))
        if (left := token[:cut]) in names and (right := token[cut:]) in names
    ]
    vocabulary = {name: i for i, name in enumerate((*special_tokens, *names.values()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(encoding._pat_str), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False, special=True) for token in special_tokens]
    )
    return tokenizer


def _characters_of_bytes() -> list[str]:
    """GPT-2's: printable bytes stand for themselves, the others for U+0100 and on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
