"""A run that is cut off and goes on ends as one that was not: bit for bit, wherever the cut is."""

import shutil
from pathlib import Path

import pytest
import torch
from counted_corpora import parse
from ledgers import bag_size
from saved import tensors
from trainer import TINY, Job, run, run_all

from tst_megatron.checkpoints.steps import Checkpoint
from tst_megatron.checkpoints.wholeness import fault_of
from tst_megatron.corpora.index_file import bin_path, index_path
from tst_megatron.corpora.tokenizers.training import train_tokenizer
from tst_megatron.trainer.checkpoint_choice import checkpoint_of

# Ten steps: three on bags of 4, two on bags of 2, five ordinary. Cuts inside each phase, on the
# boundaries and a step to either side of them.
SCHEDULE = "--tst-schedule=4:0.3,2:0.2"
CUTS = (1, 2, 3, 4, 5, 6, 8)


@pytest.fixture(scope="module")
def unbroken(corpus, tmp_path_factory) -> Job:
    """A run that keeps a checkpoint of every step."""
    out = tmp_path_factory.mktemp("resume") / "unbroken"
    flags = (*TINY, *corpus.flags, SCHEDULE, f"--save={out / 'checkpoints'}", "--save-interval=1")
    job = Job(out, flags)
    run(job)
    return job


@pytest.fixture(scope="module")
def resumed(corpus, unbroken: Job, tmp_path_factory) -> dict[int, Job]:
    root = tmp_path_factory.mktemp("resumed")
    jobs = {}
    for cut in CUTS:
        out = root / str(cut)
        jobs[cut] = Job(
            out,
            (
                *(*TINY, *corpus.flags, SCHEDULE, f"--save={out / 'checkpoints'}"),
                *(f"--load={unbroken.out / 'checkpoints'}", f"--ckpt-step={cut}"),
                "--save-interval=10",
            ),
        )
    run_all(list(jobs.values()))
    return jobs


def lines(job: Job) -> dict[int, tuple[float, ...]]:
    from tst_megatron.runs.ledger import read_ledger

    names = ("loss", "grad_norm", "learning_rate", "stage", "positions", "data_tokens", "flops")
    ledger = read_ledger(job.out / "ledger.jsonl")
    return {line["step"]: tuple(line[name] for name in names) for line in ledger.steps}


def weights(job: Job, step: int) -> dict[str, torch.Tensor]:
    """Model and optimizer state, as saved."""
    return tensors(job.out / "checkpoints", step)


def test_the_phases_are_where_the_schedule_says(unbroken: Job) -> None:
    stages = [line[3] for _, line in sorted(lines(unbroken).items())]
    assert stages == [0] * 3 + [1] * 2 + [2] * 5
    last = lines(unbroken)[10]
    assert last[4] == 10 * 4 * 16
    assert last[5] == (3 * 4 + 2 * 2 + 5) * 4 * 16


@pytest.mark.parametrize("cut", CUTS)
def test_a_resumed_run_is_the_unbroken_one(
    unbroken: Job, resumed: dict[int, Job], cut: int
) -> None:
    whole, rest = lines(unbroken), lines(resumed[cut])
    assert sorted(rest) == list(range(cut + 1, 11))
    assert rest == {step: whole[step] for step in rest}
    mine, theirs = weights(resumed[cut], 10), weights(unbroken, 10)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_resumed_run_may_make_its_logits_in_chunks(corpus, unbroken: Job, tmp_path: Path) -> None:
    """In bags and after, on the same batches, to what the order of additions gives."""
    flags = (*TINY, *corpus.flags, SCHEDULE, f"--load={unbroken.out / 'checkpoints'}")
    job = Job(tmp_path, (*flags, "--ckpt-step=3", "--tst-logits-chunk-size=12"))
    run(job)
    whole, rest = lines(unbroken), lines(job)
    assert sorted(rest) == list(range(4, 11))
    assert {step: line[2:] for step, line in rest.items()} == {s: whole[s][2:] for s in rest}
    # As layouts, whose products are cut as well (tests/parallel).
    for step, (loss, grad_norm, *_) in rest.items():
        assert (loss, grad_norm) == pytest.approx(whole[step][:2], rel=1e-5)


def test_the_switch_keeps_weights_and_optimizer_state(unbroken: Job) -> None:
    """Adam's moments go on from those of the bags: one step from the saved state explains them."""
    before, after = weights(unbroken, 5), weights(unbroken, 6)
    moments = [name for name in before if name.startswith("optimizer.state.exp_avg.")]
    assert moments
    for name in moments:
        # exp_avg' = 0.9 exp_avg + 0.1 g, and g is clipped to norm 1: a reset would leave 0.1 g.
        change = (after[name] - 0.9 * before[name]).norm()
        assert change <= 0.1 + 1e-6
        assert before[name].norm() > 0


def test_a_checkpoint_that_is_not_whole_is_refused(corpus, unbroken: Job, tmp_path: Path) -> None:
    """Superposed and ordinary runs alike, and whole ones beside it are named."""
    for number, own in enumerate([(SCHEDULE,), ()]):
        copied = tmp_path / str(number)
        shutil.copytree(unbroken.out / "checkpoints", copied)
        data = copied / "iter_0000010/__0_0.distcp"
        data.write_bytes(data.read_bytes()[:1000])
        flags = (*TINY, *corpus.flags, *own, f"--load={copied}", f"--save={copied}")
        refused = run(Job(tmp_path / f"run{number}", (*flags, "--save-interval=1")), check=False)
        assert refused.code == 2
        sentence = next(line for line in refused.output.splitlines() if "error: " in line)
        assert "iter_0000010/__0_0.distcp has 1,000 of" in sentence
        assert f"steps 9, 8, 7 of it are whole: write 9 into {copied}" in sentence


def test_a_converted_checkpoint_is_a_success(corpus, unbroken: Job, tmp_path: Path) -> None:
    """Megatron leaves without a code once it is written, as it does where it fails."""
    converted = tmp_path / "converted"
    flags = (*TINY, *corpus.flags, SCHEDULE, f"--load={unbroken.out / 'checkpoints'}")
    run(Job(tmp_path, (*flags, "--ckpt-convert-format=torch", f"--ckpt-convert-save={converted}")))
    chosen = checkpoint_of(parse(f"--load={converted / 'torch'}"))
    assert chosen == Checkpoint(converted / "torch", 10)
    assert fault_of(chosen.folder) is None


def test_another_tokenizer_is_refused_and_a_moved_one_is_not(
    corpus, unbroken: Job, tmp_path: Path
) -> None:
    """Of the same size and of ids without a manifest, so that nothing but what it holds tells."""
    moved, other, bare = (tmp_path / name for name in ("moved.model", "other.model", "bare"))
    shutil.copyfile(corpus.tokenizer, moved)
    train_tokenizer(corpus.documents[:5], other, 384)
    for path_of in (bin_path, index_path):
        shutil.copyfile(path_of(corpus.prefix), path_of(bare))
    usual = (*TINY, *corpus.flags, SCHEDULE, f"--load={unbroken.out / 'checkpoints'}")
    usual = (*usual, "--ckpt-step=9", f"--data-path={bare}")
    jobs = [Job(tmp_path / of.stem, (*usual, f"--tokenizer-model={of}")) for of in (moved, other)]
    went_on, refused = (run(job, check=False) for job in jobs)
    assert went_on.code == 0, went_on.output[-2000:]
    assert [line["step"] for line in went_on.ledger.steps] == [10]
    assert refused.code == 2
    (sentence,) = [one for one in refused.output.splitlines() if "tst-megatron: error" in one]
    assert "was trained with another tokenizer (tokenizer.model with SHA-256 " in sentence
    assert "and this run's, other.model, has " in sentence


def test_another_schedule_is_refused(corpus, unbroken: Job, tmp_path: Path) -> None:
    flags = (*TINY, *corpus.flags, f"--load={unbroken.out / 'checkpoints'}")
    refused = run(Job(tmp_path, (*flags, "--tst-schedule=4:0.5")), check=False)
    assert refused.code == 2
    sentence = next(line for line in refused.output.splitlines() if "tst-megatron: error" in line)
    assert "[[4, 12], [2, 8]]" in sentence
    assert "[[4, 20]]" in sentence
    assert "--allow-schedule-change" in sentence


def test_another_schedule_is_run_when_allowed(corpus, unbroken: Job, tmp_path: Path) -> None:
    flags = (*TINY, *corpus.flags, f"--load={unbroken.out / 'checkpoints'}", "--ckpt-step=8")
    own = ("--tst-schedule=4:0.9", "--allow-schedule-change")
    changed = run(Job(tmp_path, (*flags, *own)))
    assert [bag_size(line) for line in changed.ledger.steps] == [4, 1]


def test_a_longer_run_goes_on_as_the_shorter_one(corpus, unbroken: Job, tmp_path: Path) -> None:
    """Begun in shares of 10 steps, extended in steps before its decay: no other schedule."""
    longer = (
        *(*TINY, *corpus.flags, f"--load={unbroken.out / 'checkpoints'}", "--ckpt-step=4"),
        *("--train-iters=14", "--override-opt_param-scheduler"),
        *("--tst-schedule=4:3steps,2:2steps", f"--save={tmp_path / 'checkpoints'}"),
    )
    went_on = Job(tmp_path, (*longer, "--save-interval=14"))
    run(went_on)
    whole, rest = lines(unbroken), lines(went_on)
    assert sorted(rest) == list(range(5, 15))
    # Steps 5 to 7 have the same rate, step 8 the weights that they lead to: bit for bit.
    assert [rest[step] for step in (5, 6, 7)] == [whole[step] for step in (5, 6, 7)]
    assert rest[8][0] == whole[8][0]


@pytest.mark.parametrize(("flag", "peak"), [("override", 4e-3), ("use-checkpoint", 1e-2)])
def test_rates_are_those_that_the_flag_chooses(
    corpus, unbroken: Job, tmp_path: Path, flag: str, peak: float
) -> None:
    """Megatron by itself would look for a group of parameters of the rate, and find none."""
    own = ("--lr=4e-3", f"--{flag}-opt_param-scheduler", SCHEDULE, "--ckpt-step=5")
    flags = (*TINY, *corpus.flags, f"--load={unbroken.out / 'checkpoints'}", *own)
    saves = (f"--save={tmp_path / 'checkpoints'}", "--save-interval=10")
    went_on = run(Job(tmp_path, (*flags, *saves)))
    # Linear to 0 over the last three of ten steps.
    expected = [peak, peak, peak * 2 / 3, peak / 3, 0.0]
    rates = [line["learning_rate"] for line in went_on.ledger.steps]
    assert rates == pytest.approx(expected, abs=1e-12)
    # The rest of the optimizer's state went on: where the rate is the same, so is the loss.
    before, after = lines(unbroken), lines(Job(tmp_path, ()))
    assert after[6][0] == before[6][0]
    assert (after[7] == before[7]) == (flag == "use-checkpoint")


def test_stock_megatron_goes_on_from_a_superposed_checkpoint(
    corpus, unbroken: Job, tmp_path: Path
) -> None:
    """A checkpoint of the superposition phase is Megatron's own: its trainer trains on."""
    stock = (str(Path(__file__).parents[1] / "stock_pretrain.py"),)
    copied = tmp_path / "checkpoints"
    shutil.copytree(unbroken.out / "checkpoints", copied)
    flags = (*TINY, *corpus.flags, f"--load={copied}", "--ckpt-step=5")
    went_on = run(Job(tmp_path, flags, program=stock))
    assert "iteration       10/      10" in went_on.output
