import json
from pathlib import Path

import pytest

from tst_megatron.errors import UserError
from tst_megatron.trainer.live_comparison import OtherRun


def ledger(path: Path, losses: list[float | None], **flags: object) -> Path:
    lines: list[dict] = [{"kind": "header", "step": 0, "schema_version": 2, "flags": flags}]
    lines += [
        {
            "kind": "validation",
            "step": 100 * number,
            "wall_clock_s": 36.0 * number,
            "gpu_hours": 0.08 * number,
            "positions": 1000 * number,
            "data_tokens": 1000 * number,
            "flops": 1e9 * number,
            "next_token_loss": loss,
        }
        for number, loss in enumerate(losses, start=1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_what_the_other_run_needed(tmp_path: Path) -> None:
    other = OtherRun(ledger(tmp_path / "ledger.jsonl", [5.0, 3.0, 4.0, 3.0, 2.0]))
    needed = other.needed_for(2.0)
    assert needed is not None
    assert needed.steps == pytest.approx(500)
    assert needed.gpu_hours == pytest.approx(0.4)
    # The dip at step 200 did not last.
    at_three = other.needed_for(3.0)
    assert at_three is not None
    assert at_three.steps == pytest.approx(400)
    assert "needed 400 steps and 0.32 GPU hours" in other.sentence(3.0, 150)
    assert "(this one 150 steps)" in other.sentence(3.0, 150)


def test_a_loss_it_never_had(tmp_path: Path) -> None:
    other = OtherRun(ledger(tmp_path / "ledger.jsonl", [5.0, 3.0]))
    assert other.needed_for(2.9) is None
    assert other.sentence(2.9, 10) == (
        "the other run never had this loss for good: it ended at 3.0000"
    )


def test_evaluations_without_a_number_are_left_out(tmp_path: Path) -> None:
    other = OtherRun(ledger(tmp_path / "ledger.jsonl", [5.0, None, 3.0]))
    needed = other.needed_for(4.0)
    assert needed is not None
    assert 100 < needed.steps < 300


@pytest.mark.parametrize("content", ["missing", "empty", "unvalidated", "two"])
def test_what_cannot_be_compared_with_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ledger.jsonl"
    if content == "empty":
        path.write_text("")
    elif content == "unvalidated":
        ledger(path, [])
    elif content == "two":
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            ledger(tmp_path / name / "ledger.jsonl", [1.0 if name == "a" else 2.0])
        path = tmp_path
    with pytest.raises(UserError, match="--compare-with") as error:
        OtherRun(path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_of_another_model_or_batch_is_refused(tmp_path: Path) -> None:
    other = OtherRun(ledger(tmp_path / "ledger.jsonl", [5.0], num_layers=2, seed=1, lr=1e-3))
    # What is not known, and what may differ.
    other.check_like({"flags": {"num_layers": 2, "hidden_size": 64, "seed": 2, "lr": 2e-3}})
    with pytest.raises(UserError, match=r"its model is another, with num_layers 2 .* has 4: name"):
        other.check_like({"flags": {"num_layers": 4}})
