"""Whole plans: the paper's table, its equal FLOPs, and what the JSON holds."""

import json

import pytest
from planned import DENSE, recipe_flags

from tst_megatron.planner.hardware import GPUS
from tst_megatron.planner.plan import Assumptions, RunPlan, make_plan

# arXiv 2605.06546, Table 1: steps superposed, steps; tokens of either to the last digit, which
# the paper rounds to 75B and 105B, 1.68T and 2T.
_2M, _8M = 2**21, 2**23
_TABLE = {
    "smollm2-270m-tst": (6_000, 20_000, 6, _2M),
    "smollm2-600m-tst": (6_000, 20_000, 6, _2M),
    "smollm3-3b-tst": (6_000, 20_000, 6, _2M),
    "smollm3-3b-baseline": (0, 20_000, 1, _2M),
    "smollm3-3b-baseline-equal-loss": (0, 36_000, 1, _2M),
    "smollm3-3b-baseline-equal-data": (0, 50_000, 1, _2M),
    "moe-10b-a1b-tst": (12_483, 49_983, 16, _8M),
    "moe-10b-a1b-baseline": (0, 125_000, 1, _8M),
}
_ROUNDED = {
    "smollm3-3b-tst": ("75", "105"),
    "smollm3-3b-baseline-equal-loss": ("0", "75"),
    "smollm3-3b-baseline-equal-data": ("0", "105"),
    "moe-10b-a1b-tst": ("1675", "1990"),
    "moe-10b-a1b-baseline": ("0", "1049"),
}


def _plan(recipe: str, *more: str, gpu: str = "b200", num_gpus: int = 64) -> RunPlan:
    flags = recipe_flags(f"{recipe}+{num_gpus}x{gpu}", *more)
    return make_plan(flags, num_gpus, GPUS[gpu])


@pytest.fixture(scope="module")
def plans() -> dict[str, RunPlan]:
    return {name: _plan(name) for name in _TABLE}


@pytest.mark.parametrize("name", _TABLE)
def test_the_papers_steps_read_the_papers_tokens(plans, name: str) -> None:
    superposed, steps, bag, positions = _TABLE[name]
    run = plans[name].as_json()["run"]
    assert run["steps"] == steps
    assert run["positions"] == steps * positions
    assert run["superposed_data_tokens"] == superposed * bag * positions
    assert run["data_tokens"] == (superposed * bag + steps - superposed) * positions
    if name in _ROUNDED:
        found = (run["superposed_data_tokens"], run["data_tokens"])
        assert tuple(f"{number / 1e9:.0f}" for number in found) == _ROUNDED[name]


def test_a_byte_model_comes_on_top(tmp_path) -> None:
    """As the record of the compressor that the flags name has it."""
    assert make_plan(DENSE, 1, GPUS["h100"]).as_json()["run"]["byte_model_flops"] is None
    told = {"flops": 1e12, "parameters": 139_712, "gpu_hours": None}
    (tmp_path / "compressor.json").write_text(json.dumps({"model": told}))
    plan = make_plan((*DENSE, f"--tokenizer-model={tmp_path}"), 1, GPUS["h100"])
    assert plan.as_json()["run"]["byte_model_flops"] == 1e12
    (note,) = (note for note in plan.notes if "byte model" in note)
    assert note == (
        f"the text's byte model took 1e+12 FLOPs to train, {1e12 / plan.work.total:.2%} of the "
        "run's operations, which come on top"
    )


def test_a_byte_model_behind_one_form_of_the_text_comes_on_top_where_that_is_read(tmp_path) -> None:
    inner = tmp_path / "compressed/tokenizer"
    inner.mkdir(parents=True)
    told = {"flops": 1e12, "parameters": 139_712, "gpu_hours": None}
    (inner / "compressor.json").write_text(json.dumps({"model": told}))
    flags = (*DENSE, f"--tokenizer-model={tmp_path}")
    assert make_plan(flags, 1, GPUS["h100"]).byte_model_flops is None
    for of_bags in ((), ("--tst-bag-size=2", "--tst-step-ratio=0.3")):
        in_forms = (*flags, "--proxy-schedule=0.5", *of_bags)
        assert make_plan(in_forms, 1, GPUS["h100"]).byte_model_flops == 1e12


def test_experts_as_wide_as_an_mlp_cost_what_it_costs_and_the_router(plans) -> None:
    """Two of Megatron's counts of one model's step, apart by nothing but the router's products."""
    dense, experts = plans["smollm3-3b-baseline"], _plan("moe-20b-a3b-baseline")
    router = 3 * 2 * 36 * 2048 * 64 * 20_000 * _2M
    assert experts.work.total - dense.work.total == router
    assert router / dense.work.total < 0.0015


@pytest.mark.parametrize("gpu", ["h100", "b200"])
@pytest.mark.parametrize("num_gpus", [8, 64])
def test_the_experts_of_the_3b_fit(gpu: str, num_gpus: int) -> None:
    assert _plan("moe-20b-a3b-baseline", gpu=gpu, num_gpus=num_gpus).fits


def test_equal_steps_are_equal_flops(plans) -> None:
    """To the last digit: a superposed step costs what an ordinary one costs."""
    baseline, tst = plans["smollm3-3b-baseline"], plans["smollm3-3b-tst"]
    assert tst.work == baseline.work
    assert tst.gpu_hours == baseline.gpu_hours
    assert {step.work.total for step in tst.steps} == {baseline.steps[0].work.total}
    assert tst.data_tokens == plans["smollm3-3b-baseline-equal-data"].data_tokens


def test_the_experts_runs_differ_by_their_steps(plans) -> None:
    baseline, tst = plans["moe-10b-a1b-baseline"], plans["moe-10b-a1b-tst"]
    assert tst.work.total * 125_000 == baseline.work.total * 49_983
    assert tst.gpu_hours / baseline.gpu_hours == pytest.approx(49_983 / 125_000, rel=1e-12)


@pytest.mark.parametrize(
    ("bag", "schedule"),
    [("4:0.3", (4, 1)), ("16:0.2,4:0.1", (16, 4, 1))],
)
def test_stages_of_a_schedule(bag: str, schedule: tuple[int, ...]) -> None:
    plan = make_plan((*DENSE, f"--tst-schedule={bag}"), 1, GPUS["h100"])
    stages = plan.as_json()["per_step"]
    assert tuple(stage["bag_size"] for stage in stages) == schedule
    assert sum(stage["steps"] for stage in stages) == 100
    for stage in stages:
        assert stage["positions"] == 64 * 128
        assert stage["data_tokens"] == stage["bag_size"] * stage["positions"]


def test_the_keys_do_not_go_by_the_methods_that_are_on(plans) -> None:
    baseline, tst = (plans[f"smollm3-3b-{name}"].as_json() for name in ("baseline", "tst"))
    assert list(baseline["run"]) == list(tst["run"])
    assert list(baseline["per_step"][0]) == list(tst["per_step"][0])
    assert [step["bag_size"] for step in baseline["per_step"]] == [1]


def test_predicting_bags_reads_no_more() -> None:
    flags = (*DENSE, "--tst-bag-size=4", "--tst-superpose=output")
    plan = make_plan(flags, 1, GPUS["h100"])
    assert plan.data_tokens == plan.positions
    assert plan.totals["superposed_data_tokens"] == 30 * 64 * 128


def test_a_run_of_samples_and_a_growing_batch() -> None:
    flags = [flag for flag in DENSE if not flag.startswith("--train-iters")]
    samples = make_plan((*flags, "--train-samples=6400"), 1, GPUS["h100"])
    assert samples.as_json()["run"]["steps"] == 100
    assert samples.positions == 6400 * 128
    flags = [flag for flag in DENSE if not flag.startswith("--global-batch-size")]
    schedule = "--step-batch-size-schedule=0:16 20480:32 81920:64"
    growing = make_plan((*flags, schedule, "--tst-bag-size=4"), 1, GPUS["h100"])
    run = growing.as_json()["run"]
    assert run["steps"] == 100
    assert growing.layout["global_batch_size"] == 64
    # It counts tokens: ten steps of 16 samples, fifteen of 32, the rest of 64.
    assert run["positions"] == (160 + 480 + 75 * 64) * 128
    assert [step.steps for step in growing.steps] == [30, 70]
    assert growing.totals["superposed_data_tokens"] == 4 * (160 + 480 + 5 * 64) * 128


def test_every_step_has_its_stage_of_memory_and_traffic(plans) -> None:
    found = json.loads(json.dumps(plans["moe-10b-a1b-tst"].as_json()))
    assert set(found) >= {"parameters", "per_gpu", "per_step", "run", "fits"}
    assert found["parameters"]["total"] == 10_388_481_536
    assert found["parameters"]["active"] == 1_095_411_200
    assert found["fits"] is True
    (stage,) = found["per_gpu"]
    memory = dict(stage["memory_bytes"])
    assert memory.pop("total") == sum(memory.values())
    assert set(memory) >= {"weights", "gradients", "optimizer", "activations", "logits"}
    for step in found["per_step"]:
        assert step["flops"] == sum(step["flops_by_kind"].values())
        assert set(step["flops_by_kind"]) == {"attention", "router", "experts", "head"}
    run = found["run"]
    assert run["flops"] == sum(s["steps"] * s["flops"] for s in found["per_step"])
    # All of it in bf16.
    at_peak = run["flops"] / 2.25e15 / 3600
    assert run["gpu_hours_at_peak"] == pytest.approx(at_peak)
    assert run["gpu_hours"] == pytest.approx(at_peak / 0.4)
    assert run["hours"] == pytest.approx(run["gpu_hours"] / 64)
    # Weights in bf16, and three float32 of the optimizer.
    assert found["checkpoint"]["bytes"] == 14 * 10_388_481_536


def test_fp8_takes_less_time_where_products_are_fp8() -> None:
    bf16, fp8 = _plan("smollm3-3b-tst"), _plan("smollm3-3b-tst+mxfp8")
    assert fp8.work == bf16.work
    in_bf16 = sum(fp8.work.by_kind[kind] for kind in ("attention_scores", "head"))
    rest = fp8.work.total - in_bf16
    at_peak = (in_bf16 / 2.25e15 + rest / 4.5e15) / 3600
    assert fp8.gpu_hours_at_peak == pytest.approx(at_peak)


def test_a_plan_that_does_not_fit_names_the_fullest_rank() -> None:
    more = ("--pipeline-model-parallel-size=2", "--micro-batch-size=64")
    plan = _plan("smollm3-3b-tst", *more, "--global-batch-size=2048", num_gpus=8, gpu="h100")
    assert not plan.fits
    assert plan.worst.memory.total == max(s.memory.total for s in plan.gpus)
    assert plan.as_json()["worst_rank"] == plan.worst.built.ranks[0]


def test_assumptions_are_the_users() -> None:
    plan = make_plan(DENSE, 1, GPUS["h100"], Assumptions(mfu=0.2, reserve=0.5, storage=1e9))
    default = make_plan(DENSE, 1, GPUS["h100"])
    assert plan.gpu_hours == pytest.approx(2 * default.gpu_hours)
    assert plan.available == 40e9
    assert plan.as_json()["checkpoint"]["seconds"] == plan.checkpoint_bytes / 1e9


def test_the_predicted_step_adds_up() -> None:
    more = ("--tensor-model-parallel-size=2", "--sequence-parallel")
    plan = _plan("smollm3-3b-tst", *more, "--pipeline-model-parallel-size=2", gpu="h100")
    time = plan.time
    assert time.total == time.products + time.communication + time.bubble
    assert time.bubble > 0
    assert time.communication > 0
    ideal = plan.steps[0].work.total / 64 / 989e12
    assert plan.predicted_mfu == pytest.approx(ideal / time.total)
    # A stage with the head has more to do than its share.
    assert time.products > ideal / 0.6
