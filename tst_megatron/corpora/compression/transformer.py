"""A byte model that is a transformer, as ``export`` writes it: any that transformers loads.

Its probabilities are floating-point numbers, and a last bit of one decides between two frequencies:
the same on one machine, with one build of torch, and nowhere else for certain. A table of windows
is made of them once and is integers from then on; codes without a table are bound to the machine.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from tst_megatron.corpora.compression.counts import round_rows
from tst_megatron.errors import UserError

FIRST_FILE = "first_bytes.safetensors"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_FIRST = "counts"
_BYTES = 256
_ROWS_AT_ONCE = 1_024
_ONE = 1 << 30

Longs = npt.NDArray[np.int64]


class TransformerModel:
    """What comes after some bytes, by a causal language model of bytes.

    Args:
        model: of transformers; its first 256 ids are the bytes.
        first: ``[256]``, int64, how often each byte is in the text that it was trained on: what
            comes first in a window, where there is nothing to look back at.
        context: bytes that it looks back at most.
    """

    def __init__(self, model: Any, first: Longs, context: int) -> None:
        self._model = model
        self._first = first
        self.context = context

    @classmethod
    def of(
        cls, folder: Path, content: Mapping[str, bytes], context: int, on_gpu: bool
    ) -> "TransformerModel":
        """A model that a folder has.

        Args:
            folder: the files lie in it.
            content: of them, by name.
            context: bytes that it looks back at most.
            on_gpu: on this machine's, if it has one. Not where forked processes are to use it,
                which a GPU does not survive; nor do torch's threads, so that a CPU has one.

        Raises:
            UserError: it is no causal language model of bytes.
        """
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            first = load(content[FIRST_FILE])[_FIRST]
            model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32
            )
        except Exception as error:  # transformers raises anything.
            raise UserError(
                f"the byte model {folder} cannot be loaded: "
                f"{' '.join((str(error) or repr(error)).split())[:200]}"
            ) from None
        if first.shape != (_BYTES,) or not _BYTES < model.config.vocab_size <= 2 * _BYTES:
            raise UserError(
                f"{folder} is a model of {model.config.vocab_size:,} ids, and a byte model has "
                "257: make one with tst-megatron compressor train"
            )
        model.eval()
        if on_gpu and torch.cuda.is_available():
            return cls(model.to("cuda"), first, context)
        if not on_gpu:
            torch.set_num_threads(1)
        return cls(model, first, context)

    def frequencies(self, contexts: npt.NDArray[np.uint8], lengths: Longs) -> npt.NDArray[np.int32]:
        """See `tst_megatron.corpora.compression.growing.ByteModel`."""
        shares = np.empty((len(contexts), _BYTES), np.int64)
        shares[lengths == 0] = self._first + 1
        # Those of a length together: none is filled up, so that a context's numbers are its own.
        for length in np.unique(lengths[lengths > 0]).tolist():
            rows = np.flatnonzero(lengths == length)
            for begin in range(0, len(rows), _ROWS_AT_ONCE):
                some = rows[begin : begin + _ROWS_AT_ONCE]
                shares[some] = self._shares(contexts[some, -min(length, self.context) :])
        out = np.empty((len(contexts), _BYTES), np.int32)
        round_rows(shares, out)
        return out

    def _shares(self, contexts: npt.NDArray[np.uint8]) -> Longs:
        """Of 2^30, after contexts ``[n, length]``."""
        import torch

        with torch.inference_mode():
            ids = torch.from_numpy(contexts.astype(np.int64)).to(self._model.device)
            logits = self._model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
            # The end of a document is no byte: within one, it does not come.
            shares = torch.softmax(logits[:, -1, :_BYTES].double(), dim=-1)
            found: Longs = (shares * _ONE).floor().to(torch.int64).cpu().numpy()
        return found
