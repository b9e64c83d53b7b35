"""Which runs the depths study asks for, and what its report says of ledgers with known figures."""

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tst_megatron.experiments.kept import Kept

FOLDER = Path(__file__).parents[3] / "examples/depths-study"
MODULES = ("study", "report")
LEVELS = {1: 0.02, 2: -0.03, 3: 0.01}
"""What a seed has in common in all of its runs."""


@pytest.fixture(scope="module")
def example(modules_of) -> SimpleNamespace:
    return modules_of("depths-study", *MODULES)


def keep(ledgers: Path, run: Any, loss: float, flops: float | None = None) -> None:
    """A ledger of a run that ended so."""
    header = {"kind": "header", "schema_version": 3, "run_id": run.name, "step": 0}
    end: dict[str, Any] = {"kind": "validation", "step": run.steps, "next_token_loss": loss}
    end["flops"] = flops or run.steps * run.model.flops_a_step
    if run.model.is_routed:
        end |= {"losses": {"lm loss by rank": loss - 0.01}}
        end |= {"facts": {"mod_agreeing": 0.9, "mod_passing": 0.125}}
    text = "".join(json.dumps(line) + "\n" for line in (header, end))
    (ledgers / f"{run.name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), 1))


def true_loss(run: Any) -> float:
    """Routed models gain 0.05, and chance 0.04 of it; a rate of 5e-4 is best."""
    model = run.model
    loss = 2.0 + 0.02 * abs(model.num_layers - 4)
    if model.is_routed:
        loss += -0.01 if model.by_chance else -0.05
    if run.part == "rate":
        return loss + {2.5e-4: 0.02, 5e-4: 0.0, 1e-3: 0.02}.get(run.rate, 0.1)
    return loss + LEVELS[run.seed] - 0.03 * bool(run.bags)


def trained(example: SimpleNamespace, ledgers: Path) -> Any:
    """All of it, as it becomes known."""
    while left := example.study.Study(Kept(ledgers)).left():
        for run in left:
            keep(ledgers, run, true_loss(run))
    return example.study.Study(Kept(ledgers))


def test_every_run_has_a_name_and_the_budget(example: SimpleNamespace, tmp_path: Path) -> None:
    study = trained(example, tmp_path)
    runs = study.runs()
    names = [run.name for run in runs]
    assert len(set(names)) == len(names)
    # The first answer needs a plain model, a routed one and chance, with their rates.
    assert names[0].startswith("rate-")
    first = [name for name in names if not name.startswith("rate")][:3]
    assert first == ["4L-seed1", "8L-12.5-seed1", "8L-12.5-random-seed1"]
    for run in runs:
        spent = run.steps * run.model.flops_a_step
        assert spent == pytest.approx(run.length * example.study.BUDGET, rel=1e-3)
        assert run.part != "rate" or run.seed not in example.study.SEEDS
        flags = run.cell(tmp_path).flags
        assert f"--lr={run.rate!r}" in flags
        assert any(flag.startswith("--mod-capacity") for flag in flags) == run.model.is_routed
    # Other rules have the predictor's rate.
    assert not any("auxiliary" in name for name in names if name.startswith("rate"))


def test_flops_are_what_a_ledger_counts(example: SimpleNamespace) -> None:
    """By Megatron's own count, and the method's."""
    from argparse import Namespace

    from megatron.training.training import num_floating_point_operations

    from tst_megatron.methods.depths.operations import of_routed
    from tst_megatron.methods.depths.sizes import parameters_of

    for model in (*example.study.PLAIN, *example.study.EIGHTH, *example.study.HALF):
        args = Namespace(
            num_layers=model.num_layers,
            hidden_size=128,
            ffn_hidden_size=384,
            num_attention_heads=4,
            num_query_groups=4,
            group_query_attention=False,
            kv_channels=32,
            seq_length=128,
            swiglu=True,
            padded_vocab_size=384,
            num_experts=None,
            moe_ffn_hidden_size=None,
            moe_latent_size=None,
            moe_shared_expert_intermediate_size=None,
            mtp_num_layers=None,
            multi_latent_attention=False,
            attention_output_gate=False,
            experimental_attention_variant=None,
            hybrid_layer_pattern=None,
        )
        flops = num_floating_point_operations(args, 4)
        if model.is_routed:
            tokens = dict.fromkeys(range(2, model.num_layers + 1, 2), round(128 * model.capacity))
            router = sum(parameters_of(128, has_predictor=True).values())
            flops = of_routed(args, 4, flops, tokens, router)
        assert model.flops_a_step == pytest.approx(flops, rel=1e-9), model.name


def test_the_report_gives_the_differences_that_ledgers_were_made_with(
    example: SimpleNamespace, tmp_path: Path, monkeypatch, capsys
) -> None:
    ledgers, out = tmp_path / "ledgers", tmp_path / "out"
    ledgers.mkdir()
    trained(example, ledgers)
    words = ["report.py", "--ledgers", str(ledgers), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    assert example.report.main() == 0
    figures = json.loads((out / "figures.json").read_text())
    apart = {one["question"]: one for one in figures["differences"]}
    # Seeds differ by as much on either side, so that pairs leave nothing.
    for question, value in (
        ("12.5 %, best size, less the best plain size", -0.05),
        ("8L-12.5 less itself with chance", -0.04),
        ("8L-12.5 less itself without its routed blocks", 0.03),
        ("bags: routed less plain", 0.03),
        ("experts: routed less itself with chance", -0.04),
    ):
        found = apart[question]
        assert found["seeds"] == [1, 2, 3]
        assert (found["value"], found["low"], found["high"]) == pytest.approx((value,) * 3)
    assert not figures["missing"]
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "8L-12.5 less itself with chance" in printed
    assert "0.9000" in printed


def test_what_is_missing_and_what_does_not_count_is_said(
    example: SimpleNamespace, tmp_path: Path, monkeypatch, capsys
) -> None:
    ledgers = tmp_path / "ledgers"
    ledgers.mkdir()
    study = trained(example, ledgers)
    one, other = (
        next(run for run in study.runs() if run.name == n) for n in ("2L-seed1", "2L-seed2")
    )
    keep(ledgers, one, 2.0, flops=2e13)
    (ledgers / f"{other.name}.jsonl.gz").unlink()
    monkeypatch.setattr(sys, "argv", ["x", f"--ledgers={ledgers}", f"--out={tmp_path / 'out'}"])
    assert example.report.main() == 0
    printed = capsys.readouterr().out
    assert "2L-seed1 counts nowhere: it has 2e+13 FLOPs." in printed
    assert "Missing: 2L, seeds 2." in printed
