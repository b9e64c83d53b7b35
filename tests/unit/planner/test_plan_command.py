"""The subcommand: recipes and their GPUs, the user's figures, JSON, tables, and what is refused."""

import argparse
import dataclasses
import json
import math

import numpy as np
import pytest
from planned import DENSE

from tst_megatron.analysis.scaling.law import Law, Multiplier
from tst_megatron.analysis.scaling.law_file import LawRecord, LawRun, write_law
from tst_megatron.errors import UserError
from tst_megatron.planner import command


def _run(*words: str) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    args, others = parser.parse_known_args(words)
    command.main(args, others)


def _json(capsys, *words: str) -> dict:
    _run(*words, "--json")
    return json.loads(capsys.readouterr().out)


def test_a_recipe_brings_its_gpus(capsys) -> None:
    found = _json(capsys, "--recipe", "smollm2-270m-tst")
    assert (found["gpu"]["name"], found["gpu"]["count"]) == ("b200", 8)
    assert found["layout"]["data"] == 8


@pytest.mark.parametrize("name", ["smollm3-3b-tst", "moe-10b-a1b-tst"])
def test_a_hybrid_twin_has_the_same_plan(capsys, name: str) -> None:
    ours, theirs = (
        _json(capsys, "--recipe", f"{name}{which}", "--gpus", "64", "--gpu", "h100")
        for which in ("+hybrid", "")
    )
    for stage, other in zip(ours["per_gpu"], theirs["per_gpu"], strict=True):
        assert stage.pop("layers") == 2 * other.pop("layers")
        # Full recomputation keeps the input of each layer, of which there are twice as many.
        kept, fewer = (
            one["activation_bytes_by_recomputation"].pop("full") for one in (stage, other)
        )
        assert fewer < kept < 2 * fewer
    assert ours == theirs


@pytest.mark.parametrize(
    ("words", "gpu", "count", "micro_batch"),
    [
        # The layout that the recipe has for these GPUs; else its own flags on them.
        (("--gpus", "64", "--gpu", "h100"), "h100", 64, 1),
        (("--gpu", "H100"), "h100", 64, 1),
        (("--gpus", "8"), "b200", 8, 2),
        (("--gpus", "32", "--gpu", "h200"), "h200", 32, 2),
        (("--gpus", "8", "--gpu", "h100", "--seq-length", "4096"), "h100", 8, 1),
        (("--micro-batch-size", "4"), "b200", 64, 4),
    ],
)
def test_a_layout_for_the_gpus(capsys, words, gpu, count, micro_batch) -> None:
    found = _json(capsys, "--recipe", "moe-10b-a1b-tst", *words)
    assert (found["gpu"]["name"], found["gpu"]["count"]) == (gpu, count)
    assert found["layout"]["micro_batch_size"] == micro_batch


def test_a_precision_goes_with_the_layout_for_its_gpus(capsys) -> None:
    """Alone it would be refused: the recipe's own layout is for another GPU."""
    found = _json(
        capsys, "--recipe", "smollm3-3b-tst+fp8-blockwise", "--gpus", "8", "--gpu", "h100"
    )
    assert found["layout"]["precision"] == "fp8 e4m3, blockwise"


def test_a_layout_that_is_named_stays(capsys) -> None:
    found = _json(capsys, "--recipe", "moe-10b-a1b-tst+64xh100+fp8-blockwise", "--gpus", "8")
    assert (found["gpu"]["name"], found["gpu"]["count"]) == ("h100", 8)
    assert found["layout"]["precision"] == "fp8 e4m3, blockwise"


def test_plain_flags_on_one_node(capsys) -> None:
    found = _json(capsys, *DENSE, "--global-batch-size=64", "--micro-batch-size=1")
    assert (found["gpu"]["name"], found["gpu"]["count"]) == ("h100", 8)


def test_figures_are_the_users(capsys) -> None:
    figures = {
        "--gpu-memory": ("memory", 96, 96e9),
        "--peak-tflops": ("bf16_flops", 500, 500e12),
        "--fp8-peak-tflops": ("fp8_flops", 900, 900e12),
        "--nvlink": ("nvlink", 200, 200e9),
        "--network": ("network", 12.5, 12.5e9),
        "--gpus-per-node": ("gpus_per_node", 4, 4),
    }
    words = [word for flag, (_, value, _) in figures.items() for word in (flag, str(value))]
    trust = ("--mfu", "0.2", "--efficiency", "0.5", "--reserve", "0", "--storage", "2")
    found = _json(capsys, *DENSE, *words, *trust)
    for name, _, value in figures.values():
        assert found["gpu"][name] == value
    assert found["gpu"]["count"] == 4
    assert found["assumptions"] == {
        "mfu": 0.2,
        "efficiency": 0.5,
        "reserve": 0.0,
        "storage": 2e9,
    }
    assert found["available_bytes"] == 96e9


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--gpus", "-1"), "--gpus -1 is not a number of GPUs"),
        (("--gpus", "0"), "--gpus 0 is not a number of GPUs"),
        (("--gpu", "tpu"), "--gpu tpu is not in the table"),
        (("--mfu", "0"), "--mfu 0 is no share: give a number between 0 and 1"),
        (("--mfu", "40"), "--mfu 40 is no share"),
        (("--reserve", "1"), "--reserve 1 is no share"),
        (("--network", "0"), "--network 0 has to be above 0"),
        (("--storage", "-1"), "--storage -1 has to be above 0"),
        (("--recipe", "moe-10b-a1b-tts"), "there is no recipe .* did you mean"),
    ],
)
def test_what_is_refused(words, why) -> None:
    with pytest.raises(UserError, match=why):
        _run(*words, *DENSE)


def test_fp8_without_fp8() -> None:
    with pytest.raises(UserError, match="the a100 has no FP8: leave --fp8-format out"):
        _run("--gpu", "a100", *DENSE, "--fp8-format=hybrid")


def test_a_plan_to_read(capsys) -> None:
    _run("--recipe", "moe-10b-a1b-tst", "--pipeline-model-parallel-size", "2")
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].startswith("moe-10b-a1b-tst on 64 x b200: PP 2 EP 8 DP 32; bf16; micro batch 2")
    for title in (
        *("Parameters", "Memory of a GPU, GB", "Schedule", "Operations of a step", "Time"),
        "Collectives of a step on rank",
    ):
        assert any(line.startswith(title) for line in lines), title
    assert "Fits: the fullest is rank 0 (pipeline stage 0) with" in text
    assert "10,388.5" in text
    assert "1,675.4 B" in text
    assert "predicted, not compared with a GPU" in text
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("as_json", [False, True])
def test_a_plan_that_does_not_fit_is_printed_and_refused(capsys, as_json: bool) -> None:
    words = ("--gpu-memory", "20", *(("--json",) if as_json else ()))
    with pytest.raises(UserError, match=r"does not fit: rank 0 needs .* of the 18.0 GB .* --sweep"):
        _run("--recipe", "smollm3-3b-tst", *words)
    text = capsys.readouterr().out
    if as_json:
        assert json.loads(text)["fits"] is False
    else:
        assert "DOES NOT FIT: the fullest is rank 0" in text


def test_a_sweep_to_read(capsys) -> None:
    _run("--recipe", "smollm3-3b-tst+8xh100", "--gpu-memory", "20", "--sweep")
    text = capsys.readouterr().out
    assert "layouts fit" in text.splitlines()[0]
    assert "Layouts that fit, the fastest first" in text
    assert "Layouts that do not" in text
    assert "GB of 18.0 at the least" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_sweep_as_json(capsys) -> None:
    words = ("--recipe", "smollm3-3b-tst", "--gpus", "8", "--gpu", "h100", "--sweep")
    layouts = _json(capsys, *words)["layouts"]
    best = layouts[0]
    assert best["fits"]
    assert best["reason"] is None
    assert best["step_seconds"] > 0
    assert best["memory_bytes"]["total"] <= 72e9
    assert {"tensor", "pipeline", "context", "expert", "micro_batch_size", "recomputation"} <= set(
        best
    )


def test_nothing_fits() -> None:
    with pytest.raises(UserError, match="no layout fits 8 x h100: take more GPUs"):
        _run("--recipe", "smollm3-3b-tst+8xh100", "--gpu-memory", "1", "--sweep")


def test_a_law_says_what_to_expect(capsys, tmp_path) -> None:
    path = tmp_path / "law.json"
    method = "bags of 4 for 35 %"
    write_law(path, a_law(method))
    tiny = ("--gpus", "1", "--padded-vocab-size", "384", "--scaling", str(path))
    found = _json(capsys, "--recipe", "tiny-tst", *tiny)
    with_bags, without = found["scaling"]["predictions"]
    size, length = found["parameters"]["total"], found["run"]["positions"]
    # The law's own form, with bags worth twice the positions.
    for one, worth in ((with_bags, 2), (without, 1)):
        loss = 1.0 + 60 * size**-0.33 + 300 * (worth * length) ** -0.36
        assert one["loss"]["value"] == pytest.approx(loss)
    assert (with_bags["setting"], with_bags["n"], with_bags["d"]) == (method, size, length)
    cheapest, baseline = found["scaling"]["cheapest"]
    assert cheapest["loss"]["value"] == pytest.approx(with_bags["loss"]["value"])
    assert baseline["flops"]["value"] == pytest.approx(2 * cheapest["flops"]["value"])
    _run("--recipe", "tiny-baseline", *tiny)
    assert "The cheapest runs that end at" in capsys.readouterr().out
    write_law(path, a_law("stacked"))
    with pytest.raises(UserError, match='no runs of "bags of 4 for 35 %"'):
        _run("--recipe", "tiny-tst", *tiny)
    with pytest.raises(UserError, match="--scaling is of one run and --sweep of its layouts"):
        _run("--recipe", "tiny-tst", *tiny, "--sweep")


def a_law(method: str) -> LawRecord:
    """Of runs about as large as the tiny recipe's."""
    law = Law(1.0, 60.0, 0.33, 300.0, 0.36, {method: Multiplier(math.log(2))})
    # Draws that scatter a little.
    spread = np.linspace(0.99, 1.01, 5)
    laws = dataclasses.replace(
        law, E=law.E * spread, A=law.A * spread, alpha=np.full(5, 0.33), B=law.B * spread,
        beta=np.full(5, 0.36), multipliers={method: Multiplier(np.full(5, math.log(2)))},
    )  # fmt: skip
    runs = tuple(
        LawRun(f"{n}-{d}", setting, n, d, 3.0, d)
        for setting in ("baseline", method)
        for n in (2e5, 1e6)
        for d in (2e6, 3e7)
    )
    return LawRecord(law, laws, runs, "total", {})
