"""What is known of the run that an exported model comes from, and the page that says so.

The one idea: a model that has left its trainer has lost its ledger, so what the ledger tells (the
recipe, what it cost, what it read, its loss at this step) goes with it: for readers in a README,
for programs in a small file.
"""

import argparse
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tst_megatron.checkpoints.saved import Saved
from tst_megatron.runs.ledger import Ledger, LedgerError, read_ledger
from tst_megatron.runs.stages import NEXT_TOKEN_LOSS, Stage, stage_at

_LEDGER = "ledger.jsonl"
_HASH_SHOWN = 16
_PATHS = (
    *("data_path", "data_args_path", "per_split_data_args_path", "blend", "ledger"),
    *("train_data_path", "valid_data_path", "test_data_path"),
    *("tokenizer_model", "vocab_file", "merge_file"),
)


@dataclass(frozen=True)
class Provenance:
    """What is told of a checkpoint's run.

    Attributes:
        step: of the checkpoint; None where it does not tell.
        stage: that its last sample was trained in; None where no method was on.
        methods: by name, what each remembers.
        ledger: the run's, as far as there is one; ``path`` is where it is.
    """

    step: int | None
    stage: Stage | None
    methods: Mapping[str, Any]
    ledger: Ledger | None

    @property
    def warning(self) -> str | None:
        """What somebody who takes the model for an ordinary one should know; None if nothing."""
        return _warning(self.step, self.stage)

    def line(self, kind: str) -> dict[str, Any] | None:
        """The ledger's last line of a kind up to the checkpoint's step."""
        if self.ledger is None or self.step is None:
            return None
        lines = self.ledger.validations if kind == "validation" else self.ledger.steps
        return next((line for line in reversed(lines) if line["step"] <= self.step), None)


@dataclass(frozen=True)
class Compared:
    """How far two libraries' logits are apart.

    Attributes:
        largest: absolute difference.
        scale: the largest absolute logit.
        agreeing: share of positions whose likeliest token is the same.
        positions: that were compared.
        text: what they are of, in words.
        bound: that the difference was held to.
    """

    largest: float
    scale: float
    agreeing: float
    positions: int
    text: str
    bound: float

    @property
    def is_within(self) -> bool:
        """Whether the difference is within the bound."""
        return self.largest <= self.bound

    def __str__(self) -> str:
        return (
            f"logits in float32 on {self.positions:,} positions of {self.text}: at most "
            f"{self.largest:.2g} apart where the largest is {self.scale:.3g}, and the likeliest "
            f"token the same at {self.agreeing:.2%} of them"
        )


def _warning(step: int | None, stage: Stage | None) -> str | None:
    if stage is None or stage.loss == NEXT_TOKEN_LOSS:
        return None
    return (
        f"{'the checkpoint' if step is None else f'step {step:,}'} is in the stage of "
        f"{stage.name}, whose loss is the {stage.loss}: the model was not trained to predict the "
        "next token yet, and its text and its scores are not what the run will end with"
    )


def warning_of(facts: Mapping[str, Any]) -> str | None:
    """What somebody should know of a model by what `facts_of` wrote; None if nothing."""
    stage = facts.get("stage")
    return None if stage is None else _warning(facts.get("step"), Stage.from_json(stage))


def provenance_of(saved: Saved) -> Provenance:
    """What is told of the run that wrote a checkpoint."""
    args = saved.args
    step = saved.common.get("iteration")
    methods = getattr(args, "methods", None) or {}
    return Provenance(
        None if step is None else int(step),
        _stage(methods, getattr(args, "consumed_train_samples", None)),
        methods,
        _ledger(saved, args_here(saved)),
    )


def _stage(methods: Mapping[str, Any], samples: int | None) -> Stage | None:
    """The stage that was no next-token training, of whichever method, else any of them."""
    found = []
    for method in methods.values():
        stages = [Stage.from_json(stage) for stage in method.get("stages") or ()]
        if stages and samples:
            found.append(stage_at(stages, int(samples) - 1))
    return next((stage for stage in found if stage.loss != NEXT_TOKEN_LOSS), None) or next(
        iter(found), None
    )


def args_here(saved: Saved) -> argparse.Namespace:
    """A checkpoint's arguments, with its files where they are from the working folder.

    A run's relative paths are from the folder that it was launched in, which ``--save`` tells: it
    is what that folder called the one that the checkpoint is in. A path that is right from here
    stays as it is.
    """
    launched_in = _launched_in(saved)
    found = argparse.Namespace(**vars(saved.args))
    if launched_in is not None:
        for name in _PATHS:
            setattr(found, name, _from_here(getattr(found, name, None), launched_in))
    return found


def _launched_in(saved: Saved) -> Path | None:
    save = Path(getattr(saved.args, "save", None) or os.curdir)
    root, parts = saved.folder.resolve().parent, save.parts
    if save.is_absolute() or root.parts[-len(parts) :] != parts:
        return None
    return root.parents[len(parts) - 1]


def _from_here(value: Any, launched_in: Path) -> Any:
    """A path, or a list of them and of weights, from the working folder."""
    if isinstance(value, list):
        return [_from_here(one, launched_in) for one in value]
    if not isinstance(value, str) or _is_there(value):
        return value
    return str(launched_in / value) if _is_there(launched_in / value) else value


def _is_there(path: str | Path) -> bool:
    """Whether there is a file or, of a corpus' prefix, its ids."""
    return Path(path).exists() or Path(f"{path}.bin").exists()


def _ledger(saved: Saved, args: argparse.Namespace) -> Ledger | None:
    """Beside the checkpoint, else where the run's flags say."""
    named = getattr(args, "ledger", None)
    for path in (saved.folder.parent / _LEDGER, *([] if named is None else [Path(named)])):
        if path.is_file():
            try:
                return read_ledger(path)
            except LedgerError:
                continue
    return None


def facts_of(
    found: Provenance,
    saved: Saved,
    out: Path,
    end_of_document: int | None,
    document_start: int | None,
    compared: Compared | None,
) -> dict[str, Any]:
    """What `folder.FACTS_FILE` holds.

    Args:
        found: of the run.
        saved: the checkpoint.
        out: the folder, which the ledger's path is relative to.
        end_of_document: the id that ends a document.
        document_start: the id that a document's text came after.
        compared: with Megatron's logits; None where they were not.
    """
    step, validation = found.line("step"), found.line("validation")
    header = {} if found.ledger is None else found.ledger.header
    path = None if found.ledger is None else found.ledger.path
    return {
        "run_id": header.get("run_id"),
        "step": found.step,
        # Without links, behind which ".." is another folder's.
        "ledger": None if path is None else os.path.relpath(path.resolve(), out.resolve()),
        "tokenizer_sha256": getattr(saved.args, "tokenizer_sha256", None),
        "end_of_document": end_of_document,
        "document_start": document_start,
        "stage": None if found.stage is None else found.stage.as_json(),
        **{
            name: None if step is None else step.get(name)
            for name in ("flops", "data_tokens", "positions", "gpu_hours")
        },
        "next_token_loss": None if validation is None else validation.get("next_token_loss"),
        "compared": None if compared is None else asdict(compared),
    }


def readme_of(
    title: str,
    found: Provenance,
    saved: Saved,
    notes: Mapping[str, str],
    compared: Compared | None,
) -> str:
    """The model card.

    Args:
        title: of the model.
        found: of its run.
        saved: the checkpoint.
        notes: what else is said, by heading of a row.
        compared: with Megatron; None where it was not.
    """
    rows = [*_model_rows(saved), *_run_rows(found), *notes.items()]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        f"# {title}",
        "",
        "Exported from a Megatron-Core checkpoint by tst-megatron.",
        "",
    ]
    if found.warning is not None:
        lines += [f"**{found.warning[0].upper()}{found.warning[1:]}.**", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {what} |" for name, what in rows), ""]
    if compared is None:
        lines.append("Its logits were not compared with Megatron's (`--verify` does that).")
    else:
        lines.append(f"Compared with Megatron's own forward pass: {compared}.")
    lines += ["", *_sources(found)]
    return "\n".join(lines).rstrip() + "\n"


def _model_rows(saved: Saved) -> list[tuple[str, str]]:
    args = saved.args
    words = [f"{args.num_layers} layers", f"hidden size {args.hidden_size}"]
    if getattr(args, "hybrid_layer_pattern", None):
        words[0] = f"hybrid pattern {args.hybrid_layer_pattern}"
    if getattr(args, "num_experts", None):
        words.append(f"{args.num_experts} experts")
    return [("model", ", ".join(words))]


def _run_rows(found: Provenance) -> list[tuple[str, str]]:
    rows = [] if found.step is None else [("step", f"{found.step:,}")]
    header = {} if found.ledger is None else found.ledger.header
    recipe = header.get("recipe") or {}
    if recipe.get("name"):
        rows.append(("recipe", str(recipe["name"])))
    rows.append(("methods", "; ".join(map(_method, found.methods.items())) or "none"))
    step, validation = found.line("step"), found.line("validation")
    if step is not None:
        told = {"positions": "{:,.0f}", "data_tokens": "{:,.0f}", "flops": "{:.3g}"}
        told |= {"gpu_hours": "{:.3g}"}
        rows += [
            (name.replace("_", " "), form.format(step[name]))
            for name, form in told.items()
            if step.get(name) is not None
        ]
    if validation is not None and validation.get("next_token_loss") is not None:
        rows.append(("held-out loss", _loss(validation)))
    parents = header.get("parents") or ()
    if runs := [parent for parent in parents if not parent.get("what")]:
        rows.append(("made from", f"{len(runs)} earlier run(s), whose costs come on top"))
    for parent in parents:
        if parent.get("what"):
            rows.append(("text by", f"{parent['what']}, whose costs come on top"))
    return rows


def _method(one: tuple[str, Any]) -> str:
    name, kept = one
    stages = [Stage.from_json(stage) for stage in kept.get("stages") or ()]
    told = [f"{stage.name} for {stage.samples:,} samples" for stage in stages]
    facts = kept.get("facts")
    if not told and isinstance(facts, Mapping):
        told = [
            f"{key.replace('_', ' ')} {value}"
            for key, value in facts.items()
            if not isinstance(value, dict | list)
        ]
    return f"{name}: {', then '.join(told) if stages else ', '.join(told)}" if told else name


def _loss(line: Mapping[str, Any]) -> str:
    loss, tokens, size = line["next_token_loss"], line.get("tokens"), line.get("bytes")
    told = f"{loss:.4f} nats a token at step {line['step']:,}"
    if tokens and size:
        told += f", {loss * tokens / size / math.log(2):.4f} bits a byte"
    return told


def _sources(found: Provenance) -> list[str]:
    """The corpora, by what their manifests hash to."""
    header = {} if found.ledger is None else found.ledger.header
    data = header.get("data") or []
    rows = []
    for one in data if isinstance(data, list) else []:
        digest = str(one.get("manifest_sha256") or one.get("sha256") or "")
        name = Path(str(one.get("path") or one.get("prefix") or "")).name
        rows.append(f"- `{name}`, manifest SHA-256 `{digest[:_HASH_SHOWN] or 'none'}`")
    return ["Trained on:", "", *rows] if rows else []


def facts_text(facts: Mapping[str, Any]) -> str:
    """As `FACTS_FILE` is written."""
    return json.dumps(facts, indent=2) + "\n"
