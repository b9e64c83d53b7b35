"""Without a superposition phase, and with bags of one, training is Megatron's own, bit for bit."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer import TINY, Job, run_all

STOCK = (str(Path(__file__).parents[1] / "stock_pretrain.py"),)
MODELS = {
    "gpt": (),
    "gpt-mask-from-the-loader": ("--create-attention-mask-in-dataloader",),
    "hybrid": ("--hybrid-layer-pattern=*-*-",),
    "gpt-two-tokens": ("--mtp-num-layers=1",),
}


def scalars(folder: Path) -> dict[str, list[float]]:
    """Every scalar of Megatron's own log, in full float32."""
    events = EventAccumulator(str(folder))
    events.Reload()
    names = ["lm loss", "grad-norm", "learning-rate", "lm loss validation"]
    names += [name for name in events.Tags()["scalars"] if name.startswith("mtp_")]
    return {name: [event.value for event in events.Scalars(name)] for name in names}


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[tuple[str, str], dict[str, list[float]]]:
    root = tmp_path_factory.mktemp("ordinary")
    jobs = {}
    for model, model_flags in MODELS.items():
        tiny = [flag for flag in TINY if model != "hybrid" or "num-layers" not in flag]
        if model == "gpt-mask-from-the-loader":
            tiny.remove("--no-create-attention-mask-in-dataloader")
        for kind in ("stock", "ours", "bags-of-one"):
            out = root / f"{model}-{kind}"
            own = ("--tst-bag-size=1", "--tst-step-ratio=0.5") if kind == "bags-of-one" else ()
            model_own = () if model == "gpt-mask-from-the-loader" else model_flags
            flags = (*tiny, *corpus.flags, f"--tensorboard-dir={out}", *model_own, *own)
            program = STOCK if kind == "stock" else ("-m", "tst_megatron", "pretrain")
            jobs[model, kind] = Job(out, flags, program=program)
    run_all(list(jobs.values()))
    return {key: scalars(job.out) for key, job in jobs.items()}


@pytest.mark.parametrize("model", MODELS)
def test_no_flag_is_stock_megatron(runs, model: str) -> None:
    assert len(runs[model, "stock"]["lm loss"]) == 10
    assert runs[model, "ours"] == runs[model, "stock"]
    assert ("mtp_1 loss" in runs[model, "ours"]) == (model == "gpt-two-tokens")


@pytest.mark.parametrize("model", MODELS)
def test_bags_of_one_are_stock_megatron(runs, model: str) -> None:
    stock, ours = runs[model, "stock"], dict(runs[model, "bags-of-one"])
    # The first half is superposed: its loss has its own name, and the same values.
    assert ours.pop("lm loss") == stock["lm loss"][5:]
    assert ours["grad-norm"] == stock["grad-norm"]
    assert ours["lm loss validation"] == stock["lm loss validation"]
    for name in ("mtp_1 loss", "mtp_1_acceptance_rate"):
        of_bags = name.replace("mtp_1", "mtp_1" + name[5] + "bag")
        assert ours.get(of_bags, []) == stock.get(name, [])[:5]
        assert ours.get(name, []) == stock.get(name, [])[5:]
