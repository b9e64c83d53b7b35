"""Text that goes on from prompts, by transformers' own loop on a folder of Hugging Face's.

The one idea: what a prompt gets hangs on it and its seed alone, not on what else is in its batch.
So a prompt's random numbers are its own, added to its scores (the largest of scores plus Gumbel
noise is a draw from their softmax), and prompts share a batch only if they may all become as long.
What is left is rounding: sums of another batch are in another order, and a near tie may fall
otherwise, in bfloat16 above all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import batched, groupby
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TextStreamer,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

from tst_megatron.corpora.tokenizers.encoders import IdsEncoder, check_text
from tst_megatron.errors import UserError
from tst_megatron.huggingface.folder import (
    has_tokenizer,
    load_config,
    load_tokenizer,
    unloadable,
)

type Prompt = str | list[int]
"""Text, or the ids that it would become."""

_GENERATION_FILE = "generation_config.json"
_SEED_BYTES = 7  # As many as fit into a generator's seed, whatever its sign.


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and how many.

    Attributes:
        max_new_tokens: the most of a continuation.
        temperature: 0 for the likeliest token each time.
        top_p: the least share of the probability that the likeliest tokens drawn from have.
        top_k: how many of the likeliest are drawn from.
        seed: of the first sample of each prompt; the others count on from it.
        samples: of each prompt.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    samples: int = 1


class Words(Protocol):
    """Prompts to ids and ids to text, of a folder with a tokenizer or without one."""

    def encode(self, prompt: str) -> list[int]:
        """A prompt's ids, without any that end a document.

        Raises:
            ValueError: it has none; the message says why.
        """
        ...

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """The text of ids that stand behind others, without what ends a document."""
        ...


@dataclass(frozen=True)
class Speech:
    """What a folder says of its model before the weights are read.

    Attributes:
        folder: with ``config.json`` and weights.
        words: prompts to ids and back.
        begin: the id that goes before a text; None if none does.
        ends: ids that end one.
        positions: of the model, prompt and continuation together; None if it has no limit.
        vocab_size: rows of its embedding.
    """

    folder: Path
    words: Words
    begin: int | None
    ends: frozenset[int]
    positions: int | None
    vocab_size: int


@dataclass(frozen=True)
class Row:
    """A continuation that is wanted.

    Attributes:
        prompt: as it was given.
        shown: its text.
        ids: what the model reads.
        seed: of its random numbers.
        limit: the most tokens that it may become longer.
    """

    prompt: Prompt
    shown: str
    ids: tuple[int, ...]
    seed: int
    limit: int


@dataclass(frozen=True)
class Continuation:
    """What became of a prompt.

    Attributes:
        prompt: as it was given.
        text: that follows it.
        ids: of the text, and the one that ended it.
        finish_reason: ``eos`` where the model ended it, ``length`` where it was cut.
        seed: with which this prompt becomes this text again.
    """

    prompt: Prompt
    text: str
    ids: list[int]
    finish_reason: Literal["eos", "length"]
    seed: int


class _Text:
    """A tokenizer of transformers'."""

    def __init__(self, tokenizer: Any, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        # What stands first in a text loses its space with some decoders.
        self._before = list(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
        self._start = tokenizer.decode(self._before)

    def encode(self, prompt: str) -> list[int]:
        check_text([prompt])
        made = self._tokenizer(prompt, return_special_tokens_mask=True, verbose=False)
        ids, is_added = list(made["input_ids"]), list(made["special_tokens_mask"])
        while ids and is_added[-1] and ids[-1] in self._ends:
            # What a tokenizer puts after a document would end it before it goes on.
            del ids[-1], is_added[-1]
        return ids

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        kept = [one for one in ids if one not in self._ends]
        text: str = self._tokenizer.decode([*self._before, *kept], skip_special_tokens=True)
        return text.removeprefix(self._start)


class _Numbers:
    """Ids as they are, with spaces between."""

    def __init__(self, vocab_size: int, ends: frozenset[int]) -> None:
        self._encoder = IdsEncoder(vocab_size)
        self._ends = ends

    def encode(self, prompt: str) -> list[int]:
        ids: list[int] = self._encoder.encode([" ".join(prompt.split())]).ids.tolist()
        return ids

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(f" {one}" for one in ids if one not in self._ends)


def read_speech(folder: Path) -> Speech:
    """Read what a folder has beside weights.

    Raises:
        UserError: its configuration or its tokenizer cannot be loaded.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = load_config(folder).get_text_config()
    asked = _generation_config(folder) if (folder / _GENERATION_FILE).is_file() else config
    tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
    ends = _ids("eos_token_id", asked, config, tokenizer)
    begin = next(iter((*_ids("bos_token_id", asked, config, tokenizer), *ends)), None)
    is_ending = frozenset(ends)
    words = (
        _Numbers(config.vocab_size, is_ending) if tokenizer is None else _Text(tokenizer, is_ending)
    )
    positions = getattr(config, "max_position_embeddings", None)
    return Speech(folder, words, begin, is_ending, positions, config.vocab_size)


def _generation_config(folder: Path) -> Any:
    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # It can name anything.
        raise unloadable(folder, _GENERATION_FILE, error) from None


def _ids(name: str, *sources: Any) -> tuple[int, ...]:
    """Of the first that says any."""
    for source in sources:
        found = getattr(source, name, None)
        if found is not None:
            return tuple(found) if isinstance(found, list | tuple) else (found,)
    return ()


def rows_of(speech: Speech, prompts: Sequence[Prompt], sampling: Sampling) -> list[Row]:
    """All continuations that are wanted: the samples of each prompt, in the prompts' order.

    Raises:
        UserError: a prompt is no text of the model's, or leaves no room for any.
    """
    rows = []
    for number, prompt in enumerate(prompts, 1):
        which = "the prompt" if len(prompts) == 1 else f"prompt {number}"
        ids = _prompt_ids(speech, prompt, which)
        limit = sampling.max_new_tokens
        if speech.positions is not None:
            limit = min(limit, speech.positions - len(ids))
            if limit < 1:
                raise UserError(
                    f"{which} has {len(ids):,} tokens, and the model has positions for "
                    f"{speech.positions:,}, one of which is for what follows: shorten it"
                )
        shown = prompt if isinstance(prompt, str) else speech.words.decode(ids)
        rows += [
            Row(prompt, shown, tuple(ids), sampling.seed + sample, limit)
            for sample in range(sampling.samples)
        ]
    return rows


def _prompt_ids(speech: Speech, prompt: Prompt, which: str) -> list[int]:
    try:
        ids = speech.words.encode(prompt) if isinstance(prompt, str) else list(prompt)
    except ValueError as error:
        why = ", as the model has no tokenizer" if isinstance(speech.words, _Numbers) else ""
        raise UserError(f"{which} cannot be encoded: {error}{why}") from None
    if wrong := [one for one in ids if not 0 <= one < speech.vocab_size]:
        raise UserError(
            f"{which} has id {wrong[0]}, and the model's ids are 0 to {speech.vocab_size - 1}: "
            "its tokenizer is another model's, or the id is wrong"
        )
    if ids:
        return ids
    if speech.begin is None:
        raise UserError(
            f"{which} is empty, and {speech.folder} names no bos_token_id and no eos_token_id to "
            "begin a text with: give it a prompt"
        )
    return [speech.begin]


def device_named(name: str) -> torch.device:
    """``cpu``, ``cuda``, or under ``auto`` a GPU if there is one.

    Raises:
        UserError: there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda needs a GPU, and torch sees none here: use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def continuations(
    model: Any,
    speech: Speech,
    rows: Sequence[Row],
    sampling: Sampling,
    batch_size: int,
    stream: Callable[[str], None] | None = None,
) -> Iterator[Continuation]:
    """Continue prompts, in their order.

    Args:
        model: of the folder.
        speech: likewise.
        rows: what is wanted.
        sampling: with which `rows_of` made them.
        batch_size: how many are worked on at once; it changes speed, and rounding.
        stream: given each continuation piece by piece as it comes; for batches of one.
    """
    for limit, alike in groupby(rows, lambda row: row.limit):
        for batch in batched(alike, batch_size):
            yield from _continued(model, speech, batch, sampling, limit, stream)


def _continued(
    model: Any,
    speech: Speech,
    batch: Sequence[Row],
    sampling: Sampling,
    limit: int,
    stream: Callable[[str], None] | None,
) -> list[Continuation]:
    longest = max(len(row.ids) for row in batch)
    filler = next(iter(speech.ends), 0)  # Masked out: any id will do.
    padding = [longest - len(row.ids) for row in batch]
    ids = [[filler] * missing + [*row.ids] for missing, row in zip(padding, batch, strict=True)]
    mask = [[0] * missing + [1] * (longest - missing) for missing in padding]
    # The folder's own settings would be filled in where ours say nothing.
    model.generation_config = config = GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=sorted(speech.ends) or None,
        pad_token_id=filler,
    )
    made = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList(_processors(sampling, batch)),
        streamer=None if stream is None else _Stream(speech.words, stream),
    )
    return [
        _continuation(speech, row, new)
        for row, new in zip(batch, made[:, longest:].tolist(), strict=True)
    ]


def _continuation(speech: Speech, row: Row, new: list[int]) -> Continuation:
    """A row's own ids: once it has ended, the others' length fills it up."""
    end = next((at for at, one in enumerate(new) if one in speech.ends), None)
    ids = new if end is None else new[: end + 1]
    reason: Literal["eos", "length"] = "length" if end is None else "eos"
    return Continuation(row.prompt, speech.words.decode(ids), ids, reason, row.seed)


def _processors(sampling: Sampling, batch: Sequence[Row]) -> list[Any]:
    if sampling.temperature == 0:
        return []
    processors: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k is not None:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None:
        processors.append(TopPLogitsWarper(sampling.top_p))
    return [*processors, _Drawn(batch)]


class _Drawn(LogitsProcessor):
    """Gumbel noise on the scores, each row's from a generator of its own."""

    def __init__(self, batch: Sequence[Row]) -> None:
        # On the CPU, so that a GPU draws the same.
        self._generators = [torch.Generator().manual_seed(_own_seed(row)) for row in batch]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``[b, V]`` with noise."""
        waits = [
            torch.empty(scores.shape[-1], dtype=torch.float64).exponential_(generator=one)
            for one in self._generators
        ]
        return scores - torch.stack(waits).log().to(scores)


def _own_seed(row: Row) -> int:
    """Of the seed and the prompt, lest all prompts of a file be drawn for in the same way."""
    text = f"{row.seed}: {' '.join(map(str, row.ids))}"
    return int.from_bytes(sha256(text.encode()).digest()[:_SEED_BYTES])


class _Stream(TextStreamer):
    """transformers' pieces of text, which end with whole words, for whoever shows them."""

    def __init__(self, words: Words, show: Callable[[str], None]) -> None:
        super().__init__(words, skip_prompt=True)
        self._show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Show a piece."""
        if text:
            self._show(text)
