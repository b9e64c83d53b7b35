"""Byte models and compressors, made from text."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from tst_megatron.corpora.compression.byte_models import (
    COUNTS,
    ByteModelRecord,
    StoredByteModel,
    counts_content,
    hashes,
)
from tst_megatron.corpora.compression.cells import MIN_STEPPED_BITS
from tst_megatron.corpora.compression.compressor import STEPPED, Compressor, Settings
from tst_megatron.corpora.compression.counts import CountModel
from tst_megatron.corpora.compression.growing import (
    MAX_WINDOW_BITS,
    MIN_WINDOW_BITS,
    RULES,
    ByteModel,
    grown,
)
from tst_megatron.corpora.compression.streams import MAX_STEPPED_BITS
from tst_megatron.corpora.compression.windows import Windows
from tst_megatron.errors import UserError

# Of every so many documents one is held out, to say how good a model is.
_HELD_OUT_OF = 50
_HELD_OUT_BYTES = 1 << 20
_AT_ONCE = 1 << 14


def up_to(documents: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """The first documents, as far as so many bytes go; the last one cut."""
    room = max_bytes
    for document in documents:
        yield document[:room]
        room -= len(document)
        if room <= 0:
            return


def count_model(documents: Iterable[bytes], order: int) -> StoredByteModel:
    """Count bytes after the ``order`` before them.

    Args:
        documents: text; of fifty or more, one in fifty is held out.
        order: the longest context.

    Raises:
        UserError: there is no text, or too much.
    """
    every = [document for document in documents if document]
    held_out = every[_HELD_OUT_OF - 1 :: _HELD_OUT_OF]
    used = [one for place, one in enumerate(every, 1) if place % _HELD_OUT_OF]
    try:
        model = CountModel.trained(used, order)
    except ValueError as error:
        raise UserError(f"the text gives no byte model: {error}") from None
    content = counts_content(model)
    record = ByteModelRecord(
        kind=COUNTS,
        context=order,
        parameters=0,
        flops=0.0,
        documents=len(used),
        text_bytes=sum(map(len, used)),
        bits_a_byte=bits_a_byte(model, held_out, order) if held_out else None,
        files=hashes(content),
    )
    return StoredByteModel(record, content, model)


def bits_a_byte(model: ByteModel, documents: Iterable[bytes], context: int) -> float:
    """What a byte of text costs by a model that is never reset, over the first MiB."""
    bits, number = 0.0, 0
    for document in up_to(documents, _HELD_OUT_BYTES):
        text = np.frombuffer(document, np.uint8)
        for begin in range(0, len(text), _AT_ONCE):
            place = np.arange(begin, min(begin + _AT_ONCE, len(text)))
            rows = text[np.clip(place[:, None] + np.arange(-max(1, context), 0), 0, None)]
            frequencies = model.frequencies(rows, np.minimum(place, context))
            taken = frequencies[np.arange(len(place)), text[place]]
            bits += float(-np.log2(taken / frequencies.sum(axis=1)).sum())
            number += len(place)
    return bits / max(1, number)


def compressor(
    settings: Settings,
    model: StoredByteModel | None,
    told: Callable[[int], None] = lambda number: None,
) -> Compressor:
    """Make a compressor.

    Args:
        settings: checked by `check`.
        model: of the bytes; None for methods without one.
        told: hears how many windows were found so far.
    """
    if settings.method in ("gzip", "bytes"):
        return Compressor(settings)
    assert model is not None
    record = model.record.as_json()
    if settings.has_table:
        windows = Windows(grown(model.model, settings.window_bits, settings.rule, told))
        return Compressor(settings, windows, None, record)
    return Compressor(settings, None, model, record)


def check(settings: Settings, model: StoredByteModel | None) -> None:
    """Check that there is such a code.

    Raises:
        UserError: there is none.
    """
    method = settings.method
    if settings.token_bits not in (8, 16) and settings.token_bits != settings.window_bits:
        raise UserError(
            f"--token-bits {settings.token_bits}: give 8 or 16, or as many as --window-bits"
        )
    if (model is None) != (method in ("gzip", "bytes")):
        raise UserError(
            f"--method {method} needs a byte model: name the folder that tst-megatron compressor "
            "train wrote"
            if model is None
            else f"--method {method} needs no byte model: leave the folder out"
        )
    if method == "bytes" and settings.token_bits != 8:
        raise UserError("--method bytes has ids of 8 bits: leave --token-bits out")
    if method == "static-ac" and model is not None and model.record.context:
        raise UserError(
            "--method static-ac goes by single bytes: make its byte model with --order 0"
        )
    if method == "equal-info":
        _check_windows(settings)


def _check_windows(settings: Settings) -> None:
    bits, rule = settings.window_bits, settings.rule
    if rule in RULES:
        if not MIN_WINDOW_BITS <= bits <= MAX_WINDOW_BITS:
            raise UserError(
                f"--window-bits {bits} with --rule {rule} is a table, which is made for "
                f"{MIN_WINDOW_BITS} to {MAX_WINDOW_BITS}: larger windows go by --rule {STEPPED}"
            )
        if settings.reset_every != 1:
            raise UserError(
                f"--reset-every {settings.reset_every} with --rule {rule}: a table holds windows "
                f"that begin anew each; give --rule {STEPPED}"
            )
    elif not MIN_STEPPED_BITS <= bits <= MAX_STEPPED_BITS or bits % 8:
        raise UserError(
            f"--window-bits {bits} with --rule {rule}: give a multiple of 8 from "
            f"{MIN_STEPPED_BITS} to {MAX_STEPPED_BITS}; in fewer the rarest byte has no place"
        )
    if bits % settings.token_bits:
        raise UserError(
            f"--token-bits {settings.token_bits} does not divide --window-bits {bits}: give one "
            "that does"
        )
