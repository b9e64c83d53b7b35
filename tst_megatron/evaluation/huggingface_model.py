"""A folder of transformers that answers (`answerer.Answerer`), on a CPU or a GPU.

The one idea: rows whose inputs are equal are read once, and rows of like length together; what they
are asked for is taken from the logits in float32, a row at a time, so that no second copy of a
batch's logits is made. Rows are filled up on the right, where a causal model does not look.
"""

import math
from collections.abc import Sequence
from itertools import batched
from pathlib import Path
from typing import Any

import torch

from tst_megatron.errors import UserError
from tst_megatron.evaluation.answerer import Answer, Row
from tst_megatron.evaluation.progress import RowProgress
from tst_megatron.huggingface.folder import has_tokenizer, load_model, load_tokenizer

# Tried one after the other; as lm-evaluation-harness has it.
_LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")
_DEFAULT_LENGTH = 2048


class HuggingFaceModel:
    """A causal language model and its tokenizer, both of one folder.

    Args:
        folder: of them.
        name: for people.
        device: ``cpu``, ``cuda``, or None for a GPU where there is one.
        dtype: of its weights, a name of torch's; ``auto`` for the folder's own.
        batch_size: rows that are read together.
        max_length: ids at a time; None for what the model takes.
        document_start: that it was trained with; None to ask the tokenizer.
        progress: what shows how far it is.

    Raises:
        UserError: the folder holds no such model, or it does not go with what is asked for.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        device: str | None,
        dtype: str,
        batch_size: int,
        max_length: int | None,
        document_start: int | None,
        progress: RowProgress,
    ) -> None:
        self.name = name
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._batch_size = batch_size
        self._progress = progress
        self._tokenizer = _tokenizer(folder)
        self._model = load_model(folder, dtype, self._device)
        rows = self._model.get_input_embeddings().weight.shape[0]
        if len(self._tokenizer) > rows:
            raise UserError(
                f"the tokenizer of {name} has {len(self._tokenizer):,} ids and the model "
                f"{rows:,}: it is another model's"
            )
        self.max_length = _max_length(self._model.config, name, max_length)
        self.document_start = self._document_start(document_start)

    @property
    def facts(self) -> dict[str, Any]:
        """What was asked on what, for the record."""
        return {
            "device": torch.cuda.get_device_name() if self._device.type == "cuda" else "cpu",
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "max_length": self.max_length,
            "batch_size": self._batch_size,
            "document_start": self.document_start,
            "parameters": sum(one.numel() for one in self._model.parameters()),
        }

    def _document_start(self, told: int | None) -> int | None:
        for token in (told, self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return None

    def encode(self, text: str, adds_special: bool = False) -> list[int]:
        """As of `Answerer`."""
        # A text that spells out its beginning has it once.
        begins = self._tokenizer.bos_token
        adds_special = adds_special and not (begins and text.startswith(begins))
        ids = self._tokenizer(text, add_special_tokens=adds_special, verbose=False)["input_ids"]
        return [int(one) for one in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """As of `Answerer`."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def score(self, rows: Sequence[Row]) -> list[Answer]:
        """As of `Answerer`."""
        of_inputs: dict[tuple[int, ...], list[int]] = {}
        for place, row in enumerate(rows):
            of_inputs.setdefault(row.inputs, []).append(place)
        answers: list[Answer | None] = [None] * len(rows)
        self._progress.add(len(rows))
        # The longest first: what does not fit into memory does not fit at once.
        longest_first = sorted(of_inputs, key=len, reverse=True)
        for some in batched(longest_first, self._batch_size):
            for inputs, logits in zip(some, self._logits(some), strict=True):
                places = of_inputs[inputs]
                for place in places:
                    answers[place] = _answer(rows[place], logits[: len(inputs)])
                self._progress.advance(len(places))
        return [answer for answer in answers if answer is not None]

    def _logits(self, inputs: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """``[b, L, V]`` of rows, the longest first."""
        ids = torch.zeros(len(inputs), len(inputs[0]), dtype=torch.int64)
        for row, of_row in zip(ids, inputs, strict=True):
            row[: len(of_row)] = torch.tensor(of_row)
        try:
            with torch.inference_mode():
                logits: torch.Tensor = self._model(ids.to(self._device), use_cache=False).logits
        except torch.OutOfMemoryError:
            raise UserError(
                f"{len(inputs)} rows of {ids.shape[1]:,} tokens do not fit into the GPU's memory: "
                "give a smaller --batch-size or --max-length"
            ) from None
        return logits

    def generate(self, ids: Sequence[int], stops: Sequence[str], most: int, how: Any) -> str:
        """As of `Answerer`."""
        # The end is what is read on from.
        inputs = torch.tensor([list(ids)[-max(1, self.max_length - most) :]], device=self._device)
        end = self._tokenizer.eos_token_id
        made = self._model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=most,
            pad_token_id=0 if end is None else end,
            tokenizer=self._tokenizer,
            stop_strings=list(stops) or None,
            **{"do_sample": False, **dict(how)},
        )
        text = self.decode(made[0, inputs.shape[1] :].tolist())
        ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
        return text[: min(ends, default=len(text))]


def _answer(row: Row, logits: torch.Tensor) -> Answer:
    """Of logits ``[L, V]`` at a row's inputs."""
    scored = logits[-row.scored :].float()
    targets = torch.tensor(row.targets, device=scored.device)
    chosen = scored.gather(1, targets[:, None])[:, 0]
    log_probability = float((chosen - scored.logsumexp(dim=1)).double().sum())
    if not math.isfinite(log_probability):
        raise UserError(
            "the model gives probabilities that are no numbers: it diverged, or --dtype is too "
            "small for it"
        )
    return Answer(log_probability, bool((scored.argmax(dim=1) == targets).all()))


def _tokenizer(folder: Path) -> Any:
    if not has_tokenizer(folder):
        raise UserError(
            f"{folder} has no tokenizer, so that it cannot be asked text: put its files there, or "
            "export it with --tokenizer"
        )
    return load_tokenizer(folder)


def _max_length(config: Any, name: str, asked: int | None) -> int:
    text = getattr(config, "text_config", config)
    most = next((int(found) for key in _LENGTHS if (found := getattr(text, key, None))), None)
    if asked is not None and most is not None and asked > most:
        raise UserError(f"--max-length {asked} is more than the {most:,} tokens that {name} takes")
    return asked or most or _DEFAULT_LENGTH
