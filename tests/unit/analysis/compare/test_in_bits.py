"""Runs of two tokenizers: compared in bits a byte of one text, at equal FLOPs, or refused.

Losses are made: both sides follow one law of bits a byte over FLOPs, and the candidate needs
`SAVING` times fewer FLOPs for any loss. What its nats a token are follows from its bytes a token.
"""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tst_megatron.analysis.compare.compare import compare_paths
from tst_megatron.analysis.compare.output.as_json import as_json
from tst_megatron.analysis.compare.output.folder import charts_of, write_folder
from tst_megatron.analysis.compare.result import Findings, Prices
from tst_megatron.analysis.compare.sentences import first_sentences, notes
from tst_megatron.analysis.compare.tables import tables_of
from tst_megatron.errors import UserError

SAVING = 1.25
STEPS = 2_000
EVERY = 100
TEXT = {"sha256": "a" * 64, "documents": 40, "bytes": 600_000, "corpora": 1}


def bits(flops: float) -> float:
    return 0.8 + 1.5 * (flops / 1e9) ** -0.3


def write(
    folder: Path,
    name: str,
    *,
    bytes_a_token: float,
    flops_a_step: float,
    saving: float = 1.0,
    tokenizer: str = "1",
    held_out: dict[str, Any] | None = None,
    counts_bytes: bool = True,
    drops: float = 0.0,
    steps: int = STEPS,
    parents: Any = (),
    **flags: Any,
) -> Path:
    """A run's ledger; of tokens of so many bytes each, of which its ids may leave some out."""
    tokens = round(TEXT["bytes"] / bytes_a_token)
    told = {**TEXT, "tokens": tokens, **(held_out or {})}
    header = {
        "kind": "header",
        "schema_version": 3,
        "step": 0,
        "run_id": name,
        "seed": 1,
        "methods": [],
        "parents": list(parents),
        "tokenizer": {"type": "A", "sha256": tokenizer * 64, "padded_vocab_size": 384},
        "data": [{"path": f"/{name}", "manifest_sha256": tokenizer * 64}],
        "held_out": None if told["sha256"] is None else told,
        "flags": {
            "num_layers": 2,
            "global_batch_size": 4,
            "seq_length": 128,
            "train_iters": steps,
            "lr_decay_style": "constant",
            "lr": 1e-3,
            "full_validation": True,
            "data_path": [f"/{name}"],
            "split": "98,2,0",
            **flags,
        },
    }
    lines = [header]
    for step in range(EVERY, steps + 1, EVERY):
        flops = flops_a_step * step
        spent = {"wall_clock_s": 1.0 * step, "gpu_hours": step / 3600, "positions": 512 * step}
        of_step = {"step": step, **spent, "data_tokens": 512 * step, "flops": flops}
        loss = bits(saving * flops) * math.log(2) * bytes_a_token
        counted = round(10 * tokens * bytes_a_token * (1 - drops))
        measured = {"tokens": 10 * tokens, "bytes": counted}
        lines += [
            {"kind": "step", **of_step, "samples": 4 * step, "stage": 0, "learning_rate": 1e-3},
            {
                "kind": "validation",
                **of_step,
                "next_token_loss": loss,
                "next_token_loss_stderr": 0.001 * bytes_a_token,
                **(measured if counts_bytes else {}),
            },
        ]
    path = folder / name / "ledger.jsonl"
    path.parent.mkdir()
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def baseline(folder: Path, name: str = "base", **changes: Any) -> Path:
    return write(folder, name, **{"bytes_a_token": 4.0, "flops_a_step": 1e12, **changes})


def candidate(folder: Path, name: str = "windows", **changes: Any) -> Path:
    """Its tokens hold more text and its vocabulary makes a step dearer."""
    usual = {"bytes_a_token": 5.0, "flops_a_step": 1.6e12, "saving": SAVING, "tokenizer": "2"}
    return write(folder, name, **{**usual, **changes})


def compared(base: Path, other: Path, **asked: Any) -> Findings:
    return compare_paths([base], [other], 0.95, asked.pop("force", False), Prices(), **asked)


def test_two_tokenizers_are_compared_in_bits_at_equal_flops(tmp_path: Path) -> None:
    """Nats a token would have the candidate behind: 5 bytes cost more than 4."""
    found = compared(baseline(tmp_path), candidate(tmp_path, seq_length=64))
    (one,) = found.comparisons
    assert (found.unit, found.steps_compare) == ("bits a byte", False)
    # The baseline ends first, at 2e15 FLOPs.
    assert one.equal_flops.flops == pytest.approx(2e15)
    expected = bits(SAVING * 2e15) - bits(2e15)
    assert one.equal_flops.loss_difference.value == pytest.approx(expected, abs=2e-4)
    along = one.equal_loss_at_baseline or one.equal_loss
    assert along.flops_ratio.value == pytest.approx(SAVING, rel=0.01)
    end = bits(SAVING * 1.6e12 * STEPS)
    assert one.equal_loss.loss.value == pytest.approx(end, abs=2e-4)
    # Twenty tokens of errors: 0.001 nats a byte, in bits.
    run = found.candidate[0].runs[0]
    assert run.curve.stderrs == pytest.approx(0.001 / math.log(2))


def test_what_is_of_equal_steps_or_tokens_is_not_told(tmp_path: Path) -> None:
    found = compared(baseline(tmp_path), candidate(tmp_path))
    told = as_json(found)
    assert (told["loss_unit"], told["steps_compare"]) == ("bits a byte", False)
    for at in ("equal_loss", "equal_loss_along", "equal_loss_at_baseline"):
        if told[at] is not None:
            assert told[at]["step_ratio"]["value"] is None
            assert told[at]["needed"]["candidate"]["data_tokens"]["value"] is None
    assert told["equal_data"]["loss_difference"] is None
    assert told["equal_steps"] is None
    assert not any(told["saving"]["step_ratios"])
    assert told["equal_loss"]["flops_ratio"]["value"] == pytest.approx(SAVING, rel=0.05)
    rows = [row[0] for table in tables_of(found) for row in table.rows]
    assert "Flops" not in rows
    assert "FLOPs" in rows
    assert not {"Steps", "Data tokens", "Equal data"} & set(rows)
    assert any("bits a byte" in table.title for table in tables_of(found))
    assert "bits a byte" in first_sentences(found)
    assert " nats" not in first_sentences(found)
    assert "never at equal steps or tokens" in " ".join(notes(found))
    assert "one held-out text of 600,000 bytes" in " ".join(notes(found))
    charts = charts_of(found)
    assert {"loss-flops", "difference"} <= {chart.name for chart in charts}
    assert not {"loss-data-tokens", "saving"} & {chart.name for chart in charts}
    labels = " ".join(f"{chart.x_label} {chart.y_label}" for chart in charts)
    assert "bits a byte" in labels
    assert "nats" not in labels


def test_the_report_speaks_bits(tmp_path: Path) -> None:
    found = compared(baseline(tmp_path), candidate(tmp_path))
    write_folder(tmp_path / "report", found)
    page = (tmp_path / "report/report.html").read_text()
    assert "bits a byte" in page
    assert "nats a token" not in page
    for name in ("comparisons", "evaluations"):
        rows = csv.DictReader((tmp_path / f"report/{name}.csv").open())
        assert {row["loss_unit"] for row in rows} == {"bits a byte"}


def test_of_several_lengths_the_nearest_in_flops_counts(tmp_path: Path) -> None:
    """The candidate's 2,000 steps cost what 3,200 of the baseline's do."""
    runs = [baseline(tmp_path, f"base-{steps}", steps=steps) for steps in (2_000, 3_200)]
    other = candidate(tmp_path)
    (one,) = compare_paths(runs, [other], 0.95, False, Prices()).comparisons
    assert one.baseline[0].num_steps == 3_200
    assert one.equal_flops.at_end
    expected = bits(SAVING * 3.2e15) - bits(3.2e15)
    assert one.equal_flops.loss_difference.value == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"held_out": {"sha256": None}}, "windows does not tell which text it held out"),
        (
            {"full_validation": False},
            "windows validated on some sequences of its held-out text, and those of another",
        ),
        ({"held_out": {"bytes": None}}, "how many bytes its held-out text has"),
        (
            {"held_out": {"sha256": "b" * 64, "documents": 30}},
            "base and windows held out other text (40 documents of 600,000 bytes, aaaaaaaa and 30",
        ),
        (
            {"held_out": {"bytes": 500_000, "tokens": 100_000}},
            "base and windows held out other text",
        ),
        ({"counts_bytes": False}, "windows does not tell how many bytes of text its held-out"),
        ({"seq_length": 8_192}, "up to 7% of the held-out text of windows is in a last sequence"),
        (
            {"drops": 0.05},
            "windows counts 570,000 bytes in its held-out text of 600,000, as its tokenizer leaves",
        ),
        (
            {"data_parallel_size": 64},
            "up to 7% of the held-out text of windows counts twice, as its 64 data-parallel ranks",
        ),
        (
            {"parents": [{"ledger": "m1", "step": 1, "flops": None}]},
            "windows does not tell its FLOPs",
        ),
    ],
)
def test_where_the_bytes_are_not_known_to_be_the_same(
    tmp_path: Path, changes: Any, says: str
) -> None:
    base, other = baseline(tmp_path), candidate(tmp_path, **changes)
    with pytest.raises(UserError) as refused:
        compared(base, other)
    told = str(refused.value)
    assert "The tokenizers differ, so a loss a token is not of the same thing" in told
    assert says in told
    assert "--full-validation" in told
    assert "evaluate --held-out or --evaluate-at" in told


def test_a_byte_model_of_all_runs_is_no_difference(tmp_path: Path) -> None:
    model = {"ledger": None, "step": 0, "flops": 1e9, "gpu_hours": 0.5, "what": "a byte model (m)"}
    base = baseline(tmp_path, parents=[model])
    both = compared(base, baseline(tmp_path, "other", parents=[model]))
    said = "The text of all runs needs a byte model (m): it is in both sides alike"
    assert said in " ".join(notes(both))
    assert both.comparisons[0].equal_loss.wall_clock_ratio.value is not None
    one = compared(base, baseline(tmp_path, "without"))
    assert said not in " ".join(notes(one))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"flags": {"full_validation": False}}, "windows validated on some sequences of its held"),
        ({"held_out": {**TEXT, "tokens": 9, "sha256": "b" * 64}}, "windows held out another text"),
        ({"held_out": None}, "windows held out another text, or did not tell which"),
        ({"flags": {"full_validation": True, "data_parallel_size": 64}}, "its 64 data-parallel"),
    ],
)
def test_every_start_of_a_run_validated_on_the_whole_of_one_text(
    tmp_path: Path, changes: Any, says: str
) -> None:
    base, other = baseline(tmp_path), candidate(tmp_path)
    header, *lines = other.read_text().splitlines()
    last = json.dumps(json.loads(header) | {"step": 1_000})
    first = json.dumps(json.loads(header) | changes)
    other.write_text("\n".join([first, *lines[:20], last, *lines[20:]]) + "\n")
    with pytest.raises(UserError, match=says):
        compared(base, other)
    # Of a start that is replayed whole nothing is left.
    other.write_text("\n".join([first, *lines[:20], header, *lines]) + "\n")
    assert compared(base, other).unit == "bits a byte"


def test_forced_they_are_in_bits_where_bytes_are_known(tmp_path: Path) -> None:
    base = baseline(tmp_path)
    found = compared(base, candidate(tmp_path, full_validation=False), force=True)
    assert found.unit == "bits a byte"
    assert any("some sequences" in reason for reason in found.reasons)
    found = compared(base, candidate(tmp_path, "untold", counts_bytes=False), force=True)
    assert found.unit == "nats a token"
    assert found.reasons


def test_other_models_are_refused_as_ever(tmp_path: Path) -> None:
    base = baseline(tmp_path)
    with pytest.raises(UserError, match="The models differ: num_layers is 2 in") as refused:
        compared(base, candidate(tmp_path, num_layers=3))
    assert "tokenizers" not in str(refused.value)


def test_runs_of_one_tokenizer_are_in_bits_where_it_is_asked_for(tmp_path: Path) -> None:
    """With steps and data, which are the same work and text of both."""
    base, other = baseline(tmp_path), baseline(tmp_path, "other", saving=SAVING)
    found = compared(base, other, asks_bits=True)
    (one,) = found.comparisons
    assert (found.unit, found.steps_compare) == ("bits a byte", True)
    assert one.equal_loss_at_baseline is not None
    assert one.equal_loss_at_baseline.step_ratio.value == pytest.approx(SAVING, rel=0.01)
    in_nats = compared(base, other)
    assert in_nats.unit == "nats a token"
    (same,) = in_nats.comparisons
    ratio = same.equal_flops.loss_difference.value / one.equal_flops.loss_difference.value
    assert ratio == pytest.approx(4 * math.log(2))
    untold = baseline(tmp_path, "untold", counts_bytes=False)
    with pytest.raises(UserError, match="--bits-a-byte: untold does not tell how many bytes"):
        compared(base, untold, asks_bits=True)
