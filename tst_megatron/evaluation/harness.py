"""lm-evaluation-harness asks, a `Scorer` answers, and scores come out.

The one idea: the harness makes requests of tasks and metrics of answers; what is between the two,
which it leaves to a model, is here and the same for whoever answers. Texts become ids as its own
``hf`` models make them: with what the tokenizer puts around a text by itself, the context and what
follows cut apart where the context's own ids end.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tst_megatron.errors import UserError
from tst_megatron.evaluation.answerer import Answerer, Row, Scorer
from tst_megatron.evaluation.results import Evaluated, Item, hash_of
from tst_megatron.runs.evaluations import Score

_MOST_GENERATED = 256  # Of lm-evaluation-harness, where a task does not say.
RESAMPLES = 100_000
"""Of lm-evaluation-harness."""
_STDERR = "_stderr"
# Metrics of a choice that is right or wrong, which guessing has a chance of.
_OF_A_CHOICE = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")


class HarnessModel(TemplateLM):
    """A `Scorer` as lm-evaluation-harness takes a model; tasks that generate need an `Answerer`.

    Args:
        answerer: who is asked.
    """

    backend = "causal"

    def __init__(self, answerer: Scorer) -> None:
        super().__init__()
        self._answerer = answerer
        self.truncated = 0
        """Requests whose beginning was cut off."""

    @property
    def max_length(self) -> int:
        """Ids at a time."""
        return self._answerer.max_length

    @property
    def tokenizer_name(self) -> str:
        """Of the tokenizer."""
        return self._answerer.name

    @property
    def eot_token_id(self) -> int | None:
        """What a text is scored after where nothing comes before it."""
        return self._answerer.document_start

    @property
    def prefix_token_id(self) -> int:
        """Likewise.

        Raises:
            UserError: there is none.
        """
        if self._answerer.document_start is None:
            raise UserError(
                "a task scores text with nothing before it, and the tokenizer names no token that "
                "begins or ends a document: give the tokenizer a bos_token or an eos_token"
            )
        return self._answerer.document_start

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of a text."""
        return self._answerer.encode(string, add_special_tokens is not False)

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Of texts after others."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        rows = [self._row(context, follows) for _, context, follows in requests]
        return [(one.log_probability, one.is_greedy) for one in self._answerer.score(rows)]

    def _row(self, context: list[int], follows: list[int]) -> Row:
        if not 0 < len(follows) <= self.max_length:
            what = f"{len(follows):,} tokens" if follows else "no token of its own"
            raise UserError(
                f"an answer of a task has {what}, and {self._answerer.name} scores 1 to "
                f"{self.max_length:,} at a time: leave the task out, or let more be read at a time"
            )
        ids = (*context, *follows)
        self.truncated += len(ids) > self.max_length + 1
        return Row(ids[-(self.max_length + 1) :], len(follows))

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Of whole texts, cut as lm-evaluation-harness cuts them."""
        rows: list[Row] = []
        ends: list[int] = []
        for request in requests:
            cut = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            rows += [self._row(*make_disjoint_window(window)) for window in cut]
            ends.append(len(rows))
        answers = [one.log_probability for one in self._answerer.score(rows)]
        begins = [0, *ends[:-1]]
        return [math.fsum(answers[begin:end]) for begin, end in zip(begins, ends, strict=True)]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Text that goes on after another.

        Raises:
            UserError: who is asked makes none.
        """
        if not isinstance(self._answerer, Answerer):
            raise UserError(
                f"a task wants text to be made, and {self._answerer.name} says how likely text is: "
                "leave the task out"
            )
        return [self._generated(self._answerer, *request.args) for request in requests]

    def _generated(self, answerer: Answerer, context: str, told: Mapping[str, Any]) -> str:
        how = dict(told)
        until = how.pop("until", None) or []
        stops = [until] if isinstance(until, str) else list(until)
        most = how.pop("max_gen_toks", how.pop("max_new_tokens", _MOST_GENERATED))
        if not how.get("temperature", 1.0):
            # Greedy, to the harness; no number that transformers divides by.
            del how["temperature"]
            how["do_sample"] = False
        if not how.get("do_sample", False):
            how = {"do_sample": False}
        return answerer.generate(self.tok_encode(context), stops, int(most), how)


def run_tasks(
    tasks: Mapping[str, Any],
    answerer: Scorer,
    limit: int | None = None,
    resamples: int = RESAMPLES,
) -> list[Evaluated]:
    """Ask the tasks.

    Args:
        tasks: of `tasks.load_tasks`, by name.
        answerer: who is asked.
        limit: items a task; None for all.
        resamples: of the items, for the standard errors of scores that are no mean over items: in
            as many processes as there are cores, and minutes for thousands of items. With 0 they
            have none, and means have theirs all the same.

    Raises:
        UserError: a task and the model do not go together.
    """
    model = HarnessModel(answerer)
    return [_evaluated(name, task, model, limit, resamples) for name, task in tasks.items()]


def keep_requests(task: Any) -> None:
    """Let a task make its requests once, and ask the very same ones every time it is asked.

    Args:
        task: of lm-evaluation-harness, which would draw other examples before its items each time.
    """
    make = task.build_all_requests
    kept: list[Instance] = []

    def make_once(**how: Any) -> None:
        if not kept:
            make(**how)
            kept.extend(task.instances)
        for request in kept:
            request.resps, request.filtered_resps = [], {}
        task._instances = list(kept)

    task.build_all_requests = make_once


def _evaluated(
    name: str, task: Any, model: HarnessModel, limit: int | None, resamples: int
) -> Evaluated:
    cut_before = model.truncated
    told = evaluate(
        lm=model,
        task_dict={"tasks": {name: task}, "groups": {}},
        limit=limit,
        bootstrap_iters=resamples,
    )
    results = told["results"][name]
    better = told["higher_is_better"].get(name) or {}
    samples = told["samples"][name]
    chance = _chance(task, samples)
    values = {
        _metric(key): value
        for key, value in results.items()
        if isinstance(value, int | float) and "," in key and _STDERR not in key
    }
    stderrs = {
        _metric(key.replace(_STDERR, "", 1)): v for key, v in results.items() if _STDERR in key
    }
    means = [key for key in values if task.aggregation().get(_plain(key)) in (mean, None)]
    items = _items(samples, means)
    scores = {
        metric: Score(
            _number(value),
            _number(stderrs.get(metric)) if resamples else _stderr_of_mean(items, metric),
            len({item.id for item in items}),
            chance if _plain(metric) in _OF_A_CHOICE else None,
            better.get(_plain(metric)),
        )
        for metric, value in values.items()
    }
    return Evaluated(
        name,
        "task",
        scores,
        items,
        {
            "output_type": task.OUTPUT_TYPE,
            "num_fewshot": told["n-shot"].get(name),
            "version": told["versions"].get(name),
            "items_there": told["n-samples"][name]["original"],
        },
        _notes(name, model.truncated - cut_before),
    )


def _notes(name: str, truncated: int) -> tuple[str, ...]:
    if not truncated:
        return ()
    return (
        f"{name}: the beginning of {truncated:,} requests was cut off, as they are longer than the "
        "model takes.",
    )


def _items(samples: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> tuple[Item, ...]:
    """Of several filters of an answer each has a sample; they are one item."""
    values: dict[int, dict[str, float]] = {}
    first: dict[int, Mapping[str, Any]] = {}
    for sample in samples:
        place = int(sample["doc_id"])
        first.setdefault(place, sample)
        for name in sample["metrics"]:
            metric = name if sample["filter"] == "none" else f"{name},{sample['filter']}"
            number = _number(sample[name])
            if metric in metrics and number is not None:
                values.setdefault(place, {})[metric] = number
    return tuple(
        Item(
            place,
            hash_of([str(sample["target"]), sample["arguments"]]),
            values.get(place, {}),
            log_likelihoods=_log_likelihoods(sample),
        )
        for place, sample in sorted(first.items())
    )


def _stderr_of_mean(items: Sequence[Item], metric: str) -> float | None:
    """As lm-evaluation-harness has it; None of what is no mean over items, or of one item."""
    values = [item.values[metric] for item in items if metric in item.values]
    return None if len(values) < 2 else float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _log_likelihoods(sample: Mapping[str, Any]) -> tuple[float, ...]:
    """Of the choices; none of an item that is generated."""
    answers = sample["filtered_resps"]
    if not all(isinstance(one, tuple) and len(one) == 2 for one in answers):
        return ()
    return tuple(float(value) for value, _ in answers)


def _chance(task: Any, samples: Sequence[Mapping[str, Any]]) -> float | None:
    """Of choices that are equally likely: the mean of one over their number."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    shares = [
        (len(target) if isinstance(target := one["target"], list) else 1)
        / len(task.doc_to_choice(one["doc"]))
        for one in samples
    ]
    return float(np.mean(shares))


def _metric(key: str) -> str:
    """``acc,none`` is ``acc``; what another filter made of the answers keeps its name."""
    return key.removesuffix(",none")


def _plain(metric: str) -> str:
    return metric.partition(",")[0]


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool | int | float | np.number) and math.isfinite(value):
        return float(value)
    return None
