"""Every layout trains as one rank does: losses, gradient norms, validation, what its model scores
on a text, final parameters.

Each runs Megatron's trainer through two superposed stages and the recovery, from the same
checkpoint, and is compared with the same run on one rank. The table is in ``matrix.py``.
"""

import json
from pathlib import Path

import pytest
import torch
from ledgers import bag_size, held_out
from matrix import EXACT, LARGE, LAYOUTS, MODELS, SCHEDULE, Layout
from saved import parameters
from trainer import Job, Result, run_all

ONE_RANK = "one rank of "
STEPS = 10
IN_BAGS = 2
"""A step of the first stage, after which the model is asked what it scores; after a validation."""
MICRO_BATCHES = 2  # Of two samples each, in a step of four.
BY_RANK = "lm loss by rank"
RECORDED = Path(__file__).with_name("recorded_pretrain.py")


def names_of(request: pytest.FixtureRequest) -> list[str]:
    """The layouts that this session was asked for."""
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    return [name for name in LAYOUTS if any(p.get("layout") == name for p in asked)]


class Runs:
    """The jobs of a session, by layout, with bags or without."""

    def __init__(self, root: Path, corpus) -> None:
        self.root = root
        self.corpus = corpus
        self.results: dict[tuple[str, bool], Result] = {}

    def do(self, names: list[str], bags: bool) -> None:
        """Run what has not run yet, the references first."""
        models = sorted({LAYOUTS[name].model for name in names})
        run_all([self._start(model) for model in models if not self._of_start(model).exists()])
        wanted = [*(ONE_RANK + model for model in models), *names]
        jobs = {(n, bags): self._job(n, bags) for n in wanted if (n, bags) not in self.results}
        self.results |= dict(zip(jobs, run_all(list(jobs.values())), strict=True))

    def parameters(self, name: str, bags: bool) -> dict[str, torch.Tensor]:
        return parameters(self._out(name, bags) / "checkpoints", STEPS)

    def collectives(self, name: str, rank: int) -> dict[int, dict[str, list]]:
        """What a rank recorded of every step."""
        recorded = json.loads((self._out(name, bags=True) / f"rank-{rank}.json").read_text())
        return dict(enumerate(recorded, start=1))

    def _text(self) -> Path:
        """Documents from a few letters to several windows."""
        path = self.root / "text.jsonl"
        texts = [self.corpus.documents[at][: 3 + 9 * at] for at in range(9)]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return path

    def _out(self, name: str, bags: bool) -> Path:
        return self.root / ("bags" if bags else "stock") / name.replace(" ", "-")

    def _of_start(self, model: str) -> Path:
        return self.root / "start" / model

    def _start(self, model: str) -> Job:
        # Megatron draws the weights of every layout anew: all start from those of one checkpoint.
        out = self._of_start(model)
        # The first step's learning rate is 0, and norms start at 1: a few steps make them tell.
        save = (f"--save={out}", "--save-interval=3", "--exit-interval=3")
        return Job(out, (*MODELS[model], *self.corpus.flags, *save))

    def _job(self, name: str, bags: bool) -> Job:
        if name.startswith(ONE_RANK):
            layout = Layout(name.removeprefix(ONE_RANK), 1, ())
        else:
            layout = LAYOUTS[name]
        out = self._out(name, bags)
        program = (str(RECORDED), str(out))
        flags = (
            *(*MODELS[layout.model], *self.corpus.flags, *layout.flags),
            *((SCHEDULE, *layout.own_flags) if bags else ()),
            *(
                f"--load={self._of_start(layout.model)}",
                "--finetune",
                f"--save={out / 'checkpoints'}",
            ),
            *(f"--save-interval={STEPS}", "--no-save-optim", "--no-save-rng"),
            *(
                "--fixed-validation",
                "--eval-interval=2",
                f"--ledger={out / 'ledger.jsonl'}",
            ),
            *("--evaluate-at", "0", str(IN_BAGS), "end", f"--evaluate-text={self._text()}"),
            # One of 2 rows, and not of all that there are.
            "--evaluate-batch-size=2",
        )
        return Job(out, flags, layout.num_ranks, program)


@pytest.fixture(scope="module")
def runs(request, corpus, tmp_path_factory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("layouts"), corpus)
    runs.do(names_of(request), bags=True)
    return runs


def _parameters_of(names) -> list:
    return [pytest.param(name, marks=pytest.mark.large if name in LARGE else ()) for name in names]


@pytest.mark.parametrize("layout", _parameters_of(LAYOUTS))
def test_a_layout_trains_as_one_rank_does(runs: Runs, layout: str) -> None:
    reference = ONE_RANK + LAYOUTS[layout].model
    one, several = runs.results[reference, True].ledger, runs.results[layout, True].ledger
    assert [bag_size(line) for line in several.steps] == [4, 4, 4, 2, 2, 1, 1, 1, 1, 1]
    close = _equal if layout in EXACT else _within_1e5
    for mine, theirs in zip(several.steps, one.steps, strict=True):
        assert mine["loss_name"] == theirs["loss_name"]
        assert mine["data_tokens"] == theirs["data_tokens"]
        close([mine["loss"], mine["grad_norm"]], [theirs["loss"], theirs["grad_norm"]])
    assert one.validations
    for mine, theirs in zip(several.validations, one.validations, strict=True):
        losses = held_out(theirs)
        assert held_out(mine).keys() == losses.keys()
        for name, loss in losses.items():
            if name == BY_RANK:
                # Where a sample begins with a line of one token their scores are equal, and
                # rounding says which of them is taken.
                assert held_out(mine)[name] == pytest.approx(loss, rel=5e-3)
            else:
                close([held_out(mine)[name]], [loss])
        # Targets of all ranks, each once, and the bytes that they stand for.
        assert [mine[name] for name in ("tokens", "bytes")] == [theirs["tokens"], theirs["bytes"]]
        errors = held_out(theirs, "stderrs")
        # A small difference of large squares, in float32; not of a loss that rounding may move, as
        # above, by a whole token of a few samples.
        own = held_out(mine, "stderrs")
        assert own.keys() == errors.keys()
        for name in errors.keys() - {BY_RANK}:
            assert own[name] == pytest.approx(errors[name], rel=2e-2)
        assert all(0 < errors[name] < losses[name] for name in losses)
    assert several.header["parameters"] == one.header["parameters"]
    for mine, theirs in zip(several.steps, one.steps, strict=True):
        # A mean of scores of about 1 is a small difference of them.
        wanted = pytest.approx(theirs.get("extras", {}), rel=1e-4, abs=1e-5)
        assert mine.get("extras", {}) == wanted


@pytest.mark.parametrize("layout", _parameters_of(LAYOUTS))
def test_a_layout_scores_as_one_rank_does(runs: Runs, layout: str) -> None:
    reference = ONE_RANK + LAYOUTS[layout].model
    one, several = runs.results[reference, True].ledger, runs.results[layout, True].ledger
    assert [line["step"] for line in several.evaluations] == [0, IN_BAGS, STEPS]
    assert [line["facts"]["bag_size"] for line in several.evaluations[:2]] == [4, 4]
    for mine, theirs in zip(several.evaluations, one.evaluations, strict=True):
        (scores,), (others,) = (line["evaluations"].values() for line in (mine, theirs))
        assert scores["hash"] == others["hash"]
        for metric, score in scores["metrics"].items():
            assert score == pytest.approx(others["metrics"][metric], rel=1e-5)


@pytest.mark.parametrize("layout", _parameters_of(LAYOUTS))
def test_a_layout_ends_with_the_parameters_of_one_rank(runs: Runs, layout: str) -> None:
    one = runs.parameters(ONE_RANK + LAYOUTS[layout].model, bags=True)
    several = runs.parameters(layout, bags=True)
    assert one
    assert several.keys() == one.keys()
    for name, mine in several.items():
        if layout in EXACT:
            assert torch.equal(mine, one[name]), name
        else:
            # Of the whole tensor: Adam divides the smallest gradients by their own rounding.
            apart = (mine - one[name]).double()
            assert apart.norm() <= 1e-5 * one[name].double().norm(), name


@pytest.mark.parametrize("layout", _parameters_of(LAYOUTS))
def test_a_superposed_step_has_the_collectives_of_the_baselines(runs: Runs, layout: str) -> None:
    """Number, kind, group and bytes, entry by entry; the batch's own broadcast is apart."""
    if layout in ("moe-tp2-ep2-etp2", "noop-moe-cp2-tp2-pp2"):
        pytest.skip("gloo gathers parts of several sizes one by one, so the number is the router's")
    if layout.startswith("threshold"):
        pytest.skip("a threshold lets in another number of tokens in every step")
    for rank in range(LAYOUTS[layout].num_ranks):
        steps = runs.collectives(layout, rank)
        # After an evaluation, and not.
        for superposed, ordinary in ((3, 7), (5, 9), (2, 8), (4, 8)):
            mine, theirs = steps[superposed], steps[ordinary]
            assert theirs["step"]
            assert _not_routed(mine["step"]) == _not_routed(theirs["step"])
            # The text in one broadcast a micro-batch, in place of one for each tensor of a batch.
            text = 2 * (16 + 1) * (4 if superposed <= 3 else 2) * 8
            groups = {tuple(group) for _, group, _ in theirs["batch"]}
            expected = [["c10d::broadcast_", list(group), text] for group in groups] * MICRO_BATCHES
            if "dp2" in layout:
                expected = expected[: len(expected) // 2]
            assert mine["batch"] == expected


def _not_routed(entries: list[list]) -> list[list]:
    """Entries without the bytes of the all-to-all, which are what the router sends where."""
    return [entry[:2] if "alltoall" in entry[0] else entry for entry in entries]


@pytest.mark.large
@pytest.mark.parametrize("layout", LAYOUTS)
def test_which_layouts_are_exact(runs: Runs, request, layout: str) -> None:
    """The table is right: stock Megatron without bags gives the numbers of one rank there."""
    runs.do(names_of(request), bags=False)
    one = runs.results[ONE_RANK + LAYOUTS[layout].model, False]
    several = runs.results[layout, False]
    same = (several.losses, several.grad_norms) == (one.losses, one.grad_norms)
    assert same == (layout in EXACT)


def _equal(mine: list[float], theirs: list[float]) -> None:
    assert mine == theirs


def _within_1e5(mine: list[float], theirs: list[float]) -> None:
    assert mine == pytest.approx(theirs, rel=1e-5)
